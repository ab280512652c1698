"""What is written is read back by our own readers, to the pixel. ``test_foreign_readers`` has other people's."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_items import decoded, photos, videos
from mlx_sam2.datasets import Item, WriteOptions, check, open_dataset, write_dataset
from mlx_sam2.datasets.names import WRITTEN

PHOTOS = [name for name in WRITTEN if name not in ("davis", "sav", "coco-video")]
VIDEOS = ["coco-video", "davis", "sav", "cvat"]


def as_photos(items: list[Item]) -> dict[str, list]:
    """Name without folders -> masks, as formats of photos have it."""
    return {
        f"{item.name}/{frame}".rstrip("/").replace("/", "_"): masks
        for item in items
        for frame, masks in decoded(item).items()
    }


@pytest.mark.parametrize("polygons", [False, True], ids=["masks", "outlines"])
@pytest.mark.parametrize("name", PHOTOS)
def test_photos(name: str, polygons: bool, tmp_path: Path) -> None:
    items = photos(tmp_path / "in")
    lost = write_dataset(items, tmp_path / "out", name, options=WriteOptions(polygons=polygons))
    assert not lost, "these photos fit every format"
    found = open_dataset(tmp_path / "out")
    assert found.format == name
    assert as_photos(list(found)) == as_photos(items)
    assert {item.name: item.size for item in found} == {item.name: item.size for item in items}
    for item in found:  # the photo is the file that there was
        assert item.frames.path(0).read_bytes() == (tmp_path / "in" / item.name / "00000.jpg").read_bytes()
    assert set(check(found).odd) == {"no object"}


@pytest.mark.parametrize("polygons", [False, True], ids=["masks", "outlines"])
@pytest.mark.parametrize("name", VIDEOS)
def test_videos(name: str, polygons: bool, tmp_path: Path) -> None:
    items = videos(tmp_path / "in")
    write_dataset(items, tmp_path / "out", name, options=WriteOptions(polygons=polygons))
    found = open_dataset(tmp_path / "out")
    assert found.format == name
    assert sorted(item.name for item in found) == ["late", "nobody", "single"]
    for item in items:
        other = found[item.name]
        assert (other.size, other.num_frames, other.is_video) == (item.size, item.num_frames, True)
        if not item.objects and name == "sav":
            continue  # has no folder that could hold a frame
        assert list(decoded(other).values()) == list(decoded(item).values())
        seen = [[i for i, mask in obj.masks.items() if mask.area()] for obj in other.objects]
        assert seen == [list(obj.masks) for obj in item.objects], "an object is the same one on all frames"
        for i in range(item.num_frames):
            assert other.frames.path(i).read_bytes() == item.frames.path(i).read_bytes()


@pytest.mark.parametrize("name", [name for name in PHOTOS if name != "cvat"])
def test_videos_become_photos_where_a_format_has_no_videos(name: str, tmp_path: Path) -> None:
    items = videos(tmp_path / "in")
    lost = write_dataset(items, tmp_path / "out", name)
    assert "videos: objects are not the same ones from frame to frame" in lost
    found = as_photos(list(open_dataset(tmp_path / "out")))
    assert found == as_photos(items)


@pytest.mark.parametrize("name", ["coco", "coco-video", "lvis", "label-studio", "cvat"])
def test_annotations_alone(name: str, tmp_path: Path) -> None:
    items = photos(tmp_path / "in")
    out = tmp_path / ("out.xml" if name == "cvat" else "out.json")
    write_dataset(items, out, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", out.name]
    found = open_dataset(out)
    assert [masks for item in found for masks in decoded(item).values()] == [
        masks for item in items for masks in decoded(item).values()
    ]
    assert not any(item.has_pixels(0) for item in found)


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_at_all(name: str, tmp_path: Path) -> None:
    write_dataset([], tmp_path / "out", name)
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize("name", ["coco", "coco-video", "label-studio"])
def test_scores_stay_where_a_format_has_them(name: str, tmp_path: Path) -> None:
    write_dataset(videos(tmp_path / "in"), tmp_path / "out", name, options=WriteOptions(predictions=True))
    scores = {score for item in open_dataset(tmp_path / "out") for obj in item.objects for score in obj.scores.values()}
    assert scores == {0.51, 0.52}

"""Data sets are recognised, their masks come back to the pixel, and what is odd is reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.datasets import DatasetError, check, open_dataset
from mlx_sam2.frames.sinks import davis_palette

HEIGHT, WIDTH, FRAMES = 21, 34, 4


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8)).save(path)


def picture(path: Path, indices: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(davis_palette())
    image.save(path)


def indices(t: int) -> np.ndarray:
    """Object 1 moves, object 2 comes on frame 2."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2:8, 3 + t : 12] = 1
    if t > 1:
        values[10:13, 5:9] = 2
    return values


def sequence(root: Path, name: str, resolution: str = "", step: int = 1) -> None:
    for t in range(FRAMES):
        photo(root / "JPEGImages" / resolution / name / f"{t:05d}.jpg", t)
        if t % step == 0:
            picture(root / "Annotations" / resolution / name / f"{t:05d}.png", indices(t))


@pytest.mark.parametrize(("layout", "resolution"), [("davis", "480p"), ("ytvos", ""), ("davis", "")])
def test_sequences(layout: str, resolution: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        sequence(tmp_path, name, resolution, step=2)
    if layout == "ytvos":
        meta = {"videos": {"a": {"objects": {"1": {"category": "Bär"}, "2": {"category": "boat"}}}}}
        (tmp_path / "meta.json").write_text(json.dumps(meta))
    dataset = open_dataset(tmp_path)
    assert (dataset.format, [item.name for item in dataset]) == (layout, ["a", "b"])
    item = dataset["a"]
    assert (item.size, item.num_frames, item.keyframes, item.is_video) == ((HEIGHT, WIDTH), FRAMES, (0, 2), True)
    assert [(found.id, list(found.masks)) for found in item.objects] == [(1, [0, 2]), (2, [2])]
    assert [found.class_name for found in item.objects] == (["Bär", "boat"] if layout == "ytvos" else ["object"] * 2)
    for obj, mask in item.masks(2).items():
        np.testing.assert_array_equal(mask.decode(), indices(2) == obj)
        assert mask.area() == np.count_nonzero(indices(2) == obj)
    assert item.frame(1).shape == (HEIGHT, WIDTH, 3)
    with item.source() as source:
        assert source.num_frames == FRAMES
    report = check(dataset)
    assert (report.videos, report.frames, report.objects, report.masks, report.odd) == (2, 2 * FRAMES, 4, 6, {})


def test_a_folder_for_each_object(tmp_path: Path) -> None:
    """SA-V: objects are counted from 0, and a black picture says that one is absent."""
    for t in range(FRAMES):
        photo(tmp_path / "JPEGImages_24fps/v" / f"{t:05d}.jpg", t)
    for t in (0, 2):
        for obj in (0, 1):
            picture(tmp_path / "Annotations_6fps/v" / f"{obj:03d}" / f"{t:05d}.png", indices(t) == obj + 1)
    dataset = open_dataset(tmp_path)
    (item,) = dataset
    assert (dataset.format, item.keyframes) == ("sav", (0, 2))
    assert [found.id for found in item.objects] == [0, 1]
    np.testing.assert_array_equal(item.masks(2)[1].decode(), indices(2) == 2)
    assert item.masks(0)[1].area() == 0
    assert check(dataset).odd == {}


def test_a_split(tmp_path: Path) -> None:
    for name in ("a", "b"):
        sequence(tmp_path, name)
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("b\n")
    assert [item.name for item in open_dataset(tmp_path, split="val")] == ["b"]
    with pytest.raises(DatasetError, match="no list of the split 'train'"):
        open_dataset(tmp_path, split="train")


def test_black_and_white_is_one_object_and_else_255_is_void(tmp_path: Path) -> None:
    sequence(tmp_path, "numbers")
    void = indices(3)
    void[:] = 255 * (void == 0)
    picture(tmp_path / "Annotations/numbers/00003.png", void)  # nobody, and void
    sequence(tmp_path, "white")
    for t in range(FRAMES):
        picture(tmp_path / "Annotations/white" / f"{t:05d}.png", 255 * (indices(t) == 1))
    dataset = open_dataset(tmp_path)
    assert [(found.id, list(found.masks)) for found in dataset["numbers"].objects] == [(1, [0, 1, 2]), (2, [2])]
    (white,) = dataset["white"].objects
    assert (white.id, list(white.masks)) == (1, [0, 1, 2, 3])


@pytest.mark.parametrize("form", ["numbers", "white", "a folder a photo", "names with numbers"])
def test_photos_and_masks(form: str, tmp_path: Path) -> None:
    photo(tmp_path / "images/one.jpg")
    photo(tmp_path / "images/none.jpg")
    masks = tmp_path / "masks"
    if form == "numbers":
        picture(masks / "one.png", indices(2))
    elif form == "white":
        picture(masks / "one.png", 255 * (indices(2) == 1))
    for obj in (1, 2):
        if form == "a folder a photo":
            picture(masks / "one" / f"{obj:04d}.png", 255 * (indices(2) == obj))
        elif form == "names with numbers":
            picture(masks / f"one_{obj}.png", 255 * (indices(2) == obj))
    dataset = open_dataset(tmp_path)
    assert (dataset.format, [item.name for item in dataset]) == ("folder", ["none", "one"])
    found = dataset["one"].masks(0)
    assert list(found) == ([1] if form == "white" else [1, 2])
    for obj, mask in found.items():
        np.testing.assert_array_equal(mask.decode(), indices(2) == obj)
    assert {what: finding.count for what, finding in check(dataset).odd.items()} == {"no object": 1}


def test_what_is_odd_is_reported(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png", size=(5, 5))
    images = [{"id": i, "file_name": f"{n}.png", "height": HEIGHT, "width": WIDTH} for i, n in enumerate("abc")]
    segmentations = {
        0: [[1, 1, 40, 1, 4, 9]],  # out of bounds
        1: {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]},  # empty
        2: {"size": [3, 3], "counts": [0, 9]},
    }
    annotations = [
        {"id": i, "image_id": i, "category_id": 7, "segmentation": segmentation}
        for i, segmentation in segmentations.items()
    ]
    annotations.append({"id": 9, "image_id": 0, "category_id": 7, "segmentation": {"size": [9, 9], "counts": [1]}})
    value = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "Käfer"}]}
    (tmp_path / "annotations.json").write_text(json.dumps(value))
    report = check(open_dataset(tmp_path))
    assert {what: finding.count for what, finding in report.odd.items()} == {
        "polygon out of bounds": 1,
        "empty mask": 1,
        "sizes that differ": 1,
        "missing photo": 1,
        "mask of another size": 2,
        "damaged mask": 1,
    }
    assert (report.photos, report.objects, report.classes) == (3, 4, {"Käfer": 4})
    text = "\n".join(report.lines())
    assert "odd: sizes that differ (1): " in text
    assert "b.png is 5x5, 34x21 is stated" in text


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.jpg", "a/../../b.jpg", "C:\\x.jpg", "", None, 5])
def test_names_stay_inside(name: object, tmp_path: Path) -> None:
    value = {"images": [{"id": 1, "file_name": name, "height": 5, "width": 5}], "annotations": [], "categories": []}
    (tmp_path / "x.json").write_text(json.dumps(value))
    with pytest.raises(DatasetError, match="file name"):
        open_dataset(tmp_path / "x.json")


def test_a_folder_of_parts_says_which_to_give(tmp_path: Path) -> None:
    """YouTube-VOS and MOSE: train/JPEGImages, valid/JPEGImages."""
    for part in ("train", "valid"):
        sequence(tmp_path / part, "a")
    with pytest.raises(DatasetError, match="give one of its parts: train, valid"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path / "valid", "mose")) == 1

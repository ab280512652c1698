"""The sink: frames come one by one, in any order; the data set appears when it is closed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataset_items import blob
from mlx_sam2.datasets import DatasetError, DatasetSink, open_dataset
from mlx_sam2.frames.source import VideoError

SIZE = (18, 25)


def frame(i: int) -> np.ndarray:
    return np.full((*SIZE, 3), 30 * i, np.uint8)


@pytest.mark.parametrize("name", ["coco-video", "davis", "sav", "cvat"])
def test_frames_in_reverse(name: str, tmp_path: Path) -> None:
    """Frames 7, 6 and 4; an object that comes late; frames are JPEG under their own names."""
    masks = {t: blob(t, SIZE) for t in (4, 6, 7)}
    with DatasetSink(tmp_path / "out", name, name="clip", classes={1: "Bär"}) as sink:
        for t in (7, 6, 4):
            found = {1: masks[t] & ~masks[4], 2: masks[4]} if t != 4 else {2: masks[4]}
            sink.write(t, frame(t), found, scores=dict.fromkeys(found, 0.5))
        assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    (item,) = open_dataset(tmp_path / "out")
    assert (item.name, item.num_frames, item.size) == ("clip", 3, SIZE)
    for i, t in enumerate((4, 6, 7)):
        assert abs(item.frame(i).astype(int) - 30 * t).max() <= 2  # JPEG of one colour: noise 1
        seen = [mask.decode() for _, mask in sorted(item.masks(i).items()) if mask.area()]
        expected = [masks[4]] if t == 4 else [masks[t] & ~masks[4], masks[4]]
        assert len(seen) == len(expected)
        for one, other in zip(seen, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert not list(tmp_path.rglob(".frames"))


def test_without_a_frame_there_is_nothing(tmp_path: Path) -> None:
    DatasetSink(tmp_path / "out", "davis").close()
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_frames_before_it(tmp_path: Path) -> None:
    def stop_at_the_third() -> None:
        with DatasetSink(tmp_path / "out", "coco-video") as sink:
            for t in range(2):
                sink.write(t, frame(t), {1: blob(t, SIZE)})
            sink.write(2, frame(2), {1: np.zeros((3, 3), bool)})

    with pytest.raises(VideoError, match="the size of the frame"):
        stop_at_the_third()
    assert open_dataset(tmp_path / "out")[0].num_frames == 2


def test_annotations_alone_keep_no_frames(tmp_path: Path) -> None:
    with DatasetSink(tmp_path / "out.json", "coco-video") as sink:
        sink.write(0, frame(0), {1: blob(0, SIZE), 5: np.zeros(SIZE, bool)})
        assert [path.suffix for path in tmp_path.iterdir()] in ([], [".part"])
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    (item,) = open_dataset(tmp_path / "out.json")
    assert [list(found.masks) for found in item.objects] == [[0], []], "an object that is never seen is kept"


def test_what_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DatasetError, match="exists: give another name"):
        DatasetSink(tmp_path / "out", "davis")
    with DatasetSink(tmp_path / "out", "davis", overwrite=True) as sink:
        sink.write(0, frame(0), {1: blob(0, SIZE)})
    assert open_dataset(tmp_path / "out").format == "davis"

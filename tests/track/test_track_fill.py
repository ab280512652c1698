"""``track --every-nth N --fill``: tracked frames as of a video of these alone, filled ones between, and marked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import SequenceSource
from mlx_sam2.masks import rle_to_mask
from mlx_sam2.masks.between import SignedDistance, mask_between
from mlx_sam2.track.command import main
from mlx_sam2.track.fill import SampledSource
from track_command import NOT_LOADED, NUM_FRAMES, POINT, frames_of_clip


def masks_in(path: Path) -> dict[int, tuple[np.ndarray, bool]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {n["frame"]: (rle_to_mask(n["objects"][0]["rle"]), n.get("filled", False)) for n in lines}


def run(*args: Any) -> int:
    return main([str(arg) for arg in args])


def expected_of(predictor: Any, clip: Path, frames: list[int], prompted: int, reverse: bool) -> dict[int, np.ndarray]:
    pictures = open_source(clip)
    with predictor.init_state([pictures[t] for t in sorted(frames)]) as state:
        at = sorted(frames).index(prompted)
        predictor.add_new_points_or_box(state, at, 1, points=[POINT], labels=[1])
        run = predictor.propagate_in_video(state, at, reverse=reverse)
        return {sorted(frames)[i]: masks[0, 0] > 0 for i, _, masks in run}


@pytest.mark.parametrize("reverse", [False, True])
def test_frames_between_are_filled_and_marked(
    clip: Path, model: str, predictor: Any, tmp_path: Path, reverse: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "a.jsonl", tmp_path / "masks"
    start = NUM_FRAMES - 1 if reverse else 0
    outputs = ["--output", out, "--output", folder]
    flags = ["--point", f"40,30@{start}", "--every-nth", 2, "--fill", *(["--reverse"] if reverse else [])]
    assert run(clip, *flags, *outputs, "--model", model) == 0
    assert "(2 of 6 filled in), 1 object" in capsys.readouterr().out
    tracked = [5, 3, 1, 0] if reverse else [0, 2, 4, 5]
    expected, found = expected_of(predictor, clip, tracked, start, reverse), masks_in(out)
    assert list(found) == (list(range(6))[::-1] if reverse else list(range(6)))
    for t, (mask, filled) in found.items():
        assert filled == (t not in tracked)
        with Image.open(folder / f"{t:05d}.png") as picture:
            assert picture.info.get("Comment") == ("filled" if filled else None)
        if filled:
            ends = [SignedDistance.of(expected[n]) for n in (t + 1, t - 1)]
            np.testing.assert_array_equal(mask, mask_between(*ends, 0.5, mask.shape))
        else:
            np.testing.assert_array_equal(mask, expected[t])


def test_prompted_frames_are_tracked_too(clip: Path, model: str, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    flags = ["--point", "40,30@1", "--negative", "70,60@4", "--point", "41,30@4", "--every-nth", 4]
    assert run(clip, *flags, "--start", 2, "--output", out, "--model", model) == 0
    assert list(masks_in(out)) == [2, 4, 5]


def test_a_film_is_read_in_order() -> None:
    """Frames between are read in passing: to go back in a film means to decode it again."""
    read: list[int] = []

    class Film(SequenceSource):
        def _read(self, i: int) -> np.ndarray:
            read.append(i)
            return super()._read(i)

    sampled = SampledSource(Film(frames_of_clip()), [0, 3, 5], reverse=False)
    for i in range(3):
        np.testing.assert_array_equal(sampled[i], frames_of_clip()[sampled.numbers[i]])
    assert read == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(sampled.left_out(2), frames_of_clip()[2])
    assert len(read) == 6


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--point", "4,4", "--fill"], "give --every-nth 2, 3 or 4, too"),
        (["--everything", "--every-nth", "2"], "--everything does not go with it"),
        (["--point", "4,4", "--every-nth", "2", "--matte", "m.mov"], "--cutout and --matte do not go with it"),
    ],
)
def test_what_does_not_go_together(
    flags: list[str], words: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(clip, *flags, "--output", tmp_path / "a.jsonl", "--model", NOT_LOADED) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1

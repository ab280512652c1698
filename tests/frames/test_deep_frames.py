"""Stacks of grey slices with more than 8 bits: one range for all of them, or two values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import VideoError

SLICES = [np.full((4, 6), 0, np.uint16) + np.arange(6, dtype=np.uint16) * 100 + 200 * t for t in range(3)]  # 0 to 900


def stack(path: Path, slices: list[np.ndarray]) -> Path:
    """A TIFF, or a folder of PNG."""
    pictures = [Image.fromarray(values) for values in slices]
    if path.suffix == ".tiff":
        pictures[0].save(path, save_all=True, append_images=pictures[1:])
    else:
        path.mkdir()
        for t, picture in enumerate(pictures):
            picture.save(path / f"{t}.png")
    return path


@pytest.mark.parametrize("name", ["a.tiff", "folder"])
@pytest.mark.parametrize(("levels", "low", "high"), [("auto", 0, 900), ((100.0, 400.0), 100, 400), ("full", 0, 65535)])
def test_levels(tmp_path: Path, name: str, levels: str | tuple[float, float], low: int, high: int) -> None:
    with open_source(stack(tmp_path / name, SLICES), levels=levels) as source:
        for frame, values in zip(source, SLICES, strict=True):
            expected = np.clip(np.rint((values.astype(float) - low) * 255 / (high - low)), 0, 255)
            np.testing.assert_array_equal(frame, np.repeat(expected[..., None], 3, axis=2).astype(np.uint8))


def test_slices_of_floats_and_of_one_value(tmp_path: Path) -> None:
    floats = [values.astype(np.float32) / 3 for values in SLICES]
    with open_source(stack(tmp_path / "f.tiff", floats), levels="auto") as source:
        assert (source[0].min(), source[2].max()) == (0, 255)
    with open_source(stack(tmp_path / "same.tiff", [SLICES[0] * 0 + 7] * 2), levels="auto") as source:
        assert source[1].max() == 0
    with pytest.raises(VideoError, match=r"f\.tiff is deeper than 16 bits \(its mode is F\): give levels, .*LOW,HIGH"):
        open_source(tmp_path / "f.tiff")


def test_levels_of_what_has_none(tmp_path: Path) -> None:
    shallow = [values.astype(np.uint8) for values in SLICES]
    for source in (stack(tmp_path / "a.tiff", shallow), stack(tmp_path / "folder", shallow)):
        with pytest.raises(VideoError, match="has 8 bits: levels are for grey pictures of more"):
            open_source(source, levels="auto")
    clip = Path(__file__).parents[2] / "examples" / "clip.mp4"
    for source in (clip, shallow, "camera:0", "rtsp://127.0.0.1:1/x"):
        with pytest.raises(
            VideoError, match=r"levels are for TIFF stacks and folders of 16-bit PNG files, and .* is neither"
        ):
            open_source(source, levels="full")


def test_slices_of_one_huge_value(tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((8, 8), 1e20, np.float32)) for _ in range(2))
    first.save(tmp_path / "stack.tif", save_all=True, append_images=[second])
    with open_source(tmp_path / "stack.tif", levels="auto") as source:
        assert not source[0].any()

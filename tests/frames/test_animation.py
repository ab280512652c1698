"""Animated GIF, WebP and PNG, and TIFF stacks: read as videos by Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from mlx_sam2.frames import source as video
from mlx_sam2.frames.animation import AnimationSource
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import VideoError

H, W = 24, 32


def squares(count: int) -> list[np.ndarray]:
    """A white square that moves over a colour of few values, which a GIF keeps."""
    frames = [np.full((H, W, 3), (0, 64, 128), np.uint8) for _ in range(count)]
    for i, frame in enumerate(frames):
        frame[8:16, 4 * i : 4 * i + 8] = 255
    return frames


def save(path: Path, frames: list[np.ndarray], **options: Any) -> Path:
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=rest, **options)
    return path


LOSSLESS = {"gif": {}, "webp": {"lossless": True}, "png": {}, "tiff": {}}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_frame_in_any_order(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "CACHE_BYTES", 0)  # two frames
    frames = squares(6)
    path = save(tmp_path / f"a.{kind}", frames, **LOSSLESS[kind])
    for given in (path, str(path), path.read_bytes()):
        with open_source(given) as source:
            assert isinstance(source, AnimationSource)
            assert (len(source), source.height, source.width) == (6, H, W)
            for i in (5, 0, 3, 2, 5, 1, 4):
                np.testing.assert_array_equal(source[i], frames[i])
            assert not source[0].flags.writeable


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_each_frame_has_its_time(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / f"a.{kind}", squares(3), duration=[50, 200, 100], **LOSSLESS[kind])
    with open_source(path) as source:
        assert [source.time(i) for i in range(3)] == pytest.approx([0, 0.05, 0.25])
        assert source.fps == pytest.approx(3 / 0.35)


def test_frames_without_a_duration_take_a_tenth_of_a_second(tmp_path: Path) -> None:
    with open_source(save(tmp_path / "a.gif", squares(3), duration=0)) as source:
        assert [source.time(i) for i in range(3)] == pytest.approx([0, 0.1, 0.2])
    with open_source(save(tmp_path / "a.tiff", squares(3))) as source:
        assert (source.fps, source.time(1)) == (None, None)


def test_an_animated_webp_of_the_web() -> None:
    """tests/data/reports/anim.webp: PyAV before 19 finds no frame in it."""
    with open_source(Path(__file__).parents[1] / "data" / "reports" / "anim.webp") as source:
        assert (len(source), source.height, source.width) == (2, 240, 320)
        assert np.abs(source[0].astype(int) - source[1]).max() > 50


def test_a_still_webp_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(squares(1)[0]).save(tmp_path / "a.webp", lossless=True)
    with open_source(tmp_path / "a.webp") as source:
        assert len(source) == 1
        np.testing.assert_array_equal(source[0], squares(1)[0])


@pytest.mark.parametrize("mode", ["L", "I;16", "I;16B"])
def test_stacks_of_slices(tmp_path: Path, mode: str) -> None:
    """16 bits are divided by 257, the same for every slice."""
    step = 1 if mode == "L" else 257
    kind = {"L": np.uint8, "I;16": "<u2", "I;16B": ">u2"}[mode]
    slices = [np.full((H, W), 40 * i * step, kind) for i in range(4)]
    first, *rest = (Image.fromarray(page) for page in slices)
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    with open_source(tmp_path / "a.tif") as source:
        assert [frame[3, 3].tolist() for frame in source] == [[40 * i] * 3 for i in range(4)]


def save_pages(path: Path, pages: list[np.ndarray], tags: list[dict[int, int]]) -> None:
    """A TIFF whose pages have tags of their own."""
    with TiffImagePlugin.AppendingTiffWriter(path) as writer:
        for page, tag in zip(pages, tags, strict=True):
            Image.fromarray(page).save(writer, "TIFF", tiffinfo=tag)
            writer.newFrame()


def test_pages_are_turned_by_their_orientation(tmp_path: Path) -> None:
    save_pages(tmp_path / "a.tif", squares(3), [{0x0112: 6}] * 3)
    with open_source(tmp_path / "a.tif") as source:
        for frame, stored in zip(source, squares(3), strict=True):
            np.testing.assert_array_equal(frame, np.rot90(stored, -1))


def test_smaller_copies_in_a_tiff_are_no_frames(tmp_path: Path) -> None:
    first, second = squares(2)
    save_pages(tmp_path / "a.tif", [first, first[::4, ::4], second], [{}, {254: 1}, {}])
    with open_source(tmp_path / "a.tif") as source:
        assert len(source) == 2
        np.testing.assert_array_equal(source[1], second)


def test_what_is_no_stack_of_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(squares(1)[0]), Image.new("RGB", (8, 6))]
    pages[0].save(tmp_path / "sizes.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    whole = save(tmp_path / "whole.gif", squares(6)).read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.gif").write_bytes(whole[:13])
    (tmp_path / "noise.webp").write_bytes(b"RIFF\0\0\1\0WEBPVP8X" + bytes(range(256)))
    for name, message in (
        ("sizes.tif", r"sizes\.tif: page 1 is 8x6, but page 0 is 32x24"),
        ("float.tif", r"float\.tif is deeper than 16 bits \(its mode is F\)"),
        ("cut.gif", r"cut\.gif (is damaged in frame \d|cannot be read)"),
        ("empty.gif", r"empty\.gif cannot be read"),
        ("noise.webp", r"noise\.webp cannot be read"),
    ):
        with pytest.raises(VideoError, match=message) as caught:
            list(open_source(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_by_its_header() -> None:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "GIF")
    data = bytearray(file.getvalue())
    data[6:10] = b"\xff\xff\xff\xff"  # 65,535 x 65,535
    with pytest.raises(VideoError, match=r"the animation in memory (is too large|cannot be read)"):
        open_source(bytes(data))

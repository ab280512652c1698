"""Animated GIF, WebP and PNG files as films, within limits that hold before a frame is decoded."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from .. import images
from ..frames.animation import AnimationSource, is_animation
from ..frames.source import FrameSource
from .schemas import ApiError

FORMATS = ("GIF", "WEBP", "PNG")  # stacks of TIFF are pictures here: their first page
DECODED = 8_000_000_000  # pixels of all frames: they are decoded once when a film is opened
HEAD = 4096  # bytes that tell what a file is
FAULTS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, MemoryError, Image.DecompressionBombError)


def moves(path: Path) -> bool:
    """Whether a file is an animation of more than one frame; False for a damaged one: reading it gives the reason."""
    return _frames(path)[0] > 1


def open_moving(path: Path, pixels: int, frames: int) -> FrameSource:
    """Open an animation.

    Args:
        pixels: how many a frame may have.
        frames: how many there may be.

    Raises:
        ApiError: it is too large or too long.
        VideoError: it cannot be read.
    """
    count, width, height = _frames(path)
    check_pixels(width, height, pixels)
    check_frames(count, frames)
    if count * width * height > DECODED:
        text = f"{count} frames of {width} x {height} pixels: too much for an animation; make it an MP4"
        raise ApiError(413, "too_large", text)
    return AnimationSource(path)


def _frames(path: Path) -> tuple[int, int, int]:
    """Number, width and height of the frames of an animation, from what stands between them; 0, 0, 0 for others."""
    with open(path, "rb") as file:
        if not is_animation(file.read(HEAD)):
            return 0, 0, 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return getattr(image, "n_frames", 1), *image.size
    except FAULTS:
        return 0, 0, 0


def check_pixels(width: int, height: int, most: int) -> None:
    """ApiError for a picture or a frame that is too large."""
    if width * height > most or max(width, height) > images.MAX_SIDE:
        raise ApiError(413, "too_large", f"{width} x {height} pixels: the app takes {most:,}; make it smaller")


def check_frames(count: int | None, most: int) -> None:
    """ApiError for a video that is too long."""
    if count is None or count > most:
        raise ApiError(413, "too_large", f"{count} frames: the app takes {most:,}; cut the video into parts")

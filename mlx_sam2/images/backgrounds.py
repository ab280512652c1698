"""What stands behind a cut-out, or in place of it: a colour, a picture, a film, or the photo changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageFilter

from .files import read
from .limits import ImageError

CHECKER = (204, 255)  # grey and white, as image editors show transparency
BLUR = 1 / 40  # standard deviation, of the photo's short side
PIXELS = 1 / 16  # side of a square of "pixelate", of the photo's short side
PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".heic", ".heif")


class Background(NamedTuple):
    """What was asked for."""

    kind: str  # "colour", "image", "video", "checker", or of EFFECTS
    colour: tuple[int, int, int] = (0, 0, 0)
    path: Path | None = None


def parse_background(text: str, option: str = "--background") -> Background:
    """Read "blur", "pixelate", "grey", "checker", a colour ("white", "#00b140"), or the path of a picture or a film.

    Raises:
        ImageError: it is none of them. One line.
    """
    if text in (*EFFECTS, "checker"):
        return Background(text)
    if not os.path.exists(text):
        try:
            return Background("colour", ImageColor.getrgb(text)[:3])
        except ValueError:
            raise ImageError(
                f"{option} {text} is no colour and no file: give a name (white) or #00b140, a picture, a film, "
                f"{', '.join(EFFECTS)} or checker"
            ) from None
    path = Path(text)
    return Background("image" if path.suffix.lower() in PHOTOS else "video", path=path)


class Backdrop:
    """A background that needs no frames, at the size of the photos it stands behind. Reads its picture once.

    Raises:
        ImageError: the picture cannot be read.
    """

    def __init__(self, background: Background) -> None:
        self._background = background
        self._picture = read(background.path) if background.kind == "image" else None
        self._fitted: np.ndarray | None = None

    def behind(self, pixels: np.ndarray) -> np.ndarray:
        """The background (H, W, 3) uint8 for a photo of that shape."""
        if self._background.kind in EFFECTS:
            return EFFECTS[self._background.kind](pixels)
        if self._fitted is None or self._fitted.shape != pixels.shape:
            self._fitted = self._made(*pixels.shape[:2])
        return self._fitted

    def _made(self, height: int, width: int) -> np.ndarray:
        if self._picture is not None:
            return covering(self._picture, height, width)
        if self._background.kind == "checker":
            return checkerboard(height, width)
        return np.broadcast_to(np.uint8(self._background.colour), (height, width, 3))


def blurred(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR * min(pixels.shape[:2]))))


def pixelated(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: squares of one colour, their mean."""
    h, w = pixels.shape[:2]
    side = max(2, round(PIXELS * min(h, w)))
    sums = pixels.astype(np.float32)
    for axis, size in ((0, h), (1, w)):
        starts = np.arange(0, size, side)
        counts = np.diff(np.append(starts, size))
        sums = np.add.reduceat(sums, starts, axis) / counts.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    return np.rint(sums).astype(np.uint8).repeat(side, 0)[:h].repeat(side, 1)[:, :w]


def desaturated(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: luma (ITU-R BT.601) in all three channels."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


EFFECTS = {"blur": blurred, "pixelate": pixelated, "grey": desaturated}  # of the photo itself


def checkerboard(height: int, width: int) -> np.ndarray:
    """Squares of grey and white, (height, width, 3) uint8."""
    side = max(4, round(min(height, width) / 32))
    y, x = np.arange(height)[:, None] // side, np.arange(width) // side
    board = np.where((y + x) % 2, np.uint8(CHECKER[0]), np.uint8(CHECKER[1]))
    return np.repeat(board[..., None], 3, axis=2)


def covering(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture scaled until it covers the size, its middle cut out, (height, width, 3) uint8."""
    if picture.shape[:2] == (height, width):
        return picture
    h, w = picture.shape[:2]
    scale = max(height / h, width / w)
    margin_x, margin_y = (w - width / scale) / 2, (h - height / scale) / 2
    box = (margin_x, margin_y, w - margin_x, h - margin_y)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS, box=box))


def composed(own: np.ndarray, matte: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """An object over a background, (H, W, 3) uint8: mixed as their values stand, as editors and browsers do.

    Args:
        own: the object's colours, (H, W, 3) uint8.
        matte: (H, W) float32 in 0..1.
        ground: (H, W, 3) uint8.
    """
    a = matte[..., None]
    return np.rint(a * own + (1 - a) * ground).astype(np.uint8)


class Layers(NamedTuple):
    """What stands behind an object, and what in its place; None: the photo's own pixels."""

    behind: Backdrop | None = None
    instead: Backdrop | None = None

    @property
    def are_none(self) -> bool:
        return self.behind is None and self.instead is None

    def composed(self, pixels: np.ndarray, own: np.ndarray, matte: np.ndarray) -> np.ndarray:
        """``composed``, of a photo (H, W, 3) uint8, the object's colours in it, and the matte."""
        ground = pixels if self.behind is None else self.behind.behind(pixels)
        return composed(own if self.instead is None else self.instead.behind(pixels), matte, ground)

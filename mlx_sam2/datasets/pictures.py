"""Mask pictures: object numbers as pixel values, as DAVIS and PASCAL VOC have them, or black and white."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..frames.source import VideoError
from ..images import ImageError, containers, decode, open_file, read_mask
from ..images.limits import check_size
from ..text import message_of
from .items import DatasetError

VOID = 255  # pixels of an indexed mask that belong to nobody and are not scored
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG", "PPM")  # PIL would hand an EPS file to Ghostscript


def read_indexed(path: Path) -> np.ndarray:
    """The pixel values (H, W) uint8 of a mask picture: palette indices, grey values, or 255 where its alpha is high.

    Raises:
        VideoError: it cannot be read, or is a colour picture.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode in ("P", "L"):
                return np.array(image)
            if image.mode == "1":
                return np.array(image.convert("L"))
            if "A" in image.getbands() and len(set(image.getchannel("A").getextrema())) > 1:  # as editors cut out
                return read_mask(path) * np.uint8(VOID)
            if image.mode == "RGB":
                pixels = np.array(image)
                if (pixels == pixels[..., :1]).all():
                    return pixels[..., 0]
            mode = image.mode
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{path} cannot be read as a mask: {reason}") from error
    raise VideoError(
        f"{path} is no mask (its mode is {mode}): an indexed PNG with object numbers, or 0 and 255, is needed"
    )


def read_palette(path: Path) -> list[int] | None:
    """The 256 colours of an indexed picture, [r, g, b, r, g, ...]; None for another picture, or one without colours.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            palette = image.getpalette("RGB") if image.mode == "P" else None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path} cannot be read as a mask: {message_of(error)}") from error
    return [*palette, *[0] * (768 - len(palette))] if palette and any(palette) else None


def is_binary(indices: np.ndarray) -> bool:
    """Whether the values are 0 and 255 alone: one object, not object numbers (DAVIS 2016, image editors)."""
    return not np.any((indices != 0) & (indices != VOID))


def split_objects(indices: np.ndarray) -> dict[int, np.ndarray]:
    """Object number -> bool (H, W). Values 0 and 255 alone are object 1; beside other values 255 is void."""
    if is_binary(indices):
        return {1: indices > 0} if indices.any() else {}
    return {int(i): indices == i for i in np.unique(indices) if i not in (0, VOID)}


def read_labels(path: Path) -> np.ndarray:
    """As ``read_indexed``, and (H, W) uint16 of a grey picture of 16 bits, which holds more than 255 objects.

    Raises:
        DatasetError: it cannot be read, or is a colour picture.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode == "I;16":
                return np.array(image)
        return read_indexed(path)
    except VideoError as error:
        raise DatasetError(str(error)) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be read as a mask: {message_of(error)}") from None


def values_of(indices: np.ndarray) -> list[int]:
    """The values that occur in a mask picture, in order."""
    return np.flatnonzero(np.bincount(indices.ravel(), minlength=1)).tolist()


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W) of a photo, from its header, as it is shown.

    Raises:
        DatasetError: there is none, or it cannot be read.
    """
    with _header(path) as (image, turn):
        width, height = image.size
        return (width, height) if turn >= 5 else (height, width)


def is_upright(path: Path) -> bool:
    """Whether a photo is shown as it is stored: no EXIF orientation turns it. DatasetError as ``picture_size``."""
    with _header(path) as (_, turn):
        return turn == 1


@contextmanager
def _header(path: Path) -> Iterator[tuple[Image.Image, int]]:
    """A photo whose pixels are not decoded, and its EXIF orientation."""
    try:
        with open_file(path) as file:
            if containers.is_heic(file.read(512)):
                yield Image.fromarray(decode(file, str(path)).pixels), 1
                return
            file.seek(0)
            with Image.open(file) as image:
                check_size(image.height, image.width, str(path))
                yield image, containers.orientation(file, image.info, image.format)
    except ImageError as error:
        raise DatasetError(str(error)) from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be read as an image: {message_of(error)}") from None

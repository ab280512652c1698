"""Photos in, pictures out: read a photo as it is meant to be seen, and write pictures that are complete or absent."""

from __future__ import annotations

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..files import beside
from ..text import one_line, shorten

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
MAX_SIDE = 65_535  # JPEG's; resizing needs memory in proportion to each side

LOSSLESS = (".png", ".tif", ".tiff")
PICTURES = (*LOSSLESS, ".jpg", ".jpeg", ".webp")
_REFUSED = ("EPS", "WMF", "EMF")  # programs rather than pictures: Pillow would start another one to draw them
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, MemoryError)
_DAMAGE = (*_DAMAGE, RuntimeError, struct.error, zlib.error)  # RuntimeError: AVIF


class ImageError(ValueError):
    """An image cannot be read, used or written. One line."""


# ---- reading


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a photo as it is meant to be seen: (H, W, 3) uint8 RGB.

    EXIF orientation is applied. Of animations the first frame is taken. Modes are converted by Pillow's
    ``convert("RGB")``, the official notebooks' way, so transparency is dropped, not composited. Pillow would
    clip deeper images, so those are scaled by their full range: 16 bits (and 32-bit integers that fit 16)
    are divided by 257, floats in 0..1 multiplied by 255; anything else is stretched between its extremes.

    Raises:
        ImageError: no such file, not an image, damaged, or larger than 65,535 pixels a side or 179 million
            in all.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a zero character
        raise ImageError(f"no such image: {path}") from None
    except OSError as error:  # a folder that may not be searched, a name that is too long
        raise ImageError(f"{path} cannot be read: {error.strerror.lower()}") from None
    if not stat.S_ISREG(mode):
        raise ImageError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'not a file'}, not an image")
    try:
        with warnings.catch_warnings():  # Pillow's, about sizes below its limit and odd metadata
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                if image.format in _REFUSED:
                    raise ImageError(f"{path}: {image.format} images are not read; convert it to PNG or JPEG")
                _check_size(image.height, image.width, str(path))
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{path} is too large: more than {MAX_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{path} is not an image that can be read (JPEG, PNG, WebP, TIFF, ...)") from None
    except PermissionError:
        raise ImageError(f"{path} cannot be read: permission denied") from None
    except _DAMAGE as error:
        reason = shorten(one_line(error), 120) or type(error).__name__
        raise ImageError(f"{path} is damaged or cut short ({reason})") from None


def to_array(image: np.ndarray | Image.Image) -> np.ndarray:
    """An image from a caller as (H, W, 3), uint8 in 0..255 or float32 already in 0..1.

    PIL images are converted as in ``read``, but not turned by EXIF: coordinates are those of the image given.

    Raises:
        ImageError: anything else.
    """
    if isinstance(image, Image.Image):
        _check_size(image.height, image.width, "the image")
        try:
            return _to_rgb(image)
        except _DAMAGE as error:
            raise ImageError(f"the image is damaged or cut short ({error})") from None
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise ImageError(f"an image must be a numpy array (H, W, 3) or a PIL image, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3:
        hint = "; repeat a greyscale image three times" if image.ndim == 2 else "; drop the alpha channel"
        hint = hint if image.ndim == 2 or image.shape[-1] == 4 else ""
        raise ImageError(f"an image must have the shape (H, W, 3), got {image.shape}{hint}")
    _check_size(*image.shape[:2], "the image")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"an image must be uint8 in 0..255 or float in 0..1, got {image.dtype}")
    if not np.isfinite(image).all():
        raise ImageError("the image holds values that are not finite numbers")
    return image.astype(np.float32)


def _check_size(height: int, width: int, name: str) -> None:
    if min(height, width) < 1:
        raise ImageError(f"{name} is empty: {width} x {height} pixels")
    if max(height, width) > MAX_SIDE or height * width > MAX_PIXELS:
        limits = f"at most {MAX_SIDE:,} a side and {MAX_PIXELS:,} in all; make it smaller"
        raise ImageError(f"{name} is too large: {width} x {height} pixels, {limits}")


def _to_rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8 of a PIL image of any mode."""
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        grey = _to_8_bit(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("La", "RGBa"):  # premultiplied: one step more
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    return np.array(image.convert("RGB"))


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Deep grey values -> uint8, by the rules of ``read``; NaN becomes 0."""
    is_float = np.issubdtype(values.dtype, np.floating)
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) if is_float else values.astype(np.int64)
    low, high = values.min(), values.max()
    full = 1.0 if is_float else 65535.0
    if low < 0 or high > full:
        full, values = max(float(high) - float(low), 1e-30), values - low.astype(np.float64)
    return np.rint(values * (255.0 / full)).astype(np.uint8)


# ---- writing


def check_output(path: str | os.PathLike[str], overwrite: bool, suffixes: Sequence[str] = PICTURES) -> None:
    """Refuse now what ``write`` would refuse later.

    Raises:
        ImageError: the file name does not end in one of `suffixes`, the file exists and may not be
            overwritten, its name is too long, or its folder does not exist or cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in suffixes:
        raise ImageError(f"cannot write {path}: its name must end in {', '.join(suffixes)}")
    if os.path.isdir(path):  # unlike Path.is_dir and Path.exists, os.path raises for no path
        raise ImageError(f"cannot write {path}: it is a folder")
    if not os.path.isdir(path.parent):
        raise ImageError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ImageError(f"cannot write {path}: no permission to write in {path.parent}")
    if os.path.lexists(path) and not overwrite:  # a link that leads nowhere exists, too
        raise ImageError(f"{path} exists: give another name, or --overwrite (overwrite=True) to replace it")
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long
        raise ImageError(f"cannot write {path}: {error.strerror.lower()}") from None


def write(
    path: str | os.PathLike[str],
    picture: np.ndarray,
    *,
    overwrite: bool = False,
    suffixes: Sequence[str] = PICTURES,
) -> None:
    """Write a (H, W), (H, W, 3) or (H, W, 4) uint8 picture, or labels (H, W) uint16; the suffix chooses the format.

    The file appears under its name only when it is complete. Masks and cut-outs take ``suffixes=LOSSLESS``.

    Raises:
        ImageError: as ``check_output``, or the picture has more pixels than the format allows.
        OSError: the disk is full or fails.
    """
    path = Path(path)
    check_output(path, overwrite, suffixes)
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    kind = Image.registered_extensions()[path.suffix.lower()]
    try:
        with beside(path, replace=overwrite) as part:
            Image.fromarray(picture).save(part, format=kind, **options)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from None
        raise ImageError(f"cannot write {path}: {error}") from None  # an encoder's refusal

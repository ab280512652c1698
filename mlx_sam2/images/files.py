"""Photos in, pictures out: read a photo as it is meant to be seen, and write pictures that are complete or absent."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ..files import beside
from ..text import message_of
from . import containers
from .heif import open_heif
from .levels import Levels, is_deep_mode, to_8_bit
from .limits import MAX_JPEG_RATIO, MAX_PIXELS, ImageError, check_size

LOSSLESS = (".png", ".tif", ".tiff")
PICTURES = (*LOSSLESS, ".jpg", ".jpeg", ".webp")
WEBP_SIDE = 16383
STRIP_PIXELS = 1 << 20  # that are converted at once
_REFUSED = ("EPS", "WMF", "EMF")  # programs rather than pictures: Pillow would start another one to draw them
_DARK = 31  # the brightest of 255 in deep colour that uses an eighth of its range


class Picture(NamedTuple):
    """A photo that was read."""

    pixels: np.ndarray  # (H, W, 3) uint8
    notes: tuple[str, ...]  # what the user should know about it, a line each


class _Stored(NamedTuple):
    """A photo that is decoded, as it lies in its file."""

    image: Image.Image
    turn: int = 1  # EXIF orientation
    is_deep: bool = False  # colours of 16 bits, of which Pillow gives 8
    several: str | None = None  # what to say about other pictures in the file


# ---- reading


def read(path: str | os.PathLike[str], levels: Levels = "full") -> np.ndarray:
    """Read a photo as it is meant to be seen: (H, W, 3) uint8 RGB.

    It is turned by its EXIF orientation. Of animations and stacks the first picture is taken. Modes are converted by
    Pillow's ``convert("RGB")``, the official notebooks' way, so transparency is dropped, not composited. Deeper grey
    pictures, which Pillow would clip, are scaled by ``to_8_bit``. HEIC needs macOS or pillow-heif.

    Args:
        path: the file. What it is, its contents say, not its name.
        levels: how 16 bits and floats become 8 bits: "full", "auto", or the values (low, high).

    Raises:
        ImageError: no such file, not a photo, damaged, or larger than 65,535 pixels a side or 179 million in all.
    """
    with open_file(path) as file:
        return decode(file, str(path), levels).pixels


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        ImageError: there is none, or it cannot be read.
    """
    path = Path(path)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise ImageError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'not a file'}, not an image")
        return open(path, "rb")
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name with a zero character
        raise ImageError(f"no such image: {path}") from None
    except OSError as error:  # a folder that may not be searched, a name that is too long
        raise ImageError(f"{path} cannot be read: {error.strerror.lower()}") from None


def decode(file: BinaryIO, name: str, levels: Levels = "full") -> Picture:
    """Read a photo from an open file; `name` is its path. Errors as for ``read``."""
    with _stored(file, name) as stored:
        pixels, dark = _to_rgb(stored.image, stored.turn, levels)
        if not dark and stored.is_deep and pixels.max() <= _DARK:
            dark = "its colours use few of their 16 bits, of which 8 are read, so it is dark: stretch it first"
    notes = [f"{name}: {note}" for note in (dark, stored.several) if note]
    return Picture(pixels, tuple(notes))


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask that was drawn as a picture: (H, W) bool.

    Where the picture has an alpha channel that is not the same everywhere, that is the mask; else the mask is what
    is white (128 or more of 255 in any colour).

    Raises:
        ImageError: as for ``read``.
    """
    with open_file(path) as file, _stored(file, str(path)) as (image, turn, *_):
        alpha = _alpha(image)
        if alpha is not None and alpha.min() < alpha.max():
            return np.ascontiguousarray(_turned(alpha, turn)) >= 128
        return _to_rgb(image, turn, "full")[0].max(axis=2) >= 128


@contextmanager
def _stored(file: BinaryIO, name: str) -> Iterator[_Stored]:
    """Decode a photo, and report whatever goes wrong until the block ends as one ImageError."""
    try:
        with warnings.catch_warnings():  # Pillow's, about sizes below its limit and odd metadata
            warnings.simplefilter("ignore")
            if not file.seek(0, os.SEEK_END):
                raise ImageError(f"{name} is empty, not an image: copy or download it again")
            file.seek(0)
            if reason := containers.refusal(file):
                raise ImageError(f"{name} {reason}")
            file.seek(0)
            if containers.is_heic(file.read(512)):
                if containers.is_cut_short(file):
                    raise ImageError(f"{name} is damaged or cut short")
                yield _Stored(open_heif(file, name))
                return
            file.seek(0)
            with Image.open(file) as image:
                yield _load(image, file, name)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name} is too large: more than {MAX_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that can be read (JPEG, PNG, WebP, TIFF, ...)") from None
    except PermissionError:
        raise ImageError(f"{name} cannot be read: permission denied") from None
    except Exception as error:  # noqa: BLE001  Pillow's readers raise anything for a damaged file: it is one photo's
        raise ImageError(f"{name} is damaged or cut short ({message_of(error)})") from None


def _load(image: Image.Image, file: BinaryIO, name: str) -> _Stored:
    """Decode the first picture of a file."""
    kind = image.format
    if kind in _REFUSED:
        raise ImageError(f"{name}: {kind} images are not read; convert it to PNG or JPEG")
    check_size(image.height, image.width, name)
    place = file.tell()
    file_size = file.seek(0, os.SEEK_END)
    if kind in ("JPEG", "MPO") and image.width * image.height > MAX_JPEG_RATIO * file_size:
        raise ImageError(
            f"{name} is damaged or cut short ({file_size:,} bytes for {image.width} x {image.height} pixels)"
        )
    turn = containers.orientation(file, image.info, kind)
    is_deep, several = any(";16" in str(tile) for tile in image.tile), _several(image, file)
    file.seek(place)  # some readers go on from where they stopped
    image.getexif = Image.Exif  # none: the TIFF reader would parse all of it, and turn the picture by itself
    image.load()
    return _Stored(image, turn, is_deep, several)


def _several(image: Image.Image, file: BinaryIO) -> str | None:
    """What to say about a file with more pictures than the first."""
    if image.format == "TIFF" and containers.is_stack(file):
        return "it holds several pictures, and the first is taken"
    if image.format in ("GIF", "WEBP", "PNG", "AVIF") and _is_animated(image):
        return "it is animated, and its first frame is taken; python -m mlx_sam2.track follows objects through films"
    return None


def _is_animated(image: Image.Image) -> bool:
    try:
        return getattr(image, "is_animated", False)
    except Exception:  # noqa: BLE001  of GIF it reads the second frame, which may be damaged in any way
        return True


# ---- pixels


def to_array(image: np.ndarray | Image.Image, levels: Levels = "full") -> np.ndarray:
    """An image from a caller as (H, W, 3), uint8 in 0..255 or float32 already in 0..1.

    PIL images are converted as in ``read``, but not turned by EXIF: coordinates are those of the image given.
    ``levels`` are for those deeper than 8 bits.

    Raises:
        ImageError: anything else.
    """
    if isinstance(image, Image.Image):
        check_size(image.height, image.width, "the image")
        try:
            image.load()
            return _to_rgb(image, levels=levels)[0]
        except Exception as error:  # noqa: BLE001  as in ``_stored``: a file may lie behind the image
            raise ImageError(f"the image is damaged or cut short ({message_of(error)})") from None
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        raise ImageError(f"an image must be a numpy array (H, W, 3) or a PIL image, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3:
        hint = "; repeat a greyscale image three times" if image.ndim == 2 else "; drop the alpha channel"
        hint = hint if image.ndim == 2 or image.shape[-1] == 4 else ""
        raise ImageError(f"an image must have the shape (H, W, 3), got {image.shape}{hint}")
    check_size(*image.shape[:2], "the image")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"an image must be uint8 in 0..255 or float in 0..1, got {image.dtype}")
    if not np.isfinite(image).all():
        raise ImageError("the image holds values that are not finite numbers")
    return image.astype(np.float32)


def _to_rgb(image: Image.Image, turn: int = 1, levels: Levels = "full") -> tuple[np.ndarray, str | None]:
    """A loaded picture of any mode as (H, W, 3) uint8, turned, and what ``to_8_bit`` says about it."""
    width, height = image.im.size  # of a TIFF that is to be turned, image.size is turned already
    pixels = np.empty((width, height, 3) if turn >= 5 else (height, width, 3), np.uint8)
    stored = _turned(pixels, {6: 8, 8: 6}.get(turn, turn))
    if is_deep_mode(image.mode):
        values = np.concatenate([np.asarray(strip) for _, strip in _strips(image)])
        grey, note = to_8_bit(values, levels)
        stored[...] = grey[..., None]
        return pixels, note
    for rows, strip in _strips(image):  # all at once would need the picture three times
        stored[rows] = np.asarray(_plain(strip).convert("RGB"))
    return pixels, None


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Rows of a picture, and the picture of them."""
    width, height = image.im.size
    step = max(1, STRIP_PIXELS // width)
    for i in range(0, height, step):
        end = min(i + step, height)
        yield slice(i, end), image.crop((0, i, width, end))


def _plain(image: Image.Image) -> Image.Image:
    """Not premultiplied by alpha: Pillow converts those modes to nothing else."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode]) if image.mode in ("La", "RGBa") else image


def _alpha(image: Image.Image) -> np.ndarray | None:
    """(H, W) uint8 as it lies in the file; None if nothing is transparent."""
    if not image.has_transparency_data:
        return None
    return np.asarray(_plain(image.crop((0, 0, *image.im.size))).convert("RGBA").getchannel("A"))


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """A view of a picture, turned as its EXIF orientation says."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


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
    if os.path.exists(path) and not os.path.isfile(path):
        raise ImageError(f"cannot write {path}: it is not a file")
    if not os.path.isdir(path.parent):
        raise ImageError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise ImageError(f"cannot write {path}: no permission to write in {path.parent}")
    if os.path.lexists(path) and not overwrite:  # a link that leads nowhere exists, too
        raise ImageError(f"{path} exists: give another name, or --overwrite (overwrite=True) to replace it")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise ImageError(f"cannot write {path}: it is write-protected")
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
    if path.suffix.lower() == ".webp" and max(picture.shape[:2]) > WEBP_SIDE:  # Pillow: "encoding error 5"
        raise ImageError(f"cannot write {path}: WebP takes at most {WEBP_SIDE} pixels a side")
    options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    kind = Image.registered_extensions()[path.suffix.lower()]
    try:
        with beside(path, replace=overwrite) as part:
            Image.fromarray(picture).save(part, format=kind, **options)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from None
        raise ImageError(f"cannot write {path}: {error}") from None  # an encoder's refusal

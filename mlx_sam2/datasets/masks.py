"""Masks of a data set in the form that their file has, decoded when asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..masks.filled import polygons_to_rle
from ..masks.rle import Rle, compress_rle, mask_to_rle, rle_area, rle_size, rle_to_mask
from .items import DatasetError
from .pictures import read_labels

READ_PICTURES = 4  # mask pictures that are kept: each holds all objects of a frame


class Mask:
    """The mask of one object on one frame.

    Attributes:
        size: (H, W) of the mask, as its file states it; (0, 0) until a picture is read.
        polygons: [[x0, y0, x1, y1, ...], ...] if the file has polygons, else None.
    """

    size: tuple[int, int]
    polygons: Sequence[Sequence[float]] | None = None

    def decode(self) -> np.ndarray:
        """(H, W) bool.

        Raises:
            DatasetError: the file is damaged.
        """
        return rle_to_mask(self.rle())

    def rle(self) -> Rle:
        """COCO's encoding {"size": [H, W], "counts": str}. Raises as ``decode``."""
        return mask_to_rle(self.decode())

    def area(self) -> int:
        """Pixels inside. Raises as ``decode``."""
        return rle_area(self.rle())


class RleMask(Mask):
    """A run-length encoding, compressed or not. ``where`` names it in messages."""

    def __init__(self, encoding: Rle, where: str = "a mask") -> None:
        self.encoding, self.where = encoding, where

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        with _named(self.where):
            return rle_size(self.encoding)

    def rle(self) -> Rle:
        with _named(self.where):
            return compress_rle(self.encoding)


class PolygonMask(Mask):
    """The union of polygons, filled by COCO's rule (``masks.polygons_to_rle``)."""

    def __init__(self, polygons: Sequence[Sequence[float]], size: tuple[int, int], where: str = "a mask") -> None:
        self.polygons, self.size, self.where = polygons, size, where

    def rle(self) -> Rle:
        with _named(self.where):
            return polygons_to_rle(self.polygons, self.size)


class LazyMask(Mask):
    """A mask in a form of its own: ``load`` gives the mask (H, W) bool, or its encoding."""

    def __init__(self, size: tuple[int, int], load: Callable[[], np.ndarray | Rle], where: str = "a mask") -> None:
        self.size, self.load, self.where = size, load, where

    def rle(self) -> Rle:
        with _named(self.where):
            found = self.load()
            return compress_rle(found) if isinstance(found, dict) else mask_to_rle(found)

    def decode(self) -> np.ndarray:
        with _named(self.where):
            found = self.load()
            return rle_to_mask(found) if isinstance(found, dict) else found


class PictureMask(Mask):
    """The pixels of one value in a mask picture; without a value, all pixels that are not 0."""

    def __init__(self, path: Path, value: int | None) -> None:
        self.path, self.value = path, value

    @property
    def size(self) -> tuple[int, int]:  # type: ignore[override]
        height, width = read_picture(self.path).shape
        return height, width

    def decode(self) -> np.ndarray:
        indices = read_picture(self.path)
        return indices != 0 if self.value is None else indices == self.value


@lru_cache(maxsize=READ_PICTURES)
def read_picture(path: Path) -> np.ndarray:
    """``read_labels``; the last few pictures are kept, read-only."""
    indices = read_labels(path)
    indices.flags.writeable = False
    return indices


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Report damage as a DatasetError that says where it is."""
    try:
        yield
    except DatasetError:
        raise
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{where}: {error}") from None

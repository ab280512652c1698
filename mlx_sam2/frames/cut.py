"""One frame of a cut-out, as its writers take it, and what a film of them says of itself."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..images.filters import grow
from .source import Display

KINDS = ("cutout", "matte", "composite")  # colours with alpha; the alpha as grey; opaque colours
BLEED = 16  # pixels around the object that keep their colour, for encoders that work in blocks


class FilmTags(NamedTuple):
    """What a film says of itself, from its source."""

    rate: Fraction = Fraction(30)
    display: Display = Display()
    timecode: str | None = None  # of the first frame that is written
    audio: Path | None = None  # the film whose sound is copied


class Cut(NamedTuple):
    """The objects of a frame, without what is behind them."""

    index: int
    time: float | None
    own: np.ndarray  # (H, W, 3) uint8; of a composite, the whole picture
    matte: np.ndarray  # (H, W) float32 in 0..1, of all objects together
    layers: dict[Any, np.ndarray]  # by object, where the writer asks for them

    @property
    def size(self) -> tuple[int, int]:
        return self.own.shape[:2]


def straight(cut: Cut, bleed: int = 0) -> np.ndarray:
    """Colours (H, W, 3) uint8 that are not multiplied: black beyond `bleed` pixels around the object."""
    shown = cut.matte > 0
    return np.where((grow(shown, bleed) if bleed else shown)[..., None], cut.own, np.uint8(0))


def premultiplied(cut: Cut) -> np.ndarray:
    """Colours times alpha, (H, W, 3) uint8, as the values stand."""
    return np.rint(cut.own * cut.matte[..., None]).astype(np.uint8)


def blank(index: int, time: float | None, size: tuple[int, int]) -> Cut:
    """A frame without any object."""
    return Cut(index, time, np.zeros((*size, 3), np.uint8), np.zeros(size, np.float32), {})

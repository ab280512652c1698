"""Deep grey pictures in 8 bits: microscopes, scanners, X-rays and depth cameras give 12, 16 or 32 bits, or floats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

Levels = Literal["full", "auto"] | tuple[float, float]

STRIP = 1 << 20  # pixels that are converted at once
RANGE = 1 << 16  # values of 16 bits
FEW = 1 / 8  # of the range: a picture whose brightest value is below it looks black


def parse_levels(text: str) -> Levels:
    """``full``, ``auto``, or LOW,HIGH: the values that become black and white.

    Raises:
        ValueError: anything else.
    """
    if text in ("full", "auto"):
        return text
    try:
        low, high = (float(part) for part in text.split(","))
        if low < high and np.isfinite([low, high]).all():
            return low, high
    except ValueError:
        pass
    raise ValueError(f"{text!r} is neither auto nor full nor LOW,HIGH")


def is_deep_mode(mode: str) -> bool:
    """Whether a picture of one of Pillow's modes has more than 8 bits."""
    return mode in ("F", "I") or mode.startswith("I;")


def span_of(pictures: Iterable[np.ndarray]) -> tuple[float, float]:
    """The lowest and the highest value of several grey pictures: "auto" for all of them alike."""
    found = [_extremes(picture) for picture in pictures]
    low, high = min(low for low, _ in found), max(high for _, high in found)
    return low, high if high > low else low + max(1.0, abs(low))  # 1 alone is lost in floats from 2**53 on


def to_8_bit(values: np.ndarray, levels: Levels = "full") -> tuple[np.ndarray, str | None]:
    """Scale a grey picture (H, W) of any depth to uint8.

    Args:
        values: whole numbers or floats; NaN and infinity count as 0.
        levels: "full" takes 16 bits by their whole range (0..65535) and floats by 0..1, and stretches what
            exceeds that between its extremes; "auto" always stretches between the extremes; (low, high) is
            the range itself, and what lies outside becomes black or white.

    Returns:
        (H, W) uint8, and a sentence if the picture is dark because it uses little of the full range.
    """
    is_float = np.issubdtype(values.dtype, np.floating)
    low, high = _extremes(values)
    full = 1.0 if is_float else RANGE - 1.0
    note = None
    if isinstance(levels, tuple):
        start, span = levels[0], levels[1] - levels[0]
    elif levels == "auto" or low < 0 or high > full:
        start, span = low, max(high - low, 1e-30)
    else:
        start, span = 0.0, full
        if 0 < high < FEW * full:
            note = f"its brightest value is {high:,.6g} of {full:,.0f}, so it is dark: --levels auto stretches it"
    if not is_float and low >= 0 and high < RANGE:
        return _scaled(np.arange(RANGE), start, span)[values], note
    scaled = np.empty(values.shape, np.uint8)
    for strip in _strips(values.shape):
        scaled[strip] = _scaled(_finite(values[strip]), start, span)
    return scaled, note


def _scaled(values: np.ndarray, start: float, span: float) -> np.ndarray:
    if start:
        values = values - np.float64(start)
    return np.clip(np.rint(values * (255.0 / span)), 0, 255).astype(np.uint8)


def _finite(values: np.ndarray) -> np.ndarray:
    """Floats without NaN and infinity, or 64-bit whole numbers."""
    if np.issubdtype(values.dtype, np.floating):
        return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return values.astype(np.int64)


def _extremes(values: np.ndarray) -> tuple[float, float]:
    if not np.issubdtype(values.dtype, np.floating):
        return float(values.min()), float(values.max())
    found = [(part.min(), part.max()) for part in (_finite(values[strip]) for strip in _strips(values.shape))]
    return float(min(low for low, _ in found)), float(max(high for _, high in found))


def _strips(shape: tuple[int, ...]) -> list[slice]:
    rows = max(1, STRIP // max(shape[1], 1))
    return [slice(i, i + rows) for i in range(0, shape[0], rows)]

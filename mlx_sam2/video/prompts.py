"""Prompts on one object: points, a box and a mask as users give them, checked and in pixels of the model's input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..model.prompt_encoder import BOTTOM_RIGHT, NEGATIVE, PADDING, POSITIVE, TOP_LEFT
from ..model.resize import fit_mask


class Prompts(NamedTuple):
    """The prompts of one object on one frame: points (a box is two of them) or a mask."""

    points: np.ndarray | None = None  # (N, 2) float32, (x, y) in pixels of the model's input
    labels: np.ndarray | None = None  # (N,) int32
    mask: np.ndarray | None = None  # (S, S) bool

    def extended(self, more: Prompts) -> Prompts:
        """Add the points of ``more`` behind those there are; a mask gives way to points."""
        if self.points is None or self.labels is None:
            return more
        return Prompts(np.concatenate([self.points, more.points]), np.concatenate([self.labels, more.labels]))


def point_prompts(
    points: Sequence[Any] | np.ndarray | None,
    labels: Sequence[int] | np.ndarray | None,
    box: Sequence[float] | np.ndarray | None,
    clear_old_points: bool,
    video_size: tuple[int, int] | None,
    image_size: int,
) -> Prompts:
    """Check points and a box as the user gave them. The box comes first, as its two corners.

    Args:
        points, labels, box: as for ``SAM2VideoPredictor.add_new_points_or_box``.
        video_size: (height, width) by which coordinates are divided; None for coordinates in 0..1.
        image_size: side of the model's input.

    Raises:
        ValueError: one line, for anything that does not fit.
    """
    if (points is None) != (labels is None):
        raise ValueError("points and labels must be provided together")
    if points is None and box is None:
        raise ValueError("at least one of points or box must be provided as input")
    coords = np.zeros((0, 2), np.float32) if points is None else _numbers("points", points)
    marks = np.zeros(0, np.float32) if labels is None else _numbers("labels", labels)
    if coords.ndim == 3 and len(coords) == 1 and marks.ndim == 2:  # the official code takes a batch of one
        coords, marks = coords[0], marks[0]
    if coords.ndim != 2 or coords.shape[1] != 2 or marks.shape != coords.shape[:1]:
        raise ValueError(f"points {coords.shape} and labels {marks.shape} do not fit; they must be (N, 2) and (N,)")
    if box is not None:
        if not clear_old_points:
            raise ValueError("a box comes before any points: it cannot be added to them, use clear_old_points=True")
        corners = _numbers("box", box)
        if corners.size != 4:
            raise ValueError(f"box has shape {corners.shape}; it must be (4,) as x0, y0, x1, y1")
        coords = np.concatenate([corners.reshape(2, 2), coords])
        marks = np.concatenate([np.array([TOP_LEFT, BOTTOM_RIGHT], np.float32), marks])
    unknown = marks[~np.isin(marks, (PADDING, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT))]
    if unknown.size:
        raise ValueError(f"labels hold {unknown[0]:g}; a label is 1 (on the object) or 0 (off it)")
    if not np.isfinite(coords).all():
        raise ValueError("points or box hold a value that is not a finite number")
    relative = coords if video_size is None else coords / np.array(video_size[::-1], np.float32)
    return Prompts(relative * np.float32(image_size), marks.astype(np.int32))


def mask_prompts(mask: np.ndarray | Sequence[Any], image_size: int) -> Prompts:
    """Check the mask of an object, (H, W), non-zero where it is, and resize it to the model's input.

    Raises:
        ValueError: the mask has another number of axes, or is empty.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"mask has shape {array.shape}; it must be (height, width)")
    return Prompts(mask=fit_mask(array.astype(bool), image_size))


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}={values!r:.80} cannot be read: numbers are needed, of equal count in every row"
        ) from None

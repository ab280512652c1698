"""Clicks of the evaluation: in the middle of the largest error (official ``sample_one_point_from_error_center``)."""

from __future__ import annotations

import numpy as np


def centre_click(target: np.ndarray, answer: np.ndarray) -> tuple[tuple[float, float], int]:
    """The pixel deepest inside what is missed or what is too much, whichever is deeper, and its label.

    Args:
        target, answer: (H, W) bool.

    Returns:
        (x, y) and 1 for a missed pixel, else 0.
    """
    missed, too_much = deepest(target & ~answer), deepest(answer & ~target)
    positive = missed[0] > too_much[0]
    return (missed if positive else too_much)[1], int(positive)


def deepest(region: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The squared distance to the outside, and the place (x, y), of the pixel of a region that lies deepest.

    The outside begins at the picture's edge. An empty region gives 0 and the first pixel.
    """
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    if not len(rows):
        return 0.0, (0.0, 0.0)
    top, left = rows[0], columns[0]
    part = np.pad(region[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    down = _to_edge(part)  # along columns
    squared = down.astype(np.float64) ** 2
    least = squared.copy()
    for step in range(1, part.shape[1]):  # beyond the deepest so far nothing can come nearer
        if step * step >= least.max():
            break
        least[:, step:] = np.minimum(least[:, step:], squared[:, :-step] + step * step)
        least[:, :-step] = np.minimum(least[:, :-step], squared[:, step:] + step * step)
    y, x = np.unravel_index(int(least.argmax()), least.shape)
    return float(least[y, x]), (float(x + left - 1), float(y + top - 1))


def _to_edge(region: np.ndarray) -> np.ndarray:
    """The distance of every pixel to the next one outside above or below it. The first and last rows are outside."""
    down = np.zeros(region.shape, np.int64)
    for i in range(1, len(region)):
        down[i] = (down[i - 1] + 1) * region[i]
    for i in range(len(region) - 2, -1, -1):
        down[i] = np.minimum(down[i], (down[i + 1] + 1) * region[i])
    return down

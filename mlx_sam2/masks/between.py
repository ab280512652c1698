"""Masks between two masks of one object: signed distances, blended while the centre moves from one to the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CELLS = 192  # the longer side of the grid on which distances are computed; a larger object is seen more coarsely
MARGIN = 0.25  # of the object's size, around it


class SignedDistance(NamedTuple):
    """Distances of the cells of a grid to an object's boundary, positive inside."""

    values: np.ndarray  # (h, w) float32, in pixels
    origin: tuple[float, float]  # x, y of the centre of the first cell
    cell: int  # side of a cell, in pixels
    centre: tuple[float, float]  # x, y of the object's centre
    box: tuple[int, int, int, int]  # x0, y0, x1, y1 of the object, the end pixels included

    @classmethod
    def of(cls, mask: np.ndarray) -> SignedDistance | None:
        """Of a mask (H, W) bool; None if it is empty."""
        if not mask.any():
            return None
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x0, y0, x1, y1 = int(xs[0]), int(ys[0]), int(xs[-1]), int(ys[-1])
        inside = mask[y0 : y1 + 1, x0 : x1 + 1]
        longest = max(inside.shape)
        cell = -(-longest // CELLS)
        margin = cell * (2 + int(longest * MARGIN) // cell)
        short_y, short_x = (-side % cell for side in inside.shape)
        padded = np.pad(inside, ((margin, margin + short_y), (margin, margin + short_x)))
        h, w = padded.shape[0] // cell, padded.shape[1] // cell
        share = padded.reshape(h, cell, w, cell).mean(axis=(1, 3), dtype=np.float32)
        grid = share > 0.5 if share.max() > 0.5 else share == share.max()  # never empty
        values = cell * np.where(grid, _to_nearest(~grid) - 0.5, 0.5 - _to_nearest(grid)).astype(np.float32)
        rows, columns = np.nonzero(inside)
        half = (cell - 1) / 2
        origin = x0 - margin + half, y0 - margin + half
        return cls(values, origin, cell, (x0 + float(columns.mean()), y0 + float(rows.mean())), (x0, y0, x1, y1))

    def at(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Distances (len(y), len(x)) at pixels, between the cells; beyond the grid they go on falling."""
        columns, rows = (x - self.origin[0]) / self.cell, (y - self.origin[1]) / self.cell
        h, w = self.values.shape
        inner_x, inner_y = columns.clip(0, w - 1), rows.clip(0, h - 1)
        left, top = np.minimum(inner_x.astype(int), w - 2), np.minimum(inner_y.astype(int), h - 2)
        right_share, low_share = (inner_x - left)[None], (inner_y - top)[:, None]
        by_row = self.values[top] * (1 - low_share) + self.values[top + 1] * low_share
        found = by_row[:, left] * (1 - right_share) + by_row[:, left + 1] * right_share
        beyond = np.abs(columns - inner_x)[None] + np.abs(rows - inner_y)[:, None]
        return found - self.cell * beyond


def _to_nearest(marked: np.ndarray) -> np.ndarray:
    """Of each cell of a grid (h, w) bool the exact distance to the nearest marked cell, in cells; some are marked."""
    h, w = marked.shape
    far = np.float32(2 * (h + w))
    down = np.where(marked, np.float32(0), far)
    for row in range(1, h):
        np.minimum(down[row], down[row - 1] + 1, out=down[row])
    for row in range(h - 2, -1, -1):
        np.minimum(down[row], down[row + 1] + 1, out=down[row])
    across = np.square(np.arange(w, dtype=np.float32)[:, None] - np.arange(w, dtype=np.float32))
    nearest = np.empty((h, w), np.float32)
    for row in range(h):  # (w, w) at once: the columns that a cell may take its distance from
        nearest[row] = (np.square(down[row]) + across).min(axis=1)
    return np.sqrt(nearest)


def mask_between(a: SignedDistance | None, b: SignedDistance | None, share: float, size: tuple[int, int]) -> np.ndarray:
    """The mask of an object between two frames.

    Where it is absent on one of them, it is there until, or from, the middle.

    Args:
        a, b: the object on the two frames; None where it is absent.
        share: how far the frame lies from the first to the second one, 0..1; 0 gives the mask of `a` where its
            distances are not coarser than pixels.
        size: (H, W) of the frames.

    Returns:
        (H, W) bool.
    """
    mask = np.zeros(size, bool)
    if a is None or b is None:
        a = b = a if share < 0.5 else b
        if a is None:
            return mask
    shift_a = [share * (to - come) for come, to in zip(a.centre, b.centre, strict=True)]
    shift_b = [(share - 1) * (to - come) for come, to in zip(a.centre, b.centre, strict=True)]
    reach = [(d.box, shift) for d, shift in ((a, shift_a), (b, shift_b))]
    x0, y0 = (int(min(box[i] + shift[i] for box, shift in reach)) - 1 for i in range(2))
    x1, y1 = (int(max(box[i + 2] + shift[i] for box, shift in reach)) + 2 for i in range(2))
    x, y = np.arange(max(x0, 0), min(x1 + 1, size[1])), np.arange(max(y0, 0), min(y1 + 1, size[0]))
    if len(x) and len(y):
        first, second = (d.at(x - shift[0], y - shift[1]) for d, shift in ((a, shift_a), (b, shift_b)))
        mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1] = (1 - share) * first + share * second > 0
    return mask

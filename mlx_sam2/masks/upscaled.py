"""The area, box and run-length encoding of an upscaled mask, without upscaling it.

Bilinear upscaling of (h, w) logits to (H, W) is linear along a column of the result between two rows of the logits.
So the rows of the result fall into at most h + 1 *cells* on which a column crosses a threshold once or not at all: the
first row of a cell, the last one and, where they differ, the place of the crossing say everything. (h, W) numbers
stand for (H, W), and no array of a photo's size is ever made. Results are those of ``F.interpolate`` and a
comparison, pixel for pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..model.resize import source_positions

SLACK = 1e-6  # rounding of an upscaled logit, relative to the largest


class Samples(NamedTuple):
    """Pixels along one axis of the result; each lies between two of the logits."""

    low: np.ndarray  # (n,) the logit before it
    high: np.ndarray  # (n,) and the one after it; the same at the end
    weight: np.ndarray  # (n,) float32, of the one after it
    gap: np.ndarray  # (n,) between which two logits, 0 before the first

    def take(self, index: Any) -> Samples:
        return Samples(*(values[index] for values in self))


class Cells(NamedTuple):
    """Rows of the result between two rows of the logits."""

    begin: np.ndarray  # (C,) the first row
    end: np.ndarray  # (C,) the last one, included


@lru_cache(maxsize=16)
def _samples(in_size: int, out_size: int) -> Samples:
    place = source_positions(in_size, out_size)
    low = np.clip(place.astype(np.int64), 0, in_size - 1)
    weight = np.maximum(place, 0) - low.astype(np.float32)
    return Samples(low, np.minimum(low + 1, in_size - 1), weight, np.where(place <= 0, 0, low + 1))


@lru_cache(maxsize=16)
def _cells(in_size: int, out_size: int) -> Cells:
    begin = np.flatnonzero(np.diff(_samples(in_size, out_size).gap, prepend=-1))
    return Cells(begin, np.append(begin[1:], out_size) - 1)


def _near(above: np.ndarray, samples: Samples) -> slice:
    """The samples that touch any of the (n,) logits marked, and those between them."""
    marked = np.flatnonzero(above)
    if len(marked) == 0:
        return slice(0, 0)
    return slice(np.searchsorted(samples.high, marked[0]), np.searchsorted(samples.low, marked[-1], side="right"))


class _Crossings(NamedTuple):
    """Where the columns of a mask are above a level."""

    on_first: np.ndarray  # (C, X) bool: on the first row of each cell
    on_last: np.ndarray  # (C, X) bool: and on the last
    at: np.ndarray  # (n,) flat indices of those (cell, column) where the two differ
    cell: np.ndarray  # (n,) their cells
    falls: np.ndarray  # (n,) bool: above the level first
    row: np.ndarray  # (n,) the first row that is not on the same side as the cell's first one


def _blend(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Linear interpolation in float32, in the order of torch's arithmetic."""
    return a * (1 - weight) + b * weight


class UpscaledMask:
    """One mask at the image's size.

    Args:
        logits: (h, w) float32 low-resolution logits.
        size: (H, W) of the result.
        floor: the lowest level that will be asked about.
    """

    def __init__(self, logits: np.ndarray, size: tuple[int, int], floor: float) -> None:
        above = logits > np.float32(floor)
        rows, columns = _samples(logits.shape[0], size[0]), _samples(logits.shape[1], size[1])
        x, y = _near(above.any(0), columns), _near(above.any(1), rows)  # all is below the floor outside
        cells = _cells(logits.shape[0], size[0])
        touched = slice(np.searchsorted(cells.end, y.start), np.searchsorted(cells.begin, y.stop))
        self.left = x.start
        self.begin, self.end = cells.begin[touched], cells.end[touched]
        self.weights = rows.weight
        columns, at = columns.take(x), rows.take(self.begin)
        used = slice(at.low.min(initial=logits.shape[0]), at.high.max(initial=-1) + 1)
        logits = logits[used]
        across = _blend(logits[:, columns.low], logits[:, columns.high], columns.weight)  # (h, X)
        self.above, self.below = across[at.low - used.start], across[at.high - used.start]  # (C, X)
        self.first = _blend(self.above, self.below, rows.weight[self.begin, None])
        self.last = _blend(self.above, self.below, rows.weight[self.end, None])

    def _crossings(self, level: np.float32) -> _Crossings:
        on_first, on_last = self.first > level, self.last > level
        at = np.flatnonzero(on_first != on_last)
        cell = at // max(on_first.shape[1], 1)
        first, last = self.first.ravel()[at], self.last.ravel()[at]
        falls, rows = first > level, (self.end - self.begin)[cell]
        # Rounding moves the place by less than half a row: the row next to it is on the first one's side or not.
        nearest = np.clip(np.rint((first - level) / (first - last) * rows), 0, rows).astype(np.int64)
        row = self.begin[cell] + nearest
        value = _blend(self.above.ravel()[at], self.below.ravel()[at], self.weights[row])
        return _Crossings(on_first, on_last, at, cell, falls, row + ((value > level) == falls))

    def area(self, level: float) -> int:
        """Pixels above a level."""
        found = self._crossings(np.float32(level))
        whole = (found.on_first & found.on_last).sum(1) @ (self.end - self.begin + 1)
        parts = np.where(found.falls, found.row - self.begin[found.cell], self.end[found.cell] + 1 - found.row)
        return int(whole + parts.sum())

    def box(self, level: float) -> list[int]:
        """[x0, y0, x1, y1], the first and last pixels above a level, both included; zeros when there is none.

        Official ``amg.py``, ``batched_mask_to_box``.
        """
        found = self._crossings(np.float32(level))
        columns = np.flatnonzero((found.on_first | found.on_last).any(0))
        if len(columns) == 0:
            return [0, 0, 0, 0]
        top = np.concatenate([self.begin[found.on_first.any(1)], found.row[~found.falls]]).min()
        bottom = np.concatenate([self.end[found.on_last.any(1)], found.row[found.falls] - 1]).max()
        return [int(columns[0]) + self.left, int(top), int(columns[-1]) + self.left, int(bottom)]

    def rle(self, level: float, canvas: tuple[int, int], corner: tuple[int, int] = (0, 0)) -> dict[str, Any]:
        """COCO's run-length encoding of the mask, put on a canvas.

        Official ``amg.py``, ``uncrop_masks`` and ``mask_to_rle_pytorch``.

        Args:
            level: logits above it are mask.
            canvas: height and width of the whole image.
            corner: (x, y) of this mask's upper left pixel in it.

        Returns:
            {"size": [height, width], "counts": [...]}, not compressed.
        """
        found = self._crossings(np.float32(level))
        on_first, on_last = found.on_first, found.on_last
        cells, width = on_first.shape
        # A column may change on the first row of each cell, once inside it, and below the last one.
        changes = np.zeros((width, 2 * cells + 1), bool)
        changes[:, 0:-1:2] = on_first.T
        changes[:, 2::2] ^= on_last.T
        changes[:, 1::2] = (on_first ^ on_last).T
        column, place = np.nonzero(changes)
        rows = np.append(self.begin, self.end[-1:] + 1)[place // 2]
        inside = place % 2 == 1
        crossing = np.zeros(on_first.size, np.int32)
        crossing[found.at] = found.row
        rows[inside] = crossing[place[inside] // 2 * width + column[inside]]
        edges = (column + self.left + corner[0]) * canvas[0] + rows + corner[1]
        again = np.diff(edges, prepend=-1) == 0  # the end of a column and the top of the next on a canvas as high
        edges = edges[~(again | np.append(again[1:], False))] if len(edges) else edges
        counts = np.diff(edges, prepend=0, append=canvas[0] * canvas[1])
        counts = counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts
        return {"size": list(canvas), "counts": counts.tolist()}


def surely_unstable(
    logits: mx.array, size: tuple[int, int], threshold: float, offset: float, least: float
) -> np.ndarray:
    """Masks whose stability score, upscaled, is below `least` for sure, from low-resolution logits alone.

    A pixel lies between four logits: it is above a level only if one of them is, and must be if all are. So counts
    of pixels, weighted by how many lie between each four, bound the areas whose ratio the score is.

    Args:
        logits: (N, h, w) float32.
        size: (H, W) of the upscaled masks.
        threshold, offset: the score is the area above ``threshold + offset`` divided by that above
            ``threshold - offset``.

    Returns:
        (N,) bool; False says nothing.
    """
    _, height, width = logits.shape
    high, low = np.float32(threshold + offset), np.float32(threshold - offset)
    gaps = (_samples(n, out).gap for n, out in zip((height, width), size, strict=True))
    rows, columns = (np.bincount(gap, minlength=n + 1) for gap, n in zip(gaps, (height, width), strict=True))
    pixels = mx.array(np.outer(rows, columns).astype(np.int32))  # (h + 1, w + 1)
    padded = mx.pad(logits, [(0, 0), (1, 1), (1, 1)], mode="edge")
    slack = SLACK * mx.abs(logits).max()
    largest, smallest = _of_four(padded, mx.maximum), _of_four(padded, mx.minimum)
    inner_at_most = mx.where(largest > float(high) - slack, pixels, 0).sum((1, 2))
    outer_at_least = mx.where(smallest > float(low) + slack, pixels, 0).sum((1, 2))
    mx.eval(inner_at_most, outer_at_least)
    inner, outer = np.array(inner_at_most), np.array(outer_at_least)
    return (inner == 0) | (inner < least * (1 - SLACK) * outer)


def _of_four(x: mx.array, choose: Any) -> mx.array:
    """(N, h, w) -> (N, h - 1, w - 1): the largest or smallest of each four neighbours."""
    pairs = choose(x[:, 1:], x[:, :-1])
    return choose(pairs[:, :, 1:], pairs[:, :, :-1])


# ---- keeping

_NEIGHBOURS = [  # below, right, below right, below left
    (np.s_[1:], np.s_[:-1]),
    (np.s_[:, 1:], np.s_[:, :-1]),
    (np.s_[1:, 1:], np.s_[:-1, :-1]),
    (np.s_[1:, :-1], np.s_[:-1, 1:]),
]


@dataclass(frozen=True)
class PackedLogits:
    """Low-resolution logits, packed: all that the upscaled mask depends on, and no more.

    A pixel between four logits on one side of the threshold lies on that side too. So a logit whose neighbours are
    all on its side is kept as a bit, the side; the others are kept as they are.
    """

    shape: tuple[int, int]
    threshold: np.float32
    above: np.ndarray  # bits
    is_edge: np.ndarray  # bits
    edge: np.ndarray  # float32

    @classmethod
    def pack(cls, logits: np.ndarray, threshold: float) -> PackedLogits:
        """Pack (h, w) float32."""
        level = np.float32(threshold)
        above, is_edge = logits > level, np.zeros(logits.shape, bool)
        for here, there in _NEIGHBOURS:
            differ = above[here] != above[there]
            is_edge[here] |= differ
            is_edge[there] |= differ
        return cls(logits.shape, level, np.packbits(above), np.packbits(is_edge), logits[is_edge])

    def unpack(self) -> np.ndarray:
        """(h, w) float32 with the same mask."""
        size = self.shape[0] * self.shape[1]
        above, is_edge = (np.unpackbits(bits, count=size) > 0 for bits in (self.above, self.is_edge))
        logits = np.where(above, self.threshold + 1, self.threshold - 1).astype(np.float32)
        logits[is_edge] = self.edge
        return logits.reshape(self.shape)

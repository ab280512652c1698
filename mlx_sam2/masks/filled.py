"""Polygons as masks: the pixels that COCO's own rule puts inside, without an array of the picture's size.

The rule is that of ``pycocotools.mask.frPyObjects`` (``rleFrPoly`` of its ``maskApi.c``): corners are rounded to a
fifth of a pixel, sides are drawn in that grid, and a column of pixels changes side where a drawn side crosses its
middle. Here only those crossings are computed, so the work grows with them and not with the coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .rle import Rle, counts_to_rle, rle_runs, rle_size

SCALE = 5  # steps of a pixel
MAX_CROSSINGS = 1 << 26  # of sides with columns, in all
_FAR = 2.0**30  # beyond it, coordinates are taken as this


def polygons_to_rle(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> Rle:
    """Encode the union of polygons, each [x0, y0, x1, y1, ...] in pixels; a pixel covers x in column..column+1.

    What lies outside the picture is cut off. Polygons of fewer than three corners are empty.

    Args:
        size: (H, W).

    Raises:
        ValueError: a polygon that is no even number of finite numbers; sides that cross columns 67 million times; a
            size that is none, or more than 179 million pixels.
    """
    height, width = rle_size({"size": size})
    begins, ends = [], []
    for polygon in polygons:
        places = _crossings(_corners(polygon), height, width)
        rle = counts_to_rle(np.diff(places, prepend=0, append=height * width), size, compressed=False)
        begin, end = rle_runs(rle)
        begins.append(begin)
        ends.append(end)
    places = begins[0] if len(begins) == 1 else None
    if places is not None:
        places = np.stack([begins[0], ends[0]], 1).ravel()
    else:
        places = _union(np.concatenate([[], *begins]).astype(np.int64), np.concatenate([[], *ends]).astype(np.int64))
    places = places[places < height * width]
    return counts_to_rle(np.diff(places, prepend=0, append=height * width), size)


def _union(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Places where the union of runs begins and ends, in turn."""
    place = np.concatenate([begin, end])
    step = np.repeat([1, -1], [len(begin), len(end)])
    order = np.lexsort((-step, place))  # begins go first: runs that touch are one
    depth = step[order].cumsum()
    before = np.append(0, depth[:-1])
    return place[order][(depth > 0) != (before > 0)]


def _corners(polygon: Sequence[float]) -> np.ndarray:
    """(n, 2) int64 corners in fifths of a pixel."""
    points = np.asarray(polygon, np.float64)
    if points.ndim != 1 or len(points) % 2 or not np.isfinite(points).all():
        raise ValueError("a polygon must be a list of finite numbers, x and y in turn")
    points = points.reshape(-1, 2)
    if len(points) < 3:
        return np.zeros((0, 2), np.int64)
    return np.clip(np.trunc(SCALE * points + 0.5), -_FAR, _FAR).astype(np.int64)


def _crossings(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    """Places, read column by column, where a polygon's mask changes: sorted, each once."""
    if len(corners) == 0 or height * width == 0:
        return np.zeros(0, np.int64)
    a, b = corners, np.roll(corners, -1, axis=0)
    a, b = a[a[:, 0] != b[:, 0]], b[a[:, 0] != b[:, 0]]  # upright sides cross no column's middle
    low, high = np.minimum(a[:, 0], b[:, 0]), np.maximum(a[:, 0], b[:, 0])
    # Column c is crossed between 5c + 2 and 5c + 3.
    first = np.clip(-((2 - low) // SCALE), 0, width)
    last = np.clip((high - 3) // SCALE, -1, width - 1)
    count = np.maximum(last - first + 1, 0)
    if count.sum() > MAX_CROSSINGS:
        raise ValueError(f"a polygon whose sides cross columns {count.sum():,} times: at most {MAX_CROSSINGS:,}")
    side = np.repeat(np.arange(len(a)), count)
    column = np.arange(len(side)) - np.repeat(count.cumsum() - count, count) + first[side]
    y = np.where(_is_flat(a, b)[side], _flat_y(a, b, side, column), _steep_y(a, b, side, column))
    row = np.ceil(np.clip((y + 0.5) / SCALE - 0.5, 0, height)).astype(np.int64)
    places, times = np.unique(column * height + row, return_counts=True)
    return places[(times % 2 == 1) & (places < height * width)]


def _is_flat(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    distance = abs(b - a)
    return distance[:, 0] >= distance[:, 1]


def _flat_y(a: np.ndarray, b: np.ndarray, side: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The upper of a flat side's two points beside the middle of a column, in fifths."""
    swap = (a[:, 0] > b[:, 0])[:, None]
    start, end = np.where(swap, b, a), np.where(swap, a, b)
    slope = (end[:, 1] - start[:, 1]) / np.maximum(end[:, 0] - start[:, 0], 1)
    t = SCALE * column + 2 - start[side, 0]
    y = [np.trunc(start[side, 1] + slope[side] * step + 0.5) for step in (t, t + 1)]
    return np.minimum(*y)


def _steep_y(a: np.ndarray, b: np.ndarray, side: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The upper of a steep side's two points between which it crosses the middle of a column, in fifths."""
    swap = (a[:, 1] > b[:, 1])[:, None]
    start, end = np.where(swap, b, a), np.where(swap, a, b)
    length = np.maximum(end[:, 1] - start[:, 1], 1)
    slope = ((end[:, 0] - start[:, 0]) / length)[side]
    begin, length = start[side, 0], length[side]
    wanted = SCALE * column + 3
    rises = slope > 0

    def is_beyond(t: np.ndarray) -> np.ndarray:  # whether step t has crossed
        x = np.trunc(begin + slope * t + 0.5)
        return np.where(rises, x >= wanted, x < wanted)

    # The first step beyond, from an estimate that rounding moves by one at most.
    t = np.clip(np.ceil((wanted - 0.5 - begin) / slope), 0, length).astype(np.int64)
    for _ in range(2):
        t -= (t > 0) & is_beyond(t - 1)
    for _ in range(3):
        t += (t < length) & ~is_beyond(t)
    return start[side, 1] + t - 1

"""Outlines of masks: polygons that are exact, or smooth within a tolerance. Pure numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .boxes import as_mask, mask_to_box


def mask_to_polygons(mask: np.ndarray, tolerance: float = 0.0) -> list[list[float]]:
    """One polygon [x0, y0, x1, y1, ...] for each 8-connected component, in COCO's form, exact or smooth.

    The corners are corners of pixels: pixel (row, column) covers x in column..column+1 and y in row..row+1,
    so a filled polygon is the component, pixel for pixel. COCO's polygons cannot have holes, so each hole is
    joined to the outline above it by a vertical cut of no width, walked down and up again: filled by the
    even-odd or the non-zero rule, and by ``pycocotools.mask.frPyObjects``, the hole stays open.

    Args:
        mask: (H, W).
        tolerance: in pixels. 0: exact, whole numbers. 0.5 or more: stairs are cut and corners dropped that
            matter less (Douglas and Peucker, 1973), so that no point of the exact outline is farther than this
            from the polygon, nor the other way round: pixels whose centres lie deeper keep their side, by the
            non-zero rule.

    Raises:
        ValueError: a tolerance between 0 and 0.5, negative, or not finite; a mask of another shape.
    """
    mask = as_mask(mask)
    if not (tolerance == 0 or 0.5 <= tolerance < np.inf):
        raise ValueError(f"tolerance must be 0 (exact) or at least 0.5 pixels, got {tolerance}")
    if not mask.any():
        return []
    x0, y0, x1, y1 = mask_to_box(mask)
    inside = np.asarray(mask[y0 : y1 + 1, x0 : x1 + 1], bool)
    x, y, succ, is_inside = _corners(inside)
    outlines, holes = [], []
    for ring in _rings(range(len(x)), succ):
        (outlines if is_inside[ring[0]] else holes).append(ring[0])
    uncut = len(x)
    _cut_to_holes(inside, holes, x, y, succ, is_inside)
    of_cuts = {*holes, *range(uncut, len(x))}
    polygons = []
    for ring in _rings(outlines, succ):
        points = [(x[i] + x0, y[i] + y0) for i in ring]
        if tolerance:
            polygons.append(_smooth(np.array(points), np.array([i in of_cuts for i in ring]), tolerance))
            continue
        kept = [p for p, before in zip(points, [points[-1], *points[:-1]], strict=True) if p != before]
        polygons.append([c for p in kept for c in p])
    return polygons


def _rings(begin: Any, succ: list[int]) -> list[list[int]]:
    """The cycles of `succ` that hold the nodes `begin`, each from its first node in that order."""
    seen, rings = bytearray(len(succ)), []
    for node in begin:
        ring = []
        while not seen[node]:
            seen[node] = 1
            ring.append(node)
            node = succ[node]
        if ring:
            rings.append(ring)
    return rings


def _corners(inside: np.ndarray) -> tuple[list[int], list[int], list[int], list[bool]]:
    """The corners of all outlines in raster order: x, y, next corner, if the pixel below right is inside.

    Outlines are walked with the inside on the right hand: top sides eastwards, right sides south. The
    corners on a grid line pair up into sides. Where two pixels touch by a corner only, the corner is doubled,
    once for the side on its left, once for that on its right, and linked so that both pixels stay joined.
    """
    p = np.pad(inside, 1)
    a, b, c, d = p[:-1, :-1], p[:-1, 1:], p[1:, :-1], p[1:, 1:]
    double = (a == d) & (b == c) & (a != b)
    y, x = np.nonzero((a ^ b ^ c ^ d) | double)
    copies = 1 + double[y, x]
    second = np.arange(copies.sum()) - np.repeat(copies.cumsum() - copies, copies) == 1
    y, x = np.repeat(y, copies), np.repeat(x, copies)
    b, c, d, double = b[y, x], c[y, x], d[y, x], double[y, x]
    # Which of the sides at this corner are meant: the one to the right (or left), the one below (or above).
    right = np.where(double, second, b != d)
    down = np.where(double, second != d, c != d)
    succ = np.empty(len(x), np.int64)
    row = np.lexsort((right, x, y))  # left end, right end, left end, ...
    left, right_end = row[0::2], row[1::2]
    east = d[left]
    succ[left[east]], succ[right_end[~east]] = right_end[east], left[~east]
    column = np.lexsort((down, y, x))
    top, bottom = column[0::2], column[1::2]
    south = c[top]
    succ[top[south]], succ[bottom[~south]] = bottom[south], top[~south]
    return x.tolist(), y.tolist(), succ.tolist(), d.tolist()


def _cut_to_holes(
    inside: np.ndarray, holes: list[int], x: list[int], y: list[int], succ: list[int], is_inside: list[bool]
) -> None:
    """Join each hole, given by its top left corner, to the side above it, in place.

    That side belongs to an outline or to another hole that begins higher up, so the cuts form trees.
    """
    if not holes:
        return
    width = inside.shape[1] + 1
    east = np.array([i for i, j in enumerate(succ) if is_inside[i] and y[i] == y[j] and x[i] < x[j]])
    begins = np.array(y)[east] * width + np.array(x)[east]
    before = np.empty(len(succ), np.int64)
    before[succ] = np.arange(len(succ))
    cuts = []
    for hole in holes:
        clear = np.flatnonzero(~inside[: y[hole], x[hole]])
        cuts.append((int(clear[-1]) + 1 if len(clear) else 0, x[hole], hole))
    tail = {}  # of each side, the last corner put into it: several cuts may leave one side, westmost first
    for top, column, hole in sorted(cuts):
        side = int(east[np.searchsorted(begins, top * width + column, side="right") - 1])
        last = tail.get(side, side)
        end = succ[last]
        arrive, back, leave = len(succ), len(succ) + 1, len(succ) + 2
        x += [column] * 3
        y += [top, y[hole], top]
        succ += [hole, leave, end]
        succ[last], succ[before[hole]] = arrive, back
        tail[side] = leave


# ---- smooth outlines

_STAIR = 8**-0.5  # from the corner of a pixel to the line between the middles of its two sides


def _smooth(ring: np.ndarray, of_cut: np.ndarray, tolerance: float) -> list[float]:
    """A ring of corners (n, 2), of which `of_cut` (n,) begin or end a cut and stay: fewer corners.

    The outline is led through the middles of pixels' sides first, which turns stairs into lines.
    """
    after, after_cut = np.roll(ring, -1, axis=0), np.roll(of_cut, -1)
    length = np.abs(after - ring).sum(axis=1)
    step = np.sign(after - ring) / 2
    cut = of_cut & after_cut & (length > 0)
    # For each corner: itself if it stays, then the first and the last middle of its side.
    points = np.stack([ring, ring + step, after - step], axis=1)  # (n, 3, 2)
    wanted = np.stack([of_cut, (length > 0) & ~cut, (length > 1) & ~cut], axis=1)
    points, stays = points[wanted], np.repeat(of_cut, 3).reshape(-1, 3)[wanted]
    stays &= np.nonzero(wanted)[1] == 0
    kept = points[_important(points, stays, tolerance - _STAIR)]
    x, y = kept.T
    flat = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) < 1e-9  # no area: a thing as thin as the tolerance
    return (points if flat else kept).ravel().tolist()


def _important(points: np.ndarray, stays: np.ndarray, tolerance: float) -> np.ndarray:
    """Which points of a closed ring (n, 2) to keep, bool (n,): those of `stays`, and what Douglas-Peucker adds."""
    keep = stays.copy()
    if keep.sum() < 2:
        first = int(keep.argmax())
        keep[[first, ((points - points[first]) ** 2).sum(axis=1).argmax()]] = True
    ends = np.flatnonzero(keep)
    chains = list(zip(ends, [*ends[1:], ends[0] + len(points)], strict=True))
    while chains:
        i, j = chains.pop()
        if j - i < 2:
            continue
        chain = points[np.arange(i, j + 1) % len(points)]
        distance = _distance_to_segment(chain[1:-1], chain[0], chain[-1])
        if distance.max() > tolerance:
            k = i + 1 + int(distance.argmax())
            keep[k % len(points)] = True
            chains += [(i, k), (k, j)]
    return keep


def _distance_to_segment(points: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n,) distances of (n, 2) points."""
    along = b - a
    share = np.clip((points - a) @ along / max(along @ along, 1e-12), 0, 1)
    return np.hypot(*(points - a - share[:, None] * along).T)

"""Binary masks: connected components, hole filling, boxes, COCO run-length encoding, polygons. Pure numpy.

Masks are (H, W) arrays, true or non-zero inside; components are 8-connected, as in the official code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# ---- connected components, by runs of set pixels in a row


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Starts and ends of the runs in all rows of (..., H, W), in order, and the length P of a padded row.

    Positions count along the padded, flattened array: one clear column after each row and one clear row after
    each map keep runs of different rows, and rows of different maps, from touching.
    """
    height, width = mask.shape[-2:]
    flat = np.zeros((int(np.prod(mask.shape[:-2])), height + 1, width + 1), bool)
    flat[:, :height, :width] = mask.reshape(-1, height, width)
    steps = np.diff(flat.ravel().view(np.int8), prepend=np.int8(0))
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), width + 1


def _paint(shape: tuple[int, ...], starts: np.ndarray, ends: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The inverse of ``_runs``: int32 of `shape` with each run filled with its value."""
    height, width = shape[-2:]
    steps = np.zeros(int(np.prod(shape[:-2])) * (height + 1) * (width + 1), np.int32)
    steps[starts] = values
    steps[ends] -= values.astype(np.int32)
    return steps.cumsum(dtype=np.int32).reshape(*shape[:-2], height + 1, width + 1)[..., :height, :width]


def _join(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For `count` nodes joined by the edges a[i]-b[i]: the smallest node that each one is connected to.

    Every round hooks the larger root of each edge below the smaller one, then flattens the trees (Liu and
    Tarjan, "Simple concurrent labeling algorithms for connected components", 2019): O(log^2) rounds.
    """
    root = np.arange(count)
    while len(a):
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(up := root[root], root):
            root = up
        a, b = root[a], root[b]
        apart = a != b
        a, b = a[apart], b[apart]
    return root


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of (..., H, W), the component 0, 1, ... of each in raster order, and each component's area."""
    starts, ends, row = _runs(mask)
    # Runs of the row above that touch, corners included: end >= start - P, start <= end - P.
    first = np.searchsorted(ends, starts - row, side="left")
    last = np.searchsorted(starts, ends - row, side="right")
    touching = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(starts)), touching)
    offset = np.arange(len(below)) - np.repeat(touching.cumsum() - touching, touching)
    above = first[below] + offset
    _, component = np.unique(_join(len(starts), below, above), return_inverse=True)
    return starts, ends, component, np.bincount(component, weights=ends - starts).astype(np.int64)


def connected_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label the 8-connected components of each map of (..., H, W).

    Returns:
        Labels (..., H, W) int32, 0 outside and 1..n inside, numbered over all maps in raster order; and areas
        (n + 1,) int64 in pixels, with areas[0] = 0, so that ``areas[labels]`` is what the official
        ``get_connected_components`` returns as counts.
    """
    starts, ends, component, areas = _components(mask)
    return _paint(mask.shape, starts, ends, component + 1), np.concatenate([[0], areas])


def _small(mask: np.ndarray, max_area: float) -> np.ndarray:
    """The pixels of (..., H, W) in components of at most `max_area` pixels, bool."""
    starts, ends, component, areas = _components(mask)
    keep = areas[component] <= max_area
    return _paint(mask.shape, starts[keep], ends[keep], np.ones(keep.sum())) > 0


def fill_holes(logits: np.ndarray, max_area: float, value: float) -> np.ndarray:
    """Raise small holes of mask logits (official ``misc.py``, ``fill_holes_in_mask_scores``).

    Args:
        logits: (..., H, W); positive is mask.
        max_area: components of (logits <= 0) with at most this many pixels are filled; 0 or less for none.
        value: the logit that they get (0.1 in the official video predictor).
    """
    if max_area <= 0:
        return logits
    return np.where(_small(logits <= 0, max_area), np.asarray(value, logits.dtype), logits)


def clean_logits(
    logits: np.ndarray, threshold: float, max_hole_area: float, max_sprinkle_area: float, margin: float
) -> np.ndarray:
    """Fill small holes and remove small specks of mask logits, both looked for in the logits as given.

    Official ``SAM2Transforms.postprocess_masks``.

    Args:
        logits: (..., H, W).
        threshold: logits above it are mask.
        max_hole_area: components outside the mask with at most this many pixels become threshold + margin.
        max_sprinkle_area: components of the mask with at most this many pixels become threshold - margin.
            0 or less turns either off.
        margin: 10 in the official code.
    """
    cleaned = logits
    if max_hole_area > 0:
        holes = _small(logits <= threshold, max_hole_area)
        cleaned = np.where(holes, np.asarray(threshold + margin, logits.dtype), cleaned)
    if max_sprinkle_area > 0:
        specks = _small(logits > threshold, max_sprinkle_area)
        cleaned = np.where(specks, np.asarray(threshold - margin, logits.dtype), cleaned)
    return cleaned


# ---- boxes


def mask_to_box(mask: np.ndarray) -> list[int]:
    """[x0, y0, x1, y1], the first and last pixels inside, both included; zeros when empty.

    Official ``amg.py``, ``batched_mask_to_box``.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


def mask_to_bbox(mask: np.ndarray) -> list[int]:
    """COCO's [x, y, width, height], which counts both end pixels; zeros when empty."""
    if not mask.any():
        return [0, 0, 0, 0]
    x0, y0, x1, y1 = mask_to_box(mask)
    return [x0, y0, x1 - x0 + 1, y1 - y0 + 1]


# ---- COCO run-length encoding: column by column, the first count is background

_MAX_CHARACTERS = 12  # of one count: 60 bits


def mask_to_rle(mask: np.ndarray, compressed: bool = True) -> dict[str, Any]:
    """COCO's {"size": [H, W], "counts": ...} of one mask.

    `counts` is COCO's compressed string, as ``pycocotools.mask.encode`` gives it (there as bytes), or with
    ``compressed=False`` the list of run lengths.
    """
    height, width = mask.shape
    flat = np.asfortranarray(mask, dtype=bool).ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(edges, prepend=0, append=flat.size)
    if flat.size and flat[0]:
        counts = np.concatenate([[0], counts])
    return {"size": [height, width], "counts": _compress(counts) if compressed else counts.tolist()}


def rle_to_mask(rle: dict[str, Any]) -> np.ndarray:
    """(H, W) bool of a COCO run-length encoding, compressed or not.

    Raises:
        ValueError: the counts are damaged or do not add up to the size.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    counts = _decompress(counts) if isinstance(counts, (str, bytes)) else np.asarray(counts, np.int64)
    # Each count on its own first: a sum that wraps around would agree with any size.
    if (counts < 0).any() or (counts > height * width).any() or counts.sum() != height * width:
        raise ValueError(f"damaged run-length encoding: its counts do not add up to {height} x {width}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _compress(counts: np.ndarray) -> str:
    """Five bits a character, lowest first, bit 5 set on all but a count's last.

    From the fourth on, counts are differences to the one two before.
    """
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    characters, used = [], []
    going = np.ones(len(rest), bool)
    while going.any():
        bits = rest & 31
        rest >>= 5
        used.append(going)
        going = going & (rest != np.where(bits & 16, -1, 0))
        characters.append(bits + 32 * going + 48)
    return np.stack(characters, 1)[np.stack(used, 1)].astype(np.uint8).tobytes().decode("ascii")


def _decompress(text: str | bytes) -> np.ndarray:
    code = np.frombuffer(text.encode("latin-1", "replace") if isinstance(text, str) else text, np.uint8)
    code = code.astype(np.int64) - 48
    last = np.flatnonzero(code & 32 == 0)
    if len(code) and (code.min() < 0 or code.max() > 63 or len(last) == 0 or last[-1] != len(code) - 1):
        raise ValueError("damaged run-length encoding: not COCO's compressed counts")
    if len(code) == 0:
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() >= _MAX_CHARACTERS:
        raise ValueError("damaged run-length encoding: a count is too long")
    place = np.arange(len(code)) - np.repeat(first, last - first + 1)
    counts = np.add.reduceat((code & 31) << (5 * place), first)
    negative = code[last] & 16 != 0
    counts -= np.where(negative, np.int64(1) << (5 * (last - first + 1)), 0)
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return counts


# ---- polygons


def mask_to_polygons(mask: np.ndarray) -> list[list[int]]:
    """One polygon [x0, y0, x1, y1, ...] for each 8-connected component, in COCO's form, exact.

    The corners are corners of pixels: pixel (row, column) covers x in column..column+1 and y in row..row+1,
    so a filled polygon is the component, pixel for pixel. COCO's polygons cannot have holes, so each hole is
    joined to the outline above it by a vertical cut of no width, walked down and up again: filled by the
    even-odd or the non-zero rule, and by ``pycocotools.mask.frPyObjects``, the hole stays open.
    """
    if not mask.any():
        return []
    x0, y0, x1, y1 = mask_to_box(mask)
    inside = np.asarray(mask[y0 : y1 + 1, x0 : x1 + 1], bool)
    x, y, succ, is_inside = _corners(inside)
    outlines, holes = [], []
    for ring in _rings(range(len(x)), succ):
        (outlines if is_inside[ring[0]] else holes).append(ring[0])
    _cut_to_holes(inside, holes, x, y, succ, is_inside)
    polygons = []
    for ring in _rings(outlines, succ):
        points = [(x[i] + x0, y[i] + y0) for i in ring]
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

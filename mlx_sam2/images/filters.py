"""Filters for mattes, in numpy: means over boxes, blur, growing by a disc, the guided filter.

Pictures are (H, W) or (H, W, C) float32. Each filter needs a few arrays of the picture's size at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, exp, isqrt

import numpy as np

STRIP = 64  # rows that are worked on at once
SMALL_SIGMA = 2.0  # from here on three means over boxes stand for a Gaussian


def box_mean(x: np.ndarray, radius: int) -> np.ndarray:
    """The mean over the (2 radius + 1)^2 pixels around each one; at the border over those that there are."""
    if radius < 1:
        return x.astype(np.float32)
    height, width = x.shape[:2]
    out = np.empty(x.shape, np.float32)
    last = np.minimum(np.arange(width) + radius, width - 1)
    before = np.arange(width) - radius - 1
    inner = before >= 0
    count = (last - np.maximum(before, -1)).astype(np.float64).reshape(width, *[1] * (x.ndim - 2))
    for top in range(0, height, STRIP):
        sums = np.cumsum(x[top : top + STRIP], axis=1, dtype=np.float64)
        found = sums[:, last]
        found[:, inner] -= sums[:, before[inner]]
        out[top : top + STRIP] = found / count
    across, total = out, np.zeros(x.shape[1:], np.float64)
    out = np.empty_like(across)
    for row in across[:radius]:
        total += row
    for y in range(height):
        if y + radius < height:
            total += across[y + radius]
        if y > radius:
            total -= across[y - radius - 1]
        out[y] = total / (min(y + radius, height - 1) - max(y - radius, 0) + 1)
    return out


def blur(x: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur by `sigma` pixels. From 2 on, three means over boxes of the same variance (Kovesi 2010)."""
    if sigma <= 0:
        return x.astype(np.float32)
    if sigma >= SMALL_SIGMA:
        wide = (12 * sigma**2 / 3 + 1) ** 0.5
        narrow = int(wide) - 1 + int(wide) % 2  # the odd width below
        passes = round((12 * sigma**2 - 3 * narrow**2 - 12 * narrow - 9) / (-4 * narrow - 4))
        for i in range(3):
            x = box_mean(x, (narrow if i < passes else narrow + 2) // 2)
        return x
    reach = ceil(3 * sigma)
    weights = np.array([exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)], np.float32)
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = np.moveaxis(np.pad(x.astype(np.float32), pad, mode="edge"), axis, 0)
        n = x.shape[axis]
        x = np.moveaxis(sum(w * padded[k : k + n] for k, w in enumerate(weights)), 0, axis)
    return np.ascontiguousarray(x)


def grow(x: np.ndarray, radius: int) -> np.ndarray:
    """The highest value (H, W) within `radius` pixels (Euclidean); with a negative one the lowest.

    What lies outside the picture does not count. On logits it moves every level outwards, so soft edges stay soft.
    """
    if radius < 0:
        return ~grow(~x, -radius) if x.dtype == bool else -grow(-x, -radius)
    out, widened = x.copy(), x.copy()
    rows: dict[int, list[int]] = {}  # half the width of the disc -> rows of it that are as wide
    for dy in range(1, radius + 1):
        rows.setdefault(isqrt(radius**2 - dy**2), []).append(dy)
    for half in range(radius + 1):
        if half:
            np.maximum(widened[:, half:], x[:, :-half], out=widened[:, half:])
            np.maximum(widened[:, :-half], x[:, half:], out=widened[:, :-half])
        for dy in rows.get(half, ()):
            np.maximum(out[dy:], widened[:-dy], out=out[dy:])
            np.maximum(out[:-dy], widened[dy:], out=out[:-dy])
    return np.maximum(out, widened, out=out)


def guided_filter(x: np.ndarray, guide: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """Let a picture follow the edges of another one (He, Sun and Tang, "Guided Image Filtering", TPAMI 2013).

    For larger radii the local models are fitted on a smaller picture ("Fast Guided Filter", 2015).

    Args:
        x: (H, W) float32.
        guide: (H, W, 3) uint8.
        radius: of the windows in which x is a linear function of the guide's colours, in pixels.
        epsilon: how little the colours may vary in a window for it to count as flat, a variance of values in 0..1.

    Returns:
        (H, W) float32, not clipped.
    """
    step = max(1, radius // 4)
    slope, offset = _local_models(reduced(x, step), reduced(guide, step) / 255, ceil(radius / step), epsilon)
    out = np.empty(x.shape, np.float32)
    for strip, at in enlarged(np.concatenate([slope / 255, offset[..., None]], axis=2), step, x.shape):
        out[strip] = (at[..., :3] * guide[strip]).sum(axis=2) + at[..., 3]
    return out


def weighted_means(x: np.ndarray, weights: np.ndarray, radius: int, step: int) -> np.ndarray:
    """Means (h, w, C) of a picture (H, W, C) over boxes, one for each block of step x step pixels.

    Args:
        weights: (H, W) float32.
    """
    strips = [slice(top, top + STRIP * step) for top in range(0, len(x), STRIP * step)]
    sums = np.concatenate([reduced(x[strip] * weights[strip, :, None], step) for strip in strips])
    total = reduced(weights, step)
    reach = ceil(radius / step)
    return box_mean(sums, reach) / (box_mean(total, reach)[..., None] + np.float32(1e-6))


def enlarged(x: np.ndarray, step: int, size: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray]]:
    """A reduced picture (h, w, C) at its former size (H, W), linear between blocks: rows, and the picture there."""
    rows, columns = _between(size[0], step, len(x)), _between(size[1], step, x.shape[1])
    for top in range(0, size[0], STRIP):
        strip = slice(top, min(top + STRIP, size[0]))
        low, high, weight = (part[strip] for part in rows)
        tall = _blend(x[low], x[high], weight[:, None, None])
        low, high, weight = columns
        yield strip, _blend(tall[:, low], tall[:, high], weight[:, None])


def _local_models(p: np.ndarray, colours: np.ndarray, radius: int, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean slopes (H, W, 3) and offsets (H, W) of the windows around each pixel: p is about slope . colour + offset."""
    mean, mean_p = box_mean(colours, radius), box_mean(p, radius)
    with_p = box_mean(colours * p[..., None], radius) - mean * mean_p[..., None]
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    products = box_mean(np.stack([colours[..., i] * colours[..., j] for i, j in pairs], axis=2), radius)
    rr, rg, rb, gg, gb, bb = (
        products[..., n] - mean[..., i] * mean[..., j] + epsilon * (i == j) for n, (i, j) in enumerate(pairs)
    )
    # the inverse of the symmetric 3x3 matrix by its cofactors
    c00, c01, c02 = gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb
    c11, c12, c22 = rr * bb - rb * rb, rg * rb - rr * gb, rr * gg - rg * rg
    scale = 1 / (rr * c00 + rg * c01 + rb * c02)
    r, g, b = (with_p[..., i] * scale for i in range(3))
    slope = np.stack([c00 * r + c01 * g + c02 * b, c01 * r + c11 * g + c12 * b, c02 * r + c12 * g + c22 * b], axis=2)
    offset = mean_p - (slope * mean).sum(axis=2)
    return box_mean(slope, radius), box_mean(offset, radius)


def reduced(x: np.ndarray, step: int) -> np.ndarray:
    """Means over blocks of step x step pixels; the last ones are filled up with the edge."""
    if step == 1:
        return x.astype(np.float32)
    pad = [(0, -n % step) for n in x.shape[:2]] + [(0, 0)] * (x.ndim - 2)
    x = np.pad(x, pad, mode="edge")
    blocks = x.reshape(x.shape[0] // step, step, x.shape[1] // step, step, *x.shape[2:])
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _between(size: int, step: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks before and after each pixel, and the weight of the one after."""
    place = np.clip((np.arange(size) + 0.5) / step - 0.5, 0, count - 1)
    low = place.astype(np.int64)
    return low, np.minimum(low + 1, count - 1), (place - low).astype(np.float32)


def _blend(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return a + weight * (b - a)

"""Resizing as ``torch.nn.functional.interpolate`` does it with ``align_corners=False``."""

from __future__ import annotations

from functools import lru_cache

import mlx.core as mx
import numpy as np


def resize_bilinear(x: mx.array, size: tuple[int, int], antialias: bool = False) -> mx.array:
    """Bilinear resize of (B, H, W, C) to (B, *size, C) in float32, as torch's ``F.interpolate`` does."""
    x = x.astype(mx.float32)
    height, width = size
    if antialias:
        x = x if x.shape[2] == width else _contract_axis(x, 2, _antialias_matrix(x.shape[2], width))
        return x if x.shape[1] == height else _contract_axis(x, 1, _antialias_matrix(x.shape[1], height))
    return _lerp_axis(_lerp_axis(x, 2, width), 1, height)


def resize_bicubic(x: mx.array, size: tuple[int, int]) -> mx.array:
    """Bicubic resize (a = -0.75) of (B, H, W, C) to (B, *size, C) in float32, as torch's ``F.interpolate`` does."""
    x = x.astype(mx.float32)
    x = _contract_axis(x, 2, _bicubic_matrix(x.shape[2], size[1]))
    return _contract_axis(x, 1, _bicubic_matrix(x.shape[1], size[0]))


def _contract_axis(x: mx.array, axis: int, matrix: np.ndarray) -> mx.array:
    """Apply an (out, in) matrix along one axis. One 2-D product: MLX would copy a matrix broadcast over a batch."""
    x = mx.moveaxis(x, axis, 0)
    rest = x.shape[1:]
    x = mx.array(matrix) @ x.reshape(x.shape[0], -1)  # (out, in) @ (in, everything else)
    return mx.moveaxis(x.reshape(matrix.shape[0], *rest), 0, axis)


def source_positions(in_size: int, out_size: int) -> np.ndarray:
    """Positions of the pixels of a resized axis in the source, (out,) float32; pixel centres lie at halves."""
    scale = np.float64(np.float32(in_size) / np.float32(out_size))
    return (scale * (np.arange(out_size) + 0.5) - 0.5).astype(np.float32)  # rounded once, a fused multiply-add in torch


def _lerp_axis(x: mx.array, axis: int, out_size: int) -> mx.array:
    """Linear interpolation along one axis: two gathers, exact in any matrix precision of the GPU."""
    in_size = x.shape[axis]
    if in_size == out_size:
        return x
    position = np.maximum(source_positions(in_size, out_size), 0)
    low = np.minimum(position.astype(np.int64), in_size - 1)
    high = np.minimum(low + 1, in_size - 1)
    shape = [1] * x.ndim
    shape[axis] = out_size
    weight = mx.array((position - low.astype(np.float32)).reshape(shape))
    return mx.take(x, mx.array(low), axis) * (1 - weight) + mx.take(x, mx.array(high), axis) * weight


@lru_cache(maxsize=32)
def _antialias_matrix(in_size: int, out_size: int) -> np.ndarray:
    """(out, in) weights of a triangle filter that widens with the reduction, float32."""
    scale = np.float32(in_size) / np.float32(out_size)
    support = max(scale, np.float32(1))
    centre = scale * (np.arange(out_size, dtype=np.float32) + np.float32(0.5))
    first = np.maximum((centre - support + np.float32(0.5)).astype(np.int64), 0)
    last = np.minimum((centre + support + np.float32(0.5)).astype(np.int64), in_size)
    index = np.arange(in_size)
    offset = (index[None] - centre[:, None] + np.float32(0.5)) / support  # (out, in)
    inside = (index >= first[:, None]) & (index < last[:, None])
    weight = np.where(inside, np.maximum(1 - np.abs(offset), 0), 0).astype(np.float32)
    return weight / weight.sum(axis=1, keepdims=True)


@lru_cache(maxsize=32)
def _bicubic_matrix(in_size: int, out_size: int) -> np.ndarray:
    """(out, in) weights of the cubic convolution kernel with a = -0.75, edges repeated, float32."""
    a = np.float32(-0.75)
    position = source_positions(in_size, out_size)
    base = np.floor(position)
    t = position - base

    def near(d: np.ndarray) -> np.ndarray:  # |d| <= 1
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: np.ndarray) -> np.ndarray:  # 1 < |d| < 2
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    matrix = np.zeros((out_size, in_size), np.float32)
    rows = np.arange(out_size)
    for tap, weight in zip((-1, 0, 1, 2), (far(t + 1), near(t), near(1 - t), far(2 - t)), strict=True):
        columns = np.clip(base.astype(np.int64) + tap, 0, in_size - 1)
        np.add.at(matrix, (rows, columns), weight)
    return matrix


# ---- masks of video frames, in numpy


def fit_mask(mask: np.ndarray, image_size: int) -> np.ndarray:
    """Resize a bool mask (H, W) to the model's input, (S, S) bool: antialiased, then thresholded at one half.

    At simple ratios (3 to 2, 15 to 8) many pixels are one half up to rounding. To round them as PyTorch's
    ``F.interpolate(antialias=True)`` does, sums run tap by tap in its order, fused, and not through a matrix product.
    """
    if mask.shape == (image_size, image_size):
        return mask
    rows = _resize_rows(mask.T.astype(np.float32), image_size)  # (S, H): the width first
    return _resize_rows(rows.T, image_size) >= 0.5


def _resize_rows(x: np.ndarray, size: int) -> np.ndarray:
    """(N, M) -> (size, M) with a triangle filter that widens with the reduction, float32."""
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(len(x)) / np.float32(size)
    support = max(scale, one)
    centre = scale * (np.arange(size, dtype=np.float32) + half)
    first = np.maximum((centre - support + half).astype(np.int64), 0)
    last = np.minimum((centre + support + half).astype(np.int64), len(x))
    index = first[:, None] + np.arange((last - first).max())  # (size, taps)
    offset = (index.astype(np.float32) - centre[:, None] + half) * (one / support)
    weights = np.where(index < last[:, None], np.maximum(one - np.abs(offset), 0), 0).astype(np.float32)
    weights /= weights.cumsum(axis=1)[:, -1:]  # cumsum adds one after the other
    out = np.zeros((size, x.shape[1]), np.float32)
    for tap in range(index.shape[1]):
        taken = x[np.minimum(index[:, tap], len(x) - 1)].astype(np.float64)
        out = (out + taken * weights[:, tap, None]).astype(np.float32)  # rounded once, as a fused multiply-add
    return out

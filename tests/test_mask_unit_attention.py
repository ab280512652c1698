"""Attention inside windows: the reference by its definition, the Metal kernel against the reference."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam2.kernels import mask_unit_attention
from mlx_sam2.kernels.mask_unit_attention import (
    mask_unit_attention_op,
    max_pool,
    window_partition,
    window_unpartition,
)
from synthetic import normal

OP = mask_unit_attention_op


# ---- the reference


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 6), (3, 9)])
def test_windows_and_back(height: int, width: int) -> None:
    x, outside = normal("x", (2, height, width, 3), 0), normal("outside", (3,), 0)
    windows = window_partition(mx.array(x), 4, mx.array(outside))
    rows, columns = -(-height // 4), -(-width // 4)
    assert windows.shape == (2 * rows * columns, 4, 4, 3)
    back = window_unpartition(windows, rows, columns, height, width)
    np.testing.assert_array_equal(np.array(back), x)
    np.testing.assert_array_equal(np.array(windows)[1, 0, 0], x[0, 0, 4])  # the next one to the right
    beyond = np.array(windows).sum((0, 1, 2), dtype=np.float64) - x.sum((0, 1, 2), dtype=np.float64)
    places = 16 * len(windows) - 2 * height * width
    np.testing.assert_allclose(beyond, places * outside, rtol=0, atol=1e-4)


def test_max_pool_drops_what_fills_no_cell() -> None:
    x = mx.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(np.array(max_pool(x, 2))[0, :, :, 0], [[6, 8]])


def by_definition(qkv: np.ndarray, bias: np.ndarray, heads: int, window: int, q_stride: int) -> np.ndarray:
    """Query by query: its cell, the tokens of its window, the bias wherever the grid has none."""
    b, h, w, channels = qkv.shape
    dim = channels // 3 // heads
    out = np.empty((b, h // q_stride, w // q_stride, channels // 3))
    for i, y, x, head in np.ndindex(*out.shape[:3], heads):
        starts = (part * channels // 3 + head * dim for part in range(3))
        q, k, v = (slice(start, start + dim) for start in starts)
        query = qkv[i, y * q_stride : (y + 1) * q_stride, x * q_stride : (x + 1) * q_stride, q].max((0, 1))
        top, left = y * q_stride // window * window, x * q_stride // window * window
        tokens = np.tile(bias, (window, window, 1))
        part = qkv[i, top : top + window, left : left + window]
        tokens[: part.shape[0], : part.shape[1]] = part
        tokens = tokens.reshape(-1, channels)
        scores = tokens[:, k] @ query / math.sqrt(dim)
        shares = np.exp(scores - scores.max())
        out[i, y, x, head * dim : (head + 1) * dim] = shares @ tokens[:, v] / shares.sum()
    return out


SHAPES = {  # grid, head dim, heads, window, q_stride
    "whole windows": (8, 8, 8, 2, 4, 1),
    "ragged": (5, 7, 8, 2, 4, 1),
    "pooled": (8, 4, 8, 2, 4, 2),
    "pooled, ragged": (6, 10, 8, 1, 8, 2),
    "pooled, the last row fills no cell": (9, 5, 8, 1, 4, 2),
    "grid smaller than its window": (3, 2, 8, 1, 14, 1),
    "odd window": (9, 8, 16, 1, 7, 1),
    "cells of 3": (7, 12, 8, 1, 6, 3),
}


def arguments(name: str, batch: int = 2) -> tuple[Any, ...]:
    height, width, dim, heads, window, q_stride = SHAPES[name]
    qkv, bias = normal("qkv", (batch, height, width, 3 * heads * dim), 0), normal("bias", (3 * heads * dim,), 0)
    return mx.array(2 * qkv), mx.array(2 * bias), heads, window, q_stride


@pytest.mark.parametrize("name", SHAPES)
def test_reference_by_its_definition(name: str) -> None:
    qkv, bias, *rest = arguments(name)
    expected = by_definition(np.array(qkv, np.float64), np.array(bias, np.float64), *rest)
    np.testing.assert_allclose(np.array(mask_unit_attention(qkv, bias, *rest)), expected, rtol=0, atol=5e-5)
    # measured: 1.3e-5 where most of a window lies outside, 2e-6 elsewhere; MLX's softmax on the CPU

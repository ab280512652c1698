"""Kernels by their definitions, in float64: apart from the code of the package."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sam2.kernels.axial_memory_attention import axial_memory_attention_op
from mlx_sam2.kernels.dispatch import Op, arrays_of
from mlx_sam2.kernels.residual_layer_norm import residual_layer_norm_op
from mlx_sam2.kernels.upscaling import upscaled_layer_norm_op


def axial_attention(args: tuple[Any, ...]) -> np.ndarray:
    """Keys projected, rotated pair by pair, attended to: in float64."""
    q, keys, values, weight, offset, (height, width), theta, tail, *bias = args
    k = keys @ weight.T + offset
    dim, count = k.shape[-1], keys.shape[1]
    place = np.where(np.arange(count) < count - tail, np.arange(count) % (height * width), 0)
    frequency = theta ** (-4 * np.arange(dim // 4) / dim)
    angle = np.concatenate([np.outer(place % width, frequency), np.outer(place // width, frequency)], axis=-1)
    turned = (k[..., ::2] + 1j * k[..., 1::2]) * np.exp(1j * angle)
    k = np.stack([turned.real, turned.imag], axis=-1).reshape(k.shape)
    scores = q @ k.swapaxes(1, 2) / math.sqrt(dim)
    if bias:
        frames = (count - tail) // (height * width)
        each = np.concatenate([np.repeat(bias[0][:, :frames], height * width, axis=1), bias[0][:, frames:]], axis=1)
        scores = scores + each[:, None]
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) @ values


def exact_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def pixels(y: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Each pixel by itself: cell (Y / 2, X / 2), quarter (Y % 2, X % 2)."""
    b, h, w, channels = y.shape
    width = channels // 4
    result = np.empty((b, 2 * h, 2 * w, width))
    for row, column in np.ndindex(2 * h, 2 * w):
        first = (row % 2 * 2 + column % 2) * width
        result[:, row, column] = y[:, row // 2, column // 2, first : first + width]
    return result + more


def by_definition(op: Op, args: tuple[Any, ...]) -> list[np.ndarray]:
    """What an op should give, for these arguments as they are rounded."""
    arrays = [np.array(a.astype(mx.float32), np.float64) if isinstance(a, mx.array) else a for a in args]
    if op is axial_memory_attention_op:
        return [axial_attention(tuple(arrays))]
    if op is residual_layer_norm_op:
        x, y, shift, weight, bias, position, eps = arrays
        normed = layer_norm(x + y + shift, weight, bias, eps)
        return [normed, normed + position]
    if op is upscaled_layer_norm_op:
        y, more, *rest = arrays
        return [exact_gelu(layer_norm(pixels(y, more), *rest))]
    y, more, weights = arrays
    return [np.einsum("bmc,bhwc->bmhw", weights, exact_gelu(pixels(y, more)))]


def difference(result: Any, expected: list[np.ndarray]) -> float:
    found = [np.array(x.astype(mx.float32)) for x in arrays_of(result)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True))

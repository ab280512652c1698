"""Position encodings: fixed sines of grids and times, random Fourier features of points.

Official ``modeling/position_encoding.py`` and ``get_1d_sine_pe`` of ``modeling/sam2_utils.py``.
"""

from __future__ import annotations

import math
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np


def _sine_frequencies(dim: int, temperature: float) -> np.ndarray:
    """Periods of a sine encoding with ``dim`` channels; channels 2i and 2i+1 share one."""
    index = np.arange(dim, dtype=np.float32)
    return np.float32(temperature) ** (2 * np.floor(index / 2) / np.float32(dim))


@lru_cache(maxsize=16)
def _sine_grid(height: int, width: int, channels: int, temperature: float) -> np.ndarray:
    half = channels // 2
    period = _sine_frequencies(half, temperature)

    def encode(count: int) -> np.ndarray:
        position = np.arange(1, count + 1, dtype=np.float32)
        position = position / np.float32(count + 1e-6) * np.float32(2 * math.pi)
        angle = position[:, None] / period  # (count, half)
        return np.where(np.arange(half) % 2 == 0, np.sin(angle), np.cos(angle)).astype(np.float32)

    y = np.broadcast_to(encode(height)[:, None], (height, width, half))
    x = np.broadcast_to(encode(width)[None, :], (height, width, half))
    return np.concatenate([y, x], axis=-1)[None]  # y first


@lru_cache(maxsize=16)
def sine_position_encoding(
    height: int, width: int, channels: int, temperature: float = 10000.0, dtype: mx.Dtype = mx.float32
) -> mx.array:
    """Fixed 2-D sine encoding, (1, height, width, channels); cached (official ``PositionEmbeddingSine``)."""
    return mx.array(_sine_grid(height, width, channels, temperature), dtype)


def sine_time_encoding(position: mx.array, channels: int, temperature: float = 10000.0) -> mx.array:
    """1-D sine encoding of scalar positions: (N,) -> (N, channels), all sines first (official ``get_1d_sine_pe``)."""
    angle = position[:, None] / mx.array(_sine_frequencies(channels // 2, temperature))
    return mx.concatenate([mx.sin(angle), mx.cos(angle)], axis=-1)


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of points in the unit square (official ``PositionEmbeddingRandom``)."""

    def __init__(self, num_pos_feats: int):
        super().__init__()
        self.positional_encoding_gaussian_matrix = mx.random.normal((2, num_pos_feats))

    def __call__(self, points: mx.array) -> mx.array:
        """(..., 2) points as (x, y) in [0, 1] -> (..., 2 * num_pos_feats) float32.

        Always in float32: the angles reach hundreds of radians.
        """
        frequencies = self.positional_encoding_gaussian_matrix.astype(mx.float32)
        points = 2 * points.astype(mx.float32) - 1
        # written out, because a matrix product of width 2 may run in reduced precision on some GPUs
        angle = points[..., :1] * frequencies[0] + points[..., 1:] * frequencies[1]
        angle = (2 * math.pi) * angle
        return mx.concatenate([mx.sin(angle), mx.cos(angle)], axis=-1)

    def grid(self, height: int, width: int) -> mx.array:
        """Encoding of the centres of a grid's cells, (1, height, width, 2 * num_pos_feats)."""
        y = (mx.arange(height, dtype=mx.float32) + 0.5) / height
        x = (mx.arange(width, dtype=mx.float32) + 0.5) / width
        shape = (height, width)
        points = mx.stack([mx.broadcast_to(x[None, :], shape), mx.broadcast_to(y[:, None], shape)], axis=-1)
        return self(points)[None]

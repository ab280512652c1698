"""Small parts shared by the model: MLP, attention, position encodings, resizing. Channels last throughout."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..kernels import attend
from ..kernels.cpu import CACHED, one_by_one
from ..kernels.dispatch import is_watched

# erf(z) = z P(z^2) / Q(z^2) for |z| < 4, beyond which it is 1 in float32: the rational approximation that Eigen and XLA
# use. Highest power first.
_ERF_P = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
          -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
_ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
          -1.42647390514189e-02)  # fmt: skip


def in_pieces() -> bool:
    """Whether large arrays are worked on piece by piece: on the CPU, which starts an operation in no time.

    Not while ops are listed or recorded: one of each is enough then.
    """
    return mx.default_device().type == mx.cpu and not is_watched()


def gelu(x: mx.array) -> mx.array:
    """The exact (erf) GELU of any array.

    MLX's CPU backend calls erf element by element, 20 times as long as a product; there, products and sums take its
    place, within 2e-6 of the same values.
    """
    if mx.default_device().type != mx.cpu or x.dtype != mx.float32:
        return nn.gelu(x)
    if x.size <= CACHED:
        return _gelu_by_products(x)
    parts = mx.split(x.flatten(), range(CACHED, x.size, CACHED))
    return mx.concatenate(one_by_one(_gelu_by_products, [(part,) for part in parts])).reshape(x.shape)


def _gelu_by_products(x: mx.array) -> mx.array:
    z = mx.clip(x * math.sqrt(0.5), -4, 4)
    square = z * z
    return (0.5 * x) * (1 + z * _polynomial(_ERF_P, square) / _polynomial(_ERF_Q, square))


def _polynomial(coefficients: tuple[float, ...], x: mx.array) -> mx.array:
    """Horner's scheme, highest power first."""
    total = x * coefficients[0] + coefficients[1]
    for c in coefficients[2:]:
        total = total * x + c
    return total


class GELU(nn.Module):
    """``gelu`` as a layer."""

    def __call__(self, x: mx.array) -> mx.array:
        return gelu(x)


ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {"relu": nn.relu, "gelu": gelu}


class MLP(nn.Module):
    """A stack of linear layers with an activation between them (official ``modeling/sam2_utils.py``).

    Maps (..., input_dim) to (..., output_dim).
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        num_layers: int,
        activation: str = "relu",
        sigmoid_output: bool = False,
    ):
        super().__init__()
        widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        self._activation = ACTIVATIONS[activation]
        self._sigmoid_output = sigmoid_output

    def hidden(self, x: mx.array) -> mx.array:
        """What the last layer gets."""
        for layer in self.layers[:-1]:
            x = self._activation(layer(x))
        return x

    def __call__(self, x: mx.array) -> mx.array:
        x = self.layers[-1](self.hidden(x))
        return mx.sigmoid(x) if self._sigmoid_output else x


def pointwise(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """A 1x1 convolution of (B, H, W, I) by (O, 1, 1, I) as what it is: one product, its bias included."""
    return mx.addmm(bias, x, weight.reshape(len(bias), -1).T)


class Attention(nn.Module):
    """Multi-head attention with separate projections (official ``modeling/sam/transformer.py``).

    ``downsample_rate`` divides the width inside the attention; ``kv_in_dim`` is the width of keys and values where it
    differs from that of the queries.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1, kv_in_dim: int | None = None):
        super().__init__()
        kv_in_dim = embedding_dim if kv_in_dim is None else kv_in_dim
        internal_dim = embedding_dim // downsample_rate
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embedding_dim, internal_dim)
        self.k_proj = nn.Linear(kv_in_dim, internal_dim)
        self.v_proj = nn.Linear(kv_in_dim, internal_dim)
        self.out_proj = nn.Linear(internal_dim, embedding_dim)

    def __call__(self, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        """q (B or 1, Nq, C), k and v (B or 1, Nk, C_kv) -> (B, Nq, C); what is shared is projected once."""
        batch = max(len(q), len(k))
        q = split_heads(self.q_proj(q), self.num_heads)
        k = split_heads(self.k_proj(k), self.num_heads)
        v = split_heads(self.v_proj(v), self.num_heads)
        q, k, v = (mx.broadcast_to(x, (batch, *x.shape[1:])) for x in (q, k, v))
        return self.out_proj(merge_heads(attend(q, k, v)))


def split_heads(x: mx.array, num_heads: int) -> mx.array:
    """(B, N, heads * D) -> (B, heads, N, D)."""
    return x.reshape(*x.shape[:2], num_heads, -1).swapaxes(1, 2)


def merge_heads(x: mx.array) -> mx.array:
    """(B, heads, N, D) -> (B, N, heads * D)."""
    return x.swapaxes(1, 2).flatten(2)


# ---- position encodings


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
    """Fixed 2-D sine encoding, (1, height, width, channels), kept once made (official ``PositionEmbeddingSine``)."""
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


# ---- resizing: the conventions of torch.nn.functional.interpolate with align_corners=False


def resize_bilinear(x: mx.array, size: tuple[int, int], antialias: bool = False) -> mx.array:
    """Bilinear resize of (B, H, W, C) to (B, *size, C) in float32, as torch's ``F.interpolate`` does it."""
    x = x.astype(mx.float32)
    height, width = size
    if antialias:
        x = x if x.shape[2] == width else _contract_axis(x, 2, _antialias_matrix(x.shape[2], width))
        return x if x.shape[1] == height else _contract_axis(x, 1, _antialias_matrix(x.shape[1], height))
    return _lerp_axis(_lerp_axis(x, 2, width), 1, height)


def resize_bicubic(x: mx.array, size: tuple[int, int]) -> mx.array:
    """Bicubic resize (a = -0.75) of (B, H, W, C) to (B, *size, C) in float32, as torch's ``F.interpolate`` does it."""
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
    """Where the pixels of a resized axis lie between those of the source, (out,) float32, half pixels aligned."""
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

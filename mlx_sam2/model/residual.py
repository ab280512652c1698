"""A residual stream x + shift, in which adding what a linear layer gives is a part of its product.

``x = x + layer(y)`` reads and writes the whole stream once more than the product does. A product can add a matrix, but
then not its bias as well: that is the same for all places, so the biases of all layers so far are one vector, which the
next normalisation adds while it reads (``kernels/shifted_layer_norm.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..kernels import shifted_layer_norm
from ..kernels.cpu import CACHED, one_by_one


class Stream(NamedTuple):
    """What stands for x + shift."""

    x: mx.array  # (..., C)
    shift: mx.array  # (C,) float32

    @classmethod
    def of(cls, x: mx.array) -> Stream:
        """An array, nothing kept apart."""
        return cls(x, mx.zeros(x.shape[-1], mx.float32))

    @classmethod
    def starting(cls, layer: nn.Module, y: mx.array) -> Stream:
        """``layer(y)``."""
        if not _is_plain(layer):
            return cls.of(layer(y))
        return cls(y @ layer.weight.T, layer.bias.astype(mx.float32))

    def plus(self, layer: nn.Module, y: mx.array) -> Stream:
        """The stream plus ``layer(y)``."""
        if not _is_plain(layer):
            return Stream(self.x + layer(y), self.shift)
        return Stream(mx.addmm(self.x, y, layer.weight.T), self.shift + layer.bias.astype(mx.float32))

    def normed(self, norm: nn.LayerNorm) -> mx.array:
        """``norm(x + shift)``."""
        return shifted_layer_norm(self.x, self.shift, norm.weight, norm.bias, norm.eps)

    def value(self) -> mx.array:
        """x + shift."""
        return (self.x.astype(mx.float32) + self.shift).astype(self.x.dtype)


def _is_plain(layer: nn.Module) -> bool:
    """Not a quantised layer, nor another that took its place (an adapter, say)."""
    return type(layer) is nn.Linear and "bias" in layer


def by_rows(function: Callable[[Stream], Stream], stream: Stream, multiple: int) -> Stream:
    """``function`` of bands of (B, H, W, C), put together again: for one that maps rows to rows.

    The height of a band is a multiple of ``multiple``. It is small, because what lies between input and output exists
    for one band at a time, and stays in the cache.
    """
    x, shift = stream
    rows = multiple * max(1, CACHED // (multiple * x[:, 0].size))
    if rows >= x.shape[1]:
        return function(stream)
    shifts: list[mx.array] = []  # the same of every band

    def of_band(band: mx.array) -> mx.array:
        result = function(Stream(band, shift))
        shifts.append(result.shift)
        return result.x

    bands = mx.split(x, range(rows, x.shape[1], rows), axis=1)
    return Stream(mx.concatenate(one_by_one(of_band, [(band,) for band in bands]), axis=1), shifts[0])

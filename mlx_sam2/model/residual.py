"""A residual stream x + shift, to which linear layers add inside their product.

``x = x + layer(y)`` reads and writes the whole stream once more than the product does. A product can add a matrix, but
then not its bias as well. Biases are the same for all places, so those of all layers so far are summed in one vector,
``shift``, which the next normalisation adds while it reads (``kernels/shifted_layer_norm.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..kernels import shifted_layer_norm
from ..kernels.cpu import PIECE, one_by_one


class ResidualStream(NamedTuple):
    """The sum x + shift, kept as its two terms."""

    x: mx.array  # (..., C)
    shift: mx.array  # (C,) float32

    @classmethod
    def of(cls, x: mx.array) -> ResidualStream:
        """An array as a stream, with a shift of zero."""
        return cls(x, mx.zeros(x.shape[-1], mx.float32))

    @classmethod
    def starting(cls, layer: nn.Module, y: mx.array) -> ResidualStream:
        """``layer(y)``."""
        if not _is_plain(layer):
            return cls.of(layer(y))
        return cls(y @ layer.weight.T, layer.bias.astype(mx.float32))

    def plus(self, layer: nn.Module, y: mx.array) -> ResidualStream:
        """The stream plus ``layer(y)``."""
        if not _is_plain(layer):
            return ResidualStream(self.x + layer(y), self.shift)
        return ResidualStream(mx.addmm(self.x, y, layer.weight.T), self.shift + layer.bias.astype(mx.float32))

    def normed(self, norm: nn.LayerNorm) -> mx.array:
        """``norm(x + shift)``."""
        return shifted_layer_norm(self.x, self.shift, norm.weight, norm.bias, norm.eps)

    def value(self) -> mx.array:
        """x + shift."""
        return (self.x.astype(mx.float32) + self.shift).astype(self.x.dtype)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is a linear layer with a bias, and nothing that replaced one (quantised, an adapter)."""
    return type(layer) is nn.Linear and "bias" in layer


def by_rows(
    function: Callable[[ResidualStream], ResidualStream], stream: ResidualStream, multiple: int
) -> ResidualStream:
    """Apply a function that maps rows to rows band by band to a stream (B, H, W, C), and join the results.

    The height of a band is a multiple of ``multiple``. Bands are small, so that everything between input and output
    exists for one band at a time and stays in the cache.
    """
    x, shift = stream
    rows = multiple * max(1, PIECE // (multiple * x[:, 0].size))
    if rows >= x.shape[1]:
        return function(stream)
    shifts: list[mx.array] = []  # the same of every band

    def of_band(band: mx.array) -> mx.array:
        result = function(ResidualStream(band, shift))
        shifts.append(result.shift)
        return result.x

    bands = mx.split(x, range(rows, x.shape[1], rows), axis=1)
    return ResidualStream(mx.concatenate(one_by_one(of_band, [(band,) for band in bands]), axis=1), shifts[0])

"""Layers that several parts of the model share: GELU, MLP, attention. Channels last throughout."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from ..kernels import attend, gelu


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
        """The input of the last layer."""
        for layer in self.layers[:-1]:
            x = self._activation(layer(x))
        return x

    def __call__(self, x: mx.array) -> mx.array:
        x = self.layers[-1](self.hidden(x))
        return mx.sigmoid(x) if self._sigmoid_output else x


def pointwise(x: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """A 1x1 convolution of (B, H, W, I) by (O, 1, 1, I) as one product, its bias included."""
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
        """q (B or 1, Nq, C), k and v (B or 1, Nk, C_kv) -> (B, Nq, C). A batch of 1 is projected once for all."""
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

"""The perceiver that turns the map of a memory into tokens (EdgeTAM, official ``modeling/perceiver.py``).

Two kinds of latents share its layers. 1-D latents attend to the whole map, with positions. The 2-D latents are a grid:
each attends to its own window of the map, without positions, and is alone in its sequence, so that its self-attention
gives the value that it projects of itself.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..config.edgetam import PerceiverConfig
from ..kernels import attend
from .layers import GELU, merge_heads, split_heads
from .position_encoding import sine_position_encoding


class LatentAttention(nn.Module):
    """Latents attend to the tokens of a map (official ``PerceiverAttention``)."""

    def __init__(self, config: PerceiverConfig):
        super().__init__()
        inner = config.heads * config.dim_head
        self._config = config
        self.norm_x = nn.LayerNorm(config.dim)
        self.norm_latents = nn.LayerNorm(config.dim)
        self.to_q = nn.Linear(config.dim, inner, bias=False)
        self.to_kv = nn.Linear(config.dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.dim, bias=False)

    def __call__(self, latents: mx.array, x: mx.array, position: mx.array) -> mx.array:
        """latents (B or 1, N, C), 1-D then 2-D; map x (B, h, w, C), position (1, h, w, C) -> (B, N, C)."""
        heads, count = self._config.heads, self._config.num_latents
        q = split_heads(self.to_q(self.norm_latents(latents)), heads)  # (B or 1, heads, N, D)
        q = mx.broadcast_to(q, (len(x), *q.shape[1:]))
        kv = self.to_kv(self.norm_x(x))  # (B, h, w, 2 D); the same for both kinds of latents
        k, v = mx.split(kv, 2, axis=-1)
        k, v = k + position, v + position  # after the projections; the official code does so whatever its flag says
        k, v = (split_heads(t.flatten(1, 2), heads) for t in (k, v))
        over_map = merge_heads(attend(q[:, :, :count], k, v))
        return self.to_out(mx.concatenate([over_map, self._over_windows(q[:, :, count:], kv)], axis=1))

    def _over_windows(self, q: mx.array, kv: mx.array) -> mx.array:
        """q (B, heads, side * side, D), kv (B, h, w, 2 D) -> (B, side * side, D), row by row."""
        b, h, w, width = kv.shape
        heads, side = self._config.heads, self._config.side
        windows = kv.reshape(b, side, h // side, side, w // side, width).swapaxes(2, 3)
        k, v = (split_heads(t, heads) for t in mx.split(windows.reshape(b * side * side, -1, width), 2, axis=-1))
        q = q.swapaxes(1, 2).reshape(b * side * side, heads, 1, -1)
        return merge_heads(attend(q, k, v)).reshape(b, side * side, -1)


class LatentSelfAttention(nn.Module):
    """1-D latents attend to each other; each 2-D latent to itself alone."""

    def __init__(self, config: PerceiverConfig):
        super().__init__()
        inner = config.heads * config.dim_head
        self._config = config
        self.norm = nn.LayerNorm(config.dim)
        self.to_q = nn.Linear(config.dim, inner, bias=False)
        self.to_kv = nn.Linear(config.dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, config.dim, bias=False)

    def __call__(self, latents: mx.array) -> mx.array:
        """(B, N, C), 1-D latents then 2-D -> the same shape."""
        heads, count = self._config.heads, self._config.num_latents
        normed = self.norm(latents)
        k, v = mx.split(self.to_kv(normed), 2, axis=-1)
        q, k, ours = (split_heads(t[:, :count], heads) for t in (self.to_q(normed[:, :count]), k, v))
        return self.to_out(mx.concatenate([merge_heads(attend(q, k, ours)), v[:, count:]], axis=1))


def _feed_forward(config: PerceiverConfig) -> list[nn.Module]:
    inner = config.ff_mult * config.dim
    linears = nn.Linear(config.dim, inner, bias=False), nn.Linear(inner, config.dim, bias=False)
    return [nn.LayerNorm(config.dim), linears[0], GELU(), linears[1]]


class PerceiverLayer(nn.Module):
    """Attention to the map, feed-forward, self-attention, feed-forward; each added to the latents."""

    def __init__(self, config: PerceiverConfig):
        super().__init__()
        self.attn = LatentAttention(config)
        self.ff = _feed_forward(config)
        self.self_attn = LatentSelfAttention(config)
        self.self_ff = _feed_forward(config)

    def __call__(self, latents: mx.array, x: mx.array, position: mx.array) -> mx.array:
        """Arguments as for ``LatentAttention``; returns (B, N, C)."""
        latents = latents + self.attn(latents, x, position)
        latents = latents + _through(self.ff, latents)
        latents = latents + self.self_attn(latents)
        return latents + _through(self.self_ff, latents)


def _through(layers: list[nn.Module], x: mx.array) -> mx.array:
    for layer in layers:
        x = layer(x)
    return x


class SpatialPerceiver(nn.Module):
    """A map (B, h, w, C) as N tokens (B, N, C): first the 1-D latents, then the grid of 2-D latents, row by row."""

    def __init__(self, config: PerceiverConfig):
        super().__init__()
        self._config = config
        self.latents = mx.zeros((config.num_latents, config.dim))
        self.latents_2d = mx.zeros((config.num_latents_2d, config.dim))
        self.layers = [PerceiverLayer(config) for _ in range(config.depth)]
        self.norm = nn.LayerNorm(config.dim)

    def __call__(self, x: mx.array, position: mx.array) -> mx.array:
        """x (B, h, w, C) is a memory, position (1, h, w, C) the sine encoding of its cells -> (B, N, C)."""
        latents = mx.concatenate([self.latents, self.latents_2d])[None]
        position = position.astype(x.dtype)
        for layer in self.layers:
            latents = layer(latents, x, position)
        return self.norm(latents)

    def position_encoding(self) -> mx.array:
        """(N, C): zeros for the 1-D latents, and the sine encoding of the grid of the 2-D ones."""
        config = self._config
        grid = sine_position_encoding(config.side, config.side, config.dim, config.temperature)
        return mx.concatenate([mx.zeros((config.num_latents, config.dim)), grid.reshape(-1, config.dim)])

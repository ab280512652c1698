"""Attention with MLX's own operations, written so that MLX fuses it where it can and stays small where it can't."""

from __future__ import annotations

import math

import mlx.core as mx

FUSED_HEAD_DIMS = (64, 72, 80, 96, 128)  # of MLX's full attention on Metal, 0.32.1 and later
MAX_SCORES = 1 << 24  # score elements that exist at once where attention is not fused: 64 MB in float32


def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """softmax(q k^T / sqrt(D)) v.

    Args:
        q: (B, heads, N, D).
        k: (B, heads, M, D).
        v: (B, heads, M, Dv); Dv may differ from D.

    Returns:
        (B, heads, N, Dv), the dtype of q; softmax in float32.
    """
    v = mx.broadcast_to(v, (*k.shape[:-1], v.shape[-1]))
    scale = 1.0 / math.sqrt(q.shape[-1])
    on_metal = mx.metal.is_available() and mx.default_device().type == mx.gpu
    if on_metal and (width := fused_width(q.shape[-1], v.shape[-1])):
        q, k, v_padded = (_pad_channels(x, width) for x in (q, k, v))
        return mx.fast.scaled_dot_product_attention(q, k, v_padded, scale=scale)[..., : v.shape[-1]]
    b, heads, n, _ = q.shape
    rows = max(MAX_SCORES // max(b * heads * k.shape[2], 1), 1)
    if n <= rows:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale)
    parts = [q[:, :, i : i + rows] for i in range(0, n, rows)]
    return mx.concatenate([mx.fast.scaled_dot_product_attention(p, k, v, scale=scale) for p in parts], axis=2)


def fused_width(dim: int, value_dim: int) -> int | None:
    """The head dim to pad to with zeros, which is exact; None where no fused attention is within reach."""
    widths = [w for w in FUSED_HEAD_DIMS if max(dim, value_dim) <= w <= 1.5 * max(dim, value_dim)]
    return widths[0] if widths else None


def _pad_channels(x: mx.array, width: int) -> mx.array:
    return x if x.shape[-1] == width else mx.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))

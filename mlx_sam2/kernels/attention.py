"""Attention with MLX's own operations: fused if MLX can, in pieces of bounded memory if not."""

from __future__ import annotations

import math

import mlx.core as mx

from . import cpu, gpu
from .dispatch import is_watched

MAX_SCORES = 1 << 26  # at once, if attention is not fused: 256 MB in float32
# Pieces that exist at once: MLX allocates the results of an operation when it queues it. On the CPU it queues some 100
# operations ahead (measured), on Metal ten command buffers, which close after an operation or two of this size.
UNDER_WAY = {mx.cpu: 20, mx.gpu: 4}
LEAST_BY_PRODUCTS = 1 << 13  # scores; below, queueing the operations that replace exp takes longer than exp


def attend(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None = None) -> mx.array:
    """softmax(q k^T / sqrt(D) + bias) v.

    Args:
        q: (B, heads, N, D).
        k: (B, heads, M, D).
        v: (B, heads or 1, M, Dv); Dv may differ from D.
        bias: (B, M), added to the scores of a key; -inf excludes the key. None adds nothing.

    Returns:
        (B, heads, N, Dv), the dtype of q; softmax in float32.
    """
    v = mx.broadcast_to(v, (*k.shape[:-1], v.shape[-1]))
    bias = None if bias is None else bias[:, None, None].astype(q.dtype)  # (B, 1, 1, M)
    (b, heads, n, dim), value_dim = q.shape, v.shape[-1]
    way, width = gpu.attention_way(gpu.this_gpu(), q.dtype, n, dim, value_dim)
    if way == gpu.FUSED and _on_metal():
        q, k, v = (_pad_channels(x, width) for x in (q, k, v))
        return _attend(q, k, v, bias, dim)[..., :value_dim]
    if _by_products(q.dtype, b * heads * n * k.shape[2]):
        return cpu.attend(q, k, v, None if bias is None else bias[:, 0, 0])
    if b * heads * n * k.shape[2] <= MAX_SCORES:
        return _attend(q, k, v, bias, dim)
    if not is_watched():  # MLX cannot export mx.contiguous
        k, v = mx.contiguous(k), mx.contiguous(v)  # or every piece would copy them
    rows = max(MAX_SCORES // UNDER_WAY[mx.default_device().type] // (heads * k.shape[2]), 1)  # of queries
    items = max(rows // n, 1)
    batches = [[None if x is None else x[i : i + items] for x in (q, k, v, bias)] for i in range(0, b, items)]
    return mx.concatenate([_by_rows(*batch, rows) for batch in batches])


def _by_rows(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None, rows: int) -> mx.array:
    parts = [_attend(q[:, :, i : i + rows], k, v, bias, q.shape[-1]) for i in range(0, q.shape[2], rows)]
    return mx.concatenate(parts, axis=2)


def _attend(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None, dim: int) -> mx.array:
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0 / math.sqrt(dim), mask=bias)


def _by_products(dtype: mx.Dtype, num_scores: int) -> bool:
    """Whether to compute exponentials by products: on the CPU, for enough scores, unless a graph is being recorded."""
    return dtype == mx.float32 and num_scores >= LEAST_BY_PRODUCTS and cpu.in_pieces()


def _on_metal() -> bool:
    return mx.metal.is_available() and mx.default_device().type == mx.gpu


def _pad_channels(x: mx.array, width: int) -> mx.array:
    return x if x.shape[-1] == width else mx.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))


def softmax(scores: mx.array) -> mx.array:
    """Softmax over the last axis, sums in float32; the dtype of the scores."""
    if _by_products(scores.dtype, scores.size):
        return cpu.softmax(scores)
    return mx.softmax(scores, axis=-1, precise=True)

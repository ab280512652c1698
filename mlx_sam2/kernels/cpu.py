"""The ways of MLX's CPU backend: work in pieces that stay in a core's cache, and attention in float32 without exp.

That backend runs an operation over the whole array before the next one starts, so large arrays leave the cache between
operations. It calls exp element by element, 16 ns each, where a product takes 0.2 ns: the exponential is a polynomial
here. Scores are transposed, a column for each query, because the backend vectorises maxima and sums down columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import mlx.core as mx
import numpy as np

from .dispatch import is_watched

PIECE = 1 << 18  # elements that fit a core's cache: 1 MB
QUERIES = 256  # at least, of a block of queries if the scores of all are more than a piece; columns stay whole
LOWEST = -126.0  # 2**x below it is taken as 0; the smallest normal number
# 2**f for |f| <= 1/2 within 1e-7 of itself in float32, highest power first: the least greatest relative error of this
# degree (Lawson's iteration).
_POWER = (0.00015353361959569156, 0.0013398875016719103, 0.00961843691766262, 0.055503323674201965, 0.24022647738456726,
          0.6931471824645996, 1.0)  # fmt: skip
_ROUNDS = 1.5 * 2.0**23  # added to a small number leaves its nearest integer in the last bits
_MANTISSA = 23  # bits
_ONE = 127 << _MANTISSA  # the bits of 1.0


def in_pieces() -> bool:
    """Whether large arrays are worked on piece by piece: on the CPU, where starting an operation costs next to nothing.

    Not while ops are listed or recorded: one of each is enough then.
    """
    return mx.default_device().type == mx.cpu and not is_watched()


def exp_of_negative(x: mx.array) -> mx.array:
    """e**x for x <= 0 in float32, accurate to the rounding of x; 0 below 2**-126."""
    x = mx.maximum(x * math.log2(math.e), LOWEST)
    shifted = mx.stop_gradient(x + _ROUNDS)  # steps have no slope
    f = x - (shifted - _ROUNDS)
    power = f * _POWER[0] + _POWER[1]
    for c in _POWER[2:]:
        power = power * f + c
    exponent = mx.left_shift(shifted.view(mx.int32), _MANTISSA)  # all other bits are shifted out
    whole = mx.stop_gradient((exponent + _ONE).view(mx.float32))
    return power * whole - 2.0**LOWEST


def softmax(x: mx.array) -> mx.array:
    """Softmax over the last axis of any array."""
    rows = x.reshape(-1, x.shape[-1])
    count = max(PIECE // rows.shape[1], 1)
    parts = one_by_one(_softmax, [(rows[i : i + count],) for i in range(0, len(rows), count)])
    return mx.concatenate(parts).reshape(x.shape)


def _softmax(x: mx.array) -> mx.array:
    power = exp_of_negative(x - x.max(axis=1, keepdims=True))
    return power / power.sum(axis=1, keepdims=True)


def one_by_one(function: Callable[..., mx.array], arguments: Iterable[tuple[Any, ...]]) -> list[mx.array]:
    """Call a function for each tuple of arguments, each result waiting for the one before.

    Without that MLX would run the first operation of all pieces, then the second of all: every piece would leave the
    cache, and the memory of all would be held.
    """
    results: list[mx.array] = []
    for first, *others in arguments:
        results.append(function(mx.depends(first, results[-1]) if results else first, *others))
    return results


def attend(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None) -> mx.array:
    """softmax(q k^T / sqrt(D) + bias) v.

    Args:
        q: (B, heads, N, D).
        k: (B, heads, M, D).
        v: (B, heads, M, Dv).
        bias: (B, M) or None.

    Returns:
        (B, heads, N, Dv).
    """
    (b, heads, n, _), m = q.shape, k.shape[2]
    if bias is not None:
        bias = bias[:, None, :, None]  # (B, 1, M, 1)
    if heads * m * n <= PIECE:
        items = PIECE // (heads * m * n)
        pieces = [tuple(_take(x, slice(i, i + items)) for x in (q, k, v, bias)) for i in range(0, b, items)]
        return mx.concatenate(one_by_one(_attend, pieces))
    inputs = (q, k, v, bias)  # the bias is shared by all heads
    pairs = [tuple(None if x is None else x[i, j % x.shape[1]] for x in inputs) for i, j in np.ndindex(b, heads)]
    return mx.stack(one_by_one(_one_head, pairs)).reshape(b, heads, n, -1)


def _scaled(q: mx.array) -> mx.array:
    return q * (1 / math.sqrt(q.shape[-1]))


def _take(x: mx.array | None, index: slice) -> mx.array | None:
    return None if x is None else x[index]


def _attend(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None) -> mx.array:
    """Few scores: all of them at once, for any number of items."""
    scores = k @ _scaled(q).swapaxes(2, 3)  # (B, heads, M, N)
    scores = scores if bias is None else scores + bias
    power = exp_of_negative(scores - scores.max(axis=2, keepdims=True))
    return (power.swapaxes(2, 3) @ v) / power.sum(axis=2)[..., None]


def _one_head(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None) -> mx.array:
    """Many scores: (N, D), (M, D), (M, Dv) and (M, 1) -> (N, Dv), a block of queries at a time."""
    q, k, v = mx.contiguous(q), mx.contiguous(k), mx.contiguous(v)
    queries = max(QUERIES, PIECE // len(k))
    return mx.concatenate(one_by_one(_block, [(q[i : i + queries], k, v, bias) for i in range(0, len(q), queries)]))


def _block(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None) -> mx.array:
    """A block of queries -> (N, Dv): exponentials and their sums, a piece of the keys at a time."""
    scores = k @ _scaled(q).T  # (M, N)
    scores = scores if bias is None else scores + bias
    largest = scores.max(axis=0)
    keys = max(PIECE // len(q), 1)
    found, total = mx.zeros((len(q), v.shape[1])), mx.zeros(len(q))
    for i in range(0, len(k), keys):
        power = exp_of_negative(mx.depends(scores[i : i + keys], found) - largest)
        found, total = mx.addmm(found, power.T, v[i : i + keys]), total + power.sum(axis=0)
    return found / total[:, None]

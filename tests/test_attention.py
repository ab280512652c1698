"""Attention with MLX's own operations: by its definition, in pieces, padded."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam2.kernels import attend, attention
from synthetic import normal


def by_definition(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = q.astype(np.float64) @ np.swapaxes(k, -1, -2).astype(np.float64) / math.sqrt(q.shape[-1])
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) @ v.astype(np.float64)


def inputs(b: int, heads: int, n: int, m: int, dim: int, value_dim: int, value_heads: int = 0) -> list[np.ndarray]:
    shapes = (b, heads, n, dim), (b, heads, m, dim), (b, value_heads or heads, m, value_dim)
    return [normal(key, shape, 0) for key, shape in zip("qkv", shapes, strict=True)]


SHAPES = {
    "one head": (1, 1, 5, 7, 8, 8),
    "narrow values": (2, 1, 6, 9, 16, 4),
    "heads": (2, 3, 4, 11, 8, 8),
    "heads that share values": (2, 3, 4, 11, 8, 4, 1),
    "one query": (3, 2, 1, 5, 4, 4),
    "one key": (1, 2, 5, 1, 4, 4),
}


@pytest.mark.parametrize("name", SHAPES)
def test_by_its_definition(name: str) -> None:
    q, k, v = inputs(*SHAPES[name])
    got = attend(*(mx.array(x) for x in (q, k, v)))
    np.testing.assert_allclose(np.array(got), by_definition(q, k, v), rtol=0, atol=2e-6)  # measured: 2.9e-7


@pytest.mark.parametrize("most", [1, 7, 11, 44, 100, 132, 263, 264])
def test_every_size_of_piece(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of less than a query, of some queries, of whole items, and all at once: 3 * 2 * 4 * 11 = 264 scores."""
    q, k, v = (mx.array(x) for x in inputs(3, 2, 4, 11, 8, 8))
    whole = np.array(attend(q, k, v))
    monkeypatch.setattr(attention, "UNDER_WAY", {mx.cpu: 1})
    monkeypatch.setattr(attention, "MAX_SCORES", most)
    np.testing.assert_allclose(
        np.array(attend(q, k, v)), whole, rtol=0, atol=1e-6
    )  # measured: none; BLAS may choose another way


@pytest.mark.parametrize(("dim", "value_dim"), [(56, 56), (64, 16), (72, 72), (96, 96), (112, 112), (40, 64)])
def test_padding_to_a_fused_head_dim_is_exact(dim: int, value_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(1, 2, 10, 13, dim, value_dim)
    monkeypatch.setattr(attention, "_on_metal", lambda: True)
    got = attend(*(mx.array(x) for x in (q, k, v)))
    np.testing.assert_allclose(np.array(got), by_definition(q, k, v), rtol=0, atol=2e-6)  # measured: 2.9e-7


@pytest.mark.parametrize(
    ("dim", "value_dim", "width"),
    [(96, 96, 96), (56, 56, 64), (72, 72, 72), (16, 16, None), (32, 32, None), (256, 64, None), (64, 16, 64)],
)
def test_fused_width(dim: int, value_dim: int, width: int | None) -> None:
    assert attention.fused_width(dim, value_dim) == width


@pytest.mark.parametrize("batch", [1, 8])
def test_scores_are_bounded(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MB of scores (8 with a batch of 8), of which 8 may exist at once, beside inputs and results."""
    monkeypatch.setattr(attention, "MAX_SCORES", 1 << 21)
    q, k, v = (mx.array(x) for x in inputs(batch, 1, 4096 // batch, 4096, 8, 8))
    mx.eval(q, k, v)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(attend(q, k, v))
    assert mx.get_peak_memory() - before < 20e6  # measured: 8.9e6 and 10.6e6

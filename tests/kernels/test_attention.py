"""Attention with MLX's own operations: by its definition, in pieces, padded."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam2.kernels import attend, attention, cpu, gpu
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
    way, found = gpu.attention_way(gpu.SHADERS, mx.float16, 4096, dim, value_dim)
    assert (found if way == gpu.FUSED else None) == width


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


# ---- exponentials by products, on the CPU


@pytest.fixture
def by_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "LEAST_BY_PRODUCTS", 1)


def test_the_exponential() -> None:
    x = -np.geomspace(1e-6, 87, 100_000, dtype=np.float32)
    got = np.array(cpu.exp_of_negative(mx.array(x))).astype(np.float64)
    exact = np.exp(x.astype(np.float64))
    floor = 2.0**-126  # is taken off
    assert (np.abs(got + floor - exact) / exact).max() < 5e-6  # measured: 4e-6 at -87, whose last bit is 8e-6
    near = x > -1
    assert (np.abs(got - exact) / exact)[near].max() < 2e-7  # measured: 1.7e-7
    ends = np.array(cpu.exp_of_negative(mx.array([0.0, -88.0, -1e30, -np.inf, np.nan])))
    assert ends[:4].tolist() == [1, 0, 0, 0] and np.isnan(ends[4])


@pytest.mark.parametrize("cached", [1, 7, 44, 100, 132, 264, 1 << 18])
@pytest.mark.parametrize("name", SHAPES)
def test_products_by_their_definition(
    name: str, cached: int, by_products: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of less than a key, of some keys, of whole heads and items, and all at once."""
    monkeypatch.setattr(cpu, "PIECE", cached)
    monkeypatch.setattr(cpu, "QUERIES", 2)
    q, k, v = inputs(*SHAPES[name])
    got = attend(*(mx.array(x) for x in (q, k, v)))
    np.testing.assert_allclose(np.array(got), by_definition(q, k, v), rtol=0, atol=2e-6)  # measured: 3e-7


@pytest.mark.parametrize("cached", [7, 1 << 18])
def test_products_leave_out_a_key_exactly(cached: int, by_products: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "PIECE", cached)
    q, k, v = (mx.array(x) for x in inputs(2, 3, 4, 11, 8, 8))
    bias = mx.array([[0.0] * 8 + [-np.inf] * 3] * 2)
    wild = mx.concatenate([v[:, :, :8], mx.full((2, 3, 3, 8), 1e30)], axis=2)
    close = np.array(attend(q, k[:, :, :8], v[:, :, :8]))
    np.testing.assert_allclose(np.array(attend(q, k, wild, bias)), close, rtol=0, atol=2e-6)  # measured: 2e-7
    shifted = np.array(attend(q, k, v, mx.array(np.arange(22, dtype=np.float32).reshape(2, 11))))
    scores = np.array(q).astype(np.float64) @ np.swapaxes(np.array(k), 2, 3) / math.sqrt(8)
    shares = np.exp(scores + np.arange(22).reshape(2, 1, 1, 11))
    expected = shares / shares.sum(-1, keepdims=True) @ np.array(v)
    np.testing.assert_allclose(shifted, expected, rtol=0, atol=5e-6)  # measured: 6e-7


@pytest.mark.parametrize("cached", [5, 1 << 18])
def test_softmax_by_products(cached: int, by_products: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "PIECE", cached)
    x = mx.array(20 * normal("x", (3, 4, 7), 0))
    np.testing.assert_allclose(
        np.array(attention.softmax(x)), np.array(mx.softmax(x, axis=-1)), rtol=0, atol=1e-6
    )  # measured: 1.2e-7


def test_gradients_go_through_products(by_products: None) -> None:
    q, k, v = (mx.array(x) for x in inputs(2, 2, 4, 11, 8, 8))

    def slopes() -> list[np.ndarray]:
        return [np.array(g) for g in mx.grad(lambda *x: attend(*x).square().sum(), argnums=(0, 1, 2))(q, k, v)]

    got = slopes()
    attention.LEAST_BY_PRODUCTS = 1 << 60  # the fixture's; put back by it
    for ours, expected in zip(got, slopes(), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)  # measured: 9e-7

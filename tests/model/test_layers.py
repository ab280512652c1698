"""Small parts of the model: resizing against torch, encodings against the official code, attention against numpy."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

import synthetic
from answers import make_layers
from mlx_sam2.model.layers import MLP, Attention, gelu
from mlx_sam2.model.position_encoding import PositionEmbeddingRandom, sine_position_encoding, sine_time_encoding
from mlx_sam2.model.resize import resize_bicubic, resize_bilinear
from synthetic import normal

STORED = np.load(synthetic.DATA / "layers.npz")
MODES = {
    "bilinear": resize_bilinear,
    "antialias": lambda x, size: resize_bilinear(x, size, antialias=True),
    "bicubic": resize_bicubic,
}


# ---- resizing


@pytest.mark.parametrize("name", make_layers.RESIZE)
@pytest.mark.parametrize("mode", MODES)
def test_resize(mode: str, name: str) -> None:
    shape, size = make_layers.RESIZE[name]
    x = normal(name, shape, 0)
    got = MODES[mode](mx.array(x[None]), size)
    assert got.dtype == mx.float32
    # measured: 3e-6 where 300 rows become 7, else 3e-7; a GPU whose products have fewer digits shows here
    np.testing.assert_allclose(np.array(got[0]), STORED[f"{mode}.{name}"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_resize_keeps_batch_and_channels_apart(mode: str) -> None:
    x = normal("batch", (3, 6, 5, 4), 0)
    got = np.array(MODES[mode](mx.array(x), (4, 9)))
    assert got.shape == (3, 4, 9, 4)
    for b in range(3):
        for c in range(4):
            alone = MODES[mode](mx.array(x[b : b + 1, :, :, c : c + 1]), (4, 9))
            np.testing.assert_allclose(got[b, :, :, c], np.array(alone)[0, :, :, 0], rtol=0, atol=2e-6)


@pytest.mark.parametrize("mode", MODES)
def test_resize_works_in_float32(mode: str) -> None:
    x = mx.array(normal("half", (1, 6, 5, 2), 0)).astype(mx.float16)
    got = MODES[mode](x, (9, 4))
    assert got.dtype == mx.float32
    np.testing.assert_array_equal(np.array(got), np.array(MODES[mode](x.astype(mx.float32), (9, 4))))


def triangle(in_size: int, out: np.ndarray, out_size: int) -> np.ndarray:
    """Rows `out` of the antialiased filter, by its definition, in float64."""
    scale = in_size / out_size
    distance = (np.arange(in_size) + 0.5 - (out[:, None] + 0.5) * scale) / max(scale, 1)
    weight = np.maximum(1 - np.abs(distance), 0)
    return weight / weight.sum(axis=1, keepdims=True)


def test_resize_of_a_photo() -> None:
    """1200 x 1800 to 1024 x 1024. A batched product of these sizes has more than 2**31 elements to step over,
    which MLX 0.32 gets wrong without a word, so the rows and columns near the end are what counts."""
    x = normal("photo", (1200, 1800, 2), 0)
    got = np.array(resize_bilinear(mx.array(x[None]), (1024, 1024), antialias=True))[0]
    assert got.shape == (1024, 1024, 2)
    rows, columns = np.array([0, 1, 511, 700, 1022, 1023]), np.array([0, 3, 512, 900, 1021, 1023])
    expected = np.einsum("yh,hwc,xw->yxc", triangle(1200, rows, 1024), x, triangle(1800, columns, 1024), optimize=True)
    np.testing.assert_allclose(got[rows][:, columns], expected, rtol=0, atol=1e-6)  # measured: 1e-7


# ---- position encodings


@pytest.mark.parametrize("name", make_layers.SINE)
def test_sine_position_encoding(name: str) -> None:
    height, width, channels = make_layers.SINE[name]
    got = sine_position_encoding(height, width, channels)
    assert got.shape == (1, height, width, channels)
    np.testing.assert_allclose(np.array(got[0]), STORED[f"sine.{name}"], rtol=0, atol=2e-6)  # measured: 2e-7


def test_sine_position_encoding_of_another_temperature() -> None:
    """By its definition: y first, sine and cosine taking turns, positions from 1/H to 1 of a full turn."""
    height, width, channels, temperature = 3, 2, 12, 50.0
    expected = np.empty((height, width, channels))
    for y, x, i in np.ndindex(height, width, channels):
        half = channels // 2
        place = (y + 1) / height if i < half else (x + 1) / width
        angle = 2 * math.pi * place / temperature ** (2 * (i % half // 2) / half)
        expected[y, x, i] = math.sin(angle) if i % 2 == 0 else math.cos(angle)
    got = np.array(sine_position_encoding(height, width, channels, temperature))[0]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)  # measured: 3e-6, most of it the official 1e-6


@pytest.mark.parametrize("channels", make_layers.TIME_CHANNELS)
def test_sine_time_encoding(channels: int) -> None:
    got = sine_time_encoding(mx.array(make_layers.TIMES), channels)
    np.testing.assert_allclose(np.array(got), STORED[f"time.{channels}"], rtol=0, atol=6e-7)  # measured: 6e-8


@pytest.fixture
def random_encoding() -> PositionEmbeddingRandom:
    encoding = PositionEmbeddingRandom(make_layers.RANDOM_FEATURES)
    encoding.positional_encoding_gaussian_matrix = mx.array(normal("random", (2, make_layers.RANDOM_FEATURES), 0))
    return encoding


def test_random_encoding_of_points(random_encoding: PositionEmbeddingRandom) -> None:
    got = random_encoding(mx.array([make_layers.POINTS]))
    np.testing.assert_allclose(np.array(got)[0], STORED["random.points"], rtol=0, atol=6e-7)  # measured: 6e-8


def test_random_encoding_of_a_grid(random_encoding: PositionEmbeddingRandom) -> None:
    got = random_encoding.grid(*make_layers.RANDOM_GRID)
    np.testing.assert_allclose(np.array(got)[0], STORED["random.grid"], rtol=0, atol=6e-7)  # measured: 6e-8


def test_random_encoding_is_float32_under_half_weights(random_encoding: PositionEmbeddingRandom) -> None:
    half = random_encoding.positional_encoding_gaussian_matrix.astype(mx.float16)
    random_encoding.positional_encoding_gaussian_matrix = half
    points = mx.array(make_layers.POINTS)
    got = random_encoding(points)
    assert got.dtype == mx.float32
    random_encoding.positional_encoding_gaussian_matrix = half.astype(mx.float32)
    np.testing.assert_array_equal(np.array(got), np.array(random_encoding(points)))


# ---- attention and MLP, in float64 by their definitions


def weights_of(linear: object) -> tuple[np.ndarray, np.ndarray]:
    return np.array(linear.weight, np.float64), np.array(linear.bias, np.float64)


def fill(module: object, seed: int = 0) -> None:
    """Weights and biases that are far from their start, biases included."""
    from mlx.utils import tree_flatten

    values = [
        (k, mx.array(normal(k, v.shape, seed) / math.sqrt(v.shape[-1]))) for k, v in tree_flatten(module.parameters())
    ]
    module.load_weights(values)


@pytest.mark.parametrize(
    ("dim", "heads", "rate", "kv_dim"), [(16, 1, 1, None), (16, 4, 1, None), (16, 2, 2, None), (24, 3, 2, 10)]
)
def test_attention(dim: int, heads: int, rate: int, kv_dim: int | None) -> None:
    attention = Attention(dim, heads, rate, kv_dim)
    fill(attention)
    kv = kv_dim or dim
    q, k, v = (3 * normal(n, s, 0) for n, s in (("q", (2, 5, dim)), ("k", (2, 7, kv)), ("v", (2, 7, kv))))
    inner = dim // rate
    expected = np.empty((2, 5, inner))
    (wq, bq), (wk, bk), (wv, bv), (wo, bo) = (weights_of(attention[f"{n}_proj"]) for n in ("q", "k", "v", "out"))
    assert wq.shape == (inner, dim)
    for b in range(2):
        for head in range(heads):
            part = slice(head * inner // heads, (head + 1) * inner // heads)
            scores = (q[b] @ wq.T + bq)[:, part] @ (k[b] @ wk.T + bk)[:, part].T / math.sqrt(inner / heads)
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            shares /= shares.sum(axis=1, keepdims=True)
            expected[b, :, part] = shares @ (v[b] @ wv.T + bv)[:, part]
    got = np.array(attention(mx.array(q), mx.array(k), mx.array(v)))
    np.testing.assert_allclose(got, expected @ wo.T + bo, rtol=0, atol=2e-5)  # measured: 5e-6


@pytest.mark.parametrize(("activation", "sigmoid"), [("relu", False), ("gelu", False), ("relu", True)])
@pytest.mark.parametrize("layers", [1, 3])
def test_mlp(activation: str, sigmoid: bool, layers: int) -> None:
    mlp = MLP(6, 10, 4, layers, activation, sigmoid)
    fill(mlp)
    act = {
        "relu": lambda x: np.maximum(x, 0),
        "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),  # the exact form
    }[activation]
    x = 3 * normal("x", (2, 3, 6), 0)
    expected = x.astype(np.float64)
    for i, layer in enumerate(mlp.layers):
        weight, bias = weights_of(layer)
        expected = expected @ weight.T + bias
        expected = act(expected) if i < layers - 1 else expected
    expected = 1 / (1 + np.exp(-expected)) if sigmoid else expected
    np.testing.assert_allclose(np.array(mlp(mx.array(x))), expected, rtol=0, atol=1e-5)  # measured: 1e-6


def test_gelu_is_the_exact_one() -> None:
    """Against erf in float64, in the tails too, and over the boundary of two chunks."""
    x = np.concatenate([np.linspace(-12, 12, 400_001), [0.0, -0.0, 1e-30, 30, -30]]).astype(np.float32)
    got = np.array(gelu(mx.array(x.reshape(2, -1)))).reshape(-1)
    exact = 0.5 * x.astype(np.float64) * (1 + np.array([math.erf(v) for v in x.astype(np.float64) / math.sqrt(2)]))
    np.testing.assert_allclose(got, exact, rtol=0, atol=2e-6)  # measured: 1.4e-6; MLX's own: 5e-7


def test_gelu_keeps_shape_and_dtype() -> None:
    for shape in ((0, 3), (1,), (2, 3, 5, 7)):
        for dtype in (mx.float32, mx.float16):
            assert gelu(mx.ones(shape, dtype)).shape == shape
            assert gelu(mx.ones(shape, dtype)).dtype == dtype

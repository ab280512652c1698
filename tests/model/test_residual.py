"""A residual stream whose biases are kept apart, and its normalisation: reference, Metal kernel, stream."""

from __future__ import annotations

import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from metal import NAMES, RELATIVE, emulated
from mlx_sam2.kernels import dispatch, shifted_layer_norm
from mlx_sam2.kernels.dispatch import exact_reference, make_arguments, relative_difference
from mlx_sam2.kernels.shifted_layer_norm import shifted_layer_norm_op as OP
from mlx_sam2.model.residual import ResidualStream
from synthetic import normal

SMALL = [case for case in OP.cases if case[0].shape in ((1, 8), (5, 20), (64, 132), (11, 96), (19, 96), (19, 1152))]
PUBLISHED = [case for case in OP.cases if case[0].shape[0] == 19]


def by_definition(x: np.ndarray, shift: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64) + shift
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * weight + bias


def test_the_reference_by_its_definition() -> None:
    args = [normal("x", (2, 3, 5, 12), 0), *(normal(name, (12,), 0) for name in ("shift", "weight", "bias"))]
    got = shifted_layer_norm(*map(mx.array, args), 1e-2)
    np.testing.assert_allclose(np.array(got), by_definition(*args, 1e-2), rtol=0, atol=1e-5)  # measured: 1e-6


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize(("order", "busy"), [("forward", 2048), ("random", 2)])
def test_the_kernel(dtype: str, order: str, busy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["mlx_sam2.kernels.shifted_layer_norm"], "BUSY", busy)  # two have all rows
    with emulated("check", order) as reports:
        for case in SMALL:
            args = make_arguments(case, NAMES[dtype])
            result = shifted_layer_norm(*args)
            mx.eval(result)
            assert relative_difference(result, exact_reference(OP, args)) <= RELATIVE[NAMES[dtype]], case
            report = reports[-1]
            assert "shifted_layer_norm" in report.name and not report.warnings
            moved = {name: t["loaded"] + t["stored"] for name, t in report.traffic.items()}
            assert moved["x"] == moved["out"] == args[0].nbytes  # each element once
            assert report.threadgroup_bytes == 0
            vectors = 32 * -(-args[0].shape[-1] // 128) * 4 * min(busy, len(args[0]))  # read by each simdgroup
            assert moved["shift"] == 4 * vectors and moved["weight"] == moved["bias"] == args[0].dtype.size * vectors


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NAMES)
def test_the_kernel_at_every_width_of_the_published_models(dtype: str) -> None:
    assert len(PUBLISHED) == 12
    with emulated("check"):
        for case in PUBLISHED:
            args = make_arguments(case, NAMES[dtype])
            assert relative_difference(shifted_layer_norm(*args), exact_reference(OP, args)) <= RELATIVE[NAMES[dtype]]


def test_the_kernel_takes_a_large_mean() -> None:
    """Where E[x^2] - E[x]^2 would have lost everything."""
    args = make_arguments((dispatch.Tensor((9, 96)), *OP.cases[0][1:]), mx.float32)
    x, vector = args[0] + 1000.0, mx.ones(96)
    with emulated("check"):
        got = np.array(shifted_layer_norm(x, 0 * vector, vector, vector, 1e-6))
    expected = by_definition(np.array(x), np.zeros(96), np.ones(96), np.ones(96), 1e-6)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-3)  # measured: 2e-4; the float32 of x itself


def test_a_wrong_kernel_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["mlx_sam2.kernels.shifted_layer_norm"]
    assert "v[i] - mean" in module.SOURCE
    monkeypatch.setattr(module, "SOURCE", module.SOURCE.replace("v[i] - mean", "v[i] + mean"))
    args = make_arguments(OP.cases[1], mx.float32)
    expected = np.array(OP.reference(*args))
    with emulated("fast"), pytest.warns(RuntimeWarning, match="shifted_layer_norm .* it differs from the reference"):
        np.testing.assert_array_equal(np.array(shifted_layer_norm(*args)), expected)


# ---- the stream


def layers() -> tuple[nn.Linear, nn.Linear, nn.LayerNorm]:
    first, second, norm = nn.Linear(64, 32), nn.Linear(64, 32), nn.LayerNorm(32, eps=1e-6)
    for i, layer in enumerate((first, second, norm)):
        layer.update({name: mx.array(normal(f"{name}{i}", w.shape, 0)) for name, w in layer.items() if name != "dims"})
    return first, second, norm


@pytest.mark.parametrize("packed", [(), (0,), (1,), (0, 1)], ids=["plain", "first packed", "second packed", "packed"])
def test_a_stream_is_a_sum(packed: tuple[int, ...]) -> None:
    *linear, norm = layers()
    for i in packed:
        linear[i] = linear[i].to_quantized(group_size=32, bits=8)
    y, z = (mx.array(normal(name, (2, 5, 64), 0)) for name in "yz")
    x = linear[0](y)
    stream = ResidualStream.starting(linear[0], y).plus(linear[1], z)
    total = x + linear[1](z)
    np.testing.assert_allclose(np.array(stream.value()), np.array(total), rtol=0, atol=1e-4)  # measured: 1e-5
    np.testing.assert_allclose(np.array(stream.normed(norm)), np.array(norm(total)), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(np.array(ResidualStream.of(x).plus(linear[1], z).shift != 0).any(), 1 not in packed)


class Adapter(nn.Linear):
    """What a fine-tuning library puts in place of a layer."""

    def __call__(self, x: mx.array) -> mx.array:
        return 2 * super().__call__(x)


def test_a_layer_of_another_kind_is_called() -> None:
    layer, y = Adapter(64, 32), mx.array(normal("y", (5, 64), 0))
    expected = np.array(layer(y))
    np.testing.assert_allclose(np.array(ResidualStream.starting(layer, y).value()), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        np.array(ResidualStream.of(0 * layer(y)).plus(layer, y).value()), expected, rtol=0, atol=1e-6
    )

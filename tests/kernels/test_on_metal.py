"""On a machine with Metal: every kernel at every case on the GPU, and the model with and without them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import mlx.core as mx
import numpy as np
import pytest

import metal
import synthetic
from mlx_sam2.kernels import rules
from mlx_sam2.kernels.dispatch import (
    Op,
    arrays_of,
    exact_reference,
    forget_checks,
    make_arguments,
    references_only,
    relative_difference,
)
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor

pytestmark = pytest.mark.skipif(
    not mx.metal.is_available(), reason="no Metal on this machine: the emulated tests stand in for these"
)


@pytest.fixture(autouse=True)
def on_the_gpu(on_the_cpu: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    mx.set_default_device(mx.gpu)
    monkeypatch.setenv(rules.VARIABLE, "1")
    forget_checks()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "mlx_sam2: ")  # a kernel that fails its first-use check fails the test
        yield
    forget_checks()
    mx.set_default_device(mx.cpu)


@pytest.mark.parametrize("dtype", metal.NAMES)
@pytest.mark.parametrize("op", metal.all_ops(), ids=lambda op: op.name)
def test_every_case(op: Op, dtype: str) -> None:
    for case in op.cases:
        args = make_arguments(case, metal.NAMES[dtype])
        if op.supports(*args):
            difference = relative_difference(op(*args), exact_reference(op, args))
            assert difference <= metal.allowed(op, metal.NAMES[dtype]), case


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("op", metal.all_ops(), ids=lambda op: op.name)
def test_gradients(op: Op, compiled: bool) -> None:
    """As of the reference in float32 on the CPU, for the first case of each op; an M5 needs MLX_ENABLE_TF32=0."""
    args = make_arguments(op.cases[0], mx.float32)
    places = [i for i, a in enumerate(args) if isinstance(a, mx.array)]

    def loss(way: Callable[..., mx.array], *arrays: mx.array) -> mx.array:
        found = dict(zip(places, arrays, strict=True))
        results = arrays_of(way(*(found.get(i, a) for i, a in enumerate(args))))
        return sum((x * mx.cos(mx.arange(x.size)).reshape(x.shape)).sum() for x in results)

    arrays, which = [args[i] for i in places], tuple(range(len(places)))
    function = mx.grad(lambda *arrays: loss(op, *arrays), argnums=which)
    found = (mx.compile(function) if compiled else function)(*arrays)
    mx.eval(found)
    with mx.stream(mx.cpu), references_only():
        expected = mx.grad(lambda *arrays: loss(op.reference, *arrays), argnums=which)(*arrays)
        mx.eval(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_difference(ours, theirs) <= 1e-4


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_model_with_and_without(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    model = synthetic.nano_model()
    model.set_dtype(metal.NAMES[dtype])
    masks = {}
    for value in ("0", "1"):
        monkeypatch.setenv(rules.VARIABLE, value)
        predictor = SAM2ImagePredictor(model)
        predictor.set_image(synthetic.picture(300, 200))
        masks[value] = predictor.predict(box=[30, 80, 140, 190])[0]
    assert 0 < masks["0"].mean() < 1
    assert (masks["0"] != masks["1"]).mean() <= (1e-3 if dtype == "float32" else 1e-2)
    assert np.isfinite(masks["1"]).all()

"""Every op has the gradient of its reference, through its kernel: recorded, and run in the emulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import metal as metal_support
import synthetic
from made_ops import X, make_op, metal, nothing_remembered  # noqa: F401  fixtures
from mlx_sam2.kernels import dispatch, rules
from mlx_sam2.kernels.dispatch import Op, make_arguments, references_only

OPS = metal_support.all_ops()
each_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)


def small_case(op: Op) -> tuple[Any, ...]:
    return make_arguments(op.cases[0], mx.float32)


def gradient(call: Callable[..., mx.array], args: tuple[Any, ...]) -> Callable[..., tuple[mx.array, ...]]:
    """A function of the arrays among `args`: the gradient of a weighted sum of what the call gives."""
    places = [i for i, a in enumerate(args) if isinstance(a, mx.array)]

    def loss(*arrays: mx.array) -> mx.array:
        given = list(args)
        for i, array in zip(places, arrays, strict=True):
            given[i] = array
        results = dispatch.arrays_of(call(*given))
        return sum((x * mx.cos(mx.arange(x.size)).reshape(x.shape)).sum() for x in results)

    return mx.grad(loss, argnums=tuple(range(len(places))))


def arrays_of(args: tuple[Any, ...]) -> list[mx.array]:
    return [a for a in args if isinstance(a, mx.array)]


# ---- the rule, on an op that is made up


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize("compiled", [False, True])
def test_the_gradient_is_that_of_the_reference(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has none: its values are held, as those of a real one are."""
    monkeypatch.setenv(rules.VARIABLE, "1")
    monkeypatch.setattr(dispatch, "_trusted", lambda op, *args: True)
    op = make_op(lambda x: mx.stop_gradient(x + x))
    function = mx.value_and_grad(lambda x: (op(x) * op(x)).sum())
    value, found = (mx.compile(function) if compiled else function)(X)
    with mx.stream(mx.cpu):
        assert value.item() == (4 * X * X).sum().item()
        np.testing.assert_array_equal(np.array(found), np.array(8 * X))


@pytest.mark.usefixtures("metal")
def test_constants_and_several_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rules.VARIABLE, "1")
    monkeypatch.setattr(dispatch, "_trusted", lambda op, *args: True)

    def product(a: mx.array, factor: int, b: mx.array) -> mx.array:
        return factor * a * b

    op = make_op(
        lambda *args: mx.stop_gradient(product(*args)),
        reference=product,
        supports=lambda *args: True,
        variant=lambda *args: "",
        size=lambda *args: "",
    )
    of_b = mx.grad(lambda b: op(X, 3, b).sum())(X + 1)
    of_a, of_both = mx.grad(lambda a, b: op(a, 3, b).sum(), argnums=(0, 1))(X, X + 1)
    with mx.stream(mx.cpu):
        for found, expected in ((of_b, 3 * X), (of_a, 3 * X + 3), (of_both, 3 * X)):
            np.testing.assert_array_equal(np.array(found), np.array(expected))


# ---- the ops of the model


@each_op
def test_through_the_recorded_kernel(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX traces the kernel; its gradient is made of MLX's own operations, which alone are left in the graph."""
    monkeypatch.setattr(Op, "uses_kernel", lambda self, *args: self is op)  # a reference may call others
    args = small_case(op)
    records: list[dict[str, Any]] = []
    mx.export_function(records.append, gradient(op, args), *arrays_of(args))
    names = {record["name"] for record in records if record["type"] == "primitive"}
    assert names and not names & {"CustomKernel", "CustomTransforms"}


@each_op
def test_a_traced_kernel_has_no_gradient(op: Op, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX cannot write a function that has a gradient of its own."""
    monkeypatch.setattr(Op, "uses_kernel", lambda self, *args: True)
    args = small_case(op)
    places = [i for i, a in enumerate(args) if isinstance(a, mx.array)]

    def call(*arrays: mx.array) -> mx.array:
        found = dict(zip(places, arrays, strict=True))
        return op(*(found.get(i, a) for i, a in enumerate(args)))

    records: list[dict[str, Any]] = []
    with pytest.raises(ValueError, match="CustomTransforms"):
        mx.export_function(records.append, call, *arrays_of(args))
    for tracing in (dispatch.tracing_on_metal, dispatch.tracing_for_metal):
        records.clear()
        with tracing():
            mx.export_function(records.append, call, *arrays_of(args))
        assert "CustomKernel" in {record.get("name") for record in records}


@each_op
def test_through_the_emulator(op: Op) -> None:
    args = small_case(op)
    with references_only():
        expected = gradient(op, args)(*arrays_of(args))
        mx.eval(expected)
    with metal_support.emulated("fast") as reports:
        found = gradient(op, args)(*arrays_of(args))
        mx.eval(found)
    assert any(op.name in report.name for report in reports)
    for ours, theirs in zip(found, expected, strict=True):
        # measured: 2e-6 of the largest, by the other softmax of MLX's CPU backend
        np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=0, atol=2e-5 * np.abs(np.array(theirs)).max())


@pytest.mark.slow
def test_training_through_the_image_encoder() -> None:
    """Gradients of all weights of the encoder, with its kernels and without them."""
    model = synthetic.nano_model()
    pixels = mx.array(synthetic.normal("pixels", (1, 256, 256, 3), 0))

    def loss(weights: dict[str, Any]) -> mx.array:
        model.image_encoder.update(weights)
        return (model.encode_image(pixels).embedding ** 2).mean()

    weights = model.image_encoder.parameters()
    with references_only():
        expected = mx.grad(loss)(weights)
        mx.eval(expected)
    with metal_support.emulated("fast"):
        found = mx.grad(loss)(weights)
        mx.eval(found)
    for (name, ours), (_, theirs) in zip(tree_flatten(found), tree_flatten(expected), strict=True):
        a, b = np.array(ours), np.array(theirs)
        assert np.abs(a - b).max() <= 1.5e-5 * np.abs(b).max(), name  # measured: 1.7e-6

"""Which way an op goes: the rule and the check at first use. No Metal and no emulator is needed."""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import synthetic
from made_ops import X, make_op, metal, nothing_remembered  # noqa: F401  fixtures
from mlx_sam2.kernels import dispatch, rules
from mlx_sam2.kernels.dispatch import Tensor
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

# ---- the rule


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize(
    ("value", "preferred", "through_kernel"),
    [(None, True, True), (None, False, False), ("", False, False), ("0", True, False), ("1", False, True)],
)
def test_the_variable(
    monkeypatch: pytest.MonkeyPatch, value: str | None, preferred: bool, through_kernel: bool
) -> None:
    if value is not None:
        monkeypatch.setenv(rules.VARIABLE, value)
    op = make_op(preferred=lambda x: preferred)
    np.testing.assert_array_equal(np.array(op(X)), 2 * np.arange(8))
    assert bool(op.calls) is through_kernel
    assert op.uses_kernel(X) is through_kernel


@pytest.mark.usefixtures("metal")
def test_another_value_is_told_once_and_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rules.VARIABLE, "off")
    op = make_op()
    with pytest.warns(RuntimeWarning, match="MLX_SAM2_KERNELS='off' is ignored: 0 turns the Metal kernels off") as told:
        results = [op(X), op(X)]
    assert len(told) == 1
    assert len(op.calls) == len(results)


def test_the_rule_is_asked_at_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    op = make_op()
    for allowed in (False, True, False, True):
        monkeypatch.setattr(rules, "metal_allowed", lambda allowed=allowed: allowed)
        op.calls.clear()
        op(X)
        assert bool(op.calls) is allowed


@pytest.mark.skipif(mx.metal.is_available(), reason="this machine has Metal")
def test_without_metal_no_variable_brings_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rules.VARIABLE, "1")
    op = make_op()
    op(X)
    assert not op.calls


@pytest.mark.usefixtures("metal")
def test_a_default_device_that_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu, 0))
    monkeypatch.setenv(rules.VARIABLE, "1")
    assert not make_op().uses_kernel(X)


@pytest.mark.usefixtures("metal")
def test_what_the_kernel_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rules.VARIABLE, "1")
    op = make_op()
    assert op(mx.array(3.0)).item() == 6
    assert not op.calls


# ---- the check at first use


@pytest.mark.usefixtures("metal")
def test_one_check_for_each_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    check = dispatch.check
    monkeypatch.setattr(dispatch, "check", lambda op, *args: (checked.append(str(args[0].dtype)), check(op, *args))[1])
    op = make_op()
    for dtype in (mx.float32, mx.float16, mx.float32, mx.bfloat16, mx.float16):
        op(X.astype(dtype))
    assert checked == ["mlx.core.float32", "mlx.core.float16", "mlx.core.bfloat16"]
    assert len(op.calls) == 5


def raising(error: Exception) -> Callable[..., mx.array]:
    def kernel(*args: Any) -> mx.array:
        raise error

    return kernel


BROKEN = {
    "compile": (
        raising(RuntimeError("[metal::Device] Unable to build metal library from source\nmore")),
        r"it failed: \[metal::Device\] Unable to build metal library from source\. MLX's",
    ),
    "nothing said": (raising(ValueError()), "it failed: no message"),
    "another MLX": (raising(TypeError("__call__(): incompatible function arguments")), "it failed: __call__"),
    "no metal_kernel": (raising(AttributeError("no attribute 'metal_kernel'")), "it failed: no attribute"),
    "dtype": (lambda x: (2 * x).astype(mx.bfloat16), r"it gives bfloat16 in place of float32\. MLX's"),
    "wrong": (lambda x: 2.1 * x, r"it differs from the reference by 5\.0e-02 of the largest value \(allowed 1e-04\)"),
    "nan": (lambda x: x + mx.array(float("nan")), "it differs from the reference by inf"),
    "shape": (lambda x: (x + x)[:-1], "it differs from the reference by inf"),
}


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_kernel_is_told_once_and_replaced(fault: str) -> None:
    kernel, message = BROKEN[fault]
    op = make_op(kernel)
    with pytest.warns(RuntimeWarning, match=message) as told:
        # another variant is checked for itself, and its fault is not told again
        results = [op(X.astype(dtype)) for dtype in (mx.float32, mx.float32, mx.float16)]
    for result in results:
        np.testing.assert_array_equal(np.array(result.astype(mx.float32)), 2 * np.arange(8))
    assert len(told) == 1
    assert str(told[0].message).startswith("mlx_sam2: the Metal kernel double (mlx.core.float32) is not used")
    assert "\n" not in str(told[0].message)


@pytest.mark.usefixtures("metal")
def test_a_variant_that_fails_turns_off_itself_alone() -> None:
    op = make_op(lambda x: 3 * x if x.dtype == mx.float16 else x + x)
    assert op.uses_kernel(X)
    with pytest.warns(RuntimeWarning, match=r"double \(mlx.core.float16\) is not used"):
        assert not op.uses_kernel(X.astype(mx.float16))
    assert op.uses_kernel(X) and op.uses_kernel(X.astype(mx.bfloat16))
    assert not op.uses_kernel(X.astype(mx.float16))


@pytest.mark.usefixtures("metal")
def test_threads_check_once() -> None:
    started = threading.Barrier(8)
    checks: list[int] = []

    def kernel(x: mx.array) -> mx.array:
        if x.size == 3:
            checks.append(threading.get_ident())
        return x + x

    op = make_op(kernel)
    results: list[np.ndarray] = []

    def use() -> None:
        started.wait()
        results.append(np.array(op(mx.arange(8, dtype=mx.float32))))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(checks) == 1
    assert len(results) == 8
    assert all((r == 2 * np.arange(8)).all() for r in results)


@pytest.mark.usefixtures("metal")
def test_ops_inside_a_kernel_function_and_a_reference() -> None:
    """The first goes its own way, checked; the second stays a reference, or it would be no witness."""
    inner = make_op()
    outer = make_op(lambda x: inner(x), name="outer", reference=lambda x: inner(x))
    np.testing.assert_array_equal(np.array(outer(X)), 2 * np.arange(8))
    assert inner.calls == [(8,)]
    # an inner kernel whose own check sees nothing must not vouch for the outer one
    sly = make_op(lambda x: 2 * x if x.size == 5 else 3 * x, name="sly", check_case=lambda x: (Tensor((5,)),))
    outer = make_op(lambda x: 3 * x, name="outer 2", reference=lambda x: sly(x))
    with pytest.warns(RuntimeWarning, match="kernel outer 2 "):
        assert not outer.uses_kernel(X)


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize("broken", [False, True])
def test_the_check_works_while_compile_traces(broken: bool) -> None:
    op = make_op((lambda x: 3 * x) if broken else None)
    compiled = mx.compile(lambda x: op(x) + 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(np.array(compiled(X)), 2 * np.arange(8) + 1)
        np.testing.assert_array_equal(np.array(compiled(X + 1)), 2 * np.arange(8) + 3)
    assert len(told) == broken


def test_recorded_and_traced() -> None:
    op = make_op()
    with dispatch.recorded() as outer, dispatch.recorded() as inner:
        op(mx.zeros((4, 2), mx.float16))
    assert outer == inner == [(op, (Tensor((4, 2), mx.float16),))]
    with dispatch.tracing_for_metal():
        assert op.uses_kernel(X)
        with dispatch.references_only():
            assert not op.uses_kernel(X)
    assert not op.uses_kernel(X)


# ---- what the user gets


class BrokenMetal:
    """In place of ``mx.fast.metal_kernel``."""

    def __init__(self, fault: str) -> None:
        self.fault, self.names = fault, set()

    def __call__(self, *, name: str, **_: Any) -> Callable[..., list[mx.array]]:
        def call(*, output_shapes: list, output_dtypes: list, **_: Any) -> list[mx.array]:
            self.names.add(name.removeprefix("mlx_sam2_"))
            if self.fault == "compile":
                raise RuntimeError("[metal::Device] Unable to build metal library from source")
            return [mx.full(shape, 0.5, dtype) for shape, dtype in zip(output_shapes, output_dtypes, strict=True)]

        return call


def track(model: SAM2) -> list[np.ndarray]:
    """Masks of a click on three frames: every op of the model, image half and video half."""
    predictor = SAM2VideoPredictor(model, fill_hole_area=0)
    picture = synthetic.picture(54, 100)
    frames = [np.ascontiguousarray(picture[:, i : i + 96]) for i in range(3)]
    with predictor.init_state(frames) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        return [logits > 0 for _, _, logits in predictor.propagate_in_video(state)]


@pytest.mark.parametrize("fault", [pytest.param("compile", marks=pytest.mark.slow), "wrong"])
def test_the_right_mask_and_one_warning_an_op(nano_model: SAM2, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    model = nano_model.with_config(dataclasses.replace(nano_model.config, image_size=128))
    expected = track(model)
    broken = BrokenMetal(fault)
    monkeypatch.setattr(mx.fast, "metal_kernel", broken)
    monkeypatch.setattr(rules, "metal_allowed", lambda: True)
    monkeypatch.setattr(rules, "metal_forced", lambda: True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        masks = track(model)
    for ours, theirs in zip(masks, expected, strict=True):
        assert 0 < ours.mean() < 1
        np.testing.assert_array_equal(ours, theirs)
    assert "axial_rope" in broken.names
    with dispatch.recorded() as calls:
        track(model)
    warned = [str(w.message).split()[4] for w in told]
    assert sorted(warned) == sorted({op.name for op, _ in calls})

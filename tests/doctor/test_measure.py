"""Measurements of kernels that are right, slow, wrong, or emulated, with a clock that the ways move."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

import metal
from doctor_runs import main
from mlx_sam2 import machine
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.doctor import examination, measure, stages
from mlx_sam2.doctor.measure import Call, Measurement
from mlx_sam2.kernels import choices, dispatch, rules
from mlx_sam2.kernels.dispatch import Op, Tensor
from mlx_sam2.model.sam2 import SAM2


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", clock)
    return clock


def call_of(clock: Clock, kernel_ms: float, mlx_ms: float, factor: float = 2, **changes: Any) -> Call:
    """Doubles 250 000 numbers: 2 MB that move."""

    def taking(ms: float, factor: float) -> Callable[[mx.array], mx.array]:
        def way(x: mx.array) -> mx.array:
            clock.now += ms / 1e3
            return factor * x if x.size > 3 else 2 * x

        return way

    op = Op(
        name="double",
        reference=taking(mlx_ms, 2),
        kernel=changes.get("kernel", taking(kernel_ms, factor)),
        supports=lambda x: changes.get("serves", True),
        variant=lambda x: "float32",
        size=lambda x: f"n={x.size}",
        check_case=lambda x: (Tensor((3,)),),
        minimum_bytes=lambda x: 2 * x.nbytes,
        flops=lambda x: 4 * x.size,
    )
    return Call(op, (Tensor((250_000,), mx.float32),), 5)


@pytest.mark.parametrize(("kernel_ms", "mlx_ms", "faster"), [(2.0, 3.0, True), (3.0, 2.5, False)])
def test_the_faster_way_is_chosen(clock: Clock, kernel_ms: float, mlx_ms: float, faster: bool) -> None:
    (row,) = measure.measure([call_of(clock, kernel_ms, mlx_ms)], 100.0, quick=False)
    assert row.kernel_chosen is faster
    assert row.kernel_ms == pytest.approx(kernel_ms)
    assert row.mlx_ms == pytest.approx(mlx_ms)
    assert row.megabytes == 2.0
    assert row.share == pytest.approx(2e6 / (min(kernel_ms, mlx_ms) * 1e-3) / 100e9)
    assert (row.count, row.fault, row.difference) == (5, None, 0.0)


def test_a_kernel_that_is_wrong_at_full_size_only(clock: Clock) -> None:
    (row,) = measure.measure([call_of(clock, 1.0, 2.0, factor=2.01)], None, quick=False)
    assert row.fault == "it differs from the reference by 5.0e-03 of the largest value"
    assert (row.kernel_chosen, row.kernel_ms, row.share) == (False, None, None)
    (row,) = measure.measure([call_of(clock, 1.0, 2.0, factor=2.01)], None, quick=True)
    assert row.fault is None, "--quick looks at the small case only"


def test_a_kernel_that_does_not_compile(clock: Clock) -> None:
    def kernel(x: mx.array) -> mx.array:
        raise RuntimeError("no library\nbecause")

    (row,) = measure.measure([call_of(clock, 1.0, 2.0, kernel=kernel)], None, quick=False)
    assert (row.fault, row.kernel_chosen) == ("it failed: no library", False)


@pytest.mark.parametrize("quick", [False, True])
def test_a_kernel_that_fails_at_full_size_only(clock: Clock, quick: bool) -> None:
    def kernel(x: mx.array) -> mx.array:
        if x.size > 3:
            raise ValueError("Thread group size (1024) is greater than the maximum\nmore")
        return 2 * x

    (row,) = measure.measure([call_of(clock, 1.0, 2.0, kernel=kernel)], None, quick=quick)
    assert row.fault == "it failed: Thread group size (1024) is greater than the maximum"
    assert (row.kernel_chosen, row.kernel_ms, row.mlx_ms) == (False, None, pytest.approx(2.0))


def test_a_shape_that_no_kernel_serves_is_no_fault(clock: Clock) -> None:
    (row,) = measure.measure([call_of(clock, 1.0, 2.0, serves=False)], None, quick=False)
    assert (row.served, row.fault, row.kernel_chosen, row.mlx_ms) == (False, None, False, pytest.approx(2.0))


def test_what_is_stored_for_a_variant() -> None:
    def row(size: str, kernel_ms: float | None, mlx_ms: float, count: int = 1, served: bool = True) -> Measurement:
        fast = kernel_ms is not None and kernel_ms <= mlx_ms
        times = {"kernel_ms": kernel_ms, "mlx_ms": mlx_ms, "kernel_chosen": fast}
        return Measurement("o", "v", size, count, served, kind="o (float32)", **times)

    assert measure.chosen([row("a", 1.0, 3.0), row("b", 2.0, 1.0)]) == {
        "o (float32)": True,
        "o v": True,
        "o v a": True,
        "o v b": False,
    }
    assert measure.chosen([row("a", 1.0, 3.0), row("b", 2.0, 1.0, 3)])["o v"] is False, "three calls"
    assert measure.chosen([row("a", 1.0, 9.0), row("b", None, 1.0)])["o v"] is False, "wrong at one size"
    assert measure.chosen([row("a", None, 1.0, served=False)]) == {}
    wrong = dataclasses.replace(row("a", None, 1.0), variant="w")
    found = measure.chosen([row("a", 1.0, 9.0), wrong])
    assert (found["o v"], found["o w"], found["o (float32)"]) == (True, False, True), "a verdict is its variant's"


def test_references_where_products_are_those_of_tf32(clock: Clock) -> None:
    def off(x: mx.array) -> mx.array:  # first on the default device, then as the exact one
        return factors.pop(0) * x

    for reduced in (False, True):
        factors = [2.002, 2.0]
        call = call_of(clock, 1.0, 1.0)
        call = dataclasses.replace(call, op=dataclasses.replace(call.op, reference=off))
        (row,) = measure.verify_references([call], reduced)
        assert row.difference == pytest.approx(1e-3, rel=0.1)
        assert (row.fault is None) is reduced


@pytest.fixture
def pretended_metal(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Callable[[list[Call]], None]:
    """The doctor believes in Metal, and finds these calls in any model."""

    def pretend(calls: list[Call]) -> None:
        monkeypatch.setattr(rules, "metal_allowed", lambda: True)
        monkeypatch.setattr(measure, "record", lambda model: calls)
        monkeypatch.setattr(
            examination, "probe", lambda: {"relative_error": 1e-3, "precision": "reduced", "gflop_s": 1.0}
        )
        monkeypatch.setattr(examination, "yardstick", lambda: {"float32": 8.0, "float16": 9.0})
        monkeypatch.setattr(examination, "fused_pairs", lambda: {"64/64": True, "256/64": False, "96/96": True})
        monkeypatch.setattr(machine, "chip", lambda: "Apple M2 Max")
        row = stages.StageTime("image encoder", 20.0, 40.0, 0.25)
        monkeypatch.setattr(stages, "measure", lambda model, quick, product: [row])

    return pretend


def test_the_yardstick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "YARDSTICK", 32)
    found = examination.yardstick()
    assert list(found) == ["float32", "float16"] and min(found.values()) > 0


def test_asking_for_fused_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, force_fused: bool) -> mx.array:
        if q.shape[-1] != v.shape[-1]:
            raise ValueError("no such kernel")
        return q

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", attention)
    found = examination.fused_pairs()
    assert found["64/64"] is True and found["256/64"] is False
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda q, k, v, *, scale: q)
    assert examination.fused_pairs() is None, "an MLX before force_fused"


def test_the_table_and_what_is_stored(
    capsys: pytest.CaptureFixture[str], clock: Clock, pretended_metal: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = call_of(clock, 0.5, 1.0)
    pretended_metal([call])
    key = call.op.key(*call.placeholders())
    code, out, err = main(capsys, "--model", "tiny", "--no-store")
    assert (code, err) == (0, "")
    assert choices.lookup(key) is None
    code, out, err = main(capsys, "--model", "tiny")
    assert (code, err) == (0, "")
    assert choices.lookup(key) is True
    assert f"choices stored in {choices.path()}" in out.splitlines()
    lines = [line.split() for line in out.splitlines()]
    assert [
        "op",
        "shape",
        "calls",
        "difference",
        "kernel",
        "ms",
        "MLX",
        "ms",
        "MB",
        "of",
        "peak",
        "of",
        "product",
        "faster",
    ] in lines
    assert ["double", "float32", "n=250000", "5", "0.0e+00", "0.500", "1.000", "2.0", "1%", "25%", "kernel"] in lines
    assert "  products  float32 8 GFLOP/s, float16 9 GFLOP/s, the yardstick of the table" in out.splitlines()
    assert "  image encoder  20.00   40.0         25%" in out.splitlines()
    assert "  fused     attention of head dims 64/64, 96/96" in out.splitlines()
    assert (
        "note: float32 products run in reduced precision, as TF32 does, on this GPU; MLX_ENABLE_TF32=0 restores" in out
    )
    assert "400 GB/s" in out
    pretended_metal([call_of(clock, 2.0, 1.0)])
    assert main(capsys, "--model", "tiny")[0] == 0
    assert choices.lookup(key) is False


def test_a_wrong_kernel_is_the_verdict_and_never_chosen(
    capsys: pytest.CaptureFixture[str], clock: Clock, pretended_metal: Callable
) -> None:
    call = call_of(clock, 0.1, 1.0, factor=3)
    pretended_metal([call])
    code, out, err = main(capsys, "--model", "tiny")
    assert (code, err) == (1, "")
    assert "wrong: double (float32, n=250000): it differs from the reference by 5.0e-01 of the largest value" in out
    assert out.splitlines()[-1] == "verdict: WRONG, 1 of the checks failed"
    assert choices.lookup(call.op.key(*call.placeholders())) is False


def test_choices_that_cannot_be_stored(
    capsys: pytest.CaptureFixture[str], clock: Clock, pretended_metal: Callable, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    pretended_metal([call_of(clock, 0.5, 1.0)])
    code, out, err = main(capsys, "--model", "tiny")
    assert (code, err) == (0, "")
    assert f"note: the choices could not be stored ({tmp_path / 'cache'}: File exists)" in out


def test_all_variants_of_memory_attention_are_measured() -> None:
    """Keys split and whole, with and without padding; each frame once, and the batch is no size of its own."""
    model = SAM2(PUBLISHED["sam2.1_hiera_tiny"].config)
    model.set_dtype(mx.float16)
    calls = measure.record(model)
    keys = [call.op.key(*call.placeholders()) for call in calls]
    assert len(set(keys)) == len(keys)
    variants = {
        (call.op.variant(*call.placeholders()).partition("Dv=")[2], call.other)
        for call in calls
        if call.op.name == "memory_attention"
    }
    assert variants == {
        ("64 keys split", False),
        ("256 keys split", False),
        ("64 keys split", True),  # an early frame
        ("64 keys split biased", True),
        ("64 keys whole", True),
        ("64 keys whole biased", True),
        ("256 keys whole", True),
    }
    assert "memory_attention float16 D=256 Dv=64 keys split heads=1 N=4096 M=4100" in keys


def test_other_frames_are_held_against_small_cases(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    exact = dispatch.exact_reference
    monkeypatch.setattr(dispatch, "exact_reference", lambda op, args: (sizes.append(args[0].size), exact(op, args))[1])
    call = call_of(clock, 0.5, 1.0)
    for other in (False, True):
        sizes.clear()
        (row,) = measure.measure([dataclasses.replace(call, other=other)], None, quick=False)
        assert row.fault is None
        assert max(sizes) == (3 if other else 250_000)


@pytest.mark.slow
def test_every_op_of_a_model_in_the_emulator(
    capsys: pytest.CaptureFixture[str], nano_model: SAM2, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """The measuring, from the model to the stored choices and to what dispatch then does."""
    monkeypatch.setattr(measure, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(measure, "ROUND_SECONDS", 0.0)
    with metal.emulated("fast", forced=False) as reports:
        code, out, err = main(capsys, "--model", folder, "--quick", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["ops"]
    assert {row["op"] for row in rows} == {
        "axial_memory_attention", "axial_rope", "global_attention", "mask_logits", "mask_unit_attention",
        "memory_attention", "residual_layer_norm", "shifted_layer_norm", "upscaled_layer_norm",
    }  # fmt: skip
    for row in rows:
        assert row["served"]
        assert row["fault"] is None
        assert row["difference"] < 1e-5
        assert row["kernel_ms"] > 0
        assert row["mlx_ms"] > 0
        assert sum(f"mlx_sam2_{row['op']}_" in r.name for r in reports) >= 1
        assert choices.lookup(f"{row['op']} {row['variant']} {row['size']}") is row["kernel_chosen"]
    calls = measure.record(nano_model)
    monkeypatch.setattr(rules, "metal_allowed", lambda: True)
    monkeypatch.setattr(dispatch, "check", lambda op, *args: None)
    assert [c.op.uses_kernel(*c.placeholders()) for c in calls] == [row["kernel_chosen"] for row in rows]

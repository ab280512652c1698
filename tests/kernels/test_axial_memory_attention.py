"""Attention with scores in the memories' channels: the kernel against the definition, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import metal
from half_precision import summed_in_float32
from kernel_definitions import by_definition, difference
from mlx_sam2.config.parts import MemoryConfig
from mlx_sam2.kernels import axial_memory_attention, gpu
from mlx_sam2.kernels import axial_memory_attention as public
from mlx_sam2.kernels.axial_memory_attention import (
    COLUMNS,
    axial_memory_attention_op,
    pieces,
    registers,
    strip_splits,
    threadgroup_bytes,
)
from mlx_sam2.kernels.dispatch import make_arguments, recorded, relative_difference
from mlx_sam2.kernels.memory_attention import QUERIES, memory_attention_op
from mlx_sam2.model.memory import MemoryAttention, RoPEAttention
from synthetic import normal, with_weights

OP = axial_memory_attention_op
PUBLISHED = range(7, 11)  # cases of 256 and 64 channels, which the emulator compiles for 20 seconds each


def run_kernel(args: tuple[Any, ...], mode: str = "check", order: str = "forward") -> tuple[mx.array, Any]:
    with metal.emulated(mode, order) as reports:
        got = OP.kernel(*args)
        mx.eval(got)
    return got, reports[-1]


@pytest.mark.parametrize("case", range(7))
def test_the_reference_by_its_definition(case: int) -> None:
    args = make_arguments(OP.cases[case], mx.float32)
    assert difference(axial_memory_attention(*args), by_definition(OP, args)) <= 1e-5  # measured: 1e-6


def check_kernel(case: int, dtype: str, order: str) -> None:
    """Races, bounds, barriers and unwritten elements are errors in this mode."""
    args = make_arguments(OP.cases[case], metal.NAMES[dtype])
    got, report = run_kernel(args, order=order)
    assert got.dtype == metal.NAMES[dtype] and not report.warnings
    assert report.threadgroup_bytes == threadgroup_bytes(args[0].shape[-1], args[1].shape[-1], got.dtype.size)
    # measured: 1.5e-6, 9e-4 and 7e-3; with keys rounded before and after their rotation 2e-3 and 1.5e-2
    assert difference(got, by_definition(OP, args)) <= metal.allowed(OP, metal.NAMES[dtype])


@pytest.mark.parametrize("order", [pytest.param("forward", marks=pytest.mark.slow), "random"])
@pytest.mark.parametrize("dtype", metal.NAMES)
@pytest.mark.parametrize("case", range(6))
def test_kernel(case: int, dtype: str, order: str) -> None:
    check_kernel(case, dtype, order)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "dtype"), [*((case, "float16") for case in PUBLISHED), (8, "float32"), (8, "bfloat16")]
)
def test_kernel_of_the_published_models(case: int, dtype: str) -> None:
    check_kernel(case, dtype, "reverse")


@pytest.mark.slow
@pytest.mark.parametrize("case", [11, 12])
def test_kernel_of_a_whole_frame(case: int) -> None:
    """Full size, 1024 and 4096 queries; without the checks, which would take an hour."""
    args = make_arguments(OP.cases[case], mx.float16)
    got, _ = run_kernel(args, mode="fast")
    assert difference(got, by_definition(OP, args)) <= 5e-3  # measured: 6.0e-4 and 1.2e-3


def test_five_strips_in_three_parts() -> None:
    args = make_arguments(OP.cases[6], mx.float32)
    assert strip_splits(86, 1, (1, 17)) == 3
    assert difference(run_kernel(args, "fast")[0], by_definition(OP, args)) <= 1e-5  # measured: 3e-7


@pytest.mark.parametrize("rising", [True, False])
def test_kernel_with_large_scores(rising: bool) -> None:
    """The largest score comes last or first: what was summed before has to shrink to nothing."""
    q, keys, *rest = make_arguments(OP.cases[1], mx.float32)
    ramp = mx.linspace(0.1, 6, keys.shape[1])[:, None] ** 2
    args = (q, keys * (ramp if rising else ramp[::-1]), *rest)
    assert difference(run_kernel(args)[0], by_definition(OP, args)) <= 1e-4  # measured: 7e-6


@pytest.mark.parametrize("way", ["reference", "kernel"])
def test_frames_that_are_left_out_count_for_nothing(way: str) -> None:
    q, keys, values, *rest, bias = make_arguments(OP.cases[4], mx.float32)  # frames 0 to 7, pointers but the last 18
    cells, out = 9, np.array(bias[0]) == -np.inf
    each = mx.array(np.concatenate([np.repeat(out[:17], cells), out[17:]]))[None, :, None]
    results = []
    for filling in (0.0, 1e3):
        args = (q, mx.where(each, filling, keys), mx.where(each, -filling, values), *rest, bias)
        results.append(OP.reference(*args) if way == "reference" else run_kernel(args)[0])
    assert difference(results[1], by_definition(OP, (q, keys, values, *rest, bias))) <= 1e-5
    np.testing.assert_array_equal(*(np.array(x) for x in results))


def test_objects_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """B of all objects and queries does not exist at once; queries that all objects share serve each piece."""
    for case, launches in ((4, 2), (2, 2), (1, 4)):
        args = make_arguments(OP.cases[case], mx.float32)
        together, _ = run_kernel(args)
        with monkeypatch.context() as patch:
            patch.setitem(OP.kernel.__globals__, "MAX_PRODUCTS", 1)
            with metal.emulated("check") as reports:
                apart = OP.kernel(*args)
                mx.eval(apart)
        assert len(reports) == launches
        assert relative_difference(apart, together) <= 1e-6  # other parts of the columns


def test_traffic() -> None:
    """To the byte: rows' products once for every strip of 4 columns, keys and values once for every 64 queries."""
    (height, width), frames, tail, dim, memory, queries, batch = (3, 10), 7, 5, 64, 16, 2 * QUERIES, 2
    tensors = OP.cases[0]
    shapes = (batch, queries, dim), (batch, frames * height * width + tail, memory)
    case = (tensors[0]._replace(shape=shapes[0]), *(tensors[1]._replace(shape=shapes[1]),) * 2, *tensors[3:5])
    args = make_arguments((*case, (height, width), 10000.0, tail), mx.float16)
    strips, splits = 3, strip_splits(batch, queries, (height, width))
    assert splits == strips
    _, report = run_kernel(args)
    moved = {name: (t["loaded"], t["stored"]) for name, t in report.traffic.items() if not name.endswith("_shape")}
    item, blocks = 2, queries // QUERIES
    columns = strips * COLUMNS + COLUMNS  # the last strip is filled up; the tail is a strip of its own
    assert moved["q"] == (batch * queries * columns * dim // 2 * item, 0)
    assert moved["rows"] == (batch * queries * (strips * height + 1) * memory * item, 0)
    assert moved["table"] == (batch * blocks * columns * memory * dim // 2 * item, 0)
    assert moved["keys"] == moved["values"] == (blocks * args[1].nbytes, 0)
    assert moved["out"] == (0, splits * batch * queries * memory * 4)


# ---- where it is used


def published(memories: int = 7, batch: int = 1, dtype: mx.Dtype = mx.float16, side: int = 64) -> tuple[Any, ...]:
    keys = mx.zeros((batch, memories * side * side + 64, 64), dtype)
    weight = mx.zeros((256, 64), dtype), mx.zeros((256,), dtype)
    return mx.zeros((batch, side * side, 256), dtype), keys, keys, *weight, (side, side), 10000.0, 64


def test_preferred() -> None:
    """From 5 memories on, in half precision, where products run on the shader cores."""
    assert [OP.preferred(*published(count)) for count in (1, 4, 5, 7, 9)] == [False, False, True, True, True]
    assert OP.preferred(*published(batch=16)) and OP.preferred(*published(side=32))
    assert OP.supports(*published(dtype=mx.float32)) and not OP.preferred(*published(dtype=mx.float32))


def test_not_preferred_beside_matrix_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "this_gpu", lambda: gpu.MATRIX_UNITS)
    assert OP.supports(*published()) and not OP.preferred(*published())


def test_served() -> None:
    q, keys, _, weight, offset, *rest = published()
    assert OP.supports(q, keys, keys, weight, offset, *rest)
    assert not OP.supports(q, keys, keys, weight.astype(mx.float32), offset, *rest)
    assert not OP.supports(q[..., :40], keys, keys, weight[:40], offset[:40], *rest)
    assert not OP.supports(q, keys[..., :48], keys[..., :48], weight[:, :48], offset, *rest)


@pytest.mark.parametrize(
    ("width", "itemsize", "memory", "most_registers"), [(64, 2, 9472, 56), (64, 4, 17920, 88), (16, 4, 4864, 28)]
)
def test_resources(width: int, itemsize: int, memory: int, most_registers: int) -> None:
    assert threadgroup_bytes(256 if width == 64 else 64, width, itemsize) == memory
    assert registers(width, itemsize) == most_registers


def test_columns_are_split_where_there_are_few_queries() -> None:
    assert [pieces(batch, 4096, (64, 64), 64) for batch in (1, 16)] == [(1, 2048)] * 2
    assert [pieces(batch, 1024, (32, 32), 64) for batch in (1, 3, 16)] == [(1, 1024), (3, 1024), (4, 1024)]
    assert strip_splits(1, 2048, (64, 64)) == 8  # 32 threadgroups become 256
    assert strip_splits(1, 1024, (32, 32)) == 8  # as many as there are strips
    assert strip_splits(4, 4096, (64, 64)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"q": (3, 4, 32)},
        {"q": (1, 4, 16)},
        {"values": (2, 13, 16)},
        {"weight": (32, 8)},
        {"offset": (16,)},
        {"keys": (2, 13, 16), "values": (2, 13, 16)},
    ],
)
def test_shapes_that_do_not_fit(change: dict[str, tuple[int, ...]]) -> None:
    shapes = {"q": (2, 4, 32), "keys": (2, 14, 16), "values": (2, 14, 16), "weight": (32, 16), "offset": (32,)}
    with pytest.raises(ValueError, match="do not fit a 2x3 grid and a tail of 2"):
        public(*(mx.zeros(shape) for shape in {**shapes, **change}.values()), (2, 3), num_tail=2)


def test_a_bias_that_does_not_fit() -> None:
    args = make_arguments(OP.cases[0], mx.float32)
    with pytest.raises(ValueError, match=r"bias \(1, 64\) does not fit: \(1, 7\) is needed"):
        axial_memory_attention(*args, mx.zeros((1, 64)))


# ---- in the model


def called(attention: RoPEAttention, heads: int = 1, pooling: int = 1) -> set[str]:
    shapes = {"q": (2, 16, 64), "k": (2, 2 * 16 + 2, 16), "v": (2, 2 * 16 // pooling**2 + 2, 16)}
    q, k, v = (mx.array(normal(key, shape, 0)) for key, shape in shapes.items())
    with recorded() as calls:
        attention(q, k, v, (4, 4), num_tail=2, pooling=pooling)
    return {op.name for op, _ in calls}


def test_other_ways_of_the_keys() -> None:
    """Pooled keys, several heads and projections that are no plain layer are projected and rotated."""
    config = replace(MemoryConfig(), d_model=64, num_heads=1)
    plain = with_weights(RoPEAttention(config, kv_in_dim=16))
    assert OP.name in called(plain)
    assert OP.name not in called(plain, pooling=2)
    assert OP.name not in called(with_weights(RoPEAttention(replace(config, num_heads=2), kv_in_dim=16)))

    class Adapted(nn.Linear):
        """As a fine-tuned layer that adds something."""

    plain.k_proj = Adapted(16, 64)
    assert OP.name not in called(plain)


def test_a_model_with_kernels() -> None:
    config = replace(MemoryConfig(), d_model=64, kv_in_dim=16, dim_feedforward=32, num_layers=2)
    model = with_weights(MemoryAttention(config))
    shapes = {"x": (1, 4, 5, 64), "position": (1, 4, 5, 64), "memory": (2, 3 * 20 + 4, 16), "at": (2, 3 * 20 + 4, 16)}
    args = [mx.array(normal(key, shape, 0)) for key, shape in shapes.items()]
    present = mx.array([[True] * 7, [False, True, True, True, True, False, True]])
    with recorded() as calls:
        expected = model(*args, 4, present)
        mx.eval(expected)
    names = [op.name for op, _ in calls]
    assert (names.count(OP.name), names.count(memory_attention_op.name)) == (2, 4)  # a reference calls the other
    with metal.emulated(mode="fast") as reports:
        got = model(*args, 4, present)
        mx.eval(got)
    assert any(OP.name in report.name for report in reports)
    assert relative_difference(got, expected) <= 1e-5  # measured: 6e-7


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_half_precision_is_no_worse_than_with_projected_keys(dtype: str) -> None:
    """Over five cases, beside products that are summed in float32; measured: 0.95 and 1.00 of their differences."""
    kernel, projected = 0.0, 0.0
    for case in OP.cases[:5]:
        args = make_arguments(case, metal.NAMES[dtype])
        exact = by_definition(OP, args)
        kernel += difference(run_kernel(args, "fast")[0], exact)
        with summed_in_float32():
            projected += difference(OP.reference(*args), exact)
    assert kernel <= 1.2 * projected

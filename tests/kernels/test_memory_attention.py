"""Attention to memories: values projected before or after, the Metal kernel against the reference."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import metal
from mlx_sam2.config.parts import MemoryConfig
from mlx_sam2.kernels import axial_rope, global_attention, memory_attention
from mlx_sam2.kernels.dispatch import Tensor, exact_reference, make_arguments, recorded, relative_difference
from mlx_sam2.kernels.memory_attention import (
    QUERIES,
    block_of_keys,
    global_attention_op,
    key_splits,
    memory_attention_op,
    registers,
)
from mlx_sam2.model.layers import merge_heads, split_heads
from mlx_sam2.model.memory import MemoryAttention, RoPEAttention
from synthetic import normal, with_weights

OP = memory_attention_op
# of the largest value; a half's own rounding of the result is up to 4.9e-4 of it, a bfloat16's 3.9e-3
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 4e-3}  # measured: 8e-7, 4.4e-4, 3e-3


def by_definition(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    scores = q.astype(np.float64) @ np.swapaxes(k, -1, -2).astype(np.float64) / math.sqrt(q.shape[-1])
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True) @ v.astype(np.float64)


@pytest.mark.parametrize("value_heads", [1, 2])
def test_by_its_definition(value_heads: int) -> None:
    shapes = {"q": (2, 2, 6, 16), "k": (2, 2, 11, 16), "v": (2, value_heads, 11, 8)}
    q, k, v = (normal(key, shape, 0) for key, shape in shapes.items())
    got = memory_attention(*(mx.array(x) for x in (q, k, v)))
    np.testing.assert_allclose(np.array(got), by_definition(q, k, v), rtol=0, atol=2e-6)  # measured: 2e-7


@pytest.mark.parametrize(
    "shapes",
    [
        ((1, 2, 5, 8), (1, 1, 7, 8), (1, 1, 7, 8)),
        ((1, 1, 5, 8), (1, 1, 7, 16), (1, 1, 7, 8)),
        ((1, 4, 5, 8), (1, 4, 7, 8), (1, 2, 7, 8)),
        ((2, 1, 5, 8), (2, 1, 7, 8), (1, 1, 7, 8)),
        ((1, 1, 5, 8), (1, 1, 7, 8), (1, 1, 6, 8)),
        ((1, 5, 8), (1, 7, 8), (1, 7, 8)),
    ],
)
def test_shapes_that_do_not_fit(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"do not fit: .* are needed"):
        memory_attention(*(mx.zeros(shape) for shape in shapes))


# ---- in the model


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("num_heads", [1, 2])
def test_values_are_projected_after_the_softmax(num_heads: int, quantized: bool) -> None:
    """The result is that of the official code, which projects the values first."""
    attention = with_weights(RoPEAttention(replace(MemoryConfig(), d_model=128, num_heads=num_heads), kv_in_dim=64))
    if quantized:
        attention.v_proj = attention.v_proj.to_quantized(group_size=64, bits=8)
    shapes = (2, 12, 128), (2, 26, 64), (2, 26, 64)
    q, k, v = (mx.array(normal(key, shape, 0)) for key, shape in zip("qkv", shapes, strict=True))
    turned_q = axial_rope(split_heads(attention.q_proj(q), num_heads), 3, 4)
    turned_k = axial_rope(split_heads(attention.k_proj(k), num_heads), 3, 4, num_tail=2)
    projected = split_heads(attention.v_proj(v), num_heads)
    attended = by_definition(*(np.array(x) for x in (turned_q, turned_k, projected)))
    expected = attention.out_proj(merge_heads(mx.array(attended.astype(np.float32))))
    with recorded() as calls:
        got = attention(q, k, v, (3, 4), num_tail=2)
    _, values = next((op, args[2]) for op, args in calls if op is OP)
    assert values.shape == ((2, 1, 26, 64) if num_heads == 1 else (2, 2, 26, 64))
    np.testing.assert_allclose(np.array(got), np.array(expected), rtol=0, atol=2e-5)  # measured: 1e-6


# ---- what the kernel serves, and how


def published(batch: int = 1, dtype: mx.Dtype = mx.float16) -> list[mx.array]:
    shapes = (batch, 1, 4096, 256), (batch, 1, 7 * 4096 + 64, 256), (batch, 1, 7 * 4096 + 64, 64)
    return [mx.zeros(shape, dtype) for shape in shapes]


def test_served() -> None:
    assert OP.supports(*published()) and OP.preferred(*published())
    self_attention = [mx.zeros((1, 1, 4096, 256), mx.float16)] * 3
    assert OP.supports(*self_attention) and not OP.preferred(*self_attention)
    assert not OP.supports(*(x.astype(mx.float32) for x in self_attention))  # 132 registers for these alone
    assert not OP.supports(mx.zeros((1, 1, 4, 8)), mx.zeros((1, 1, 4, 8)), mx.zeros((1, 1, 4, 8), mx.float16))
    assert not OP.supports(*[mx.zeros((1, 1, 4, 12))] * 3)
    assert not OP.supports(*[mx.zeros((1, 1, 4, 8), mx.int32)] * 3)
    assert not OP.supports(mx.zeros((1, 1, 0, 8)), *[mx.zeros((1, 1, 4, 8))] * 2)


@pytest.mark.parametrize(
    ("dim", "value_dim", "itemsize", "block", "most_registers"),
    [(256, 64, 2, 32, 56), (256, 64, 4, 16, 84), (256, 256, 2, 16, 100), (256, 256, 4, 8, 130), (64, 16, 4, 32, 28)],
)
def test_resources(dim: int, value_dim: int, itemsize: int, block: int, most_registers: int) -> None:
    assert block_of_keys(dim, value_dim, itemsize) == block
    assert registers(dim, value_dim, itemsize) == most_registers


@pytest.mark.parametrize("dtype", metal.NAMES)
def test_small_case_is_of_the_same_variant(dtype: str) -> None:
    """Else another kernel than the one in use would be checked at first use."""
    for case in OP.cases:
        args = [mx.zeros(tensor.shape, metal.NAMES[dtype]) for tensor in case]
        if OP.supports(*args):
            small = OP.check_case(*args)
            assert OP.variant(*make_arguments(small, metal.NAMES[dtype])) == OP.variant(*args)
            assert sum(np.prod(tensor.shape) for tensor in small) < 300_000


def test_keys_are_split_where_there_are_few_queries() -> None:
    q, k, v = published()
    assert key_splits(q, k, v) == 4  # 64 threadgroups become 256
    assert key_splits(*published(batch=4)) == 1
    assert key_splits(q[:, :, :64], k, v) == 112  # 899 blocks, no fewer than 8 in a part
    assert key_splits(q[:, :, :64], k[:, :, :500], v[:, :, :500]) == 2
    assert key_splits(q[:, :, :64], k[:, :, :300], v[:, :, :300]) == 1


# ---- the kernel, emulated


def check_kernel(args: tuple[Any, ...], dtype: str, **mode: str) -> Any:
    """Run it, hold it against the exact reference; the emulator's report."""
    values = make_arguments(args, metal.NAMES[dtype])
    with metal.emulated(**mode) as reports:
        got = OP.kernel(*values)
        mx.eval(got)
    assert relative_difference(got, exact_reference(OP, values)) <= TOLERANCE[dtype]
    assert got.dtype == metal.NAMES[dtype]
    return reports[-1]


SMALL = [case for case in OP.cases if case[0].shape[2] < 1024]
QUICK = [  # variants take a second or two each to compile: nano's widths in every dtype, the others in the default one
    *((case, dtype) for case in (0, 1) for dtype in metal.NAMES),
    *((case, "float16") for case in (3, 4, 5, 7, *range(8, 15))),
]


@pytest.mark.parametrize("order", [pytest.param("forward", marks=pytest.mark.slow), "random"])
@pytest.mark.parametrize(("case", "dtype"), QUICK)
def test_kernel(case: int, dtype: str, order: str) -> None:
    report = check_kernel(SMALL[case], dtype, mode="check", order=order)
    assert report.threadgroup_bytes <= 24 << 10 and not report.warnings


@pytest.mark.slow
@pytest.mark.parametrize("dtype", metal.NAMES)
@pytest.mark.parametrize(
    ("case", "order"), [*((c, "random") for c in range(2, 8)), *((c, "forward") for c in range(2, 15))]
)
def test_kernel_in_every_shape_and_dtype(case: int, dtype: str, order: str) -> None:
    if OP.supports(*make_arguments(SMALL[case], metal.NAMES[dtype])):
        check_kernel(SMALL[case], dtype, mode="check", order=order)
    else:
        assert (case, dtype) in ((6, "float32"), (12, "float32"))


@pytest.mark.parametrize(
    "case", [0, pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_kernel_on_a_whole_grid(case: int) -> None:
    """As the op of the trunk's global attention: several heads, each with values of its own."""
    values = make_arguments(global_attention_op.cases[case], mx.float16)
    with metal.emulated("check") as reports:
        got = global_attention(*values)
        mx.eval(got)
    assert "global_attention" in reports[-1].name
    assert relative_difference(got, exact_reference(global_attention_op, values)) <= TOLERANCE["float16"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", metal.NAMES)
def test_kernel_with_all_memories(dtype: str) -> None:
    """The keys of 7 frames and of the pointers, the widths of the published models; some of the queries."""
    *_, full, _ = OP.cases
    queries = full[0]._replace(shape=(1, 1, 250, 256))
    check_kernel((queries, *full[1:]), dtype, mode="fast")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rising", [True, False])
def test_kernel_with_large_scores(rising: bool, dtype: str) -> None:
    """The largest score is found in the last block or in the first: what was summed before has to shrink to nothing."""
    q, k, v = (np.array(x) for x in make_arguments(SMALL[1], mx.float32))
    ramp = np.linspace(0.1, 6, k.shape[2], dtype=np.float32) ** 2
    k = k * (ramp if rising else ramp[::-1])[:, None]  # scores reach +-100
    values = tuple(mx.array(x).astype(metal.NAMES[dtype]) for x in (q, k, v))
    with metal.emulated(mode="check"):
        got = OP.kernel(*values)
        mx.eval(got)
    expected = by_definition(*(np.array(x.astype(mx.float32)) for x in values))
    np.testing.assert_allclose(np.array(got), expected, rtol=0, atol=3 * TOLERANCE[dtype])


def masked_case(dtype: mx.Dtype) -> tuple[list[mx.array], mx.array]:
    """Two items of 530 keys: one without those from 100 to 300 and the last, the other with 520 to 525 alone."""
    values = list(make_arguments((Tensor((2, 1, 70, 64)), Tensor((2, 1, 530, 64)), Tensor((2, 1, 530, 16))), dtype))
    counts = np.ones((2, 530), bool)
    counts[0, 100:300] = counts[0, 500:] = False
    counts[1] = (np.arange(530) >= 520) & (np.arange(530) < 526)
    return values, mx.array(np.where(counts, 0, -np.inf).astype(np.float32))


def without_masked(values: list[mx.array], bias: mx.array) -> np.ndarray:
    rows = []
    for i in range(2):
        kept = np.isfinite(np.array(bias[i]))
        q, k, v = (np.array(x[i].astype(mx.float32)) for x in values)
        rows.append(by_definition(q, k[:, kept], v[:, kept]))
    return np.stack(rows)


def test_masked_keys_count_for_nothing() -> None:
    values, bias = masked_case(mx.float32)
    expected = without_masked(values, bias)
    for x, filling in ((values[1], 1e3), (values[2], -1e6)):  # whatever they hold
        x[:, :, 100:300] = mx.where(bias[:, None, 100:300, None] == 0, x[:, :, 100:300], filling)
    got = memory_attention(*values, bias)
    np.testing.assert_allclose(np.array(got), expected, rtol=0, atol=4e-6)  # measured: 5e-7


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kernel_with_masked_keys(dtype: str) -> None:
    """Whole parts of the keys are left out, and the first blocks of an item."""
    values, bias = masked_case(metal.NAMES[dtype])
    assert key_splits(*values) > 1
    with metal.emulated(mode="check"):
        got = OP.kernel(*values, bias)
        mx.eval(got)
    expected = without_masked(values, bias)
    assert relative_difference(got, mx.array(expected.astype(np.float32))) <= TOLERANCE[dtype]


def test_traffic() -> None:
    """Keys and values are read once for every 64 queries, queries once for every part of the keys; no scores."""
    n, m, d, value_dim = 2 * QUERIES + 3, 515, 64, 16
    args = Tensor((2, 1, n, d)), Tensor((2, 1, m, d)), Tensor((2, 1, m, value_dim))
    splits = key_splits(*make_arguments(args, mx.float16))
    assert splits == 2
    report = check_kernel(args, "float16", mode="check")
    moved = {name: (t["loaded"], t["stored"]) for name, t in report.traffic.items() if not name.endswith("_shape")}
    assert moved["q"] == (splits * 2 * 2 * n * d, 0)
    assert moved["k"] == (3 * 2 * 2 * m * d, 0)
    assert moved["v"] == (3 * 2 * 2 * m * value_dim, 0)
    assert moved["out"] == (0, splits * 4 * 2 * n * value_dim)
    assert moved["weight"] == (0, splits * 4 * 2 * n)


def test_memory_attention_of_a_model_with_kernels() -> None:
    config = replace(MemoryConfig(), d_model=64, kv_in_dim=16, dim_feedforward=32, num_layers=1)
    model = with_weights(MemoryAttention(config))
    shapes = {"x": (2, 4, 5, 64), "position": (1, 4, 5, 64), "memory": (2, 3 * 20 + 4, 16), "at": (2, 3 * 20 + 4, 16)}
    args = [mx.array(normal(key, shape, 0)) for key, shape in shapes.items()]
    expected = model(*args, 4)
    mx.eval(expected)
    with metal.emulated(mode="fast") as reports:
        got = model(*args, 4)
        mx.eval(got)
    assert any("memory_attention" in report.name for report in reports)
    assert relative_difference(got, expected) <= 1e-5  # measured: 5e-7


def test_one_frame_for_several_objects() -> None:
    """What the objects share is computed once: in the first layer, the frame's attention to itself."""
    config = replace(MemoryConfig(), d_model=64, kv_in_dim=16, dim_feedforward=32, num_layers=2)
    model = with_weights(MemoryAttention(config))
    shapes = {"x": (1, 4, 5, 64), "position": (1, 4, 5, 64), "keys": (3, 2 * 20 + 4, 16), "values": (3, 2 * 20 + 4, 16)}
    x, *rest = (mx.array(normal(key, shape, 0)) for key, shape in shapes.items())
    with recorded() as calls:
        got = model(x, *rest, 4)
    batches = [(args[0].shape[0], args[1].shape[2]) for op, args in calls if op is OP]
    assert batches == [(1, 20), (3, 44), (3, 20), (3, 44)]
    for i in range(3):
        alone = model(x, rest[0], rest[1][i : i + 1], rest[2][i : i + 1], 4)
        np.testing.assert_allclose(np.array(got[i]), np.array(alone[0]), rtol=0, atol=1e-5)  # measured: 7e-7

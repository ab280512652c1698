"""Attention inside windows: the reference by its definition, the Metal kernel against the reference."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from metal import NAMES, RELATIVE, emulated
from mlx_sam2.config.parts import HieraConfig
from mlx_sam2.kernels import mask_unit_attention
from mlx_sam2.kernels.dispatch import Tensor, exact_reference, make_arguments, relative_difference
from mlx_sam2.kernels.mask_unit_attention import MAX_HEAD_DIM, MAX_WINDOW, PUBLISHED, mask_unit_attention_op
from mlx_sam2.kernels.mask_unit_layout import layout
from mlx_sam2.kernels.windows import max_pool, window_partition, window_unpartition
from mlx_sam2.model.image_encoder import MultiScaleBlock
from mlx_sam2.model.sam2 import SAM2
from synthetic import normal

OP = mask_unit_attention_op
SMALL = [case for case in OP.cases if case not in PUBLISHED]


# ---- the reference


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 6), (3, 9)])
def test_windows_and_back(height: int, width: int) -> None:
    x, outside = normal("x", (2, height, width, 3), 0), normal("outside", (3,), 0)
    windows = window_partition(mx.array(x), 4, mx.array(outside))
    rows, columns = -(-height // 4), -(-width // 4)
    assert windows.shape == (2 * rows * columns, 4, 4, 3)
    back = window_unpartition(windows, rows, columns, height, width)
    np.testing.assert_array_equal(np.array(back), x)
    np.testing.assert_array_equal(np.array(windows)[1, 0, 0], x[0, 0, 4])  # the next one to the right
    beyond = np.array(windows).sum((0, 1, 2), dtype=np.float64) - x.sum((0, 1, 2), dtype=np.float64)
    places = 16 * len(windows) - 2 * height * width
    np.testing.assert_allclose(beyond, places * outside, rtol=0, atol=1e-4)


def test_max_pool_drops_what_fills_no_cell() -> None:
    x = mx.arange(15.0).reshape(1, 3, 5, 1)
    np.testing.assert_array_equal(np.array(max_pool(x, 2))[0, :, :, 0], [[6, 8]])


def by_definition(qkv: np.ndarray, bias: np.ndarray, heads: int, window: int, q_stride: int) -> np.ndarray:
    """Query by query: its cell, the tokens of its window, the bias wherever the grid has none."""
    b, h, w, channels = qkv.shape
    dim = channels // 3 // heads
    out = np.empty((b, h // q_stride, w // q_stride, channels // 3))
    for i, y, x, head in np.ndindex(*out.shape[:3], heads):
        starts = (part * channels // 3 + head * dim for part in range(3))
        q, k, v = (slice(start, start + dim) for start in starts)
        query = qkv[i, y * q_stride : (y + 1) * q_stride, x * q_stride : (x + 1) * q_stride, q].max((0, 1))
        top, left = y * q_stride // window * window, x * q_stride // window * window
        tokens = np.tile(bias, (window, window, 1))
        part = qkv[i, top : top + window, left : left + window]
        tokens[: part.shape[0], : part.shape[1]] = part
        tokens = tokens.reshape(-1, channels)
        scores = tokens[:, k] @ query / math.sqrt(dim)
        shares = np.exp(scores - scores.max())
        out[i, y, x, head * dim : (head + 1) * dim] = shares @ tokens[:, v] / shares.sum()
    return out


SHAPES = {  # grid, head dim, heads, window, q_stride
    "whole windows": (8, 8, 8, 2, 4, 1),
    "ragged": (5, 7, 8, 2, 4, 1),
    "pooled": (8, 4, 8, 2, 4, 2),
    "pooled, ragged": (6, 10, 8, 1, 8, 2),
    "pooled, the last row fills no cell": (9, 5, 8, 1, 4, 2),
    "grid smaller than its window": (3, 2, 8, 1, 14, 1),
    "odd window": (9, 8, 16, 1, 7, 1),
    "cells of 3": (7, 12, 8, 1, 6, 3),
}


def arguments(name: str, batch: int = 2) -> tuple[Any, ...]:
    height, width, dim, heads, window, q_stride = SHAPES[name]
    qkv, bias = normal("qkv", (batch, height, width, 3 * heads * dim), 0), normal("bias", (3 * heads * dim,), 0)
    return mx.array(2 * qkv), mx.array(2 * bias), heads, window, q_stride


@pytest.mark.parametrize("name", SHAPES)
def test_reference_by_its_definition(name: str) -> None:
    qkv, bias, *rest = arguments(name)
    expected = by_definition(np.array(qkv, np.float64), np.array(bias, np.float64), *rest)
    np.testing.assert_allclose(np.array(mask_unit_attention(qkv, bias, *rest)), expected, rtol=0, atol=5e-5)
    # measured: 1.3e-5 where most of a window lies outside, 2e-6 elsewhere; MLX's softmax on the CPU


@pytest.mark.parametrize(
    ("shape", "bias", "heads", "window", "q_stride"),
    [
        ((1, 4, 4, 48), 48, 3, 4, 1),  # 16 channels for 3 heads
        ((1, 4, 4, 48), 16, 2, 4, 1),  # the bias of q alone
        ((1, 4, 4, 48), 48, 2, 7, 2),  # cells across windows
        ((1, 4, 4, 48), 48, 2, 0, 1),
        ((1, 4, 4, 48), 48, 0, 4, 1),
        ((1, 4, 4, 48), 48, 2, 4, 0),
    ],
)
def test_what_does_not_fit(shape: tuple[int, ...], bias: int, heads: int, window: int, q_stride: int) -> None:
    with pytest.raises(ValueError, match=f"{shape[-1]} channels and a bias of .{bias},. with {heads} heads"):
        mask_unit_attention(mx.zeros(shape), mx.zeros((bias,)), heads, window, q_stride)


@pytest.mark.parametrize(("block", "what"), [(0, "plain"), (1, "pooling")])
def test_a_quantised_projection(block: int, what: str) -> None:
    """Its bias is no quantised weight, and fills the windows all the same."""
    config = HieraConfig(embed_dim=32, num_heads=2, stages=(1, 1), q_pool=1, window_spec=(4, 4), global_att_blocks=())
    exact, quantised = MultiScaleBlock(config, block), MultiScaleBlock(config, block)
    weights = [(k, mx.array(normal(k, v.shape, 0) / 6)) for k, v in tree_flatten(exact.parameters())]
    exact.load_weights(weights)
    quantised.load_weights(weights)
    nn.quantize(quantised, group_size=32, bits=8, class_predicate=lambda path, _: path == "attn.qkv")
    layer = quantised.attn.qkv
    assert isinstance(layer, nn.QuantizedLinear)
    exact.attn.qkv.weight = mx.dequantize(layer.weight, layer.scales, layer.biases, group_size=32, bits=8)
    x = mx.array(normal("x", (1, 6, 10, 32), 0))
    np.testing.assert_allclose(np.array(quantised(x)), np.array(exact(x)), rtol=0, atol=1e-5)  # measured: 1e-6


# ---- the kernel


def difference_and_reports(
    args: tuple[Any, ...], mode: str = "check", order: str = "forward"
) -> tuple[float, list[Any]]:
    with emulated(mode=mode, order=order) as reports:
        result = OP.kernel(*args)
    return relative_difference(result, exact_reference(OP, args)), reports


def bytes_over_minimum(args: tuple[Any, ...], reports: list[Any]) -> float:
    buffers = [counts for r in reports for name, counts in r.traffic.items() if not name.endswith("_shape")]
    return sum(counts["loaded"] + counts["stored"] for counts in buffers) / OP.minimum_bytes(*args)


def most_bytes(args: tuple[Any, ...]) -> float:
    """1.15 where a threadgroup has all queries of its window; else keys and values are read by each that shares it."""
    qkv, _, heads, window, q_stride = args
    splits = layout(qkv.shape[-1] // 3 // heads, window, q_stride, qkv.dtype.size).splits
    return 1.15 if splits == 1 else 1.02 * (2 + 2 * splits) / 4


def tolerance(dtype: mx.Dtype) -> float:
    """bfloat16 rounds the result by up to 2^-8 of it; that is nearly all of the difference."""
    return 4e-3 if dtype == mx.bfloat16 else RELATIVE[dtype]


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: OP.size(*case) + f" window={case[3]}")
def test_kernel(case: tuple[Any, ...], dtype: str) -> None:
    """No race, no missing barrier, nothing out of bounds in any order of threads; and little more than once each."""
    args = make_arguments(case, NAMES[dtype])
    for order in ("forward", "random"):
        difference, reports = difference_and_reports(args, order=order)
        assert difference <= tolerance(NAMES[dtype])
        assert bytes_over_minimum(args, reports) <= most_bytes(args)
    qkv, _, heads, window, q_stride = args
    expected = layout(qkv.shape[-1] // 3 // heads, window, q_stride, qkv.dtype.size).memory
    assert reports[0].threadgroup_bytes == expected


@pytest.mark.slow
@pytest.mark.parametrize("case", PUBLISHED, ids=lambda case: OP.variant(*case).removeprefix("None "))
def test_kernel_at_published_windows(case: tuple[Any, ...]) -> None:
    args = make_arguments(case, mx.float16)
    difference, reports = difference_and_reports(args)
    assert difference <= tolerance(mx.float16)
    assert bytes_over_minimum(args, reports) <= most_bytes(args)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernel_at_published_windows_in_other_dtypes(dtype: str) -> None:
    for case in PUBLISHED:
        args = make_arguments(case, NAMES[dtype])
        difference, _ = difference_and_reports(args, mode="fast")
        assert difference <= tolerance(NAMES[dtype]), case


@pytest.mark.slow
@pytest.mark.parametrize("dtype", NAMES)
def test_kernel_at_full_size(dtype: str) -> None:
    """The third stage of tiny, small and (with other heads) base_plus: 25 windows of 14x14, those at the edge cut."""
    args = make_arguments((Tensor((1, 64, 64, 3 * 4 * 96)), Tensor((3 * 4 * 96,)), 4, 14, 1), NAMES[dtype])
    difference, _ = difference_and_reports(args, mode="fast")
    assert difference <= tolerance(NAMES[dtype])


@pytest.mark.parametrize("name", SHAPES)
def test_kernel_by_the_definition(name: str) -> None:
    """Against the definition in float64, with scores of 100 and more: exp overflows unless the largest is taken off."""
    qkv, bias, *rest = arguments(name)
    expected = by_definition(np.array(qkv, np.float64) * 3, np.array(bias, np.float64) * 3, *rest)
    with emulated() as reports:
        result = mask_unit_attention(3 * qkv, 3 * bias, *rest)
    assert len(reports) == 2  # checked at first use, on a small case
    assert relative_difference(result, mx.array(expected.astype(np.float32))) <= 1e-5


@pytest.mark.parametrize(("head_dim", "window", "q_stride"), [(256, 3, 1), (8, 1, 1), (40, 6, 3)])
def test_kernel_at_odd_shapes(head_dim: int, window: int, q_stride: int) -> None:
    shape = (1, window + q_stride, window, 3 * head_dim)
    args = make_arguments((Tensor(shape), Tensor(shape[-1:]), 1, window, q_stride), mx.float16)
    assert OP.supports(*args)
    difference, _ = difference_and_reports(args, order="random")
    assert difference <= tolerance(mx.float16)


def test_every_layout_can_run() -> None:
    """Within 32 KB and the threads that any Apple GPU starts; enough simdgroups for all queries."""
    for head_dim in range(8, MAX_HEAD_DIM + 1, 8):
        for window in range(1, MAX_WINDOW + 1):
            for q_stride in (1, 2) if window % 2 == 0 else (1,):
                for item_size in (2, 4):
                    one = layout(head_dim, window, q_stride, item_size)
                    assert one.memory <= 32 << 10
                    assert 32 * one.simdgroups * one.units <= (512 if head_dim <= 128 else 384)
                    assert 8 * one.simdgroups * one.splits >= (window // q_stride) ** 2
                    assert one.units == 1 or one.splits == 1


@pytest.mark.parametrize(
    ("shape", "heads", "window", "q_stride"),
    [((1, 4, 4, 36), 1, 4, 1), ((1, 1, 4, 24), 1, 4, 2), ((1, 70, 3, 24), 1, 70, 1)],
)
def test_shapes_that_the_kernel_leaves_to_the_reference(
    shape: tuple[int, ...], heads: int, window: int, q_stride: int
) -> None:
    args = make_arguments((Tensor(shape), Tensor(shape[-1:]), heads, window, q_stride), mx.float16)
    assert not OP.supports(*args)
    out = OP.reference(*args)
    assert out.shape == (shape[0], shape[1] // q_stride, shape[2] // q_stride, shape[3] // 3)


def test_published_windows_go_through_the_kernel_unmeasured() -> None:
    for case in PUBLISHED:
        args = make_arguments(case, mx.float16)
        assert OP.supports(*args)
        assert OP.preferred(*args)
    wide = (1, 32, 32, 24)  # 8 threadgroups would share a window of 32x32, and read it 8 times
    assert not OP.preferred(mx.zeros(wide), mx.zeros(wide[-1:]), 1, 32, 1)


@pytest.mark.slow
def test_blocks_with_the_kernel(nano_model: SAM2) -> None:
    """A whole trunk, windows at its edges included, is the same with the kernel."""
    trunk = nano_model.image_encoder.trunk
    pixels = mx.array(normal("pixels", (1, 96, 160, 3), 0))
    plain = [np.array(x) for x in trunk(pixels)]
    with emulated() as reports:
        emulated_stages = [np.array(x) for x in trunk(pixels)]
    assert any("mask_unit_attention" in r.name for r in reports)
    for got, expected in zip(emulated_stages, plain, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())

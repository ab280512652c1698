"""The roofline counts the graph that MLX would run on a Metal GPU: bytes, operations, launches."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map

from mlx_sam2.benchmark import roofline, stages
from mlx_sam2.benchmark.roofline_steps import WHOLE
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.kernels import memory_attention
from mlx_sam2.machine import CHIPS, Chip
from mlx_sam2.model.compiled import compiled
from mlx_sam2.model.sam2 import SAM2

HALF = mx.float16


def steps(function: Callable[..., mx.array], *shapes: tuple[int, ...], compiled: bool = True) -> list[roofline.Step]:
    return roofline.trace(function, *(mx.zeros(s, HALF) for s in shapes), compiled=compiled)


def test_a_product_moves_its_matrices_once() -> None:
    (step,) = steps(lambda a, b: a @ b.T, (6, 5), (7, 5))  # a transposed operand is no copy
    assert step.name == "Matmul"
    assert step.flops == 2 * 6 * 7 * 5
    assert step.bytes == 2 * (6 * 5 + 7 * 5 + 6 * 7)


def test_a_broadcast_bias_is_read_as_what_it_is() -> None:
    layer = nn.Linear(8, 16)
    layer.set_dtype(HALF)
    mx.eval(layer.parameters())
    (step,) = steps(layer, (32, 8))
    assert step.bytes == 2 * (32 * 8 + 16 * 8 + 16 + 32 * 16)


def test_elementwise_chains_are_one_launch_when_compiled() -> None:
    def chain(a: mx.array, b: mx.array) -> mx.array:
        return mx.exp(a * b) + a

    apart, together = (steps(chain, (100,), (100,), compiled=c) for c in (False, True))
    assert [s.name for s in apart] == ["Multiply", "Exp", "Add"]
    assert sum(s.bytes for s in apart) == 200 * (3 + 2 + 3)
    assert [s.name for s in together] == ["elementwise"]
    assert together[0].bytes == 200 * 3  # a and b read once, the sum written


def test_a_function_is_traced_as_it_runs() -> None:
    def chain(a: mx.array, b: mx.array) -> mx.array:
        return mx.exp(nn.gelu(a) * b) + a

    a = mx.zeros((100,), HALF)
    assert not roofline.runs_compiled(chain, a, a)  # though MLX's GELU is compiled by itself
    assert [s.name for s in roofline.trace(chain, a, a)] == ["gelu", "Multiply", "Exp", "Add"]
    compiled = mx.compile(chain)
    assert roofline.runs_compiled(compiled, a, a)
    (step,) = roofline.trace(compiled, a, a)
    assert step.name == "elementwise" and step.bytes == 200 * 3 + 3 * 2  # and the three constants of GELU


def test_what_is_read_elsewhere_is_written() -> None:
    def branch(a: mx.array, b: mx.array) -> mx.array:
        x = a * 2 + 1
        return (x @ b) + 3

    names = [s.name for s in steps(branch, (4, 4), (4, 4))]
    assert names == ["elementwise", "Matmul", "elementwise"]


def test_a_sum_that_a_product_reads_as_well_is_not_fused() -> None:
    """As in a residual network: MLX fuses a step only with those that alone read it."""

    def residual(x: mx.array, w: mx.array) -> mx.array:
        x = x + x @ w
        return x + x @ w

    found = steps(residual, (4, 4), (4, 4))
    assert [s.name for s in found] == ["Matmul", "elementwise", "Matmul", "elementwise"]
    assert all(s.bytes == 2 * 3 * 16 for s in found)


def test_a_reshape_across_a_transposition_copies() -> None:
    (copy, *_) = steps(lambda a: a.swapaxes(0, 1).reshape(-1) * 2, (6, 5))
    assert copy.name == "copy" and copy.bytes == 2 * 2 * 30
    assert [s.name for s in steps(lambda a: a.reshape(3, 2, 5).reshape(6, 5) * 2, (6, 5))] == ["elementwise"]


def test_fused_attention_and_kernels_are_seen() -> None:
    def attention(q: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, q, q, scale=1.0)

    (step,) = steps(attention, (2, 3, 40, 64))
    assert step.name == "sdpa" and step.flops == 4 * 2 * 3 * 40 * 40 * 64
    assert step.bytes == 2 * 2 * (2 * 3 * 40 * 64)  # one array is all three; read once, written once
    assert any(s.name == "Softmax" for s in steps(attention, (2, 3, 40, 256)))  # MLX writes these scores out


def test_fused_attention_takes_tokens_as_a_projection_leaves_them() -> None:
    """MLX's kernel wants the channels of a head side by side, and writes token by token: no copy before or after it."""

    def attention(x: mx.array) -> mx.array:
        q, k, v = (t.reshape(2, 40, 3, 64).swapaxes(1, 2) for t in mx.split(x, 3, axis=-1))
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=1.0).swapaxes(1, 2).reshape(2, 40, 192)

    (step,) = steps(attention, (2, 40, 3 * 192))
    assert step.name == "sdpa" and step.bytes == 2 * 4 * 2 * 40 * 192  # three different parts of one array


class Chain(nn.Module):
    """A stage that is compiled on a GPU, between steps that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = mx.ones((100,), HALF)

    @compiled
    def stage(self, a: mx.array, b: mx.array) -> mx.array:
        return nn.gelu(mx.exp(a) * b + mx.exp(self.weight))  # what is made of weights alone is a part of it, too

    def __call__(self, a: mx.array, b: mx.array) -> mx.array:
        return nn.gelu(self.stage(a + 1, b) * 2)


def test_compiled_stages_are_seen_one_by_one() -> None:
    a, chain = mx.zeros((100,), HALF), Chain()
    mx.eval(chain.parameters())
    found = roofline.trace(chain, a, a)
    assert [s.name for s in found] == ["Add", "elementwise", "Multiply", "gelu"]
    assert found[1].bytes == 200 * 4 + 3 * 2  # a, b, the weight, what is written, and the three constants of GELU


def test_cost_is_the_slower_of_bytes_and_operations() -> None:
    chip = Chip(bandwidth=1.0, tflops=0.001)
    slow_memory = roofline.Step("Matmul", 10, {"a": {WHOLE: 1_000_000}}, {"b": 1_000_000})
    slow_arithmetic = roofline.Step("copy", 5_000_000, {"a": {WHOLE: 10}}, {"b": 10})
    total = roofline.cost([slow_memory, slow_arithmetic], chip)
    assert total.milliseconds == pytest.approx(2 + 5)
    assert total.minimum_ms == pytest.approx(2)  # copies need not be


def test_what_is_expected_is_what_was_reached() -> None:
    plain, units = (roofline.Chip(1.0, 0.001, matrix_units=m) for m in (False, True))
    product = roofline.Step("Matmul", 5_000_000, {"a": {WHOLE: 10}}, {"b": 10})
    copy = roofline.Step("copy", 5, {"a": {WHOLE: 1_000_000}}, {"b": 1_000_000})
    found = roofline.cost([product, copy], plain)
    assert found.milliseconds == pytest.approx(5 + 2)
    assert found.expected_ms == pytest.approx(5 / 0.70 + 2 / 0.83)
    assert roofline.cost([product], units).expected_ms == pytest.approx(5 / 2.87)


def test_a_chip_with_matrix_units_takes_products_for_its_memories() -> None:
    def attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return memory_attention(q, k, v)

    arrays = [mx.zeros((1, 1, n, d), HALF) for n, d in ((128, 256), (600, 256), (600, 64))]
    names = {chip: [s.name for s in roofline.trace(attention, *arrays, chip=CHIPS[chip])] for chip in ("M4", "M5")}
    assert names["M4"] == ["memory_attention"] or "memory_attention" in names["M4"]
    assert "memory_attention" not in names["M5"] and names["M5"].count("Matmul") == 2


@pytest.mark.parametrize(("size", "gmacs"), [("tiny", 145), ("large", 911)])
def test_the_image_encoder_has_the_operations_of_the_paper(size: str, gmacs: float) -> None:
    """Multiply-accumulates as counted from the architecture; the traced ones leave out the padding of windows."""
    model = SAM2(PUBLISHED[f"sam2.1_hiera_{size}"].config)
    model.update(tree_map(lambda w: mx.zeros(w.shape, HALF), model.parameters()))
    mx.eval(model.parameters())
    found = roofline.trace(lambda x: tuple(model.image_encoder(x)), mx.zeros((1, 1024, 1024, 3), HALF))
    total = roofline.cost(found, CHIPS["M2 Max"])
    assert math.isclose(total.gflop / 2, gmacs, rel_tol=0.02)
    assert total.minimum_ms < total.milliseconds < 2 * total.minimum_ms


def test_live_bytes_count_what_exists_at_once() -> None:
    steps = [
        roofline.Step("a", 0, {"x": {WHOLE: 7}}, {"a": 10}),
        roofline.Step("b", 0, {"a": {WHOLE: 10}}, {"b": 20}),
        roofline.Step("c", 0, {"b": {WHOLE: 20}}, {"c": 5}),
        roofline.Step("d", 0, {"c": {WHOLE: 5}}, {"d": 1}),
    ]
    assert roofline.live_bytes(steps) == 30, "a and b; inputs do not count"
    steps[3].inputs["a"] = {WHOLE: 10}
    assert roofline.live_bytes(steps) == 35, "a is read once more"


def test_scores_in_64_channels_take_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracked frame with a full memory, in tiny's published size; 78.7 MB both, at the scores of self-attention."""
    model = stages.build_model("tiny", dtype="float16")
    alive = []
    for least in (5, 99):
        monkeypatch.setattr(sys.modules["mlx_sam2.kernels.axial_memory_attention"], "MIN_MEMORIES", least)
        function, examples = stages.modelled_graphs(model)["tracked frame, full memory"]()
        alive.append(roofline.live_bytes(roofline.trace(function, *examples)))
    assert alive[0] <= alive[1]

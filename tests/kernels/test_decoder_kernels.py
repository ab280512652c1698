"""What follows the products of the mask decoder: the kernels against their definitions, in float64."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

import metal
from kernel_definitions import by_definition, difference, exact_gelu, pixels
from mlx_sam2.kernels import gelu, mask_logits, residual_layer_norm, unfold, upscaled_layer_norm
from mlx_sam2.kernels.dispatch import arrays_of, make_arguments
from mlx_sam2.kernels.residual_layer_norm import lanes_of, norm_grid, residual_layer_norm_op
from mlx_sam2.kernels.upscaling import mask_logits_op, upscaled_layer_norm_op
from synthetic import normal

OPS = {op.name: op for op in (residual_layer_norm_op, upscaled_layer_norm_op, mask_logits_op)}
SMALL = [(name, case) for name, op in OPS.items() for case in range(len(op.cases) - 1)]  # the last are of full size


@pytest.mark.parametrize(("name", "case"), SMALL)
def test_the_reference_by_its_definition(name: str, case: int) -> None:
    args = make_arguments(OPS[name].cases[case], mx.float32)
    assert difference(OPS[name](*args), by_definition(OPS[name], args)) <= 4e-6  # measured: 4e-7


@pytest.mark.parametrize("dtype", metal.NAMES)
@pytest.mark.parametrize(("name", "case"), SMALL)
def test_kernel(name: str, case: int, dtype: str) -> None:
    op, order = OPS[name], "random" if case % 2 else "forward"
    args = make_arguments(op.cases[case], metal.NAMES[dtype])
    with metal.emulated("check", order) as reports:
        got = op.kernel(*args)
        mx.eval(got)
    assert not reports[-1].warnings and reports[-1].threadgroup_bytes == 0
    assert all(x.dtype == (op.dtype or metal.NAMES[dtype]) for x in arrays_of(got))
    # measured: 4e-7; 6e-4 and 4e-3, which are the rounding of a half
    assert difference(got, by_definition(op, args)) <= metal.allowed(op, metal.NAMES[dtype])


@pytest.mark.parametrize("name", OPS)
def test_what_is_large_moves_once(name: str) -> None:
    """To the byte: the stream, what is added, features and results; vectors and shared positions come from a cache."""
    op = OPS[name]
    args = make_arguments(op.cases[4], mx.float16)
    with metal.emulated("check") as reports:
        got = op.kernel(*args)
        mx.eval(got)
    moved = {k: t["loaded"] + t["stored"] for k, t in reports[-1].traffic.items()}
    assert moved["y"] == next(a.nbytes for a in args if a.ndim > 1 and len(a) == len(arrays_of(got)[0]))
    assert [moved["out"], *([moved["placed"]] if "placed" in moved else [])] == [x.nbytes for x in arrays_of(got)]


def test_gelu_in_metal() -> None:
    """Everywhere: the rational function's ends, tiny and large numbers."""
    x = np.concatenate([np.linspace(-8, 8, 4001), [-1e4, 1e4, 1e-6, -1e-6, 5.7, -5.7, 0]]).astype(np.float32)
    y = np.zeros((1, 1, len(x) * 2, 16), np.float32)  # a number in each cell, a mask for channel 0
    y[0, 0, ::2, 0] = x
    weights = np.zeros((1, 1, 4), np.float32)
    weights[0, 0, 0] = 1
    more = mx.zeros((1, 2, 4 * len(x), 4))
    with metal.emulated("fast"):
        got = np.array(mask_logits(mx.array(y), more, mx.array(weights)))[0, 0, 0, ::4]
    np.testing.assert_allclose(got, exact_gelu(x.astype(np.float64)), rtol=1e-6, atol=2e-6)  # measured: 2e-7


def test_masks_of_halves_are_not_rounded_to_halves() -> None:
    """The features stay in float32 until the product, so masks are as near as those of float32 features."""
    args = make_arguments(mask_logits_op.cases[4], mx.float16)
    expected = by_definition(mask_logits_op, args)
    with metal.emulated("check"):
        assert difference(mask_logits(*args), expected) <= 2e-6  # measured: 4e-7; MLX's operations: 4e-4
    assert mask_logits(*args).dtype == mx.float32


def test_unfold_of_features_without_more() -> None:
    y = normal("y", (2, 3, 5, 8), 0)
    np.testing.assert_array_equal(np.array(unfold(mx.array(y))), pixels(y, np.zeros(1)).astype(np.float32))


def test_served() -> None:
    half = make_arguments(mask_logits_op.cases[4], mx.float16)
    assert mask_logits_op.supports(*half)
    assert not mask_logits_op.supports(half[0].astype(mx.float32), *half[1:])
    assert not mask_logits_op.supports(*half[:2], mx.zeros((2, 9, 32), mx.float16))
    norm = make_arguments(upscaled_layer_norm_op.cases[4], mx.float16)
    assert upscaled_layer_norm_op.supports(*norm) and not upscaled_layer_norm_op.supports(norm[0][..., :24], *norm[1:])
    residual = make_arguments(residual_layer_norm_op.cases[2], mx.float16)
    assert residual_layer_norm_op.supports(*residual)
    assert not residual_layer_norm_op.supports(*residual[:3], residual[3].astype(mx.float32), *residual[4:])


@pytest.mark.parametrize(("width", "lanes"), [(8, 4), (32, 4), (36, 8), (64, 8), (128, 16), (132, 32), (256, 32)])
def test_lanes_of_a_row(width: int, lanes: int) -> None:
    assert lanes_of(width) == lanes
    assert norm_grid(1, width)["grid"] == (32, 1, 1)


def test_arrays_of_few_elements_go_the_other_way() -> None:
    """MLX binds them as `constant`; MLX's own operations give the same results."""
    tiny = (mx.ones((1, 1, 4)), mx.ones((1, 1, 4)), *[mx.ones(4)] * 3, mx.ones((1, 1, 4)), 1e-5)
    assert not residual_layer_norm_op.supports(*tiny)
    assert [x.shape for x in residual_layer_norm(*tiny)] == [(1, 1, 4)] * 2
    y, more = mx.array(normal("y", (1, 1, 1, 16), 0)), mx.zeros((1, 2, 2, 4))
    np.testing.assert_array_equal(
        np.array(upscaled_layer_norm(y, more, mx.ones(4), mx.zeros(4), 1e-6)),
        np.array(gelu(mx.fast.layer_norm(unfold(y), mx.ones(4), mx.zeros(4), 1e-6))),
    )

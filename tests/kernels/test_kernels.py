"""axial_rope: its reference against the official code, its Metal kernel (in the emulator) against the reference."""

from __future__ import annotations

import math
import sys
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import metal
import synthetic
from answers import make_layers
from mlx_sam2.kernels import axial_rope
from mlx_sam2.kernels.axial_rope import axial_rope_op
from mlx_sam2.kernels.dispatch import Tensor, exact_reference, make_arguments, relative_difference
from synthetic import normal

STORED = np.load(synthetic.DATA / "layers.npz")


@pytest.mark.parametrize("name", make_layers.ROPE)
def test_axial_rope(name: str) -> None:
    """Against the official code: non-square grids, keys of several frames, keys without a place."""
    height, width, _, _, tail, theta = make_layers.ROPE[name]
    got = axial_rope(mx.array(make_layers.rope_input(name)), height, width, theta, tail)
    np.testing.assert_allclose(np.array(got), STORED[f"rope.{name}"], rtol=0, atol=2e-6)  # measured: 2e-7


def test_axial_rope_by_its_definition() -> None:
    """Pairs of neighbouring channels turn, half of them with the column, half with the row."""
    height, width, dim, theta = 3, 5, 12, 100.0
    x = normal("x", (1, 1, height * width, dim), 0)
    expected = x.astype(np.float64)
    for n, pair in np.ndindex(height * width, dim // 2):
        place = n % width if pair < dim // 4 else n // width
        angle = place * theta ** (-4 * (pair % (dim // 4)) / dim)
        turned = complex(*x[0, 0, n, 2 * pair : 2 * pair + 2]) * complex(math.cos(angle), math.sin(angle))
        expected[0, 0, n, 2 * pair : 2 * pair + 2] = turned.real, turned.imag
    got = axial_rope(mx.array(x), height, width, theta)
    np.testing.assert_allclose(np.array(got), expected, rtol=0, atol=2e-6)  # measured: 2e-7


def test_frames_of_keys_repeat_the_whole_table() -> None:
    """Each frame of keys is turned as if it were alone: the mistake of two public ports is to repeat every row."""
    height, width, dim, frames = 3, 4, 8, 3
    x = mx.array(normal("x", (2, 1, frames * height * width, dim), 0))
    together = np.array(axial_rope(x, height, width))
    for i, part in enumerate(mx.split(x, frames, axis=2)):
        alone = np.array(axial_rope(part, height, width))
        np.testing.assert_array_equal(together[:, :, i * height * width : (i + 1) * height * width], alone)


def test_keys_without_a_place_are_left_alone() -> None:
    x = mx.array(normal("x", (1, 2, 4 + 3, 8), 0))
    got = np.array(axial_rope(x, 2, 2, num_tail=3))
    np.testing.assert_array_equal(got[:, :, 4:], np.array(x)[:, :, 4:])
    assert not np.allclose(got[:, :, 1:4], np.array(x)[:, :, 1:4])


def test_only_keys_without_a_place() -> None:
    x = mx.array(normal("x", (1, 1, 3, 8), 0))
    np.testing.assert_array_equal(np.array(axial_rope(x, 2, 2, num_tail=3)), np.array(x))


def test_axial_rope_keeps_the_dtype() -> None:
    x = mx.array(normal("x", (1, 1, 4, 8), 0)).astype(mx.float16)
    got = axial_rope(x, 2, 2)
    assert got.dtype == mx.float16
    exact = np.array(axial_rope(x.astype(mx.float32), 2, 2))
    np.testing.assert_array_equal(np.array(got), exact.astype(np.float16))  # computed in float32, rounded once


@pytest.mark.parametrize(("tokens", "dim", "tail"), [(13, 8, 0), (12, 6, 0), (14, 8, 3), (12, 8, 24), (12, 8, -12)])
def test_axial_rope_that_does_not_fit(tokens: int, dim: int, tail: int) -> None:
    with pytest.raises(ValueError, match=f"{tokens} tokens of {dim} channels with a tail of {tail} do not fit a 3x4"):
        axial_rope(mx.zeros((1, 1, tokens, dim)), 3, 4, num_tail=tail)


@pytest.mark.parametrize("grid", [(0, 4), (4, 0), (-2, -2)])
def test_a_grid_of_no_size(grid: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"do not fit a {grid[0]}x{grid[1]} grid"):
        axial_rope(mx.zeros((1, 1, 4, 8)), *grid)


# ---- the Metal kernel, where the emulator is

CASES = dict(enumerate(axial_rope_op.cases))
FULL_SIZE = {i: case for i, case in CASES.items() if math.prod(case[0].shape) > 1 << 20}
# measured: 1e-7, 4e-4 and 3.2e-3; of halves it is their one rounding, at most 2**-11 and 2**-8 of the largest value
TOLERANCE = {"float32": 1e-6, "float16": 2**-11, "bfloat16": 2**-8}
SMALL = {i: case for i, case in CASES.items() if i not in FULL_SIZE}


def deviation(case: tuple[Any, ...], dtype: mx.Dtype) -> float:
    args = make_arguments(case, dtype)
    return relative_difference(axial_rope(*args), exact_reference(axial_rope_op, args))


@pytest.mark.parametrize("dtype", metal.NAMES)
@pytest.mark.parametrize("order", [pytest.param("forward", marks=pytest.mark.slow), "random"])
def test_axial_rope_in_metal(dtype: str, order: str) -> None:
    """Every small and ragged case in the checking mode: races, bounds, unwritten elements are errors there."""
    with metal.emulated("check", order) as reports:
        for case in SMALL.values():
            assert deviation(case, metal.NAMES[dtype]) <= TOLERANCE[dtype], case
    used = [r for r in reports if "axial_rope" in r.name]
    assert len(used) == len(SMALL) + len({case[0].shape[-1] for case in SMALL.values()})  # and one check a head dim
    assert not any(r.warnings for r in used)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", metal.NAMES)
def test_axial_rope_in_metal_at_full_size(dtype: str) -> None:
    with metal.emulated("fast"):
        for case in FULL_SIZE.values():
            assert deviation(case, metal.NAMES[dtype]) <= TOLERANCE[dtype], case


def test_axial_rope_moves_few_bytes() -> None:
    """At most 1.15 times the bytes that have to move; reading the table once for 16 tokens shows on small grids."""
    x = (Tensor((1, 1, 3 * 1024 + 64, 32)), 32, 32, 10000.0, 64)
    args = make_arguments(x, mx.float32)
    with metal.emulated("check") as reports:
        mx.eval(axial_rope(*args))
    report = reports[-1]
    moved = {name: t["loaded"] + t["stored"] for name, t in report.traffic.items() if not name.endswith("_shape")}
    assert sum(moved.values()) <= 1.15 * axial_rope_op.minimum_bytes(*args)  # measured: 1.05
    assert moved["x"] == moved["out"] == args[0].nbytes
    assert report.threadgroup_bytes == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("const float re =", "const flaot re =", "it failed: "),
        ("T(re * s + im * c)", "T(re * s - im * c)", "it differs from the reference by "),
    ],
    ids=["does not compile", "wrong"],
)
def test_a_source_that_is_broken(monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str) -> None:
    """The real source, with one slip: told once, and the reference answers."""
    module = sys.modules[axial_rope.__module__]
    assert old in module.SOURCE
    monkeypatch.setattr(module, "SOURCE", module.SOURCE.replace(old, new))
    x = mx.array(normal("x", (1, 1, 35, 16), 0))
    expected = np.array(axial_rope(x, 5, 7))
    with metal.emulated("fast"):
        with pytest.warns(RuntimeWarning, match=f"the Metal kernel axial_rope .* {message}") as told:
            results = [axial_rope(x, 5, 7), axial_rope(x, 5, 7)]
        assert len([w for w in told if str(w.message).startswith("mlx_sam2: ")]) == 1  # the emulator has its own
        for result in results:
            np.testing.assert_array_equal(np.array(result), expected)


def test_arrays_of_few_elements_are_not_served() -> None:
    """MLX binds inputs of fewer than 8 elements as `constant`, which the kernel does not read; the emulator would."""
    assert not axial_rope_op.supports(mx.zeros((1, 1, 1, 4)), 1, 1, 10000.0, 0)
    assert axial_rope_op.supports(mx.zeros((1, 1, 1, 8)), 1, 1, 10000.0, 0)
    assert axial_rope_op.supports(mx.zeros((1, 1, 2, 4)), 1, 2, 10000.0, 0)

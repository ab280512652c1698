"""The pure-MLX references of the kernels; a kernel itself is held against its reference where there is Metal."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest

import synthetic
from data import make_layers
from mlx_sam2.kernels import axial_rope
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

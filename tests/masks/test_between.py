"""Masks between two masks: a moving, growing or vanishing object."""

from __future__ import annotations

import numpy as np
import pytest

from mlx_sam2.masks.between import SignedDistance, mask_between

SIZE = 90, 120


def disc(x: float, y: float, radius: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def between(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return mask_between(SignedDistance.of(a), SignedDistance.of(b), share, a.shape)


def test_distances_are_exact() -> None:
    mask = np.zeros(SIZE, bool)
    mask[30:41, 50:71] = True
    distance = SignedDistance.of(mask)
    x, y = np.array([60, 50, 49, 46]), np.array([35, 30, 26])
    found = distance.at(x, y)
    assert found[0].tolist() == [5.5, 0.5, -0.5, -3.5]
    np.testing.assert_allclose(found[2], [-3.5, -3.5, 0.5 - 17**0.5, 0.5 - 32**0.5], rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_disc_that_jumps_over_more_than_itself(share: float) -> None:
    found = between(disc(20, 30, 9), disc(100, 50, 9), share)
    assert iou(found, disc(20 + 80 * share, 30 + 20 * share, 9)) > 0.98


def test_a_disc_that_grows() -> None:
    assert iou(between(disc(50, 40, 8), disc(50, 40, 24), 0.5), disc(50, 40, 16)) > 0.98


@pytest.mark.parametrize("mask", [disc(30, 30, 12) & ~disc(33, 30, 4), disc(2, 88, 20), disc(70, 40, 0.5)])
def test_the_ends_are_the_masks(mask: np.ndarray) -> None:
    other = disc(60, 45, 10)
    np.testing.assert_array_equal(between(mask, other, 0.0), mask)
    np.testing.assert_array_equal(between(other, mask, 1.0), mask)


def test_an_absent_object_is_there_for_half_of_the_way() -> None:
    mask, nothing = disc(60, 45, 10), np.zeros(SIZE, bool)
    assert [between(mask, nothing, s).any() for s in (0.25, 0.49, 0.5, 0.75)] == [True, True, False, False]
    assert [between(nothing, mask, s).any() for s in (0.25, 0.5)] == [False, True]
    np.testing.assert_array_equal(between(mask, nothing, 0.25), mask)
    assert not between(nothing, nothing, 0.5).any()


def test_large_objects_are_seen_more_coarsely() -> None:
    size = 700, 900
    a, b = disc(300, 350, 250, size), disc(500, 300, 200, size)
    assert SignedDistance.of(a).values.size < 300 * 300
    assert iou(between(a, b, 0.0), a) > 0.99
    assert iou(between(a, b, 0.5), disc(400, 325, 225, size)) > 0.98

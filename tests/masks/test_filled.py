"""Polygons become the masks that pycocotools makes of them, run for run."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mlx_sam2.masks import filled, mask_to_polygons, polygons_to_rle, rle_to_mask


def polygon(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> list[float]:
    """Corners inside and far outside, on the grid of fifths and off it."""
    corners = int(rng.integers(3, 9))
    points = {
        "far": rng.uniform(-20, 80, (corners, 2)),
        "whole": rng.integers(-5, 70, (corners, 2)).astype(float),
        "inside": rng.uniform(0, 1, (corners, 2)) * size[::-1],
        "fifths": rng.integers(-50, 350, (corners, 2)) / 5,
    }[kind]
    return points.ravel().tolist()


@pytest.mark.parametrize("kind", ["far", "whole", "inside", "fifths"])
def test_polygons_fill_as_pycocotools_fills_them(kind: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(150):
        height, width = (int(n) for n in rng.integers(1, 60, 2))
        polygons = [polygon(rng, kind, (height, width)) for _ in range(rng.integers(1, 4))]
        expected = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
        found = polygons_to_rle(polygons, (height, width))
        assert found == {"size": [height, width], "counts": expected["counts"].decode()}, polygons


def test_exact_outlines_come_back() -> None:
    mask = np.random.default_rng(5).random((37, 53)) > 0.4
    np.testing.assert_array_equal(rle_to_mask(polygons_to_rle(mask_to_polygons(mask), mask.shape)), mask)


def test_what_is_no_polygon() -> None:
    assert not rle_to_mask(polygons_to_rle([], (5, 7))).any()
    assert not rle_to_mask(polygons_to_rle([[1, 1, 4, 4]], (5, 7))).any()
    for wrong in ([1, 2, 3], [0, 0, float("nan"), 1, 1, 1], [[0, 0], [1, 1], [2, 0]]):
        with pytest.raises(ValueError, match="list of finite numbers"):
            polygons_to_rle([wrong], (5, 7))


def test_hostile_polygons_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Huge coordinates cost nothing; sides that cross many columns are refused before they are drawn."""
    huge = [-1e300, -1e300, 1e300, -1e300, 1e300, 1e300, -1e300, 1e300]
    assert rle_to_mask(polygons_to_rle([huge], (9, 9))).all()
    monkeypatch.setattr(filled, "MAX_CROSSINGS", 1000)
    with pytest.raises(ValueError, match="at most 1,000"):
        polygons_to_rle([[0, 0, 60_000, 9, 0, 9]], (9, 60_000))

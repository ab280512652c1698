"""Grids of points and overlapping crops, where the automatic mask generator looks (official ``utils/amg.py``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

EDGE_TOLERANCE = 20.0  # pixels


class Crop(NamedTuple):
    """A part of an image: its corners in pixels, the second one not included, and the layer it belongs to."""

    x0: int
    y0: int
    x1: int
    y1: int
    layer: int = 0

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self[:4]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0

    def of(self, image: np.ndarray) -> np.ndarray:
        return image[self.y0 : self.y1, self.x0 : self.x1]


def point_grid(points_per_side: int) -> np.ndarray:
    """(n * n, 2) float64 points (x, y) in 0..1, the centres of n x n equal cells, row by row."""
    margin = 1 / (2 * points_per_side)
    side = np.linspace(margin, 1 - margin, points_per_side)
    x, y = np.meshgrid(side, side)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def layer_grids(points_per_side: int, num_layers: int, downscale: float) -> list[np.ndarray]:
    """The grid of the whole image and those of the crop layers: ``points_per_side / downscale**layer`` a side.

    Raises:
        ValueError: a layer would be left without points.
    """
    if not downscale > 0:
        raise ValueError(f"crop_n_points_downscale_factor={downscale!r}: it must be above 0")
    sides = [int(points_per_side / downscale**layer) for layer in range(num_layers + 1)]
    if min(sides) < 1:
        raise ValueError(
            f"points_per_side={points_per_side} with crop_n_points_downscale_factor={downscale} leaves crop layer "
            f"{next(i for i, n in enumerate(sides) if n < 1)} without points; give more points or a smaller factor"
        )
    return [point_grid(side) for side in sides]


def crops(size: tuple[int, int], num_layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole image, then 2 x 2 crops, 4 x 4 crops, ..., each layer column by column.

    Crops of layer 1 overlap by `overlap_ratio` of the image's short side, those of layer 2 by half of that, and so on.
    Of an image with fewer pixels than crops the empty ones are left out (the official code stops at them).
    """
    height, width = size
    found = [Crop(0, 0, width, height)]
    for layer in range(1, num_layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / per_side))
        w, h = (math.ceil((overlap * (per_side - 1) + length) / per_side) for length in (width, height))
        for i, j in product(range(per_side), repeat=2):
            x, y = i * (w - overlap), j * (h - overlap)
            found.append(Crop(x, y, min(x + w, width), min(y + h, height), layer))
    return [crop for crop in found if min(crop.size) > 0]


def near_crop_edge(
    boxes: np.ndarray, crop: Crop, size: tuple[int, int], tolerance: float = EDGE_TOLERANCE
) -> np.ndarray:
    """Which boxes end within so many pixels of an edge of the crop that is not one of the image: cut off there.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels of the crop.
        size: height and width of the image.
    """
    corners = np.asarray(boxes, np.float32) + np.array([crop.x0, crop.y0] * 2, np.float32)
    crop_box, image_box = np.array(crop.box, np.float32), np.array([0, 0, size[1], size[0]], np.float32)
    near_crop = np.abs(corners - crop_box) <= tolerance
    near_image = np.abs(corners - image_box) <= tolerance
    return (near_crop & ~near_image).any(axis=1)


def check_grids(grids: Sequence[np.ndarray], num_layers: int) -> list[np.ndarray]:
    """A user's grids, one for each layer, as float64 (N, 2).

    Raises:
        ValueError: there are too few, or one is something else.
    """
    if len(grids) <= num_layers:
        raise ValueError(f"point_grids has {len(grids)} grids; the image and {num_layers} crop layers need one each")
    arrays = [np.asarray(grid, np.float64) for grid in grids]
    for i, grid in enumerate(arrays):
        if grid.ndim != 2 or grid.shape[1] != 2 or not np.isfinite(grid).all():
            raise ValueError(f"point_grids[{i}] has shape {grid.shape}; it must be (N, 2), x and y in 0..1")
    return arrays

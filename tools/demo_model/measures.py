"""Measures of masks and the prompts that stand for them: for evaluate.py and for tests/measure/demo_scenarios.py."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = ["box_of", "deepest", "iou"]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def deepest(region: np.ndarray) -> tuple[float, float]:
    """The pixel (x, y) farthest from the region's edge; the picture's edge counts as one."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    return float(x), float(y)


def box_of(mask: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max(), y.max()], np.float32)

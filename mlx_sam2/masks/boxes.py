"""Boxes: around masks, their overlap, and non-maximum suppression. Pure numpy."""

from __future__ import annotations

import numpy as np


def as_mask(mask: np.ndarray) -> np.ndarray:
    """`mask` as an array, if it is one mask (H, W).

    Raises:
        ValueError: it has another shape.
    """
    array = np.asarray(mask)
    if array.ndim != 2:
        hint = "; give its masks one by one" if array.ndim > 2 else ""
        raise ValueError(f"a mask must have the shape (H, W), got {array.shape}{hint}")
    return array


def mask_to_box(mask: np.ndarray) -> list[int]:
    """[x0, y0, x1, y1] of a mask (H, W), the first and last pixels inside, both included; zeros when empty.

    Official ``amg.py``, ``batched_mask_to_box``.
    """
    mask = as_mask(mask)
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if len(columns) == 0:
        return [0, 0, 0, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


def mask_to_bbox(mask: np.ndarray) -> list[int]:
    """COCO's [x, y, width, height], which counts both end pixels; zeros when empty."""
    mask = as_mask(mask)
    if not mask.any():
        return [0, 0, 0, 0]
    x0, y0, x1, y1 = mask_to_box(mask)
    return [x0, y0, x1 - x0 + 1, y1 - y0 + 1]


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` with every box of `b` (``torchvision.ops.box_iou``).

    Args:
        a, b: (N, 4) and (M, 4), x0, y0, x1, y1; a box's area is (x1 - x0) (y1 - y0).

    Returns:
        (N, M), float64 if either input is, else float32; NaN for two boxes without area.
    """
    a, b = _boxes(a), _boxes(b)
    corner = np.maximum(a[:, None, :2], b[None, :, :2])  # (N, M, 2)
    sides = np.maximum(np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner, 0)
    shared = sides[..., 0] * sides[..., 1]
    union = _areas(a)[:, None] + _areas(b)[None] - shared
    with np.errstate(invalid="ignore", divide="ignore"):
        return shared / union


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression (``torchvision.ops.nms``; ``batched_nms`` with one class).

    From the highest score down, a box is kept unless its IoU with one that was kept is above `threshold`. Of
    equal scores the first comes first. A NaN, the IoU of two boxes without area, suppresses nothing.

    Args:
        boxes: (N, 4), x0, y0, x1, y1. Overlaps are computed in float32, as in the official generator, unless
            the boxes are float64: whether an IoU of 3/5 is above 0.6 depends on it.
        scores: (N,).

    Returns:
        (K,) int64, the indices of those kept, best first.
    """
    boxes, scores = _boxes(boxes), np.asarray(scores)
    if scores.shape != (len(boxes),):
        raise ValueError(f"nms needs one score a box: {len(boxes)} boxes, scores of shape {scores.shape}")
    # Reversed twice: descending, equal scores in their order, NaN first as torch has it.
    order = len(scores) - 1 - np.argsort(scores[::-1], kind="stable")[::-1]
    kept = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        overlap = box_iou(boxes[best : best + 1], boxes[order])[0]
        order = order[~(overlap.astype(np.float64) > threshold)]
    return np.array(kept, np.int64)


def _boxes(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) float."""
    boxes = np.asarray(boxes)
    boxes = boxes if boxes.dtype == np.float64 else boxes.astype(np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        if boxes.size:
            raise ValueError(f"boxes must have the shape (N, 4), x0, y0, x1, y1; got {boxes.shape}")
        boxes = boxes.reshape(0, 4)
    return boxes


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

"""Names of the official ``utils/amg.py``, on numpy arrays; the work is done in ``masks`` and ``images/crops.py``."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from ..images.crops import Crop, crops, layer_grids, near_crop_edge, point_grid
from ..masks import compress_rle, mask_to_box, mask_to_rle, remove_small_regions, rle_to_mask
from ..masks import rle_area as area_from_rle
from .arrays import ResultArray, to_numpy

__all__ = [
    "MaskData", "area_from_rle", "batch_iterator", "batched_mask_to_box", "box_xyxy_to_xywh",
    "build_all_layer_point_grids", "build_point_grid", "calculate_stability_score", "coco_encode_rle",
    "generate_crop_boxes", "is_box_near_crop_edge", "mask_to_rle_pytorch", "remove_small_regions", "rle_to_mask",
    "uncrop_boxes_xyxy", "uncrop_masks", "uncrop_points",
]  # fmt: skip


def build_point_grid(n_per_side: int) -> np.ndarray:
    """(n * n, 2) points (x, y) in 0..1."""
    return point_grid(n_per_side)


def build_all_layer_point_grids(n_per_side: int, n_layers: int, scale_per_layer: float) -> list[np.ndarray]:
    """The grid of the whole image and those of the crop layers."""
    return layer_grids(n_per_side, n_layers, scale_per_layer)


def coco_encode_rle(uncompressed_rle: dict[str, Any]) -> dict[str, Any]:
    """COCO's compressed form, its counts a text."""
    return compress_rle(uncompressed_rle)


class MaskData:
    """Lists and arrays of the same length under names, filtered and joined together (official ``MaskData``)."""

    def __init__(self, **stats: Any) -> None:
        self._stats: dict[str, Any] = {}
        for name, values in stats.items():
            self[name] = values

    def __setitem__(self, key: str, item: Any) -> None:
        if not isinstance(item, (list, np.ndarray)):
            raise TypeError(f"MaskData[{key!r}] is a {type(item).__name__}; it takes lists and numpy arrays")
        self._stats[key] = item

    def __delitem__(self, key: str) -> None:
        del self._stats[key]

    def __getitem__(self, key: str) -> Any:
        return self._stats[key]

    def items(self) -> ItemsView[str, Any]:
        return self._stats.items()

    def filter(self, keep: Any) -> None:
        """Keep the entries that ``keep`` names: booleans of all, or indices."""
        keep = to_numpy(keep)
        chosen = np.flatnonzero(keep) if keep.dtype == bool else keep
        for name, values in self._stats.items():
            self._stats[name] = [values[i] for i in chosen] if isinstance(values, list) else values[chosen]

    def cat(self, new_stats: MaskData) -> None:
        """Append the entries of another one; names that are new here are taken over."""
        for name, values in new_stats.items():
            if self._stats.get(name) is None:
                self._stats[name] = deepcopy(values)
            elif isinstance(values, list):
                self._stats[name] = self._stats[name] + deepcopy(values)
            else:
                self._stats[name] = np.concatenate([self._stats[name], values])

    def to_numpy(self) -> None:
        """Nothing to do: arrays are numpy's."""


def batch_iterator(batch_size: int, *args: Sequence[Any]) -> Iterator[list[Any]]:
    """Slices of ``batch_size`` entries of every argument; all have the same length."""
    if not args or any(len(a) != len(args[0]) for a in args):
        raise ValueError("batch_iterator needs arguments of the same length")
    for start in range(0, len(args[0]), batch_size):
        yield [a[start : start + batch_size] for a in args]


def is_box_near_crop_edge(boxes: Any, crop_box: Sequence[int], orig_box: Sequence[int], atol: float = 20.0) -> Any:
    """Which boxes (N, 4) of a crop end within ``atol`` pixels of an edge that is not one of the image: (N,) bool."""
    _, _, width, height = orig_box
    return ResultArray.of(near_crop_edge(to_numpy(boxes), Crop(*crop_box), (height, width), atol))


def box_xyxy_to_xywh(box_xyxy: Any) -> ResultArray:
    """(4,) or (..., 4) corners -> x, y, width, height."""
    box = np.array(to_numpy(box_xyxy))
    box[..., 2:] -= box[..., :2]
    return ResultArray.of(box)


def mask_to_rle_pytorch(tensor: Any) -> list[dict[str, Any]]:
    """(B, H, W) masks -> their uncompressed run-length encodings."""
    return [mask_to_rle(mask, compressed=False) for mask in to_numpy(tensor)]


def calculate_stability_score(masks: Any, mask_threshold: float, threshold_offset: float) -> ResultArray:
    """(..., H, W) logits -> the IoU (...) of the masks thresholded higher and lower; NaN where both are empty."""
    logits = to_numpy(masks)
    inner, outer = (
        (logits > mask_threshold + step * threshold_offset).sum((-2, -1)).astype(np.float32) for step in (1, -1)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return ResultArray.of(inner / outer)


def generate_crop_boxes(
    im_size: tuple[int, ...], n_layers: int, overlap_ratio: float
) -> tuple[list[list[int]], list[int]]:
    """Corners of the crops of an image (H, W), and the layer of each."""
    found = crops((im_size[0], im_size[1]), n_layers, overlap_ratio)
    return [list(crop.box) for crop in found], [crop.layer for crop in found]


def uncrop_boxes_xyxy(boxes: Any, crop_box: Sequence[int]) -> ResultArray:
    """(..., 4) boxes of a crop -> of the image."""
    return ResultArray.of(to_numpy(boxes) + np.array([*crop_box[:2], *crop_box[:2]]))


def uncrop_points(points: Any, crop_box: Sequence[int]) -> ResultArray:
    """(..., 2) points of a crop -> of the image."""
    return ResultArray.of(to_numpy(points) + np.array(crop_box[:2]))


def uncrop_masks(masks: Any, crop_box: Sequence[int], orig_h: int, orig_w: int) -> ResultArray:
    """(..., h, w) masks of a crop -> (..., orig_h, orig_w), zero around it."""
    array, (x0, y0, x1, y1) = to_numpy(masks), crop_box
    around = [(0, 0)] * (array.ndim - 2) + [(y0, orig_h - y1), (x0, orig_w - x1)]
    return ResultArray.of(np.pad(array, around))


def batched_mask_to_box(masks: Any) -> ResultArray:
    """(..., H, W) masks -> (..., 4) corners, first and last pixel inside; zeros for an empty mask."""
    array = to_numpy(masks)
    boxes = [mask_to_box(mask) for mask in array.reshape(-1, *array.shape[-2:])]
    return ResultArray.of(np.array(boxes, np.int64).reshape(*array.shape[:-2], 4))

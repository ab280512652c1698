"""Masks as data: components, boxes, run-length encodings, outlines, and other libraries' forms. Pure numpy."""

from __future__ import annotations

from .boxes import box_iou, mask_to_bbox, mask_to_box, nms
from .components import clean_logits, connected_components, fill_holes, remove_small_regions
from .filled import polygons_to_rle
from .polygons import mask_to_polygons
from .records import record_mask, to_label_image, to_supervision
from .rle import (
    compress_rle,
    mask_iou,
    mask_to_rle,
    pack_masks,
    packed_to_rles,
    rle_area,
    rle_to_bbox,
    rle_to_box,
    rle_to_mask,
)

__all__ = [
    "box_iou",
    "clean_logits",
    "compress_rle",
    "connected_components",
    "fill_holes",
    "mask_iou",
    "mask_to_bbox",
    "mask_to_box",
    "mask_to_polygons",
    "mask_to_rle",
    "nms",
    "pack_masks",
    "packed_to_rles",
    "polygons_to_rle",
    "record_mask",
    "remove_small_regions",
    "rle_area",
    "rle_to_bbox",
    "rle_to_box",
    "rle_to_mask",
    "to_label_image",
    "to_supervision",
]

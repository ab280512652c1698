"""Photos: files, preprocessing, drawing on them, and their crops."""

from __future__ import annotations

from .drawing import cutout, draw_masks, mask_picture, overlay, overlay_labels
from .files import (
    LOSSLESS,
    MAX_PIXELS,
    MAX_SIDE,
    PICTURES,
    ImageError,
    check_output,
    read,
    to_array,
    write,
)

__all__ = [
    "LOSSLESS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "PICTURES",
    "ImageError",
    "check_output",
    "cutout",
    "draw_masks",
    "mask_picture",
    "overlay",
    "overlay_labels",
    "read",
    "to_array",
    "write",
]

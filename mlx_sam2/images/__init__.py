"""Photos: files, preprocessing, drawing on them, and their crops."""

from __future__ import annotations

from .drawing import cutout, mask_picture, overlay, overlay_labels
from .files import (
    LOSSLESS,
    MAX_PIXELS,
    MAX_SIDE,
    MEAN,
    PICTURES,
    STD,
    ImageError,
    check_output,
    mask_prompt,
    preprocess,
    read,
    to_array,
    write,
)

__all__ = [
    "LOSSLESS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MEAN",
    "PICTURES",
    "STD",
    "ImageError",
    "check_output",
    "cutout",
    "mask_picture",
    "mask_prompt",
    "overlay",
    "overlay_labels",
    "preprocess",
    "read",
    "to_array",
    "write",
]

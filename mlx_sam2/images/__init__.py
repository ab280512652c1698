"""Photos: read and write them, draw on them, cut them into crops; ``preprocess`` makes the model's input of them."""

from __future__ import annotations

from .drawing import cutout, draw_masks, mask_picture, overlay, overlay_labels
from .files import (
    LOSSLESS,
    PICTURES,
    Picture,
    check_output,
    decode,
    open_file,
    read,
    read_mask,
    to_array,
    write,
)
from .levels import Levels, is_deep_mode, parse_levels, span_of
from .limits import MAX_PIXELS, MAX_SIDE, ImageError

__all__ = [
    "LOSSLESS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "PICTURES",
    "ImageError",
    "Levels",
    "Picture",
    "check_output",
    "cutout",
    "decode",
    "draw_masks",
    "is_deep_mode",
    "mask_picture",
    "open_file",
    "overlay",
    "overlay_labels",
    "parse_levels",
    "read",
    "read_mask",
    "span_of",
    "to_array",
    "write",
]

"""The official ``SAM2Transforms``: photos to the model's input, coordinates to its pixels, masks back to the photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from .. import images
from ..images.preprocess import MEAN, STD, preprocess_photo
from ..masks import clean_logits
from ..model.resize import resize_bilinear
from .arrays import ResultArray, to_numpy

FILL_MARGIN = 10.0  # how far beyond the threshold a filled hole or a removed sprinkle goes


class SAM2Transforms:
    """Official ``utils/transforms.py``; arrays are numpy's, axes are the official ones.

    Args:
        resolution: side of the model's input, in pixels.
        mask_threshold: logits above it are mask.
        max_hole_area, max_sprinkle_area: as for ``SAM2ImagePredictor``.
    """

    mean, std = MEAN, STD

    def __init__(
        self, resolution: int, mask_threshold: float, max_hole_area: float = 0.0, max_sprinkle_area: float = 0.0
    ) -> None:
        self.resolution = resolution
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area

    def __call__(self, image: Any) -> ResultArray:
        """A photo, (H, W, 3) uint8 or PIL's -> (3, S, S) float32."""
        pixels = preprocess_photo(images.to_array(image), self.resolution)
        return ResultArray.of(np.array(pixels)[0].transpose(2, 0, 1))

    def forward_batch(self, img_list: Sequence[Any]) -> ResultArray:
        """Photos -> (B, 3, S, S) float32."""
        return ResultArray.of(np.stack([self(image) for image in img_list]))

    def transform_coords(self, coords: Any, normalize: bool = False, orig_hw: Any = None) -> ResultArray:
        """(..., 2) points in pixels of the photo (with ``normalize``) or in 0..1 -> pixels of the model's input."""
        points = np.array(to_numpy(coords), np.float32)
        if normalize:
            if orig_hw is None:
                raise ValueError("transform_coords(normalize=True) needs orig_hw, the (height, width) of the photo")
            height, width = orig_hw
            points = points / np.array([width, height], np.float32)
        return ResultArray.of(points * np.float32(self.resolution))

    def transform_boxes(self, boxes: Any, normalize: bool = False, orig_hw: Any = None) -> ResultArray:
        """(B, 4) or (4,) boxes -> (B, 2, 2) corners, as ``transform_coords``."""
        return self.transform_coords(to_numpy(boxes).reshape(-1, 2, 2), normalize, orig_hw)

    def postprocess_masks(self, masks: Any, orig_hw: tuple[int, int]) -> ResultArray:
        """(B, M, h, w) logits -> (B, M, H, W) logits at the photo's size, holes filled and sprinkles removed."""
        return ResultArray.of(np.array(self.upscale(mx.array(np.array(to_numpy(masks), np.float32)), tuple(orig_hw))))

    def upscale(self, low_res: mx.array, size: tuple[int, int]) -> mx.array:
        """(B, M, h, w) logits -> (B, M, *size), after filling holes and removing sprinkles."""
        if self.max_hole_area > 0 or self.max_sprinkle_area > 0:
            areas = (self.max_hole_area, self.max_sprinkle_area)
            low_res = mx.array(clean_logits(np.array(low_res), self.mask_threshold, *areas, FILL_MARGIN))
        b, m, h, w = low_res.shape
        return resize_bilinear(low_res.reshape(b * m, h, w, 1), size).reshape(b, m, *size)

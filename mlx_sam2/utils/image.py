"""What scripts read, keep and set of the official image predictor, under its private names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..model.results import ImageFeatures
from .arrays import ResultArray, to_numpy
from .features import FeatureDict, restored
from .module import ModuleMethods, OfficialSAM2
from .transforms import SAM2Transforms


class OfficialAttributes(ModuleMethods):
    """For ``SAM2ImagePredictor``: names of the official class that stand on our own attributes."""

    model: OfficialSAM2
    mask_threshold: float
    max_hole_area: float
    max_sprinkle_area: float
    _images: list[ImageFeatures]
    _orig_hw: list[tuple[int, int]]

    def _module(self) -> OfficialSAM2:
        return self.model

    @property
    def _features(self) -> FeatureDict | None:
        return FeatureDict(self.model, self._images) if self._images else None

    @_features.setter
    def _features(self, features: Mapping[str, Any] | None) -> None:
        self._images = restored(self.model, features)

    @property
    def _transforms(self) -> SAM2Transforms:
        areas = (self.max_hole_area, self.max_sprinkle_area)
        return SAM2Transforms(self.model.config.image_size, self.mask_threshold, *areas)

    @property
    def _bb_feat_sizes(self) -> list[tuple[int, int]]:
        """Height and width of the three feature maps, the finest first."""
        side = self.model.config.embedding_size
        return [(side * n, side * n) for n in (4, 2, 1)]

    def _prep_prompts(
        self,
        point_coords: Any,
        point_labels: Any,
        box: Any,
        mask_logits: Any,
        normalize_coords: bool,
        img_idx: int = -1,
    ) -> tuple[ResultArray | None, ...]:
        """Mask (B, 1, h, w), points (B, N, 2), labels (B, N) and box corners (B, 2, 2), in the model's pixels."""
        mask = points = labels = corners = None
        if point_coords is not None:
            if point_labels is None:
                raise ValueError("point_coords are given without point_labels; give one label per point (1 or 0)")
            points = self._transforms.transform_coords(point_coords, normalize_coords, self._orig_hw[img_idx])
            labels = ResultArray.of(to_numpy(point_labels).astype(np.int32))
            if points.ndim == 2:
                points, labels = points[None], labels[None]
        if box is not None:
            corners = self._transforms.transform_boxes(box, normalize_coords, self._orig_hw[img_idx])
        if mask_logits is not None:
            mask = ResultArray.of(to_numpy(mask_logits).astype(np.float32))
            mask = mask[None] if mask.ndim == 3 else mask
        return mask, points, labels, corners

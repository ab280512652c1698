"""What scripts read, keep and set of the official image predictor, under its private names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ..model.prompt_encoder import BOTTOM_RIGHT, TOP_LEFT
from ..model.results import ImageFeatures
from .arrays import ResultArray, to_numpy
from .features import FeatureDict, restored
from .module import ModuleMethods, OfficialSAM2
from .transforms import SAM2Transforms

LOW_RES_CLAMP = 32.0  # of the returned low-resolution logits; the full-size masks come from unclamped ones


class OfficialAttributes(ModuleMethods):
    """For ``SAM2ImagePredictor``: names of the official class that stand on our own attributes."""

    model: OfficialSAM2
    mask_threshold: float
    max_hole_area: float
    max_sprinkle_area: float
    _images: list[ImageFeatures]
    _orig_hw: list[tuple[int, int]]
    upscale: Any
    _require_image: Any

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

    def _predict(
        self,
        point_coords: Any,
        point_labels: Any,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        img_idx: int = -1,
    ) -> tuple[ResultArray, ResultArray, ResultArray]:
        """Masks (B, M, H, W), predicted IoU (B, M) and logits (B, M, h, w) of what ``_prep_prompts`` gives."""
        self._require_image()
        points, labels = [], []
        if boxes is not None:
            points.append(to_numpy(boxes).astype(np.float32).reshape(-1, 2, 2))
            labels.append(np.tile([[TOP_LEFT, BOTTOM_RIGHT]], (len(points[0]), 1)))
        if point_coords is not None:
            points.append(to_numpy(point_coords).astype(np.float32))
            labels.append(to_numpy(point_labels))
        xy = mx.array(np.concatenate(points, axis=1)) if points else None
        kinds = mx.array(np.concatenate(labels, axis=1).astype(np.int32)) if points else None
        mask = None if mask_input is None else mx.array(to_numpy(mask_input).astype(np.float32)[:, 0, :, :, None])
        low_res, ious = self.model.predict_masks(self._images[img_idx], xy, kinds, mask, multimask_output)
        full = self.upscale(low_res, self._orig_hw[img_idx])
        full = full if return_logits else full > self.mask_threshold
        low_res = mx.clip(low_res, -LOW_RES_CLAMP, LOW_RES_CLAMP)
        full, ious, low_res = (ResultArray.of(to_numpy(value)) for value in (full, ious, low_res))
        return full, ious, low_res

"""Methods of the official mask generator that scripts call by themselves."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np

from ..masks import nms
from .amg import MaskData, batch_iterator, batched_mask_to_box, mask_to_rle_pytorch, remove_small_regions, rle_to_mask
from .arrays import ResultArray, to_numpy


class GeneratorMethods:
    """For ``SAM2AutomaticMaskGenerator``."""

    predictor: Any

    @staticmethod
    def postprocess_small_regions(mask_data: MaskData, min_area: int, nms_thresh: float) -> MaskData:
        """Fill holes and remove islands of fewer than ``min_area`` pixels, then drop masks that have become alike.

        Args:
            mask_data: with ``rles`` and ``boxes``; changed in place.
            nms_thresh: of two masks whose boxes have an IoU above it one is kept, rather the one that did not change.
        """
        if not mask_data["rles"]:
            return mask_data
        found, scores = [], []
        for rle in mask_data["rles"]:
            mask, filled = remove_small_regions(rle_to_mask(rle), min_area, mode="holes")
            mask, removed = remove_small_regions(mask, min_area, mode="islands")
            found.append(mask)
            scores.append(float(not (filled or removed)))
        stacked = np.stack(found)
        boxes = batched_mask_to_box(stacked)
        keep = nms(np.asarray(boxes, np.float32), np.array(scores, np.float32), nms_thresh)
        for i in keep:
            if scores[i] == 0:
                mask_data["rles"][i] = mask_to_rle_pytorch(stacked[i : i + 1])[0]
                mask_data["boxes"][i] = boxes[i]
        mask_data.filter(keep)
        return mask_data

    def refine_with_m2m(
        self, points: Any, point_labels: Any, low_res_masks: Any, points_per_batch: int
    ) -> tuple[ResultArray, ResultArray]:
        """Every mask again, with its logits as prompt beside its point, on the image that the predictor holds.

        Args:
            points: (N, 2) in pixels of the model's input, as ``_transforms.transform_coords`` gives them.
            point_labels: (N,).
            low_res_masks: (N, h, w) logits.

        Returns:
            Logits (N, 1, H, W) at the image's size, and predicted IoU (N, 1).
        """
        predictor = self.predictor
        masks, ious = [], []
        given = (
            to_numpy(points).astype(np.float32),
            to_numpy(point_labels),
            to_numpy(low_res_masks).astype(np.float32),
        )
        for xy, labels, logits in batch_iterator(points_per_batch, *given):
            prompt = (mx.array(xy)[:, None], mx.array(labels.astype(np.int32))[:, None], mx.array(logits)[..., None])
            low_res, scores = predictor.model.predict_masks(predictor.image_features[0], *prompt, False)
            masks.append(np.array(predictor.upscale(low_res, predictor._orig_hw[0])))
            ious.append(np.array(scores))
        return ResultArray.of(np.concatenate(masks)), ResultArray.of(np.concatenate(ious))

"""The official automatic mask generator as a running oracle, on top of official.py.

It asks torchvision for two functions; where torchvision is missing plain ones take their place.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import numpy as np

from official import official_image_predictor, torch


def box_area(boxes: torch.Tensor) -> torch.Tensor:
    boxes = boxes if boxes.is_floating_point() else boxes.long()
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def batched_nms(boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Torchvision's, for one class: best first, of equal scores the first; the IoU is float32, its threshold is not."""
    assert not classes.any()
    order = scores.sort(stable=True, descending=True).indices.tolist()
    xyxy, limit = boxes.float().numpy(), np.float64(iou_threshold)
    areas = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    suppressed, kept = np.zeros(len(xyxy), bool), []
    for n, i in enumerate(order):
        if suppressed[i]:
            continue
        kept.append(i)
        for j in order[n + 1 :]:
            width = max(np.float32(0), min(xyxy[i, 2], xyxy[j, 2]) - max(xyxy[i, 0], xyxy[j, 0]))
            height = max(np.float32(0), min(xyxy[i, 3], xyxy[j, 3]) - max(xyxy[i, 1], xyxy[j, 1]))
            shared = width * height
            with np.errstate(invalid="ignore"):
                suppressed[j] |= shared / (areas[i] + areas[j] - shared) > limit
    return torch.tensor(kept, dtype=torch.int64)


def _import_generator() -> Any:
    try:
        importlib.import_module("torchvision.ops.boxes")
    except ImportError:
        names = ["torchvision", "torchvision.ops", "torchvision.ops.boxes"]
        modules = {name: types.ModuleType(name) for name in names}
        modules[names[2]].batched_nms, modules[names[2]].box_area = batched_nms, box_area
        sys.modules.update(modules)
        module = importlib.import_module("sam2.automatic_mask_generator")
        for name in names:  # transformers must not see them
            del sys.modules[name]
        return module
    return importlib.import_module("sam2.automatic_mask_generator")


OfficialGenerator = _import_generator().SAM2AutomaticMaskGenerator


def official_generator(model: torch.nn.Module, **options: Any) -> Any:
    generator = OfficialGenerator(model, **options)
    areas = {name: getattr(generator.predictor._transforms, name) for name in ("max_hole_area", "max_sprinkle_area")}
    generator.predictor = official_image_predictor(model, **areas)
    return generator

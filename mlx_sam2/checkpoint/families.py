"""Recognise SAM 1, SAM 3 and other models by the names of their tensors, so that they are refused by name."""

from __future__ import annotations

import re
from collections.abc import Set

from ..config.published import short_names

# (marks, family): a mark begins a name of the file, without prefixes. The first row decides whose marks are all there.
_FAMILIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("detector.backbone.vision_backbone.",), "SAM 3"),
    (("detector_model.",), "SAM 3 (of transformers)"),
    (("sam_mask_decoder.hf_token.",), "HQ-SAM 2, which adds to SAM 2's decoder"),
    (("mask_decoder.hf_token.",), "HQ-SAM, which adds to SAM 1"),
    (("image_encoder.patch_embed.seq.",), "MobileSAM (SAM 1 with a smaller encoder)"),
    (("image_encoder.backbone.", "mask_decoder.", "prompt_encoder."), "SAM 1 with another encoder"),
    (("image_encoder.blocks.", "mask_decoder."), "SAM 1"),
    (("vision_encoder.layers.", "mask_decoder."), "SAM 1 (of transformers)"),
    (("model.0.conv.", "model.1.conv."), "a YOLO"),
    (("transformer.level_embed", "bbox_embed."), "Grounding DINO"),
    (("blocks.0.ls1.gamma",), "DINOv2"),
    (("embeddings.mask_token", "encoder.layer.0."), "DINOv2 (of transformers)"),
    (("visual.", "token_embedding."), "CLIP"),
)
_PLAIN_TRUNK = tuple(
    f"image_encoder.trunk.{name}" for name in ("pos_embed", "pos_embed_window", "blocks.0.attn.qkv.weight")
)
_PREFIX, _DEEPEST = re.compile(r"^(?:module|_orig_mod|model|sam)\."), 2
# Classes of pickled models, by the beginnings of their names.
_CLASSES = (
    ("ultralytics.", "a model of Ultralytics, such as YOLO or FastSAM"),
    ("models.yolo.", "a YOLO"),
    ("__torch__.", "a TorchScript program"),
)


def family(names: Set[str]) -> str | None:
    """The family of a file that is no SAM 2, by its names; None: it is unknown, or may be SAM 2."""
    for _ in range(_DEEPEST + 1):
        for marks, found in _FAMILIES:
            if all(any(name.startswith(mark) for name in names) for mark in marks):
                return found
        has_position, has_windows, has_blocks = (name in names for name in _PLAIN_TRUNK)
        if has_position and has_blocks and not has_windows:
            return "EfficientTAM, whose encoder is a plain ViT"
        names = {_PREFIX.sub("", name) for name in names}  # one layer
    return None


def family_of_class(name: str) -> str | None:
    """The family of a pickled object, by the name of its class."""
    return next((found for beginning, found in _CLASSES if name.startswith(beginning)), None)


def refusal(found: str) -> str:
    """The end of the line that refuses a file of another family."""
    return f"is {found}, and this is SAM 2: use {short_names()}, or weights that were tuned from SAM 2 or 2.1"

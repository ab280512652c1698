"""The whole model (official ``modeling/sam2_base.py``): encode an image, predict masks, attend to and encode memories."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..config import SAM2Config
from .image_encoder import ImageEncoder
from .layers import MLP, resize_bilinear, sine_position_encoding, sine_time_encoding
from .mask_decoder import DecoderOutput, MaskDecoder
from .memory import MemoryAttention, MemoryEncoder
from .prompt_encoder import PADDING, PromptEncoder

NO_OBJECT_LOGIT = -1024.0
MASK_LOGIT_SCALE, MASK_LOGIT_BIAS = 20.0, -10.0  # a given mask as logits: +-10


class ImageFeatures(NamedTuple):
    """What the image encoder leaves for B images."""

    embedding: mx.array  # (B, h, w, C), stride 16, without the no-memory embedding
    high_res: tuple[mx.array, mx.array] | None  # (B, 4h, 4w, C / 8) and (B, 2h, 2w, C / 4)

    def __getitem__(self, index: int | slice) -> ImageFeatures:  # type: ignore[override]
        """Select images: a slice keeps the batch axis, an index keeps it too."""
        rows = index if isinstance(index, slice) else slice(index, index + 1 or None)
        high_res = None if self.high_res is None else (self.high_res[0][rows], self.high_res[1][rows])
        return ImageFeatures(self.embedding[rows], high_res)


class ObjectPrediction(NamedTuple):
    """What one frame says about B objects."""

    low_res_mask: mx.array  # (B, 4h, 4w, 1) logits, float32; all -1024 where the object is absent
    pointer: mx.array  # (B, C) object pointer
    object_score: mx.array  # (B, 1) logit, float32; above 0 means present
    ious: mx.array  # (B, M) predicted IoU of the masks that were considered

"""What passes between the parts of the model: features of images, predictions about objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx

from .derived import Derived
from .two_way_transformer import ImageProjections


@dataclass(frozen=True)
class ImageFeatures:
    """Features of B images."""

    embedding: mx.array  # (B, h, w, C), stride 16, without the no-memory embedding
    high_res: tuple[mx.array, mx.array] | None  # (B, 4h, 4w, C / 8) and (B, 2h, 2w, C / 4)
    # of the mask decoder's first layer, for the prompts after the first
    projections: Derived[ImageProjections] = field(default_factory=Derived, repr=False, compare=False)

    def image(self, index: int) -> ImageFeatures:
        """The features of one image, batch axis kept."""
        high_res = None if self.high_res is None else tuple(f[index][None] for f in self.high_res)
        return ImageFeatures(self.embedding[index][None], high_res)

    def arrays(self) -> list[mx.array]:
        """All arrays, for ``mx.eval``."""
        return [self.embedding, *(self.high_res or ())]


class ObjectPrediction(NamedTuple):
    """The prediction for B objects on one frame."""

    low_res_mask: mx.array  # (B, 4h, 4w, 1) logits, float32; -1024 everywhere where the object is absent
    pointer: mx.array  # (B, C) object pointer, float32
    object_score: mx.array  # (B, 1) logit, float32; above 0 means present
    ious: mx.array  # (B, M) predicted IoU of the masks that were considered, float32


class Candidates(NamedTuple):
    """The masks that a prediction for B objects is chosen from; M is 1 or ``num_multimask_outputs``."""

    masks: mx.array  # (B, M, 4h, 4w) logits, float32; not blanked where the object is absent
    ious: mx.array  # (B, M) predicted IoU, float32
    tokens: mx.array  # (B, M or 1, C) mask tokens for the object pointer
    object_score: mx.array  # (B, 1) logit, float32

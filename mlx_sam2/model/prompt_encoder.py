"""The prompt encoder: points, boxes and masks to embeddings (official ``modeling/sam/prompt_encoder.py``)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from ..config.sam2 import SAM2Config
from .derived import Derived
from .layers import GELU
from .position_encoding import PositionEmbeddingRandom

# Labels of points. A box is two points, its corners.
PADDING, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
NUM_POINT_LABELS = 4
MASK_NORM_EPS = 1e-6


class PromptEncoder(nn.Module):
    """Embeds points (sparse, one token each) and a mask (dense, one vector per cell of the feature map)."""

    def __init__(self, config: SAM2Config):
        super().__init__()
        dim, hidden = config.neck.d_model, config.decoder.mask_in_chans
        self._image_size = config.image_size
        self._embedding_size = config.embedding_size
        self._position: Derived[mx.array] = Derived()  # of every cell
        self.pe_layer = PositionEmbeddingRandom(dim // 2)
        self.point_embeddings = [nn.Embedding(1, dim) for _ in range(NUM_POINT_LABELS)]
        self.not_a_point_embed = nn.Embedding(1, dim)
        self.mask_downscaling = [
            nn.Conv2d(1, hidden // 4, 2, stride=2),
            nn.LayerNorm(hidden // 4, eps=MASK_NORM_EPS),
            GELU(),
            nn.Conv2d(hidden // 4, hidden, 2, stride=2),
            nn.LayerNorm(hidden, eps=MASK_NORM_EPS),
            GELU(),
            nn.Conv2d(hidden, dim, 1),
        ]
        self.no_mask_embed = nn.Embedding(1, dim)

    @property
    def mask_input_size(self) -> tuple[int, int]:
        """Height and width of a mask prompt: four times the feature map."""
        return 4 * self._embedding_size, 4 * self._embedding_size

    def dense_position_encoding(self) -> mx.array:
        """Position of every cell of the feature map, (1, h, w, d_model) in the dtype of the weights; cached."""

        def compute() -> mx.array:
            grid = self.pe_layer.grid(self._embedding_size, self._embedding_size)
            return grid.astype(self.no_mask_embed.weight.dtype)

        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        return compute() if self.training else self._position.get([matrix, self.no_mask_embed.weight], compute)

    def embed_points(self, points: mx.array, labels: mx.array) -> mx.array:
        """Points (B, N, 2) as (x, y) pixels of the model's input, labels (B, N) -> tokens (B, N + 1, d_model) float32.

        One padding point is appended, as the official predictors do for points and boxes alike. Labels: 1 positive,
        0 negative, 2 and 3 the corners of a box, -1 padding.
        """
        b = points.shape[0]
        points = mx.concatenate([points.astype(mx.float32) + 0.5, mx.zeros((b, 1, 2))], axis=1)
        labels = mx.concatenate([labels.astype(mx.int32), mx.full((b, 1), PADDING, mx.int32)], axis=1)
        tokens = self.pe_layer(points / self._image_size)
        # row 0 is for padding and replaces the position; rows 1.. are added to it
        table = mx.concatenate([self.not_a_point_embed.weight, *(e.weight for e in self.point_embeddings)])
        labels = labels[..., None]
        added = table.astype(mx.float32)[mx.clip(labels[..., 0], PADDING, BOTTOM_RIGHT) + 1]
        known = (labels >= PADDING) & (labels <= BOTTOM_RIGHT)
        return mx.where(labels == PADDING, added, tokens + mx.where(known, added, 0))

    def embed_mask(self, mask: mx.array) -> mx.array:
        """Mask logits (B, 4h, 4w, 1) -> (B, h, w, d_model)."""
        for layer in self.mask_downscaling:
            mask = layer(mask)
        return mask

    def __call__(
        self, points: mx.array | None, labels: mx.array | None, mask: mx.array | None
    ) -> tuple[mx.array, mx.array]:
        """Embed one prompt per batch item.

        Args:
            points: (B, N, 2) as (x, y) pixels of the model's input, or None for no sparse token at all.
            labels: (B, N), see ``embed_points``.
            mask: (B, 4h, 4w, 1) logits, or None.

        Returns:
            Sparse tokens (B, N + 1, d_model), or (B, 0, d_model) without points; dense embedding (B, h, w, d_model),
            or (1, 1, 1, d_model) without a mask. Both in the dtype of the weights.
        """
        dtype = self.no_mask_embed.weight.dtype
        batch = next((p.shape[0] for p in (points, mask) if p is not None), 1)
        if points is None:
            sparse = mx.zeros((batch, 0, self.no_mask_embed.weight.shape[1]), dtype)
        else:
            sparse = self.embed_points(points, labels).astype(dtype)
        if mask is None:
            return sparse, self.no_mask_embed.weight[:, None, None]
        return sparse, self.embed_mask(mask.astype(dtype))

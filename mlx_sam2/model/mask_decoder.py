"""The mask decoder: a two-way transformer, upscaling and hypernetworks (official ``modeling/sam/mask_decoder.py``)."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..config import DecoderConfig, SAM2Config
from .layers import GELU, MLP, Attention

UPSCALE_NORM_EPS = 1e-6  # LayerNorm2d; the transformer's norms use 1e-5, MLX's default
PRESENT = 10.0  # object score of a model without an object-score head


class DecoderOutput(NamedTuple):
    """All that the decoder predicts for a batch of B prompts; M masks, the first for unambiguous prompts."""

    masks: mx.array  # (B, M, 4h, 4w) logits, float32
    ious: mx.array  # (B, M) predicted IoU, float32
    tokens: mx.array  # (B, M, d_model) mask tokens after the transformer
    object_score: mx.array  # (B, 1) logit, float32


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image attends to the tokens."""

    def __init__(self, dim: int, config: DecoderConfig, skip_first_layer_pe: bool):
        super().__init__()
        heads, rate = config.num_heads, config.attention_downsample_rate
        self._skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = Attention(dim, heads, rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, config.mlp_dim, dim, 2)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = Attention(dim, heads, rate)

    def __call__(
        self, queries: mx.array, keys: mx.array, query_pe: mx.array, key_pe: mx.array
    ) -> tuple[mx.array, mx.array]:
        """queries (B, N, C) and keys (B or 1, h * w, C), with their position encodings; both come back with B."""
        if self._skip_first_layer_pe:  # the first layer has no positions and no residual
            queries = self.self_attn(queries, queries, queries)
        else:
            q = queries + query_pe
            queries = queries + self.self_attn(q, q, queries)
        queries = self.norm1(queries)

        k = keys + key_pe
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + query_pe, k, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(k, queries + query_pe, queries))
        return queries, keys


class TwoWayTransformer(nn.Module):
    """Decodes tokens against an image embedding (official ``modeling/sam/transformer.py``)."""

    def __init__(self, dim: int, config: DecoderConfig):
        super().__init__()
        self.layers = [TwoWayAttentionBlock(dim, config, skip_first_layer_pe=i == 0) for i in range(config.depth)]
        self.final_attn_token_to_image = Attention(dim, config.num_heads, config.attention_downsample_rate)
        self.norm_final_attn = nn.LayerNorm(dim)

    def __call__(self, image: mx.array, image_pe: mx.array, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """Tokens (B, N, C) and image (B, h * w, C) after the transformer.

        image (B or 1, h * w, C): one image shared by all prompts is projected once in the first layer. image_pe
        (1, h * w, C), tokens (B, N, C).
        """
        queries, keys = tokens, image
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, image_pe)
        attended = self.final_attn_token_to_image(queries + tokens, keys + image_pe, keys)
        return self.norm_final_attn(queries + attended), keys


class MaskDecoder(nn.Module):
    """Predicts masks, their quality and the object's presence from image features and prompt embeddings."""

    def __init__(self, config: SAM2Config):
        super().__init__()
        dim, heads = config.neck.d_model, config.decoder
        self._config = heads
        self._num_mask_tokens = heads.num_multimask_outputs + 1
        self.transformer = TwoWayTransformer(dim, heads)
        self.iou_token = nn.Embedding(1, dim)
        self.mask_tokens = nn.Embedding(self._num_mask_tokens, dim)
        if config.pred_obj_scores:
            self.obj_score_token = nn.Embedding(1, dim)
            self.pred_obj_score_head = MLP(dim, dim, 1, 3) if config.pred_obj_scores_mlp else nn.Linear(dim, 1)
        self.output_upscaling = [
            nn.ConvTranspose2d(dim, dim // 4, 2, stride=2),
            nn.LayerNorm(dim // 4, eps=UPSCALE_NORM_EPS),
            GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, 2, stride=2),
            GELU(),
        ]
        if config.use_high_res_features_in_sam:
            self.conv_s0 = nn.Conv2d(dim, dim // 8, 1)
            self.conv_s1 = nn.Conv2d(dim, dim // 4, 1)
        self.output_hypernetworks_mlps = [MLP(dim, dim, dim // 8, 3) for _ in range(self._num_mask_tokens)]
        self.iou_prediction_head = MLP(
            dim,
            heads.iou_head_hidden_dim,
            self._num_mask_tokens,
            heads.iou_head_depth,
            sigmoid_output=config.iou_prediction_use_sigmoid,
        )

    def project_high_res(self, stride_4: mx.array, stride_8: mx.array) -> tuple[mx.array, mx.array]:
        """(B, 4h, 4w, C) and (B, 2h, 2w, C) -> C / 8 and C / 4 channels, once per image."""
        return self.conv_s0(stride_4), self.conv_s1(stride_8)

    def __call__(
        self,
        image: mx.array,
        image_pe: mx.array,
        sparse: mx.array,
        dense: mx.array,
        high_res: tuple[mx.array, mx.array] | None,
    ) -> DecoderOutput:
        """Decode B prompts.

        Args:
            image: (B or 1, h, w, C) features of stride 16.
            image_pe: (1, h, w, C) dense position encoding.
            sparse: (B, N, C) prompt tokens.
            dense: (B or 1, h or 1, w or 1, C) mask embedding, added to the image.
            high_res: ``project_high_res`` of strides 4 and 8, each (B or 1, ...), or None for a model without.
        """
        hidden, pixels = self._transform(image, image_pe, sparse, dense)
        first = 1 if "obj_score_token" in self else 0
        tokens = hidden[:, first + 1 : first + 1 + self._num_mask_tokens]
        kernels = mx.stack([mlp(tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], axis=1)
        upscaled = self._upscale(pixels, high_res)  # (B, 4h, 4w, C / 8)
        b, height, width, _ = upscaled.shape
        masks = kernels.astype(mx.float32) @ upscaled.astype(mx.float32).reshape(b, height * width, -1).swapaxes(1, 2)
        score = self.pred_obj_score_head(hidden[:, 0]).astype(mx.float32) if first else mx.full((b, 1), PRESENT)
        ious = self.iou_prediction_head(hidden[:, first]).astype(mx.float32)
        return DecoderOutput(masks.reshape(b, -1, height, width), ious, tokens, score)

    def _transform(
        self, image: mx.array, image_pe: mx.array, sparse: mx.array, dense: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Run the transformer; returns tokens (B, N', C) and the image (B, h, w, C)."""
        output_tokens = [self.iou_token.weight, self.mask_tokens.weight]
        if "obj_score_token" in self:
            output_tokens.insert(0, self.obj_score_token.weight)
        fixed = mx.concatenate(output_tokens)[None]  # [object score, IoU, masks]
        b, (h, w, c) = sparse.shape[0], image.shape[1:]
        tokens = mx.concatenate([mx.broadcast_to(fixed, (b, *fixed.shape[1:])), sparse], axis=1)
        src = image + dense  # (1, h, w, C) as long as neither image nor mask differs between the prompts
        src = mx.broadcast_to(src, (len(src), h, w, c)).reshape(-1, h * w, c)
        hidden, src = self.transformer(src, image_pe.astype(src.dtype).reshape(1, h * w, c), tokens)
        return hidden, src.reshape(b, h, w, c)

    def _upscale(self, x: mx.array, high_res: tuple[mx.array, mx.array] | None) -> mx.array:
        """(B, h, w, C) -> (B, 4h, 4w, C / 8); the high-resolution features join before norm and activation."""
        up1, norm, act1, up2, act2 = self.output_upscaling
        stride_4, stride_8 = high_res if high_res is not None else (0, 0)
        return act2(up2(act1(norm(up1(x) + stride_8))) + stride_4)

    # ---- which of the masks to return

    def select(self, output: DecoderOutput, multimask: bool) -> tuple[mx.array, mx.array]:
        """Masks (B, M', 4h, 4w) and IoUs (B, M') to return: all but the first, or a single one.

        The single mask is the first unless its stability is below the threshold and the configuration asks for the
        dynamic choice; then it is the best of the others by predicted IoU, decided for every prompt by itself.
        """
        if multimask:
            return output.masks[:, 1:], output.ious[:, 1:]
        mask, iou = output.masks[:, :1], output.ious[:, :1]
        if not self._config.dynamic_multimask_via_stability:
            return mask, iou
        best = mx.argmax(output.ious[:, 1:], axis=1)[:, None] + 1  # (B, 1)
        best_iou = mx.take_along_axis(output.ious, best, axis=1)
        best_mask = mx.take_along_axis(output.masks, best[:, :, None, None], axis=1)
        stable = self.stability_score(mask) >= self._config.dynamic_multimask_stability_thresh  # (B, 1)
        return mx.where(stable[:, :, None, None], mask, best_mask), mx.where(stable, iou, best_iou)

    def stability_score(self, masks: mx.array) -> mx.array:
        """IoU between the masks thresholded a little higher and a little lower, (B, M, H, W) -> (B, M)."""
        delta = self._config.dynamic_multimask_stability_delta
        inner = (masks > delta).sum(axis=(2, 3)).astype(mx.float32)
        outer = (masks > -delta).sum(axis=(2, 3)).astype(mx.float32)
        return mx.where(outer > 0, inner / mx.maximum(outer, 1), 1.0)

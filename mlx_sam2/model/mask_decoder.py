"""The mask decoder: a two-way transformer, upscaling and hypernetworks (official ``modeling/sam/mask_decoder.py``)."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn

from ..config.sam2 import SAM2Config
from ..kernels import mask_logits, unfold, upscaled_layer_norm
from .layers import GELU, MLP
from .two_way_transformer import ImageProjections, TwoWayTransformer

UPSCALE_NORM_EPS = 1e-6  # LayerNorm2d; the transformer's norms use 1e-5, MLX's default
PRESENT = 10.0  # object score of a model without an object-score head


class DecoderOutput(NamedTuple):
    """Predictions for B prompts. The first of the M masks is meant for unambiguous prompts."""

    masks: mx.array  # (B, M, 4h, 4w) logits, float32
    ious: mx.array  # (B, M) predicted IoU, float32
    tokens: mx.array  # (B, M, d_model) mask tokens after the transformer
    object_score: mx.array  # (B, 1) logit, float32


class DoublingConv(nn.ConvTranspose2d):
    """A transposed convolution of kernel 2 and stride 2 as one matrix product: its outputs do not overlap.

    MLX's transposed convolution takes 20 times as long on a CPU.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 2, stride=2)

    def __call__(self, x: mx.array, more: mx.array | None = None) -> mx.array:
        """(B, h, w, C_in) -> (B, 2h, 2w, C_out), plus ``more`` of that shape (or of batch 1)."""
        return unfold(self.folded(x), more)

    def folded(self, x: mx.array) -> mx.array:
        """(B, h, w, C_in) -> (B, h, w, 4 * C_out), the 2x2 pixels of a cell side by side."""
        (b, h, w, c), out = x.shape, len(self.bias)
        matrix = self.weight.transpose(1, 2, 0, 3).reshape(4 * out, c)  # rows (dy, dx, output channel)
        return mx.addmm(mx.tile(self.bias, 4), x.reshape(b * h * w, c), matrix.T).reshape(b, h, w, 4 * out)


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
            DoublingConv(dim, dim // 4),
            nn.LayerNorm(dim // 4, eps=UPSCALE_NORM_EPS),
            GELU(),
            DoublingConv(dim // 4, dim // 8),
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

    def project_image(self, image: mx.array, image_pe: mx.array, dense: mx.array) -> ImageProjections:
        """Project an image for all prompts without a mask. Arguments as for ``__call__``, all of batch 1."""
        image, position = self._flat(image, image_pe, dense)
        return self.transformer.layers[0].project_image(image, position)

    def projection_weights(self) -> list[mx.array]:
        """The weights that ``project_image`` depends on."""
        layer = self.transformer.layers[0]
        to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        return [w for p in (to_image.k_proj, to_image.v_proj, to_tokens.q_proj) for w in (p.weight, p.bias)]

    def __call__(
        self,
        image: mx.array,
        image_pe: mx.array,
        sparse: mx.array,
        dense: mx.array,
        high_res: tuple[mx.array, mx.array] | None,
        projected: ImageProjections | None = None,
    ) -> DecoderOutput:
        """Decode B prompts.

        Args:
            image: (B or 1, h, w, C) features of stride 16.
            image_pe: (1, h, w, C) dense position encoding.
            sparse: (B, N, C) prompt tokens.
            dense: (B or 1, h or 1, w or 1, C) mask embedding, added to the image.
            high_res: strides 4 and 8 after ``conv_s0`` and ``conv_s1`` (``SAM2.encode_image``), each (B or 1, ...);
                None for a model that uses none.
            projected: ``project_image`` of the same image, position encoding and mask embedding, if known.
        """
        hidden, pixels = self._transform(image, image_pe, sparse, dense, projected)
        first = 1 if "obj_score_token" in self else 0
        tokens = hidden[:, first + 1 : first + 1 + self._num_mask_tokens]
        kernels = mx.stack([mlp(tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], axis=1)
        masks = self._masks(pixels, high_res, kernels)
        b = len(masks)
        score = self.pred_obj_score_head(hidden[:, 0]).astype(mx.float32) if first else mx.full((b, 1), PRESENT)
        ious = self.iou_prediction_head(hidden[:, first]).astype(mx.float32)
        return DecoderOutput(masks, ious, tokens, score)

    def _flat(self, image: mx.array, image_pe: mx.array, dense: mx.array) -> tuple[mx.array, mx.array]:
        """The image with its mask embedding, (B or 1, h * w, C), and its positions, (1, h * w, C), of one dtype."""
        h, w, c = image.shape[1:]
        image = image + dense  # of batch 1 unless image or mask differ between the prompts
        return image.reshape(-1, h * w, c), image_pe.astype(image.dtype).reshape(1, h * w, c)

    def _transform(
        self,
        image: mx.array,
        image_pe: mx.array,
        sparse: mx.array,
        dense: mx.array,
        projected: ImageProjections | None = None,
    ) -> tuple[mx.array, mx.array]:
        """Run the transformer; returns tokens (B, N', C) and the image (B, h, w, C)."""
        output_tokens = [self.iou_token.weight, self.mask_tokens.weight]
        if "obj_score_token" in self:
            output_tokens.insert(0, self.obj_score_token.weight)
        fixed = mx.concatenate(output_tokens)[None]  # [object score, IoU, masks]
        b, (h, w, c) = sparse.shape[0], image.shape[1:]
        tokens = mx.concatenate([mx.broadcast_to(fixed, (b, *fixed.shape[1:])), sparse], axis=1)
        if projected is None:
            src, position = self._flat(image, image_pe, dense)
        else:
            src, position = projected.tokens, projected.position
        hidden, src = self.transformer(src, position, tokens, projected)
        return hidden, src.reshape(b, h, w, c)

    def _masks(self, x: mx.array, high_res: tuple[mx.array, mx.array] | None, kernels: mx.array) -> mx.array:
        """(B, h, w, C), and kernels (B, M, C / 8) -> (B, M, 4h, 4w) float32.

        The high-resolution features join before norm and activation.
        """
        up1, norm, act1, up2, act2 = self.output_upscaling
        if high_res is None:
            x = act2(up2(act1(norm(up1(x)))))
            flat = x.astype(mx.float32).reshape(len(x), -1, x.shape[-1])
            return (kernels.astype(mx.float32) @ flat.swapaxes(1, 2)).reshape(*kernels.shape[:2], *x.shape[1:3])
        stride_4, stride_8 = high_res
        x = upscaled_layer_norm(up1.folded(x), stride_8, norm.weight, norm.bias, norm.eps)
        return mask_logits(up2.folded(x), stride_4, kernels)

    # ---- choosing the masks to return

    def select(self, output: DecoderOutput, multimask: bool) -> tuple[mx.array, mx.array]:
        """Masks (B, M', 4h, 4w) and IoUs (B, M') to return: all but the first, or a single one.

        The single mask is the first one. With ``dynamic_multimask_via_stability``, a prompt whose first mask is less
        stable than the threshold gets the best of the others by predicted IoU instead.
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

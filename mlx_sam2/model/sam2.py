"""The whole model (official ``modeling/sam2_base.py``): encode images, predict masks, attend to and encode memories."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..config.sam2 import SAM2Config
from ..processes import before_computing
from ..text import some
from .compiled import compiled
from .image_encoder import ImageEncoder
from .layers import MLP
from .mask_decoder import DecoderOutput, MaskDecoder
from .memory import MemoryAttention, MemoryEncoder, pointer_tokens
from .position_encoding import sine_position_encoding
from .prompt_encoder import PADDING, PromptEncoder
from .quantization import quantize, schemes_of
from .resize import resize_bilinear
from .results import Candidates, ImageFeatures, ObjectPrediction
from .spatial_perceiver import SpatialPerceiver
from .two_way_transformer import ImageProjections

NO_OBJECT_LOGIT = -1024.0
MASK_SCALE, MASK_BIAS = 20.0, -10.0  # a given 0/1 mask as logits: -10 and +10
MASK_PROMPT_REDUCTION = 4  # mask_downsample: the learned way from a full-size mask to the prompt's size


class SAM2(nn.Module):
    """SAM 2 / 2.1 (arXiv 2408.00714). Parameter names are those of the official checkpoints; channels last."""

    def __init__(self, config: SAM2Config):
        super().__init__()
        dim, mem_dim = config.neck.d_model, config.memory_encoder.out_dim
        self._config = config
        self.image_encoder = ImageEncoder(config)
        self.sam_prompt_encoder = PromptEncoder(config)
        self.sam_mask_decoder = MaskDecoder(config)
        self.memory_attention = MemoryAttention(config.memory_attention, config.spatial_perceiver)
        self.memory_encoder = MemoryEncoder(config.memory_encoder)
        if config.spatial_perceiver is not None:
            self.spatial_perceiver = SpatialPerceiver(config.spatial_perceiver)
        self.maskmem_tpos_enc = mx.zeros((config.num_maskmem, 1, 1, mem_dim))
        self.no_mem_embed = mx.zeros((1, 1, dim))
        self.no_mem_pos_enc = mx.zeros((1, 1, dim))  # unused, as in the official code; kept for round trips
        if config.use_obj_ptrs_in_encoder:
            self.mask_downsample = nn.Conv2d(1, 1, MASK_PROMPT_REDUCTION, stride=MASK_PROMPT_REDUCTION)
            self.obj_ptr_proj = MLP(dim, dim, dim, 3) if config.use_mlp_for_obj_ptr_proj else nn.Linear(dim, dim)
        if config.use_obj_ptrs_in_encoder and config.pred_obj_scores:
            self.no_obj_ptr = mx.zeros((1, dim))
        if config.proj_tpos_enc_in_obj_ptrs:
            self.obj_ptr_tpos_proj = nn.Linear(dim, mem_dim)
        if config.no_obj_embed_spatial:
            self.no_obj_embed_spatial = mx.zeros((1, mem_dim))

    @property
    def config(self) -> SAM2Config:
        return self._config

    @property
    def dtype(self) -> mx.Dtype:  # of the weights, and so of the features
        return self.no_mem_embed.dtype

    def with_config(self, config: SAM2Config) -> SAM2:
        """A model with the same weights and another configuration, e.g. other options of the mask decoder.

        Raises:
            ValueError: the configuration needs weights that this model lacks, or of other shapes.
        """
        model = SAM2(config)
        for part in set(SAM2(self._config)) - set(self):  # video modules that an image-only checkpoint left out
            model.pop(part, None)
        quantize(model, schemes_of(self))
        ours, needed = tree_flatten(self.parameters()), dict(tree_flatten(model.parameters()))
        differing = {name for name, value in ours if name not in needed or needed[name].shape != value.shape}
        differing |= needed.keys() - dict(ours).keys()
        if differing:
            raise ValueError(
                f"these options ask for another model: {len(differing)} weights do not fit ({some(differing)})"
            )
        model.load_weights(ours, strict=True)
        return model.eval()

    # ---- images

    def encode_image(self, pixels: mx.array) -> ImageFeatures:
        """(B, S, S, 3) normalised pixels -> features; S is ``config.image_size``."""
        before_computing()
        pixels = self.image_encoder.entry(pixels)
        embedding, high_res = self._encode(pixels, self.image_encoder.prepared(pixels))
        return ImageFeatures(embedding, high_res)

    @compiled
    def _encode(self, pixels: mx.array, prepared: Any) -> tuple[mx.array, tuple[mx.array, mx.array] | None]:
        if not self._config.use_high_res_features_in_sam:
            return self.image_encoder(pixels, prepared)[-1], None
        decoder = self.sam_mask_decoder
        stride_4, stride_8, *_, stride_16 = self.image_encoder(pixels, prepared, (decoder.conv_s0, decoder.conv_s1))
        return stride_16, (stride_4, stride_8)

    def add_no_memory(self, embedding: mx.array) -> mx.array:
        """The features of a frame without memories."""
        return embedding + self.no_mem_embed

    def decode(
        self,
        embedding: mx.array,
        high_res: tuple[mx.array, mx.array] | None,
        points: mx.array | None,
        labels: mx.array | None,
        mask: mx.array | None,
        position: mx.array | None = None,
        projected: ImageProjections | None = None,
    ) -> DecoderOutput:
        """Run prompt encoder and mask decoder on B prompts.

        Args:
            embedding: (B or 1, h, w, C); one image serves all prompts.
            high_res: as in ``ImageFeatures``, (B or 1, ...).
            points, labels: (B, N, 2) as (x, y) pixels of the S x S input and (B, N), or None.
            mask: (B, 4h, 4w, 1) logits, or None.
            position: the prompt encoder's ``dense_position_encoding``, if known.
            projected: the mask decoder's ``project_image`` of the embedding without a mask, if known.
        """
        before_computing()
        position = self.sam_prompt_encoder.dense_position_encoding() if position is None else position
        return DecoderOutput(*self._decode(embedding, high_res, points, labels, mask, position, projected))

    @compiled
    def _decode(
        self,
        embedding: mx.array,
        high_res: tuple[mx.array, mx.array] | None,
        points: mx.array | None,
        labels: mx.array | None,
        mask: mx.array | None,
        position: mx.array,
        projected: tuple[mx.array, ...] | None,
    ) -> tuple[mx.array, ...]:
        sparse, dense = self.sam_prompt_encoder(points, labels, mask)
        projections = None if projected is None else ImageProjections(*projected)
        return tuple(self.sam_mask_decoder(embedding, position, sparse, dense, high_res, projections))

    def predict_masks(
        self,
        features: ImageFeatures,
        points: mx.array | None = None,
        labels: mx.array | None = None,
        mask: mx.array | None = None,
        multimask: bool = True,
    ) -> tuple[mx.array, mx.array]:
        """Masks of still images: (B, M, 4h, 4w) logits and (B, M) predicted IoU, float32, for B prompts.

        Arguments as in ``decode``; M is ``num_multimask_outputs`` with ``multimask``, else 1. The object score is
        ignored, as in the official image predictor.
        """
        before_computing()
        embedding, high_res = self.add_no_memory(features.embedding), features.high_res
        one_image = mask is None and len(embedding) == 1 and not self.training
        projected = self._project_image(features) if one_image else None
        output = self.decode(embedding, high_res, points, labels, mask, projected=projected)
        return self.sam_mask_decoder.select(output, multimask)

    def _project_image(self, features: ImageFeatures) -> ImageProjections:
        """Project one image for prompts without a mask; cached in ``features``."""
        prompts, decoder = self.sam_prompt_encoder, self.sam_mask_decoder
        position, no_mask = prompts.dense_position_encoding(), prompts.no_mask_embed.weight

        def compute() -> ImageProjections:
            return decoder.project_image(self.add_no_memory(features.embedding), position, no_mask[:, None, None])

        weights = decoder.projection_weights()
        return features.projections.get([features.embedding, self.no_mem_embed, position, no_mask, *weights], compute)

    # ---- objects in video

    def predict_object(
        self,
        embedding: mx.array,
        high_res: tuple[mx.array, mx.array] | None,
        points: mx.array | None = None,
        labels: mx.array | None = None,
        mask: mx.array | None = None,
        multimask: bool = False,
        position: mx.array | None = None,
    ) -> ObjectPrediction:
        """Best mask, pointer and presence of B objects (official ``_forward_sam_heads``).

        Arguments as in ``decode``, with ``embedding`` already conditioned on memory. Without points, one padding point
        stands in, as in the official video code.
        """
        return self.choose(self.candidates(embedding, high_res, points, labels, mask, multimask, position))

    def candidates(
        self,
        embedding: mx.array,
        high_res: tuple[mx.array, mx.array] | None,
        points: mx.array | None = None,
        labels: mx.array | None = None,
        mask: mx.array | None = None,
        multimask: bool = False,
        position: mx.array | None = None,
    ) -> Candidates:
        """All masks that ``predict_object`` chooses from. Arguments as there."""
        if points is None:
            batch = max(len(embedding), 1 if mask is None else len(mask))
            points, labels = mx.zeros((batch, 1, 2)), mx.full((batch, 1), PADDING, mx.int32)
        output = self.decode(embedding, high_res, points, labels, mask, position)
        several = multimask and self._config.use_multimask_token_for_obj_ptr
        tokens = output.tokens[:, 1:] if several else output.tokens[:, :1]
        return Candidates(*self.sam_mask_decoder.select(output, multimask), tokens, output.object_score)

    def choose(self, candidates: Candidates, presence: float = 0.0) -> ObjectPrediction:
        """The candidate of the highest predicted IoU, blank where the score is not above ``presence``; its pointer."""
        masks, ious, tokens, score = candidates
        if ious.shape[1] > 1:
            best = mx.stop_gradient(mx.argmax(ious, axis=1))[:, None]  # (B, 1)
            masks = mx.take_along_axis(masks, best[:, :, None, None], axis=1)
            if tokens.shape[1] > 1:
                tokens = mx.take_along_axis(tokens, best[:, :, None], axis=1)
        pointer, masks = self._pointer(tokens[:, 0], score, presence), self.blank_absent(masks, score, presence)
        return ObjectPrediction(masks.swapaxes(1, 2).swapaxes(2, 3), pointer, score, ious)

    def blank_absent(self, masks: mx.array, object_score: mx.array, presence: float = 0.0) -> mx.array:
        """Masks (B, M, 4h, 4w), -1024 everywhere where the score (B, 1) says that the object is absent."""
        present = (object_score > presence)[:, :, None, None]
        return mx.where(present, masks, NO_OBJECT_LOGIT) if self._config.pred_obj_scores else masks

    def _pointer(self, token: mx.array, object_score: mx.array, presence: float) -> mx.array:
        """Object pointer (B, C) from a mask token, replaced where the object is absent."""
        if not self._config.use_obj_ptrs_in_encoder:
            return token.astype(mx.float32)
        pointer = self.obj_ptr_proj(token).astype(mx.float32)
        if not self._config.pred_obj_scores:
            return pointer
        present = mx.sigmoid(object_score) if self._config.soft_no_obj_ptr else (object_score > presence)
        return self._gate_pointer(pointer, present.astype(mx.float32))

    def _gate_pointer(self, pointer: mx.array, present: mx.array) -> mx.array:
        """present (B, 1) in 0..1 fades (with ``fixed_no_obj_ptr``) the pointer and adds the no-object pointer."""
        pointer = present * pointer if self._config.fixed_no_obj_ptr else pointer
        return pointer + (1 - present) * self.no_obj_ptr.astype(mx.float32)

    def predict_from_mask(self, features: ImageFeatures, mask: mx.array, presence: float = 0.0) -> ObjectPrediction:
        """Take a given mask (B, S, S, 1) of 0 and 1 as the answer (official ``_use_mask_as_output``).

        The decoder runs only for the pointer, on features without the no-memory embedding. The object is present if
        the mask has any pixel.
        """
        mask, size = mask.astype(mx.float32), (mask.shape[1] // 4, mask.shape[2] // 4)
        low_res = resize_bilinear(mask * MASK_SCALE + MASK_BIAS, size, antialias=True)
        present = (mask > 0).any(axis=(1, 2)).astype(mx.float32)  # (B, 1)
        if self._config.use_obj_ptrs_in_encoder:
            prompt = self.fit_mask_prompt(self.mask_downsample(mask.astype(self.dtype)).astype(mx.float32))
            found = self.candidates(features.embedding, features.high_res, mask=prompt)
            pointer = self.choose(found, presence).pointer
        else:
            pointer = mx.zeros((mask.shape[0], self._config.neck.d_model))
        gated = self._config.pred_obj_scores and self._config.use_obj_ptrs_in_encoder
        pointer = self._gate_pointer(pointer, present) if gated else pointer
        return ObjectPrediction(low_res, pointer, present * MASK_SCALE + MASK_BIAS, mx.ones((mask.shape[0], 1)))

    def fit_mask_prompt(self, mask: mx.array) -> mx.array:
        """Resize mask logits (B, H, W, 1) to the prompt encoder's size where they differ."""
        size = self.sam_prompt_encoder.mask_input_size
        return mask if mask.shape[1:3] == size else resize_bilinear(mask, size, antialias=True)

    def encode_memory(
        self, embedding: mx.array, mask: mx.array, object_score: mx.array, binarize: bool = False
    ) -> mx.array:
        """Memories of B objects on a frame, (B, *config.memory_shape) (official ``_encode_new_memory``).

        Args:
            embedding: (B or 1, h, w, C) of the frame, without the no-memory embedding.
            mask: (B, S, S, 1) logits.
            object_score: (B, 1); at or below 0 adds the no-object embedding (2.1).
            binarize: threshold the mask instead of its sigmoid, for prompted frames.
        """
        before_computing()
        mask = (mask > 0).astype(mx.float32) if binarize else mx.sigmoid(mask.astype(mx.float32))
        mask = mask * self._config.sigmoid_scale_for_mem_enc + self._config.sigmoid_bias_for_mem_enc
        memory = self.memory_encoder(embedding, mask)
        if self._config.no_obj_embed_spatial:
            absent = (object_score <= 0).astype(memory.dtype)[:, :, None, None]  # (B, 1, 1, 1)
            memory = memory + absent * self.no_obj_embed_spatial
        if "spatial_perceiver" in self:
            position = self.memory_encoder.position_encoding(*memory.shape[1:3])
            memory = self.spatial_perceiver(memory, position)
        return memory

    def attend_memory(
        self,
        embedding: mx.array,
        memories: mx.array,
        time_indices: mx.array,
        pointers: mx.array | None,
        pointer_times: mx.array | None,
        present: mx.array | None = None,
        pooling: int = 1,
    ) -> mx.array:
        """Condition a frame's features on memories (official ``_prepare_memory_conditioned_features``).

        Args:
            embedding: (B or 1, h, w, C) of the frame, without the no-memory embedding.
            memories: (B, T, *config.memory_shape), T memories of each object in the order of attention.
            time_indices: (B, T) integers, rows of ``maskmem_tpos_enc``.
            pointers: (B, P, C) object pointers, or None.
            pointer_times: (B, P) distances in frames, divided by the largest one in use.
            present: (B, T + P) bool, False for memories and pointers that are padding; None if none is.
            pooling: as for ``MemoryAttention``.

        Returns:
            (B, h, w, C).
        """
        tokens = self.memory_tokens(memories, time_indices, pointers, pointer_times, present)
        frame_position = sine_position_encoding(*embedding.shape[1:], self._config.neck.temperature, self.dtype)
        return self.memory_attention(embedding, frame_position, *tokens, pooling)

    def memory_tokens(
        self,
        memories: mx.array,
        time_indices: mx.array,
        pointers: mx.array | None,
        pointer_times: mx.array | None,
        present: mx.array | None = None,
    ) -> tuple[mx.array, mx.array, int, mx.array | None]:
        """Keys, values, ``num_tail`` and ``present`` for ``MemoryAttention``. Arguments as for ``attend_memory``."""
        b, count, *cells, mem_dim = memories.shape
        if "spatial_perceiver" in self:
            spatial = self.spatial_perceiver.position_encoding()
        else:
            spatial = self.memory_encoder.position_encoding(*cells)
        spatial = spatial.reshape(1, 1, -1, mem_dim)
        position = spatial + self.maskmem_tpos_enc[time_indices].reshape(b, count, 1, mem_dim)
        values = memories.reshape(b, -1, mem_dim).astype(self.dtype)
        keys, num_tail = self._with_position(values, position.reshape(b, -1, mem_dim)), 0
        if pointers is not None:
            projection = self.get("obj_ptr_tpos_proj")
            tail, tail_position = pointer_tokens(pointers, pointer_times, self._config, projection, self.dtype)
            tail, num_tail = tail.astype(self.dtype), tail.shape[1]
            keys = mx.concatenate([keys, self._with_position(tail, tail_position)], axis=1)
            values = mx.concatenate([values, tail], axis=1)
            if present is not None:
                of_tail = mx.repeat(present[:, count:], num_tail // pointers.shape[1], axis=1)
                present = mx.concatenate([present[:, :count], of_tail], axis=1)
        return keys, values, num_tail, present

    def _with_position(self, tokens: mx.array, position: mx.array) -> mx.array:
        wanted = self._config.memory_attention.pos_enc_at_cross_attn_keys
        return tokens + position.astype(tokens.dtype) if wanted else tokens

    def track(
        self,
        features: ImageFeatures,
        memories: mx.array,
        time_indices: mx.array,
        pointers: mx.array | None,
        pointer_times: mx.array | None,
        present: mx.array | None = None,
        multimask: bool = True,
        pooling: int = 1,
        remember: bool = True,
    ) -> tuple[ObjectPrediction, mx.array | None]:
        """A frame of B objects without prompts: memory attention, mask decoder and memory encoder, as one graph.

        Arguments as for ``attend_memory`` and ``predict_object``. The second result is the memory of the decoded mask
        (``remember``), or None if ``remember`` is False.
        """
        before_computing()
        recalled = memories, time_indices, pointers, pointer_times, present, pooling
        position = self.sam_prompt_encoder.dense_position_encoding()
        found, memory = self._track(features.embedding, features.high_res, recalled, multimask, remember, position)
        return ObjectPrediction(*found), memory

    @compiled
    def _track(
        self,
        embedding: mx.array,
        high_res: tuple[mx.array, mx.array] | None,
        recalled: tuple[Any, ...],
        multimask: bool,
        remember: bool,
        position: mx.array,
    ) -> tuple[tuple[mx.array, ...], mx.array | None]:
        attended = self.attend_memory(embedding, *recalled)
        found = self.predict_object(attended, high_res, multimask=multimask, position=position)
        memory = self.remember(embedding, found.low_res_mask, found.object_score, False) if remember else None
        return tuple(found), memory

    @compiled
    def remember(self, embedding: mx.array, low_res_mask: mx.array, object_score: mx.array, binarize: bool) -> mx.array:
        """(B, 4h, 4w, 1) logits -> memories, bfloat16; the rounding is part of the official result."""
        mask = resize_bilinear(low_res_mask, (self._config.image_size, self._config.image_size))
        return self.encode_memory(embedding, mask, object_score, binarize).astype(mx.bfloat16)

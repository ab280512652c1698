"""The configuration of a whole model, with the field names of the official YAML files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..text import brief
from . import official, transformers
from .edgetam import REPVIT, PerceiverConfig, RepViTConfig
from .parts import (
    Config,
    ConfigError,
    DecoderConfig,
    FpnConfig,
    HieraConfig,
    MemoryConfig,
    MemoryEncoderConfig,
    Rule,
)

BESIDE = ("model_type", "quantization", "mlx_sam2")  # keys of our config.json that are no fields of the configuration


@dataclass(frozen=True)
class SAM2Config(Config):
    """A whole model (official ``SAM2Base``). The defaults are SAM 2.1 tiny, built with post-processing.

    EdgeTAM is such a model too: its trunk is a ``RepViTConfig``, and it has a ``spatial_perceiver``.
    """

    trunk: HieraConfig | RepViTConfig = field(default_factory=HieraConfig)
    neck: FpnConfig = field(default_factory=FpnConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    memory_attention: MemoryConfig = field(default_factory=MemoryConfig)
    memory_encoder: MemoryEncoderConfig = field(default_factory=MemoryEncoderConfig)
    spatial_perceiver: PerceiverConfig | None = None  # None: memories stay maps
    scalp: int = 1
    image_size: int = 1024
    backbone_stride: int = 16
    num_maskmem: int = 7
    sigmoid_scale_for_mem_enc: float = 20.0
    sigmoid_bias_for_mem_enc: float = -10.0
    binarize_mask_from_pts_for_mem_enc: bool = False
    use_mask_input_as_output_without_sam: bool = True
    max_cond_frames_in_attn: int = -1
    directly_add_no_mem_embed: bool = True
    use_high_res_features_in_sam: bool = True
    multimask_output_in_sam: bool = True
    multimask_min_pt_num: int = 0
    multimask_max_pt_num: int = 1
    multimask_output_for_tracking: bool = True
    use_multimask_token_for_obj_ptr: bool = True
    iou_prediction_use_sigmoid: bool = True
    memory_temporal_stride_for_eval: int = 1
    non_overlap_masks_for_mem_enc: bool = False
    use_obj_ptrs_in_encoder: bool = True
    max_obj_ptrs_in_encoder: int = 16
    add_tpos_enc_to_obj_ptrs: bool = True
    proj_tpos_enc_in_obj_ptrs: bool = True
    use_signed_tpos_enc_to_obj_ptrs: bool = True
    only_obj_ptrs_in_the_past_for_eval: bool = True
    pred_obj_scores: bool = True
    pred_obj_scores_mlp: bool = True
    fixed_no_obj_ptr: bool = True
    soft_no_obj_ptr: bool = False
    use_mlp_for_obj_ptr_proj: bool = True
    no_obj_embed_spatial: bool = True

    def _rules(self) -> Iterator[Rule]:
        trunk, neck, memory, encoder = self.trunk, self.neck, self.memory_attention, self.memory_encoder
        yield self.image_size <= 8192, self, "image_size", "must be at most 8192"
        ok = self.image_size % trunk.image_unit == 0
        rule = f"must be a multiple of {trunk.image_unit}: the trunk's strides and windows must divide it"
        yield ok, self, "image_size", rule
        widths = trunk.widths[::-1]
        if neck.backbone_channel_list != widths:
            yield False, neck, "backbone_channel_list", f"must be {list(widths)}, the trunk's widths"
        yield self.scalp < len(widths), self, "scalp", "drops every feature level"
        level = len(widths) - 1 - self.scalp
        ok = self.backbone_stride == trunk.stride_at_stage(level)
        yield ok, self, "backbone_stride", f"must be the stride of the last kept level, {trunk.stride_at_stage(level)}"
        if self.use_high_res_features_in_sam:
            ok = level == 2 and all(trunk.stride_at_stage(i) << (2 - i) == self.backbone_stride for i in range(2))
            yield ok, self, "use_high_res_features_in_sam", "needs three feature levels, each of half the stride below"
        for i in neck.fpn_top_down_levels:
            ok = i == len(widths) - 1 or trunk.stride_at_stage(i + 1) == 2 * trunk.stride_at_stage(i)
            yield ok, neck, "fpn_top_down_levels", f"level {i} must have half the stride of level {i + 1}"
        heads = self.decoder.attention_downsample_rate * self.decoder.num_heads
        yield neck.d_model % heads == 0, neck, "d_model", f"must be a multiple of the decoder's {heads}"
        for owner, name in ((memory, "d_model"), (encoder, "in_dim")):
            yield getattr(owner, name) == neck.d_model, owner, name, f"must equal the neck's d_model = {neck.d_model}"
        ok = memory.kv_in_dim == encoder.out_dim
        yield ok, memory, "kv_in_dim", f"must equal the memory encoder's out_dim = {encoder.out_dim}"
        ok = encoder.mask_downsampler_total_stride == self.backbone_stride
        yield ok, encoder, "mask_downsampler_total_stride", f"must equal backbone_stride = {self.backbone_stride}"
        yield neck.d_model % encoder.out_dim == 0, encoder, "out_dim", f"must divide d_model = {neck.d_model}"
        if (perceiver := self.spatial_perceiver) is not None:
            ok = perceiver.dim == encoder.out_dim
            yield ok, perceiver, "dim", f"must equal the memory encoder's out_dim = {encoder.out_dim}"
            side = self.embedding_size
            ok = side % perceiver.side == 0
            yield ok, perceiver, "num_latents_2d", f"its root, {perceiver.side}, must divide the {side} cells of a side"
        yield self.max_cond_frames_in_attn not in (0, 1), self, "max_cond_frames_in_attn", "must be -1 or at least 2"
        yield self.directly_add_no_mem_embed, self, "directly_add_no_mem_embed", "must be true, as published"
        needs = self.pred_obj_scores and self.use_obj_ptrs_in_encoder
        yield (
            needs or not self.fixed_no_obj_ptr,
            self,
            "fixed_no_obj_ptr",
            "needs pred_obj_scores and use_obj_ptrs_in_encoder",
        )
        ok = self.add_tpos_enc_to_obj_ptrs or not self.proj_tpos_enc_in_obj_ptrs
        yield ok, self, "proj_tpos_enc_in_obj_ptrs", "needs add_tpos_enc_to_obj_ptrs"

    @property
    def embedding_size(self) -> int:
        """Side of the stride-16 feature map, in tokens."""
        return self.image_size // self.backbone_stride

    @property
    def memory_shape(self) -> tuple[int, ...]:
        """Shape of the memory of one object on one frame: a map (h, w, M), or a perceiver's tokens (N, M)."""
        width = self.memory_encoder.out_dim
        if self.spatial_perceiver is not None:
            return self.spatial_perceiver.num_tokens, width
        return self.embedding_size, self.embedding_size, width

    @classmethod
    def _part(cls, name: str, values: dict[str, Any]) -> Config | None:
        if name == "trunk" and values.get("architecture") == REPVIT:
            return RepViTConfig.from_dict(values)
        return PerceiverConfig.from_dict(values) if name == "spatial_perceiver" else super()._part(name, values)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict, marked as ours; ``from_dict`` gives an equal object back."""
        return {"model_type": "mlx_sam2", **super().to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SAM2Config:
        """Read our own ``to_dict``, the official YAML as a dict, or transformers' ``config.json``.

        Raises:
            ConfigError: one line naming the field and the rule it breaks, or that the form is not known.
        """
        if not isinstance(values, dict):
            raise ConfigError(f"a SAM 2 configuration is an object with named fields, got {type(values).__name__}")
        if official.is_official(values):
            return super().from_dict(official.from_official(values))
        if transformers.is_transformers(values):
            config = super().from_dict(transformers.from_transformers(values))
            transformers.check_repeated(values, config.to_dict())
            return config
        ours = {k: v for k, v in values.items() if k not in BESIDE}
        if "vision_config" in ours:  # a converted folder keeps what transformers wrote beside our own fields
            ours = {k: v for k, v in ours.items() if k in {f.name for f in dataclasses.fields(cls)}}
        if values.get("model_type", "mlx_sam2") != "mlx_sam2":
            raise ConfigError(
                f"model_type {brief(values['model_type'])} is not a SAM 2 model "
                "(mlx_sam2, sam2 or sam2_video, edgetam or edgetam_video)"
            )
        if "trunk" not in ours:
            raise ConfigError(
                "this is no SAM 2 configuration: it has no 'trunk', no 'image_encoder' and no 'vision_config'"
            )
        return super().from_dict(ours)

    def with_postprocessing(self, enabled: bool, *, video: bool = False) -> SAM2Config:
        """Apply what the official build functions change for ``apply_postprocessing``.

        True turns on the dynamic choice of the mask by its stability (and, for video, binarised masks of prompted
        frames); False turns the dynamic choice off and leaves the rest as configured.
        """
        decoder = dataclasses.replace(self.decoder, dynamic_multimask_via_stability=enabled)
        if not enabled:
            return dataclasses.replace(self, decoder=decoder)
        decoder = dataclasses.replace(
            decoder, dynamic_multimask_stability_delta=0.05, dynamic_multimask_stability_thresh=0.98
        )
        binarize = video or self.binarize_mask_from_pts_for_mem_enc
        return dataclasses.replace(self, decoder=decoder, binarize_mask_from_pts_for_mem_enc=binarize)

    def with_overrides(self, overrides: Sequence[str]) -> SAM2Config:
        """Apply hydra overrides such as ``"++model.num_maskmem=4"`` (official ``hydra_overrides_extra``).

        Raises:
            ConfigError: an override is not of this form, names no known key, or breaks a rule.
        """
        return super().from_dict(official.with_overrides(self.to_dict(), overrides))

    def to_transformers(
        self, *, video: bool = True, dtype: str = "float32", kept: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The ``config.json`` of transformers' ``Sam2VideoModel``, or without ``video`` of its ``Sam2Model``.

        Args:
            video: which of the two.
            dtype: of the weights beside it.
            kept: ``foreign_fields`` of the source's ``config.json``, which stay in it.

        Raises:
            ConfigError: transformers has no words for one of the values.
        """
        tree = transformers.to_transformers(self.to_dict(), video=video, dtype=dtype, kept=kept)
        read = type(self).from_dict(tree)
        for part in dataclasses.fields(self):
            ours, theirs = getattr(self, part.name), getattr(read, part.name)
            if ours == theirs:
                continue
            name, value = part.name, ours
            if dataclasses.is_dataclass(ours):
                leaf = next(
                    f.name for f in dataclasses.fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name)
                )
                name, value = f"{part.name}.{leaf}", getattr(ours, leaf)
            raise ConfigError(f"transformers' config.json cannot say {name} = {value!r}; write --to official instead")
        return tree


def foreign_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a ``config.json`` that are transformers' own. A converted folder keeps them beside ours."""
    if "vision_config" not in values:
        return {}
    ours = {*BESIDE, *(f.name for f in dataclasses.fields(SAM2Config))}
    return {key: value for key, value in values.items() if key not in ours}

"""Configuration of a SAM 2 model: frozen dataclasses with the field names of the official YAML files.

``SAM2Config.from_dict`` reads three forms: our own ``to_dict``, the official YAML (``configs/sam2.1/*.yaml``) as a
dict, and the ``config.json`` that transformers writes (``Sam2VideoConfig``, ``Sam2Config``).
``PUBLISHED`` lists the eight checkpoints that Meta released.
"""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

_C = TypeVar("_C", bound="_Config")
_Rule = tuple[bool, "_Config", str, str]


class ConfigError(ValueError):
    """A configuration breaks a rule; the message names the field, its value and the rule."""


class _Brief(reprlib.Repr):
    """repr that stays short whatever a stranger's file holds."""

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= 64 else f"an integer of {x.bit_length()} bits"


brief = _Brief().repr


def _require(ok: bool, owner: object, name: str, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{type(owner).__name__}.{name} = {brief(getattr(owner, name))}: {rule}")


def _is_int(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= 1 << 16


def _divides_grid(kernel: int, stride: int, padding: int) -> bool:
    """Whether a convolution turns n * stride positions into n."""
    return 0 <= 2 * padding - kernel + stride < stride


@dataclass(frozen=True)
class _Config:
    """Shared (de)serialisation and the checks that hold for every field of a kind."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):  # JSON and YAML know no tuples
                value = tuple(value)
                object.__setattr__(self, f.name, value)
            self._check_type(f, value)
        for rule in self._rules():
            _require(*rule)

    def _check_type(self, f: dataclasses.Field, value: object) -> None:
        kind = str(f.type)
        if kind == "int":
            low = _LOWEST.get(f.name, 1)
            _require(_is_int(value, low), self, f.name, f"must be an integer from {low} to 65536")
        elif kind == "bool":
            _require(isinstance(value, bool), self, f.name, "must be true or false")
        elif kind == "float":
            ok = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30
            _require(ok, self, f.name, "must be a finite number")
        elif kind == "tuple[int, ...]":
            ok = isinstance(value, tuple) and len(value) <= 256 and all(_is_int(v, 0) for v in value)
            _require(ok, self, f.name, "must be a list of non-negative integers")
        elif kind.endswith("Config"):
            ok = isinstance(value, _Config) and type(value).__name__ == kind
            _require(ok, self, f.name, f"must be a {kind}")

    def _rules(self) -> Iterator[_Rule]:
        """Rules between fields, as (holds, owner, field, text); overridden where there are any."""
        yield from ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; ``from_dict(to_dict())`` gives an equal object."""
        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, _Config):
                value = value.to_dict()
            out[f.name] = list(value) if isinstance(value, tuple) else value
        return out

    @classmethod
    def from_dict(cls: type[_C], values: dict[str, Any]) -> _C:
        """Build from a dict of this class's fields; an unknown name is an error, a missing one takes its default."""
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.__name__}: expected an object with named fields, got {type(values).__name__}")
        parts = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(map(str, values)) - set(parts))
        if unknown:
            raise ConfigError(f"{cls.__name__}: unknown field {brief(unknown[0])}; known fields: {', '.join(parts)}")
        nested = {k: PARTS[k].from_dict(v) for k, v in values.items() if k in PARTS and isinstance(v, dict)}
        return cls(**{**values, **nested})


_LOWEST = {
    "q_pool": 0,
    "padding": 0,
    "scalp": 0,
    "patch_padding": 0,
    "mask_downsampler_padding": 0,
    "fuser_padding": 0,
    "num_maskmem": 0,
    "multimask_min_pt_num": 0,
    "multimask_max_pt_num": 0,
    "max_cond_frames_in_attn": -1,
}


@dataclass(frozen=True)
class HieraConfig(_Config):
    """The Hiera trunk (official ``modeling/backbones/hieradet.py``). Stages and blocks are counted from 0."""

    embed_dim: int = 96
    num_heads: int = 1
    q_pool: int = 3  # number of stage changes that halve the grid
    q_stride: tuple[int, ...] = (2, 2)
    stages: tuple[int, ...] = (1, 2, 7, 2)  # blocks per stage
    dim_mul: float = 2.0
    head_mul: float = 2.0
    mlp_ratio: float = 4.0
    window_pos_embed_bkg_spatial_size: tuple[int, ...] = (7, 7)
    window_spec: tuple[int, ...] = (8, 4, 14, 7)
    global_att_blocks: tuple[int, ...] = (5, 7, 9)
    patch_kernel_size: int = 7
    patch_stride: int = 4
    patch_padding: int = 3

    def _rules(self) -> Iterator[_Rule]:
        yield len(self.stages) > 0 and min(self.stages) > 0, self, "stages", "needs at least one block in every stage"
        yield len(self.stages) <= 8 and self.total_blocks <= 512, self, "stages", "has over 8 stages or 512 blocks"
        same = len(self.window_spec) == len(self.stages) and min(self.window_spec) > 0
        yield same, self, "window_spec", f"needs one positive window size for each of {len(self.stages)} stages"
        yield self.q_pool < len(self.stages), self, "q_pool", f"must be below the number of stages, {len(self.stages)}"
        square = len(self.q_stride) == 2 and self.q_stride[0] == self.q_stride[1] > 0
        yield square, self, "q_stride", "must be two equal positive integers"
        bkg = self.window_pos_embed_bkg_spatial_size
        yield len(bkg) == 2 and min(bkg) > 0, self, "window_pos_embed_bkg_spatial_size", "must be two positive integers"
        inside = all(i < self.total_blocks for i in self.global_att_blocks)
        yield inside, self, "global_att_blocks", f"must name blocks from 0 to {self.total_blocks - 1}"
        for name in ("dim_mul", "head_mul", "mlp_ratio"):
            yield 0 < getattr(self, name) <= 64, self, name, "must be above 0 and at most 64"
        for stage in range(len(self.stages)):
            dim, heads = self.embed_dim_at_stage(stage), self.num_heads_at_stage(stage)
            yield 0 < dim <= 1 << 16, self, "dim_mul", f"gives stage {stage} {dim} channels; from 1 to 65536 can be"
            ok = heads > 0 and dim % heads == 0
            yield ok, self, "num_heads", f"the {heads} heads of stage {stage} do not divide its {dim} channels"
        ok = _divides_grid(self.patch_kernel_size, self.patch_stride, self.patch_padding)
        yield ok, self, "patch_padding", "with patch_kernel_size it must give one token for each patch_stride pixels"
        for block in self.q_pool_block_indices:
            window = self.window_size_of_block(block)
            ok = window % self.q_stride[0] == 0
            yield ok, self, "window_spec", f"window {window} of pooling block {block} is not a multiple of q_stride"
            stage = self.stage_of_block(block)
            ok = self.embed_dim_at_stage(stage) != self.embed_dim_at_stage(stage - 1)
            yield ok, self, "dim_mul", "must change the channels wherever queries are pooled"

    @property
    def total_blocks(self) -> int:
        return sum(self.stages)

    @property
    def stage_end_indices(self) -> tuple[int, ...]:
        """Index of the last block of each stage."""
        return tuple(sum(self.stages[: i + 1]) - 1 for i in range(len(self.stages)))

    @property
    def q_pool_block_indices(self) -> tuple[int, ...]:
        """Blocks that pool their queries: the first block of stages 1..q_pool."""
        return tuple(end + 1 for end in self.stage_end_indices[: self.q_pool])

    def stage_of_block(self, block: int) -> int:
        if not 0 <= block < self.total_blocks:
            raise IndexError(f"block {block} does not exist; blocks go from 0 to {self.total_blocks - 1}")
        return next(s for s, end in enumerate(self.stage_end_indices) if block <= end)

    def embed_dim_at_stage(self, stage: int) -> int:
        dim = self.embed_dim
        for _ in range(stage):  # the official code truncates at every step
            dim = int(dim * self.dim_mul)
        return dim

    def num_heads_at_stage(self, stage: int) -> int:
        heads = self.num_heads
        for _ in range(stage):
            heads = int(heads * self.head_mul)
        return heads

    def window_size_at_stage(self, stage: int) -> int:
        return self.window_spec[stage]

    def window_size_of_block(self, block: int) -> int:
        """Window of one block; 0 means global attention. The first block of a stage still uses the previous stage's."""
        if block in self.global_att_blocks:
            return 0
        return self.window_spec[self.stage_of_block(max(block - 1, 0))]

    def stride_at_stage(self, stage: int) -> int:
        """Input pixels per token side."""
        return self.patch_stride * self.q_stride[0] ** min(stage, self.q_pool)

    def grid_size_at_stage(self, stage: int, image_size: int) -> int:
        """Tokens per side of a square image."""
        return image_size // self.stride_at_stage(stage)


@dataclass(frozen=True)
class FpnConfig(_Config):
    """The FPN neck (official ``modeling/backbones/image_encoder.py``)."""

    d_model: int = 256
    backbone_channel_list: tuple[int, ...] = (768, 384, 192, 96)  # lowest resolution first
    kernel_size: int = 1
    stride: int = 1
    padding: int = 0
    fpn_interp_model: str = "nearest"
    fuse_type: str = "sum"
    fpn_top_down_levels: tuple[int, ...] = (2, 3)  # counted from the highest resolution
    num_pos_feats: int = 256
    temperature: float = 10000.0

    def _rules(self) -> Iterator[_Rule]:
        yield self.fpn_interp_model in ("nearest", "bilinear"), self, "fpn_interp_model", "must be nearest or bilinear"
        yield self.fuse_type in ("sum", "avg"), self, "fuse_type", "must be sum or avg"
        levels = len(self.backbone_channel_list)
        ok = all(level < levels for level in self.fpn_top_down_levels)
        yield ok, self, "fpn_top_down_levels", f"names a level that does not exist; levels go from 0 to {levels - 1}"
        yield self.num_pos_feats == self.d_model, self, "num_pos_feats", f"must equal d_model = {self.d_model}"
        yield self.d_model % 8 == 0, self, "d_model", "must be a multiple of 8"
        keeps = self.stride == 1 and self.kernel_size == 2 * self.padding + 1
        yield keeps, self, "kernel_size", "the neck must keep the grid: stride 1 and kernel_size = 2 * padding + 1"


@dataclass(frozen=True)
class DecoderConfig(_Config):
    """Prompt encoder and mask decoder (official ``modeling/sam/``, ``SAM2Base._build_sam_heads``)."""

    num_multimask_outputs: int = 3
    depth: int = 2
    num_heads: int = 8
    mlp_dim: int = 2048
    attention_downsample_rate: int = 2
    iou_head_depth: int = 3
    iou_head_hidden_dim: int = 256
    mask_in_chans: int = 16
    dynamic_multimask_via_stability: bool = True  # set by the official build functions (apply_postprocessing)
    dynamic_multimask_stability_delta: float = 0.05
    dynamic_multimask_stability_thresh: float = 0.98

    def _rules(self) -> Iterator[_Rule]:
        yield self.num_multimask_outputs <= 64, self, "num_multimask_outputs", "must be at most 64"
        yield self.mask_in_chans % 4 == 0, self, "mask_in_chans", "must be a multiple of 4"
        yield self.depth <= 64, self, "depth", "must be at most 64"
        yield self.iou_head_depth <= 64, self, "iou_head_depth", "must be at most 64"


@dataclass(frozen=True)
class MemoryConfig(_Config):
    """Memory attention (official ``modeling/memory_attention.py``). Rotary grids follow the image size."""

    d_model: int = 256
    num_layers: int = 4
    dim_feedforward: int = 2048
    activation: str = "relu"
    num_heads: int = 1
    downsample_rate: int = 1
    kv_in_dim: int = 64
    rope_theta: float = 10000.0
    pos_enc_at_input: bool = True
    pos_enc_at_attn: bool = False
    pos_enc_at_cross_attn_keys: bool = True
    pos_enc_at_cross_attn_queries: bool = False

    def _rules(self) -> Iterator[_Rule]:
        yield self.activation in ("relu", "gelu"), self, "activation", "must be relu or gelu"
        yield self.num_layers <= 64, self, "num_layers", "must be at most 64"
        ok = self.d_model % (self.downsample_rate * self.num_heads * 4) == 0
        yield ok, self, "d_model", "divided by downsample_rate and num_heads it must be a multiple of 4 (axial RoPE)"
        yield self.rope_theta > 0, self, "rope_theta", "must be above 0"


@dataclass(frozen=True)
class MemoryEncoderConfig(_Config):
    """Memory encoder (official ``modeling/memory_encoder.py``)."""

    in_dim: int = 256
    out_dim: int = 64
    num_pos_feats: int = 64
    temperature: float = 10000.0
    mask_downsampler_kernel_size: int = 3
    mask_downsampler_stride: int = 2
    mask_downsampler_padding: int = 1
    mask_downsampler_total_stride: int = 16
    fuser_num_layers: int = 2
    fuser_kernel_size: int = 7
    fuser_padding: int = 3
    fuser_layer_scale_init_value: float = 1e-6
    fuser_use_dwconv: bool = True

    def _rules(self) -> Iterator[_Rule]:
        yield self.num_pos_feats == self.out_dim, self, "num_pos_feats", f"must equal out_dim = {self.out_dim}"
        yield self.out_dim % 4 == 0, self, "out_dim", "must be a multiple of 4"
        yield self.fuser_num_layers <= 64, self, "fuser_num_layers", "must be at most 64"
        stride, total = self.mask_downsampler_stride, self.mask_downsampler_total_stride
        power = stride > 1 and total <= 256 and stride**self.num_downsampler_layers == total
        yield power, self, "mask_downsampler_total_stride", f"must be a power of {stride}, at most 256"
        ok = _divides_grid(self.mask_downsampler_kernel_size, stride, self.mask_downsampler_padding)
        yield ok, self, "mask_downsampler_padding", "with the kernel size it must divide the grid by the stride"
        keeps = self.fuser_kernel_size == 2 * self.fuser_padding + 1
        yield keeps, self, "fuser_kernel_size", "must be 2 * fuser_padding + 1, so that the grid is kept"

    @property
    def num_downsampler_layers(self) -> int:
        layers, stride = 0, 1
        while self.mask_downsampler_stride > 1 and stride < self.mask_downsampler_total_stride:
            layers, stride = layers + 1, stride * self.mask_downsampler_stride
        return layers


@dataclass(frozen=True)
class SAM2Config(_Config):
    """A whole model (official ``SAM2Base``). The defaults are SAM 2.1 tiny, built with post-processing."""

    trunk: HieraConfig = field(default_factory=HieraConfig)
    neck: FpnConfig = field(default_factory=FpnConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    memory_attention: MemoryConfig = field(default_factory=MemoryConfig)
    memory_encoder: MemoryEncoderConfig = field(default_factory=MemoryEncoderConfig)
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

    def _rules(self) -> Iterator[_Rule]:
        trunk, neck, memory, encoder = self.trunk, self.neck, self.memory_attention, self.memory_encoder
        coarsest = trunk.stride_at_stage(len(trunk.stages) - 1)
        unit = math.lcm(coarsest, trunk.patch_stride * trunk.window_spec[0])
        yield self.image_size <= 8192, self, "image_size", "must be at most 8192"
        ok = self.image_size % unit == 0
        yield ok, self, "image_size", f"must be a multiple of {unit}: the strides and the first window must divide it"
        widths = tuple(trunk.embed_dim_at_stage(s) for s in reversed(range(len(trunk.stages))))
        if neck.backbone_channel_list != widths:
            yield False, neck, "backbone_channel_list", f"must be {list(widths)}, the trunk's widths"
        yield self.scalp < len(trunk.stages), self, "scalp", "drops every feature level"
        level = len(trunk.stages) - 1 - self.scalp
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
        yield self.max_cond_frames_in_attn not in (0, 1), self, "max_cond_frames_in_attn", "must be -1 or at least 2"
        yield self.directly_add_no_mem_embed, self, "directly_add_no_mem_embed", "must be true, as published"
        needs = self.pred_obj_scores and self.use_obj_ptrs_in_encoder
        yield needs or not self.fixed_no_obj_ptr, self, "fixed_no_obj_ptr", "needs object scores and pointers"
        ok = self.add_tpos_enc_to_obj_ptrs or not self.proj_tpos_enc_in_obj_ptrs
        yield ok, self, "proj_tpos_enc_in_obj_ptrs", "needs add_tpos_enc_to_obj_ptrs"

    @property
    def embedding_size(self) -> int:
        """Side of the stride-16 feature map, in tokens."""
        return self.image_size // self.backbone_stride

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict, marked as ours; ``from_dict`` gives an equal object back."""
        return {"model_type": "mlx_sam2", **super().to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SAM2Config:
        """Read our own ``to_dict``, the official YAML as a dict, or transformers' ``config.json``.

        Raises:
            ConfigError: one line naming the field and the rule it breaks, or that the form is not known.
        """
        from . import config_formats  # there and not above: it builds the classes of this file

        if not isinstance(values, dict):
            raise ConfigError(f"a SAM 2 configuration is an object with named fields, got {type(values).__name__}")
        if config_formats.is_official(values):
            return config_formats.from_official(values)
        if config_formats.is_transformers(values):
            return config_formats.from_transformers(values)
        ours = {k: v for k, v in values.items() if k != "model_type"}
        if values.get("model_type", "mlx_sam2") != "mlx_sam2":
            raise ConfigError(
                f"model_type {brief(values['model_type'])} is not a SAM 2 model (mlx_sam2, sam2 or sam2_video)"
            )
        if "trunk" not in ours:
            raise ConfigError(
                "this is no SAM 2 configuration: it has no 'trunk', no 'image_encoder' and no 'vision_config'"
            )
        return super().from_dict(ours)

    def with_postprocessing(self, enabled: bool, *, video: bool = False) -> SAM2Config:
        """What the official build functions do for ``apply_postprocessing``.

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
        """Apply hydra overrides such as ``"++model.num_maskmem=4"`` (official ``hydra_overrides_extra``)."""
        from . import config_formats

        return config_formats.with_overrides(self, overrides)


PARTS: dict[str, type[_Config]] = {
    "trunk": HieraConfig,
    "neck": FpnConfig,
    "decoder": DecoderConfig,
    "memory_attention": MemoryConfig,
    "memory_encoder": MemoryEncoderConfig,
}


@dataclass(frozen=True)
class PublishedModel:
    """One released checkpoint: its names, its Hub repository and file, its configuration."""

    name: str  # sam2.1_hiera_tiny
    short_name: str  # tiny
    repo_id: str  # facebook/sam2.1-hiera-tiny
    config: SAM2Config

    @property
    def filename(self) -> str:
        return f"{self.name}.pt"


_TRUNKS = {
    "tiny": HieraConfig(),
    "small": HieraConfig(stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13)),
    "base_plus": HieraConfig(
        embed_dim=112,
        num_heads=2,
        stages=(2, 3, 16, 3),
        global_att_blocks=(12, 16, 20),
        window_pos_embed_bkg_spatial_size=(14, 14),
    ),
    "large": HieraConfig(
        embed_dim=144, num_heads=2, stages=(2, 6, 36, 4), global_att_blocks=(23, 33, 43), window_spec=(8, 4, 16, 8)
    ),
}


def _published() -> dict[str, PublishedModel]:
    table = {}
    for version, prefix in (("2.1", ""), ("2", "sam2-")):
        for size, trunk in _TRUNKS.items():
            widths = tuple(trunk.embed_dim_at_stage(s) for s in reversed(range(4)))
            new = version == "2.1"
            config = SAM2Config(
                trunk=trunk,
                neck=FpnConfig(backbone_channel_list=widths),
                no_obj_embed_spatial=new,
                proj_tpos_enc_in_obj_ptrs=new,
                use_signed_tpos_enc_to_obj_ptrs=new,
                add_tpos_enc_to_obj_ptrs=new,
            )
            name = f"sam{version}_hiera_{size}"
            repo_id = f"facebook/sam{version}-hiera-{size.replace('_', '-')}"
            table[name] = PublishedModel(name, prefix + size, repo_id, config)
    return table


PUBLISHED: dict[str, PublishedModel] = _published()

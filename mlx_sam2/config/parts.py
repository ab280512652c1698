"""Configuration of the parts of a SAM 2 model, and what all configuration classes share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ..text import brief

_C = TypeVar("_C", bound="Config")
Rule = tuple[bool, "Config", str, str]


class ConfigError(ValueError):
    """A configuration breaks a rule; the message names the field, its value and the rule."""


def require(ok: bool, owner: object, name: str, rule: str) -> None:
    if not ok:
        raise ConfigError(f"{type(owner).__name__}.{name} = {brief(getattr(owner, name))}: {rule}")


def is_int(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= 1 << 16


def divides_grid(kernel: int, stride: int, padding: int) -> bool:
    """Whether a convolution turns n * stride positions into n."""
    return 0 <= 2 * padding - kernel + stride < stride


@dataclass(frozen=True)
class Config:
    """Reads and writes dicts, and checks every field by its kind."""

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):  # JSON and YAML know no tuples
                value = tuple(value)
                object.__setattr__(self, f.name, value)
            self._check_type(f, value)
        for rule in self._rules():
            require(*rule)

    def _check_type(self, f: dataclasses.Field, value: object) -> None:
        kind = str(f.type)
        if kind == "int":
            low = _LOWEST.get(f.name, 1)
            require(is_int(value, low), self, f.name, f"must be an integer from {low} to 65536")
        elif kind == "bool":
            require(isinstance(value, bool), self, f.name, "must be true or false")
        elif kind == "float":
            ok = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30
            require(ok, self, f.name, "must be a finite number")
            object.__setattr__(self, f.name, float(value))  # MLX takes no integer beyond 64 bits for one
        elif kind == "tuple[int, ...]":
            ok = isinstance(value, tuple) and len(value) <= 256 and all(is_int(v, 0) for v in value)
            require(ok, self, f.name, "must be a list of non-negative integers")
        elif "Config" in kind:  # "FpnConfig", or several: "PerceiverConfig | None"
            ok = (type(value).__name__ if isinstance(value, Config) else str(value)) in kind.split(" | ")
            require(ok, self, f.name, f"must be a {kind}")

    @classmethod
    def _part(cls, name: str, values: dict[str, Any]) -> Config | None:
        """The part of this name, given as a dict; None if there is no such part."""
        return PARTS[name].from_dict(values) if name in PARTS else None

    def _rules(self) -> Iterator[Rule]:
        """Rules between fields, as (holds, owner, field, text); overridden where there are any."""
        yield from ()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict; ``from_dict(to_dict())`` gives an equal object. A part that is None is left out."""
        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if value is None:
                continue
            if isinstance(value, Config):
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
        nested = {k: part for k, v in values.items() if isinstance(v, dict) and (part := cls._part(k, v)) is not None}
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
class HieraConfig(Config):
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

    def _rules(self) -> Iterator[Rule]:
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
        ok = divides_grid(self.patch_kernel_size, self.patch_stride, self.patch_padding)
        yield ok, self, "patch_padding", "with patch_kernel_size it must give one token for each patch_stride pixels"
        for block in self.q_pool_block_indices:
            window = self.window_size_of_block(block)
            ok = window % self.q_stride[0] == 0
            yield ok, self, "window_spec", f"window {window} of pooling block {block} is not a multiple of q_stride"
            stage = self.stage_of_block(block)
            ok = self.embed_dim_at_stage(stage) != self.embed_dim_at_stage(stage - 1)
            yield ok, self, "dim_mul", "must change the channels wherever queries are pooled"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the feature levels, highest resolution first."""
        return tuple(self.embed_dim_at_stage(stage) for stage in range(len(self.stages)))

    @property
    def image_unit(self) -> int:
        """The side of the image is a multiple of it: the strides and the first window must divide it."""
        return math.lcm(self.stride_at_stage(len(self.stages) - 1), self.patch_stride * self.window_spec[0])

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
class FpnConfig(Config):
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

    def _rules(self) -> Iterator[Rule]:
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
class DecoderConfig(Config):
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

    def _rules(self) -> Iterator[Rule]:
        yield self.num_multimask_outputs <= 64, self, "num_multimask_outputs", "must be at most 64"
        yield self.mask_in_chans % 4 == 0, self, "mask_in_chans", "must be a multiple of 4"
        yield self.depth <= 64, self, "depth", "must be at most 64"
        yield self.iou_head_depth <= 64, self, "iou_head_depth", "must be at most 64"


@dataclass(frozen=True)
class MemoryConfig(Config):
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

    def _rules(self) -> Iterator[Rule]:
        yield self.activation in ("relu", "gelu"), self, "activation", "must be relu or gelu"
        yield self.num_layers <= 64, self, "num_layers", "must be at most 64"
        ok = self.d_model % (self.downsample_rate * self.num_heads * 4) == 0
        yield ok, self, "d_model", "divided by downsample_rate and num_heads it must be a multiple of 4 (axial RoPE)"
        yield self.rope_theta > 0, self, "rope_theta", "must be above 0"


@dataclass(frozen=True)
class MemoryEncoderConfig(Config):
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

    def _rules(self) -> Iterator[Rule]:
        yield self.num_pos_feats == self.out_dim, self, "num_pos_feats", f"must equal out_dim = {self.out_dim}"
        yield self.out_dim % 4 == 0, self, "out_dim", "must be a multiple of 4"
        yield self.fuser_num_layers <= 64, self, "fuser_num_layers", "must be at most 64"
        stride, total = self.mask_downsampler_stride, self.mask_downsampler_total_stride
        power = stride > 1 and total <= 256 and stride**self.num_downsampler_layers == total
        yield power, self, "mask_downsampler_total_stride", f"must be a power of {stride}, at most 256"
        ok = divides_grid(self.mask_downsampler_kernel_size, stride, self.mask_downsampler_padding)
        yield ok, self, "mask_downsampler_padding", "with the kernel size it must divide the grid by the stride"
        keeps = self.fuser_kernel_size == 2 * self.fuser_padding + 1
        yield keeps, self, "fuser_kernel_size", "must be 2 * fuser_padding + 1, so that the grid is kept"

    @property
    def num_downsampler_layers(self) -> int:
        layers, stride = 0, 1
        while self.mask_downsampler_stride > 1 and stride < self.mask_downsampler_total_stride:
            layers, stride = layers + 1, stride * self.mask_downsampler_stride
        return layers


# The parts of a model, by their field in SAM2Config. ``edgetam`` has others in their place.
PARTS: dict[str, type[Config]] = {
    "trunk": HieraConfig,
    "neck": FpnConfig,
    "decoder": DecoderConfig,
    "memory_attention": MemoryConfig,
    "memory_encoder": MemoryEncoderConfig,
}

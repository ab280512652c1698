"""Names and axes of the same weights in the three kinds of checkpoint, as data.

Official names are the common tongue: the model's parameters carry them, and our own files keep them. Two
tables follow. ``RENAMES`` pairs official names with those of transformers (``Sam2VideoModel`` and
``Sam2Model``); no tensor changes its layout there. ``MLX_AXES`` lists the tensors whose axes MLX orders
otherwise than PyTorch.

Three things are no renaming. Transformers keeps the four point embeddings as the rows of one table, it stores the
matrix of the random position encoding twice (a file may also hold either copy alone), and it splits the matrix that
gives EdgeTAM's perceiver keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

# (official, transformers): the beginning of a name; {i} is a number and {x} a word, equal on both sides. The
# first row that fits decides, and what follows the beginning is kept.
RENAMES: tuple[tuple[str, str], ...] = (
    # top level
    ("maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    ("no_mem_embed", "no_memory_embedding"),
    ("no_mem_pos_enc", "no_memory_positional_encoding"),
    ("no_obj_ptr", "no_object_pointer"),
    ("no_obj_embed_spatial", "occlusion_spatial_embedding_parameter"),
    ("obj_ptr_tpos_proj.", "temporal_positional_encoding_projection_layer."),
    ("obj_ptr_proj.layers.0.", "object_pointer_proj.proj_in."),
    ("obj_ptr_proj.layers.1.", "object_pointer_proj.layers.0."),
    ("obj_ptr_proj.layers.2.", "object_pointer_proj.proj_out."),
    ("mask_downsample.", "mask_downsample."),
    # image encoder
    ("image_encoder.trunk.patch_embed.proj.", "vision_encoder.backbone.patch_embed.projection."),
    ("image_encoder.trunk.blocks.{i}.norm{i}.", "vision_encoder.backbone.blocks.{i}.layer_norm{i}."),
    ("image_encoder.trunk.blocks.{i}.mlp.layers.0.", "vision_encoder.backbone.blocks.{i}.mlp.proj_in."),
    ("image_encoder.trunk.blocks.{i}.mlp.layers.1.", "vision_encoder.backbone.blocks.{i}.mlp.proj_out."),
    ("image_encoder.trunk.body.", "vision_encoder.backbone.timm_model."),  # EdgeTAM
    ("image_encoder.trunk.", "vision_encoder.backbone."),
    ("image_encoder.neck.convs.{i}.conv.", "vision_encoder.neck.convs.{i}."),
    # prompt encoder
    (
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        "prompt_encoder.shared_embedding.positional_embedding",
    ),
    ("sam_prompt_encoder.mask_downscaling.0.", "prompt_encoder.mask_embed.conv1."),
    ("sam_prompt_encoder.mask_downscaling.1.", "prompt_encoder.mask_embed.layer_norm1."),
    ("sam_prompt_encoder.mask_downscaling.3.", "prompt_encoder.mask_embed.conv2."),
    ("sam_prompt_encoder.mask_downscaling.4.", "prompt_encoder.mask_embed.layer_norm2."),
    ("sam_prompt_encoder.mask_downscaling.6.", "prompt_encoder.mask_embed.conv3."),
    ("sam_prompt_encoder.", "prompt_encoder."),
    # mask decoder
    (
        "sam_mask_decoder.transformer.layers.{i}.norm{i}.",
        "mask_decoder.transformer.layers.{i}.layer_norm{i}.",
    ),
    (
        "sam_mask_decoder.transformer.layers.{i}.mlp.layers.0.",
        "mask_decoder.transformer.layers.{i}.mlp.proj_in.",
    ),
    (
        "sam_mask_decoder.transformer.layers.{i}.mlp.layers.1.",
        "mask_decoder.transformer.layers.{i}.mlp.proj_out.",
    ),
    (
        "sam_mask_decoder.transformer.layers.{i}.{x}.out_proj.",
        "mask_decoder.transformer.layers.{i}.{x}.o_proj.",
    ),
    (
        "sam_mask_decoder.transformer.final_attn_token_to_image.out_proj.",
        "mask_decoder.transformer.final_attn_token_to_image.o_proj.",
    ),
    ("sam_mask_decoder.transformer.norm_final_attn.", "mask_decoder.transformer.layer_norm_final_attn."),
    ("sam_mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("sam_mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("sam_mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
    (
        "sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.0.",
        "mask_decoder.output_hypernetworks_mlps.{i}.proj_in.",
    ),
    (
        "sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.1.",
        "mask_decoder.output_hypernetworks_mlps.{i}.layers.0.",
    ),
    (
        "sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.",
        "mask_decoder.output_hypernetworks_mlps.{i}.proj_out.",
    ),
    ("sam_mask_decoder.iou_prediction_head.layers.0.", "mask_decoder.iou_prediction_head.proj_in."),
    ("sam_mask_decoder.iou_prediction_head.layers.1.", "mask_decoder.iou_prediction_head.layers.0."),
    ("sam_mask_decoder.iou_prediction_head.layers.2.", "mask_decoder.iou_prediction_head.proj_out."),
    ("sam_mask_decoder.pred_obj_score_head.layers.0.", "mask_decoder.pred_obj_score_head.proj_in."),
    ("sam_mask_decoder.pred_obj_score_head.layers.1.", "mask_decoder.pred_obj_score_head.layers.0."),
    ("sam_mask_decoder.pred_obj_score_head.layers.2.", "mask_decoder.pred_obj_score_head.proj_out."),
    ("sam_mask_decoder.", "mask_decoder."),
    # memory attention
    ("memory_attention.layers.{i}.norm{i}.", "memory_attention.layers.{i}.layer_norm{i}."),
    ("memory_attention.layers.{i}.{x}.out_proj.", "memory_attention.layers.{i}.{x}.o_proj."),
    ("memory_attention.layers.", "memory_attention.layers."),
    ("memory_attention.norm.", "memory_attention.layer_norm."),
    # memory encoder: convolutions at 0, 3, 6, 9, their norms one behind, the projection last
    ("memory_encoder.mask_downsampler.encoder.0.", "memory_encoder.mask_downsampler.layers.0.conv."),
    ("memory_encoder.mask_downsampler.encoder.1.", "memory_encoder.mask_downsampler.layers.0.layer_norm."),
    ("memory_encoder.mask_downsampler.encoder.3.", "memory_encoder.mask_downsampler.layers.1.conv."),
    ("memory_encoder.mask_downsampler.encoder.4.", "memory_encoder.mask_downsampler.layers.1.layer_norm."),
    ("memory_encoder.mask_downsampler.encoder.6.", "memory_encoder.mask_downsampler.layers.2.conv."),
    ("memory_encoder.mask_downsampler.encoder.7.", "memory_encoder.mask_downsampler.layers.2.layer_norm."),
    ("memory_encoder.mask_downsampler.encoder.9.", "memory_encoder.mask_downsampler.layers.3.conv."),
    ("memory_encoder.mask_downsampler.encoder.10.", "memory_encoder.mask_downsampler.layers.3.layer_norm."),
    ("memory_encoder.mask_downsampler.encoder.12.", "memory_encoder.mask_downsampler.final_conv."),
    ("memory_encoder.pix_feat_proj.", "memory_encoder.feature_projection."),
    ("memory_encoder.out_proj.", "memory_encoder.projection."),
    ("memory_encoder.fuser.layers.{i}.gamma", "memory_encoder.memory_fuser.layers.{i}.scale"),
    ("memory_encoder.fuser.layers.{i}.dwconv.", "memory_encoder.memory_fuser.layers.{i}.depthwise_conv."),
    ("memory_encoder.fuser.layers.{i}.norm.", "memory_encoder.memory_fuser.layers.{i}.layer_norm."),
    (
        "memory_encoder.fuser.layers.{i}.pwconv{i}.",
        "memory_encoder.memory_fuser.layers.{i}.pointwise_conv{i}.",
    ),
    # spatial perceiver
    ("spatial_perceiver.latents_2d", "spatial_perceiver.latents_2d"),
    ("spatial_perceiver.latents", "spatial_perceiver.latents_1d"),
    ("spatial_perceiver.norm.", "spatial_perceiver.layer_norm."),
    *(
        (f"spatial_perceiver.layers.{{i}}.{ours}", f"spatial_perceiver.layers.{{i}}.{theirs}")
        for ours, theirs in (
            ("attn.norm_x.", "layer_norm_input."),
            ("attn.norm_latents.", "layer_norm_latents."),
            ("attn.to_q.", "cross_attention.q_proj."),
            ("attn.to_out.", "cross_attention.o_proj."),
            ("self_attn.norm.", "layer_norm_self."),
            ("self_attn.to_q.", "self_attention.q_proj."),
            ("self_attn.to_out.", "self_attention.o_proj."),
            ("ff.0.", "mlp.layer_norm."),
            ("ff.1.", "mlp.up_proj."),
            ("ff.3.", "mlp.down_proj."),
            ("self_ff.0.", "self_mlp.layer_norm."),
            ("self_ff.1.", "self_mlp.up_proj."),
            ("self_ff.3.", "self_mlp.down_proj."),
        )
    ),
)

# Names that transformers has only in a model with a perceiver (EdgeTAM): they go before the others.
PERCEIVER_RENAMES: tuple[tuple[str, str], ...] = (
    ("memory_attention.layers.{i}.linear1.", "memory_attention.layers.{i}.mlp.up_proj."),
    ("memory_attention.layers.{i}.linear2.", "memory_attention.layers.{i}.mlp.down_proj."),
)

# One official matrix (2C, M) whose halves have names of their own in transformers: keys, then values.
HALVES: tuple[tuple[str, tuple[str, str]], ...] = tuple(
    (
        f"spatial_perceiver.layers.{{i}}.{ours}.to_kv.weight",
        tuple(f"spatial_perceiver.layers.{{i}}.{theirs}.{part}_proj.weight" for part in "kv"),
    )
    for ours, theirs in (("attn", "cross_attention"), ("self_attn", "self_attention"))
)

# Transformers' table of point embeddings, (4, C), and the official names of its rows, (1, C) each.
POINT_TABLE = "prompt_encoder.point_embed.weight"
POINT_ROWS = tuple(f"sam_prompt_encoder.point_embeddings.{i}.weight" for i in range(4))

# Transformers' two copies of the position matrix, (2, C / 2).
POSITION_COPIES = (
    "prompt_encoder.shared_embedding.positional_embedding",
    "shared_image_embedding.positional_embedding",
)

# Official names (whole) of the tensors whose axes differ -> the axes of the PyTorch tensor in MLX's order.
CONV = (0, 2, 3, 1)  # (O, I, kH, kW) -> (O, kH, kW, I); depthwise kernels have I = 1
CONV_TRANSPOSE = (1, 2, 3, 0)  # (I, O, kH, kW) -> (O, kH, kW, I)
CHANNELS_LAST = (0, 2, 3, 1)  # (1, C, H, W) -> (1, H, W, C)
MLX_AXES: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("image_encoder.trunk.pos_embed", CHANNELS_LAST),
    ("image_encoder.trunk.pos_embed_window", CHANNELS_LAST),
    ("image_encoder.trunk.patch_embed.proj.weight", CONV),
    ("image_encoder.trunk.body.{path}.c.weight", CONV),
    ("image_encoder.trunk.body.{path}.fc{i}.weight", CONV),
    ("image_encoder.neck.convs.{i}.conv.weight", CONV),
    ("sam_prompt_encoder.mask_downscaling.0.weight", CONV),
    ("sam_prompt_encoder.mask_downscaling.3.weight", CONV),
    ("sam_prompt_encoder.mask_downscaling.6.weight", CONV),
    ("sam_mask_decoder.output_upscaling.0.weight", CONV_TRANSPOSE),
    ("sam_mask_decoder.output_upscaling.3.weight", CONV_TRANSPOSE),
    ("sam_mask_decoder.conv_s0.weight", CONV),
    ("sam_mask_decoder.conv_s1.weight", CONV),
    ("mask_downsample.weight", CONV),
    ("memory_encoder.mask_downsampler.encoder.0.weight", CONV),
    ("memory_encoder.mask_downsampler.encoder.3.weight", CONV),
    ("memory_encoder.mask_downsampler.encoder.6.weight", CONV),
    ("memory_encoder.mask_downsampler.encoder.9.weight", CONV),
    ("memory_encoder.mask_downsampler.encoder.12.weight", CONV),
    ("memory_encoder.pix_feat_proj.weight", CONV),
    ("memory_encoder.fuser.layers.{i}.dwconv.weight", CONV),
    ("memory_encoder.out_proj.weight", CONV),
)

# Official names that only video needs: absent from files of transformers' image model, Sam2Model.
VIDEO_ONLY = (
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_ptr",
    "no_obj_embed_spatial",
    "obj_ptr_tpos_proj.",
    "obj_ptr_proj.",
    "mask_downsample.",
    "memory_attention.",
    "memory_encoder.",
    "spatial_perceiver.",
)

# Float32 in a model of any precision. Half precision would move clicks: the position matrix gives angles of hundreds of
# radians. The convolutions of RepViT are folded into their norms before they take the precision of the model.
POSITION_MATRIX = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_BATCH_NORMED = "image_encoder.trunk.body."
# Integers beside a batch norm, which count the steps of its training. They are not loaded, but conversions keep them.
COUNTER, BESIDE_COUNTER = ".num_batches_tracked", ".running_mean"

# Names of any layout that are not loaded, and why.
IGNORED: tuple[tuple[str, str], ...] = (
    ("memory_attention.rotary_emb.", "rotary tables are computed from the image size"),
    ("memory_attention.position_ids", "rotary positions are computed from the image size"),
    ("n_averaged", "torch's AveragedModel counts in it"),
)

_WILDCARDS = {r"\{i\}": r"(\d+)", r"\{x\}": r"(\w+)", r"\{path\}": r"([\w.]+)"}


def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template)
    for mark, expression in _WILDCARDS.items():
        text = text.replace(mark, expression)
    return re.compile(text)


def _filler(template: str) -> str:
    """The same template with %s where a wildcard stands."""
    return re.sub(r"\{[ix]\}", "%s", template)


_TO_TRANSFORMERS = [(_pattern(ours), _filler(theirs)) for ours, theirs in RENAMES]
_TO_PERCEIVING = [(_pattern(ours), _filler(theirs)) for ours, theirs in PERCEIVER_RENAMES] + _TO_TRANSFORMERS
_FROM_TRANSFORMERS = [(_pattern(theirs), _filler(ours)) for ours, theirs in (*PERCEIVER_RENAMES, *RENAMES)]
_TO_HALVES = [(_pattern(ours), tuple(map(_filler, theirs))) for ours, theirs in HALVES]
_FROM_HALVES = [(_pattern(name), _filler(ours), i) for ours, theirs in HALVES for i, name in enumerate(theirs)]
_AXES = [(_pattern(name), axes) for name, axes in MLX_AXES]


def _rename(key: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, filler in rules:
        if match := pattern.match(key):
            return filler % match.groups() + key[match.end() :]
    return None


@lru_cache(maxsize=4096)
def to_transformers(key: str, perceives: bool = False) -> str:
    """The transformers name of an official name; ``perceives`` says whether the model has a perceiver.

    The rows of ``POINT_TABLE`` and the matrices of ``HALVES`` have no names of their own there; of ``POSITION_COPIES``
    the first is given.

    Raises:
        KeyError: there is no such name.
    """
    absent = key in POINT_ROWS or halves(key) is not None
    name = None if absent else _rename(key, _TO_PERCEIVING if perceives else _TO_TRANSFORMERS)
    if name is None:
        raise KeyError(key)
    return name


@lru_cache(maxsize=4096)
def from_transformers(key: str) -> str | None:
    """The official name of a transformers name, or None where there is none (as for ``POINT_TABLE``)."""
    if key in POSITION_COPIES:
        key = POSITION_COPIES[0]
    name = None if key == POINT_TABLE else _rename(key, _FROM_TRANSFORMERS)
    if name is None or name in POINT_ROWS or halves(name) is not None:
        return None
    # An official name that slipped into a transformers file would come out unchanged by the general rules.
    return name if key in (to_transformers(name), to_transformers(name, perceives=True)) else None


@lru_cache(maxsize=4096)
def halves(key: str) -> tuple[str, str] | None:
    """The transformers names of the two halves of an official matrix, or None if it is one matrix there too."""
    for pattern, fillers in _TO_HALVES:
        if match := pattern.fullmatch(key):
            return tuple(filler % match.groups() for filler in fillers)
    return None


@lru_cache(maxsize=4096)
def half(key: str) -> tuple[str, int] | None:
    """The official matrix that a transformers name is a half of, and which half (0 or 1); None: it is none."""
    for pattern, filler, index in _FROM_HALVES:
        if match := pattern.fullmatch(key):
            return filler % match.groups(), index
    return None


@lru_cache(maxsize=4096)
def mlx_axes(key: str) -> tuple[int, ...] | None:
    """``axes`` for which ``tensor.transpose(axes)`` has the MLX layout, by official name; None: the same."""
    return next((axes for pattern, axes in _AXES if pattern.fullmatch(key)), None)


@lru_cache(maxsize=4096)
def torch_axes(key: str) -> tuple[int, ...] | None:
    """The inverse of ``mlx_axes``."""
    axes = mlx_axes(key)
    return None if axes is None else tuple(axes.index(i) for i in range(len(axes)))


def is_video_only(key: str) -> bool:
    return key.startswith(VIDEO_ONLY)


def kept_float32(key: str) -> bool:
    """Whether a tensor is float32 in a model of any precision."""
    return key == POSITION_MATRIX or key.startswith(_BATCH_NORMED)


def stored_float32(key: str) -> bool:
    """Whether it is float32 in files of any precision: statistics of batch norms are, convolutions are not."""
    return key == POSITION_MATRIX or (key.startswith(_BATCH_NORMED) and ".bn." in key)


def is_counter(key: str) -> bool:
    return key.endswith(COUNTER)


def ignored(key: str) -> str | None:
    """Why a name is not loaded, or None if it should be."""
    return next((reason for start, reason in IGNORED if key.startswith(start)), None)


def from_official(state: Mapping[str, Any]) -> dict[str, Any]:
    """Convert PyTorch's axes to MLX's, under the same names. Values are anything that has ``transpose``."""
    return {key: _transposed(value, mlx_axes(key)) for key, value in state.items()}


def to_official(state: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``from_official``."""
    return {key: _transposed(value, torch_axes(key)) for key, value in state.items()}


def _transposed(value: Any, axes: tuple[int, ...] | None) -> Any:
    return value if axes is None else value.transpose(axes)

"""transformers' ``config.json`` (``Sam2VideoConfig``, ``Sam2Config``, and EdgeTAM's two) and our own form.

A table and its exceptions. The configurations of the image models lack the video part, which has our defaults then.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from ..text import brief
from .edgetam import REPVIT, PerceiverConfig, RepViTConfig
from .parts import ConfigError, HieraConfig
from .paths import check_fixed, lookup, nest, put

_FORM = "transformers config.json"  # in errors

# Ours -> path in transformers' config.json.
_HIERA = "vision_config.backbone_config"
TRANSFORMERS_PATHS: dict[str, str] = {
    "trunk.embed_dim": f"{_HIERA}.hidden_size",
    "trunk.num_heads": f"{_HIERA}.num_attention_heads",
    "trunk.q_pool": f"{_HIERA}.num_query_pool_stages",
    "trunk.q_stride": f"{_HIERA}.query_stride",
    "trunk.stages": f"{_HIERA}.blocks_per_stage",
    "trunk.mlp_ratio": f"{_HIERA}.mlp_ratio",
    "trunk.window_pos_embed_bkg_spatial_size": f"{_HIERA}.window_positional_embedding_background_size",
    "trunk.window_spec": f"{_HIERA}.window_size_per_stage",
    "trunk.global_att_blocks": f"{_HIERA}.global_attention_blocks",
    "neck.d_model": "vision_config.fpn_hidden_size",
    "neck.num_pos_feats": "vision_config.fpn_hidden_size",
    "neck.backbone_channel_list": "vision_config.backbone_channel_list",
    "neck.kernel_size": "vision_config.fpn_kernel_size",
    "neck.stride": "vision_config.fpn_stride",
    "neck.padding": "vision_config.fpn_padding",
    "neck.fpn_top_down_levels": "vision_config.fpn_top_down_levels",
    "decoder.mask_in_chans": "prompt_encoder_config.mask_input_channels",
    "decoder.mlp_dim": "mask_decoder_config.mlp_dim",
    "decoder.depth": "mask_decoder_config.num_hidden_layers",
    "decoder.num_heads": "mask_decoder_config.num_attention_heads",
    "decoder.attention_downsample_rate": "mask_decoder_config.attention_downsample_rate",
    "decoder.num_multimask_outputs": "mask_decoder_config.num_multimask_outputs",
    "decoder.iou_head_depth": "mask_decoder_config.iou_head_depth",
    "decoder.iou_head_hidden_dim": "mask_decoder_config.iou_head_hidden_dim",
    **{f"decoder.{n}": f"mask_decoder_config.{n}" for n in (
        "dynamic_multimask_via_stability", "dynamic_multimask_stability_delta", "dynamic_multimask_stability_thresh",
    )},
    "memory_attention.d_model": "memory_attention_hidden_size",
    "memory_attention.num_layers": "memory_attention_num_layers",
    "memory_attention.num_heads": "memory_attention_num_attention_heads",
    "memory_attention.downsample_rate": "memory_attention_downsample_rate",
    "memory_attention.dim_feedforward": "memory_attention_feed_forward_hidden_size",
    "memory_attention.activation": "memory_attention_feed_forward_hidden_act",
    "memory_attention.kv_in_dim": "memory_encoder_output_channels",
    "memory_attention.rope_theta": "rope_parameters.rope_theta",
    "memory_encoder.in_dim": "memory_encoder_hidden_size",
    "memory_encoder.out_dim": "memory_encoder_output_channels",
    "memory_encoder.num_pos_feats": "memory_encoder_output_channels",
    **{f"memory_encoder.mask_downsampler_{n}": f"mask_downsampler_{n}" for n in (
        "kernel_size", "stride", "padding", "total_stride",
    )},
    **{f"memory_encoder.fuser_{n}": f"memory_fuser_{n}" for n in (
        "num_layers", "kernel_size", "padding", "layer_scale_init_value",
    )},
    "image_size": "image_size",
    "num_maskmem": "num_maskmem",
    "sigmoid_scale_for_mem_enc": "sigmoid_scale_for_mem_enc",
    "sigmoid_bias_for_mem_enc": "sigmoid_bias_for_mem_enc",
    "multimask_output_in_sam": "multimask_output_in_sam",
    "multimask_min_pt_num": "multimask_min_pt_num",
    "multimask_max_pt_num": "multimask_max_pt_num",
    "multimask_output_for_tracking": "multimask_output_for_tracking",
    "max_obj_ptrs_in_encoder": "max_object_pointers_in_encoder",
    "max_cond_frames_in_attn": "max_cond_frame_num",
    "no_obj_embed_spatial": "enable_occlusion_spatial_embedding",
    # one switch in transformers for the three of 2.1 (FACTS: 2.0 gives pointers an all-zero position)
    "add_tpos_enc_to_obj_ptrs": "enable_temporal_pos_encoding_for_object_pointers",
    "proj_tpos_enc_in_obj_ptrs": "enable_temporal_pos_encoding_for_object_pointers",
    "use_signed_tpos_enc_to_obj_ptrs": "enable_temporal_pos_encoding_for_object_pointers",
}  # fmt: skip


# Keys with a single supported value: any other describes a different model.
TRANSFORMERS_FIXED: dict[str, Any] = {
    f"{_HIERA}.model_type": "sam2_hiera_det_model",
    f"{_HIERA}.num_channels": 3,
    f"{_HIERA}.hidden_act": "gelu",
    f"{_HIERA}.layer_norm_eps": 1e-6,
    "vision_config.num_feature_levels": 3,
    "prompt_encoder_config.hidden_act": "gelu",
    "prompt_encoder_config.layer_norm_eps": 1e-6,
    "prompt_encoder_config.num_point_embeddings": 4,
    "prompt_encoder_config.patch_size": 16,
    "mask_decoder_config.hidden_act": "gelu",
    "mask_downsampler_hidden_act": "gelu",
    "memory_fuser_hidden_act": "gelu",
}

# EdgeTAM's: the trunk has a single known form, the feed-forward other names, and there is a perceiver.
_PERCEIVER = "perceiver_resampler"
_RENAMED = {
    f"memory_attention.{ours}": f"memory_attention_mlp_{theirs}"
    for ours, theirs in (("dim_feedforward", "hidden_size"), ("activation", "hidden_act"))
}
EDGETAM_PATHS: dict[str, str] = {
    **{ours: path for ours, path in TRANSFORMERS_PATHS.items() if not ours.startswith("trunk.")},
    **_RENAMED,
    "spatial_perceiver.dim": f"{_PERCEIVER}_hidden_size",
    "spatial_perceiver.depth": f"{_PERCEIVER}_num_layers",
    "spatial_perceiver.dim_head": f"{_PERCEIVER}_attention_head_dim",
    "spatial_perceiver.heads": f"{_PERCEIVER}_num_attention_heads",
    "spatial_perceiver.num_latents": f"{_PERCEIVER}_num_latents",
    "spatial_perceiver.num_latents_2d": f"{_PERCEIVER}_num_latents_2d",
}
_OF_POINTERS = (("add", "to"), ("proj", "in"), ("use_signed", "to"))
_MLP_WIDTH = f"{_PERCEIVER}_mlp_intermediate_size"
EDGETAM_FIXED: dict[str, Any] = {
    **{path: only for path, only in TRANSFORMERS_FIXED.items() if not path.startswith(_HIERA)},
    f"{_HIERA}.model_type": "timm_wrapper",
    f"{_HIERA}.architecture": "repvit_m1",
    f"{_HIERA}.model_args": {"features_only": True, "in_chans": 3, "out_indices": [0, 1, 2, 3]},
}


class _Family(NamedTuple):
    """A pair of classes of transformers, for images and for video."""

    kind: str  # beginning of its model types
    name: str  # beginning of its classes
    paths: dict[str, str]
    fixed: dict[str, Any]


_SAM2 = _Family("sam2", "Sam2", TRANSFORMERS_PATHS, TRANSFORMERS_FIXED)
_EDGETAM = _Family("edgetam", "EdgeTam", EDGETAM_PATHS, EDGETAM_FIXED)


def _family(kind: Any) -> _Family:
    return _EDGETAM if isinstance(kind, str) and kind.startswith(_EDGETAM.kind) else _SAM2


def is_transformers(values: dict[str, Any]) -> bool:
    kind = values.get("model_type")
    known = kind in [f"{family.kind}{ending}" for family in (_SAM2, _EDGETAM) for ending in ("", "_video")]
    return known or ("vision_config" in values and kind != "mlx_sam2")


def from_transformers(values: dict[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a ``Sam2VideoModel``, a ``Sam2Model`` or one of EdgeTAM's in our form, unchecked.

    Raises:
        ConfigError: a sub-configuration is no object, or a value is one that we do not support.
    """
    for path in ("vision_config", _HIERA, "prompt_encoder_config", "mask_decoder_config", "rope_parameters"):
        part = lookup(values, path)
        if part is not None and not isinstance(part, dict):
            raise ConfigError(f"{_FORM}: {path} = {brief(part)}: must be an object with named fields")
    family = _family(values.get("model_type"))
    check_fixed(values, family.fixed, _FORM)
    flat = {ours: value for ours, path in family.paths.items() if (value := lookup(values, path)) is not None}
    d_model = flat.get("neck.d_model")
    if values.get("model_type") == family.kind:  # the image model: it says nothing about memory or image size
        flat.update({"memory_attention.d_model": d_model, "memory_encoder.in_dim": d_model})
        flat.setdefault("image_size", lookup(values, "prompt_encoder_config.image_size"))
    flat.setdefault("memory_attention.rope_theta", values.get("memory_attention_rope_theta"))  # before transformers 5
    flat["image_size"] = _side(flat.get("image_size"))
    flat |= _edgetam_fields(values, flat) if family is _EDGETAM else _hiera_fields(values, flat)
    return nest({k: v for k, v in flat.items() if v is not None})


def _hiera_fields(values: dict[str, Any], flat: dict[str, Any]) -> dict[str, Any]:
    names = ("patch_kernel_size", "patch_stride", "patch_padding")
    found = {f"trunk.{name}": _side(lookup(values, f"{_HIERA}.{name}")) for name in names}
    stride = flat.get("trunk.q_stride")
    return {**found, **({"trunk.q_stride": [stride, stride]} if isinstance(stride, int) else {})}


def _edgetam_fields(values: dict[str, Any], flat: dict[str, Any]) -> dict[str, Any]:
    """What its ``config.json`` says otherwise than the table, or leaves out, as the image model does for memory.

    Raises:
        ConfigError: the perceiver's inner width is no multiple of its width.
    """
    said = PerceiverConfig.from_dict({k.split(".")[1]: v for k, v in flat.items() if k.startswith("spatial_p")})
    inner = values.get(_MLP_WIDTH, said.ff_mult * said.dim)
    if not isinstance(inner, int) or inner % said.dim:
        raise ConfigError(f"{_FORM}: {_MLP_WIDTH} = {brief(inner)}: must be a multiple of {said.dim}")
    found = {"trunk.architecture": REPVIT, "spatial_perceiver.ff_mult": inner // said.dim}
    if values.get("model_type") == _EDGETAM.kind:
        said_by_version = ("no_obj_embed_spatial", *(f"{n}_tpos_enc_{w}_obj_ptrs" for n, w in _OF_POINTERS))
        unsaid = {"memory_attention.num_layers": 2, **dict.fromkeys(said_by_version, False)}
        found |= {name: value for name, value in unsaid.items() if name not in flat}
    return found


def _side(value: Any) -> Any:
    """transformers writes some sizes as [n, n]; anything else is left to the rules of the field."""
    square = isinstance(value, list) and len(value) == 2 and value[0] == value[1]
    return value[0] if square else value


def check_repeated(values: dict[str, Any], ours: dict[str, Any]) -> None:
    """Compare what a ``config.json`` repeats with ``ours``, our form of it.

    Raises:
        ConfigError: two fields disagree.
    """
    derived = _derived(ours)
    for path in _COMPARED:
        value, only = lookup(values, path), derived.get(path)
        if value is not None and only is not None and value != only and _side(value) != only:
            raise ConfigError(f"{_FORM}: {path} = {brief(value)}: must be {only}, as other keys say")


def to_transformers(
    ours: dict[str, Any], *, video: bool = True, dtype: str = "float32", kept: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The ``config.json`` of a ``Sam2VideoModel``, or without ``video`` of a ``Sam2Model``, from our form.

    ``SAM2Config.to_transformers`` describes the arguments, and checks what comes out.
    """
    family = _EDGETAM if lookup(ours, "trunk.architecture") == REPVIT else _SAM2
    kind = f"{family.kind}_video" if video else family.kind
    tree = copy.deepcopy(kept or {})
    for name, path in family.paths.items():
        put(tree, path, lookup(ours, name))
    for path, value in {**family.fixed, **_derived(ours), **_kinds(family.kind, kind)}.items():
        put(tree, path, value)
    architecture = f"{family.name}{'Video' if video else ''}Model"
    return tree | {"architectures": [architecture], "model_type": kind, "dtype": dtype}


# Derived fields that are compared when a file is read. Of fields that repeat each other only one is used.
_COMPARED = (
    f"{_HIERA}.embed_dim_per_stage",
    f"{_HIERA}.num_attention_heads_per_stage",
    "prompt_encoder_config.image_size",
    "prompt_encoder_config.hidden_size",
    "mask_decoder_config.hidden_size",
    "mask_downsampler_embed_dim",
    "memory_fuser_embed_dim",
    "memory_fuser_intermediate_dim",
    "memory_attention_rope_k_sizes",
)


def _derived(ours: dict[str, Any]) -> dict[str, Any]:
    """Fields that transformers stores twice, or that we derive from others."""
    size, width, d_model = ours["image_size"], ours["memory_encoder"]["in_dim"], ours["neck"]["d_model"]
    grid = size // ours["backbone_stride"]
    return {
        **(_derived_of_edgetam if lookup(ours, "trunk.architecture") == REPVIT else _derived_of_hiera)(ours, size),
        "prompt_encoder_config.image_size": size,
        "prompt_encoder_config.hidden_size": d_model,
        "prompt_encoder_config.scale": 1,
        "mask_decoder_config.hidden_size": d_model,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": 4 * width,
        "memory_attention_rope_feat_sizes": [grid, grid],
        "rope_parameters.rope_type": "axial",
    }


def _derived_of_hiera(ours: dict[str, Any], size: int) -> dict[str, Any]:
    trunk = HieraConfig.from_dict(ours["trunk"])
    stages = range(len(trunk.stages))
    levels = range(len(trunk.stages) - ours["scalp"])
    return {
        f"{_HIERA}.image_size": [size, size],
        **{f"{_HIERA}.{n}": [getattr(trunk, n)] * 2 for n in ("patch_kernel_size", "patch_stride", "patch_padding")},
        f"{_HIERA}.embed_dim_per_stage": [trunk.embed_dim_at_stage(s) for s in stages],
        f"{_HIERA}.num_attention_heads_per_stage": [trunk.num_heads_at_stage(s) for s in stages],
        "vision_config.backbone_feature_sizes": [[trunk.grid_size_at_stage(s, size)] * 2 for s in levels],
    }


def _derived_of_edgetam(ours: dict[str, Any], size: int) -> dict[str, Any]:
    trunk, perceiver = RepViTConfig.from_dict(ours["trunk"]), PerceiverConfig.from_dict(ours["spatial_perceiver"])
    levels = range(len(trunk.widths) - ours["scalp"])
    return {
        "vision_config.backbone_feature_sizes": [[size // trunk.stride_at_stage(s)] * 2 for s in levels],
        _MLP_WIDTH: perceiver.ff_mult * perceiver.dim,
        "memory_attention_rope_k_sizes": [perceiver.side, perceiver.side],
    }


def _kinds(family: str, kind: str) -> dict[str, str]:
    return {
        "vision_config.model_type": f"{family}_vision_model",
        "prompt_encoder_config.model_type": f"{kind}_prompt_encoder",
        "mask_decoder_config.model_type": f"{kind}_mask_decoder",
    }

"""The two foreign configuration forms as data: the official YAML (as a dict) and transformers' ``config.json``.

Each table maps a field of ours to the place where the other form keeps it. What a form leaves out takes the default
of that form's own classes, not ours.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from typing import Any

from ..text import brief
from .parts import PARTS, ConfigError
from .sam2 import SAM2Config

# Ours -> path in the official YAML, below "model". Defaults are those of the official constructors.
_TRUNK = "image_encoder.trunk"
_NECK = "image_encoder.neck"
_LAYER = "memory_attention.layer"
_EXTRA = "sam_mask_decoder_extra_args"
OFFICIAL_PATHS: dict[str, str] = {
    **{f"trunk.{n}": f"{_TRUNK}.{n}" for n in (
        "embed_dim", "num_heads", "q_pool", "q_stride", "stages", "dim_mul", "head_mul",
        "window_pos_embed_bkg_spatial_size", "window_spec", "global_att_blocks",
    )},
    **{f"neck.{n}": f"{_NECK}.{n}" for n in (
        "d_model", "backbone_channel_list", "kernel_size", "stride", "padding", "fpn_interp_model", "fuse_type",
        "fpn_top_down_levels",
    )},
    "neck.num_pos_feats": f"{_NECK}.position_encoding.num_pos_feats",
    "neck.temperature": f"{_NECK}.position_encoding.temperature",
    "scalp": "image_encoder.scalp",
    "memory_attention.d_model": "memory_attention.d_model",
    "memory_attention.num_layers": "memory_attention.num_layers",
    "memory_attention.pos_enc_at_input": "memory_attention.pos_enc_at_input",
    "memory_attention.dim_feedforward": f"{_LAYER}.dim_feedforward",
    "memory_attention.activation": f"{_LAYER}.activation",
    "memory_attention.pos_enc_at_attn": f"{_LAYER}.pos_enc_at_attn",
    "memory_attention.pos_enc_at_cross_attn_keys": f"{_LAYER}.pos_enc_at_cross_attn_keys",
    "memory_attention.pos_enc_at_cross_attn_queries": f"{_LAYER}.pos_enc_at_cross_attn_queries",
    "memory_attention.num_heads": f"{_LAYER}.cross_attention.num_heads",
    "memory_attention.downsample_rate": f"{_LAYER}.cross_attention.downsample_rate",
    "memory_attention.kv_in_dim": f"{_LAYER}.cross_attention.kv_in_dim",
    "memory_attention.rope_theta": f"{_LAYER}.cross_attention.rope_theta",
    "memory_encoder.in_dim": "memory_encoder.in_dim",
    "memory_encoder.out_dim": "memory_encoder.out_dim",
    "memory_encoder.num_pos_feats": "memory_encoder.position_encoding.num_pos_feats",
    "memory_encoder.temperature": "memory_encoder.position_encoding.temperature",
    **{f"memory_encoder.mask_downsampler_{n}": f"memory_encoder.mask_downsampler.{n}" for n in (
        "kernel_size", "stride", "padding", "total_stride",
    )},
    "memory_encoder.fuser_num_layers": "memory_encoder.fuser.num_layers",
    **{f"memory_encoder.fuser_{n}": f"memory_encoder.fuser.layer.{n}" for n in (
        "kernel_size", "padding", "layer_scale_init_value", "use_dwconv",
    )},
    **{f"decoder.{n}": f"{_EXTRA}.{n}" for n in (
        "dynamic_multimask_via_stability", "dynamic_multimask_stability_delta", "dynamic_multimask_stability_thresh",
    )},
    **{n: n for n in (
        "image_size", "backbone_stride", "num_maskmem", "sigmoid_scale_for_mem_enc", "sigmoid_bias_for_mem_enc",
        "binarize_mask_from_pts_for_mem_enc", "use_mask_input_as_output_without_sam", "max_cond_frames_in_attn",
        "directly_add_no_mem_embed", "use_high_res_features_in_sam", "multimask_output_in_sam",
        "multimask_min_pt_num", "multimask_max_pt_num", "multimask_output_for_tracking",
        "use_multimask_token_for_obj_ptr", "iou_prediction_use_sigmoid", "memory_temporal_stride_for_eval",
        "non_overlap_masks_for_mem_enc", "use_obj_ptrs_in_encoder", "max_obj_ptrs_in_encoder",
        "add_tpos_enc_to_obj_ptrs", "proj_tpos_enc_in_obj_ptrs", "use_signed_tpos_enc_to_obj_ptrs",
        "only_obj_ptrs_in_the_past_for_eval", "pred_obj_scores", "pred_obj_scores_mlp", "fixed_no_obj_ptr",
        "soft_no_obj_ptr", "use_mlp_for_obj_ptr_proj", "no_obj_embed_spatial",
    )},
}  # fmt: skip

# What the official constructors use for a key that the YAML leaves out, where that differs from our default.
OFFICIAL_DEFAULTS: dict[str, Any] = {
    "trunk.stages": [2, 3, 16, 3],
    "trunk.window_pos_embed_bkg_spatial_size": [14, 14],
    "trunk.global_att_blocks": [12, 16, 20],
    "neck.fpn_interp_model": "bilinear",
    "scalp": 0,
    "memory_encoder.mask_downsampler_kernel_size": 4,
    "memory_encoder.mask_downsampler_stride": 4,
    "memory_encoder.mask_downsampler_padding": 0,
    "decoder.dynamic_multimask_via_stability": False,
    "image_size": 512,
    "sigmoid_scale_for_mem_enc": 1.0,
    "sigmoid_bias_for_mem_enc": 0.0,
    "multimask_min_pt_num": 1,
    **dict.fromkeys((
        "use_mask_input_as_output_without_sam", "directly_add_no_mem_embed", "use_high_res_features_in_sam",
        "multimask_output_in_sam", "multimask_output_for_tracking", "use_multimask_token_for_obj_ptr",
        "iou_prediction_use_sigmoid", "use_obj_ptrs_in_encoder", "proj_tpos_enc_in_obj_ptrs",
        "use_signed_tpos_enc_to_obj_ptrs", "only_obj_ptrs_in_the_past_for_eval", "pred_obj_scores",
        "pred_obj_scores_mlp", "fixed_no_obj_ptr", "use_mlp_for_obj_ptr_proj", "no_obj_embed_spatial",
    ), False),
}  # fmt: skip

# Keys of the official YAML that say nothing about the model, or repeat what another key says.
OFFICIAL_IGNORED = (
    "_target_", "dropout", "drop_path_rate", "weights_path", "compile_image_encoder", "feat_sizes", "rope_k_repeat",
    "normalize", "scale", "embedding_dim", "fuser.layer.dim", "mask_downsampler.embed_dim", "layer.d_model",
    "self_attention", "return_interm_layers", "fill_hole_area", "non_overlap_masks", "input_projection",
    "clear_non_cond_mem_around_input", "add_all_frames_to_correct_as_cond", "batch_first",
)  # fmt: skip

# Ours -> path in transformers' config.json (Sam2VideoConfig; Sam2Config lacks the video part and takes our defaults).
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


# Keys that the model does not vary: any other value than this describes a different model.
OFFICIAL_FIXED: dict[str, Any] = {
    f"{_NECK}.position_encoding.normalize": True,
    f"{_NECK}.position_encoding.scale": None,
    "memory_encoder.position_encoding.normalize": True,
    "memory_encoder.position_encoding.scale": None,
    "memory_encoder.fuser.input_projection": False,
    f"{_LAYER}.cross_attention.rope_k_repeat": True,
}
# One set of ours serves self- and cross-attention; with the official defaults.
ATTENTION_SHARED: dict[str, Any] = {"num_heads": None, "downsample_rate": 1, "rope_theta": 10000.0}
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


def is_official(values: dict[str, Any]) -> bool:
    """Whether this is the official YAML, with or without its outer ``model`` key."""
    model = values.get("model", values)
    return isinstance(model, dict) and "image_encoder" in model


def is_transformers(values: dict[str, Any]) -> bool:
    kind = values.get("model_type")
    return kind in ("sam2", "sam2_video") or ("vision_config" in values and kind != "mlx_sam2")


def _leaf_paths(tree: dict[str, Any]) -> list[str]:
    paths: list[str] = []
    groups = [("", tree)]
    for prefix, group in groups:  # grows as it is read: no recursion, and YAML's aliases cannot multiply without end
        for name, value in group.items():
            if isinstance(value, dict):
                groups.append((f"{prefix}{name}.", value))
            else:
                paths.append(f"{prefix}{name}")
        if len(groups) > 100 or len(paths) > 1000:
            raise ConfigError("official configuration: far larger than any of SAM 2")
    return paths


def _check_fixed(tree: dict[str, Any], fixed: dict[str, Any], form: str) -> None:
    for path, only in fixed.items():
        value = _lookup(tree, path)
        if value is not None and value != only:
            raise ConfigError(f"{form}: {path} = {brief(value)} is not supported, only {only!r}")


def _lookup(tree: dict[str, Any], path: str) -> Any:
    node: Any = tree
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node


def _assemble(flat: dict[str, Any]) -> SAM2Config:
    """``{"trunk.embed_dim": 96, "image_size": 1024, ...}`` -> SAM2Config."""
    tree: dict[str, Any] = {name: {} for name in PARTS}
    for path, value in flat.items():
        head, _, leaf = path.partition(".")
        if leaf:
            tree[head][leaf] = value
        else:
            tree[head] = value
    return SAM2Config(**{**tree, **{name: kind.from_dict(tree[name]) for name, kind in PARTS.items()}})


def from_official(values: dict[str, Any], unsaid: SAM2Config | None = None) -> SAM2Config:
    """Read the official YAML (``configs/sam2*/*.yaml``) given as a dict.

    ``unsaid`` holds what the YAML has no words for (patch sizes, widths of the decoder); None: the published values.

    Raises:
        ConfigError: for a key that neither describes a model of ours nor is known to have no effect on it.
    """
    model = values.get("model", values)
    known = set(OFFICIAL_PATHS.values())
    for path in _leaf_paths(model):
        dotted = f".{path}."
        if path not in known and not any(f".{name}." in dotted for name in OFFICIAL_IGNORED):
            raise ConfigError(f"official configuration: unknown key {brief('model.' + path)}")
    _check_fixed(model, OFFICIAL_FIXED, "official configuration")
    for name, default in ATTENTION_SHARED.items():
        mine, other = (_lookup(model, f"{_LAYER}.{kind}_attention.{name}") for kind in ("self", "cross"))
        if mine is not None and mine != (default if other is None else other):
            raise ConfigError(f"official configuration: {_LAYER}.self_attention.{name} differs from cross_attention's")
    flat = dict(OFFICIAL_DEFAULTS)
    channels = _lookup(model, f"{_NECK}.backbone_channel_list")
    levels = len(channels) if isinstance(channels, list) else 0
    flat["neck.fpn_top_down_levels"] = list(range(levels))  # official default: all levels
    width = _lookup(model, "memory_attention.d_model")
    flat |= {} if width is None else {"memory_attention.kv_in_dim": width}  # official default: that of the queries
    for ours, path in OFFICIAL_PATHS.items():
        value = _lookup(model, path)
        if value is not None:  # PyYAML reads 1e-6 as a string
            flat[ours] = parse_override_value(value) if isinstance(value, str) else value
    for part, fields in unsaid.to_dict().items() if unsaid else ():
        if part in ("trunk", "decoder"):
            flat |= {p: v for k, v in fields.items() if (p := f"{part}.{k}") not in OFFICIAL_PATHS}
    return _assemble(flat)


def from_transformers(values: dict[str, Any]) -> SAM2Config:
    """Read transformers' ``config.json`` of a ``Sam2VideoModel`` or ``Sam2Model``.

    Raises:
        ConfigError: for a sub-configuration that is missing, or a value that breaks a rule.
    """
    for path in ("vision_config", _HIERA, "prompt_encoder_config", "mask_decoder_config", "rope_parameters"):
        part = _lookup(values, path)
        if part is not None and not isinstance(part, dict):
            raise ConfigError(f"transformers config.json: {path} = {brief(part)}: must be an object with named fields")
    _check_fixed(values, TRANSFORMERS_FIXED, "transformers config.json")
    flat = {ours: value for ours, path in TRANSFORMERS_PATHS.items() if (value := _lookup(values, path)) is not None}
    d_model = flat.get("neck.d_model")
    if values.get("model_type") == "sam2":  # the image model: its config says nothing about memory or image size
        flat.update({"memory_attention.d_model": d_model, "memory_encoder.in_dim": d_model})
        flat.setdefault("image_size", _lookup(values, "prompt_encoder_config.image_size"))
    flat.setdefault("memory_attention.rope_theta", values.get("memory_attention_rope_theta"))  # before transformers 5
    flat["image_size"] = _side(flat.get("image_size"))
    for name in ("patch_kernel_size", "patch_stride", "patch_padding"):
        flat[f"trunk.{name}"] = _side(_lookup(values, f"{_HIERA}.{name}"))
    if isinstance(stride := flat.get("trunk.q_stride"), int):
        flat["trunk.q_stride"] = [stride, stride]
    config = _assemble({k: v for k, v in flat.items() if v is not None})
    _check_repeated(values, config)
    return config


def _side(value: Any) -> Any:
    """transformers writes some sizes as [n, n]; anything else is left for the rules of the field."""
    square = isinstance(value, list) and len(value) == 2 and value[0] == value[1]
    return value[0] if square else value


def _check_repeated(values: dict[str, Any], config: SAM2Config) -> None:
    """What config.json says twice must agree: only one of the two is read."""
    trunk, stages = config.trunk, range(len(config.trunk.stages))
    expected = {
        f"{_HIERA}.embed_dim_per_stage": [trunk.embed_dim_at_stage(s) for s in stages],
        f"{_HIERA}.num_attention_heads_per_stage": [trunk.num_heads_at_stage(s) for s in stages],
        "prompt_encoder_config.image_size": config.image_size,
        "prompt_encoder_config.hidden_size": config.neck.d_model,
        "mask_decoder_config.hidden_size": config.neck.d_model,
        "mask_downsampler_embed_dim": config.memory_encoder.in_dim,
        "memory_fuser_embed_dim": config.memory_encoder.in_dim,
        "memory_fuser_intermediate_dim": 4 * config.memory_encoder.in_dim,
    }
    for path, only in expected.items():
        value = _lookup(values, path)
        if value is not None and value != only and _side(value) != only:
            raise ConfigError(f"transformers config.json: {path} = {brief(value)}: must be {only}, as other keys say")


def to_official(config: SAM2Config) -> dict[str, Any]:
    """The ``model`` part of an official YAML that describes this configuration."""
    tree: dict[str, Any] = {}
    ours = config.to_dict()
    for name, path in OFFICIAL_PATHS.items():
        node = tree
        *parents, leaf = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = _lookup(ours, name)
    layer = tree["memory_attention"]["layer"]
    layer["self_attention"] = {name: layer["cross_attention"][name] for name in ATTENTION_SHARED}
    return tree


def with_overrides(config: SAM2Config, overrides: Sequence[str]) -> SAM2Config:
    """Apply hydra overrides, e.g. ``["++model.num_maskmem=4"]``, to a configuration.

    Raises:
        ConfigError: for an override that is not of the form ``[+|++]model.<path>=<value>``, or names no known key.
    """
    tree = to_official(config)
    for override in overrides:
        path, equals, text = str(override).lstrip("+").partition("=")
        if not equals or not path.startswith("model."):
            raise ConfigError(f"override {override!r} is not understood; write it as ++model.<path>=<value>")
        node, (*parents, leaf) = tree, path.split(".")[1:]
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"override {override!r}: {parent!r} holds a value, not a group of keys")
        node[leaf] = parse_override_value(text)
    return from_official(tree, unsaid=config)


def parse_override_value(text: str) -> Any:
    """A hydra value: true, null, 3, 0.5, [1, 2] or a bare word."""
    words = {"true": True, "false": False, "null": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    if len(text) > 200:  # no value of ours is that long, and the parser's stack is not for strangers
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, about text that is not Python
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text

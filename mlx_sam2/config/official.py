"""The official YAML (``configs/sam2*/*.yaml``), read as a dict, and our own form: a table and its exceptions.

``OFFICIAL_PATHS`` maps each field of ours to its place in the YAML. A key that the YAML leaves out has the default of
the official constructors, not ours. The trainer's YAML (``configs/sam2.1_training``) has the same model below
``trainer``, with references such as ``${scratch.resolution}``.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from typing import Any

from ..text import brief
from .edgetam import REPVIT, PerceiverConfig
from .parts import ConfigError
from .paths import check_fixed, lookup, nest, put

# Ours -> path in the official YAML, below "model". Defaults are those of the official constructors.
_TRUNK = "image_encoder.trunk"
_NECK = "image_encoder.neck"
_LAYER = "memory_attention.layer"
_EXTRA = "sam_mask_decoder_extra_args"
_PERCEIVER = "spatial_perceiver"
_TIMM, _REPVIT_M1 = f"{_TRUNK}.name", "repvit_m1.dist_in1k"  # a trunk of timm, by its name there; EdgeTAM's
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
    **{f"spatial_perceiver.{n}": f"{_PERCEIVER}.{n}" for n in (
        "dim", "depth", "dim_head", "heads", "ff_mult", "num_latents", "num_latents_2d", "pos_enc_at_key_value",
    )},
    "spatial_perceiver.temperature": f"{_PERCEIVER}.position_encoding.temperature",
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

# Defaults of the official constructors for keys that the YAML leaves out, where they differ from ours.
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

# Keys of the official YAML that do not change the model, or repeat another key.
OFFICIAL_IGNORED = (
    "_target_", "dropout", "drop_path_rate", "weights_path", "compile_image_encoder", "feat_sizes", "rope_k_repeat",
    "normalize", "scale", "embedding_dim", "fuser.layer.dim", "mask_downsampler.embed_dim", "layer.d_model",
    "self_attention", "return_interm_layers", "fill_hole_area", "non_overlap_masks", "input_projection",
    "clear_non_cond_mem_around_input", "add_all_frames_to_correct_as_cond", "batch_first",
    "trunk.name", "trunk.features", "q_sizes", "k_sizes", "hidden_dropout_p", "attention_dropout_p",
    "spatial_perceiver.position_encoding.num_pos_feats",
    # of the trainer's model (official training/model/sam2.py)
    "num_correction_pt_per_frame", "pt_sampling_for_eval", "use_act_ckpt_iterative_pt_sampling",
    "forward_backbone_per_frame_for_eval", "freeze_image_encoder", "prob_to_sample_from_gt_for_train",
    *(f"{name}_for_{phase}" for phase in ("train", "eval") for name in (
        "prob_to_use_pt_input", "prob_to_use_box_input", "num_frames_to_correct", "rand_frames_to_correct",
        "num_init_cond_frames", "rand_init_cond_frames",
    )),
)  # fmt: skip

# Keys with a single supported value: any other describes a different model.
OFFICIAL_FIXED: dict[str, Any] = {
    f"{_NECK}.position_encoding.normalize": True,
    f"{_NECK}.position_encoding.scale": None,
    "memory_encoder.position_encoding.normalize": True,
    "memory_encoder.position_encoding.scale": None,
    "memory_encoder.fuser.input_projection": False,
    f"{_LAYER}.cross_attention.rope_k_repeat": True,
    f"{_PERCEIVER}.position_encoding.normalize": True,
    f"{_PERCEIVER}.position_encoding.scale": None,
    f"{_PERCEIVER}.concat_kv_latents": False,
    f"{_PERCEIVER}.use_self_attn": True,
}
# Official defaults of the keys that self- and cross-attention must share: we have one field for both.
ATTENTION_SHARED: dict[str, Any] = {"num_heads": None, "downsample_rate": 1, "rope_theta": 10000.0}


_LONGEST_CHAIN = 10  # of references


def is_official(values: dict[str, Any]) -> bool:
    """Whether this is the official YAML, with or without its outer ``model`` key, or the trainer's."""
    model = _model_part(values)
    return isinstance(model, dict) and "image_encoder" in model


def _model_part(values: dict[str, Any]) -> Any:
    trainer = values.get("trainer")
    return (trainer if isinstance(trainer, dict) else values).get("model", values)


def from_official(values: dict[str, Any], unsaid: dict[str, Any] | None = None) -> dict[str, Any]:
    """The official YAML in our form, its values unchecked.

    ``unsaid`` is a configuration in our form, of which we take what the YAML cannot express (patch sizes, widths of
    the decoder); None: the published values.

    Raises:
        ConfigError: a key neither describes a model of ours nor is known to have no effect on it.
    """
    model = _model_part(values)
    known = {*OFFICIAL_PATHS.values(), *OFFICIAL_FIXED}
    for path in _leaf_paths(model):
        dotted = f".{path}."
        if path not in known and not any(f".{name}." in dotted for name in OFFICIAL_IGNORED):
            raise ConfigError(f"official configuration: unknown key {brief('model.' + path)}")
    check_fixed(model, OFFICIAL_FIXED, "official configuration")
    for name, default in ATTENTION_SHARED.items():
        mine, other = (lookup(model, f"{_LAYER}.{kind}_attention.{name}") for kind in ("self", "cross"))
        if mine is not None and mine != (default if other is None else other):
            raise ConfigError(f"official configuration: {_LAYER}.self_attention.{name} differs from cross_attention's")
    flat = dict(OFFICIAL_DEFAULTS)
    channels = lookup(model, f"{_NECK}.backbone_channel_list")
    levels = len(channels) if isinstance(channels, list) else 0
    flat["neck.fpn_top_down_levels"] = list(range(levels))  # official default: all levels
    width = lookup(model, "memory_attention.d_model")
    flat |= {} if width is None else {"memory_attention.kv_in_dim": width}  # official default: that of the queries
    for ours, path in OFFICIAL_PATHS.items():
        value = _resolved(values, lookup(model, path), path)
        if value is not None:  # PyYAML reads 1e-6 as a string
            flat[ours] = parse_override_value(value) if isinstance(value, str) else value
    if (trunk := lookup(model, _TIMM)) is not None:
        flat = _with_timm_trunk(flat, trunk)
    for part, fields in unsaid.items() if unsaid else ():
        if part in ("trunk", "decoder"):
            flat |= {p: v for k, v in fields.items() if (p := f"{part}.{k}") not in OFFICIAL_PATHS}
    ours = nest(flat)
    _check_rotary_grids(model, ours)
    return ours


def _with_timm_trunk(flat: dict[str, Any], name: Any) -> dict[str, Any]:
    """The fields with a trunk of timm in the place of Hiera.

    Raises:
        ConfigError: it is another one than EdgeTAM's.
    """
    if not isinstance(name, str) or name.partition(".")[0] != _REPVIT_M1.partition(".")[0]:
        raise ConfigError(f"official configuration: {_TIMM} = {brief(name)} is not supported, only {_REPVIT_M1!r}")
    return {k: v for k, v in flat.items() if not k.startswith("trunk.")} | {"trunk.architecture": REPVIT}


def _check_rotary_grids(model: dict[str, Any], ours: dict[str, Any]) -> None:
    """Compare the grids of the cross-attention (EdgeTAM) with those that other keys imply.

    Raises:
        ConfigError: they differ.
    """
    said = {name: lookup(model, f"{_LAYER}.cross_attention.{name}") for name in ("q_sizes", "k_sizes")}
    if _PERCEIVER not in ours or not any(said.values()):
        return
    side, stride = PerceiverConfig.from_dict(ours[_PERCEIVER]).side, ours.get("backbone_stride", 16)
    cells = ours["image_size"] // stride if type(ours["image_size"]) is type(stride) is int and stride > 0 else None
    for name, only in (("q_sizes", cells), ("k_sizes", side)):
        if said[name] is not None and only is not None and said[name] != [only, only]:
            raise ConfigError(
                f"official configuration: {_LAYER}.cross_attention.{name} = {brief(said[name])}: must be "
                f"{[only, only]}, as other keys say"
            )


def _resolved(root: dict[str, Any], value: Any, path: str) -> Any:
    """A value, or what it refers to with ``${path.from.the.root}``.

    Raises:
        ConfigError: it refers to nothing, or needs a function of the trainer.
    """
    for _ in range(_LONGEST_CHAIN):
        if not isinstance(value, str) or "${" not in value:
            return value
        reference = re.fullmatch(r"\$\{(\w+(?:\.\w+)*)\}", value)
        found = lookup(root, reference[1]) if reference else None
        if found is None:
            break
        value = found
    raise ConfigError(
        f"official configuration: model.{path} = {brief(value)} cannot be resolved here: write its value in its place"
    )


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


def to_official(ours: dict[str, Any]) -> dict[str, Any]:
    """The ``model`` part of an official YAML that describes a configuration given in our form."""
    tree: dict[str, Any] = {}
    for name, path in OFFICIAL_PATHS.items():
        if (value := lookup(ours, name)) is not None:
            put(tree, path, value)
    if lookup(ours, "trunk.architecture") == REPVIT:
        put(tree, _TIMM, _REPVIT_M1)
    layer = tree["memory_attention"]["layer"]
    layer["self_attention"] = {name: layer["cross_attention"][name] for name in ATTENTION_SHARED}
    return tree


def with_overrides(ours: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply hydra overrides, e.g. ``["++model.num_maskmem=4"]``, to a configuration in our form.

    Raises:
        ConfigError: an override is not of the form ``[+|++]model.<path>=<value>``, or names no known key.
    """
    tree = to_official(ours)
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
    return from_official(tree, unsaid=ours)


def parse_override_value(text: str) -> Any:
    """A hydra value: true, null, 3, 0.5, [1, 2] or a bare word."""
    words = {"true": True, "false": False, "null": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    if len(text) > 200:  # longer than any value of ours; a stranger's text could exhaust the parser's stack
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python's parser, about text that is not Python
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text

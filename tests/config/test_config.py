"""Configurations: three forms read, one written, every rule named, and nothing a stranger's file can do."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import synthetic
from mlx_sam2.config.parts import ConfigError, DecoderConfig, FpnConfig, HieraConfig, MemoryConfig, MemoryEncoderConfig
from mlx_sam2.config.sam2 import PUBLISHED, SAM2Config

SIZES = ("tiny", "small", "base_plus", "large")
YAML_LETTERS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
NANO = synthetic.nano_config()


def published(size: str) -> HieraConfig:
    return PUBLISHED[f"sam2.1_hiera_{size}"].config.trunk


def transformers_json(name: str = "nano") -> dict[str, Any]:
    return json.loads((synthetic.DATA / f"transformers_config_{name}.json").read_text())


# ---- the published models


def test_table_of_published_models() -> None:
    assert [entry.short_name for entry in PUBLISHED.values()] == [*SIZES, *(f"sam2-{size}" for size in SIZES)]
    for name, entry in PUBLISHED.items():
        assert entry.name == name
        assert entry.filename == f"{name}.pt"
    assert PUBLISHED["sam2.1_hiera_base_plus"].repo_id == "facebook/sam2.1-hiera-base-plus"
    assert PUBLISHED["sam2_hiera_large"].repo_id == "facebook/sam2-hiera-large"


@pytest.mark.parametrize("size", SIZES)
def test_sam2_and_sam2_1_differ_in_four_switches(size: str) -> None:
    old, new = PUBLISHED[f"sam2_hiera_{size}"].config, PUBLISHED[f"sam2.1_hiera_{size}"].config
    switches = (
        "no_obj_embed_spatial",
        "add_tpos_enc_to_obj_ptrs",
        "proj_tpos_enc_in_obj_ptrs",
        "use_signed_tpos_enc_to_obj_ptrs",
    )
    assert not any(getattr(old, switch) for switch in switches)
    assert dataclasses.replace(old, **dict.fromkeys(switches, True)) == new


# The table of the paper's official configurations: channels, heads, blocks, global blocks, windows, background size.
TRUNKS = {
    "tiny": ((96, 192, 384, 768), (1, 2, 4, 8), (1, 2, 7, 2), (5, 7, 9), (8, 4, 14, 7), 7),
    "small": ((96, 192, 384, 768), (1, 2, 4, 8), (1, 2, 11, 2), (7, 10, 13), (8, 4, 14, 7), 7),
    "base_plus": ((112, 224, 448, 896), (2, 4, 8, 16), (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7), 14),
    "large": ((144, 288, 576, 1152), (2, 4, 8, 16), (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8), 7),
}
POOLING = {"tiny": (1, 3, 10), "small": (1, 3, 14), "base_plus": (2, 5, 21), "large": (2, 8, 44)}
HEAD_SIZE = {"tiny": 96, "small": 96, "base_plus": 56, "large": 72}


@pytest.mark.parametrize("size", SIZES)
def test_trunk_by_stage(size: str) -> None:
    trunk = published(size)
    widths, heads, stages, global_blocks, windows, background = TRUNKS[size]
    assert trunk.stages == stages
    assert trunk.total_blocks == sum(stages) == {"tiny": 12, "small": 16, "base_plus": 24, "large": 48}[size]
    assert tuple(trunk.embed_dim_at_stage(s) for s in range(4)) == widths
    assert tuple(trunk.num_heads_at_stage(s) for s in range(4)) == heads
    assert {w // h for w, h in zip(widths, heads, strict=True)} == {HEAD_SIZE[size]}
    assert tuple(trunk.window_size_at_stage(s) for s in range(4)) == windows
    assert trunk.window_pos_embed_bkg_spatial_size == (background, background)
    assert [trunk.grid_size_at_stage(s, 1024) for s in range(4)] == [256, 128, 64, 32]
    assert [trunk.grid_size_at_stage(s, 256) for s in range(4)] == [64, 32, 16, 8]
    assert trunk.q_pool_block_indices == POOLING[size]
    assert tuple(b for b in range(trunk.total_blocks) if trunk.window_size_of_block(b) == 0) == global_blocks


@pytest.mark.parametrize("size", SIZES)
def test_first_block_of_a_stage_keeps_the_window_before(size: str) -> None:
    trunk = published(size)
    windows = [trunk.window_size_of_block(b) for b in range(trunk.total_blocks)]
    assert windows[0] == trunk.window_spec[0]
    for stage, block in enumerate(trunk.q_pool_block_indices, start=1):
        assert trunk.stage_of_block(block - 1) == stage - 1
        assert trunk.stage_of_block(block) == stage
        assert windows[block] == trunk.window_spec[stage - 1]
        assert windows[block + 1] == trunk.window_spec[stage]


def test_windows_of_tiny_spelled_out() -> None:
    trunk = published("tiny")
    assert [trunk.window_size_of_block(b) for b in range(12)] == [8, 8, 4, 4, 14, 0, 14, 0, 14, 0, 14, 7]
    assert [trunk.stage_of_block(b) for b in range(12)] == [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("block", [-1, 12])
def test_no_such_block(block: int) -> None:
    with pytest.raises(IndexError, match=f"block {block} does not exist; blocks go from 0 to 11"):
        published("tiny").stage_of_block(block)


# ---- the three forms


def official_yaml(name: str) -> dict[str, Any]:
    if importlib.util.find_spec("sam2") is None or importlib.util.find_spec("yaml") is None:
        pytest.skip("needs the official package, see CONTRIBUTING.md: pip install --no-deps sam2==1.1.0, and pyyaml")
    import yaml

    version, _, size = name.partition("_hiera_")
    package = Path(importlib.util.find_spec("sam2").origin).parent
    return yaml.safe_load((package / "configs" / version / f"{version}_hiera_{YAML_LETTERS[size]}.yaml").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_official_yaml(name: str) -> None:
    """What post-processing adds is no part of the YAML."""
    values = official_yaml(name)
    expected = PUBLISHED[name].config
    assert SAM2Config.from_dict(values) == expected.with_postprocessing(False)
    assert SAM2Config.from_dict(values["model"]) == expected.with_postprocessing(False)
    assert SAM2Config.from_dict(values).with_postprocessing(True) == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_transformers_config_of_published_models(name: str, golden: Path) -> None:
    values = json.loads((golden / "manifest" / f"transformers_config_{name}.json").read_text())
    assert SAM2Config.from_dict(values) == PUBLISHED[name].config


@pytest.mark.parametrize("name", ["nano", "nano20"])
def test_transformers_config_of_small_models(name: str, golden: Path) -> None:
    values = json.loads((golden / "manifest" / f"transformers_config_{name}.json").read_text())
    assert SAM2Config.from_dict(values) == synthetic.nano_config(name).with_postprocessing(True)


def test_nano_spelled_out() -> None:
    """One reading of each form against values typed by hand, so that no form can be wrong with the other."""
    for config in (NANO, SAM2Config.from_dict(transformers_json())):
        assert config.trunk == HieraConfig(embed_dim=16, stages=(1, 2, 3, 2), global_att_blocks=(5,))
        assert config.neck == FpnConfig(d_model=64, num_pos_feats=64, backbone_channel_list=(128, 64, 32, 16))
        assert config.memory_attention == MemoryConfig(d_model=64, num_layers=2, dim_feedforward=128, kv_in_dim=16)
        assert config.memory_encoder == MemoryEncoderConfig(in_dim=64, out_dim=16, num_pos_feats=16)
        assert (config.image_size, config.embedding_size) == (256, 16)


@pytest.mark.parametrize("name", [*PUBLISHED, "nano", "nano20"])
def test_round_trip_through_json(name: str) -> None:
    config = PUBLISHED[name].config if name in PUBLISHED else synthetic.nano_config(name)
    for given in (config, config.with_postprocessing(True, video=True), config.with_postprocessing(False)):
        written = json.loads(json.dumps(given.to_dict(), allow_nan=False))
        assert written["model_type"] == "mlx_sam2"
        read = SAM2Config.from_dict(written)
        assert read == given
        assert hash(read) == hash(given)
        assert read.to_dict() == written


def altered(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, (int, float)) else value


@pytest.mark.parametrize("part", [DecoderConfig, MemoryConfig, MemoryEncoderConfig, FpnConfig, HieraConfig])
def test_every_field_survives_the_round_trip(part: type) -> None:
    """Fields one by one, as far as the part's own rules allow another value."""
    changed = 0
    for f in dataclasses.fields(part):
        try:
            given = dataclasses.replace(part(), **{f.name: altered(getattr(part(), f.name))})
        except ConfigError:
            continue
        if given != part():
            changed += 1
            assert part.from_dict(json.loads(json.dumps(given.to_dict()))) == given != part()
    assert changed >= 1


def test_left_out_fields_of_ours_take_the_defaults() -> None:
    assert SAM2Config.from_dict({"trunk": {}}) == SAM2Config() == PUBLISHED["sam2.1_hiera_tiny"].config


def test_official_defaults_for_left_out_keys() -> None:
    """Those of the official constructors, which are not the published models' values."""
    values = synthetic.config_dict()
    model = values["model"]
    for key in ("iou_prediction_use_sigmoid", "sigmoid_scale_for_mem_enc", "multimask_min_pt_num"):
        model.pop(key)
    model["image_encoder"]["neck"].pop("fpn_interp_model")
    model["image_encoder"]["neck"].pop("fpn_top_down_levels")
    config = SAM2Config.from_dict(values)
    assert config.iou_prediction_use_sigmoid is False
    assert config.sigmoid_scale_for_mem_enc == 1.0
    assert config.multimask_min_pt_num == 1
    assert config.neck.fpn_interp_model == "bilinear"
    assert config.neck.fpn_top_down_levels == (0, 1, 2, 3)


def test_numbers_that_yaml_reads_as_words() -> None:
    """PyYAML reads 1e-6, without a dot, as a string."""
    values = synthetic.config_dict()
    values["model"]["memory_encoder"]["fuser"]["layer"]["layer_scale_init_value"] = "1e-6"
    assert SAM2Config.from_dict(values).memory_encoder.fuser_layer_scale_init_value == 1e-6


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[leaf] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("image_encoder.neck.position_encoding.normalize", False),
        ("image_encoder.neck.position_encoding.scale", 3.0),
        ("memory_encoder.position_encoding.normalize", False),
        ("memory_encoder.fuser.input_projection", True),
        ("memory_attention.layer.cross_attention.rope_k_repeat", False),
        ("memory_attention.layer.self_attention.num_heads", 2),
        ("memory_attention.layer.self_attention.rope_theta", 100.0),
        ("image_encoder.trunk.nonsense", 1),
        ("image_encoder.trunk", 5),
        ("lora_rank", 8),
    ],
)
def test_official_keys_that_mean_another_model(path: str, value: Any) -> None:
    """Nothing that changes the model is passed over in silence."""
    values = synthetic.config_dict()
    put(values["model"], path, value)
    with pytest.raises(ConfigError, match=path.rpartition(".")[2]):
        SAM2Config.from_dict(values)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("vision_config.backbone_config.model_type", "timm_wrapper"),
        ("vision_config.backbone_config.embed_dim_per_stage", [16, 32, 64, 96]),
        ("vision_config.backbone_config.num_attention_heads_per_stage", [2, 2, 4, 8]),
        ("vision_config.backbone_config.layer_norm_eps", 1e-5),
        ("vision_config.backbone_config.hidden_act", "relu"),
        ("vision_config.backbone_config.patch_padding", [3, 1]),
        ("vision_config.backbone_config", 7),
        ("vision_config.num_feature_levels", 4),
        ("vision_config", "nano"),
        ("prompt_encoder_config.image_size", 1024),
        ("prompt_encoder_config.hidden_size", 128),
        ("mask_decoder_config.hidden_act", "relu"),
        ("mask_decoder_config", []),
        ("memory_fuser_intermediate_dim", 128),
        ("image_size", [256, 512]),
    ],
)
def test_transformers_keys_that_mean_another_model(path: str, value: Any) -> None:
    values = transformers_json()
    put(values, path, value)
    with pytest.raises(ConfigError, match=path.rpartition(".")[2]):
        SAM2Config.from_dict(values)


# Ours -> where transformers keeps it, for fields whose transformers name is quite another.
@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("max_cond_frame_num", 4, lambda c: c.max_cond_frames_in_attn),
        ("max_object_pointers_in_encoder", 5, lambda c: c.max_obj_ptrs_in_encoder),
        ("enable_occlusion_spatial_embedding", False, lambda c: c.no_obj_embed_spatial),
        ("enable_temporal_pos_encoding_for_object_pointers", False, lambda c: c.add_tpos_enc_to_obj_ptrs),
        ("enable_temporal_pos_encoding_for_object_pointers", False, lambda c: c.proj_tpos_enc_in_obj_ptrs),
        ("enable_temporal_pos_encoding_for_object_pointers", False, lambda c: c.use_signed_tpos_enc_to_obj_ptrs),
        ("memory_attention_feed_forward_hidden_act", "gelu", lambda c: c.memory_attention.activation),
        ("rope_parameters.rope_theta", 500.0, lambda c: c.memory_attention.rope_theta),
        ("mask_decoder_config.mlp_dim", 96, lambda c: c.decoder.mlp_dim),
        ("mask_decoder_config.iou_head_depth", 2, lambda c: c.decoder.iou_head_depth),
        ("prompt_encoder_config.mask_input_channels", 8, lambda c: c.decoder.mask_in_chans),
        ("vision_config.backbone_config.window_size_per_stage", [8, 4, 6, 3], lambda c: list(c.trunk.window_spec)),
        ("vision_config.backbone_config.mlp_ratio", 2.0, lambda c: c.trunk.mlp_ratio),
        ("num_maskmem", 4, lambda c: c.num_maskmem),
    ],
)  # fmt: skip
def test_transformers_names(path: str, value: Any, read: Any) -> None:
    values = transformers_json()
    assert read(SAM2Config.from_dict(values)) != value
    put(values, path, value)
    assert read(SAM2Config.from_dict(values)) == value


def test_square_sizes_and_the_old_name_of_theta() -> None:
    """Sizes as one number or as [n, n]; rope theta as transformers 4 wrote it."""
    values = transformers_json()
    expected = SAM2Config.from_dict(values)
    hiera = values["vision_config"]["backbone_config"]
    hiera |= {"patch_kernel_size": 7, "patch_stride": 4, "patch_padding": 3, "query_stride": 2}
    values |= {"image_size": [256, 256]}
    values["prompt_encoder_config"]["image_size"] = [256, 256]
    assert SAM2Config.from_dict(values) == expected
    del values["rope_parameters"]
    values["memory_attention_rope_theta"] = 77.0
    assert SAM2Config.from_dict(values).memory_attention.rope_theta == 77.0


@pytest.mark.parametrize("kind", ["sam2_video", "sam2"])
def test_nearly_empty_transformers_config_is_tiny(kind: str) -> None:
    """transformers writes only what differs from its defaults, and those are SAM 2.1 tiny's."""
    tiny = PUBLISHED["sam2.1_hiera_tiny"].config
    assert SAM2Config.from_dict({"model_type": kind}) == tiny
    assert SAM2Config.from_dict({"model_type": kind, "vision_config": None, "mask_decoder_config": {}}) == tiny


@pytest.mark.parametrize("name", ["Sam2VideoConfig", "Sam2Config"])
def test_defaults_of_transformers_itself(name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra `reference`")
    full = json.loads(getattr(transformers, name)().to_json_string(use_diff=False))
    diff = json.loads(getattr(transformers, name)().to_json_string(use_diff=True))
    assert SAM2Config.from_dict(full) == SAM2Config.from_dict(diff) == PUBLISHED["sam2.1_hiera_tiny"].config


def test_image_model_of_transformers() -> None:
    """Sam2Config says nothing about memory; its image size stands with the prompt encoder."""
    values = transformers_json()
    kept = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    config = SAM2Config.from_dict({"model_type": "sam2"} | {key: values[key] for key in kept})
    assert (config.trunk, config.neck, config.decoder) == (
        NANO.trunk,
        NANO.neck,
        NANO.with_postprocessing(True).decoder,
    )
    assert config.image_size == 256
    assert config.memory_attention.d_model == config.memory_encoder.in_dim == 64


# ---- rules

SCALARS: dict[str, list[Any]] = {
    "int": [0.5, "3", None, True, -2, 1 << 17, 10**400, [1], {}],
    "bool": [1, 0, "true", None, [True]],
    "float": ["0.1", None, True, math.nan, math.inf, -math.inf, 10**400, [0.5]],
    "tuple[int, ...]": [3, "8,4", None, [0.5], [True], [-1], [[1, 2]], [1] * 257, {"0": 1}],
}
PARTS = (HieraConfig, FpnConfig, DecoderConfig, MemoryConfig, MemoryEncoderConfig, SAM2Config)
WRONG_TYPES = [
    pytest.param(part, f.name, value, id=f"{part.__name__}.{f.name}-{str(value)[:12]}")
    for part in PARTS
    for f in dataclasses.fields(part)
    for value in SCALARS.get(str(f.type), [])
]


def one_line(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 1000  # the list of fields is the longest part
    return text


@pytest.mark.parametrize(("part", "name", "value"), WRONG_TYPES)
def test_wrong_types(part: type, name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(part(), **{name: value})
    assert f"{part.__name__}.{name} = " in one_line(error)
    assert "must be" in one_line(error)


RULES: list[tuple[type, dict[str, Any], str, str]] = [
    (HieraConfig, {"stages": [], "window_spec": []}, "stages", "at least one block"),
    (HieraConfig, {"stages": [1, 0, 7, 2]}, "stages", "at least one block"),
    (HieraConfig, {"stages": [1, 2, 600, 2]}, "stages", "512 blocks"),
    (HieraConfig, {"stages": [1] * 9, "window_spec": [8] * 9}, "stages", "8 stages"),
    (HieraConfig, {"window_spec": [8, 4, 14]}, "window_spec", "each of 4 stages"),
    (HieraConfig, {"window_spec": [8, 4, 0, 7]}, "window_spec", "positive"),
    (HieraConfig, {"window_spec": [7, 4, 14, 7]}, "window_spec", "window 7 of pooling block 1 is not a multiple"),
    (HieraConfig, {"q_pool": 4}, "q_pool", "below the number of stages, 4"),
    (HieraConfig, {"q_stride": [2, 4]}, "q_stride", "two equal positive integers"),
    (HieraConfig, {"q_stride": [0, 0]}, "q_stride", "two equal positive integers"),
    (HieraConfig, {"q_stride": [2]}, "q_stride", "two equal positive integers"),
    (HieraConfig, {"window_pos_embed_bkg_spatial_size": [7]}, "window_pos_embed_bkg_spatial_size", "two positive"),
    (HieraConfig, {"window_pos_embed_bkg_spatial_size": [7, 0]}, "window_pos_embed_bkg_spatial_size", "two positive"),
    (HieraConfig, {"global_att_blocks": [12]}, "global_att_blocks", "from 0 to 11"),
    (HieraConfig, {"dim_mul": 0.0}, "dim_mul", "above 0 and at most 64"),
    (HieraConfig, {"mlp_ratio": 65.0}, "mlp_ratio", "above 0 and at most 64"),
    (HieraConfig, {"head_mul": -1}, "head_mul", "above 0 and at most 64"),
    (HieraConfig, {"dim_mul": 64.0}, "dim_mul", "65536"),
    (HieraConfig, {"dim_mul": 0.05, "head_mul": 1}, "dim_mul", "gives stage 2 0 channels"),
    (HieraConfig, {"dim_mul": 1.0, "head_mul": 1.0}, "dim_mul", "wherever queries are pooled"),
    (HieraConfig, {"num_heads": 5}, "num_heads", "the 5 heads of stage 0 do not divide its 96 channels"),
    (HieraConfig, {"head_mul": 0.1}, "num_heads", "the 0 heads of stage 1"),
    (HieraConfig, {"patch_padding": 1}, "patch_padding", "one token for each patch_stride"),
    (HieraConfig, {"patch_padding": 9}, "patch_padding", "one token for each patch_stride"),
    (FpnConfig, {"fpn_interp_model": "bicubic"}, "fpn_interp_model", "nearest or bilinear"),
    (FpnConfig, {"fuse_type": "max"}, "fuse_type", "sum or avg"),
    (FpnConfig, {"fpn_top_down_levels": [4]}, "fpn_top_down_levels", "from 0 to 3"),
    (FpnConfig, {"num_pos_feats": 128}, "num_pos_feats", "d_model = 256"),
    (FpnConfig, {"d_model": 100, "num_pos_feats": 100}, "d_model", "multiple of 8"),
    (FpnConfig, {"kernel_size": 3}, "kernel_size", "2 * padding + 1"),
    (FpnConfig, {"stride": 2}, "kernel_size", "stride 1"),
    (DecoderConfig, {"mask_in_chans": 6}, "mask_in_chans", "multiple of 4"),
    (DecoderConfig, {"depth": 65}, "depth", "at most 64"),
    (DecoderConfig, {"iou_head_depth": 65}, "iou_head_depth", "at most 64"),
    (DecoderConfig, {"num_multimask_outputs": 65}, "num_multimask_outputs", "at most 64"),
    (MemoryConfig, {"activation": "glu"}, "activation", "relu or gelu"),
    (MemoryConfig, {"num_layers": 65}, "num_layers", "at most 64"),
    (MemoryConfig, {"d_model": 258}, "d_model", "multiple of 4"),
    (MemoryConfig, {"num_heads": 3}, "d_model", "multiple of 4"),
    (MemoryConfig, {"rope_theta": 0.0}, "rope_theta", "above 0"),
    (MemoryEncoderConfig, {"num_pos_feats": 32}, "num_pos_feats", "out_dim = 64"),
    (MemoryEncoderConfig, {"out_dim": 66, "num_pos_feats": 66}, "out_dim", "multiple of 4"),
    (MemoryEncoderConfig, {"fuser_num_layers": 65}, "fuser_num_layers", "at most 64"),
    (MemoryEncoderConfig, {"mask_downsampler_total_stride": 12}, "mask_downsampler_total_stride", "power of 2"),
    (MemoryEncoderConfig, {"mask_downsampler_stride": 1}, "mask_downsampler_total_stride", "power of 1"),
    (MemoryEncoderConfig, {"mask_downsampler_total_stride": 512}, "mask_downsampler_total_stride", "at most 256"),
    (MemoryEncoderConfig, {"mask_downsampler_padding": 0}, "mask_downsampler_padding", "divide the grid"),
    (MemoryEncoderConfig, {"mask_downsampler_kernel_size": 5}, "mask_downsampler_padding", "divide the grid"),
    (MemoryEncoderConfig, {"fuser_kernel_size": 5}, "fuser_kernel_size", "2 * fuser_padding + 1"),
    (SAM2Config, {"image_size": 1000}, "image_size", "multiple of 32"),
    (SAM2Config, {"image_size": 16384}, "image_size", "at most 8192"),
    (SAM2Config, {"scalp": 4}, "scalp", "drops every feature level"),
    (SAM2Config, {"backbone_stride": 32}, "backbone_stride", "stride of the last kept level, 16"),
    (SAM2Config, {"max_cond_frames_in_attn": 1}, "max_cond_frames_in_attn", "-1 or at least 2"),
    (SAM2Config, {"max_cond_frames_in_attn": 0}, "max_cond_frames_in_attn", "-1 or at least 2"),
    (SAM2Config, {"directly_add_no_mem_embed": False}, "directly_add_no_mem_embed", "must be true"),
    (SAM2Config, {"pred_obj_scores": False}, "fixed_no_obj_ptr", "needs pred_obj_scores"),
    (SAM2Config, {"use_obj_ptrs_in_encoder": False}, "fixed_no_obj_ptr", "needs pred_obj_scores and use_obj_ptrs"),
    (SAM2Config, {"add_tpos_enc_to_obj_ptrs": False}, "proj_tpos_enc_in_obj_ptrs", "needs add_tpos_enc_to_obj_ptrs"),
    (SAM2Config, {"trunk": NANO.trunk}, "backbone_channel_list", r"[128, 64, 32, 16]"),
    (SAM2Config, {"trunk": FpnConfig()}, "trunk", "must be a HieraConfig"),
    (SAM2Config, {"memory_attention": NANO.memory_attention}, "d_model", "must equal the neck's d_model = 256"),
    (SAM2Config, {"memory_encoder": NANO.memory_encoder}, "in_dim", "must equal the neck's d_model = 256"),
    (SAM2Config, {"memory_attention": MemoryConfig(kv_in_dim=32)}, "kv_in_dim", "memory encoder's out_dim = 64"),
    (
        SAM2Config,
        {"memory_encoder": MemoryEncoderConfig(mask_downsampler_total_stride=8)},
        "mask_downsampler_total_stride",
        "must equal backbone_stride = 16",
    ),
    (
        SAM2Config,
        {
            "memory_encoder": MemoryEncoderConfig(out_dim=48, num_pos_feats=48),
            "memory_attention": MemoryConfig(kv_in_dim=48),
        },
        "out_dim",
        "must divide d_model = 256",
    ),
    (SAM2Config, {"decoder": DecoderConfig(num_heads=7)}, "d_model", "multiple of the decoder's 14"),
    (
        SAM2Config,
        {"trunk": HieraConfig(q_pool=1), "backbone_stride": 8},
        "use_high_res_features_in_sam",
        "three feature levels",
    ),
    (
        SAM2Config,
        {"trunk": HieraConfig(q_pool=2), "scalp": 1},
        "fpn_top_down_levels",
        "level 2 must have half the stride of level 3",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "changes", "name", "rule"), RULES, ids=lambda v: v if isinstance(v, str) else getattr(v, "__name__", "")
)
def test_rule(part: type, changes: dict[str, Any], name: str, rule: str) -> None:
    """The message names the field that breaks the rule, and the rule."""
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(part(), **changes)
    assert f".{name} = " in one_line(error)
    assert rule in one_line(error)


def test_image_size_names_the_least_common_multiple() -> None:
    trunk = HieraConfig(window_spec=(6, 4, 14, 7))
    with pytest.raises(ConfigError, match="must be a multiple of 96"):
        SAM2Config(trunk=trunk, image_size=1024)
    assert SAM2Config(trunk=trunk, image_size=960).embedding_size == 60


@pytest.mark.parametrize("size", [32, 96, 160, 512, 736, 2048])
def test_image_sizes_that_the_strides_divide(size: int) -> None:
    assert SAM2Config(image_size=size).embedding_size == size // 16


# ---- strangers' files


def nested(depth: int) -> dict[str, Any]:
    tree: Any = 1
    for _ in range(depth):
        tree = {"a": tree}
    return tree


def laughs(levels: int) -> dict[str, Any]:
    """What YAML's aliases can make of a few lines: 10 ** levels ways down."""
    tree: Any = {"dropout": 0}
    for _ in range(levels):
        tree = {f"dropout{i}": tree for i in range(10)}
    return tree


HOSTILE: dict[str, Any] = {
    "none": None,
    "list": [],
    "text": "sam2.1_hiera_tiny",
    "empty": {},
    "other": {"model_type": "llama"},
    "other_type": {"model_type": ["sam2"]},
    "long_type": {"model_type": "x" * 10**6},
    "unknown": {"trunk": {}, "x" * 10**6: 1},
    "unknown_nested": {"trunk": {"dept\nh": 1}},
    "key_of_another_kind": {"trunk": {}, 3: 1},
    "trunk_of_another_kind": {"trunk": [1, 2]},
    "huge_list": {"trunk": {"stages": [1] * 10**6}},
    "huge_number": {"trunk": {"embed_dim": 10**5000}},
    "huge_text": {"trunk": {"embed_dim": "9" * 10**6}},
    "infinity": {"trunk": {}, "sigmoid_scale_for_mem_enc": math.inf},
    "nan": {"trunk": {"dim_mul": math.nan}},
    "many_keys": {"trunk": {str(i): i for i in range(10**5)}},
    "deep": {"trunk": {"stages": nested(900)}},
    "deep_official": {"model": {"image_encoder": nested(900)}},
    "laughing_official": {"model": {"image_encoder": laughs(12)}},
    "wide_official": {"model": {"image_encoder": {str(i): i for i in range(10**5)}}},
    "official_levels": {"image_encoder": {"neck": {"backbone_channel_list": 7}}},
    "official_text": {"image_encoder": {"trunk": {"embed_dim": "-" * 10**6 + "1"}}},
    "official_unhashable": {"image_encoder": {"trunk": {"embed_dim": "{[]: 1}"}}},
    "official_brackets": {"image_encoder": {"trunk": {"stages": "[" * 150}}},
    "deep_transformers": {"model_type": "sam2", "vision_config": {"backbone_config": nested(900), "fpn_stride": 0}},
    "transformers_size": {"model_type": "sam2_video", "image_size": 10**5000},
    "transformers_list": {"model_type": "sam2", "vision_config": {"backbone_channel_list": [[]] * 10**6}},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        SAM2Config.from_dict(HOSTILE[name])
    one_line(error)


def test_largest_allowed_model_is_described_without_being_allocated() -> None:
    """A configuration that passes the rules costs no memory before its weights are read."""
    import mlx.core as mx

    from mlx_sam2.model.sam2 import SAM2

    config = SAM2Config(
        trunk=HieraConfig(embed_dim=8192, num_heads=64, stages=(64,) * 4, global_att_blocks=(), mlp_ratio=64.0),
        neck=FpnConfig(backbone_channel_list=(65536, 32768, 16384, 8192)),
        decoder=DecoderConfig(depth=64, num_multimask_outputs=64, mlp_dim=65536),
        memory_attention=MemoryConfig(num_layers=64),
        memory_encoder=MemoryEncoderConfig(fuser_num_layers=64),
        num_maskmem=65536,
    )
    before = mx.get_active_memory()
    model = SAM2(config)
    assert mx.get_active_memory() - before < 1 << 26
    assert model.image_encoder.trunk.blocks[-1].mlp.layers[0].weight.shape == (64 * 65536, 65536)


# ---- overrides and post-processing


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_override(prefix: str) -> None:
    assert NANO.with_overrides([f"{prefix}model.num_maskmem=4"]) == dataclasses.replace(NANO, num_maskmem=4)


def test_overrides_reach_every_kind_of_field() -> None:
    config = NANO.with_overrides(
        [
            "++model.max_cond_frames_in_attn=4",
            "++model.binarize_mask_from_pts_for_mem_enc=true",
            "++model.image_encoder.trunk.global_att_blocks=[4,5]",
            "++model.image_encoder.neck.fpn_interp_model=bilinear",
            "++model.memory_attention.layer.self_attention.rope_theta=1e3",
            "++model.memory_attention.layer.cross_attention.rope_theta=1e3",
            "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.9",
            "++model.num_maskmem=3",
            "++model.num_maskmem=5",
        ]
    )
    expected = dataclasses.replace(
        NANO,
        max_cond_frames_in_attn=4,
        binarize_mask_from_pts_for_mem_enc=True,
        trunk=dataclasses.replace(NANO.trunk, global_att_blocks=(4, 5)),
        neck=dataclasses.replace(NANO.neck, fpn_interp_model="bilinear"),
        memory_attention=dataclasses.replace(NANO.memory_attention, rope_theta=1000.0),
        decoder=dataclasses.replace(NANO.decoder, dynamic_multimask_stability_thresh=0.9),
        num_maskmem=5,  # the later one
    )
    assert config == expected


def test_overrides_keep_what_the_yaml_has_no_words_for() -> None:
    trunk = dataclasses.replace(NANO.trunk, patch_kernel_size=4, patch_padding=0, mlp_ratio=2.0)
    given = dataclasses.replace(NANO, trunk=trunk, decoder=DecoderConfig(num_heads=4, mlp_dim=96, depth=1))
    assert given.with_overrides([]) == given
    assert given.with_overrides(["model.num_maskmem=2"]) == dataclasses.replace(given, num_maskmem=2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("num_maskmem=4", "write it as ++model.<path>=<value>"),
        ("++model.num_maskmem", "write it as ++model.<path>=<value>"),
        ("~model.num_maskmem", "write it as ++model.<path>=<value>"),
        ("++model.nonsense=4", "model.nonsense"),
        ("++model.image_encoder=4", "model.image_encoder"),
        ("++model.num_maskmem.more=4", "'num_maskmem' holds a value"),
        ("++model.num_maskmem=many", "num_maskmem = 'many'"),
        ("++model.image_size=1000", "multiple of 32"),
        ("++model.num_maskmem={[]:1}", "num_maskmem"),
        ("++model.memory_attention.layer.cross_attention.rope_theta=1e3", "self_attention.rope_theta differs"),
        (7, "write it as ++model.<path>=<value>"),
    ],
)
def test_overrides_that_cannot_be_met(override: Any, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        NANO.with_overrides([override])
    assert words in one_line(error)


def test_postprocessing() -> None:
    plain = NANO.with_postprocessing(False)
    assert plain.decoder.dynamic_multimask_via_stability is False
    odd = dataclasses.replace(plain, decoder=dataclasses.replace(plain.decoder, dynamic_multimask_stability_thresh=0.5))
    image = odd.with_postprocessing(True)
    assert image.decoder.dynamic_multimask_via_stability is True
    assert image.decoder.dynamic_multimask_stability_delta == 0.05
    assert image.decoder.dynamic_multimask_stability_thresh == 0.98
    assert image.binarize_mask_from_pts_for_mem_enc is False
    video = odd.with_postprocessing(True, video=True)
    assert video == dataclasses.replace(image, binarize_mask_from_pts_for_mem_enc=True)
    kept = video.with_postprocessing(False)  # off means: leave the rest as configured
    assert kept.binarize_mask_from_pts_for_mem_enc is True
    assert video.with_postprocessing(True) == video


def test_configs_are_frozen_and_inputs_untouched() -> None:
    values = synthetic.config_dict()
    before = deepcopy(values)
    config = SAM2Config.from_dict(values)
    assert values == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.image_size = 512  # type: ignore[misc]

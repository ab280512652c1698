"""Every rule of a configuration is named, and a stranger's file can do nothing."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

import synthetic
from mlx_sam2.config.edgetam import PerceiverConfig, RepViTConfig
from mlx_sam2.config.parts import ConfigError, DecoderConfig, FpnConfig, HieraConfig, MemoryConfig, MemoryEncoderConfig
from mlx_sam2.config.sam2 import SAM2Config

NANO = synthetic.nano_config()


# ---- rules

SCALARS: dict[str, list[Any]] = {
    "int": [0.5, "3", None, True, -2, 1 << 17, 10**400, [1], {}],
    "bool": [1, 0, "true", None, [True]],
    "float": ["0.1", None, True, math.nan, math.inf, -math.inf, 10**400, [0.5]],
    "tuple[int, ...]": [3, "8,4", None, [0.5], [True], [-1], [[1, 2]], [1] * 257, {"0": 1}],
}
PARTS = (
    RepViTConfig,
    PerceiverConfig,
    HieraConfig,
    FpnConfig,
    DecoderConfig,
    MemoryConfig,
    MemoryEncoderConfig,
    SAM2Config,
)
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
    (SAM2Config, {"spatial_perceiver": FpnConfig()}, "spatial_perceiver", "must be a PerceiverConfig"),
    (SAM2Config, {"spatial_perceiver": PerceiverConfig(num_latents_2d=81)}, "num_latents_2d", "its root, 9, must"),
    (SAM2Config, {"spatial_perceiver": PerceiverConfig(dim=32, dim_head=32)}, "dim", "must equal the memory encoder"),
    (PerceiverConfig, {"num_latents_2d": 255}, "num_latents_2d", "square number"),
    (PerceiverConfig, {"heads": 2}, "dim_head", "times heads it must be dim = 64"),
    (RepViTConfig, {"architecture": "vit"}, "architecture", "must be repvit"),
    (RepViTConfig, {"depths": [2, 2]}, "depths", "each of 4 stages"),
    (RepViTConfig, {"embed_dims": [48, 97], "depths": [1, 1]}, "embed_dims", "even numbers"),
    (RepViTConfig, {"kernel_size": 4}, "kernel_size", "must be odd"),
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

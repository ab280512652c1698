"""Three forms of a configuration: all are read, and what means another model is refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import synthetic
from checkpoint_files import transformers_config
from mlx_sam2.config.edgetam import PerceiverConfig
from mlx_sam2.config.parts import ConfigError, DecoderConfig, FpnConfig, HieraConfig, MemoryConfig, MemoryEncoderConfig
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.config.sam2 import SAM2Config

YAML_LETTERS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
NANO = synthetic.nano_config()


# ---- the three forms


def official_yaml(name: str) -> dict[str, Any]:
    if importlib.util.find_spec("sam2") is None or importlib.util.find_spec("yaml") is None:
        pytest.skip("needs the official package, see CONTRIBUTING.md: pip install --no-deps sam2==1.1.0, and pyyaml")
    import yaml

    version, _, size = name.partition("_hiera_")
    package = Path(importlib.util.find_spec("sam2").origin).parent
    return yaml.safe_load((package / "configs" / version / f"{version}_hiera_{YAML_LETTERS[size]}.yaml").read_text())


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "_hiera_" in name])
def test_official_yaml(name: str) -> None:
    """What post-processing adds is no part of the YAML."""
    values = official_yaml(name)
    expected = PUBLISHED[name].config
    assert SAM2Config.from_dict(values) == expected.with_postprocessing(False)
    assert SAM2Config.from_dict(values["model"]) == expected.with_postprocessing(False)
    assert SAM2Config.from_dict(values).with_postprocessing(True) == expected


def test_official_yaml_of_edgetam() -> None:
    """Its package is not on PyPI; this is the small model's, and the sizes of the published one."""
    values = synthetic.config_dict("edgetam_nano")
    assert SAM2Config.from_dict(SAM2Config.from_dict(values).to_dict()) == SAM2Config.from_dict(values)
    assert SAM2Config.from_dict(values).spatial_perceiver == PerceiverConfig(
        dim=16, dim_head=16, num_latents=24, num_latents_2d=16
    )
    model = values["model"]
    part, layer = model["spatial_perceiver"], model["memory_attention"]["layer"]
    part |= {"dim": 64, "dim_head": 64, "num_latents": 256, "num_latents_2d": 256}
    for node in (model["image_encoder"]["neck"], model["memory_attention"], layer["cross_attention"]):
        node |= {"d_model": 256, "kv_in_dim": 64} if "kv_in_dim" in node else {"d_model": 256}
    layer["cross_attention"].pop("d_model")
    layer["dim_feedforward"], model["image_size"] = 2048, 1024
    model["memory_encoder"] |= {"in_dim": 256, "out_dim": 64}
    for node, width in ((model["image_encoder"]["neck"], 256), (model["memory_encoder"], 64)):
        node["position_encoding"]["num_pos_feats"] = width
    layer["cross_attention"] |= {"q_sizes": [64, 64], "k_sizes": [16, 16]}
    model["sam_mask_decoder_extra_args"] = {}
    found = SAM2Config.from_dict(values).with_postprocessing(True)
    assert found == PUBLISHED["edgetam"].config
    layer["cross_attention"]["k_sizes"] = [8, 8]
    with pytest.raises(ConfigError, match=r"k_sizes = \[8, 8\]: must be \[16, 16\], as other keys say"):
        SAM2Config.from_dict(values)
    model["image_encoder"]["trunk"]["name"] = "repvit_m2_3.dist_450e_in1k"
    with pytest.raises(ConfigError, match=r"is not supported, only .repvit_m1\.dist_in1k."):
        SAM2Config.from_dict(values)


def trainers_yaml() -> dict[str, Any]:
    if importlib.util.find_spec("sam2") is None or importlib.util.find_spec("yaml") is None:
        pytest.skip("needs the official package, see CONTRIBUTING.md: pip install --no-deps sam2==1.1.0, and pyyaml")
    import yaml

    package = Path(importlib.util.find_spec("sam2").origin).parent
    return yaml.safe_load((package / "configs/sam2.1_training/sam2.1_hiera_b+_MOSE_finetune.yaml").read_text())


def test_the_trainers_yaml() -> None:
    expected = PUBLISHED["sam2.1_hiera_base_plus"].config.with_postprocessing(False)
    values = trainers_yaml()
    assert SAM2Config.from_dict(values) == expected
    values["scratch"]["resolution"] = "${dataset.side}"  # a reference to a reference
    values["dataset"]["side"] = 512
    assert SAM2Config.from_dict(values) == dataclasses.replace(expected, image_size=512)


@pytest.mark.parametrize(
    "reference", ["${scratch.side}", "${times:${scratch.resolution},2}", "${scratch.resolution}0", "${scratch.again}"]
)
def test_references_that_cannot_be_resolved(reference: str) -> None:
    model = official_yaml("sam2.1_hiera_tiny")["model"] | {"image_size": reference}
    values = {"scratch": {"resolution": 1024, "again": "${scratch.again}"}, "trainer": {"model": model}}
    with pytest.raises(
        ConfigError, match=r"model.image_size = '\$\{scratch.*|times.*' cannot be resolved here: write its"
    ):
        SAM2Config.from_dict(values)


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
    for config in (NANO, SAM2Config.from_dict(transformers_config())):
        assert config.trunk == HieraConfig(embed_dim=16, stages=(1, 2, 3, 2), global_att_blocks=(5,))
        assert config.neck == FpnConfig(d_model=64, num_pos_feats=64, backbone_channel_list=(128, 64, 32, 16))
        assert config.memory_attention == MemoryConfig(d_model=64, num_layers=2, dim_feedforward=128, kv_in_dim=16)
        assert config.memory_encoder == MemoryEncoderConfig(in_dim=64, out_dim=16, num_pos_feats=16)
        assert (config.image_size, config.embedding_size) == (256, 16)


@pytest.mark.parametrize("name", [*PUBLISHED, "nano", "nano20", "edgetam_nano"])
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
    values = transformers_config()
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
    values = transformers_config()
    assert read(SAM2Config.from_dict(values)) != value
    put(values, path, value)
    assert read(SAM2Config.from_dict(values)) == value


def test_square_sizes_and_the_old_name_of_theta() -> None:
    """Sizes as one number or as [n, n]; rope theta as transformers 4 wrote it."""
    values = transformers_config()
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
    values = transformers_config()
    kept = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    config = SAM2Config.from_dict({"model_type": "sam2"} | {key: values[key] for key in kept})
    assert (config.trunk, config.neck, config.decoder) == (
        NANO.trunk,
        NANO.neck,
        NANO.with_postprocessing(True).decoder,
    )
    assert config.image_size == 256
    assert config.memory_attention.d_model == config.memory_encoder.in_dim == 64

"""Hydra overrides and post-processing."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from typing import Any

import pytest

import synthetic
from mlx_sam2.config.parts import ConfigError, DecoderConfig
from mlx_sam2.config.sam2 import SAM2Config

NANO = synthetic.nano_config()

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
    assert words in str(error.value)
    assert "\n" not in str(error.value)


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

"""The official build functions and their options, on a small checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import synthetic
from mlx_sam2 import build_sam
from mlx_sam2.checkpoint import build, loading
from mlx_sam2.config.parts import ConfigError
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, nano_model: SAM2) -> str:
    path = tmp_path_factory.mktemp("build") / "nano"
    loading.save(nano_model, path)
    return str(path)


@pytest.fixture(autouse=True)
def default_device() -> Iterator[None]:
    before = mx.default_device()
    yield
    mx.set_default_device(before)


def built(folder: str, **options: Any) -> SAM2Config:
    return build.build_model(folder, **options).config


# ---- build_model


def test_postprocessing_is_on_unless_refused(folder: str, nano_config: SAM2Config) -> None:
    assert built(folder) == nano_config.with_postprocessing(True)
    assert built(folder, apply_postprocessing=False) == nano_config.with_postprocessing(False)
    video = built(folder, video=True)
    assert video == nano_config.with_postprocessing(True, video=True)
    assert video.binarize_mask_from_pts_for_mem_enc is True
    assert built(folder, video=True, apply_postprocessing=False).binarize_mask_from_pts_for_mem_enc is False


def test_options_leave_the_weights_alone(folder: str, nano_model: SAM2) -> None:
    model = build.build_model(folder, video=True, max_cond_frames_in_attn=4)
    before, after = dict(tree_flatten(nano_model.parameters())), dict(tree_flatten(model.parameters()))
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(np.array(after[key]), np.array(value), err_msg=key)


def test_the_order_in_which_options_win(folder: str) -> None:
    """Overrides over the checkpoint, post-processing over overrides, keywords over everything."""
    path = "++model.sam_mask_decoder_extra_args.dynamic_multimask_stability_thresh=0.5"
    overrides = [path, "++model.num_maskmem=7", "++model.max_cond_frames_in_attn=3"]
    config = built(folder, hydra_overrides_extra=overrides)
    assert config.max_cond_frames_in_attn == 3
    assert config.decoder.dynamic_multimask_stability_thresh == 0.98
    off = built(folder, hydra_overrides_extra=overrides, apply_postprocessing=False)
    assert off.decoder.dynamic_multimask_stability_thresh == 0.5
    config = built(
        folder,
        hydra_overrides_extra=overrides,
        max_cond_frames_in_attn=5,
        sam_mask_decoder_extra_args={"dynamic_multimask_stability_thresh": 0.25},
    )
    assert config.max_cond_frames_in_attn == 5
    assert config.decoder.dynamic_multimask_stability_thresh == 0.25
    assert config.decoder.dynamic_multimask_via_stability is True


def test_overrides_can_turn_on_what_refused_postprocessing_left_off(folder: str) -> None:
    path = "++model.sam_mask_decoder_extra_args.dynamic_multimask_via_stability=true"
    config = built(folder, hydra_overrides_extra=[path], apply_postprocessing=False)
    assert config.decoder.dynamic_multimask_via_stability is True


def test_dtype(folder: str) -> None:
    assert build.build_model(folder, dtype="float16", max_cond_frames_in_attn=4).dtype == mx.float16


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mode": "train"}, ValueError, "mode='train': only 'eval'"),
        ({"compile_image_encoder": True}, ValueError, "compile_image_encoder=True belongs to PyTorch"),
        ({"max_cond_frames_in_attn": 1}, ConfigError, "max_cond_frames_in_attn = 1: must be -1 or at least 2"),
        ({"image_size": 250}, ConfigError, "image_size = 250: must be a multiple of 32"),
        ({"num_maskmem": 5}, ValueError, "maskmem_tpos_enc"),
        ({"hydra_overrides_extra": ["num_maskmem=4"]}, ConfigError, "write it as ++model.<path>=<value>"),
        ({"sam_mask_decoder_extra_args": {"delta": 1}}, ConfigError, "unknown field 'delta'"),
        ({"sam_mask_decoder_extra_args": 3}, ConfigError, "sam_mask_decoder_extra_args"),
        ({"dtype": "int8"}, ValueError, "int8"),
    ],
    ids=str,
)
def test_options_that_cannot_be_met(folder: str, options: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error) as raised:
        build.build_model(folder, **options)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_compile_image_encoder_may_be_refused(folder: str, nano_config: SAM2Config) -> None:
    """The official YAML itself says False."""
    assert built(folder, compile_image_encoder=False) == nano_config.with_postprocessing(True)


# ---- devices


@pytest.mark.parametrize("name", ["cpu", "cpu:0", mx.cpu, mx.Device(mx.cpu)])
def test_cpu(folder: str, name: Any) -> None:
    build.build_model(folder, device=name)
    assert mx.default_device() == mx.Device(mx.cpu)


@pytest.mark.parametrize("name", ["gpu", "mps", "metal", "cuda", "cuda:0"])
def test_gpu_where_there_is_one(name: str) -> None:
    if mx.is_available(mx.gpu):
        build.set_device(name)
        assert mx.default_device() == mx.Device(mx.gpu)
    else:
        with pytest.raises(ValueError, match=f"device='{name}': MLX sees no GPU here; use device='cpu'"):
            build.set_device(name)


def test_no_such_device(folder: str) -> None:
    with pytest.raises(ValueError, match="device='tpu' is not known; use 'cpu' or 'gpu'"):
        build.build_model(folder, device="tpu")


def test_no_device_leaves_it(folder: str) -> None:
    mx.set_default_device(mx.cpu)
    build.build_model(folder, device=None)
    assert mx.default_device() == mx.Device(mx.cpu)


# ---- options of the video predictor


def test_split_video_options() -> None:
    model, predictor = build.split_video_options(
        {
            "hydra_overrides_extra": ["++model.num_maskmem=4", "+model.non_overlap_masks=true"],
            "add_all_frames_to_correct_as_cond": True,
            "vos_optimized": False,
            "device": "cpu",
            "max_cond_frames_in_attn": 4,
        }
    )
    assert model == {
        "hydra_overrides_extra": ["++model.num_maskmem=4"],
        "device": "cpu",
        "max_cond_frames_in_attn": 4,
        "video": True,
    }
    assert predictor == {"non_overlap_masks": True, "add_all_frames_to_correct_as_cond": True, "fill_hole_area": 8}


@pytest.mark.parametrize(
    ("options", "area"),
    [
        ({}, 8),
        ({"apply_postprocessing": False}, None),
        ({"hydra_overrides_extra": ["++model.fill_hole_area=3"]}, 8),  # post-processing comes after, as officially
        ({"hydra_overrides_extra": ["++model.fill_hole_area=3"], "apply_postprocessing": False}, 3),
        ({"hydra_overrides_extra": ["++model.fill_hole_area=3"], "fill_hole_area": 5}, 5),
        ({"fill_hole_area": 0}, 0),
    ],
    ids=str,
)
def test_hole_area(options: dict[str, Any], area: int | None) -> None:
    given = json.dumps(options)
    _, predictor = build.split_video_options(options)
    assert predictor.get("fill_hole_area") == area
    assert json.dumps(options) == given  # the caller's own is left alone


@pytest.mark.parametrize("option", ["max_cond_frames", "trunk"])
def test_options_that_mean_nothing_warn(folder: str, nano_config: SAM2Config, option: str) -> None:
    """The official constructors ignore them."""
    with pytest.warns(UserWarning, match=f"the model has no option {option}: ignored; there are .*num_maskmem"):
        assert build.build_model(folder, **{option: 4}).config == nano_config.with_postprocessing(True)


def test_vos_optimized_warns_and_changes_nothing() -> None:
    with pytest.warns(UserWarning, match="vos_optimized=True compiles with PyTorch: it changes nothing here"):
        options = build.split_video_options({"vos_optimized": True})
    assert options == build.split_video_options({})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fill_hole_area": "8"}, "fill_hole_area='8': it must be a number"),
        ({"fill_hole_area": True}, "fill_hole_area=True: it must be a number"),
        ({"fill_hole_area": -1}, "fill_hole_area=-1: it must be a number"),
        ({"non_overlap_masks": 1}, "non_overlap_masks=1: it must be true or false"),
        ({"hydra_overrides_extra": ["++model.non_overlap_masks=yes"]}, "non_overlap_masks='yes'"),
    ],
    ids=str,
)
def test_video_options_that_cannot_be_met(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="must be") as error:
        build.split_video_options(options)
    assert words in str(error.value)


def test_options_reach_the_video_predictor(folder: str, nano_config: SAM2Config) -> None:
    predictor = SAM2VideoPredictor.from_pretrained(
        folder, max_cond_frames_in_attn=4, hydra_overrides_extra=["++model.non_overlap_masks=true"]
    )
    assert predictor.non_overlap_masks is True
    assert predictor.fill_hole_area == 8
    expected = nano_config.with_postprocessing(True, video=True)
    assert predictor.model.config == dataclasses.replace(expected, max_cond_frames_in_attn=4)


# ---- the official names

OFFICIAL_FILES = {
    "configs/sam2.1/sam2.1_hiera_t.yaml": "sam2.1_hiera_tiny",
    "configs/sam2.1/sam2.1_hiera_s.yaml": "sam2.1_hiera_small",
    "configs/sam2.1/sam2.1_hiera_b+.yaml": "sam2.1_hiera_base_plus",
    "configs/sam2.1/sam2.1_hiera_l.yaml": "sam2.1_hiera_large",
    "configs/sam2/sam2_hiera_t.yaml": "sam2_hiera_tiny",
    "configs/sam2/sam2_hiera_s.yaml": "sam2_hiera_small",
    "configs/sam2/sam2_hiera_b+.yaml": "sam2_hiera_base_plus",
    "configs/sam2/sam2_hiera_l.yaml": "sam2_hiera_large",
    "sam2_hiera_l.yaml": "sam2_hiera_large",
}


@pytest.mark.parametrize("name", OFFICIAL_FILES)
def test_official_config_files_need_not_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is handed on to ``load`` is the published configuration; the checkpoints themselves are too large here."""
    given = {}

    def load(model_id: str, **options: Any) -> SAM2:
        given.update(options, model_id=model_id)
        return SAM2(options["config"])

    monkeypatch.setattr(build, "load", load)
    model = build_sam.build_sam2(name, "checkpoint.pt")
    assert given["model_id"] == "checkpoint.pt"
    assert given["config"] == PUBLISHED[OFFICIAL_FILES[name]].config
    assert model.config == PUBLISHED[OFFICIAL_FILES[name]].config


@pytest.fixture
def half_size(tmp_path: Path, nano_config: SAM2Config) -> tuple[str, SAM2Config]:
    """A configuration of one's own under an official name."""
    values = synthetic.config_dict()
    values["model"]["image_size"] = 128
    path = tmp_path / "sam2.1_hiera_t.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return str(path), dataclasses.replace(nano_config, image_size=128)


def test_a_config_file_that_exists_is_read(folder: str, half_size: tuple[str, SAM2Config]) -> None:
    """Not replaced in silence by the published configuration of that name."""
    pytest.importorskip("yaml", reason="reading YAML needs PyYAML")
    path, config = half_size
    assert build_sam.build_sam2(path, folder).config == config.with_postprocessing(True)


def test_build_sam2(folder: str, nano_config: SAM2Config) -> None:
    """Positional arguments in the official order."""
    overrides = ["++model.max_cond_frames_in_attn=4"]
    model = build_sam.build_sam2(None, folder, "cpu", "eval", overrides, False, multimask_max_pt_num=3)
    plain = nano_config.with_postprocessing(False)
    assert model.config == dataclasses.replace(plain, max_cond_frames_in_attn=4, multimask_max_pt_num=3)
    assert SAM2ImagePredictor(model).model is model
    assert build_sam.build_sam2_hf(folder, apply_postprocessing=False).config == plain


def test_build_video_predictor(folder: str, nano_config: SAM2Config) -> None:
    predictor = build_sam.build_sam2_video_predictor(None, folder, "cpu", fill_hole_area=3)
    assert isinstance(predictor, SAM2VideoPredictor)
    assert predictor.fill_hole_area == 3
    assert predictor.model.config == nano_config.with_postprocessing(True, video=True)
    again = build_sam.build_sam2_video_predictor_hf(folder, apply_postprocessing=False)
    assert again.fill_hole_area == 0
    assert again.model.config == nano_config.with_postprocessing(False)


def test_no_such_config(folder: str) -> None:
    with pytest.raises(ConfigError, match=r"config='nowhere\.yaml' is neither a file nor a published model"):
        build_sam.build_sam2("nowhere.yaml", folder)


@pytest.mark.parametrize(
    "name", ["configs/samurai/sam2.1_hiera_b+.yaml", "configs/sam2.1/sam2.1_hiera_x.yaml", "/opt/fork/edgetam.yaml"]
)
def test_a_config_of_a_fork_is_never_taken_for_the_plain_one(folder: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"is no official configuration, and no such file exists; there are configs/"):
        build_sam.build_sam2(name, folder)


def test_published_config_for_other_weights(folder: str) -> None:
    with pytest.raises(loading.CheckpointError) as error:
        build_sam.build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", folder)
    assert "\n" not in str(error.value)


def test_the_imports_of_official_scripts() -> None:
    """``sam2`` becomes ``mlx_sam2``, and that is all."""
    from mlx_sam2 import SAM2VideoPredictor, build_sam
    from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor as FromOfficialImage
    from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor as FromOfficialVideo

    assert (FromOfficialImage, FromOfficialVideo) == (SAM2ImagePredictor, SAM2VideoPredictor)
    for name in ("build_sam2", "build_sam2_hf", "build_sam2_video_predictor", "build_sam2_video_predictor_hf"):
        assert callable(getattr(build_sam, name))

"""What scripts call on models and predictors as if they were modules of torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import synthetic
from mlx_sam2 import SAM2ImagePredictor, SAM2VideoPredictor
from mlx_sam2.build_sam import build_sam2, build_sam2_video_predictor
from mlx_sam2.config import SAM2Config
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from mlx_sam2.utils.module import as_official

CLICK: dict[str, Any] = {"point_coords": [[30, 20]], "point_labels": [1]}


@pytest.fixture
def model(nano_config: SAM2Config) -> SAM2:
    return synthetic.build_model(nano_config, synthetic.nano_state())


@pytest.fixture
def predictor(model: SAM2) -> SAM2ImagePredictor:
    made = SAM2ImagePredictor(model)
    made.set_image(synthetic.picture(60, 80))
    return made


@pytest.fixture
def device() -> Iterator[None]:
    before = mx.default_device()
    yield
    mx.set_default_device(before)


def test_the_model_stays_itself(model: SAM2) -> None:
    same = as_official(model)
    assert same is model and isinstance(model, SAM2Base) and isinstance(model, SAM2) and as_official(same) is same
    assert NO_OBJ_SCORE == -1024


@pytest.mark.usefixtures("device")
def test_calls_that_return_the_same(predictor: SAM2ImagePredictor) -> None:
    for owner in (predictor, predictor.model, SAM2VideoPredictor(predictor.model)):
        assert owner.eval() is owner and owner.to("cpu") is owner and owner.cpu() is owner and owner.float() is owner
        assert owner.to(device="cpu", dtype="float32") is owner and owner.train(False) is owner
        assert owner.device == "cpu"


@pytest.mark.skipif(mx.metal.is_available(), reason="here is a GPU")
def test_no_gpu(predictor: SAM2ImagePredictor) -> None:
    with pytest.raises(ValueError, match="MLX sees no GPU here"):
        predictor.model.cuda()


def test_half_and_back(predictor: SAM2ImagePredictor) -> None:
    first = predictor.predict(**CLICK)[2]
    assert predictor.model.half().dtype == mx.float16 and predictor.model.float().dtype == mx.float32
    kept = dict(tree_flatten(dict(predictor.model.parameters().items())))
    assert {v.dtype for v in kept.values()} == {mx.float32}
    predictor.set_image(synthetic.picture(60, 80))
    assert np.abs(predictor.predict(**CLICK)[2] - first).max() < 0.5  # the weights were rounded


def test_training_says_where_it_lives(predictor: SAM2ImagePredictor) -> None:
    for call in (predictor.model.train, predictor.train, predictor.model.requires_grad_):
        with pytest.raises(RuntimeError, match="this model only predicts: fine-tune with the official code") as error:
            call()
        assert "\n" not in str(error.value)


def test_parameters(predictor: SAM2ImagePredictor) -> None:
    model = predictor.model
    total = sum(p.numel() for p in model.parameters())
    assert total == sum(p.numel() for p in SAM2VideoPredictor(model).parameters()) > 1_000_000
    assert next(iter(model.parameters())).device == "cpu"
    tree = model.parameters()
    assert len(tree_flatten(tree)) == len(list(tree)) and "image_encoder" in tree.keys()  # noqa: SIM118
    model.update(tree)
    mx.eval(tree)


def test_questions_about_parameters(predictor: SAM2ImagePredictor) -> None:
    assert next(predictor.model.parameters()).device.type == next(predictor.parameters()).device == "cpu"
    assert sum(p.nelement() for p in predictor.model.parameters() if p.requires_grad) == 0
    names = dict(predictor.model.named_parameters())
    assert names.keys() == predictor.model.state_dict().keys()
    assert names["no_mem_embed"].shape == predictor.model.no_mem_embed.shape


def test_options_of_the_model_can_be_read(predictor: SAM2ImagePredictor) -> None:
    config = predictor.model.config
    assert predictor.model.image_size == config.image_size and predictor.model.num_maskmem == config.num_maskmem
    assert isinstance(predictor.model.no_obj_embed_spatial, mx.array)  # a weight has the name of an option
    assert not hasattr(predictor.model, "max_area")
    with pytest.raises(AttributeError, match=r"no .forward_image.: docs/differences\.md"):
        _ = predictor.model.forward_image


def test_optimisers_of_torch_are_told(predictor: SAM2ImagePredictor) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    with pytest.raises(TypeError, match="fine-tune with the official code on PyTorch"):
        torch.optim.SGD(predictor.model.parameters(), lr=0.1)


def test_state_dict_there_and_back(model: SAM2, nano_config: SAM2Config) -> None:
    state = as_official(model).state_dict()
    weight = state["sam_mask_decoder.output_upscaling.0.weight"]
    assert weight.dtype == np.float32 and weight.shape[2:] == (2, 2)  # PyTorch's axes: (in, out, 2, 2)
    other = as_official(SAM2(nano_config))
    other.eval()
    assert other.load_state_dict(state) == ([], [])
    ours, theirs = (dict(tree_flatten(SAM2.parameters(m))) for m in (model, other))
    assert all(mx.array_equal(ours[key], theirs[key]).item() for key in ours)


def test_state_dicts_that_do_not_fit(model: SAM2) -> None:
    model = as_official(model)
    state = model.state_dict()
    before = np.array(model.no_mem_embed)
    lacking = {key: value for key, value in state.items() if key != "no_mem_embed"}
    with pytest.raises(RuntimeError, match=r"1 missing \(no_mem_embed\)"):
        model.load_state_dict(lacking)
    with pytest.raises(RuntimeError, match=r"1 unexpected \(head\)"):
        model.load_state_dict({**state, "head": np.ones(3)})
    assert model.load_state_dict({**lacking, "head": 1}, strict=False) == (["no_mem_embed"], ["head"])
    with pytest.raises(RuntimeError, match=r"no_mem_embed has shape \(3,\)"):
        model.load_state_dict({**state, "no_mem_embed": np.ones(3, np.float32)})
    assert (np.array(model.no_mem_embed) == before).all()


def test_random_weights_without_a_checkpoint(tmp_path: Path) -> None:
    config = str(tmp_path / "nano.json")
    Path(config).write_text(json.dumps(synthetic.config_dict()))
    first, second = build_sam2(config), build_sam2(config, None)
    assert (
        isinstance(first, SAM2Base)
        and not mx.array_equal(*(m.sam_mask_decoder.conv_s0.weight for m in (first, second))).item()
    )
    assert build_sam2_video_predictor(config, None, "cpu", "eval", [], True, False).fill_hole_area == 8
    with pytest.raises(ValueError, match="without a checkpoint a model gets random weights"):
        build_sam2(None)


def test_no_overlap(model: SAM2) -> None:
    masks = np.array([[[[5.0, 1.0]]], [[[4.0, 2.0]]]], np.float32)
    kept = SAM2VideoPredictor(model)._apply_non_overlapping_constraints(masks)
    assert kept.tolist() == [[[[5, -10]]], [[[-10, 2]]]]

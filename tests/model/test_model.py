"""The whole model: which masks it returns, batches, absent objects, other configurations of the same weights."""

from __future__ import annotations

import dataclasses
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import synthetic
from goldens import LOGIT_TOL, SCORE_TOL
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.model.mask_decoder import DecoderOutput
from mlx_sam2.model.sam2 import SAM2

# ---- which mask is returned


@pytest.fixture
def four_prompts() -> DecoderOutput:
    """Stable; unstable; nothing above the lower threshold; exactly at the threshold of 0.98."""
    masks = np.full((4, 4, 10, 10), -5, np.float32)
    masks += np.arange(4).reshape(1, 4, 1, 1) / 100  # to tell the masks apart
    masks[0, 0] = 5
    masks[1, 0] = 5
    masks[1, 0, 0, :5] = 0.04  # 95 of 100 above +0.05, all above -0.05
    masks[3, 0] = 5
    masks[3, 0, 0, :2] = -0.04
    ious = np.array(
        [[0.1, 0.2, 0.9, 0.3], [0.99, 0.2, 0.3, 0.8], [0.1, 0.9, 0.2, 0.2], [0.1, 0.2, 0.3, 0.4]], np.float32
    )
    return DecoderOutput(mx.array(masks), mx.array(ious), mx.zeros((4, 4, 64)), mx.zeros((4, 1)))


def test_stability_score(nano_model: SAM2, four_prompts: DecoderOutput) -> None:
    score = nano_model.sam_mask_decoder.stability_score(four_prompts.masks)
    np.testing.assert_allclose(np.array(score)[:, 0], [1, 0.95, 1, 0.98], rtol=0, atol=1e-7)
    assert np.all(np.array(score)[:, 1:] == 1)  # nothing there counts as stable


def test_the_dynamic_choice_is_made_for_each_prompt(nano_config: SAM2Config, four_prompts: DecoderOutput) -> None:
    decoder = SAM2(nano_config.with_postprocessing(True)).sam_mask_decoder
    masks, ious = decoder.select(four_prompts, multimask=False)
    assert masks.shape == (4, 1, 10, 10)
    chosen = [0, 3, 0, 0]  # mask 0 has the best IoU of prompt 1, but is not among those to fall back to
    for i, index in enumerate(chosen):
        np.testing.assert_array_equal(np.array(masks)[i, 0], np.array(four_prompts.masks)[i, index])
        assert ious[i, 0].item() == four_prompts.ious[i, index].item()


@pytest.mark.parametrize("dynamic", [True, False])
def test_choices_without_the_fallback(nano_config: SAM2Config, four_prompts: DecoderOutput, dynamic: bool) -> None:
    decoder = SAM2(nano_config.with_postprocessing(dynamic)).sam_mask_decoder
    masks, ious = decoder.select(four_prompts, multimask=True)
    np.testing.assert_array_equal(np.array(masks), np.array(four_prompts.masks)[:, 1:])
    np.testing.assert_array_equal(np.array(ious), np.array(four_prompts.ious)[:, 1:])
    if not dynamic:
        masks, ious = decoder.select(four_prompts, multimask=False)
        np.testing.assert_array_equal(np.array(masks), np.array(four_prompts.masks)[:, :1])
        np.testing.assert_array_equal(np.array(ious), np.array(four_prompts.ious)[:, :1])


# ---- the whole model


@pytest.fixture(scope="module")
def features(nano_model: SAM2) -> Any:
    pixels = np.stack([synthetic.picture(256, 256, seed) for seed in (3, 4)]) / 128 - 1
    return nano_model.encode_image(mx.array(pixels.astype(np.float32)))


def test_a_batch_is_its_images_one_by_one(nano_model: SAM2, features: Any) -> None:
    points, labels = mx.array([[[30.0, 60.0]], [[200.0, 90.0]]]), mx.array([[1], [0]])
    masks, ious = nano_model.predict_masks(features, points, labels)
    assert masks.shape == (2, 3, 64, 64)
    for i in range(2):
        one = features.image(i)
        assert [x.shape[0] for x in one.arrays()] == [1, 1, 1]
        alone = nano_model.predict_masks(one, points[i : i + 1], labels[i : i + 1])
        np.testing.assert_allclose(np.array(masks)[i], np.array(alone[0])[0], rtol=0, atol=LOGIT_TOL)
        np.testing.assert_allclose(np.array(ious)[i], np.array(alone[1])[0], rtol=0, atol=SCORE_TOL)


def test_one_image_serves_many_prompts(nano_model: SAM2, features: Any) -> None:
    points, labels = mx.array([[[30.0, 60.0]], [[200.0, 90.0]], [[5.0, 5.0]]]), mx.array([[1], [1], [0]])
    masks, _ = nano_model.predict_masks(features.image(1), points, labels)
    for i in range(3):
        alone, _ = nano_model.predict_masks(features.image(1), points[i : i + 1], labels[i : i + 1])
        np.testing.assert_allclose(np.array(masks)[i], np.array(alone)[0], rtol=0, atol=LOGIT_TOL)


def test_absent_objects_have_no_mask_and_the_no_object_pointer(nano_model: SAM2, features: Any) -> None:
    """Both signs of the object score in one batch, by the bias of its head."""
    model = nano_model.with_config(nano_model.config)
    head = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    score = model.predict_object(features.embedding, features.high_res).object_score
    head.bias = head.bias - score.mean()
    got = model.predict_object(features.embedding, features.high_res, multimask=True)
    present = np.array(got.object_score)[:, 0] > 0
    assert sorted(present) == [False, True]
    mask, pointer = np.array(got.low_res_mask), np.array(got.pointer)
    assert np.all(mask[~present] == -1024)
    assert np.all(mask[present] > -1024)
    np.testing.assert_array_equal(pointer[~present], np.array(model.no_obj_ptr))
    assert np.abs(pointer[present] - np.array(model.no_obj_ptr)).max() > 0.1
    assert score.shape == (2, 1)


def test_with_config(nano_model: SAM2) -> None:
    changes = {"image_size": 128, "max_cond_frames_in_attn": 3}
    other = nano_model.with_config(dataclasses.replace(nano_model.config, **changes))
    assert other.config == dataclasses.replace(nano_model.config, **changes)
    assert other.encode_image(mx.zeros((1, 128, 128, 3))).embedding.shape == (1, 8, 8, 64)
    assert nano_model.config.image_size == 256
    mine, theirs = dict(tree_flatten(nano_model.parameters())), dict(tree_flatten(other.parameters()))
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        np.testing.assert_array_equal(np.array(theirs[key]), np.array(value))


def test_with_config_keeps_the_dtype(nano_config: SAM2Config) -> None:
    model = SAM2(nano_config)
    model.set_dtype(mx.float16)
    assert model.with_config(nano_config.with_postprocessing(True)).dtype == mx.float16


@pytest.mark.parametrize(
    "changes", [{"no_obj_embed_spatial": False}, {"pred_obj_scores_mlp": False}, {"num_maskmem": 5}], ids=str
)
def test_with_config_of_other_weights(nano_model: SAM2, changes: dict[str, Any]) -> None:
    """Weights too many, other ones, and of another shape."""
    names = r"\([^\n]*(no_obj_embed_spatial|pred_obj_score_head|maskmem_tpos_enc)[^\n]*\)$"
    with pytest.raises(ValueError, match=r"^these options ask for another model: \d+ weights do not fit " + names):
        nano_model.with_config(dataclasses.replace(nano_model.config, **changes))


def test_with_config_that_asks_for_weights_it_has_not() -> None:
    """2.0 has no embedding for absent objects; switching it on must not pass in silence."""
    model = synthetic.nano_model(name="nano20")
    with pytest.raises(ValueError, match="no_obj_embed_spatial"):
        model.with_config(dataclasses.replace(model.config, no_obj_embed_spatial=True))


def test_with_config_of_an_image_model(nano_config: SAM2Config) -> None:
    """A checkpoint without the video half stays without it."""
    model = SAM2(nano_config)
    for part in ("memory_attention", "memory_encoder"):
        model.pop(part)
    other = model.with_config(nano_config.with_postprocessing(True))
    assert "memory_attention" not in other
    assert other.config.decoder.dynamic_multimask_via_stability

"""The image predictor against the official one: every prompt of the goldens named image_*."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

import goldens
from golden_runs import LARGE, SMALL, arguments
from goldens import Golden
from mlx_sam2 import images
from mlx_sam2.images.preprocess import preprocess_photo
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor

pytestmark = goldens.needs_goldens

FILES = [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]


@pytest.fixture(scope="module", params=FILES)
def case_file(request: pytest.FixtureRequest) -> tuple[Golden, SAM2ImagePredictor]:
    golden = goldens.read(request.param)
    predictor = SAM2ImagePredictor(golden.model().with_config(golden.model().config.with_postprocessing(True)))
    predictor.set_image(np.array(Image.open(goldens.input_path(golden.about["image"])).convert("RGB")))
    return golden, predictor


def test_input_and_features(case_file: tuple[Golden, SAM2ImagePredictor]) -> None:
    golden, predictor = case_file
    photo = images.read(goldens.input_path(golden.about["image"]))
    pixels = np.array(preprocess_photo(photo, golden.about["image_size"])).transpose(0, 3, 1, 2)
    low, high = (np.array(f).transpose(0, 3, 1, 2) for f in predictor.image_features[0].high_res[::-1])
    ours = {"input": pixels, "input.sub16": pixels[:, :, ::16, ::16], "input.sub4": pixels[:, :, ::4, ::4]}
    for name, tensor, step in (("embed", predictor.get_image_embedding(), 4), ("s1", low, 8), ("s0", high, 16)):
        ours[f"feat.{name}"] = tensor
        ours[f"feat.{name}.sub"] = tensor[:, ::4, ::step, ::step]
        ours[f"feat.{name}.chan_mean"] = tensor.mean(axis=(2, 3))
        ours[f"feat.{name}.chan_std"] = tensor.std(axis=(2, 3), ddof=1)
    compared = sorted(ours.keys() & golden.tensors.keys())
    assert len(compared) >= 4
    tolerance = golden.tolerances[0]
    for name in compared:
        np.testing.assert_allclose(ours[name], golden.tensors[name], rtol=0, atol=tolerance, err_msg=name)


def test_every_prompt(case_file: tuple[Golden, SAM2ImagePredictor]) -> None:
    golden, predictor = case_file
    low_res: dict[str, np.ndarray] = {}
    scores: dict[str, np.ndarray] = {}
    for case in golden.about["cases"]:
        name = case["name"]
        masks, scores[name], low_res[name] = predictor.predict(**arguments(case["prompt"], low_res, scores))
        check_case(golden, case, masks, scores[name], low_res[name])
        if golden.about["config"] == "edgetam_nano":  # fed back, the last bits of ours would become 5e-5 of a score
            scores[name], low_res[name] = (golden.tensors[f"{name}.{kind}"] for kind in ("iou", "low"))


def check_case(
    golden: Golden, case: dict[str, Any], masks: np.ndarray, scores: np.ndarray, low_res: np.ndarray
) -> None:
    name, expected = case["name"], golden.tensors
    _, logit_tol, score_tol = golden.tolerances
    assert list(low_res.shape) == case["low_shape"], name
    assert list(masks.shape) == case["mask_shape"], name
    if f"{name}.low" in expected:
        np.testing.assert_allclose(low_res, expected[f"{name}.low"], rtol=0, atol=logit_tol, err_msg=name)
    else:
        np.testing.assert_allclose(
            low_res[..., ::4, ::4], expected[f"{name}.low.sub4"], rtol=0, atol=logit_tol, err_msg=name
        )
        halved = expected[f"{name}.low.sub2"].astype(np.float32)  # stored as float16: half a unit in the last place
        np.testing.assert_allclose(low_res[..., ::2, ::2], halved, rtol=2**-11, atol=logit_tol, err_msg=name)
    np.testing.assert_allclose(scores, expected[f"{name}.iou"], rtol=0, atol=score_tol, err_msg=name)

    rows = masks[..., :: case["mask_rows_stride"], :].astype(bool)
    stored = np.unpackbits(expected[f"{name}.mask_rows_bits"], axis=-1, count=masks.shape[-1]).astype(bool)
    both, either = (rows & stored).sum(axis=(-2, -1)), (rows | stored).sum(axis=(-2, -1))
    assert (both >= 0.9999 * either).all(), (name, both / np.maximum(either, 1))
    areas = masks.reshape(-1, *masks.shape[-2:]).sum(axis=(1, 2))  # the whole mask, where only rows are stored
    np.testing.assert_allclose(areas, case["areas"], rtol=1e-4, err_msg=name)

"""The image predictor against answers of the official code that are stored in the repository (tests/data)."""

from __future__ import annotations

import json

import numpy as np
import pytest

import synthetic
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor

# Official against official on another CPU backend, on the same weights: logits 4e-5, scores 1e-6.
LOGIT_TOL, SCORE_TOL = 4e-4, 1e-5

ABOUT = json.loads((synthetic.DATA / "image_nano.json").read_text())
STORED = np.load(synthetic.DATA / "image_nano.npz")


def test_the_weights_are_those_of_the_golden() -> None:
    assert synthetic.digest(synthetic.nano_state()) == ABOUT["weights"] == synthetic.NANO_DIGEST


@pytest.fixture(scope="module")
def predictor(nano_model: SAM2) -> SAM2ImagePredictor:
    predictor = SAM2ImagePredictor(nano_model)
    predictor.set_image(synthetic.picture(*ABOUT["picture_shape"][:2]))
    return predictor


@pytest.mark.parametrize("name", ABOUT["cases"])
def test_prompt(predictor: SAM2ImagePredictor, name: str) -> None:
    case = ABOUT["cases"][name]
    prompt = {key: np.array(v) if isinstance(v, list) else v for key, v in case["prompt"].items()}
    if "mask" in prompt:  # the logits of another case
        other, index = case["prompt"]["mask"]
        prompt["mask_input"] = STORED[f"{other}.low"][index][None]
        del prompt["mask"]
    masks, scores, low = predictor.predict(**prompt)
    logits, _, _ = predictor.predict(**prompt, return_logits=True)

    step = case["step"]
    np.testing.assert_allclose(low[..., ::step, ::step], STORED[f"{name}.low"], rtol=0, atol=LOGIT_TOL)
    np.testing.assert_allclose(scores, STORED[f"{name}.scores"], rtol=0, atol=SCORE_TOL)
    expected = np.unpackbits(STORED[f"{name}.mask_bits"], axis=-1, count=masks.shape[-1])
    assert masks.shape == expected.shape
    assert not ((masks != expected) & (np.abs(logits) > LOGIT_TOL)).any()

"""What the image predictor takes and refuses; its numbers are compared in the golden and reference tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import synthetic
from mlx_sam2 import SAM2ImagePredictor
from mlx_sam2.model.sam2 import SAM2

CLICK = {"point_coords": [[30, 40]], "point_labels": [1]}


@pytest.fixture
def predictor(nano_model: SAM2) -> SAM2ImagePredictor:
    predictor = SAM2ImagePredictor(nano_model)
    predictor.set_image(synthetic.picture(60, 80))
    return predictor


def test_arrays_may_be_views(predictor: SAM2ImagePredictor) -> None:
    bgr = np.ascontiguousarray(synthetic.picture(60, 80)[..., ::-1])
    _, scores, logits = predictor.predict(**CLICK)
    predictor.set_image(bgr[..., ::-1])
    np.testing.assert_array_equal(predictor.predict(**CLICK)[2], logits)

    turned = logits[scores.argmax()][None, ::-1, ::-1]
    expected = predictor.predict(mask_input=turned.copy())
    for a, b in zip(predictor.predict(mask_input=turned), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_given_as_a_batch(predictor: SAM2ImagePredictor) -> None:
    with pytest.raises(ValueError, match="at least one image, got an empty list"):
        predictor.set_image_batch([])
    with pytest.raises(ValueError, match=r"point_coords has shape \(0, 1, 2\)"):
        predictor.predict(point_coords=np.zeros((0, 1, 2)), point_labels=np.zeros((0, 1)))
    assert predictor.predict(**CLICK)[0].shape == (3, 60, 80)  # the image is still set


def test_boxes_in_any_official_shape(predictor: SAM2ImagePredictor) -> None:
    predictor.set_image(synthetic.picture())
    boxes = np.array([[20, 30, 120, 200], [50, 60, 150, 160]])
    for box, given in ((boxes[0], boxes[0].reshape(2, 2)), (boxes, boxes[:, None]), (boxes, boxes.reshape(2, 2, 2))):
        for ours, expected in zip(predictor.predict(box=given), predictor.predict(box=box), strict=True):
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("box", [[1, 2, 3], [[1, 2, 3]], [], 5, np.zeros((2, 3, 2))])
def test_no_boxes(predictor: SAM2ImagePredictor, box: Any) -> None:
    predictor.set_image(synthetic.picture())
    with pytest.raises(ValueError, match=r"it must be \(4,\) or \(B, 4\) as x0, y0, x1, y1"):
        predictor.predict(box=box)


def test_a_detector_that_found_nothing(predictor: SAM2ImagePredictor) -> None:
    with pytest.raises(ValueError, match=r"box has shape \(0, 4\), no boxes at all"):
        predictor.predict(box=np.zeros((0, 4)))
    assert predictor.predict(**CLICK)[0].shape == (3, 60, 80)

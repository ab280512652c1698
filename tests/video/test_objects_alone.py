"""Propagation of some of the objects: the others stay as they are, and in the way of nobody."""

from __future__ import annotations

import numpy as np
import pytest

import synthetic
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from short_videos import clip


@pytest.fixture(scope="module")
def predictor() -> SAM2VideoPredictor:
    return SAM2VideoPredictor(synthetic.nano_model())


def test_one_object_of_two(predictor: SAM2VideoPredictor) -> None:
    with predictor.init_state(clip(4)) as state:
        for obj_id, point in (("a", [30, 20]), ("b", [50, 40])):
            predictor.add_new_points_or_box(state, 0, obj_id, points=[point], labels=[1])
        found = list(predictor.propagate_in_video(state, obj_ids=["b"]))
        assert [(t, ids) for t, ids, _ in found] == [(t, ["b"]) for t in range(4)]
        assert list(state.tracks["a"].tracked) == [] and list(state.tracks["b"].tracked) == [1, 2, 3]
        both = list(predictor.propagate_in_video(state))
        with pytest.raises(ValueError, match="'c'"):
            next(predictor.propagate_in_video(state, obj_ids=["c"]))
        with pytest.raises(ValueError, match="obj_ids is empty"):
            next(predictor.propagate_in_video(state, obj_ids=[]))
    for (_, _, alone), (_, ids, together) in zip(found, both, strict=True):
        assert ids == ["a", "b"]
        np.testing.assert_allclose(alone[0], together[1], atol=1e-3)  # measured: 0 to 3e-5, a batch of two

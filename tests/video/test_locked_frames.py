"""Locked frames, and the scores of every frame and object."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.state import VideoState
from short_videos import clip


@pytest.fixture(scope="module")
def predictor(nano_model: SAM2) -> SAM2VideoPredictor:
    return SAM2VideoPredictor(nano_model)


@pytest.fixture
def state(predictor: SAM2VideoPredictor) -> Iterator[VideoState]:
    with predictor.init_state(clip(6)) as state:
        predictor.add_new_points_or_box(state, 0, "a", points=[[30, 20]], labels=[1])
        predictor.add_new_points_or_box(state, 0, "b", box=[40, 10, 80, 50])
        yield state


def run(predictor: SAM2VideoPredictor, state: VideoState, **options: int) -> dict[int, np.ndarray]:
    return {t: masks.copy() for t, _, masks in predictor.propagate_in_video(state, **options)}


def test_a_locked_correction_survives_a_second_pass(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    first = run(predictor, state)
    _, _, corrected = predictor.add_new_points_or_box(state, 3, "a", points=[[70, 40], [30, 20]], labels=[1, 0])
    predictor.lock(state, 3, "a")
    second = run(predictor, state)
    assert not np.array_equal(corrected[0], first[3][0])
    np.testing.assert_array_equal(second[3][0], corrected[0])  # kept
    assert not np.array_equal(second[4][0], first[4][0])  # gone on from
    for t in (1, 2):
        np.testing.assert_allclose(second[t], first[t], rtol=0, atol=1e-4)  # a batch of one or two: 1e-5
    np.testing.assert_allclose(second[3][1], first[3][1], rtol=0, atol=1e-4)
    predictor.unlock(state, 3)
    np.testing.assert_allclose(run(predictor, state)[3], first[3], rtol=0, atol=1e-4)


def test_all_objects_of_a_frame_are_locked(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    run(predictor, state, max_frame_num_to_track=2)
    predictor.lock(state, 2)
    assert [track.locked for track in state.tracks.values()] == [{2}, {2}]
    kept = [track.tracked[2] for track in state.tracks.values()]
    run(predictor, state)
    assert all(track.tracked[2] is result for track, result in zip(state.tracks.values(), kept, strict=True))
    predictor.reset_state(state)
    assert state.obj_ids == []


def test_what_cannot_be_locked_is_said(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    with pytest.raises(ValueError, match=r"no object has a mask on frame 4: prompt it there, or propagate over"):
        predictor.lock(state, 4)
    with pytest.raises(ValueError, match=r"object 'a' has no mask on frame 4"):
        predictor.lock(state, 4, "a")
    with pytest.raises(ValueError, match=r"object 'c' does not exist; the objects are \['a', 'b'\]"):
        predictor.lock(state, 0, "c")
    with pytest.raises(ValueError, match=r"frame 9 does not exist"):
        predictor.unlock(state, 9)


def test_scores_of_prompted_and_tracked_frames(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    predictor.add_new_mask(state, 0, "c", np.eye(54, 96) > 0)
    assert state.scores(0)["c"] == (10.0, 1.0)  # a mask that the user gave
    assert state.scores(1) == {}
    run(predictor, state)
    for t in range(6):
        for obj_id, score in state.scores(t).items():
            result = state.tracks[obj_id].result(t)
            assert score == (result.object_score, result.iou)
            assert 0 <= score.predicted_iou <= 1
    assert len({state.scores(t)["a"].predicted_iou for t in range(6)}) == 6
    state.clear_prompts(0, "a")
    assert state.scores(0).keys() == {"a", "b", "c"}  # committed: it stays, as a tracked one
    state.remove("a")
    assert state.scores(1).keys() == {"b", "c"}

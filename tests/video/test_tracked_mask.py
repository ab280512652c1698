"""Masks that were tracked elsewhere: remembered, locked, refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlx_sam2.frames.opening import open_source
from mlx_sam2.masks.scores import ObjectScores
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.state import VideoState
from short_videos import clip

LENGTH, STOP = 8, 4
CLIP = Path(__file__).parents[2] / "examples" / "clip.mp4"


@pytest.fixture(scope="module")
def predictor(nano_model: SAM2) -> SAM2VideoPredictor:
    return SAM2VideoPredictor(nano_model)


def opened(predictor: SAM2VideoPredictor) -> VideoState:
    state = predictor.init_state(clip(LENGTH))
    predictor.add_new_points_or_box(state, 0, "a", points=[[30, 20]], labels=[1])
    return state


@pytest.fixture
def state(predictor: SAM2VideoPredictor) -> Iterator[VideoState]:
    with opened(predictor) as state:
        yield state


def tracked(predictor: SAM2VideoPredictor) -> tuple[dict[int, np.ndarray], dict[int, ObjectScores]]:
    with opened(predictor) as state:
        masks = {t: logits[0, 0] > 0 for t, _, logits in predictor.propagate_in_video(state)}
        return masks, {t: state.scores(t)["a"] for t in masks}


def test_masks_given_back_are_remembered(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    masks, scores = tracked(predictor)
    for t in range(1, STOP):
        predictor.add_tracked_mask(state, t, "a", masks[t], scores[t])
        assert state.scores(t)["a"] == scores[t]
    track = state.tracks["a"]
    assert track.prompts.keys() == {0}
    with opened(predictor) as alone:
        expected = {t: logits for t, _, logits in predictor.propagate_in_video(alone, STOP)}
    found = {t: logits for t, _, logits in predictor.propagate_in_video(state, STOP)}
    assert list(found) == list(expected) and not np.array_equal(found[STOP], expected[STOP])
    assert [*track.tracked] == [*range(1, LENGTH)] and [*track.conditioning] == [0]


@pytest.mark.slow
def test_tracking_goes_on_as_if_it_had_not_stopped() -> None:
    """With a model that finds objects; masks of the synthetic weights are texture, of which edges are all."""
    predictor = SAM2VideoPredictor.from_pretrained("demo")
    frames = list(open_source(CLIP))[:12]

    def run(given: dict[int, np.ndarray], start: int) -> dict[int, np.ndarray]:
        with predictor.init_state(frames) as state:
            predictor.add_new_points_or_box(state, 0, "a", points=[[65, 105]], labels=[1])
            for t, mask in given.items():
                predictor.add_tracked_mask(state, t, "a", mask)
            return {t: logits[0, 0] > 0 for t, _, logits in predictor.propagate_in_video(state, start)}

    whole = run({}, 0)
    off = {
        name: np.mean([(mask != whole[t]).mean() for t, mask in run(given, 6).items()])
        for name, given in {"alone": {}, "given": {t: whole[t] for t in range(1, 6)}}.items()
    }
    assert off["given"] < off["alone"] / 4, off  # 0.00003 and 0.0005 found


@pytest.mark.parametrize("name", ["official", "samurai", "dam4sam"])
def test_a_frame_without_the_object_stays_one(nano_model: SAM2, name: str) -> None:
    predictor = SAM2VideoPredictor(nano_model, memory_policy=name)
    with opened(predictor) as state:
        nothing = np.zeros((10, 20), bool)
        predictor.add_tracked_mask(state, 1, "a", nothing)
        predictor.add_tracked_mask(state, 2, "a", nothing, ObjectScores(-3.0, 0.25))
        track = state.tracks["a"]
        assert [track.tracked[t].object_score for t in (1, 2)] == [-10, -3]
        assert not (track.tracked[1].low_res_mask > 0).any()
        assert [track.tracked.may_recall(t) for t in (1, 2)] == [name == "official"] * 2
        np.testing.assert_array_equal(np.array(track.tracked[1].pointer), np.array(track.tracked[2].pointer))


def test_a_mask_that_was_given_back_can_be_locked(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    """Also one behind which the object was never seen by this process, and on the way back."""
    masks, scores = tracked(predictor)
    for reverse, frames in (False, range(LENGTH)), (True, range(5, -1, -1)):
        predictor.add_tracked_mask(state, 3, "a", masks[3], scores[3], reverse)
        predictor.lock(state, 3, "a")
        kept = state.low_res(3)["a"].copy()
        found = {t: logits for t, _, logits in predictor.propagate_in_video(state, frames[0], reverse=reverse)}
        assert list(found) == list(frames)
        np.testing.assert_array_equal(state.low_res(3)["a"], kept)
        assert ((found[3][0, 0] > 0) == masks[3]).mean() > 0.7  # of texture; 0.9 found
    predictor.unlock(state, 3)
    list(predictor.propagate_in_video(state))
    assert not np.array_equal(state.low_res(3)["a"], kept)


def test_a_lock_holds_on_a_prompt_and_goes_with_it(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    predictor.add_new_points_or_box(state, 3, "a", points=[[60, 30]], labels=[1])
    predictor.lock(state, 3)
    _, _, prompted = state.edited_masks(3, conditioning=True)
    found = {t: logits for t, _, logits in predictor.propagate_in_video(state)}
    np.testing.assert_array_equal(found[3], prompted)
    predictor.clear_all_prompts_in_frame(state, 3, "a")  # what was committed stays, and is locked
    found = {t: logits for t, _, logits in predictor.propagate_in_video(state)}
    np.testing.assert_array_equal(found[3], prompted)
    predictor.add_new_points_or_box(state, 0, "b", points=[[60, 30]], labels=[1])
    predictor.add_new_points_or_box(state, 5, "b", points=[[60, 30]], labels=[1])
    predictor.lock(state, 5, "b")
    predictor.clear_all_prompts_in_frame(state, 5, "b")
    assert not state.tracks["b"].locked, "nothing is left to be kept"


def test_what_cannot_be_given_back_is_said(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    mask = np.ones((4, 4), bool)
    with pytest.raises(ValueError, match=r"object 'a' has a prompt on frame 0, whose answer is its mask there"):
        predictor.add_tracked_mask(state, 0, "a", mask)
    with pytest.raises(ValueError, match=r"frame 8 does not exist"):
        predictor.add_tracked_mask(state, 8, "a", mask)
    with pytest.raises(ValueError, match=r"mask has shape \(4,\)"):
        predictor.add_tracked_mask(state, 1, "b", mask[0])
    assert state.obj_ids == ["a"]
    predictor.add_tracked_mask(state, 1, "b", mask)
    with pytest.raises(RuntimeError, match="no input points or masks are provided for object 'b'"):
        list(predictor.propagate_in_video(state))

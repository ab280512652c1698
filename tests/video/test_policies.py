"""Memory policies in ordinary sessions: several objects, both ways, corrections, locked frames, streams."""

from __future__ import annotations

import numpy as np
import pytest

import synthetic
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.memory_bank import ObjectTrack
from mlx_sam2.video.policies.dam4sam import Dam4Sam, box_iou_with
from mlx_sam2.video.policies.kalman import Motion, measurement
from mlx_sam2.video.policies.official import BACKWARD, FORWARD, Official, Sight
from mlx_sam2.video.policies.samurai import Samurai
from mlx_sam2.video.result_store import FrameResult, ResultStore
from short_videos import FLIP_TOL, clip

LENGTH = 9
# settings under which even synthetic weights are stable, and add frames now and then
LOOSE = {
    "samurai": Samurai(
        stable_frames_threshold=3,
        stable_ious_threshold=0.05,
        memory_bank_iou_threshold=0.1,
        memory_bank_obj_score_threshold=-9,
        kf_score_weight=0.4,
    ),
    "dam4sam": Dam4Sam(min_iou=0.05, size_ratio=(0.2, 5.0), spacing=2, max_box_iou=1.0),
}


@pytest.fixture(scope="module")
def model() -> SAM2:
    """Objects are always seen."""
    return synthetic.nano_model(41, {"sam_mask_decoder.pred_obj_score_head.layers.2.bias": {"add": 6}})


@pytest.fixture(params=sorted(LOOSE))
def predictor(request: pytest.FixtureRequest, model: SAM2) -> SAM2VideoPredictor:
    return SAM2VideoPredictor(model, memory_policy=LOOSE[request.param])


PROMPTS = {
    "a": {"points": [[30, 20]], "labels": [1]},
    "b": {"box": [40, 10, 80, 50]},
}


def track(
    predictor: SAM2VideoPredictor, ids: str, start: int = 0, reverse: bool = False
) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {obj_id: [] for obj_id in ids}
    with predictor.init_state(clip(LENGTH)) as state:
        for obj_id in ids:
            predictor.add_new_points_or_box(state, start, obj_id, **PROMPTS[obj_id])
        for _, obj_ids, logits in predictor.propagate_in_video(state, start, reverse=reverse):
            for obj_id, mask in zip(obj_ids, logits, strict=True):
                found[obj_id].append(mask.copy())
    return found


@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_objects_equal_two_runs_of_one(predictor: SAM2VideoPredictor, reverse: bool) -> None:
    start = LENGTH - 1 if reverse else 0
    both = track(predictor, "ab", start, reverse)
    for obj_id in "ab":
        alone = track(predictor, obj_id, start, reverse)[obj_id]
        assert len(alone) == LENGTH
        for t, (one, other) in enumerate(zip(both[obj_id], alone, strict=True)):
            assert (np.abs(one - other) > FLIP_TOL).mean() < 5e-3, t  # measured 0


def test_the_policies_differ_from_the_official_rules(predictor: SAM2VideoPredictor, model: SAM2) -> None:
    ours, official = track(predictor, "a")["a"], track(SAM2VideoPredictor(model), "a")["a"]
    assert np.abs(ours[-1] - official[-1]).max() > 0.1


def test_a_second_pass_repeats_the_first(predictor: SAM2VideoPredictor) -> None:
    """What was added on the first pass is forgotten, and motion goes on from the frame before."""
    with predictor.init_state(clip(LENGTH)) as state:
        predictor.add_new_points_or_box(state, 0, "a", **PROMPTS["a"])
        first = [masks.copy() for _, _, masks in predictor.propagate_in_video(state)]
        added = [*state.tracks["a"].anchors]
        second = [masks.copy() for _, _, masks in predictor.propagate_in_video(state, 0, 4)]
        second += [masks.copy() for _, _, masks in predictor.propagate_in_video(state, 5)]
        np.testing.assert_array_equal(first, second)
        assert [*state.tracks["a"].anchors] == added
        if predictor.tracker.policy.name == "dam4sam":
            assert added
            state.clear_prompts(0, "a")
            with pytest.raises(RuntimeError, match="no input points or masks are provided for object 'a'"):
                predictor.propagate_in_video_preflight(state)  # added frames are no prompts


def test_a_stream_gives_the_masks_of_a_session(predictor: SAM2VideoPredictor) -> None:
    with predictor.stream(iter(clip(LENGTH))) as stream, predictor.init_state(clip(LENGTH)) as state:
        stream.state.num_frames = LENGTH  # known here: dam4sam counts the frames seen so far
        predictor.add_new_points_or_box(state, 0, "a", **PROMPTS["a"])
        expected = [masks.copy() for _, _, masks in predictor.propagate_in_video(state)]
        for t, _, masks in stream:
            if t == 0:
                _, _, masks = stream.add_new_points_or_box("a", **PROMPTS["a"])
            np.testing.assert_array_equal(masks, expected[t])


def test_corrections_and_locked_frames(predictor: SAM2VideoPredictor) -> None:
    with predictor.init_state(clip(LENGTH)) as state:
        predictor.add_new_points_or_box(state, 0, "a", **PROMPTS["a"])
        list(predictor.propagate_in_video(state))
        predictor.add_new_points_or_box(state, 6, "a", points=[[60, 30], [20, 40]], labels=[1, 0])
        predictor.lock(state, 6)
        kept = state.tracks["a"].latest(6)
        list(predictor.propagate_in_video(state, 4))
        one = state.tracks["a"]
        np.testing.assert_array_equal(one.result(6).low_res_mask, kept.low_res_mask)
        assert (6 in one.conditioning) == (predictor.tracker.policy.name == "dam4sam")
        list(predictor.propagate_in_video(state, 8, reverse=True))
        assert one.latest(3).notes[0] == BACKWARD


def test_names_and_settings(model: SAM2) -> None:
    assert SAM2VideoPredictor(model).tracker.policy == Official()
    assert SAM2VideoPredictor(model, memory_policy="samurai").tracker.policy.kf_score_weight == 0.15
    assert SAM2VideoPredictor(model, memory_policy="dam4sam").tracker.policy == Dam4Sam()
    with pytest.raises(ValueError, match="memory_policy='sam2long' is not known; there are official, samurai, dam4sam"):
        SAM2VideoPredictor(model, memory_policy="sam2long")


# ---- what is recalled


def made(conditioning: list[int], tracked: list[int], unfit: tuple[int, ...] = ()) -> ObjectTrack:
    import mlx.core as mx

    found = ObjectTrack.empty(ResultStore(on_disk=False))
    for frames, numbers in ((found.conditioning, conditioning), (found.tracked, tracked)):
        for t in numbers:
            one = mx.full((1,), t)
            frames[t] = FrameResult(np.ones((4, 4)), one, 1.0, one, 1.0, t not in unfit)
    return found


def recalled(policy: Official, found: ObjectTrack, t: int, reverse: bool = False) -> tuple[list[int], list[int]]:
    recall = policy.recall(found, t, reverse, 100, synthetic.nano_config())
    return [int(memory.pointer.item()) for memory in recall.memories], recall.time_indices


def test_samurai_recalls_good_frames_by_rank() -> None:
    policy = Samurai()
    assert recalled(policy, made([0], [1]), 2) == ([0, 1], [6, 0])
    assert recalled(policy, made([0], [1, 2, 3]), 4) == ([0, 2, 3], [6, 1, 0])  # frame 1: as the neighbour only
    assert recalled(policy, made([0], list(range(1, 20)), (18, 19)), 20) == (
        [0, 13, 14, 15, 16, 17, 19],
        [6, 5, 4, 3, 2, 1, 0],
    )
    # a neighbour with a prompt takes rank 0, and is there already; nothing before the first prompt is looked at
    assert recalled(policy, made([5, 9], [3, 4, 6, 7, 8]), 10) == ([5, 9, 6, 7, 8], [6, 6, 3, 2, 1])
    assert recalled(policy, made([20], [12, 14, 19], (14,)), 11, reverse=True) == ([20, 19, 12], [6, 1, 0])


def test_dam4sam_recalls_anchors_and_a_grid() -> None:
    policy = Dam4Sam()
    assert recalled(policy, made([0], list(range(1, 20)), (19,)), 20) == ([0, 5, 10, 15, 18], [6, 3, 2, 1, 0])
    found = made([0], list(range(1, 40)))
    for t in (4, 12, 20, 30, 39):
        found.anchors[t] = found.tracked[t]
    assert recalled(policy, found, 40) == ([30, 0, 20, 12, 25, 35, 39], [6, 6, 6, 6, 2, 1, 0])
    assert recalled(policy, made([50], list(range(31, 50)), (31,)), 30, reverse=True) == (
        [50, 45, 40, 35, 32],
        [6, 3, 2, 1, 0],
    )


@pytest.mark.parametrize("policy", [Official(), Samurai(), Dam4Sam()], ids=lambda policy: policy.name)
def test_references_count_on_the_way_back_too(policy: Official) -> None:
    """They stand before the first frame in the direction of travel; the pointers of all of them are recalled."""
    config = synthetic.nano_config()
    ahead = policy.recall(made([-2, -1], [0, 1, 2]), 3, False, 100, config)
    back = policy.recall(made([-2, -1], [99, 98, 97]), 96, True, 100, config)

    def numbers(memories: list) -> list[int]:
        return sorted(t if (t := int(one.pointer.item())) < 50 else 99 - t for one in memories)

    assert numbers(back.memories)[:2] == numbers(ahead.memories)[:2] == [-2, -1]
    assert numbers(back.pointers) == numbers(ahead.pointers) == [-2, -1, 0, 1, 2]
    assert back.pointer_times == ahead.pointer_times


def test_forgetting_in_a_stream_changes_no_recall() -> None:
    config, unfit = synthetic.nano_config(), tuple(range(60, 110)) + tuple(t for t in range(20, 60) if t % 3)
    for policy in (Samurai(), Dam4Sam()):
        kept, forgetful = made([0], [], unfit), made([0], [], unfit)
        for t in range(1, 130):
            assert recalled(policy, kept, t) == recalled(policy, forgetful, t), t
            for one in (kept, forgetful):
                one.tracked[t] = made([], [t], unfit).tracked[t]
                if policy.reviews and t % 17 == 0:
                    one.anchors[t] = one.tracked[t]
            needed = policy.still_needed(forgetful, t + 1, config)
            forgetful.forget_before(t + 1, config, policy.reach(config), needed)
        assert len(forgetful.tracked) < 60


# ---- motion and distractors


def test_motion_follows_a_box() -> None:
    box, step = np.array([10.0, 20, 30, 60]), np.array([2, 1, 2, 1])
    motion = Motion.start(measurement(box))
    for _ in range(30):
        box += step
        motion = motion.predicted().updated(measurement(box))
    assert motion.predicted().iou(box + step) > 0.95
    assert motion.iou(np.zeros(4)) == 0
    np.testing.assert_allclose(motion.mean[4:6], [2, 1], atol=0.1)


def test_the_phases_of_samurai() -> None:
    policy, notes = Samurai(stable_frames_threshold=2, kf_score_weight=0.5), None
    near, far = [10, 10, 30, 30], [60, 60, 80, 80]
    for stable in (1, 2):
        choice = policy.choose(Sight(np.array([0.9, 0.8], np.float32), np.array([near, far])), notes, FORWARD)
        notes = choice.notes
        assert (choice.index, notes[1], choice.motion) == (0, stable, None)
    by_motion = policy.choose(Sight(np.array([0.7, 0.8], np.float32), np.array([near, far])), notes, FORWARD)
    assert by_motion.index == 0 and by_motion.motion > 0.9
    lost = policy.choose(Sight(np.array([0.2, 0.1], np.float32), np.array([near, far])), notes, FORWARD)
    assert lost.notes[1] == 0
    again = policy.choose(Sight(np.array([0.2, 0.4], np.float32), np.array([near, far])), lost.notes, FORWARD)
    assert (again.index, again.notes[1]) == (1, 1)
    np.testing.assert_array_equal(again.notes[2:10], [70, 70, 1, 20, 0, 0, 0, 0])


def test_an_iou_at_its_threshold() -> None:
    """Equality is bad while motion warms up, good after that, and not enough to add a frame."""
    seen = Sight(np.array([0.3], np.float32), np.array([[10, 10, 30, 30]]))  # 0.3 in float32 is above 0.3 in float64
    for good, threshold in ((False, 15), (True, 1)):
        policy = Samurai(stable_frames_threshold=threshold)
        started = policy.choose(seen, None, FORWARD)
        assert (policy.choose(seen, started.notes, FORWARD).notes[1] > 0) == good
    mask = np.ones((8, 8), bool)
    assert Dam4Sam().verdict(5, float(np.float32(0.8)), mask, None, list) == "no_iou"


def test_the_box_of_a_second_object() -> None:
    mask, other = np.zeros((32, 32), bool), np.full((32, 32), -9.0, np.float32)
    mask[4:15, 4:15] = True
    other[4:15, 4:15] = 9
    assert box_iou_with(mask, other) is None
    other[4:15, 20:25] = 9  # the largest part counts
    other[30, 30] = 9
    assert box_iou_with(mask, other) == pytest.approx(10 / 20)

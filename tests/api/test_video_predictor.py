"""The video predictor on the nano model: sessions, streams, options and errors. Parity is in test_video_golden.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlx_sam2.frames.source import VideoError
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.state import VideoState
from short_videos import FLIP_TOL, HEIGHT, WIDTH, assert_equal_outputs, clip, three_objects


@pytest.fixture(scope="module")
def model(nano_model: SAM2) -> SAM2:
    config = nano_model.config.with_postprocessing(True, video=True)
    return nano_model.with_config(dataclasses.replace(config, image_size=128))


@pytest.fixture(scope="module")
def predictor(model: SAM2) -> SAM2VideoPredictor:
    return SAM2VideoPredictor(model, fill_hole_area=8)


def test_disk_and_ram_give_the_same_bits(predictor: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "mlx_sam2.video.policies.official.recall_distance", lambda config: 0
    )  # nearly all goes to the file
    outputs = []
    for memory in ("disk", "ram"):
        with predictor.init_state(clip(), memory=memory) as state:
            outputs.append(three_objects(predictor, state))
            assert (state.store._layout is not None) == (memory == "disk")
    assert_equal_outputs(*outputs)


def test_batched_objects_equal_separate_ones(predictor: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    with predictor.init_state(clip()) as state:
        together = three_objects(predictor, state)
    monkeypatch.setattr("mlx_sam2.video.tracker.MAX_SCORES", 0)  # batches of one
    with predictor.init_state(clip()) as state:
        apart = three_objects(predictor, state)
    assert_equal_outputs(together, apart, FLIP_TOL)


def test_objects_with_equal_memories_share_a_batch(predictor: SAM2VideoPredictor) -> None:
    batches: list[int] = []
    run = predictor.tracker._run
    predictor.tracker._run = lambda features, recalls, *rest: (
        batches.append(len(recalls)),
        run(features, recalls, *rest),
    )[1]
    try:
        with predictor.init_state(clip(3)) as state:
            for i in range(3):
                predictor.add_new_points_or_box(state, 0, i, points=[[20 + 20 * i, 20]], labels=[1])
            predictor.add_new_points_or_box(state, 1, 3, points=[[50, 40]], labels=[1])
            list(predictor.propagate_in_video(state))
    finally:
        predictor.tracker._run = run
    assert batches == [1, 3, 4]  # frame 0: only the late object is tracked; frame 1: the others; frame 2: all


def test_a_stream_equals_a_session(predictor: SAM2VideoPredictor) -> None:
    frames = clip()
    with predictor.init_state(frames) as state:
        session = three_objects(predictor, state)
    outputs = []
    with predictor.stream(frames) as stream:
        for t, obj_ids, masks in stream:
            if t == 0:
                stream.add_new_points_or_box("a", points=[[30, 20]], labels=[1])
                _, obj_ids, masks = stream.add_new_points_or_box("b", box=[40, 10, 80, 50])
            outputs.append((t, obj_ids, masks))
            if t == 3:
                stream.add_new_points_or_box("c", points=[[70, 30], [10, 5]], labels=[1, 0])
                stream.add_new_points_or_box("a", points=[[35, 25]], labels=[1])
            if t == 5:
                stream.remove_object("b")
    assert_equal_outputs(outputs, session)


def test_scores_of_a_stream_are_those_of_a_session(predictor: SAM2VideoPredictor) -> None:
    frames = clip(4)
    with predictor.init_state(frames) as state:
        predictor.add_new_points_or_box(state, 0, "a", points=[[30, 20]], labels=[1])
        list(predictor.propagate_in_video(state))
        expected = [{"a": state.tracks["a"].result(t).object_score} for t in range(4)]
    with predictor.stream(frames) as stream:
        for t, _, _ in stream:
            if t == 0:
                assert stream.object_scores == {}
                stream.add_new_points_or_box("a", points=[[30, 20]], labels=[1])
            assert stream.object_scores == expected[t]


def test_an_image_only_checkpoint_cannot_track(nano_model: SAM2) -> None:
    model = nano_model.with_config(nano_model.config)
    for part in ("memory_attention", "memory_encoder", "mask_downsample"):
        model.pop(part)
    with pytest.raises(ValueError, match="image half of SAM 2 only"):
        SAM2VideoPredictor(model)


@pytest.mark.slow
def test_a_stream_keeps_only_what_can_be_recalled(predictor: SAM2VideoPredictor) -> None:
    with predictor.stream(frame for frame in clip(40)) as stream:
        for t, _, _ in stream:
            if t == 0:
                stream.add_new_points_or_box(1, points=[[30, 20]], labels=[1])
        track = stream.state.tracks[1]
        assert list(track.conditioning) == [0] and len(track.tracked) <= 16 and len(track.directions) <= 17
        assert list(stream.state.source.frames) == [39]
        with pytest.raises(ValueError, match="frame 3 is past and its image was not kept; give it again as frame="):
            stream.add_new_mask(1, np.ones((HEIGHT, WIDTH)), frame_idx=3)


def test_a_stream_takes_an_edit_far_back(predictor: SAM2VideoPredictor) -> None:
    frames = clip(24)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 20:50] = True
    with predictor.stream() as stream:
        for frame in frames[:22]:
            stream.push(frame)
            if stream.frame_idx == 0:
                stream.add_new_points_or_box(1, points=[[30, 20]], labels=[1])
        t, _, masks = stream.add_new_mask(1, mask, frame_idx=2, frame=frames[2])
        assert t == 2 and ((masks[0, 0] > 0) == mask).mean() > 0.97
        stream.push(frames[22])
        assert list(stream.state.tracks[1].conditioning) == [0, 2]
        assert list(stream.state.source.frames) == [22]


@pytest.mark.parametrize("source", [clip, lambda: iter(clip())])
def test_a_second_loop_over_a_stream_goes_on(predictor: SAM2VideoPredictor, source: Callable[[], Any]) -> None:
    stream = predictor.stream(source())
    seen = []
    for stop in (2, 5, 99):
        for t, _, _ in stream:
            seen.append((t, stream.frame))
            if t == stop:
                break
    assert [t for t, _ in seen] == list(range(8))
    assert all(np.array_equal(frame, expected) for (_, frame), expected in zip(seen, clip(), strict=True))


def test_errors_of_a_stream(predictor: SAM2VideoPredictor) -> None:
    with predictor.stream() as stream:
        with pytest.raises(ValueError, match="no frame has come yet"):
            stream.add_new_points_or_box(1, points=[[1, 1]], labels=[1])
        with pytest.raises(VideoError, match="no source to iterate over"):
            next(iter(stream))
        assert stream.push(clip(1)[0])[2].shape == (0, 1, HEIGHT, WIDTH)
        with pytest.raises(VideoError, match="all frames of a video need the same size"):
            stream.push(np.zeros((10, 10, 3), np.uint8))
        with pytest.raises(ValueError, match="frame 5 has not come yet"):
            stream.add_new_mask(1, np.ones((4, 4)), frame_idx=5)
        assert stream.frame_idx == 0 and stream.push(clip(2)[1])[0] == 1


# ---- sessions


@pytest.fixture
def state(predictor: SAM2VideoPredictor) -> Any:
    with predictor.init_state(clip(5)) as state:
        yield state


def snapshot(state: VideoState) -> dict[Any, tuple[list[int], ...]]:
    parts = ("conditioning", "tracked", "prompts", "pending", "pending_tracked", "directions")
    return {k: tuple(sorted(getattr(track, part)) for part in parts) for k, track in state.tracks.items()}


BAD_CALLS: list[tuple[str, Callable[[SAM2VideoPredictor, VideoState], Any], type[Exception], str]] = [
    ("frame", lambda p, s: p.add_new_points_or_box(s, 5, 1, [[1, 1]], [1]), ValueError, "frame 5 does not exist"),
    ("frame", lambda p, s: p.add_new_mask(s, -1, 1, np.ones((3, 3))), ValueError, "the video has frames 0 to 4"),
    ("frame", lambda p, s: list(p.propagate_in_video(s, start_frame_idx=9)), ValueError, "frame 9 does not exist"),
    ("both", lambda p, s: p.add_new_points_or_box(s, 0, 1, points=[[1, 1]]), ValueError, "provided together"),
    ("none", lambda p, s: p.add_new_points_or_box(s, 0, 1), ValueError, "at least one of points or box"),
    ("nan", lambda p, s: p.add_new_points_or_box(s, 0, 1, [[1, np.nan]], [1]), ValueError, "not a finite number"),
    ("label", lambda p, s: p.add_new_points_or_box(s, 0, 1, [[1, 1]], [7]), ValueError, "labels hold 7; a label is 1"),
    ("text", lambda p, s: p.add_new_points_or_box(s, 0, 1, [["x", 1]], [1]), ValueError, "numbers are needed"),
    ("ragged", lambda p, s: p.add_new_points_or_box(s, 0, 1, [[1, 1], [2]], [1, 1]), ValueError, "of equal count"),
    ("shape", lambda p, s: p.add_new_points_or_box(s, 0, 1, [[1, 2, 3]], [1]), ValueError, r"must be \(N, 2\)"),
    ("box", lambda p, s: p.add_new_points_or_box(s, 0, 1, box=[1, 2, 3]), ValueError, "x0, y0, x1, y1"),
    (
        "box",
        lambda p, s: p.add_new_points_or_box(s, 0, 1, box=[1, 2, 3, 4], clear_old_points=False),
        ValueError,
        "clear_old_points=True",
    ),
    ("mask", lambda p, s: p.add_new_mask(s, 0, 1, np.ones((1, 3, 3))), ValueError, r"must be \(height, width\)"),
    ("object", lambda p, s: p.clear_all_prompts_in_frame(s, 0, 7), ValueError, "object 7 does not exist"),
    ("object", lambda p, s: p.remove_object(s, 7, strict=True), RuntimeError, "cannot remove object 7"),
]


@pytest.mark.parametrize(("_name", "call", "error", "message"), BAD_CALLS)
@pytest.mark.parametrize("prompted", [False, True])
def test_bad_input_is_one_line_and_leaves_the_state(
    predictor: SAM2VideoPredictor, state: VideoState, _name: str, call: Any, error: type, message: str, prompted: bool
) -> None:
    if prompted:
        predictor.add_new_points_or_box(state, 1, 1, points=[[30, 20]], labels=[1])
    before = snapshot(state)
    with pytest.raises(error, match=message) as caught:
        call(predictor, state)
    assert "\n" not in str(caught.value)
    assert snapshot(state) == before


def test_propagation_without_prompts(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    with pytest.raises(RuntimeError, match="no input points or masks are provided for any object"):
        next(predictor.propagate_in_video(state))
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    predictor.add_new_points_or_box(state, 0, 2, points=[[60, 20]], labels=[1])
    predictor.clear_all_prompts_in_frame(state, 0, 2)
    before = snapshot(state)
    with pytest.raises(RuntimeError, match="for object 2"):
        next(predictor.propagate_in_video(state))
    assert snapshot(state) == before


def test_a_broken_frame_leaves_the_state(predictor: SAM2VideoPredictor) -> None:
    frames = clip(3)
    frames[2] = frames[2][:-1]
    with predictor.init_state(frames) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        with pytest.raises(VideoError, match="same size"):
            predictor.add_new_points_or_box(state, 2, 2, points=[[30, 20]], labels=[1])
        assert state.obj_ids == [1]
        seen = []
        with pytest.raises(VideoError, match="same size"):
            seen.extend(t for t, _, _ in predictor.propagate_in_video(state))
        assert seen == [] or seen == [0, 1]
        assert list(state.tracks[1].tracked) == [1]


def test_a_source_that_cannot_go_back_needs_a_stream(predictor: SAM2VideoPredictor) -> None:
    with pytest.raises(VideoError, match=r"use predictor\.stream"):
        predictor.init_state(frame for frame in clip(2))
    with pytest.raises(ValueError, match="memory='file' is not known"):
        predictor.init_state(clip(2), memory="file")


def test_a_correction_is_lost_as_in_the_official_code_unless_asked_otherwise(model: SAM2) -> None:
    """FACTS.md, section 9: without the option, a propagation over the corrected frame computes it anew."""
    outputs = {}
    for keep in (False, True):
        predictor = SAM2VideoPredictor(model, 8, add_all_frames_to_correct_as_cond=keep)
        with predictor.init_state(clip(5)) as state:
            predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
            first = [masks for _, _, masks in predictor.propagate_in_video(state)]
            corrected = predictor.add_new_points_or_box(state, 2, 1, points=[[80, 45]], labels=[1])[2]
            again = [masks for _, _, masks in predictor.propagate_in_video(state)]
        assert not np.array_equal(corrected, first[2])
        outputs[keep] = (first, corrected, again)
    first, _, again = outputs[False]
    np.testing.assert_array_equal(again, first)
    _, corrected, again = outputs[True]
    np.testing.assert_array_equal(again[2], corrected)


def test_a_click_after_the_only_prompt_was_cleared_starts_anew(
    predictor: SAM2VideoPredictor, state: VideoState
) -> None:
    """The official code raises an AssertionError here."""
    _, _, expected = predictor.add_new_points_or_box(state, 3, 9, points=[[30, 20]], labels=[1])
    predictor.remove_object(state, 9)
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    list(predictor.propagate_in_video(state))
    predictor.clear_all_prompts_in_frame(state, 0, 1)
    del state.tracks[1].tracked[3]  # no earlier mask to refine, so that the answer is that of a fresh object
    _, _, masks = predictor.add_new_points_or_box(state, 3, 1, points=[[30, 20]], labels=[1])
    np.testing.assert_array_equal(masks, expected)
    assert [t for t, _, _ in predictor.propagate_in_video(state)] == [3, 4]


def test_clearing_memory_around_a_prompt(model: SAM2) -> None:
    """The official option raises an AttributeError."""
    predictor = SAM2VideoPredictor(model, clear_non_cond_mem_around_input=True)
    with predictor.init_state(clip(20)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        list(predictor.propagate_in_video(state))
        predictor.add_new_points_or_box(state, 19, 1, points=[[40, 20]], labels=[1])
        predictor.propagate_in_video_preflight(state)
        assert sorted(state.tracks[1].tracked) == [*range(1, 12), 19]  # 12 to 18 are gone


def test_one_frame(predictor: SAM2VideoPredictor) -> None:
    """The official code divides by zero, and answers a click after propagation with -1024 everywhere."""
    with predictor.init_state(clip(1)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        assert [t for t, _, _ in predictor.propagate_in_video(state)] == [0]
        _, _, masks = predictor.add_new_points_or_box(state, 0, 1, points=[[60, 20]], labels=[1])
        assert np.isfinite(masks).all() and (masks > -1024).any()


def test_returned_ids_belong_to_the_caller(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    """The official code returns its live list, which reset_state empties."""
    _, obj_ids, _ = predictor.add_new_points_or_box(state, 0, 5, points=[[30, 20]], labels=[1])
    predictor.reset_state(state)
    assert obj_ids == [5] and state.obj_ids == []


def test_keys_that_scripts_read_of_the_official_state(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    predictor.add_new_points_or_box(state, 0, 5, points=[[30, 20]], labels=[1])
    read = {key: state[key] for key in ("num_frames", "video_height", "video_width", "obj_ids")}
    assert read == {"num_frames": 5, "video_height": HEIGHT, "video_width": WIDTH, "obj_ids": [5]}
    with pytest.raises(KeyError, match="no part of a session"):
        state["nothing"]
    with pytest.raises(KeyError, match="inside the official code"):
        state["images"]


def test_masks_do_not_overlap_when_asked(model: SAM2) -> None:
    predictor = SAM2VideoPredictor(model, 8, non_overlap_masks=True)
    with predictor.init_state(clip(2)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        predictor.add_new_points_or_box(state, 0, 2, points=[[34, 22]], labels=[1])
        for _, _, masks in predictor.propagate_in_video(state):
            assert ((masks > 0).sum(axis=0) <= 1).all() and (masks > 0).any()
            assert (np.sort(masks, axis=0)[0] <= -10).all()


def test_nothing_in_reverse_from_the_first_frame(predictor: SAM2VideoPredictor, state: VideoState) -> None:
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    assert list(predictor.propagate_in_video(state, reverse=True)) == []
    assert [t for t, _, _ in predictor.propagate_in_video(state, 3, 2, reverse=True)] == [3, 2, 1]


@pytest.mark.parametrize("forget", ["remove", "reset"])
def test_an_object_that_comes_again_during_a_run_is_for_the_next_one(
    predictor: SAM2VideoPredictor, state: VideoState, forget: str
) -> None:
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    run = predictor.propagate_in_video(state)
    assert next(run)[1] == [1]
    predictor.remove_object(state, 1) if forget == "remove" else predictor.reset_state(state)
    predictor.add_new_points_or_box(state, 4, 1, points=[[40, 20]], labels=[1])
    assert [ids for _, ids, _ in run] == [[]] * (state.num_frames - 1)
    assert [ids for _, ids, _ in predictor.propagate_in_video(state)] == [[1]] * (state.num_frames - 4)


def test_a_closed_session_says_so(predictor: SAM2VideoPredictor) -> None:
    with predictor.init_state(clip()) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        run = predictor.propagate_in_video(state)
        next(run)
    for use in (
        lambda: next(run),
        lambda: predictor.add_new_points_or_box(state, 0, 2, points=[[30, 20]], labels=[1]),
        lambda: list(predictor.propagate_in_video(state)),
    ):
        with pytest.raises(ValueError, match="has been closed; open another one"):
            use()
    with predictor.stream(clip()) as stream:
        stream.push(clip()[0])
    with pytest.raises(ValueError, match="has been closed; open another one"):
        stream.push(clip()[1])

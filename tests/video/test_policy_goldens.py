"""SAMURAI and DAM4SAM against their original code: the goldens named video_policy_*."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import goldens
import policy_runs
from golden_runs import LOGIT_TOL, MEMORY_TOL, OUTLIERS, POINTER_TOL, SCORE_TOL, assert_close
from goldens import Golden
from mlx_sam2.video.memory_bank import ObjectTrack
from mlx_sam2.video.policies.dam4sam import Dam4Sam
from mlx_sam2.video.policies.samurai import Samurai
from policy_runs import Watched

pytestmark = goldens.needs_goldens
OBJECT = 1


def check_tensors(
    golden: Golden, record: dict[str, Any], track: ObjectTrack, logits: np.ndarray, network: bool = False
) -> None:
    """Logits, score, pointer and memory of a record. Without a prescribed decoder logits may be 0.1 off (README)."""
    expected, name, t = golden.tensors, f"r{record['index']}", record["frame"]
    result = track.latest(t)
    logit_tol = (0.1, LOGIT_TOL[1]) if network else LOGIT_TOL
    assert_close(result.low_res_mask, expected[f"{name}.low"], logit_tol, name, OUTLIERS)
    assert_close(logits[0, 0, 6::24, 6::24], expected[f"{name}.vid24"], logit_tol, name, OUTLIERS)
    assert_close(np.array([result.object_score]), expected[f"{name}.score"], SCORE_TOL, name)
    assert_close(np.array(result.pointer), expected[f"{name}.ptr"], POINTER_TOL, name)
    if f"{name}.mem" in expected:
        check_memory(result.features, expected[f"{name}.mem"], name)


def check_memory(features: mx.array, expected: np.ndarray, name: str) -> None:
    ours = np.array(features.astype(mx.float32))[::2, ::2]
    assert_close(ours, expected.transpose(1, 2, 0), MEMORY_TOL, name, OUTLIERS)


def check_recall(record: dict[str, Any], seen: Watched) -> None:
    t, said = record["frame"], record.get("recall")
    if said is None:
        assert t not in seen.recalls
        return
    found = seen.frames[t], seen.recalls[t].time_indices, seen.distances[t]
    assert found == (said["frames"], said["time_indices"], said["pointer_distances"]), t


def check_ious(golden: Golden, record: dict[str, Any], seen: Watched, tolerance: float) -> None:
    expected = golden.tensors.get(f"r{record['index']}.ious")
    if record.get("multi"):
        sight, choice = seen.choices[record["frame"]]
        assert choice.index == record["chosen"], record["frame"]
        np.testing.assert_allclose(sight.ious, expected, rtol=0, atol=tolerance)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("memory", "network")]


@pytest.mark.parametrize("name", ["motion", *SLOW])
def test_samurai(name: str) -> None:
    golden = goldens.read(f"video_policy_samurai_{name}")
    policy, network = Samurai(**golden.about["thresholds"]), name == "network"
    predictor = policy_runs.predictor(golden, policy)
    records = iter(golden.about["records"])
    with (
        policy_runs.watched(golden, policy) as seen,
        predictor.init_state(policy_runs.frames(golden), memory="ram") as state,
    ):

        def check(t: int, logits: np.ndarray) -> None:
            record, track = next(records), state.tracks[OBJECT]
            assert record["frame"] == t
            check_tensors(golden, record, track, logits, network)
            check_recall(record, seen)
            check_ious(golden, record, seen, 2e-3 if network else 0)
            if "phase" in record:
                check_motion(golden, record, seen, track, network)
            if "best_iou_score" in record:
                assert track.latest(t).iou == pytest.approx(record["best_iou_score"], abs=2e-3 if network else 1e-5)

        prompt = golden.about["script"][0]
        given = {key: prompt[key] for key in ("points", "labels", "box") if key in prompt}
        _, _, logits = predictor.add_new_points_or_box(state, 0, OBJECT, **given)
        check(0, logits)
        for t, _, logits in predictor.propagate_in_video(state):
            check(t, logits)
    assert next(records, None) is None


def check_motion(golden: Golden, record: dict[str, Any], seen: Watched, track: ObjectTrack, network: bool) -> None:
    t, name = record["frame"], f"r{record['index']}"
    notes, (sight, choice) = track.latest(t).notes, seen.choices[t]
    assert np.abs(sight.boxes - np.array(record["boxes"])).max() <= network, t  # pixels
    assert notes[1] == record["stable"], t
    assert (choice.motion is None) == (record["kf_score"] is None), t
    if choice.motion is not None:
        assert choice.motion == pytest.approx(record["kf_score"], abs=2e-2 if network else 1e-12), t
    # the same boxes give the same state; a pixel more or less in one moves it by as much
    np.testing.assert_allclose(notes[2:10], golden.tensors[f"{name}.kf_mean"], rtol=1e-12, atol=2 if network else 1e-9)
    covariance = notes[10:74].reshape(8, 8)
    np.testing.assert_allclose(covariance, golden.tensors[f"{name}.kf_cov"], rtol=1e-2 if network else 1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["growing", "known"])
def test_dam4sam(name: str) -> None:
    """The original sees one frame after the other, as a stream does; a session knows the length from the start."""
    golden = goldens.read(f"video_policy_dam4sam_{name}")
    policy, pictures = Dam4Sam(), policy_runs.frames(golden)
    predictor = policy_runs.predictor(golden, policy)
    records, mask = golden.about["records"], policy_runs.first_mask(golden)
    with policy_runs.watched(golden, policy) as seen:
        if name == "known":
            with predictor.init_state(pictures, memory="ram") as state:
                predictor.add_new_mask(state, 0, OBJECT, mask)
                track = state.tracks[OBJECT]
                for t, _, logits in predictor.propagate_in_video(state):
                    check_dam4sam(golden, records[t - 1], track, logits, seen) if t else None
                check_anchors(golden, track)
        else:
            with predictor.stream() as stream:
                stream.push(pictures[0])
                stream.add_new_mask(OBJECT, mask)
                for t, picture in enumerate(pictures[1:], 1):
                    _, _, logits = stream.push(picture)
                    track = stream.state.tracks[OBJECT]
                    check_dam4sam(golden, records[t - 1], track, logits, seen)
                check_anchors(golden, track)


def check_dam4sam(
    golden: Golden, record: dict[str, Any], track: ObjectTrack, logits: np.ndarray, seen: Watched
) -> None:
    t = record["frame"]
    check_recall(record, seen)
    check_tensors(golden, record, track, logits)
    check_ious(golden, record, seen, 0)
    assert seen.verdicts[t] == record["decision"], t
    assert seen.anchors[t] == record["conditioning_frames"], t
    assert (t in track.anchors) == record["added"], t
    assert (logits > 0).sum() == record["n_pixels"], t


def check_anchors(golden: Golden, track: ObjectTrack) -> None:
    """The distractor-resolving memory at the end."""
    kept = [name.removesuffix(".mem")[3:] for name in golden.tensors if name.startswith("drm") and "mem" in name]
    assert [*track.conditioning, *track.anchors] == sorted(map(int, kept))
    for t in map(int, kept):
        result = track.anchors.get(t) or track.conditioning[t]
        check_memory(result.features, golden.tensors[f"drm{t}.mem"], f"drm{t}")
        assert_close(np.array(result.pointer), golden.tensors[f"drm{t}.ptr"], POINTER_TOL, f"drm{t}")

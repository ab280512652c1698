"""Masks that tracking found before, in another process perhaps, become memories again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..masks.scores import ObjectScores
from .memory_bank import ObjectTrack
from .prompts import Prompts, mask_prompts
from .result_store import FrameResult
from .state import VideoState


def add(
    state: VideoState,
    frame_idx: int,
    obj_id: Any,
    mask: np.ndarray | Sequence[Any],
    scores: ObjectScores | None = None,
    reverse: bool = False,
) -> None:
    """Make a mask the tracked result of a frame: see ``SAM2VideoPredictor.add_tracked_mask``."""
    state.require_frame(frame_idx)
    given = mask_prompts(mask, state.tracker.config.image_size)
    track = state.tracks.get(obj_id) or ObjectTrack.empty(state.store)
    if frame_idx in track.prompts or frame_idx in track.conditioning:
        raise ValueError(f"object {obj_id!r} has a prompt on frame {frame_idx}, whose answer is its mask there")
    result = _result(state, track, frame_idx, given, scores)
    track.tracked[frame_idx] = state.tracker.commit(state.features(frame_idx), result)
    track.directions[frame_idx] = reverse
    state.tracks[obj_id] = track


def answer(state: VideoState, frame_idx: int, obj_id: Any, mask: np.ndarray, scores: ObjectScores) -> None:
    """Take a mask as the answer to the prompt on a frame that is not committed yet. Its points stay, to be refined."""
    track = state.tracks[obj_id]
    pending = track.pending if frame_idx in track.pending else track.pending_tracked
    given = mask_prompts(mask, state.tracker.config.image_size)
    pending[frame_idx] = _result(state, track, frame_idx, given, scores)


def _result(
    state: VideoState, track: ObjectTrack, frame_idx: int, given: Prompts, scores: ObjectScores | None
) -> FrameResult:
    """What a mask prompt would give, with the scores that the mask had."""
    tracker, features = state.tracker, state.features(frame_idx)
    result = tracker.prompt(features, track, given, frame_idx, reverse=None, num_frames=state.num_frames)
    if scores is None:
        return result
    score, iou = map(float, scores)
    may_recall = tracker.policy.may_recall(result.low_res_mask, iou, score, None)
    return replace(result, object_score=score, iou=iou, may_recall=may_recall)

"""Goldens of memory policies: the original code's answers, with prescribed decoder outputs, run by our predictor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np

import goldens
from goldens import Golden
from mlx_sam2.frames.opening import open_source
from mlx_sam2.model.results import Candidates
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.memory_bank import ObjectTrack, Recall
from mlx_sam2.video.policies.official import Choice, Official, Sight


def frames(golden: Golden) -> list[np.ndarray]:
    """The golden's frames with its edits."""
    with open_source(goldens.input_path(golden.about["video"])) as source:
        made = [np.array(frame) for frame in source]
    for t, edits in golden.about["frame_edits"].items():
        for kind, *values in edits:
            frame = made[int(t)]
            made[int(t)] = np.roll(frame, values, axis=(0, 1)) if kind == "roll" else frame // values[0]
    return made


def predictor(golden: Golden, policy: Official) -> SAM2VideoPredictor:
    model = golden.model()
    config = model.config.with_postprocessing(True, video=True)
    return SAM2VideoPredictor(model.with_config(config), fill_hole_area=8, memory_policy=policy)


@dataclass
class Watched:
    """What a policy did on each frame of one object."""

    frame: int = 0  # the one in work
    recalls: dict[int, Recall] = field(default_factory=dict)
    frames: dict[int, list[int]] = field(default_factory=dict)  # of the recalled memories
    distances: dict[int, list[int]] = field(default_factory=dict)  # of the recalled pointers
    choices: dict[int, tuple[Sight, Choice]] = field(default_factory=dict)
    verdicts: dict[int, str] = field(default_factory=dict)
    anchors: dict[int, list[int]] = field(default_factory=dict)  # with the conditioning frames


@contextmanager
def watched(golden: Golden, policy: Official) -> Iterator[Watched]:
    """Watch a policy, and let the decoder answer what the golden prescribes."""
    seen, kind = Watched(), type(policy)
    recall, choose, candidates = kind.recall, kind.choose, SAM2.candidates
    verdict = getattr(kind, "verdict", None)

    def recalling(self: Official, track: ObjectTrack, frame_idx: int, *args: Any) -> Recall:
        seen.frame = frame_idx
        found = seen.recalls[frame_idx] = recall(self, track, frame_idx, *args)
        known = {id(one.pointer): t for results in (track.tracked, track.conditioning) for t, one in results.items()}
        seen.frames[frame_idx] = [known[id(memory.pointer)] for memory in found.memories]
        seen.distances[frame_idx] = [abs(frame_idx - known[id(memory.pointer)]) for memory in found.pointers]
        seen.anchors[frame_idx] = [*track.conditioning, *track.anchors]
        return found

    def choosing(self: Official, sight: Sight, *args: Any) -> Choice:
        choice = choose(self, sight, *args)
        seen.choices[seen.frame] = sight, choice
        return choice

    def judging(self: Any, frame_idx: int, *args: Any) -> str:
        seen.verdicts[frame_idx] = verdict(self, frame_idx, *args)
        return seen.verdicts[frame_idx]

    def prescribed(self: SAM2, *args: Any, **kwargs: Any) -> Candidates:
        found, said = candidates(self, *args, **kwargs), golden.about["decoder"].get(str(seen.frame))
        if said is None or found.ious.shape[1] == 1:
            return found
        inside = mx.array(np.stack([shape(spec) for spec in said["masks"]]))[None]
        masks = mx.clip(found.masks, -4, 4) + mx.where(inside, 8.0, -8.0)
        return Candidates(masks, mx.array([said["ious"]]), found.tokens, mx.array([[said["score"]]]))

    patches = [(kind, "recall", recalling), (kind, "choose", choosing), (SAM2, "candidates", prescribed)]
    patches += [(kind, "verdict", judging)] if verdict else []
    for where, name, function in patches:
        mock.patch.object(where, name, function).start()
    try:
        yield seen
    finally:
        mock.patch.stopall()


def shape(spec: list[Any]) -> np.ndarray:
    """A shape on the 64 x 64 grid: ellipse, rectangle, nothing, a union, or one without another."""
    y, x = np.mgrid[:64, :64]
    kind, *values = spec
    if kind == "ellipse":
        return ((x - values[0]) / values[2]) ** 2 + ((y - values[1]) / values[3]) ** 2 <= 1
    if kind == "rect":
        return (x >= values[0]) & (x < values[2]) & (y >= values[1]) & (y < values[3])
    if kind == "union":
        return np.any([shape(part) for part in values], axis=0)
    if kind == "minus":
        return shape(values[0]) & ~shape(values[1])
    assert kind == "empty", kind
    return np.zeros((64, 64), bool)


def first_mask(golden: Golden) -> np.ndarray:
    """The mask on frame 0 that a golden of DAM4SAM starts with."""
    return np.unpackbits(golden.tensors["init_mask_bits"]).reshape(golden.about["video_hw"]).astype(bool)

"""SAMURAI: motion takes part in the choice of the mask, and only good frames are recalled.

Yang et al., "SAMURAI: Adapting Segment Anything Model for Zero-Shot Visual Tracking with Motion-Aware Memory",
arXiv 2411.11922. Written from a description of the published code; names and values of the settings are its own.

The published code follows one object, forward from frame 0. What it leaves open is decided so: motion and counter are
an object's own and go on from the frame before in the direction of travel; after a gap, at a turn, and where nothing
was found before, they start again. A correction is judged like a tracked frame. Nothing before the object's first
prompt is recalled. Backwards all is mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ...config.sam2 import SAM2Config
from ..memory_bank import ObjectTrack, Recall, select_conditioning
from .kalman import Motion, measurement
from .official import Choice, Notes, Official, Sight, notes, places

FIRST_RECALLED = 2  # frames 0 and 1 are recalled as the neighbour alone, as in the published code
LARGE = 144  # embed_dim of the large model, which has a motion weight of its own
PUBLISHED = (96, 112, LARGE)


class _State(NamedTuple):
    """An object's motion, and how many good frames in a row it has had."""

    stable: int
    motion: Motion

    @classmethod
    def read(cls, made: Notes) -> _State:
        return cls(int(made[1]), Motion(made[2:10], made[10:74].reshape(8, 8)))

    def written(self, direction: int) -> Notes:
        return notes(direction, self.stable, self.motion.mean, self.motion.covariance)


@dataclass(frozen=True)
class Samurai(Official):
    """SAMURAI with the settings of its configurations."""

    stable_frames_threshold: int = 15  # good frames before motion takes part in the choice
    stable_ious_threshold: float = 0.3  # predicted IoU under which the motion is thrown away
    min_obj_score_logits: float = -1.0  # object score above which a mask and its pointer are kept
    kf_score_weight: float = 0.15  # share of motion in the choice
    memory_bank_iou_threshold: float = 0.5  # a frame is recalled only above these three
    memory_bank_obj_score_threshold: float = 0.0
    memory_bank_kf_score_threshold: float = 0.0

    name: ClassVar[str] = "samurai"
    chooses: ClassVar[bool] = True
    needs_boxes: ClassVar[bool] = True

    @classmethod
    def published(cls, config: SAM2Config) -> Samurai:
        """The settings for a model: tiny, small and base+ weigh motion by 0.25, large and others by 0.15."""
        width = getattr(config.trunk, "embed_dim", None)
        return cls(kf_score_weight=0.25 if width in PUBLISHED and width != LARGE else 0.15)

    @property
    def presence(self) -> float:
        return self.min_obj_score_logits

    def choose(self, sight: Sight, before: Notes | None, direction: int) -> Choice:
        ious = sight.ious.astype(np.float64)
        best = int(ious.argmax())
        state = None if before is None else _State.read(before)
        if state is None or state.stable == 0:
            started = _State(1, Motion.start(measurement(sight.boxes[best])))
            return Choice(best, started.written(direction))
        predicted, motion = state.motion.predicted(), None
        least = np.float32(self.stable_ious_threshold)  # as the IoUs are, or one that equals it would be above it
        if state.stable < self.stable_frames_threshold:
            good, stable = ious[best] > least, state.stable + 1
        else:
            fits = np.array([predicted.iou(box) for box in sight.boxes])
            best = int((self.kf_score_weight * fits + (1 - self.kf_score_weight) * ious).argmax())
            good, stable, motion = ious[best] >= least, state.stable, float(fits[best])
        after = _State(stable, predicted.updated(measurement(sight.boxes[best]))) if good else _State(0, predicted)
        return Choice(best, after.written(direction), motion)

    def may_recall(self, low_res_mask: np.ndarray, iou: float, score: float, motion: float | None) -> bool:
        moves_well = motion is None or motion > self.memory_bank_kf_score_threshold
        good = iou > self.memory_bank_iou_threshold and score > self.memory_bank_obj_score_threshold
        return bool(good and moves_well)

    def recall(
        self,
        track: ObjectTrack,
        frame_idx: int,
        reverse: bool,
        num_frames: int | None,
        config: SAM2Config,
        max_memories: int | None = None,
    ) -> Recall:
        """All conditioning frames, then the latest good frames and the neighbour, good or not; rows go by rank."""
        chosen, others = select_conditioning(frame_idx, list(track.conditioning), config.max_cond_frames_in_attn)
        memories = [track.conditioning[t].memory for t in chosen]
        rows = [config.num_maskmem - 1] * len(chosen)
        recent = self._recent(track, frame_idx, reverse, num_frames, places(config, max_memories) - 1)
        for rank in reversed(range(len(recent))):
            result = track.passed(recent[rank], others)
            if result is not None:
                memories.append(result.memory)
                rows.append(rank)
        pointers, times = track.recall_pointers(frame_idx, reverse, num_frames, config, chosen, others)
        return Recall(memories, rows, pointers, times)

    def _recent(
        self, track: ObjectTrack, frame_idx: int, reverse: bool, num_frames: int | None, count: int
    ) -> list[int]:
        """Up to ``count`` frames, the newest first. The neighbour takes the first place, whether it has a result."""
        if reverse:
            stop = max((t for t in track.conditioning if t > frame_idx), default=num_frames or frame_idx)
            scan = range(frame_idx + 1, stop)
        else:
            first = min((t for t in track.conditioning if t < frame_idx), default=-1)
            scan = range(frame_idx - 1, first, -1)
        neighbour = frame_idx + 1 if reverse else frame_idx - 1
        recent = [neighbour]
        for t in scan:
            if len(recent) >= count:
                break
            if t >= FIRST_RECALLED and t != neighbour and track.tracked.may_recall(t):
                recent.append(t)
        return recent[:count]

    def still_needed(self, track: ObjectTrack, frame_idx: int, config: SAM2Config) -> set[int]:
        good = [t for t in track.tracked if t >= FIRST_RECALLED and track.tracked.may_recall(t)]
        return set(sorted(good)[-config.num_maskmem :])

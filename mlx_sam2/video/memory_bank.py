"""The memory of a video session: what is known of an object, and what a frame attends to.

``ObjectTrack.recall`` picks the memories by the official rules (``SAM2Base._prepare_memory_conditioned_features`` and
``select_closest_cond_frames``); ``policies`` has others. The results themselves lie in a ``ResultStore``.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..config.sam2 import SAM2Config
from ..masks.scores import ObjectScores
from .prompts import Prompts
from .result_store import FrameMemory, FrameResult, ResultMap, ResultStore

KEPT_ANCHORS = 8  # in a stream: more than are chosen of them


class Recall(NamedTuple):
    """The memories that one object attends to on a frame, in the order of attention."""

    memories: list[FrameMemory]
    time_indices: list[int]  # rows of maskmem_tpos_enc
    pointers: list[FrameMemory]
    pointer_times: list[float]  # distance in frames, divided by the largest one that is looked at


@dataclass
class ObjectTrack:
    """One object of a session: its prompts, committed results, and the edit in progress."""

    conditioning: ResultMap  # frames whose result is a user's, as committed to memory
    tracked: ResultMap  # all other frames that have a result ("non-conditioning" in the official code)
    anchors: ResultMap  # tracked frames that a memory policy remembers as if they were prompted, encoded again
    prompts: dict[int, Prompts] = field(default_factory=dict)
    pending: dict[int, FrameResult] = field(default_factory=dict)  # prompted, not yet committed: to conditioning
    pending_tracked: dict[int, FrameResult] = field(default_factory=dict)  # corrections: not to conditioning
    directions: dict[int, bool] = field(default_factory=dict)  # frames passed by propagation -> in reverse?
    locked: set[int] = field(default_factory=set)  # frames whose result no propagation replaces

    @classmethod
    def empty(cls, store: ResultStore) -> ObjectTrack:
        return cls(ResultMap(store), ResultMap(store), ResultMap(store))

    def result(self, frame_idx: int) -> FrameResult | None:
        """The committed result on a frame."""
        return self.conditioning.get(frame_idx) or self.tracked.get(frame_idx)

    def latest(self, frame_idx: int) -> FrameResult | None:
        """The edit in progress on a frame, or the committed result."""
        return self.pending.get(frame_idx) or self.pending_tracked.get(frame_idx) or self.result(frame_idx)

    def scores(self, frame_idx: int) -> ObjectScores | None:
        """Scores of ``latest``."""
        edited = self.pending.get(frame_idx) or self.pending_tracked.get(frame_idx)
        if edited is not None:
            return edited.scores
        return self.conditioning.scores(frame_idx) or self.tracked.scores(frame_idx)

    def stays(self, frame_idx: int) -> bool:
        """Whether propagation keeps the result on a frame: it has a user's prompt, or is locked."""
        return frame_idx in self.conditioning or (frame_idx in self.locked and frame_idx in self.tracked)

    def notes_before(self, frame_idx: int, reverse: bool) -> np.ndarray | None:
        """The notes to go on from: of the frame before in the direction of travel, or before those without any."""
        step = 1 if reverse else -1
        t = frame_idx + step
        while (result := self.latest(t)) is not None:
            if result.notes is not None:
                return result.notes if result.notes[0] in (0, -step) else None
            t += step
        return None

    def forget_anchors(self, frame_idx: int, reverse: bool) -> None:
        """Before a frame is passed: what was added on it and ahead of it no longer counts, unless it is locked."""
        for t in list(self.anchors):
            if (t <= frame_idx if reverse else t >= frame_idx) and t not in self.locked:
                del self.anchors[t]

    def clear(self) -> None:
        """Remove all prompts and results."""
        self.conditioning.clear()
        self.tracked.clear()
        self.anchors.clear()
        self.prompts.clear()
        self.pending.clear()
        self.pending_tracked.clear()
        self.directions.clear()
        self.locked.clear()

    def forget_before(
        self, frame_idx: int, config: SAM2Config, reach: int | None = None, needed: Collection[int] = ()
    ) -> None:
        """Drop results that no frame from ``frame_idx`` on can recall, going forward (for streams).

        Args:
            reach: how many frames back are kept; None: ``recall_distance``.
            needed: older tracked frames that are kept.
        """
        first = frame_idx - (recall_distance(config) if reach is None else reach)
        for frames in (self.tracked, self.directions, self.prompts):
            for t in [t for t in frames if t < first and not (frames is self.tracked and t in needed)]:
                del frames[t]
        for t in [t for t in list(self.anchors)[:-KEPT_ANCHORS] if t < first]:
            del self.anchors[t]
        limit = config.max_cond_frames_in_attn
        if limit > 0:
            # one more than is chosen: a choice comes in another order than taking all there are
            for t in [t for t in sorted(self.conditioning)[: -(limit + 1)] if t < first]:
                del self.conditioning[t]

    def recall(
        self,
        frame_idx: int,
        reverse: bool,
        num_frames: int | None,
        config: SAM2Config,
        max_memories: int | None = None,
    ) -> Recall:
        """Pick the memories for a frame: conditioning frames, then the latest others, oldest first.

        Args:
            num_frames: length of the video, or None if it is unknown. The official time encoding of pointers
                depends on it in videos shorter than ``max_obj_ptrs_in_encoder``.
            max_memories: an approximation: the most memories, one conditioning frame included; None for as many as
                the configuration says.
        """
        if config.num_maskmem == 0:  # a model without memory
            return Recall([], [], [], [])
        chosen, others = select_conditioning(frame_idx, list(self.conditioning), config.max_cond_frames_in_attn)
        memories = [self.conditioning[t].memory for t in chosen]
        time_indices = [config.num_maskmem - 1] * len(chosen)
        for distance in range(min(max_memories or config.num_maskmem, config.num_maskmem) - 1, 0, -1):
            result = self.passed(_frame_back(frame_idx, distance, reverse, config), others)
            if result is not None:
                memories.append(result.memory)
                time_indices.append(distance - 1)
        pointers, times = self.recall_pointers(frame_idx, reverse, num_frames, config, chosen, others)
        return Recall(memories, time_indices, pointers, times)

    def passed(self, frame_idx: int, others: list[int]) -> FrameResult | None:
        """A result as a non-conditioning memory: of a tracked frame, or of a conditioning one that was not chosen."""
        if frame_idx in self.tracked:
            return self.tracked[frame_idx]
        return self.conditioning[frame_idx] if frame_idx in others else None

    def recall_pointers(
        self,
        frame_idx: int,
        reverse: bool,
        num_frames: int | None,
        config: SAM2Config,
        chosen: list[int],
        others: list[int],
    ) -> tuple[list[FrameMemory], list[float]]:
        if not config.use_obj_ptrs_in_encoder:
            return [], []
        limit = config.max_obj_ptrs_in_encoder
        limit = limit if num_frames is None else min(num_frames, limit)
        pointers, distances = [], []
        for t in chosen:
            # a reference, below 0, stands before the first frame of a way back too
            place = num_frames - 1 - t if reverse and t < 0 and num_frames is not None else t
            if config.only_obj_ptrs_in_the_past_for_eval and (place < frame_idx if reverse else place > frame_idx):
                continue
            distance = (frame_idx - place) * (-1 if reverse else 1)
            pointers.append(self.conditioning[t].memory)
            distances.append(distance if config.use_signed_tpos_enc_to_obj_ptrs else abs(distance))
        for distance in range(1, limit):
            t = frame_idx + distance if reverse else frame_idx - distance
            if t < 0 or (num_frames is not None and t >= num_frames):
                break
            result = self.passed(t, others)
            if result is not None:
                pointers.append(result.memory)
                distances.append(distance)
        # a video of one frame would divide by zero in the official code, and lose the object for good
        return pointers, [d / max(limit - 1, 1) for d in distances]


def recall_distance(config: SAM2Config) -> int:
    """How many frames back the farthest non-conditioning memory or pointer may lie."""
    stride = config.memory_temporal_stride_for_eval
    return max(stride * config.num_maskmem, config.max_obj_ptrs_in_encoder)


def _frame_back(frame_idx: int, distance: int, reverse: bool, config: SAM2Config) -> int:
    """The frame that counts as ``distance`` back: the neighbour, then every r-th frame (r: the temporal stride)."""
    stride = config.memory_temporal_stride_for_eval
    if distance == 1:
        return frame_idx + 1 if reverse else frame_idx - 1
    if reverse:
        return -(-(frame_idx + 2) // stride) * stride + (distance - 2) * stride
    return (frame_idx - 2) // stride * stride - (distance - 2) * stride


def select_conditioning(frame_idx: int, frames: list[int], limit: int) -> tuple[list[int], list[int]]:
    """Conditioning frames to attend to, and the rest: the closest before, the closest from here on, then the nearest.

    ``frames`` in the order of insertion; ``limit`` -1 takes all, in that order.
    """
    if limit == -1 or len(frames) <= limit:
        return frames, []
    before = [t for t in frames if t < frame_idx]
    after = [t for t in frames if t >= frame_idx]
    chosen = ([max(before)] if before else []) + ([min(after)] if after else [])
    rest = sorted((t for t in frames if t not in chosen), key=lambda t: abs(t - frame_idx))
    chosen += rest[: limit - len(chosen)]
    return chosen, [t for t in frames if t not in chosen]

"""The memory of a video session: results of frames, per object, with bounded RAM.

``ObjectTrack.recall`` picks the memories that a frame attends to (official
``SAM2Base._prepare_memory_conditioned_features`` and ``select_closest_cond_frames``); ``ResultStore`` keeps the
results, the latest in RAM and the rest in one temporary file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..config.sam2 import SAM2Config
from ..masks.scores import ObjectScores
from . import slot_file
from .prompts import Prompts
from .slot_file import SlotFile

KEPT_ANCHORS = 8  # in a stream: more than are chosen of them
NOTES = 80  # numbers that the file has room for
REMEDY = f"{slot_file.REMEDY}, or use memory='ram'"


class FrameMemory(NamedTuple):
    """The memory of one object on one frame, which attention recalls."""

    features: mx.array  # config.memory_shape, bfloat16, as the official code stores them
    pointer: mx.array  # (C,) float32


@dataclass(frozen=True)
class FrameResult:
    """The result for one object on one frame."""

    low_res_mask: np.ndarray  # (4h, 4w) float32 logits
    pointer: mx.array  # (C,) float32
    object_score: float
    features: mx.array | None = None  # config.memory_shape, bfloat16; None until the frame is committed to memory
    iou: float = 1.0  # the decoder's estimate for this mask; 1 for a mask that the user gave
    may_recall: bool = True  # of a tracked frame, for memory policies that choose
    notes: np.ndarray | None = None  # (n,) float64, what a memory policy hands on; the first is the direction

    @property
    def scores(self) -> ObjectScores:
        return ObjectScores(self.object_score, self.iou)

    @property
    def memory(self) -> FrameMemory:
        if self.features is None:
            raise RuntimeError("this frame has not been committed to memory")
        return FrameMemory(self.features, self.pointer)


class ResultStore:
    """Frame results by slot number: up to ``capacity`` in RAM, and the least recently used others in a file.

    The file is temporary and has no name; it lies in the folder that TMPDIR names. The system frees it when the process
    ends, however it ends. Results come back with the same bits.
    """

    def __init__(self, on_disk: bool) -> None:
        self.on_disk = on_disk
        self.capacity = 0
        self._recent: OrderedDict[int, FrameResult] = OrderedDict()
        self.closed = False
        self._file = SlotFile(REMEDY) if on_disk else None
        self._clean: set[int] = set()  # slots in RAM whose record in the file is current
        self._free: list[int] = []
        self._next = 0
        self._layout: np.dtype | None = None

    def require_open(self) -> None:
        """Raise a ValueError after ``close``."""
        if self.closed:
            raise ValueError("this session or stream has been closed; open another one")

    def add(self, result: FrameResult) -> int:
        """Keep a result; returns its slot. OSError if the file cannot grow; the store is unchanged then."""
        self.require_open()
        self._make_room()
        if self._free:
            slot = self._free.pop()
        else:
            slot, self._next = self._next, self._next + 1
        self._recent[slot] = result
        return slot

    def get(self, slot: int) -> FrameResult:
        self.require_open()
        if slot not in self._recent:
            self._make_room()
            self._recent[slot] = self._read(slot)
            self._clean.add(slot)
        self._recent.move_to_end(slot)
        return self._recent[slot]

    def discard(self, slot: int) -> None:
        self._recent.pop(slot, None)
        self._clean.discard(slot)
        self._free.append(slot)

    def close(self) -> None:
        """Release the file. Nothing can be read afterwards."""
        self.closed = True
        if self._file is not None:
            self._file.close()
        self._recent.clear()

    def _make_room(self) -> None:
        """Move the oldest results to the file until one more fits."""
        while self.on_disk and len(self._recent) >= max(self.capacity, 1):
            slot = next(iter(self._recent))
            if slot not in self._clean:
                self._write(slot, self._recent[slot])
            self._clean.discard(slot)
            del self._recent[slot]  # only now: writing may fail

    def _write(self, slot: int, result: FrameResult) -> None:
        if self._layout is None:  # every result of a session has the same shapes
            features = (0,) if result.features is None else result.features.shape
            fields = [
                ("object_score", np.float64),
                ("iou", np.float64),
                ("may_recall", np.bool_),
                ("notes", np.float64, (NOTES,)),
                ("low_res_mask", np.float32, result.low_res_mask.shape),
                ("pointer", np.float32, result.pointer.shape),
                ("features", np.uint16, features),
            ]
            self._layout = np.dtype(fields)
        record = np.zeros((), self._layout)
        record["object_score"] = result.object_score
        record["iou"], record["may_recall"] = result.iou, result.may_recall
        record["notes"] = np.nan
        if result.notes is not None:
            record["notes"][: len(result.notes)] = result.notes
        record["low_res_mask"] = result.low_res_mask
        record["pointer"] = np.array(result.pointer)
        if result.features is not None:
            record["features"] = np.array(result.features.view(mx.uint16))
        self._file.write(slot, record)

    def _read(self, slot: int) -> FrameResult:
        record = self._file.read(slot, self._layout)
        bits = record["features"]
        features = mx.array(bits).view(mx.bfloat16) if bits.size else None
        pointer = mx.array(record["pointer"])
        mx.eval(pointer)
        notes = None if np.isnan(record["notes"][0]) else np.array(record["notes"])
        facts = float(record["object_score"]), features, float(record["iou"]), bool(record["may_recall"])
        return FrameResult(np.array(record["low_res_mask"]), pointer, *facts, notes)


class ResultMap(MutableMapping[int, FrameResult]):
    """Results by frame number, in the order of insertion. The results themselves lie in a shared ``ResultStore``."""

    def __init__(self, store: ResultStore) -> None:
        self._store = store
        self._slots: dict[int, int] = {}
        self._facts: dict[int, tuple[ObjectScores, bool]] = {}  # here too: to look at many frames reads no file

    def scores(self, frame_idx: int) -> ObjectScores | None:
        return self._facts[frame_idx][0] if frame_idx in self._facts else None

    def may_recall(self, frame_idx: int) -> bool:
        """Whether there is a result that a memory policy may recall."""
        return frame_idx in self._facts and self._facts[frame_idx][1]

    def __getitem__(self, frame_idx: int) -> FrameResult:
        return self._store.get(self._slots[frame_idx])

    def __setitem__(self, frame_idx: int, result: FrameResult) -> None:
        old = self._slots.get(frame_idx)
        self._slots[frame_idx] = self._store.add(result)  # an overwritten frame keeps its place in the order
        self._facts[frame_idx] = result.scores, result.may_recall
        if old is not None:
            self._store.discard(old)

    def __delitem__(self, frame_idx: int) -> None:
        self._store.discard(self._slots.pop(frame_idx))
        del self._facts[frame_idx]

    def __contains__(self, frame_idx: object) -> bool:
        return frame_idx in self._slots

    def __iter__(self) -> Iterator[int]:
        return iter(self._slots)

    def __len__(self) -> int:
        return len(self._slots)


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

"""Results of frames, per object, with bounded RAM: the latest stay in it, the rest lie in one temporary file."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..masks.scores import ObjectScores
from . import slot_file
from .slot_file import SlotFile

NOTES = 80  # numbers of a memory policy that the file has room for
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

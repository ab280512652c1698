"""The protocol of memory policies; its base class is the official policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...config.sam2 import SAM2Config
from ..memory_bank import ObjectTrack, Recall, recall_distance
from ..result_store import FrameResult

Notes = np.ndarray  # (n,) float64, what a policy hands on from frame to frame; the first is the direction
FORWARD, BACKWARD, EITHER = 1, -1, 0  # EITHER: at a prompt, where nothing came before


class Sight(NamedTuple):
    """What the decoder offers for one object on one frame."""

    ious: np.ndarray  # (M,) float32, predicted IoU of the candidates
    boxes: np.ndarray | None  # (M, 4) of the candidates, if the policy ``needs_boxes``


class Choice(NamedTuple):
    """The candidate that is taken."""

    index: int
    notes: Notes | None = None
    motion: float | None = None  # how well it fits the object's motion, 0..1, where that took part in the choice


class Review(NamedTuple):
    """What a policy makes of a tracked frame."""

    notes: Notes | None
    keep: bool  # remember the frame as an anchor, beside the frames with prompts


@dataclass(frozen=True)
class Official:
    """SAM 2: the mask with the highest predicted IoU; the conditioning frames and the last six others.

    Subclasses replace the verbs. Settings are fields; the state of an object lies in the ``notes`` of its results, so
    that a run goes on from whatever frame lies before it, whether tracked, corrected, locked or in a stream.
    """

    name: ClassVar[str] = "official"
    chooses: ClassVar[bool] = False  # False: the choice is the model's own, in one graph with the memory encoder
    needs_boxes: ClassVar[bool] = False
    reviews: ClassVar[bool] = False
    corrections_condition: ClassVar[bool] = False  # every correction becomes a conditioning frame
    fills_holes: ClassVar[bool] = True  # as the predictor's fill_hole_area says
    multimask_max_points: ClassVar[int | None] = None  # None: as the configuration says

    @property
    def presence(self) -> float:
        """The object score above which a mask and its pointer are kept."""
        return 0.0

    def reach(self, config: SAM2Config) -> int:
        """How many frames back a stream keeps in any case."""
        return recall_distance(config)

    def choose(self, sight: Sight, before: Notes | None, direction: int) -> Choice:
        """Choose among the candidates. ``before``: the notes of the frame before; None at a start or after a gap."""
        return Choice(int(sight.ious.argmax()))

    def may_recall(self, low_res_mask: np.ndarray, iou: float, score: float, motion: float | None) -> bool:
        """Whether a result is fit to be recalled later. What that means is up to ``recall``."""
        return True

    def review(
        self,
        frame_idx: int,
        result: FrameResult,
        others: Callable[[], list[np.ndarray]],
        before: Notes | None,
        direction: int,
        video_size: tuple[int, int],
    ) -> Review:
        """Look at the result of a tracked frame and at the candidates not taken, ``others()``: (4h, 4w) logits each."""
        return Review(result.notes, False)

    def recall(
        self,
        track: ObjectTrack,
        frame_idx: int,
        reverse: bool,
        num_frames: int | None,
        config: SAM2Config,
        max_memories: int | None = None,
    ) -> Recall:
        """Pick the memories for a frame, in the order of attention. Arguments as for ``ObjectTrack.recall``."""
        return track.recall(frame_idx, reverse, num_frames, config, max_memories)

    def still_needed(self, track: ObjectTrack, frame_idx: int, config: SAM2Config) -> set[int]:
        """Frames older than ``reach`` that a frame from ``frame_idx`` on may recall, in a stream."""
        return set()


def places(config: SAM2Config, max_memories: int | None) -> int:
    """How many memories are recalled at most."""
    return min(max_memories or config.num_maskmem, config.num_maskmem)


def notes(direction: int, *values: Any) -> Notes:
    return np.concatenate([[direction], *(np.ravel(np.asarray(value, np.float64)) for value in values)])

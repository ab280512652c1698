"""DAM4SAM: frames on which a look-alike was told apart are remembered for good.

Videnovic, Lukezic, Kristan, "A Distractor-Aware Memory for Visual Object Tracking with SAM2", CVPR 2025,
arXiv 2411.17576. Written from a description of the published code, whose numbers the settings are.

The memory has two parts. *Anchors* (the paper's distractor-resolving memory) are the frames with prompts and up to
three that were added; they have no place in time. The others are recent frames, those on which nothing was seen left
out. A tracked frame is added if the mask is sure and of the usual size, and another candidate showed a second object.

The published code follows one object, forward from frame 0. What it leaves open is decided so: sizes and additions are
an object's own; "frame 0" is its first prompt; prompts and corrections are anchors without any test. Additions are no
prompts: a run that passes them again, or goes on from before them, forgets them and may add others. Backwards all is
mirrored. A stream of unknown length counts the frames seen so far, as the published tracker does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from ...config.sam2 import SAM2Config
from ...masks.components import connected_components
from ..memory_bank import ObjectTrack, Recall
from ..result_store import FrameMemory, FrameResult
from ..video_masks import video_masks
from .official import Notes, Official, Review, notes, places

THIN = 2  # pixels; the published code calls boxes that are this thin alike


class _Sizes(NamedTuple):
    """When the object was last added, and its latest sizes in pixels of the video."""

    last_added: float  # frame; NaN: never
    count: int  # frames seen
    seen: np.ndarray  # (N, 2): the last visible ones, their number in the count and their size

    @classmethod
    def read(cls, made: Notes | None, window: int) -> _Sizes:
        if made is None:
            return cls(np.nan, 0, np.zeros((0, 2)))
        seen = made[3 : 3 + 2 * window].reshape(window, 2)
        return cls(float(made[1]), int(made[2]), seen[~np.isnan(seen[:, 0])])

    def with_size(self, size: int, window: int, history: int) -> _Sizes:
        seen = np.concatenate([self.seen, [[self.count, size]]]) if size else self.seen
        seen = seen[seen[:, 0] > self.count - history]
        return self._replace(count=self.count + 1, seen=seen[-window:])

    def written(self, direction: int, window: int) -> Notes:
        seen = np.full((window, 2), np.nan)
        seen[: len(self.seen)] = self.seen
        return notes(direction, self.last_added, self.count, seen)


@dataclass(frozen=True)
class Dam4Sam(Official):
    """DAM4SAM. The first two settings have published names; the others are numbers of its code."""

    max_cond_frames_in_attn: int = 4  # anchors that are recalled
    memory_temporal_stride_for_eval: int = 5  # of the recent frames, after the neighbour
    min_iou: float = 0.8  # predicted IoU above which a frame may be added
    size_ratio: tuple[float, float] = (0.8, 1.2)  # of the mask to its median size
    size_window: int = 10  # sizes that the median is over,
    size_history: int = 300  # in the last so many frames
    spacing: int = 5  # frames; additions are further apart
    max_box_iou: float = 0.7  # of the mask's box with one around a second object too

    name: ClassVar[str] = "dam4sam"
    chooses: ClassVar[bool] = True
    reviews: ClassVar[bool] = True
    corrections_condition: ClassVar[bool] = True
    fills_holes: ClassVar[bool] = False  # the answers of the published code hold open ones
    multimask_max_points: ClassVar[int | None] = 3

    def reach(self, config: SAM2Config) -> int:
        return max(self.memory_temporal_stride_for_eval * config.num_maskmem, config.max_obj_ptrs_in_encoder)

    def may_recall(self, low_res_mask: np.ndarray, iou: float, score: float, motion: float | None) -> bool:
        return bool((low_res_mask > 0).any())

    # ---- what is remembered for good

    def review(
        self,
        frame_idx: int,
        result: FrameResult,
        others: Callable[[], list[np.ndarray]],
        before: Notes | None,
        direction: int,
        video_size: tuple[int, int],
    ) -> Review:
        mask = video_masks([result.low_res_mask], video_size, non_overlap=False)[0, 0] > 0
        sizes = _Sizes.read(before, self.size_window)
        sizes = sizes.with_size(int(mask.sum()), self.size_window, self.size_history)
        keep = self.verdict(frame_idx, result.iou, mask, sizes, others) == "added"
        if keep:
            sizes = sizes._replace(last_added=frame_idx)
        return Review(sizes.written(direction, self.size_window), keep)

    def verdict(self, frame_idx: int, iou: float, mask: np.ndarray, sizes: _Sizes, others: Callable[[], list]) -> str:
        """ "added", or the first reason why a frame is not. ``sizes`` include this frame's; mask (H, W) bool."""
        if not np.float32(iou) > np.float32(self.min_iou):  # as the model gives it: 0.8 is not above 0.8
            return "no_iou"
        if not mask.any():
            return "absent"
        if sizes.count < 2 or not self.size_ratio[0] <= mask.sum() / np.median(sizes.seen[:, 1]) <= self.size_ratio[1]:
            return "no_ratio"
        if abs(frame_idx - sizes.last_added) <= self.spacing:  # never for NaN
            return "spacing"
        box_ious = [iou for low_res in others() if (iou := box_iou_with(mask, low_res)) is not None]
        if not box_ious:
            return "no_alternative"
        return "added" if min(box_ious) <= self.max_box_iou else "boxes_alike"

    # ---- what is recalled

    def recall(
        self,
        track: ObjectTrack,
        frame_idx: int,
        reverse: bool,
        num_frames: int | None,
        config: SAM2Config,
        max_memories: int | None = None,
    ) -> Recall:
        view = _View(track, frame_idx, reverse, frame_idx + 1 if num_frames is None else num_frames)
        most = places(config, max_memories)
        anchors = self._anchors(view, min(self.max_cond_frames_in_attn, most))
        recent = self._recent(view, anchors, most - len(anchors))
        memories = [view.memory(t) for t in [*anchors, *reversed(recent)]]
        rows = [config.num_maskmem - 1] * len(anchors) + list(reversed(range(len(recent))))
        return Recall(memories, rows, *self._pointers(view, anchors, config))

    def _anchors(self, view: _View, count: int) -> list[int]:
        """The newest before the neighbour, the object's first prompt, then the nearest."""
        known = view.anchors
        before = [t for t in known if (view.place(t) - view.neighbour) * view.step > 0]
        chosen = [min(before, key=view.distance)] if before else []
        first = next(iter(view.track.conditioning), None)
        if first is not None and first not in chosen:
            chosen.append(first)
        rest = [t for t in known if t not in chosen and t != view.neighbour]
        return [*chosen, *sorted(rest, key=view.distance)][:count]

    def _recent(self, view: _View, anchors: list[int], count: int) -> list[int]:
        """Up to ``count`` frames on which the object was seen, the newest first: the neighbour, then a grid."""
        stride, step, found = self.memory_temporal_stride_for_eval, view.step, []
        t = view.neighbour
        neighbour_serves = t not in anchors and view.sees(t)
        while not neighbour_serves and view.is_inside(t) and not view.serves(t):
            t += step
        for place in range(count):
            if place:
                t = (t - 1) // stride * stride if step < 0 else -(-(t + 1) // stride) * stride
                while view.is_inside(t) and not view.serves(t):
                    t += step * stride
            if not view.is_inside(t) and not (place == 0 and neighbour_serves):
                break
            found.append(t)
        return found

    def _pointers(self, view: _View, anchors: list[int], config: SAM2Config) -> tuple[list[FrameMemory], list[float]]:
        if not config.use_obj_ptrs_in_encoder:
            return [], []
        limit = min(view.num_frames, config.max_obj_ptrs_in_encoder)
        frames = [t for t in anchors if (view.place(t) - view.frame) * view.step >= 0]
        near = (view.frame + view.step * distance for distance in range(1, limit))
        frames += [t for t in near if t not in anchors and view.sees(t)]
        return [view.memory(t) for t in frames], [view.distance(t) / max(limit - 1, 1) for t in frames]

    def still_needed(self, track: ObjectTrack, frame_idx: int, config: SAM2Config) -> set[int]:
        view, stride = _View(track, frame_idx, False, frame_idx + 1), self.memory_temporal_stride_for_eval
        seen = sorted(t for t in track.tracked if view.serves(t))
        return {*seen[-1:], *[t for t in seen if t % stride == 0][-config.num_maskmem :]}


class _View:
    """An object's results as they lie behind a frame, in the direction of travel."""

    def __init__(self, track: ObjectTrack, frame: int, reverse: bool, num_frames: int) -> None:
        self.track, self.frame, self.num_frames = track, frame, num_frames
        self.step = 1 if reverse else -1  # to the frame before, in the direction of travel
        self.neighbour = frame + self.step
        behind = [t for t in track.conditioning if (t - frame) * self.step > 0]
        self._end = max(behind, default=num_frames) if reverse else min(behind, default=0)

    @property
    def anchors(self) -> list[int]:
        """Frames with prompts, then those that were added, in the order in which they came."""
        conditioning = self.track.conditioning
        return [*conditioning, *(t for t in self.track.anchors if t not in conditioning)]

    def place(self, t: int) -> int:
        """Where a result stands: a reference, below 0, before the first frame of a way back too."""
        return self.num_frames - 1 - t if t < 0 and self.step > 0 else t

    def distance(self, t: int) -> int:
        return abs(self.place(t) - self.frame)

    def is_inside(self, t: int) -> bool:
        """Whether a frame lies before the first prompt, or before the end of the video."""
        return (self._end - t) * self.step > 0

    def sees(self, t: int) -> bool:
        """Whether the object was seen on a frame."""
        return self.track.conditioning.may_recall(t) or self.track.tracked.may_recall(t)

    def serves(self, t: int) -> bool:
        """Whether the object was seen on a frame that is no anchor."""
        track = self.track
        return t not in track.conditioning and t not in track.anchors and track.tracked.may_recall(t)

    def memory(self, t: int) -> FrameMemory:
        result = self.track.anchors.get(t) or self.track.result(t)
        return result.memory


def box_iou_with(mask: np.ndarray, low_res: np.ndarray) -> float | None:
    """IoU of a mask's box with the one around it and the largest part of another candidate outside it.

    Args:
        mask: (H, W) bool with a pixel.
        low_res: (4h, 4w) logits of the candidate.

    Returns:
        None if the candidate has nothing outside the mask. Boxes end at their last pixel's number, not after it.
    """
    outside = (video_masks([low_res], mask.shape, non_overlap=False)[0, 0] > 0) & ~mask
    if not outside.any():
        return None
    x0, y0, x1, y1 = _box(mask)
    parts, areas = connected_components(outside)
    a0, b0, a1, b1 = _box(mask | (parts == areas.argmax()))
    if min(a1 - a0, b1 - b0) <= THIN:
        return 1.0
    return (x1 - x0) * (y1 - y0) / ((a1 - a0) * (b1 - b0))


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])

"""Prompts on a video answered, and objects tracked, in a state of the video predictor.

The page sends the whole prompt of a frame; the predictor takes clicks one after the other. New clicks are added. If
clicks were taken away, the frame is prompted again, or the whole object if the tracker remembers that frame.

What the tracker remembers of a frame counts only as long as the session has the mask that it gave: undo takes it away
with the mask. The tracks of removed objects are laid aside, so that undo brings their memory back too. Masks that the
session has and the tracker does not know, after a restart say, become memories where tracking goes on from them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..masks.rle import rle_to_mask
from ..masks.scores import ObjectScores
from ..video import tracked_mask
from ..video.prompts import Prompts as TrackPrompts
from ..video.video_masks import video_masks
from .image_work import as_given, as_mask, clicks_of
from .schemas import Mask, PreviewAsk, Prompt

if TYPE_CHECKING:
    from ..frames.source import FrameSource
    from ..model.results import ImageFeatures
    from ..sam2_video_predictor import SAM2VideoPredictor
    from ..video.memory_bank import ObjectTrack

Prompts = dict[int, dict[int, Prompt]]  # object -> frame -> prompt
Masks = dict[int, dict[int, Mask]]  # object -> frame -> mask
ASIDE = 8  # tracks of removed objects


class Aside(NamedTuple):
    """A removed object: what it was prompted with, its track, and the masks that tracking gave."""

    obj_id: int
    prompts: dict[int, Prompt]
    track: ObjectTrack
    found: dict[int, Mask]


class VideoWork:
    """A state of the predictor and the prompts that it was given. Only the worker thread uses it.

    Args:
        prompts, masks: of a session that is opened again.
    """

    def __init__(self, predictor: SAM2VideoPredictor, source: FrameSource, prompts: Prompts, masks: Masks) -> None:
        self.predictor = predictor
        self.state = predictor.init_state(source)
        self._applied: Prompts = {}
        self._found: Masks = {}  # by tracking
        self._given: dict[int, set[int]] = {}  # frames whose masks the session had already, by object
        self._kept: Masks = {}  # what results were made from that the tracker has from masks: shown as they are
        self._aside: list[Aside] = []  # the latest last
        self.restore(prompts, masks)

    def answer(self, obj_id: int, frame: int, prompt: Prompt) -> Mask | None:
        """Replace the prompt of an object on a frame. Returns its mask there, None for an empty prompt."""
        old = self._applied.get(obj_id, {}).get(frame)
        if old is not None and not _extends(prompt, old):
            self._take_back(obj_id, frame)
            old = None
        if prompt.is_empty:
            return None
        self._add(obj_id, frame, prompt, old)
        if prompt.mask is not None and not prompt.points and prompt.box is None:
            return as_given(prompt.mask, prompt.score)
        return self._mask(obj_id, frame)

    def restore(self, prompts: Prompts, masks: Masks) -> None:
        """Replace the prompts of all objects, and forget what gave other masks than these."""
        for obj_id, applied in list(self._applied.items()):
            wanted = prompts.get(obj_id, {})
            if applied == wanted and applied:
                continue
            if self._laid_aside(obj_id, wanted) or not self._drop_prompts(obj_id, wanted):
                self.remove(obj_id)
        for obj_id, wanted in prompts.items():
            if obj_id not in self._applied and (aside := self._laid_aside(obj_id, wanted)):
                self._aside = [other for other in self._aside if other is not aside]
                self.state.tracks[obj_id] = aside.track
                self._applied[obj_id], self._found[obj_id] = aside.prompts, aside.found
            applied = self._applied.get(obj_id, {})
            for frame in sorted(wanted):
                if applied.get(frame) != wanted[frame]:
                    self._add(obj_id, frame, wanted[frame], applied.get(frame))
                    if wanted[frame].points or wanted[frame].box is not None:
                        self._keep_answer(obj_id, frame, masks.get(obj_id, {}).get(frame))
        for obj_id, track in self.state.tracks.items():
            shown, found = masks.get(obj_id, {}), self._found.get(obj_id, {})
            for t in list(track.tracked):
                if t not in track.prompts and not _same(shown.get(t), found.get(t)):
                    del track.tracked[t]
                    track.directions.pop(t, None)
        self._given = {obj_id: set(shown) for obj_id, shown in masks.items()}

    def recollect(self, frame: int, reverse: bool, masks: Masks, objects: list[int] | None) -> Iterator[int]:
        """Make memories of the masks before a frame that tracking had found in an earlier run; yields after each.

        Arguments as for ``propagate``.
        """
        tracker, step = self.state.tracker, 1 if reverse else -1
        reach = tracker.policy.reach(tracker.config)
        for t in range(frame + step * reach, frame, -step):
            for obj_id in self.state.obj_ids:
                if (objects is None or obj_id in objects) and self._recollected(obj_id, t, reverse, masks):
                    yield t

    def _recollected(self, obj_id: int, t: int, reverse: bool, masks: Masks) -> bool:
        """Make a memory of a mask that the session had already, if the tracker has none there."""
        mask, track = masks.get(obj_id, {}).get(t), self.state.tracks.get(obj_id)  # removed between two steps: None
        if track is None or mask is None or t not in self._given.get(obj_id, ()) or track.latest(t) is not None:
            return False
        self.predictor.add_tracked_mask(self.state, t, obj_id, rle_to_mask(mask.rle), _scores(mask), reverse)
        self._found.setdefault(obj_id, {})[t] = self._kept.setdefault(obj_id, {})[t] = mask
        return True

    def has_forgotten(self, frame: int, reverse: bool, masks: Masks, objects: list[int] | None) -> bool:
        """Whether tracking from a frame begins without the memory of tracked frames just before it."""
        before = frame + 1 if reverse else frame - 1
        tracks = {n: track for n, track in self.state.tracks.items() if objects is None or n in objects}
        return any(before in masks.get(n, {}) and track.latest(before) is None for n, track in tracks.items())

    def remove(self, obj_id: int) -> None:
        """Remove an object; its track is laid aside."""
        track = self.state.tracks.pop(obj_id, None)
        prompts, found = self._applied.pop(obj_id, {}), self._found.pop(obj_id, {})
        self._kept.pop(obj_id, None)
        if track is None:
            return
        self._aside.append(Aside(obj_id, prompts, track, found))
        for old in self._aside[:-ASIDE]:
            old.track.clear()
        del self._aside[:-ASIDE]

    def encode(self, frame: int) -> ImageFeatures:
        """Features of a frame. Only the latest frame's are kept."""
        self.state.require_frame(frame)
        return self.state.features(frame)

    def preview(self, ask: PreviewAsk) -> Mask:
        """The mask that a first click on a frame would give."""
        height, width = self.state.video_size
        scale = self.predictor.image_size / np.array([width, height], np.float32)
        click = TrackPrompts(np.array([[ask.x, ask.y]], np.float32) * scale, np.ones(1, np.int32))
        self.state.require_frame(ask.frame)
        proposal = self.state.propose(ask.frame, click)
        return as_mask(proposal.mask, *proposal.track.scores(ask.frame))

    def propagate(
        self,
        frame: int,
        count: int,
        reverse: bool,
        masks: Masks,
        locks: dict[int, list[int]],
        objects: list[int] | None,
    ) -> Iterator[tuple[int, dict[int, Mask]]]:
        """Follow objects from a frame: its number, and their masks by object, for each.

        Args:
            count: how many frames to go beyond it.
            masks: of the session.
            locks: frames, by object, whose mask stays and is gone on from.
            objects: None for all.

        Raises:
            RuntimeError: no object has a prompt.
        """
        for obj_id, track in self.state.tracks.items():
            track.locked = set(locks.get(obj_id, ()))
        self._recollect_locked(frame, reverse, masks)
        for t, obj_ids, logits in self.predictor.propagate_in_video(self.state, frame, count, reverse, objects):
            scores = self.state.scores(t)
            found = {obj_id: as_mask(logits[i, 0] > 0, *scores[obj_id]) for i, obj_id in enumerate(obj_ids)}
            for obj_id in found:
                if t in self._kept.get(obj_id, {}) and self.state.tracks[obj_id].stays(t):
                    found[obj_id] = self._kept[obj_id][t]
            for obj_id, mask in found.items():
                self._found.setdefault(obj_id, {})[t] = mask
            yield t, found
            self._recollect_locked(t - 1 if reverse else t + 1, reverse, masks)

    def _recollect_locked(self, t: int, reverse: bool, masks: Masks) -> None:
        """Before tracking comes to a frame: the masks that are locked there, if the tracker does not know them."""
        for obj_id, track in self.state.tracks.items():
            if t in track.locked:
                self._recollected(obj_id, t, reverse, masks)

    def logits(self, obj_id: int, frame: int, shown: Mask) -> np.ndarray | None:
        """Low-resolution logits (h, w) of a mask; None if the tracker has none, or of another mask."""
        track = self.state.tracks.get(obj_id)
        result = None if track is None else track.latest(frame)
        if result is None or not _same(shown, self._mask(obj_id, frame)):
            return None
        return result.low_res_mask

    def close(self) -> None:
        self.state.close()

    # ---- one object on one frame

    def _laid_aside(self, obj_id: int, prompts: dict[int, Prompt]) -> Aside | None:
        """The object as it was removed with these prompts, if it was, the latest time."""
        for aside in reversed(self._aside):
            if aside.obj_id == obj_id and aside.prompts == prompts:
                return aside
        return None

    def _drop_prompts(self, obj_id: int, wanted: dict[int, Prompt]) -> bool:
        """Take back the prompts that an object is not to have; False where it has to be prompted again."""
        track, applied = self.state.tracks[obj_id], self._applied[obj_id]
        if applied.keys() != track.prompts.keys():  # a prompt has failed half way
            return False
        changed = [t for t, old in applied.items() if t not in wanted or not _extends(wanted[t], old)]
        if len(changed) == len(applied) or any(t in wanted and t in track.conditioning for t in changed):
            return False
        for t in changed:
            if t in track.conditioning:
                self._found.get(obj_id, {}).pop(t, None)  # what becomes a tracked result was none
            self.predictor.clear_all_prompts_in_frame(self.state, t, obj_id, need_output=False)
            del applied[t]
        return True

    def _add(self, obj_id: int, frame: int, prompt: Prompt, old: Prompt | None = None) -> None:
        """Send the predictor the steps of a prompt that `old` does not have."""
        self._kept.get(obj_id, {}).pop(frame, None)
        done = -1 if old is None else len(old.points)
        self._applied.setdefault(obj_id, {}).pop(frame, None)  # neither prompt, should it fail half way
        if prompt.mask is not None and old is None:
            self.predictor.add_new_mask(self.state, frame, obj_id, rle_to_mask(prompt.mask.rle))
        for count in clicks_of(prompt):
            if count > done and (count or prompt.box is not None):
                points = prompt.points[:count]
                self.predictor.add_new_points_or_box(
                    self.state,
                    frame,
                    obj_id,
                    points=[(x, y) for x, y, _ in points] or None,
                    labels=[label for _, _, label in points] or None,
                    box=prompt.box,
                )
        self._applied[obj_id][frame] = prompt

    def _keep_answer(self, obj_id: int, frame: int, shown: Mask | None) -> None:
        """A correction is answered from memory: without that the prompt may give another mask than the session has."""
        if shown is not None and not _same(shown, self._mask(obj_id, frame)):
            mask = rle_to_mask(shown.rle)
            tracked_mask.answer(self.state, frame, obj_id, mask, _scores(shown))
            self._kept.setdefault(obj_id, {})[frame] = shown

    def _take_back(self, obj_id: int, frame: int) -> None:
        """Leave the object as if it had never been prompted on a frame."""
        self._given.pop(obj_id, None)  # found with that prompt
        rest = {t: prompt for t, prompt in self._applied[obj_id].items() if t != frame}
        track = self.state.tracks[obj_id]
        if rest and frame not in track.conditioning:  # not in memory yet
            self.predictor.clear_all_prompts_in_frame(self.state, frame, obj_id, need_output=False)
            del self._applied[obj_id][frame]
            return
        self.remove(obj_id)
        for t in sorted(rest):
            self._add(obj_id, t, rest[t])

    def _mask(self, obj_id: int, frame: int) -> Mask:
        result = self.state.tracks[obj_id].latest(frame)
        logits = video_masks([result.low_res_mask], self.state.video_size, non_overlap=False)
        return as_mask(logits[0, 0] > 0, *result.scores)


def _same(mask: Mask | None, other: Mask | None) -> bool:
    return mask is not None and other is not None and (mask is other or mask.counts == other.counts)


def _scores(mask: Mask) -> ObjectScores:
    return ObjectScores(mask.score, 1.0 if mask.predicted_iou is None else mask.predicted_iou)


def _extends(prompt: Prompt, old: Prompt) -> bool:
    """Whether a prompt is another one with clicks added, each refining what was there."""
    return (
        prompt.refine
        and old.refine
        and (prompt.box, prompt.mask) == (old.box, old.mask)
        and len(prompt.points) >= len(old.points)
        and prompt.points[: len(old.points)] == old.points
    )

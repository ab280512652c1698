"""Prompts on a video answered, and objects tracked, in a state of the video predictor.

The page sends the whole prompt of a frame; the predictor takes clicks one after the other. New clicks are added. If
clicks were taken away, the frame is prompted again, or the whole object if the tracker remembers that frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..masks.rle import rle_to_mask
from ..video.prompts import Prompts as TrackPrompts
from ..video.tracker import video_masks
from .image_work import as_given, as_mask, clicks_of
from .schemas import Mask, PreviewAsk, Prompt

if TYPE_CHECKING:
    from ..frames.source import FrameSource
    from ..model.results import ImageFeatures
    from ..sam2_video_predictor import SAM2VideoPredictor

Prompts = dict[int, dict[int, Prompt]]  # object -> frame -> prompt


class VideoWork:
    """A state of the predictor and the prompts that it was given. Only the worker thread uses it.

    Args:
        prompts: of a session that is opened again.
    """

    def __init__(self, predictor: SAM2VideoPredictor, source: FrameSource, prompts: Prompts) -> None:
        self.predictor = predictor
        self.state = predictor.init_state(source)
        self._applied: Prompts = {}
        self.restore(prompts)

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

    def restore(self, prompts: Prompts) -> None:
        """Replace the prompts of all objects; objects whose prompts differ are prompted again."""
        for obj_id, applied in list(self._applied.items()):
            if not applied or applied != prompts.get(obj_id):
                self.remove(obj_id)
        for obj_id, frames in prompts.items():
            if obj_id not in self._applied:
                for frame in sorted(frames):
                    self._add(obj_id, frame, frames[frame])

    def remove(self, obj_id: int) -> None:
        """Remove an object."""
        self.predictor.remove_object(self.state, obj_id, need_output=False)
        self._applied.pop(obj_id, None)

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

    def propagate(self, frame: int, reverse: bool) -> Iterator[tuple[int, dict[int, Mask]]]:
        """Follow all objects from a frame: its number, and their masks by object, for each.

        Raises:
            RuntimeError: no object has a prompt.
        """
        for t, obj_ids, logits in self.predictor.propagate_in_video(self.state, frame, reverse=reverse):
            scores = self.state.scores(t)
            yield t, {obj_id: as_mask(logits[i, 0] > 0, *scores[obj_id]) for i, obj_id in enumerate(obj_ids)}

    def close(self) -> None:
        self.state.close()

    # ---- one object on one frame

    def _add(self, obj_id: int, frame: int, prompt: Prompt, old: Prompt | None = None) -> None:
        """Send the predictor the steps of a prompt that `old` does not have."""
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

    def _take_back(self, obj_id: int, frame: int) -> None:
        """Leave the object as if it had never been prompted on a frame."""
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


def _extends(prompt: Prompt, old: Prompt) -> bool:
    """Whether a prompt is another one with clicks added, each refining what was there."""
    return (
        prompt.refine
        and old.refine
        and (prompt.box, prompt.mask) == (old.box, old.mask)
        and len(prompt.points) >= len(old.points)
        and prompt.points[: len(old.points)] == old.points
    )

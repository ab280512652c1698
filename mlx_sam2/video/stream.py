"""Track objects in frames that come one by one: a camera, a network stream, a video too long to keep."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..frames.opening import open_source
from ..frames.source import FrameSource, VideoError, as_frame
from ..processes import OneProcess
from .reference import Reference, add
from .result_store import ResultStore
from .state import Masks, SessionOptions, VideoState
from .tracker import Tracker


class _HeldFrames(FrameSource):
    """The current frame, and earlier ones that are being edited."""

    def __init__(self, num_frames: int | None) -> None:
        self.name = "the stream"
        self.num_frames = num_frames
        self.frames: dict[int, np.ndarray] = {}

    def hold(self, frame_idx: int, frame: Any) -> None:
        frame = as_frame(frame, frame_idx)
        if not hasattr(self, "height"):
            self.height, self.width = frame.shape[:2]
        self.frames[frame_idx] = self._checked(frame, f"frame {frame_idx}")

    def __getitem__(self, i: int) -> np.ndarray:
        return self.frames[i]


class VideoStream(OneProcess, advice="open it there with predictor.stream", shared=False):
    """One pass over frames as they come; made by ``SAM2VideoPredictor.stream``.

    ::

        with predictor.stream("camera:0") as stream:
            for frame_idx, obj_ids, masks in stream:
                if frame_idx == 0:
                    frame_idx, obj_ids, masks = stream.add_new_points_or_box(1, points=[[320, 240]], labels=[1])

    or, without a source, ``frame_idx, obj_ids, masks = stream.push(frame)`` for every frame. Prompts work on the frame
    that came last; they are committed when the next one comes. Objects may be added and removed at any time. Results
    are those of a session (``init_state``) on the same frames with the same prompts.

    Only what a later frame can recall is kept. To edit a frame further back, give its mask again, as it was returned
    or as it should have been, with ``add_new_mask(..., frame_idx=t, frame=image)``: the frame is encoded again from
    that mask and becomes a conditioning frame. Points may refine it then.

    Args:
        tracker, options: the predictor's.
        source: anything that ``open_source`` takes, or None to ``push`` frames. A known length is used, because in
            videos of less than 16 frames the official time encoding depends on it.

    Attributes:
        state: the session behind the stream.
        frame_idx: number of the frame that came last, -1 before the first.
    """

    def __init__(self, tracker: Tracker, options: SessionOptions, source: Any = None) -> None:
        self.source = None if source is None else open_source(source)
        self._frames = None if self.source is None else iter(self.source)
        num_frames = None if self.source is None else self.source.num_frames
        self._held = _HeldFrames(num_frames)
        self.state = VideoState(self._held, num_frames, ResultStore(on_disk=False), tracker, options)
        self.frame_idx = -1

    @property
    def obj_ids(self) -> list[Any]:
        return self.state.obj_ids

    @property
    def object_scores(self) -> dict[Any, float]:
        """Presence of the objects on the frame that came last, by id: logits, above 0 where the object is seen."""
        results = {obj_id: track.latest(self.frame_idx) for obj_id, track in self.state.tracks.items()}
        return {obj_id: result.object_score for obj_id, result in results.items() if result is not None}

    @property
    def frame(self) -> np.ndarray:
        """The frame that came last, (H, W, 3) uint8."""
        self._require_started()
        return self._held.frames[self.frame_idx]

    # ---- frames

    def __iter__(self) -> Iterator[Masks]:
        """Push the frames of the source; a second loop continues where the first one stopped."""
        for frame in self.unread_frames():
            yield self.push(frame)

    def unread_frames(self) -> Iterator[Any]:
        """The frames of the source that have not been read yet.

        Raises:
            VideoError: this stream has no source.
        """
        if self._frames is None:
            raise VideoError("this stream has no source to iterate over; push(frame) frames into it")
        return self._frames

    def push(self, frame: Any) -> Masks:
        """Take the next frame, uint8 (H, W, 3) RGB or a PIL image, and find all objects on it.

        Returns:
            Its number, the ids of all objects, and their masks, (N, 1, H, W) float32 logits at the frame's size; N may
            be 0.

        Raises:
            VideoError: for anything that is no frame, or one of another size; the stream stays as it was.
        """
        self.state.store.require_open()
        frame_idx = self.frame_idx + 1
        self._held.hold(frame_idx, frame)
        masks = self.state.step(frame_idx)
        self.frame_idx = frame_idx
        self._held.frames = {frame_idx: self._held.frames[frame_idx]}
        policy, config = self.state.tracker.policy, self.state.tracker.config
        for track in self.state.tracks.values():
            if track.conditioning:
                needed = policy.still_needed(track, frame_idx + 1, config)
                track.forget_before(frame_idx + 1, config, policy.reach(config), needed)
        return masks

    # ---- prompts

    def add_new_points_or_box(
        self,
        obj_id: Any,
        points: Sequence[Any] | np.ndarray | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Sequence[float] | np.ndarray | None = None,
        frame_idx: int | None = None,
        frame: Any = None,
    ) -> Masks:
        """Prompt an object, by default on the frame that came last; a new id makes a new object.

        Args:
            frame_idx, frame: another frame and its image; the image may be left out where the source can go back.
            The others as for ``SAM2VideoPredictor.add_new_points_or_box``.

        Returns:
            As ``push``.
        """
        t = self._editable_frame(frame_idx, frame)
        return self.state.prompt_points(t, obj_id, points, labels, clear_old_points, normalize_coords, box)

    def add_new_mask(
        self, obj_id: Any, mask: np.ndarray | Sequence[Any], frame_idx: int | None = None, frame: Any = None
    ) -> Masks:
        """Give the mask of an object, (H, W), by default on the frame that came last. Arguments as above."""
        return self.state.prompt_mask(self._editable_frame(frame_idx, frame), obj_id, mask)

    def add_reference(self, obj_id: Any, reference: Reference | str | os.PathLike[str]) -> list[Any]:
        """Look for an object that was learned elsewhere, from the next frame on, the first one perhaps.

        Arguments, results and errors as for ``SAM2VideoPredictor.add_reference``.
        """
        return add(self.state, obj_id, reference)

    def clear_all_prompts(self, obj_id: Any) -> Masks:
        """Remove the prompts of an object on the frame that came last."""
        self._require_started()
        self.state.clear_prompts(self.frame_idx, obj_id)
        return self.state.edited_masks(self.frame_idx, self.state.has_pending(self.frame_idx))

    def remove_object(self, obj_id: Any, strict: bool = False) -> list[Any]:
        """Remove an object; returns the ids that remain. An unknown id raises a RuntimeError with ``strict``."""
        self.state.remove(obj_id, strict)
        return self.obj_ids

    def reset(self) -> None:
        """Remove all objects. Frame numbers go on."""
        self.state.reset()

    def _editable_frame(self, frame_idx: int | None, frame: Any) -> int:
        self._require_started()
        t = self.frame_idx if frame_idx is None else frame_idx
        if not isinstance(t, (int, np.integer)) or not 0 <= t <= self.frame_idx:
            raise ValueError(f"frame {t!r} has not come yet; the stream has given frames 0 to {self.frame_idx}")
        if t not in self._held.frames:
            if frame is None and (self.source is None or not self.source.random_access):
                raise ValueError(f"frame {t} is past and its image was not kept; give it again as frame=")
            self._held.hold(t, self.source[t] if frame is None else frame)
        return int(t)

    def _require_started(self) -> None:
        if self.frame_idx < 0:
            raise ValueError("no frame has come yet; iterate over the stream or push(frame) first")

    # ---- end

    def close(self) -> None:
        """Close the source and forget everything."""
        self.reset()
        self.state.close()
        if self.source is not None:
            self.source.close()

    def __enter__(self) -> VideoStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

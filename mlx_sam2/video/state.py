"""A session on a video: what the user prompted, what was found, and the verbs that work on them.

Official ``SAM2VideoPredictor`` keeps all this in a dict and does it in its own methods. ``SAM2VideoPredictor`` here has
the official signatures and hands over to a ``VideoState``; so do streams, ``track_everything`` and the app.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..frames.source import FrameSource
from ..masks.scores import ObjectScores
from ..model.results import ImageFeatures
from ..processes import OneProcess
from .feature_cache import FeatureCache, SessionFeatures
from .look_ahead import LookAhead
from .memory_bank import KEPT_ANCHORS, ObjectTrack
from .prompts import Prompts, mask_prompts, point_prompts
from .result_store import ResultStore
from .still import StillFrame
from .tracker import Tracked, Tracker
from .video_masks import video_masks

Masks = tuple[int, list[Any], np.ndarray]  # frame number, object ids, (N, 1, H, W) float32 logits


@dataclass
class SessionOptions:
    """Options of the official video predictor that concern its sessions. A change counts for open sessions, too."""

    non_overlap_masks: bool = False  # every pixel of the returned masks belongs to one object at most
    clear_non_cond_mem_around_input: bool = False  # forget the tracked frames around a prompted one
    add_all_frames_to_correct_as_cond: bool = False  # corrections of tracked frames become conditioning frames


class Proposal(NamedTuple):
    """The answer to a first prompt, for an object that the session does not have yet."""

    track: ObjectTrack
    mask: np.ndarray  # (H, W) bool
    score: float  # presence, a logit


@dataclass
class VideoState(OneProcess, advice="open the video there with init_state, and give the prompts again", shared=False):
    """A session on one video. Made by ``init_state``; scripts read it, and change it through the predictor."""

    source: FrameSource
    num_frames: int | None  # None for a stream without a known end
    store: ResultStore
    tracker: Tracker
    options: SessionOptions = field(default_factory=SessionOptions)
    tracks: dict[Any, ObjectTrack] = field(default_factory=dict)  # by object id, in the order of their arrival
    encoded: SessionFeatures = field(default_factory=lambda: FeatureCache("off").session())  # frames seen before
    ahead: LookAhead | None = None  # while a propagation runs
    still: StillFrame = field(default_factory=StillFrame)

    # ---- facts

    @property
    def obj_ids(self) -> list[Any]:
        return list(self.tracks)

    @property
    def video_size(self) -> tuple[int, int]:
        """Height and width of the video's frames."""
        return self.source.height, self.source.width

    def require_frame(self, frame_idx: int) -> None:
        """Raise a ValueError if the video has no such frame, or after ``close``."""
        self.store.require_open()
        is_number = isinstance(frame_idx, (int, np.integer)) and frame_idx >= 0
        if is_number and (self.num_frames is None or frame_idx < self.num_frames):
            return
        frames = "counts its frames from 0" if self.num_frames is None else f"has frames 0 to {self.num_frames - 1}"
        raise ValueError(f"frame {frame_idx!r} does not exist; the video {frames}")

    def has_pending(self, frame_idx: int) -> bool:
        """Whether an object has an uncommitted prompt on the frame that will become a conditioning frame."""
        return any(frame_idx in track.pending for track in self.tracks.values())

    def masks(self, low_res: Sequence[np.ndarray | None]) -> np.ndarray:
        """Low-resolution logits of N objects at the size of the video: (N, 1, H, W); None becomes -1024 everywhere."""
        return video_masks(low_res, self.video_size, self.options.non_overlap_masks)

    def edited_masks(self, frame_idx: int, conditioning: bool) -> Masks:
        """Masks of all objects on a frame. An uncommitted edit of the given kind goes before the committed result."""
        low_res = []
        for track in self.tracks.values():
            pending = track.pending if conditioning else track.pending_tracked
            result = pending.get(frame_idx) or track.result(frame_idx)
            low_res.append(None if result is None else result.low_res_mask)
        return frame_idx, self.obj_ids, self.masks(low_res)

    def scores(self, frame_idx: int) -> dict[Any, ObjectScores]:
        """Object score (a logit) and predicted IoU of the objects that have a mask on a frame, by id."""
        scores = {obj_id: track.scores(frame_idx) for obj_id, track in self.tracks.items()}
        return {obj_id: score for obj_id, score in scores.items() if score is not None}

    def low_res(self, frame_idx: int) -> dict[Any, np.ndarray]:
        """Low-resolution logits (4h, 4w) float32 of the objects that have a result on a frame, by object id."""
        results = {obj_id: track.latest(frame_idx) for obj_id, track in self.tracks.items()}
        return {obj_id: result.low_res_mask for obj_id, result in results.items() if result is not None}

    # ---- frames

    def frame(self, frame_idx: int) -> np.ndarray:
        """A frame of the video, (H, W, 3) uint8."""
        frame = None if self.ahead is None else self.ahead.frame(frame_idx)
        return self.source[frame_idx] if frame is None else frame

    def features(self, frame_idx: int) -> ImageFeatures:
        """Features of a frame (MLX may still be computing them), from the cache if they are there."""
        features = self.encoded.get(frame_idx, self.tracker.model)
        if features is None and self.ahead is not None:
            features = self.ahead.features(frame_idx)
        if features is None:
            features = self.tracker.encode(self.source[frame_idx])
            self.encoded.put(frame_idx, features, self.tracker.model)
        return features

    @contextmanager
    def looking_ahead(self, frames: Sequence[int]) -> Iterator[None]:
        """Within the block frames are read and encoded ahead, if another thread may read the source."""
        self.encoded.expect(frames)
        if not self.source.reads_ahead or len(frames) < 2:
            yield
            return
        ahead = self.ahead = LookAhead(self.source, self.tracker, frames, self.encoded)
        try:
            yield
        finally:
            ahead.close()
            if self.ahead is ahead:
                self.ahead = None

    # ---- prompts

    def prompt_points(
        self,
        frame_idx: int,
        obj_id: Any,
        points: Sequence[Any] | np.ndarray | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Sequence[float] | np.ndarray | None = None,
    ) -> Masks:
        """Prompt an object with points or a box: see ``SAM2VideoPredictor.add_new_points_or_box``."""
        self.require_frame(frame_idx)
        size = self.video_size if normalize_coords else None
        given = point_prompts(points, labels, box, clear_old_points, size, self.tracker.config.image_size)
        return self.prompt(frame_idx, obj_id, given, extend=not clear_old_points)

    def prompt_mask(self, frame_idx: int, obj_id: Any, mask: np.ndarray | Sequence[Any]) -> Masks:
        """Prompt an object with its mask: see ``SAM2VideoPredictor.add_new_mask``."""
        self.require_frame(frame_idx)
        return self.prompt(frame_idx, obj_id, mask_prompts(mask, self.tracker.config.image_size))

    def prompt(self, frame_idx: int, obj_id: Any, given: Prompts, extend: bool = False) -> Masks:
        """Answer prompts for an object on a frame; a new id makes a new object.

        Args:
            extend: keep the points that were given before on this frame.

        Returns:
            ``frame_idx``, the ids of all objects, and their masks on this frame.
        """
        track = self.tracks.get(obj_id) or ObjectTrack.empty(self.store)
        prompts = track.prompts.get(frame_idx, Prompts()).extended(given) if extend else given
        # without any conditioning frame left there is nothing to attend to: as on a first look
        first_look = frame_idx not in track.directions or not track.conditioning
        always = self.options.add_all_frames_to_correct_as_cond or self.tracker.policy.corrections_condition
        as_conditioning = first_look or always
        pending = track.pending if as_conditioning else track.pending_tracked
        previous = None
        if prompts.points is not None:
            result = pending.get(frame_idx) or track.result(frame_idx)
            previous = None if result is None else result.low_res_mask
        result = self.tracker.prompt(
            self.features(frame_idx),
            track,
            prompts,
            frame_idx,
            reverse=None if first_look else track.directions[frame_idx],
            num_frames=self.num_frames,
            previous=previous,
        )
        # nothing of the state has changed up to here
        pending[frame_idx] = result
        track.prompts[frame_idx] = prompts
        self.tracks[obj_id] = track
        return self.edited_masks(frame_idx, as_conditioning)

    def propose(self, frame_idx: int, prompts: Prompts) -> Proposal:
        """Answer a first prompt without making an object of it; ``adopt`` makes one."""
        track = ObjectTrack.empty(self.store)
        result = self.tracker.prompt(
            self.features(frame_idx), track, prompts, frame_idx, reverse=None, num_frames=self.num_frames
        )
        track.pending[frame_idx], track.prompts[frame_idx] = result, prompts
        mask = video_masks([result.low_res_mask], self.video_size, non_overlap=False)[0, 0] > 0
        return Proposal(track, mask, result.object_score)

    def adopt(self, obj_id: Any, proposal: Proposal) -> None:
        """Make a proposal the object ``obj_id``."""
        self.tracks[obj_id] = proposal.track

    def clear_prompts(self, frame_idx: int, obj_id: Any) -> None:
        """Remove the prompts of an object on a frame; its committed result stays, as a tracked one.

        Raises:
            ValueError: for an unknown object or frame.
        """
        self.require_frame(frame_idx)
        track = self._track(obj_id)
        track.prompts.pop(frame_idx, None)
        track.pending.pop(frame_idx, None)
        track.pending_tracked.pop(frame_idx, None)
        result = track.conditioning.pop(frame_idx, None)
        if result is not None:
            track.tracked[frame_idx] = result
            track.directions.pop(frame_idx, None)
        if track.latest(frame_idx) is None:  # nothing is left that could be kept
            track.locked.discard(frame_idx)

    def remove(self, obj_id: Any, strict: bool = False) -> list[int]:
        """Remove an object; returns the frames on which it was prompted.

        Raises:
            RuntimeError: for an unknown id with ``strict``; without it nothing happens.
        """
        if obj_id not in self.tracks:
            if strict:
                raise RuntimeError(
                    f"cannot remove object {obj_id!r}: it does not exist; the objects are {self.obj_ids}"
                )
            return []
        track = self.tracks.pop(obj_id)
        frames = sorted(track.prompts)
        track.clear()
        return frames

    def lock(self, frame_idx: int, obj_id: Any = None) -> None:
        """Keep what is on a frame, of one object or of all: see ``SAM2VideoPredictor.lock``."""
        self.require_frame(frame_idx)
        tracks = self.tracks.values() if obj_id is None else [self._track(obj_id)]
        found = [track for track in tracks if track.scores(frame_idx) is not None]
        if not found:
            whose = "no object has a" if obj_id is None else f"object {obj_id!r} has no"
            raise ValueError(f"{whose} mask on frame {frame_idx}: prompt it there, or propagate over the frame first")
        for track in found:
            track.locked.add(frame_idx)

    def unlock(self, frame_idx: int, obj_id: Any = None) -> None:
        """Let propagation replace what is on a frame again."""
        self.require_frame(frame_idx)
        for track in self.tracks.values() if obj_id is None else [self._track(obj_id)]:
            track.locked.discard(frame_idx)

    def _track(self, obj_id: Any) -> ObjectTrack:
        if obj_id not in self.tracks:
            raise ValueError(f"object {obj_id!r} does not exist; the objects are {self.obj_ids}")
        return self.tracks[obj_id]

    def reset(self) -> None:
        """Remove all prompts, results and objects."""
        for track in self.tracks.values():
            track.clear()
        self.tracks.clear()

    # ---- tracking

    def prepare(self) -> None:
        """Commit all edits before a propagation.

        Raises:
            RuntimeError: when there is no object, or one without any prompt; nothing has changed then.
        """
        if not self.tracks:
            raise RuntimeError("no input points or masks are provided for any object; please add inputs first")
        for obj_id, track in self.tracks.items():
            if not track.conditioning and not track.pending:
                raise RuntimeError(
                    f"no input points or masks are provided for object {obj_id!r}; please add inputs first"
                )
        self.commit_edits()

    def commit_edits(self) -> None:
        """Encode the prompted frames of all objects as memories."""
        for track in self.tracks.values():
            for pending, committed in (
                (track.pending_tracked, track.tracked),
                (track.pending, track.conditioning),
            ):
                for t in list(pending):
                    self.still.forget()
                    committed[t] = self.tracker.commit(self.features(t), pending[t])
                    del pending[t]
                    self._clear_around(track, t)
            for t in track.conditioning:
                track.tracked.pop(t, None)
                track.anchors.pop(t, None)
        policy = self.tracker.policy
        window = policy.reach(self.tracker.config) + (KEPT_ANCHORS if policy.reviews else 0)
        self.store.capacity = window * len(self.tracks) + sum(len(track.conditioning) for track in self.tracks.values())

    def advance(self, tracks: Sequence[ObjectTrack], frame_idx: int, reverse: bool) -> list[np.ndarray]:
        """Track objects on one frame and commit it; returns their low-resolution logits, (4h, 4w) each."""
        moving = [track for track in tracks if not track.stays(frame_idx)]
        look_ahead = partial(self._queue, frame_idx - 1 if reverse else frame_idx + 1, tracks)
        found: list[Tracked] = []
        for track in tracks:
            track.forget_anchors(frame_idx, reverse)
        if moving:
            features, same = self.features(frame_idx), self.still.memories(frame_idx, self.frame, moving, self.tracker)
            known = {"reverse": reverse, "num_frames": self.num_frames, "memories": same, "meanwhile": look_ahead}
            found = self.tracker.track(features, moving, frame_idx, **known, video_size=self.video_size)
        else:
            look_ahead()
        for track, (result, anchor) in zip(moving, found, strict=True):
            track.tracked[frame_idx] = result
            if anchor is not None:
                track.anchors[frame_idx] = anchor
        low_res = []
        for track in tracks:
            if frame_idx in track.conditioning:
                self._clear_around(track, frame_idx)
            track.directions[frame_idx] = reverse
            low_res.append(track.result(frame_idx).low_res_mask)
        return low_res

    def step(self, frame_idx: int) -> Masks:
        """Go forward to a frame from the one before, as a stream does: objects may come and go between two steps."""
        self.commit_edits()
        for track in self.tracks.values():
            if frame_idx - 1 in track.conditioning or frame_idx - 1 in track.tracked:
                track.directions.setdefault(frame_idx - 1, False)
        moving = [track for track in self.tracks.values() if track.conditioning]
        found = iter(self.advance(moving, frame_idx, reverse=False))
        low_res = [next(found) if track.conditioning else None for track in self.tracks.values()]
        return frame_idx, self.obj_ids, self.masks(low_res)

    def propagate(
        self, start: int | None, limit: int | None, reverse: bool, obj_ids: Collection[Any] | None
    ) -> Iterator[Masks]:
        """Track objects through the video: see ``SAM2VideoPredictor.propagate_in_video``."""
        if start is not None:
            self.require_frame(start)
        # an object that comes, or comes again, between two frames is for the next run
        followed = {obj_id: self._track(obj_id) for obj_id in (self.obj_ids if obj_ids is None else obj_ids)}
        self.prepare()
        if start is None:
            start = max(0, min(t for track in followed.values() for t in track.conditioning))  # references: below 0
        count = self.num_frames if limit is None else limit
        if reverse:
            frames = range(start, max(start - count, 0) - 1, -1) if start > 0 else range(0)
        else:
            frames = range(start, min(start + count, self.num_frames - 1) + 1)
        with self.looking_ahead(frames):
            for frame_idx in frames:
                present = {obj_id: track for obj_id, track in followed.items() if self.tracks.get(obj_id) is track}
                low_res = self.advance(list(present.values()), frame_idx, reverse)
                yield frame_idx, list(present), self.masks(low_res)

    def _clear_around(self, track: ObjectTrack, frame_idx: int) -> None:
        if not self.options.clear_non_cond_mem_around_input:
            return
        config = self.tracker.config
        reach = config.memory_temporal_stride_for_eval * config.num_maskmem
        for t in range(frame_idx - reach, frame_idx + reach + 1):
            if t != frame_idx and t not in track.locked:
                track.tracked.pop(t, None)

    def _queue(self, frame_idx: int, tracks: Iterable[ObjectTrack]) -> None:
        """Queue the encoding of the next frame, if an object has to be found on it."""
        if self.ahead is not None and not all(track.stays(frame_idx) for track in tracks):
            self.ahead.queue(frame_idx)

    # ---- end

    def close(self) -> None:
        """Close the source and release the temporary file."""
        if self.ahead is not None:
            self.ahead.close()
        self.source.close()
        self.store.close()
        self.encoded.close()

    def __enter__(self) -> VideoState:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

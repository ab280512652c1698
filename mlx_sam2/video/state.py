"""The state of a session on a video, and the points and boxes that users give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from ..frames.source import FrameSource
from ..model.prompt_encoder import BOTTOM_RIGHT, NEGATIVE, PADDING, POSITIVE, TOP_LEFT
from ..model.results import ImageFeatures
from .approximations import CHANGE_CELL, largest_change, small_picture
from .look_ahead import LookAhead
from .memory_bank import ObjectTrack, ResultStore
from .tracker import Tracker


@dataclass
class VideoState:
    """A session on one video. Made by ``init_state``; read it, but change it only through the predictor."""

    source: FrameSource
    num_frames: int | None  # None for a stream without a known end
    store: ResultStore
    tracks: dict[Any, ObjectTrack] = field(default_factory=dict)  # by object id, in the order of their arrival
    latest_features: tuple[int, ImageFeatures] | None = None  # of the frame worked on last
    ahead: LookAhead | None = None  # while a propagation runs
    still: tuple[int, np.ndarray] | None = None  # the frame last remembered, as a small picture

    @property
    def obj_ids(self) -> list[Any]:
        return list(self.tracks)

    @property
    def video_size(self) -> tuple[int, int]:
        """Height and width of the video's frames."""
        return self.source.height, self.source.width

    def __getitem__(self, key: str) -> Any:
        """The keys of the official state that scripts read: num_frames, video_height, video_width and obj_ids."""
        known = {"num_frames": self.num_frames, "obj_ids": self.obj_ids}
        known |= {"video_height": self.source.height, "video_width": self.source.width}
        if key not in known:
            raise KeyError(f"{key!r} is no part of a session here; there are {', '.join(known)}")
        return known[key]

    def require_frame(self, frame_idx: int) -> None:
        """Raise a ValueError for a frame that the video has not, or after ``close``."""
        self.store.require_open()
        is_number = isinstance(frame_idx, (int, np.integer)) and frame_idx >= 0
        if is_number and (self.num_frames is None or frame_idx < self.num_frames):
            return
        frames = "counts its frames from 0" if self.num_frames is None else f"has frames 0 to {self.num_frames - 1}"
        raise ValueError(f"frame {frame_idx!r} does not exist; the video {frames}")

    def has_pending(self, frame_idx: int) -> bool:
        """Whether any object has a prompt on the frame that is not committed yet, to conditioning."""
        return any(frame_idx in track.pending for track in self.tracks.values())

    def frame(self, frame_idx: int) -> np.ndarray:
        """A frame of the video, (H, W, 3) uint8."""
        frame = None if self.ahead is None else self.ahead.frame(frame_idx)
        return self.source[frame_idx] if frame is None else frame

    def features(self, tracker: Tracker, frame_idx: int) -> ImageFeatures:
        """Those of a frame, perhaps not computed yet; kept until another frame is asked for."""
        if self.latest_features is None or self.latest_features[0] != frame_idx:
            features = None if self.ahead is None else self.ahead.features(frame_idx)
            self.latest_features = (frame_idx, features or tracker.encode(self.source[frame_idx]))
        return self.latest_features[1]

    @contextmanager
    def looking_ahead(self, tracker: Tracker, frames: Sequence[int]) -> Iterator[None]:
        """Within the block frames are read and encoded ahead, where the source can be read by another thread."""
        if not self.source.reads_ahead or len(frames) < 2:
            yield
            return
        ahead = self.ahead = LookAhead(self.source, tracker, frames)
        try:
            yield
        finally:
            ahead.close()
            if self.ahead is ahead:
                self.ahead = None

    def queue(self, frame_idx: int, tracks: Iterable[ObjectTrack]) -> None:
        """Queue the encoding of a frame that comes next, if an object has to be found on it."""
        if self.ahead is not None and any(frame_idx not in track.conditioning for track in tracks):
            self.ahead.queue(frame_idx)

    def still_memories(self, tracker: Tracker, frame_idx: int, tracks: Sequence[ObjectTrack]) -> list[mx.array] | None:
        """With ``static_threshold`` the memories (h, w, M) of objects on the frame last remembered, if this one looks
        the same; else this becomes the one last remembered.
        """
        threshold = tracker.options.static_threshold
        if threshold == 0:
            return None
        picture = small_picture(self.frame(frame_idx), tracker.config.image_size // CHANGE_CELL)
        if self.still is not None and largest_change(picture, self.still[1]) <= threshold:
            results = [track.result(self.still[0]) for track in tracks]
            if all(result is not None and result.features is not None for result in results):
                return [result.features for result in results]
        self.still = (frame_idx, picture)
        return None

    def close(self) -> None:
        """Close the source and give the temporary file back."""
        if self.ahead is not None:
            self.ahead.close()
        self.source.close()
        self.store.close()

    def __enter__(self) -> VideoState:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def point_prompt(
    points: Sequence[Any] | np.ndarray | None,
    labels: Sequence[int] | np.ndarray | None,
    box: Sequence[float] | np.ndarray | None,
    clear_old_points: bool,
    size: tuple[int, int] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Points and a box as the user gave them -> (N, 2) float32 and (N,) int32 labels; the box first, as its corners.

    ``size`` is the (height, width) that coordinates are divided by, None for those that are in 0..1 already.

    Raises:
        ValueError: one line, for anything that does not fit.
    """
    if (points is None) != (labels is None):
        raise ValueError("points and labels must be provided together")
    if points is None and box is None:
        raise ValueError("at least one of points or box must be provided as input")
    coords = np.zeros((0, 2), np.float32) if points is None else _numbers("points", points)
    marks = np.zeros(0, np.float32) if labels is None else _numbers("labels", labels)
    if coords.ndim == 3 and len(coords) == 1 and marks.ndim == 2:  # the official code takes a batch of one
        coords, marks = coords[0], marks[0]
    if coords.ndim != 2 or coords.shape[1] != 2 or marks.shape != coords.shape[:1]:
        raise ValueError(f"points {coords.shape} and labels {marks.shape} do not fit; they must be (N, 2) and (N,)")
    if box is not None:
        if not clear_old_points:
            raise ValueError("a box comes before any points: it cannot be added to them, use clear_old_points=True")
        corners = _numbers("box", box)
        if corners.size != 4:
            raise ValueError(f"box has shape {corners.shape}; it must be (4,) as x0, y0, x1, y1")
        coords = np.concatenate([corners.reshape(2, 2), coords])
        marks = np.concatenate([np.array([TOP_LEFT, BOTTOM_RIGHT], np.float32), marks])
    unknown = marks[~np.isin(marks, (PADDING, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT))]
    if unknown.size:
        raise ValueError(f"labels hold {unknown[0]:g}; a label is 1 (on the object) or 0 (off it)")
    if not np.isfinite(coords).all():
        raise ValueError("points or box hold a value that is not a finite number")
    return coords if size is None else coords / np.array(size[::-1], np.float32), marks.astype(np.int32)


def _numbers(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values, np.float32)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}={values!r:.80} cannot be read: numbers are needed, of equal count in every row"
        ) from None

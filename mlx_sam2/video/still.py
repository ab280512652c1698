"""``static_threshold``: no memory is encoded of frames that look like the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from .approximations import CHANGE_CELL, largest_change, small_picture
from .memory_bank import ObjectTrack
from .tracker import Tracker


class StillFrame:
    """The frame last remembered, as a small picture."""

    _frame: tuple[int, np.ndarray] | None = None

    def forget(self) -> None:
        self._frame = None

    def memories(
        self, frame_idx: int, frame: Callable[[int], np.ndarray], tracks: Sequence[ObjectTrack], tracker: Tracker
    ) -> list[mx.array] | None:
        """The memories (h, w, M) of the frame last remembered, if this one looks the same.

        Else None, and this frame becomes the one last remembered. ``frame`` gives the pixels of a frame.
        """
        threshold = tracker.options.static_threshold
        if threshold == 0:
            return None
        picture = small_picture(frame(frame_idx), tracker.config.image_size // CHANGE_CELL)
        if self._frame is not None and largest_change(picture, self._frame[1]) <= threshold:
            results = [track.result(self._frame[0]) for track in tracks]
            if all(result is not None and result.features is not None for result in results):
                return [result.features for result in results]
        self._frame = (frame_idx, picture)
        return None

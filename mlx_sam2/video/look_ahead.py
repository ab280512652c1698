"""Looking ahead in a video: a thread reads and preprocesses the next frames.

The next one is queued for encoding before the results of the current one are read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ..frames.source import FrameSource
from ..model.results import ImageFeatures
from .feature_cache import SessionFeatures
from .tracker import Tracker

DEPTH = 2  # frames that are read ahead


class LookAhead:
    """Frames read ahead of the tracking.

    The thread uses only the source and numpy. Everything else belongs to the thread that tracks.

    Args:
        source: frames; another thread may read it (``reads_ahead``).
        order: frame numbers in the order in which they will be tracked.
        encoded: takes the features. A frame that it has already is not read.
    """

    def __init__(self, source: FrameSource, tracker: Tracker, order: Iterable[int], encoded: SessionFeatures) -> None:
        self._source, self._tracker, self._order, self._encoded = source, tracker, iter(order), encoded
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlx_sam2-frames")
        self._waiting: deque[tuple[int, Future[tuple[np.ndarray, np.ndarray]]]] = deque()
        self._frames: dict[int, np.ndarray] = {}  # the queued frame, and the one before
        self._thread: int | None = None
        self._fill()

    def queue(self, frame_idx: int) -> None:
        """Queue the encoding of a frame if it has been read already; never waits."""
        future = dict(self._waiting).get(frame_idx)
        if future is not None and future.done() and future.exception() is None:
            self.features(frame_idx)

    def features(self, frame_idx: int) -> ImageFeatures | None:
        """Features of a frame (MLX may still be computing them); None if it was not read ahead.

        Raises whatever reading the frame raised.
        """
        if frame_idx not in dict(self._waiting):
            return None
        while True:
            number, future = self._waiting.popleft()
            self._fill()
            if number == frame_idx:
                break
        frame, pixels = future.result()
        self._frames = {**dict(list(self._frames.items())[-1:]), frame_idx: frame}
        features = self._tracker.queue(pixels)
        self._encoded.put(frame_idx, features, self._tracker.model)
        return features

    def frame(self, frame_idx: int) -> np.ndarray | None:
        """A frame, (H, W, 3) uint8, if it is one of the last two."""
        return self._frames.get(frame_idx)

    def close(self) -> None:
        """End the thread after the frame that it is reading."""
        on_the_thread = threading.get_ident() == self._thread  # where the garbage collector may run
        self._pool.shutdown(wait=not on_the_thread, cancel_futures=True)
        self._waiting.clear()

    def _fill(self) -> None:
        while len(self._waiting) < DEPTH and (number := self._next()) is not None:
            self._waiting.append((number, self._pool.submit(self._load, number)))

    def _next(self) -> int | None:
        return next((number for number in self._order if number not in self._encoded), None)

    def _load(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        self._thread = threading.get_ident()
        frame = self._source[number]
        return frame, self._tracker.preprocess(frame)

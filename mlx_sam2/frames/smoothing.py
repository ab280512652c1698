"""Steadier mattes of a film: averages over the frames before and after, where the picture has not changed.

A matte that flickers on a still edge becomes steady. Where something moves, colours differ and nothing is averaged, so
a moving edge neither lags nor smears; and no average reaches across a cut. The window is centred: a frame is ready when
the frames after it have come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..images.drawing import part_around
from ..images.filters import box_mean

CHANGE = 10.0  # of 255: a pixel whose surroundings differ by this much counts exp(-1)
NEAR = 2  # pixels around each one that are compared
CUT = 30.0  # of 255: the mean difference of two frames with a cut between them
SAMPLE = 8  # of so many rows and columns one is compared, to find a cut
ONE = 65535  # a matte of 1, stored in 16 bits


class Patch(NamedTuple):
    """A matte without the empty rows and columns around it."""

    part: tuple[slice, slice]
    values: np.ndarray  # (h, w) uint16, 65535 inside

    def cut(self, part: tuple[slice, slice]) -> np.ndarray:
        """The matte in a part of the frame, float32 in 0..1."""
        out = np.zeros([axis.stop - axis.start for axis in part], np.float32)
        overlap = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(part, self.part, strict=True)]
        if all(axis.stop > axis.start for axis in overlap):
            to, of = (
                tuple(slice(o.start - p.start, o.stop - p.start) for o, p in zip(overlap, place, strict=True))
                for place in (part, self.part)
            )
            out[to] = self.values[of] * np.float32(1 / ONE)
        return out

    def full(self, size: tuple[int, int]) -> np.ndarray:
        """The matte (H, W) float32 in 0..1."""
        return self.cut((slice(0, size[0]), slice(0, size[1])))


def patch_of(matte: np.ndarray) -> Patch:
    part = part_around(matte > 0, 0)
    return Patch(part, np.rint(matte[part] * ONE).astype(np.uint16))


class MatteFrame(NamedTuple):
    """A frame and the mattes of its objects."""

    index: int
    time: float | None
    pixels: np.ndarray  # (H, W, 3) uint8
    mattes: dict[Any, Patch]


class Smoother:
    """Averages mattes over `reach` frames before and after. It holds 2 reach + 1 frames at most."""

    def __init__(self, reach: int) -> None:
        self._reach = reach
        self._frames: deque[MatteFrame] = deque()
        self._next = 0  # the frame in work, counted in the window

    def push(self, frame: MatteFrame) -> Iterator[MatteFrame]:
        """Take the next frame; gives the one that is ready, if any."""
        self._frames.append(frame)
        if len(self._frames) - self._next > self._reach:
            yield self._take()

    def flush(self) -> Iterator[MatteFrame]:
        """Give the frames that still wait for later ones."""
        while self._next < len(self._frames):
            yield self._take()

    def _take(self) -> MatteFrame:
        frames, i = self._frames, self._next
        now = frames[i]
        if self._reach:
            before, after = list(frames)[:i][::-1], list(frames)[i + 1 : i + 1 + self._reach]
            near = [*_same_shot(now, before), *_same_shot(now, after)]
            now = now._replace(mattes={obj: _averaged(obj, now, near) for obj in now.mattes})
        self._next += 1
        if self._next > self._reach:
            frames.popleft()
            self._next -= 1
        return now


def _same_shot(now: MatteFrame, others: list[MatteFrame]) -> Iterator[tuple[MatteFrame, float]]:
    """Frames up to the next cut, nearest first, and their weights."""
    last = now.pixels[::SAMPLE, ::SAMPLE].astype(np.int16)
    for distance, other in enumerate(others, start=1):
        sample = other.pixels[::SAMPLE, ::SAMPLE].astype(np.int16)
        if np.abs(sample - last).mean() > CUT:
            return
        last = sample
        yield other, 1 / (1 + distance)


def _averaged(obj: Any, now: MatteFrame, near: list[tuple[MatteFrame, float]]) -> Patch:
    """One object's matte, averaged over the frames that know it."""
    near = [(other, weight) for other, weight in near if obj in other.mattes]
    parts = [frame.mattes[obj].part for frame, _ in [(now, 1.0), *near] if frame.mattes[obj].values.size]
    if not near or not parts:
        return now.mattes[obj]
    rows, columns = (
        slice(min(part[axis].start for part in parts), max(part[axis].stop for part in parts)) for axis in (0, 1)
    )
    part = (rows, columns)
    total, weights = now.mattes[obj].cut(part), np.ones((rows.stop - rows.start, columns.stop - columns.start))
    weights, here = weights.astype(np.float32), now.pixels[part].astype(np.int16)
    for other, weight in near:
        change = np.abs(other.pixels[part] - here).max(axis=2)
        similar = weight * np.exp(-((box_mean(change, NEAR) / CHANGE) ** 2))
        total += similar * other.mattes[obj].cut(part)
        weights += similar
    out = np.zeros(now.pixels.shape[:2], np.float32)
    out[part] = total / weights
    return patch_of(out)

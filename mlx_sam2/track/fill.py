"""``track --every-nth N --fill``: a preview that tracks every Nth frame and fills in the masks between."""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..cli import UsageError
from ..frames.source import FrameSource
from ..masks.between import SignedDistance, mask_between
from .run import Plan, TrackedFrame, track_session

if TYPE_CHECKING:
    from ..sam2_video_predictor import SAM2VideoPredictor

HELD = 16  # frames between tracked ones that are held: as many as are read ahead at every 4th frame


class SampledSource(FrameSource):
    """Some frames of a video, as a video of their own. It closes nothing.

    Args:
        numbers: of the frames, rising.
        reverse: the way in which they will be read.
    """

    def __init__(self, source: FrameSource, numbers: Sequence[int], reverse: bool) -> None:
        self._source, self.numbers = source, list(numbers)
        self._back = 1 if reverse else -1
        self._held: OrderedDict[int, np.ndarray] = OrderedDict()
        self.name, self.height, self.width, self.fps = source.name, source.height, source.width, source.fps
        self.num_frames = len(self.numbers)
        self.reads_ahead, self.display = source.reads_ahead, source.display

    def time(self, i: int) -> float | None:
        return self._source.time(self.numbers[i])

    def left_out(self, t: int) -> np.ndarray:
        """Frame `t` of the whole video, which is none of the sampled ones."""
        frame = self._held.pop(t, None)
        return self._source[t] if frame is None else frame

    def _read(self, i: int) -> np.ndarray:
        t, before = self.numbers[i], i + self._back
        if 0 <= before < self.num_frames:  # in passing: a film that is read in another order is decoded again
            for number in range(min(t, self.numbers[before]) + 1, max(t, self.numbers[before])):
                self._held[number] = self._source[number]
            while len(self._held) > HELD:
                self._held.popitem(last=False)
        return self._source[t]


def check_fill(args: argparse.Namespace, live: bool) -> None:
    """Refuse what does not go together. UsageError: one line."""
    if args.fill and args.every_nth is None:
        raise UsageError("--fill fills in what --every-nth leaves out: give --every-nth 2, 3 or 4, too")
    if args.every_nth is None:
        return
    if live:
        raise UsageError("--every-nth looks ahead: it needs a video file or a folder of frames")
    if args.cutout or args.matte:
        raise UsageError("--every-nth is a preview: --cutout and --matte do not go with it")
    if args.everything:
        raise UsageError("--every-nth follows what prompts pick out: --everything does not go with it")


def sampled_numbers(plan: Plan, nth: int) -> list[int]:
    """The frames to track, rising: every nth one from the first on, the last, and those with prompts."""
    last = plan.start + (plan.count - 1) * (-1 if plan.reverse else 1)
    step = -nth if plan.reverse else nth
    passed = range(plan.start, last + (-1 if plan.reverse else 1), step)
    return sorted({*passed, last, *(prompt.frame for prompt in plan.prompts)})


def tracked_count(plan: Plan, numbers: Sequence[int]) -> int:
    """How many of the sampled frames the run passes; prompts may lie beside its way."""
    last = plan.start + (plan.count - 1) * (-1 if plan.reverse else 1)
    return sum(min(plan.start, last) <= t <= max(plan.start, last) for t in numbers)


def track_sampled(
    predictor: SAM2VideoPredictor, source: FrameSource, plan: Plan, memory: str, nth: int, fill: bool
) -> Iterator[TrackedFrame]:
    """Track every nth frame as ``track_session`` does, as if they were the whole video.

    With ``fill`` the frames between come too, in order, with masks between those of their neighbours and no scores.
    """
    numbers = sampled_numbers(plan, nth)
    sampled = SampledSource(source, numbers, plan.reverse)
    index = {t: i for i, t in enumerate(numbers)}
    prompts = [replace(prompt, frame=index[prompt.frame]) for prompt in plan.prompts]
    short = replace(plan, prompts=prompts, start=index[plan.start], count=tracked_count(plan, numbers))
    before: TrackedFrame | None = None
    distances: dict[int, SignedDistance | None] = {}
    for found in track_session(predictor, sampled, short, memory):
        frame = replace(found, index=numbers[found.index])
        if fill:
            ahead = {obj: SignedDistance.of(mask) for obj, mask in frame.masks.items()}
            if before is not None:
                yield from _between(before, frame, distances, ahead, source, sampled)
            before, distances = frame, ahead
        yield frame


def _between(
    before: TrackedFrame,
    after: TrackedFrame,
    first: dict[int, SignedDistance | None],
    second: dict[int, SignedDistance | None],
    source: FrameSource,
    sampled: SampledSource,
) -> Iterator[TrackedFrame]:
    step = 1 if after.index > before.index else -1
    for t in range(before.index + step, after.index, step):
        share = (t - before.index) / (after.index - before.index)
        size = source.height, source.width
        masks = {obj: mask_between(first.get(obj), distance, share, size) for obj, distance in second.items()}
        yield TrackedFrame(t, sampled.left_out(t), masks, {}, source.time(t), filled=True)

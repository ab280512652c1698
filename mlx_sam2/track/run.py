"""Track frames and write the results: in sessions and live streams, until a signal stops it."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import cli
from ..cli import UsageError
from .cutouts import refined_masks
from .options import approximations
from .references import ObjectFile, give_references, save_references

if TYPE_CHECKING:
    from ..frames.sinks import FrameSink
    from ..frames.source import FrameSource
    from ..images.matte import Edges
    from ..masks.scores import ObjectScores
    from ..sam2_video_predictor import SAM2VideoPredictor
    from ..video.state import VideoState
    from .prompts import ObjectPrompt

WAITING_FRAMES = 3  # tracked, and not yet written


@dataclass
class Plan:
    """A run: prompts, the first frame, and how many frames (None: until a live stream ends)."""

    prompts: list[ObjectPrompt]
    start: int
    count: int | None
    reverse: bool
    references: Sequence[ObjectFile] = ()  # objects that were learned elsewhere
    to_save: Sequence[ObjectFile] = ()  # references to write
    overwrite: bool = False  # of those


def is_live(source: FrameSource) -> bool:
    return not source.random_access or source.num_frames is None


def load_predictor(args: argparse.Namespace, **options: Any) -> SAM2VideoPredictor:
    from ..sam2_video_predictor import SAM2VideoPredictor

    try:
        options = {**approximations(args), **cli.weights_key(args), **options}
        return SAM2VideoPredictor.from_pretrained(args.model, dtype=args.dtype, revision=args.revision, **options)
    except ValueError as error:  # CheckpointError, ConfigError
        raise UsageError(str(error)) from None


@dataclass(frozen=True)
class TrackedFrame:
    """The objects on one frame: pixels (H, W, 3) uint8, masks (H, W) bool and scores by object."""

    index: int
    pixels: np.ndarray
    masks: dict[int, np.ndarray]
    scores: dict[int, ObjectScores]
    time: float | None
    filled: bool = False  # not tracked: masks between those of its neighbours
    logits: dict[int, np.ndarray] = field(default_factory=dict)  # low-resolution logits (h, w), for soft edges


def give_prompts(predictor: SAM2VideoPredictor, state: VideoState, plan: Plan) -> None:
    """Give the session its prompts. Features of prompted frames are kept: they are all that a run needs twice."""
    predictor.feature_cache.limit(len({prompt.frame for prompt in plan.prompts}), predictor.model)
    give_references(predictor, state, plan.references)
    for prompt in plan.prompts:
        prompt.give(
            partial(predictor.add_new_mask, state, prompt.frame),
            partial(predictor.add_new_points_or_box, state, prompt.frame),
        )


def track_session(
    predictor: SAM2VideoPredictor, source: FrameSource, plan: Plan, memory: str, soft: bool = False
) -> Iterator[TrackedFrame]:
    """Track a video that can be read at random; ``soft`` asks for logits."""
    with predictor.init_state(source, memory=memory) as state:
        give_prompts(predictor, state, plan)
        save_references(predictor, state, plan.to_save, plan.overwrite)
        for t, ids, logits in predictor.propagate_in_video(state, plan.start, plan.count - 1, plan.reverse):
            masks = dict(zip(ids, logits[:, 0] > 0, strict=True))
            low_res = state.low_res(t) if soft else {}
            yield TrackedFrame(t, state.frame(t), masks, state.scores(t), source.time(t), logits=low_res)


def track_live(
    predictor: SAM2VideoPredictor, source: FrameSource, plan: Plan, soft: bool = False
) -> Iterator[TrackedFrame]:
    """Track frames as they come, from the first prompt on. A prompt is given when its frame has come."""
    with predictor.stream(source) as stream:
        give_references(predictor, stream.state, plan.references)
        for t, ids, logits in stream:
            for prompt in plan.prompts:
                if prompt.frame == t:
                    _, ids, logits = prompt.give(stream.add_new_mask, stream.add_new_points_or_box)
            if ids:
                masks = dict(zip(ids, logits[:, 0] > 0, strict=True))
                low_res = stream.state.low_res(t) if soft else {}
                yield TrackedFrame(t, stream.frame, masks, stream.state.scores(t), source.time(t), logits=low_res)


class StopOnSignal:
    """Within its block SIGINT and SIGTERM only set ``signal``, so that the frame in work is finished.

    A second one ends the program at once. On another thread than the main one signals are left alone.
    """

    signal = 0

    def __enter__(self) -> StopOnSignal:
        caught = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self._before = {number: signal.signal(number, self._note) for number in caught}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.signal:
            raise cli.Terminated if number == signal.SIGTERM else KeyboardInterrupt
        self.signal = number


@dataclass
class Progress:
    """How far a run has come."""

    count: int = 0
    first: int = 0
    last: TrackedFrame | None = None
    filled: int = 0  # of the frames
    seconds: float = 0.0
    highest: int = 0  # of the numbers of objects that were found
    note: str = ""  # the end of the line that sums the run up

    @property
    def span(self) -> str:
        return f"frame {self.first}" if self.count == 1 else f"frames {self.first} to {self.last.index}"


def write_frames(
    frames: Iterator[TrackedFrame],
    sinks: Sequence[FrameSink],
    total: int | None,
    progress: Progress,
    stop: StopOnSignal,
    name: str = "",
    edges: Edges | None = None,
) -> None:
    """Write frames as they come, until a signal; with a progress bar on a terminal. `edges` change masks, if given."""
    from tqdm import tqdm

    with tqdm(total=total, desc=name or None, unit="frame", leave=not name, disable=None) as bar:
        with Writer(sinks, progress, edges) as writer:
            for frame in frames:
                writer.put(frame)
                bar.update(progress.count - bar.n)
                if stop.signal:
                    break
        bar.update(progress.count - bar.n)


class Writer:
    """Writes frames on a thread, in order, while the next one is tracked.

    Leaving its block waits until all frames are written, whatever ended it; only a second Ctrl-C drops those that wait.
    An output that fails ends the writing; the next ``put``, or the end of the block, raises its error.
    """

    def __init__(self, sinks: Sequence[FrameSink], progress: Progress, edges: Edges | None = None) -> None:
        self._sinks, self._progress, self._edges = sinks, progress, edges
        self._began = time.perf_counter()
        self._waiting: deque[Future[None]] = deque()
        self._failed = False

    def __enter__(self) -> Writer:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mlx_sam2-writer")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is KeyboardInterrupt)
        if kind is None:
            self._wait(0)

    def put(self, frame: TrackedFrame) -> None:
        """Queue a frame; waits if too many are queued already."""
        self._wait(WAITING_FRAMES - 1)
        self._waiting.append(self._pool.submit(self._write, frame))

    def _wait(self, left: int) -> None:
        while len(self._waiting) > left or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _write(self, frame: TrackedFrame) -> None:
        if self._failed:  # nothing is written behind a gap
            return
        self._failed = True  # until every sink has written it
        known = {"scores": frame.scores or None, "time": frame.time, "filled": frame.filled, "logits": frame.logits}
        refined = refined_masks(frame.masks, self._edges)
        for sink in self._sinks:
            sink.write(frame.index, frame.pixels, frame.masks if sink.refines else refined, **known)
        self._failed = False
        progress = self._progress
        progress.first = progress.first if progress.count else frame.index
        progress.count, progress.last = progress.count + 1, frame
        progress.filled += frame.filled
        progress.seconds = time.perf_counter() - self._began

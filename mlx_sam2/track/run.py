"""Running a tracker over frames and writing what it finds: sessions and live streams, stopping, going on."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import cli
from ..cli import UsageError

if TYPE_CHECKING:
    from ..frames.sinks import FrameSink
    from ..frames.source import FrameSource
    from ..sam2_video_predictor import SAM2VideoPredictor
    from ..video.state import VideoState
    from .prompts import ObjectPrompt

WAITING_FRAMES = 3  # tracked, and not yet written


@dataclass
class Plan:
    """What to track: prompts, the first frame, and how many (None: until a live stream ends)."""

    prompts: list[ObjectPrompt]
    start: int
    count: int | None
    reverse: bool


APPROXIMATIONS: list[tuple[str, str, Any, str]] = [  # flag, option of the predictor, type, help
    ("image-size", "image_size", cli.number(int, 32), cli.IMAGE_SIZE),
    ("memory-pooling", "memory_pooling", cli.number(int, 1), "average memories over N x N cells, such as 2"),
    ("memory-stride", "memory_temporal_stride_for_eval", cli.number(int, 1), "recall the last frame and every Nth one"),
    ("max-memories", "max_memories", cli.number(int, 1), "recall N frames at most, one prompted frame among them"),
    ("static", "static_threshold", cli.number(float, 0, 255), "encode no memory of frames that differ less (0 to 255)"),
]


def add_approximations(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("approximations (faster, with other results; docs/performance.md has their cost)")
    for flag, name, kind, text in APPROXIMATIONS:
        metavar = "X" if flag == "static" else "N"
        group.add_argument(f"--{flag}", dest=name, type=kind, metavar=metavar, help=text)


def approximations(args: argparse.Namespace) -> dict[str, Any]:
    """Those that were asked for, as options of the predictor."""
    return {name: getattr(args, name) for _, name, *_ in APPROXIMATIONS if getattr(args, name) is not None}


def is_live(source: FrameSource) -> bool:
    return not source.random_access or source.num_frames is None


def load_predictor(args: argparse.Namespace, **options: Any) -> SAM2VideoPredictor:
    from ..sam2_video_predictor import SAM2VideoPredictor

    try:
        options = {**approximations(args), **options}
        return SAM2VideoPredictor.from_pretrained(args.model, dtype=args.dtype, revision=args.revision, **options)
    except ValueError as error:  # CheckpointError, ConfigError
        raise UsageError(str(error)) from None


@dataclass(frozen=True)
class TrackedFrame:
    """The objects on one frame: pixels (H, W, 3) uint8, masks (H, W) bool and scores by object."""

    index: int
    pixels: np.ndarray
    masks: dict[int, np.ndarray]
    scores: dict[int, float]
    time: float | None


def give_prompts(predictor: SAM2VideoPredictor, state: VideoState, plan: Plan) -> None:
    for prompt in plan.prompts:
        prompt.give(
            partial(predictor.add_new_mask, state, prompt.frame),
            partial(predictor.add_new_points_or_box, state, prompt.frame),
        )


def track_session(
    predictor: SAM2VideoPredictor, source: FrameSource, plan: Plan, memory: str
) -> Iterator[TrackedFrame]:
    """Track a video that can be read at random."""
    with predictor.init_state(source, memory=memory) as state:
        give_prompts(predictor, state, plan)
        for t, ids, logits in predictor.propagate_in_video(state, plan.start, plan.count - 1, plan.reverse):
            scores = {obj: float(state.tracks[obj].result(t).object_score) for obj in ids}
            yield TrackedFrame(t, state.frame(t), dict(zip(ids, logits[:, 0] > 0, strict=True)), scores, source.time(t))


def track_live(predictor: SAM2VideoPredictor, source: FrameSource, plan: Plan) -> Iterator[TrackedFrame]:
    """Track frames as they come, from the first prompt on; a prompt is given when its frame has come."""
    with predictor.stream(source) as stream:
        for t, ids, logits in stream:
            for prompt in plan.prompts:
                if prompt.frame == t:
                    _, ids, logits = prompt.give(stream.add_new_mask, stream.add_new_points_or_box)
            if ids:
                masks = dict(zip(ids, logits[:, 0] > 0, strict=True))
                yield TrackedFrame(t, stream.frame, masks, stream.object_scores, source.time(t))


class Stop:
    """Within its block SIGINT and SIGTERM only set ``signal``, so that a frame in work is finished; a second one
    ends the program at once.
    """

    signal = 0

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


@dataclass
class Progress:
    """How far a run has come."""

    count: int = 0
    first: int = 0
    last: TrackedFrame | None = None
    seconds: float = 0.0
    highest: int = 0  # number of an object that was found
    note: str = ""  # at the end of the line that sums it up

    @property
    def span(self) -> str:
        return f"frame {self.first}" if self.count == 1 else f"frames {self.first} to {self.last.index}"


def write_frames(
    frames: Iterator[TrackedFrame], sinks: Sequence[FrameSink], total: int | None, progress: Progress, name: str = ""
) -> int:
    """Write frames as they come, with a progress bar on a terminal; returns the signal that stopped it, or 0."""
    from tqdm import tqdm

    with Stop() as stop, tqdm(total=total, desc=name or None, unit="frame", leave=not name, disable=None) as bar:
        with Writer(sinks, progress) as writer:
            for frame in frames:
                writer.put(frame)
                bar.update(progress.count - bar.n)
                if stop.signal:
                    break
        bar.update(progress.count - bar.n)
    return stop.signal


class Writer:
    """Writes frames on a thread, one after the other, so that the next one can be tracked meanwhile.

    Leaving its block waits until all is written, whatever ended it; but a second Ctrl-C ends it with the frame that is
    being written. An output that fails ends the writing; its error is raised when the next frame is put, or at the end.
    """

    def __init__(self, sinks: Sequence[FrameSink], progress: Progress) -> None:
        self._sinks, self._progress = sinks, progress
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
        """Have a frame written; waits where too many are waiting already."""
        self._wait(WAITING_FRAMES - 1)
        self._waiting.append(self._pool.submit(self._write, frame))

    def _wait(self, left: int) -> None:
        while len(self._waiting) > left or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def _write(self, frame: TrackedFrame) -> None:
        if self._failed:  # nothing behind a gap
            return
        self._failed = True  # unless all goes well
        for sink in self._sinks:
            sink.write(frame.index, frame.pixels, frame.masks, scores=frame.scores or None, time=frame.time)
        self._failed = False
        progress = self._progress
        progress.first = progress.first if progress.count else frame.index
        progress.count, progress.last = progress.count + 1, frame
        progress.seconds = time.perf_counter() - self._began


def _visible(masks: dict[int, np.ndarray]) -> list[int]:
    """The objects of which an indexed PNG shows something: the lowest is on top."""
    visible, covered = [], False
    for obj in sorted(masks):
        if (masks[obj] & ~np.asarray(covered)).any():
            visible.append(obj)
        covered = covered | masks[obj]
    return visible


def _prompt_words(plan: Plan, source: FrameSource, outputs: Sequence[str], last: TrackedFrame) -> list[str]:
    """The prompts there were, but for objects on the last frame its masks as they were written."""
    from ..frames.sinks import PngSink

    visible = _visible(last.masks)
    folder = next((output for output in outputs if Path(output).is_dir()), None)
    if folder is None and visible:
        folder = f"{Path(outputs[0]).with_suffix('')}_stopped{os.sep}"
        with PngSink(folder, overwrite=True, frame_name=source.frame_name) as sink:
            sink.write(last.index, last.pixels, last.masks)
    words = []
    for prompt in plan.prompts:
        if prompt.frame != last.index or prompt.object not in visible:
            words += prompt.as_flags()
    if visible:
        words += ["--mask", f"{Path(folder) / source.frame_name(last.index)}.png@{last.index}"]
    return words


def resume_arguments(
    args: argparse.Namespace, plan: Plan, source: FrameSource, outputs: Sequence[str], progress: Progress
) -> list[str]:
    """Arguments that go on after the last frame: its masks as a prompt beside those there were, in new outputs.

    Only a folder of PNG is continued. Without one the last masks are written to a folder of their own.
    """
    last = progress.last
    start = max(last.index - 1, 1) if plan.reverse else last.index + 1  # in reverse nothing starts at frame 0
    left = plan.count - progress.count + (start == last.index)
    if args.everything:
        from .everything import resume_words

        words = [args.video, *resume_words(args, plan, source, outputs, progress)]
    else:
        words = [args.video, *_prompt_words(plan, source, outputs, last)]
    words += ["--start", str(start)]
    words += ["--frames", str(left)] if args.frames else []
    words += ["--reverse"] if plan.reverse else []
    for name in ("model", "revision", "dtype", "memory"):
        value = getattr(args, name)
        words += [f"--{name}", str(value)] if value not in (None, "disk") else []
    given = approximations(args)
    for flag, name, *_ in APPROXIMATIONS:
        words += [f"--{flag}", f"{given[name]:g}"] if name in given else []
    for output in outputs:
        path = Path(output)
        name = output if path.is_dir() else path.with_name(f"{path.stem.split('_from')[0]}_from{start}{path.suffix}")
        words += ["--output", str(name)]
    return [*words, "--overwrite"] if any(Path(output).is_dir() for output in outputs) else words

"""Tracking one video: what is to be done, checked before anything is loaded; doing it; what to report."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .. import cli
from ..cli import UsageError
from ..frames.opening import open_sink, open_source
from ..frames.sinks import PngSink
from ..frames.source import FrameSource, VideoError
from . import cutouts
from . import prompts as track_prompts
from .dataset import open_dataset_sink
from .everything import refuse_numbers, track_all
from .fill import check_fill, sampled_numbers, track_sampled, tracked_count
from .options import PROG
from .references import check_references
from .resume import resume_arguments
from .run import (
    Plan,
    Progress,
    StopOnSignal,
    is_live,
    load_predictor,
    track_live,
    track_session,
    write_frames,
)

if TYPE_CHECKING:
    from ..frames.sinks import FrameSink


def make_plan(args: argparse.Namespace, source: FrameSource) -> Plan:
    """Check prompts and frames against the video.

    Raises:
        UsageError, VideoError: one line.
    """
    items = [*args.point, *args.negative, *args.box, *args.mask]
    items += track_prompts.read_prompts_file(args.prompts) if args.prompts else []
    if not items and not args.everything and not args.reference:
        forms = "--point X,Y, --box X0,Y0,X1,Y1, --mask PNG, --prompts FILE.json, --reference FILE or --everything"
        raise UsageError(f"nothing to follow: give {forms}")
    if is_live(source):
        if args.reverse or args.start is not None or args.memory != "disk":
            raise UsageError(f"{source.name} is live: --reverse, --start and --memory need a video file or a folder")
        if (items or args.reference) and args.everything:
            raise UsageError(f"{source.name} is live: prompts do not go with --everything there")
        prompts = track_prompts.gather(items, 0, None, (source.height, source.width))
        check_references(args, prompts, live=True)
        check_fill(args, live=True)
        first = prompts[0].frame if prompts and not args.reference else 0
        return Plan(prompts, first, args.frames, False, args.reference)
    n = source.num_frames
    if args.start is not None and args.start >= n:
        raise UsageError(f"--start {args.start}: frame {args.start} does not exist; the video has frames 0 to {n - 1}")
    default = args.start if args.start is not None else n - 1 if args.reverse else 0
    prompts = track_prompts.gather(items, default, n, (source.height, source.width))
    refuse_numbers(args, [*prompts, *args.reference])
    check_references(args, prompts, live=False)
    check_fill(args, live=False)
    prompted = [0] if args.everything else [prompt.frame for prompt in prompts]
    prompted += [n - 1 if args.reverse else 0] if args.reference else []
    start = args.start if args.start is not None else max(prompted) if args.reverse else min(prompted)
    if args.reverse and start == 0:
        raise UsageError("--reverse from frame 0: there is no frame before it; give --start or prompt a later frame")
    left = start + 1 if args.reverse else n - start
    references = {"references": args.reference, "to_save": args.save_reference, "overwrite": args.overwrite}
    return Plan(prompts, start, min(args.frames or left, left), args.reverse, **references)


def _outputs(args: argparse.Namespace, source: FrameSource) -> list[str]:
    """Names of the outputs; folders that the command names itself end in a slash."""
    outputs = [*args.output, *([args.overlay] if args.overlay else [])]
    if args.overlay and Path(args.overlay).suffix.lower() not in (".mp4", ".mov"):
        raise UsageError(f"--overlay {args.overlay}: the name of a video must end in .mp4 or .mov")
    if not outputs and not cutouts.names(args):
        video = Path(args.video)
        if is_live(source):
            stem = "camera" if args.video.startswith("camera") else "stream"
        else:
            video = video if video.name not in ("", "..") else video.resolve()
            stem = str(video if video.is_dir() else video.with_suffix(""))
        outputs = [f"{stem}_masks{os.sep}", f"{stem}_overlay.mp4"]
    named = [*outputs, *cutouts.names(args)]
    places = [Path(args.video).resolve(), *(Path(output).resolve() for output in named)]
    for i, output in enumerate(named):
        if places[i + 1] in places[: i + 1]:
            raise UsageError(f"{output} is {'the video itself' if places[i + 1] == places[0] else 'named twice'}")
    return outputs


def _refuse_protected(output: str) -> None:
    path = Path(output)
    for place in [path.absolute().parent, *([path] if path.is_dir() else [])]:
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            raise UsageError(f"{output} cannot be written: no permission to write in {place}")
    if path.is_file() and not os.access(path, os.W_OK):
        raise UsageError(f"{output} cannot be written: it is read-only")


def _open_output(output: str, source: FrameSource, overwrite: bool) -> FrameSink:
    path = Path(output)
    if output.endswith(os.sep):
        return PngSink(path, overwrite, frame_name=source.frame_name)
    return open_sink(path, overwrite=overwrite, fps=source.fps, display=source.display, frame_name=source.frame_name)


# ---- doing it


class Outcome(NamedTuple):
    """The end of a run: its exit code, and what the command prints."""

    code: int
    summary: str
    advice: str | None = None  # how to continue


def run_video(args: argparse.Namespace) -> Outcome:
    progress = Progress()
    try:
        return _track(args, progress)
    except (UsageError, VideoError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        return Outcome(cli.fail(PROG, error, f" ({progress.span} written)" if progress.count else ""), "")


def _track(args: argparse.Namespace, progress: Progress) -> Outcome:
    with open_source(args.video, levels=args.levels) as source:
        plan = make_plan(args, source)
        outputs = _outputs(args, source)
        for output in [*outputs, *cutouts.names(args)]:
            _refuse_protected(output)
        sinks = [_open_output(output, source, args.overwrite) for output in outputs[args.format is not None :]]
        sinks += [open_dataset_sink(args, source)] if args.format else []
        sinks += cutouts.open_cutouts(args, source, plan)
        predictor = load_predictor(args)
        if args.everything:
            frames = track_all(predictor, source, plan, args, progress)
        elif is_live(source):
            frames = track_live(predictor, source, plan, soft=bool(cutouts.names(args)))
        elif args.every_nth:
            frames = track_sampled(predictor, source, plan, args.memory, args.every_nth, args.fill)
        else:
            frames = track_session(predictor, source, plan, args.memory, soft=bool(cutouts.names(args)))
        with StopOnSignal() as stop:  # until the outputs are finished
            with ExitStack() as stack:
                for sink in sinks:
                    stack.enter_context(sink)
                stack.callback(frames.close)
                total, edges = _total(args, plan), cutouts.edges_of(args)
                write_frames(islice(frames, plan.count), sinks, total, progress, stop, edges=edges)
            return _outcome(args, plan, source, outputs, progress, stop.signal)


def _total(args: argparse.Namespace, plan: Plan) -> int | None:
    """How many frames will be written, if that is known."""
    if args.every_nth and not args.fill:
        return tracked_count(plan, sampled_numbers(plan, args.every_nth))
    return plan.count


def _outcome(
    args: argparse.Namespace, plan: Plan, source: FrameSource, outputs: list[str], progress: Progress, stopped: int
) -> Outcome:
    if progress.count == 0:
        raise UsageError(f"{source.name} ended before frame {plan.start}, the first one with a prompt")
    objects, named = len(progress.last.masks), ", ".join([*outputs, *cutouts.names(args)])
    filled = f" ({progress.filled} of {progress.count} filled in)" if progress.filled else ""
    summary = (
        f"{source.name}: {progress.span}{filled}, {objects} object{'s' * (objects != 1)}, "
        f"{progress.count / progress.seconds:.2f} frames/s -> {named}{progress.note}"
    )
    live = is_live(source)
    passed = abs(progress.last.index - plan.start) + 1
    if not stopped or plan.count in (progress.count, passed) or (live and stopped == signal.SIGINT):
        return Outcome(0, summary)
    if live:
        return Outcome(128 + stopped, summary)
    command = f"{PROG} {shlex.join(resume_arguments(args, plan, source, outputs, progress))}"
    return Outcome(128 + stopped, summary, f"stopped after frame {progress.last.index}; go on with: {command}")

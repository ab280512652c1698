"""``python -m mlx_sam2.track clip.mp4 --point x,y``: follow objects through a video, and write what was found."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import cli
from ..cli import UsageError
from ..frames.opening import open_sink, open_source
from ..frames.sinks import PngSink
from ..frames.source import FrameSource, VideoError
from ..hub.download import check_model
from . import everything
from . import prompts as track_prompts
from .evaluate import run_davis
from .resume import resume_arguments
from .run import (
    Plan,
    Progress,
    StopOnSignal,
    add_approximations,
    is_live,
    load_predictor,
    track_live,
    track_session,
    write_frames,
)

if TYPE_CHECKING:
    from ..frames.sinks import FrameSink

PROG = cli.program("track")

DESCRIPTION = "Follow what points, boxes or masks pick out through a video, with SAM 2."
EPILOG = """\
VIDEO is a video file, a folder of numbered JPEG or PNG frames, camera:0, or the address of a live stream (rtsp://...).

Prompts may be given many times: for several objects, on several frames. OBJ is the number of an object, 1 unless
given; T is a frame, counted from 0, the first tracked one unless given. Coordinates are pixels of the frame as it is
shown. Prompts for one object on one frame work together: points with a box, or points that correct a mask. A mask is a
PNG: black and white for one object, or indexed with object numbers as pixel values, as DAVIS has them, for all of them.

Tracking runs from --start, or the first frame with a prompt, to the end; with --reverse from --start, or the last
frame with a prompt, to the first one. With --reverse prompts without @T are on the last frame, unless --start is given.

Output: a folder for indexed PNG masks (where objects overlap the lowest number is on top), .mp4 or .mov for the video
with the objects drawn in, .jsonl for COCO run-length encodings with scores, one frame a line. Without --output and
--overlay, VIDEO_masks/ and VIDEO_overlay.mp4 are written beside the video. Ctrl-C stops after the frame in work and
prints the command that goes on from there; a live stream is ended by it. Whatever ends the command, the frames
written so far can be read.

--prompts FILE.json holds a list of prompts:
  [{"object": 1, "frame": 0, "points": [[210, 350], [250, 220]], "labels": [1, 0]},
   {"object": 2, "frame": 0, "box": [300, 0, 500, 400]},
   {"object": 3, "frame": 7, "mask": "third.png"}]

--everything finds the objects by itself: the automatic masks of the first frame, unless prompts are given, and of every
frame whose number is a multiple of --every become objects, unless they are those of an object that is followed already
(mask IoU above --merge-iou). Objects are numbered from 1 to --max-objects, and no number is given twice. Objects given
by prompts are followed too. Masks are found as by the segment command with --everything.

--davis ROOT tracks the sequences of a DAVIS data set from the masks of their first frames, with the settings of the
official evaluation (no hole filling, no overlaps), writes OUTPUT/SEQUENCE/00000.png, ..., and prints J, F and J&F where
there are annotations. Sequences that are complete in OUTPUT are not tracked again.

Exit code 0: done; 2: bad input; 1: failure; 130, 143: stopped by Ctrl-C, by SIGTERM.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("video", metavar="VIDEO", nargs="?", help="video file, folder of frames, camera:0, rtsp://...")
    prompts = parser.add_argument_group("prompts (repeatable)")
    for flag, kind, form, text in (
        ("--point", track_prompts.point_flag, "[OBJ:]X,Y[@T]", "a point on the object"),
        ("--negative", track_prompts.negative_flag, "[OBJ:]X,Y[@T]", "a point that is not on the object"),
        ("--box", track_prompts.box_flag, "[OBJ:]X0,Y0,X1,Y1[@T]", "a box around the object"),
        ("--mask", track_prompts.mask_flag, "[OBJ:]PNG[@T]", "the mask of one object or several"),
    ):
        prompts.add_argument(flag, type=kind, action="append", default=[], metavar=form, help=text)
    prompts.add_argument("--prompts", type=Path, metavar="FILE.json", help="prompts in a file, see below")
    run = parser.add_argument_group("which frames")
    run.add_argument("--start", type=_whole(0), metavar="T", help="the first frame to track")
    run.add_argument("--frames", type=_whole(1), metavar="N", help="how many frames to track; default: all")
    run.add_argument("--reverse", action="store_true", help="track towards the first frame")
    everything.add_options(parser)
    davis = parser.add_argument_group("evaluation")
    davis.add_argument("--davis", type=Path, metavar="ROOT", help="track a DAVIS data set instead of VIDEO, see below")
    davis.add_argument("--sequences", nargs="+", default=[], metavar="NAME", help="some of its sequences only")
    cli.add_model_options(parser)
    add_approximations(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--output", action="append", default=[], metavar="PATH",
                        help="a folder of PNG masks, .mp4, .mov or .jsonl (repeatable)")  # fmt: skip
    output.add_argument("--overlay", metavar="PATH", help="the video with the objects drawn in, .mp4 or .mov")
    output.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    output.add_argument("--memory", choices=["disk", "ram"], default="disk",
                        help="where results are kept that a frame may recall; default: %(default)s")  # fmt: skip
    return parser


def _whole(smallest: int) -> Any:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or int(text) < smallest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {smallest} up")
        return int(text)

    return parse


# ---- what is to be done, checked before anything is loaded


def make_plan(args: argparse.Namespace, source: FrameSource) -> Plan:
    """Check prompts and frames against the video.

    Raises:
        UsageError, VideoError: one line.
    """
    items = [*args.point, *args.negative, *args.box, *args.mask]
    items += track_prompts.read_prompts_file(args.prompts) if args.prompts else []
    if not items and not args.everything:
        forms = "--point X,Y, --box X0,Y0,X1,Y1, --mask PNG, --prompts FILE.json or --everything"
        raise UsageError(f"nothing to follow: give {forms}")
    if is_live(source):
        if args.reverse or args.start is not None or args.memory != "disk":
            raise UsageError(f"{source.name} is live: --reverse, --start and --memory need a video file or a folder")
        if items and args.everything:
            raise UsageError(f"{source.name} is live: prompts do not go with --everything there")
        prompts = track_prompts.gather(items, 0, None, (source.height, source.width))
        return Plan(prompts, prompts[0].frame if prompts else 0, args.frames, False)
    n = source.num_frames
    if args.start is not None and args.start >= n:
        raise UsageError(f"--start {args.start}: frame {args.start} does not exist; the video has frames 0 to {n - 1}")
    default = args.start if args.start is not None else n - 1 if args.reverse else 0
    prompts = track_prompts.gather(items, default, n, (source.height, source.width))
    everything.refuse_numbers(args, prompts)
    prompted = [0] if args.everything else [prompt.frame for prompt in prompts]
    start = args.start if args.start is not None else max(prompted) if args.reverse else min(prompted)
    if args.reverse and start == 0:
        raise UsageError("--reverse from frame 0: there is no frame before it; give --start or prompt a later frame")
    left = start + 1 if args.reverse else n - start
    return Plan(prompts, start, min(args.frames or left, left), args.reverse)


def _outputs(args: argparse.Namespace, source: FrameSource) -> list[str]:
    """Names of the outputs; folders that the command names itself end in a slash."""
    outputs = [*args.output, *([args.overlay] if args.overlay else [])]
    if args.overlay and Path(args.overlay).suffix.lower() not in (".mp4", ".mov"):
        raise UsageError(f"--overlay {args.overlay}: the name of a video must end in .mp4 or .mov")
    if not outputs:
        video = Path(args.video)
        if is_live(source):
            stem = "camera" if args.video.startswith("camera") else "stream"
        else:
            video = video if video.name not in ("", "..") else video.resolve()
            stem = str(video if video.is_dir() else video.with_suffix(""))
        outputs = [f"{stem}_masks{os.sep}", f"{stem}_overlay.mp4"]
    places = [Path(args.video).resolve(), *(Path(output).resolve() for output in outputs)]
    for i, output in enumerate(outputs):
        if places[i + 1] in places[: i + 1]:
            raise UsageError(f"{output} is {'the video itself' if places[i + 1] == places[0] else 'named twice'}")
    return outputs


def _open_output(output: str, source: FrameSource, overwrite: bool) -> FrameSink:
    path = Path(output)
    for place in [path.absolute().parent, *([path] if path.is_dir() else [])]:
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            raise UsageError(f"{output} cannot be written: no permission to write in {place}")
    if path.is_file() and not os.access(path, os.W_OK):
        raise UsageError(f"{output} cannot be written: it is read-only")
    if output.endswith(os.sep):
        return PngSink(path, overwrite, frame_name=source.frame_name)
    return open_sink(path, overwrite=overwrite, fps=source.fps, display=source.display, frame_name=source.frame_name)


# ---- doing it


class Outcome(NamedTuple):
    """What a run has to say."""

    code: int
    summary: str
    advice: str | None = None  # how to continue


def _run_video(args: argparse.Namespace) -> Outcome:
    progress = Progress()
    try:
        return _track(args, progress)
    except (UsageError, VideoError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        return Outcome(cli.fail(PROG, error, f" ({progress.span} written)" if progress.count else ""), "")


def _track(args: argparse.Namespace, progress: Progress) -> Outcome:
    with open_source(args.video) as source:
        plan = make_plan(args, source)
        outputs = _outputs(args, source)
        sinks = [_open_output(output, source, args.overwrite) for output in outputs]
        predictor = load_predictor(args)
        if args.everything:
            frames = everything.track_all(predictor, source, plan, args, progress)
        elif is_live(source):
            frames = track_live(predictor, source, plan)
        else:
            frames = track_session(predictor, source, plan, args.memory)
        with StopOnSignal() as stop:  # until the outputs are finished
            with ExitStack() as stack:
                for sink in sinks:
                    stack.enter_context(sink)
                stack.callback(frames.close)
                write_frames(islice(frames, plan.count), sinks, plan.count, progress, stop)
            return _outcome(args, plan, source, outputs, progress, stop.signal)


def _outcome(
    args: argparse.Namespace, plan: Plan, source: FrameSource, outputs: list[str], progress: Progress, stopped: int
) -> Outcome:
    if progress.count == 0:
        raise UsageError(f"{source.name} ended before frame {plan.start}, the first one with a prompt")
    objects = len(progress.last.masks)
    summary = (
        f"{source.name}: {progress.span}, {objects} object{'s' * (objects != 1)}, "
        f"{progress.count / progress.seconds:.2f} frames/s -> {', '.join(outputs)}{progress.note}"
    )
    live = is_live(source)
    if not stopped or progress.count == plan.count or (live and stopped == signal.SIGINT):
        return Outcome(0, summary)
    if live:
        return Outcome(128 + stopped, summary)
    command = f"{PROG} {shlex.join(resume_arguments(args, plan, source, outputs, progress))}"
    return Outcome(128 + stopped, summary, f"stopped after frame {progress.last.index}; go on with: {command}")


def _check(args: argparse.Namespace) -> None:
    everything.refuse_options(args)
    check_model(args.model, args.revision)
    if args.davis is None and args.video is None:
        raise UsageError("no video: give a video file, a folder of frames or camera:0 (--help explains)")
    if args.davis is None and args.sequences:
        raise UsageError("--sequences belongs to --davis")


def _run(args: argparse.Namespace) -> int:
    try:
        _check(args)
        if args.davis is not None:
            return run_davis(args)
    except (UsageError, VideoError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        return cli.fail(PROG, error)
    code, summary, advice = _run_video(args)
    if advice is not None:
        print(advice, file=sys.stderr)
    if summary:
        cli.say(summary)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.execute(build_parser(), argv, _run)

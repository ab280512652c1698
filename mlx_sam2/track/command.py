"""``python -m mlx_sam2.track clip.mp4 --point x,y``: follow objects through a video, and write what was found."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..cli import UsageError
from ..datasets.options import add_format, refuse_format
from . import cutouts, options
from .options import PROG
from .references import add_references

DESCRIPTION = "Follow what points, boxes or masks pick out through a video, with SAM 2."
EPILOG = """\
VIDEO is a video file, an animated GIF, WebP or PNG, a TIFF stack, a folder of numbered JPEG or PNG frames, camera:0, or
the address of a live stream (rtsp://...).

Prompts may be given many times: for several objects, on several frames. OBJ is the number of an object, 1 unless
given; T is a frame, counted from 0, the first tracked one unless given. Coordinates are pixels of the frame as it is
shown. Prompts for one object on one frame work together: points with a box, or points that correct a mask. A mask is a
PNG: black and white for one object, or indexed with object numbers as pixel values, as DAVIS has them, for all of them.

Tracking runs from --start, or the first frame with a prompt, to the end; with --reverse from --start, or the last
frame with a prompt, to the first one. With --reverse prompts without @T are on the last frame, unless --start is given.

Output: a folder for indexed PNG masks (where objects overlap the lowest number is on top), .mp4 or .mov for the video
with the objects drawn in, .jsonl for COCO run-length encodings with scores, one frame a line. Without --output and
--overlay, VIDEO_masks/ and VIDEO_overlay.mp4 are written beside the video. Ctrl-C and SIGTERM stop after the frame in
work and print the command that goes on from there; a live stream is ended by Ctrl-C. Whatever ends the command, the
frames written so far can be read.

--prompts FILE.json holds a list of prompts:
  [{"object": 1, "frame": 0, "points": [[210, 350], [250, 220]], "labels": [1, 0]},
   {"object": 2, "frame": 0, "box": [300, 0, 500, 400]},
   {"object": 3, "frame": 7, "mask": "third.png"}]

--everything finds the objects by itself: the automatic masks of the first frame, unless prompts are given, and of every
frame whose number is a multiple of --every become objects, unless they are those of an object that is followed already
(mask IoU above --merge-iou). Objects are numbered from 1 to --max-objects, and no number is given twice. Objects given
by prompts are followed too. Masks are found as by the segment command with --everything.

--dataset FORMAT ROOT tracks the sequences of DAVIS, YouTube-VOS, MOSE, SA-V or LVOS, each object from the first mask
that the data set has of it, with the settings of the official evaluation (no hole filling; no overlaps, but in SA-V),
writes OUTPUT/SEQUENCE/00000.png, ..., for SA-V OUTPUT/SEQUENCE/000/00000.png, ..., and results.json, and prints J, F
and J&F where there are annotations. Sequences that are complete in OUTPUT are not tracked again.

Exit code 0: done; 2: bad input; 1: failure; 130, 143: stopped by Ctrl-C, by SIGTERM.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("video", metavar="VIDEO", nargs="?", help="video file, folder of frames, camera:0, rtsp://...")
    parser.add_argument("--levels", type=options.levels_flag, metavar="auto|full|LOW,HIGH",
                        help="how grey frames of 16 bits or floats (TIFF stack, folder of PNG) become 8 bits: by their "
                        "full range, between the darkest and brightest value of all, or two values")  # fmt: skip
    prompts = parser.add_argument_group("prompts (repeatable)")
    for flag, kind, form, text in (
        ("--point", options.point_flag, "[OBJ:]X,Y[@T]", "a point on the object"),
        ("--negative", options.negative_flag, "[OBJ:]X,Y[@T]", "a point that is not on the object"),
        ("--box", options.box_flag, "[OBJ:]X0,Y0,X1,Y1[@T]", "a box around the object"),
        ("--mask", options.mask_flag, "[OBJ:]PNG[@T]", "the mask of one object or several"),
    ):
        prompts.add_argument(flag, type=kind, action="append", default=[], metavar=form, help=text)
    prompts.add_argument("--prompts", type=Path, metavar="FILE.json", help="prompts in a file, see below")
    add_references(parser)
    run = parser.add_argument_group("which frames")
    run.add_argument("--start", type=cli.number(int, 0), metavar="T", help="the first frame to track")
    run.add_argument("--frames", type=cli.number(int, 1), metavar="N", help="how many frames to track; default: all")
    run.add_argument("--reverse", action="store_true", help="track towards the first frame")
    run.add_argument("--every-nth", type=int, choices=(2, 3, 4), metavar="2|3|4",
                     help="a preview: track every Nth frame, as if the others were not there")  # fmt: skip
    run.add_argument("--fill", action="store_true", help="with --every-nth: fill in the masks between, marked as such")
    options.add_everything(parser)
    davis = parser.add_argument_group("evaluation")
    davis.add_argument("--dataset", nargs=2, metavar=("davis|ytvos|mose|sav|lvos", "ROOT"),
                       help="track a data set instead of VIDEO and score it, see below")  # fmt: skip
    davis.add_argument("--davis", type=Path, metavar="ROOT", help="the same as --dataset davis ROOT")
    davis.add_argument("--sequences", nargs="+", default=[], metavar="NAME", help="some of its sequences only")
    cli.add_model_options(parser)
    options.add_memory_policy(run)
    options.add_approximations(parser)
    cli.add_edges(parser)
    cutouts.add_cutouts(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--output", action="append", default=[], metavar="PATH",
                        help="a folder of PNG masks, .mp4, .mov or .jsonl (repeatable)")  # fmt: skip
    add_format(output, by_object=True)
    output.add_argument("--overlay", metavar="PATH", help="the video with the objects drawn in, .mp4 or .mov")
    output.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    output.add_argument("--memory", choices=["disk", "ram"], default="disk",
                        help="where results are kept that a frame may recall; default: %(default)s")  # fmt: skip
    return parser


def _check(args: argparse.Namespace) -> None:
    from ..hub.download import check_model

    options.refuse_options(args)
    refuse_format(args)
    cutouts.refuse_cutouts(args)
    check_model(args.model, args.revision)
    evaluates = args.davis is not None or args.dataset is not None
    if not evaluates and args.video is None:
        raise UsageError("no video: give a video file, a folder of frames or camera:0 (--help explains)")
    if not evaluates and args.sequences:
        raise UsageError("--sequences belongs to --davis and --dataset")


def _run(args: argparse.Namespace) -> int:
    from ..frames.source import VideoError
    from .evaluate import run_evaluation
    from .video import run_video

    try:
        _check(args)
        if args.davis is not None or args.dataset is not None:
            return run_evaluation(args)
    except (UsageError, VideoError, OSError, RuntimeError, ArithmeticError, MemoryError) as error:
        return cli.fail(PROG, error)
    code, summary, advice = run_video(args)
    if advice is not None:
        print(advice, file=sys.stderr)
    if summary:
        cli.say(summary)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return cli.execute(build_parser(), argv, _run)

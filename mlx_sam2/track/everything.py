"""``track --everything``: its options, and running it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .. import cli
from ..cli import UsageError
from .prompts import MAX_OBJECT, ObjectPrompt
from .run import Plan, Progress, TrackedFrame, give_prompts, is_live

if TYPE_CHECKING:
    from ..frames.source import FrameSource
    from ..sam2_video_predictor import SAM2VideoPredictor

FOLLOW: cli.Options = [  # of track_everything
    ("every", "every", cli.number(int, 0), 30, "look for new objects every N frames, 0 for on the first one only"),
    ("max-objects", "max_objects", cli.number(int, 1, MAX_OBJECT), 40, "follow no more than this"),
    ("number-from", "number_from", cli.number(int, 1, MAX_OBJECT + 1), 1, "the first object found gets this number"),
    ("merge-iou", "merge_iou", cli.number(float, 0.01, 1), 0.5, "masks of a higher IoU are the same object"),
]


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("everything in the video")
    group.add_argument(
        "--everything", action="store_true", help="find the objects, and new ones as they come, see below"
    )
    for flag, name, kind, default, text in [*FOLLOW, *cli.MASK_OPTIONS]:
        metavar = "N" if isinstance(default, int) else "X"
        group.add_argument(f"--{flag}", dest=name, type=kind, metavar=metavar, help=f"{text}; default: {default}")


def refuse_options(args: argparse.Namespace) -> None:
    """Refuse options of --everything without it, and options that do not go with it.

    Raises:
        UsageError: one line.
    """
    if not args.everything:
        for flag, name, *_ in [*FOLLOW, *cli.MASK_OPTIONS]:
            if getattr(args, name) is not None:
                raise UsageError(f"--{flag} belongs to --everything")
    elif args.reverse:
        raise UsageError("--everything looks for what comes next: --reverse does not go with it")


def refuse_numbers(args: argparse.Namespace, prompts: Sequence[ObjectPrompt]) -> None:
    """Refuse prompts for objects with numbers above --max-objects."""
    limit = _limit(args)
    highest = max((prompt.object for prompt in prompts), default=0)
    if args.everything and highest > limit:
        raise UsageError(
            f"object {highest} has a prompt, but objects are numbered up to {limit}: "
            f"give --max-objects from {highest} to {MAX_OBJECT}, or leave out --everything"
        )


def _limit(args: argparse.Namespace) -> int:
    default = next(default for _, name, _, default, _ in FOLLOW if name == "max_objects")
    return default if args.max_objects is None else args.max_objects


def _given(args: argparse.Namespace, options: cli.Options) -> dict[str, Any]:
    return {name: getattr(args, name) for _, name, *_ in options if getattr(args, name) is not None}


def track_all(
    predictor: SAM2VideoPredictor, source: FrameSource, plan: Plan, args: argparse.Namespace, progress: Progress
) -> Iterator[TrackedFrame]:
    """Follow prompted objects and everything else. ``progress.note`` says what the user should know."""
    from ..automatic_mask_generator import SAM2AutomaticMaskGenerator
    from ..track_everything import track_everything

    generator = SAM2AutomaticMaskGenerator(
        predictor.model, output_mode="uncompressed_rle", **_given(args, cli.MASK_OPTIONS)
    )
    follow = {**_given(args, FOLLOW), "count": plan.count}
    with predictor.stream(source) if is_live(source) else predictor.init_state(source, memory=args.memory) as video:
        if not is_live(source):
            give_prompts(predictor, video, plan)
            follow["start"] = plan.start
        progress.note = "; nothing was found: lower --pred-iou or --stability"
        for frame in track_everything(predictor, video, generator, **follow):
            if frame.masks:
                progress.note = progress.note if progress.note.startswith("; more") else ""
            elif args.every == 0 and not progress.count:
                raise UsageError(
                    f"nothing was found on frame {frame.index}: lower --pred-iou or --stability, or begin on another "
                    "frame with --start"
                )
            progress.highest = max([progress.highest, *frame.new])
            if frame.left_out:
                progress.note = f"; more were found than --max-objects {_limit(args)}"
            yield TrackedFrame(frame.index, frame.pixels, frame.masks, frame.scores, source.time(frame.index))

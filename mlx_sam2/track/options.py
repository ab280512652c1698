"""The options of the track command: prompts as flags, everything, approximations; and which go together.

A prompt reads ``[object:]value[@frame]``.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import cli
from ..cli import UsageError, parse_numbers

if TYPE_CHECKING:
    from ..images.levels import Levels

PROG = cli.program("track")
MAX_OBJECT = 254  # object numbers are pixel values of 8-bit masks, and 255 is void there


# ---- prompts


@dataclass(frozen=True)
class Item:
    """One prompt as given. ``text`` is what error messages call it."""

    kind: str  # "point", "negative", "box" or "mask"
    value: tuple[float, ...] | Path
    object: int | None
    frame: int | None
    text: str


def point_flag(text: str) -> Item:
    return _coordinates_flag("point", 2, "[object:]x,y[@frame]", text)


def negative_flag(text: str) -> Item:
    return _coordinates_flag("negative", 2, "[object:]x,y[@frame]", text)


def box_flag(text: str) -> Item:
    return _coordinates_flag("box", 4, "[object:]x0,y0,x1,y1[@frame]", text)


def mask_flag(text: str) -> Item:
    value, obj, frame = split_prompt(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not [object:]FILE[@frame]")
    return Item("mask", Path(value), obj, frame, f"--mask {text}")


def _coordinates_flag(kind: str, count: int, form: str, text: str) -> Item:
    value, obj, frame = split_prompt(text)
    return Item(kind, parse_numbers(value, count, form), obj, frame, f"--{kind} {text}")


def split_prompt(text: str) -> tuple[str, int | None, int | None]:
    """ "2:10,20@5" -> ("10,20", 2, 5); digits alone make an object or a frame, so that file names may hold : and @."""
    obj, value, frame = re.fullmatch(r"(?:(\d+):)?(.*?)(?:@(\d+))?", text, re.ASCII | re.DOTALL).groups()
    if obj is not None and not 1 <= int(obj) <= MAX_OBJECT:
        raise argparse.ArgumentTypeError(f"{text!r}: objects are numbered from 1 to {MAX_OBJECT}")
    return value, None if obj is None else int(obj), None if frame is None else int(frame)


# ---- input


def levels_flag(text: str) -> Levels:
    from ..images.levels import parse_levels

    try:
        return parse_levels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


# ---- everything


FOLLOW: cli.Options = [  # of track_everything
    ("every", "every", cli.number(int, 0), 30, "look for new objects every N frames, 0 for on the first one only"),
    ("max-objects", "max_objects", cli.number(int, 1, MAX_OBJECT), 40, "follow no more than this"),
    ("number-from", "number_from", cli.number(int, 1, MAX_OBJECT + 1), 1, "the first object found gets this number"),
    ("merge-iou", "merge_iou", cli.number(float, 0.01, 1), 0.5, "masks of a higher IoU are the same object"),
]


def add_everything(parser: argparse.ArgumentParser) -> None:
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


# ---- approximations


APPROXIMATIONS: list[tuple[str, str, Any, str]] = [  # flag, option of the predictor, type, help
    ("image-size", "image_size", cli.number(int, 32), cli.IMAGE_SIZE),
    ("memory-pooling", "memory_pooling", cli.number(int, 1), "average memories over N x N cells, such as 2"),
    ("memory-stride", "memory_temporal_stride_for_eval", cli.number(int, 1), "recall the last frame and every Nth one"),
    ("max-memories", "max_memories", cli.number(int, 1), "recall N frames at most, one prompted frame among them"),
    ("static", "static_threshold", cli.number(float, 0, 255), "encode no memory of frames that differ less (0 to 255)"),
]


def add_memory_policy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory-policy",
        choices=cli.MEMORY_POLICIES,
        help="what is remembered and recalled: official (default), samurai or dam4sam; docs/tracking.md says when",
    )


def add_approximations(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("approximations (faster, with other results; docs/performance.md has their cost)")
    for flag, name, kind, text in APPROXIMATIONS:
        metavar = "X" if flag == "static" else "N"
        group.add_argument(f"--{flag}", dest=name, type=kind, metavar=metavar, help=text)


def approximations(args: argparse.Namespace) -> dict[str, Any]:
    """The approximations and the memory policy that were asked for, as options of the predictor."""
    names = [name for _, name, *_ in APPROXIMATIONS] + ["memory_policy"]
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}

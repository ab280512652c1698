"""``--format`` and ``--class`` of the commands that make masks; their ``--help`` loads this file and ``names`` only."""

from __future__ import annotations

import argparse
import re

from .. import cli
from .names import WRITTEN


def add_format(group: argparse._ActionsContainer, by_object: bool) -> None:
    """Add the options. With ``by_object`` each object may have a class of its own."""
    names = ", ".join(WRITTEN)
    group.add_argument(
        "--format",
        choices=WRITTEN,
        metavar="FORMAT",
        help=f"write --output PATH as a data set: {names} (docs/datasets.md)",
    )
    if by_object:
        text = "with --format: the class of an object, or of all others (repeatable)"
        group.add_argument("--class", dest="classes", type=_class_flag, action="append", default=[],
                           metavar="[OBJ:]NAME", help=text)  # fmt: skip
    else:
        group.add_argument("--class", dest="classes", metavar="NAME", help="with --format: the class of the masks")


def _class_flag(text: str) -> tuple[int | None, str]:
    """ "2:cup" -> (2, "cup"), "cup" -> (None, "cup")."""
    obj, name = re.fullmatch(r"(?:([0-9]{1,9}):)?(.*)", text, re.DOTALL).groups()
    if not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not [object:]NAME")
    return None if obj is None else int(obj), name


def refuse_format(args: argparse.Namespace) -> None:
    """Refuse what does not go with the options.

    Raises:
        UsageError: one line.
    """
    if args.format is None:
        if args.classes:
            raise cli.UsageError("--class belongs to --format FORMAT")
        return
    given = args.output if isinstance(args.output, list) else [args.output]
    if len(given) != 1 or given[0] is None:
        raise cli.UsageError(f"--format {args.format} needs one --output, the data set to write")


def format_words(args: argparse.Namespace) -> list[str]:
    """The options as they were given, for a command that goes on with ``track``."""
    words = ["--format", args.format] if args.format else []
    for obj, name in args.classes:
        words += ["--class", name if obj is None else f"{obj}:{name}"]
    return words


def report_lost(prog: str, format_name: str, lost: dict[str, int]) -> None:
    """A note for each thing that the format cannot hold."""
    for what, number in lost.items():
        cli.note(prog, f"not held by {format_name}: {what} ({number:,})")

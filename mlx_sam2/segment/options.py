"""The options of ``segment --everything``, and which go together."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import cli
from ..cli import UsageError

PROG = cli.program("segment")

_share = cli.number(float, 0, 1)
OPTIONS: cli.Options = [
    *cli.MASK_OPTIONS,
    ("crop-layers", "crop_n_layers", cli.number(int, 0, 4), 0, "look again at crops: 4 for one layer, 20 for two"),
    ("crop-nms", "crop_nms_thresh", _share, 0.7, "as --nms, between crops"),
    ("crop-overlap", "crop_overlap_ratio", _share, 512 / 1500, "how far crops overlap, of the short side"),
    ("crop-downscale", "crop_n_points_downscale_factor", cli.number(int, 1), 1, "fewer points a side in each layer"),
    (
        "min-area",
        "min_mask_region_area",
        cli.number(int, 0),
        0,
        "fill holes, remove specks up to this many pixels; with prompts: remove specks",
    ),
]


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("everything in the photo, instead of prompts")
    group.add_argument("--everything", action="store_true", help="find all masks; IMAGE may be a folder")
    for flag, name, kind, default, text in OPTIONS:
        help_text = f"{text}; default: {default:.3g}" if isinstance(default, float) else f"{text}; default: {default}"
        group.add_argument(f"--{flag}", dest=name, type=kind, metavar="X", help=help_text)
    group.add_argument("--m2m", dest="use_m2m", action="store_true", help="refine every mask once, prompted by itself")
    group.add_argument("--coco", type=Path, metavar="JSON", help="COCO's JSON of all photos; repeat to go on")
    group.add_argument("--merge", action="store_true", help="only write --coco, from the parts that are done")


def refuse_options(args: argparse.Namespace) -> None:
    """Refuse options of this module without --everything, and what does not go with it.

    Raises:
        UsageError: one line.
    """
    if args.everything:
        for name in (
            "point",
            "negative",
            "box",
            "mask",
            "reference",
            "multimask",
            "cutout",
            "background",
            "foreground",
        ):
            if getattr(args, name):
                raise UsageError(f"--everything finds all masks by itself: --{name} does not go with it")
        if words := cli.edge_words(args):
            raise UsageError(f"{words[0].partition('=')[0]} needs prompts: --everything writes masks as they are found")
        return
    for name in ("point", "negative", "box", "mask", "multimask") if args.reference else ():
        if getattr(args, name):
            raise UsageError(f"--reference says by itself what to look for: --{name} does not go with it")
    values = [(f"--{flag}", getattr(args, name)) for flag, name, *_ in OPTIONS]
    values = [(flag, value) for flag, value in values if flag != "--min-area"]  # of edges, too
    for flag, value in [*values, ("--m2m", args.use_m2m), ("--coco", args.coco), ("--merge", args.merge)]:
        if value is not None and value is not False:
            raise UsageError(f"{flag} belongs to --everything")


def generator_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``SAM2AutomaticMaskGenerator`` that change its results, or its memory."""
    given = {name: getattr(args, name) for _, name, *_ in OPTIONS}
    defaults = {name: default for _, name, _, default, _ in OPTIONS}
    chosen = {name: defaults[name] if value is None else value for name, value in given.items()}
    return {**chosen, "use_m2m": args.use_m2m}

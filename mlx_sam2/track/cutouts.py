"""``track --cutout`` and ``--matte``: the options, which go together, and the outputs that they name."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from .. import cli
from ..cli import UsageError

if TYPE_CHECKING:
    import numpy as np

    from ..frames.cutouts import CutoutSink
    from ..frames.source import FrameSource
    from ..images.matte import Edges
    from .run import Plan

CODECS = ["prores", "hevc", "vp9", "ffv1", "h264", "png", "tiff", "exr"]
SETTINGS = ("codec", "alpha", "background", "foreground")  # options with a value
ALONE = ("per_object", "audio")


def add_cutouts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("cut-outs and mattes")
    add, path = group.add_argument, {"action": "append", "default": [], "metavar": "PATH"}
    add("--cutout", help="the objects with transparency: .mov, .webm, .mkv, or a folder (repeatable)", **path)
    add("--matte", help="their alpha as grey: .mov, .webm, .mkv, .mp4, or a folder (repeatable)", **path)
    add("--codec", choices=CODECS, help="else by the suffix: prores, vp9, ffv1, h264; a folder of png")
    kinds = ["straight", "premultiplied"]
    add("--alpha", choices=kinds, help="whether colours are multiplied by alpha; default: straight, of exr multiplied")
    add("--per-object", action="store_true", help="an output for each object: NAME_001, NAME_002, ...")
    form = {"metavar": "COLOUR|IMAGE|VIDEO|blur|pixelate|grey|checker"}
    add("--background", help="what stands behind the objects in --cutout, which is opaque then", **form)
    add("--foreground", help="what stands in place of the objects in --cutout, which is opaque then", **form)
    add("--audio", action="store_true", help="copy the sound of the video")


def names(args: argparse.Namespace) -> list[str]:
    """The outputs of this module."""
    return [*args.cutout, *args.matte]


def edges_of(args: argparse.Namespace) -> Edges:
    from ..images.matte import Edges

    return Edges(**cli.edge_settings(args))


def refuse_cutouts(args: argparse.Namespace) -> None:
    """Refuse options of cut-outs without one, and what does not go with them.

    Raises:
        UsageError: one line.
    """
    given = [f"--{name.replace('_', '-')}" for name in (*SETTINGS, *ALONE) if getattr(args, name)]
    words = [word.partition("=")[0] for word in cli.edge_words(args)]
    shapes = ("--grow", "--fill-holes", "--min-area")  # that change any mask
    evaluates = "--davis" if args.davis is not None else "--dataset" if args.dataset is not None else None
    if evaluates and (names(args) or given or words):
        option = [*(["--cutout"] if args.cutout else []), *(["--matte"] if args.matte else []), *given, *words][0]
        raise UsageError(f"{option} does not go with {evaluates}, which writes masks as the model gives them")
    for option in [*given, *(word for word in words if word not in shapes)]:
        if not names(args):
            raise UsageError(f"{option} belongs to --cutout and --matte: give one of them")
    if args.background and not args.cutout:
        raise UsageError("--background stands behind a cut-out: give --cutout PATH, too")
    if args.foreground and not args.cutout:
        raise UsageError("--foreground stands in place of a cut-out: give --cutout PATH, too")
    if args.alpha and not args.cutout:
        raise UsageError("--alpha belongs to --cutout: a matte has no colours")
    if args.alpha and args.background:
        raise UsageError("--alpha and --background do not go together: with a background nothing is transparent")
    if args.alpha and args.foreground:
        raise UsageError("--alpha and --foreground do not go together: with it nothing is transparent")
    if args.audio and args.reverse:
        raise UsageError("--audio does not go with --reverse")


def open_cutouts(args: argparse.Namespace, source: FrameSource, plan: Plan) -> list[CutoutSink]:
    """The sinks of --cutout and --matte.

    Raises:
        UsageError, VideoError: one line.
    """
    if not names(args):
        return []
    from ..frames.cutouts import CutoutOptions, CutoutSink
    from ..images.backgrounds import parse_background
    from ..images.limits import ImageError

    edges = edges_of(args)
    shared = {"edges": edges, "codec": args.codec, "per_object": args.per_object, "audio": args.audio}
    known = {"source": source, "first": None if plan.reverse else plan.start}
    known["objects"] = sorted({prompt.object for prompt in plan.prompts})
    try:
        names_of = ("background", "foreground")
        layers = {n: parse_background(getattr(args, n), f"--{n}") for n in names_of if getattr(args, n)}
        cutout = CutoutOptions("composite" if layers else "cutout", alpha=args.alpha, **layers, **shared)
        matte = CutoutOptions("matte", **shared)
        return [
            CutoutSink(path, args.overwrite, options=options, **known)
            for paths, options in ((args.cutout, cutout), (args.matte, matte))
            for path in paths
        ]
    except ImageError as error:
        raise UsageError(str(error)) from None


def refined_masks(masks: Mapping[int, np.ndarray], edges: Edges | None) -> Mapping[int, np.ndarray]:
    """Masks (H, W) bool with the edges that also outputs without alpha show."""
    if edges is None or not edges.changes_masks:
        return masks
    from ..images.matte import refined_mask

    return {obj: refined_mask(mask, edges) for obj, mask in masks.items()}


def resume_words(args: argparse.Namespace, start: int) -> list[str]:
    """The options of this module for a run that goes on at frame `start`: films get a new name, folders go on."""
    words = []
    for flag, paths in (("--cutout", args.cutout), ("--matte", args.matte)):
        for text in paths:
            path = Path(text)
            stem = path.stem.split("_from")[0]
            name = text if path.is_dir() else str(path.with_name(f"{stem}_from{start}{path.suffix}"))
            words += [flag, name]
    for name in SETTINGS:
        words += [f"--{name}", getattr(args, name)] if getattr(args, name) else []
    return words + [f"--{name.replace('_', '-')}" for name in ALONE if getattr(args, name)]

"""Continuing a tracking that was stopped: the arguments of the command that does it, and the files that these name."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import cli
from ..datasets.options import format_words
from ..files import write_text
from ..frames.sinks import PngSink
from .cutouts import edges_of, names, resume_words
from .options import APPROXIMATIONS, FOLLOW, approximations
from .run import Plan, Progress, TrackedFrame

if TYPE_CHECKING:
    from ..frames.source import FrameSource


def resume_arguments(
    args: argparse.Namespace, plan: Plan, source: FrameSource, outputs: Sequence[str], progress: Progress
) -> list[str]:
    """The arguments that continue after the last frame: its masks and the earlier prompts, into new outputs.

    Only a folder of PNG is continued. Without one the last masks are written to a folder of their own.
    """
    last = progress.last
    start = max(last.index - 1, 1) if plan.reverse else last.index + 1  # in reverse nothing starts at frame 0
    left = plan.count - abs(last.index - plan.start) - 1 + (start == last.index)
    if args.everything:
        words = [args.video, *_everything_words(args, plan, source, outputs, progress)]
    else:
        words = [args.video, *_prompt_words(args, plan, source, outputs, last)]
    words += [word for file in plan.references for word in ("--reference", str(file))]
    words += ["--start", str(start)]
    words += ["--frames", str(left)] if args.frames else []
    words += ["--reverse"] if plan.reverse else []
    words += ["--every-nth", str(args.every_nth), *["--fill"] * args.fill] if args.every_nth else []
    for name in ("model", "revision", "weights_key", "adapter", "dtype", "memory", "memory_policy"):
        value = getattr(args, name)
        words += [f"--{name.replace('_', '-')}", str(value)] if value not in (None, "disk") else []
    if args.levels is not None:
        words += ["--levels", args.levels if isinstance(args.levels, str) else ",".join(map(repr, args.levels))]
    given = approximations(args)
    for flag, name, *_ in APPROXIMATIONS:
        words += [f"--{flag}", f"{given[name]:g}"] if name in given else []
    words += format_words(args)
    folders = _png_folders(args, outputs)
    for output in outputs:
        path = Path(output)
        other = path.with_name(f"{path.stem.split('_from')[0]}_from{start}{path.suffix}")
        words += ["--output", output if output in folders else str(other)]
    words += [*cli.edge_words(args), *resume_words(args, start)]
    return [*words, "--overwrite"] if folders or any(Path(name).is_dir() for name in names(args)) else words


def _png_folders(args: argparse.Namespace, outputs: Sequence[str]) -> list[str]:
    """The folders that can be continued; a data set cannot."""
    return [output for output in outputs[args.format is not None :] if Path(output).is_dir()]


def _visible(masks: dict[int, np.ndarray]) -> list[int]:
    """The objects that an indexed PNG shows; the lowest number is on top."""
    visible, covered = [], False
    for obj in sorted(masks):
        if (masks[obj] & ~np.asarray(covered)).any():
            visible.append(obj)
        covered = covered | masks[obj]
    return visible


def _prompt_words(
    args: argparse.Namespace, plan: Plan, source: FrameSource, outputs: Sequence[str], last: TrackedFrame
) -> list[str]:
    """The prompts there were. Objects on the last frame get their written masks instead."""
    visible = _visible(last.masks)
    folder = next(iter(_png_folders(args, outputs)), None)
    if (folder is None or edges_of(args).changes_masks) and visible:
        folder = f"{Path([*outputs, *names(args)][0]).with_suffix('')}_stopped{os.sep}"
        with PngSink(folder, overwrite=True, frame_name=source.frame_name) as sink:
            sink.write(last.index, last.pixels, last.masks)
    words = []
    for prompt in plan.prompts:
        if prompt.frame != last.index or prompt.object not in visible:
            words += prompt.as_flags()
    if visible:
        words += ["--mask", f"{Path(folder) / source.frame_name(last.index)}.png@{last.index}"]
    return words


def _everything_words(
    args: argparse.Namespace, plan: Plan, source: FrameSource, outputs: Sequence[str], progress: Progress
) -> list[str]:
    """The arguments that name the objects on the last frame again: a mask file for each, as they may overlap."""
    last = progress.last
    shown = {obj: mask for obj, mask in last.masks.items() if mask.any()}
    words = []
    if args.every != 0 or not shown:  # or the only look has been
        words.append("--everything")
        given = {**vars(args), "number_from": progress.highest + 1} if progress.highest else vars(args)
        for flag, name, *_ in [*FOLLOW, *cli.MASK_OPTIONS]:
            words += [f"--{flag}", f"{given[name]:g}"] if given[name] is not None else []
    for prompt in plan.prompts:
        if prompt.frame != last.index or prompt.object not in shown:
            words += prompt.as_flags()
    if not shown:
        return words
    folder = Path(f"{Path([*outputs, *names(args)][0]).with_suffix('')}_stopped")
    with PngSink(folder, overwrite=True, per_object=True, frame_name=source.frame_name) as sink:
        sink.write(last.index, last.pixels, shown)
    name = f"{source.frame_name(last.index)}.png"
    entries = [{"object": obj, "frame": last.index, "mask": f"{obj:03d}/{name}"} for obj in shown]
    write_text(folder / "prompts.json", json.dumps(entries))
    return [*words, "--prompts", str(folder / "prompts.json")]

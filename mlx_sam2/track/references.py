"""``track --reference`` and ``--save-reference``: objects that were learned elsewhere, and learned here."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..cli import UsageError
from .options import split_prompt

if TYPE_CHECKING:
    from ..sam2_video_predictor import SAM2VideoPredictor
    from ..video.state import VideoState
    from .prompts import ObjectPrompt

SUFFIX = ".safetensors"


class ObjectFile(NamedTuple):
    """An object and the file of its reference."""

    object: int
    path: Path

    def __str__(self) -> str:
        return f"{self.object}:{self.path}"


def add_references(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("objects from elsewhere (repeatable)")
    for flag, text in (
        ("--reference", "look for an object that was learned elsewhere; several files of one object add up"),
        ("--save-reference", "write what the prompts teach of an object, for --reference elsewhere (.safetensors)"),
    ):
        group.add_argument(flag, type=_object_file, action="append", default=[], metavar="[OBJ:]FILE", help=text)


def _object_file(text: str) -> ObjectFile:
    value, obj, frame = split_prompt(text)
    if not value or frame is not None:
        raise argparse.ArgumentTypeError(f"{text!r} is not [object:]FILE")
    return ObjectFile(obj or 1, Path(value))


def check_references(args: argparse.Namespace, prompts: Sequence[ObjectPrompt], live: bool) -> None:
    """Check files and objects before anything is loaded.

    Raises:
        UsageError: one line.
    """
    for file in args.reference:
        if not file.path.is_file():
            raise UsageError(f"--reference {file}: there is no file {file.path}")
    known = {prompt.object for prompt in prompts} | {file.object for file in args.reference}
    places = [os.path.realpath(file.path) for file in args.save_reference]
    for i, file in enumerate(args.save_reference):
        name = f"--save-reference {file}"
        if live:
            raise UsageError(f"{name} needs a video file or a folder of frames")
        if file.object not in known:
            raise UsageError(f"{name}: object {file.object} has no prompt to learn from")
        if file.path.suffix.lower() != SUFFIX:
            raise UsageError(f"{name}: the name of a reference must end in {SUFFIX}")
        if not file.path.absolute().parent.is_dir():
            raise UsageError(f"{name}: there is no folder {file.path.absolute().parent}")
        if places[i] in places[:i]:
            raise UsageError(f"{name}: {file.path} is named twice")
        if os.path.lexists(file.path) and not args.overwrite:
            raise UsageError(f"{file.path} exists already: give another name, or overwrite it (--overwrite)")


def give_references(predictor: SAM2VideoPredictor, state: VideoState, files: Sequence[ObjectFile]) -> None:
    """Let a session, also that of a stream, look for the objects. UsageError for a file that does not fit."""
    for file in files:
        try:
            predictor.add_reference(state, file.object, file.path)
        except ValueError as error:
            raise UsageError(f"--reference {file}: {error}") from None


def save_references(
    predictor: SAM2VideoPredictor, state: VideoState, files: Sequence[ObjectFile], overwrite: bool
) -> None:
    for file in files:
        predictor.reference(state, file.object).save(file.path, overwrite)

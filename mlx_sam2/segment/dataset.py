"""``segment --format``: the masks of all photos as one data set."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .. import cli
from ..cli import UsageError
from ..datasets.formats import check_output, write_dataset
from ..datasets.frames import FileFrames, photo_item
from ..datasets.items import CLASS, DatasetError, DatasetObject, Item
from ..datasets.masks import RleMask
from ..datasets.options import refuse_format, report_lost
from ..datasets.writing import WriteOptions
from .options import PROG
from .parts import Parts, Photo


def check_format(args: argparse.Namespace) -> None:
    """Refuse now what writing would refuse later.

    Raises:
        UsageError: one line.
    """
    refuse_format(args)
    if args.format is None:
        return
    if args.multimask:
        raise UsageError("--multimask gives three masks of one object: a data set (--format) takes one")
    try:
        check_output(args.output, args.format, args.overwrite)
    except DatasetError as error:
        raise UsageError(str(error)) from None


def write_results(args: argparse.Namespace, results: Sequence[dict[str, Any]]) -> None:
    """Write the masks of prompts: what ``--json`` prints of each photo, with run lengths.

    Raises:
        DatasetError: a photo cannot be read any more. OSError: the disk is full or fails.
    """
    items = []
    for result in results:
        found = [(entry["rle"], entry["score"]) for entry in result["masks"]]
        objects = _objects(args, found)
        items.append(photo_item(Path(result["image"]), objects, size=(result["height"], result["width"])))
    _write(args, items, len(items))


def write_parts(args: argparse.Namespace, photos: Sequence[Photo], parts: Parts) -> None:
    """Write the masks of ``--everything``, from the parts that are done. Raises as ``write_results``."""
    done = [photo for photo in photos if parts.path(photo).exists()]
    _write(args, _items(args, done, parts), len(done))


def _items(args: argparse.Namespace, photos: Sequence[Photo], parts: Parts) -> Iterator[Item]:
    """One at a time, since each holds the masks of its photo."""
    for photo in photos:
        part = parts.load(photo)
        if part is None:
            raise DatasetError(f"{photo.path} was changed while the others were done: give the same command again")
        found = [(mask["segmentation"], mask["predicted_iou"]) for mask in part.masks]
        name = str(Path(photo.name).with_suffix("")).lstrip("/")
        frames = FileFrames([photo.path], (part.height, part.width))
        yield Item(name, frames, False, (0,), partial(_objects, args, found))


def _objects(args: argparse.Namespace, found: Sequence[tuple[Any, float | None]]) -> list[DatasetObject]:
    return [
        DatasetObject(i, args.classes or CLASS, {0: RleMask(rle)}, {} if score is None else {0: score})
        for i, (rle, score) in enumerate(found, 1)
    ]


def _write(args: argparse.Namespace, items: Any, count: int) -> None:
    options = WriteOptions(predictions=True)
    lost = write_dataset(items, args.output, args.format, options=options, overwrite=args.overwrite)
    if not args.json:
        cli.say(f"{args.output} ({args.format}): {count} photo{'s' * (count != 1)}")
    report_lost(PROG, args.format, lost)

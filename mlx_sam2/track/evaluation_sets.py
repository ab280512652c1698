"""The videos of an evaluation: frames, the masks that are given, and the measure against all other annotations.

DAVIS keeps the protocol of its own challenge (``datasets/davis.py``). For the others an object is given on the first
frame that shows it, as the official ``tools/vos_inference.py`` gives first masks, and scored on every later annotated
frame but the last one, as the official ``sav_dataset/sav_evaluator.py`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..cli import UsageError
from ..datasets.davis import (
    DavisSequence,
    SequenceScore,
    boundary_accuracy,
    find_sequences,
    region_similarity,
    score_sequence,
)
from ..datasets.items import DatasetError, DatasetObject, Item
from ..datasets.masks import PictureMask
from ..datasets.pictures import read_indexed, read_palette
from ..datasets.sequences import read_sequences
from ..frames.source import FolderSource, FrameSource, VideoError
from .prompts import Item as Given
from .prompts import ObjectPrompt, gather

FORMATS = ("davis", "ytvos", "mose", "sav", "lvos")
PER_OBJECT = ("sav",)  # a folder of masks for each object, which may overlap


class EvaluationVideo(NamedTuple):
    """One video of an evaluation."""

    name: str
    open: Callable[[], FrameSource]
    prompts: Callable[[FrameSource], list[ObjectPrompt]]  # the given masks, in the order of frames and objects
    score: Callable[[Path, list[str]], SequenceScore | None]  # of a folder of results, and the names of all frames
    palette: Callable[[], list[int] | None]  # of its annotations, for the results


def find_videos(format_name: str, root: Path, chosen: Sequence[str]) -> list[EvaluationVideo]:
    """The videos of a data set: those chosen, else those of DAVIS's val.txt, else all that have annotations.

    Raises:
        UsageError, VideoError: there is no such data set, or it lacks a video.
    """
    if format_name == "davis":
        return [
            EvaluationVideo(
                sequence.name,
                partial(FolderSource, sequence.frames),
                partial(_first_masks, sequence),
                partial(_davis_score, sequence),
                partial(_davis_palette, sequence),
            )
            for sequence in find_sequences(root, chosen)
        ]
    try:
        items = {item.name: item for item in read_sequences(root, format_name).items}
    except DatasetError as error:
        raise UsageError(str(error)) from None
    for name in chosen:
        if name not in items:
            raise UsageError(f"sequence {name!r} is not in {root}")
    names = list(dict.fromkeys(chosen)) or list(items)
    return [
        EvaluationVideo(
            name,
            items[name].source,
            partial(_first_appearances, items[name]),
            partial(_score, items[name], format_name in PER_OBJECT),
            partial(_palette, items[name]),
        )
        for name in names
    ]


def _first_masks(sequence: DavisSequence, source: FrameSource) -> list[ObjectPrompt]:
    first = sequence.annotations / f"{source.frame_name(0)}.png"
    return gather([Given("mask", first, None, 0, str(first))], 0, source.num_frames, (source.height, source.width))


def _davis_score(sequence: DavisSequence, results: Path, names: list[str]) -> SequenceScore | None:
    return score_sequence(results, sequence.annotations, names)


def _davis_palette(sequence: DavisSequence) -> list[int] | None:
    return next(map(read_palette, sorted(sequence.annotations.glob("*.png"))), None)


def _palette(item: Item) -> list[int] | None:
    masks = (thing.masks[t] for thing in item.objects for t in sorted(thing.masks))
    return next((read_palette(mask.path) for mask in masks if isinstance(mask, PictureMask)), None)


def _first_appearances(item: Item, source: FrameSource) -> list[ObjectPrompt]:
    try:
        found = [(thing, _appearance(thing)) for thing in item.objects]
    except DatasetError as error:
        raise UsageError(str(error)) from None
    prompts = [ObjectPrompt(thing.id, t, mask=thing.masks[t].decode()) for thing, t in found if t is not None]
    for prompt in prompts:
        if prompt.mask.shape != (source.height, source.width):
            size, video = prompt.mask.shape, (source.height, source.width)
            raise UsageError(
                f"{item.name}: the mask of object {prompt.object} on frame {prompt.frame} is {size[1]}x{size[0]}, "
                f"but the frames are {video[1]}x{video[0]}"
            )
    if not prompts:
        raise UsageError(f"sequence {item.name!r} has no object in its annotations")
    return sorted(prompts, key=lambda prompt: (prompt.frame, prompt.object))


def _appearance(thing: DatasetObject) -> int | None:
    """The first frame that shows an object; pictures of one object may be black."""
    return next((t for t in sorted(thing.masks) if thing.masks[t].decode().any()), None)


def _score(item: Item, per_object: bool, results: Path, names: list[str]) -> SequenceScore | None:
    """J and F of each object; None where nothing beside the given masks is annotated.

    An annotated frame without the object counts: nothing shall be found there.
    """
    j: dict[int, float] = {}
    f: dict[int, float] = {}
    for thing in item.objects:
        given = _appearance(thing)
        annotated = sorted(thing.masks) if per_object else item.keyframes
        frames = [t for t in annotated[:-1] if given is not None and t > given]
        pairs = [_pair(thing, t, results, names[t], per_object) for t in frames]
        if pairs:
            j[thing.id] = float(np.mean([region_similarity(*pair) for pair in pairs]))
            f[thing.id] = float(np.mean([boundary_accuracy(*pair) for pair in pairs]))
    return SequenceScore(j, f) if j else None


def _pair(thing: DatasetObject, t: int, results: Path, name: str, per_object: bool) -> tuple[np.ndarray, np.ndarray]:
    """The mask of an object that was found on a frame, and the true one."""
    path = results / f"{thing.id:03d}" / f"{name}.png" if per_object else results / f"{name}.png"
    indices = read_indexed(path)
    found = indices > 0 if per_object else indices == thing.id
    truth = thing.masks[t].decode() if t in thing.masks else np.zeros_like(found)
    if found.shape != truth.shape:
        sizes = " and ".join(f"{a.shape[1]}x{a.shape[0]}" for a in (found, truth))
        raise VideoError(f"{path} and its annotation have different sizes, {sizes}")
    return found, truth

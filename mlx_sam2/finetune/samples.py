"""From items of a data set to batches: which frames and objects, at the size of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..datasets.checking import first_seen
from ..datasets.items import DatasetError, Item
from ..images.preprocess import MEAN, STD
from ..model.resize import fit_mask
from . import augment
from .arguments import Arguments

TRIES = 1000  # starts of a clip, until one shows an object


class Sample(NamedTuple):
    """T frames of an item and B of its objects."""

    name: str
    first: int  # index of the first frame
    frames: list[np.ndarray]  # T of (H, W, 3) uint8; none where features are cached
    masks: np.ndarray  # (T, B, H, W) bool


class Batch(NamedTuple):
    """V samples of T frames each, at the model's size."""

    names: list[str]
    first: list[int]  # index of the first frame of each sample
    pixels: np.ndarray | None  # (T, V, S, S, 3) float32 normalised; None where features are cached
    targets: np.ndarray  # (T, B, S, S) bool, of all objects
    owners: np.ndarray  # (B,) int, the sample of each object


def trainable(item: Item, video: bool) -> bool:
    """Whether an item can be trained on: it shows an object and, for clips, has two annotated frames."""
    if video and not (item.is_video and len(item.keyframes) > 1):
        return False
    return any(first_seen(found) is not None for found in item.objects)


def draw_sample(item: Item, arguments: Arguments, random: np.random.Generator, video: bool, pixels: bool) -> Sample:
    """Draw annotated frames, one after the other from a random start, and objects that the first of them shows.

    Without ``video`` it is one frame.

    Args:
        pixels: whether to read the frames.

    Raises:
        DatasetError: a frame or a mask is damaged, or no frame shows an object.
    """
    length = min(arguments.num_frames, len(item.keyframes)) if video else 1
    for _ in range(TRIES):
        start = int(random.integers(0, len(item.keyframes) - length + 1))
        frames = item.keyframes[start : start + length]
        seen = [found for found in item.objects if frames[0] in found.masks and found.masks[frames[0]].area() > 0]
        if seen:
            break
    else:
        raise DatasetError(f"{item.name}: no annotated frame shows an object")
    chosen = [seen[i] for i in random.permutation(len(seen))[: arguments.max_objects]]
    empty = np.zeros(item.size, bool)
    masks = np.array([[o.masks[t].decode() if t in o.masks else empty for o in chosen] for t in frames])
    if masks.shape[2:] != item.size:
        raise DatasetError(f"{item.name}: its masks are of another size than its frames")
    return Sample(item.name, frames[0], [item.frame(t) for t in frames] if pixels else [], masks)


def prepare(sample: Sample, size: int, arguments: Arguments, random: np.random.Generator) -> Batch:
    """Augment a sample, and bring it to the model's size. The aspect ratio is not kept."""
    masks = sample.masks
    pixels = None
    if sample.frames:
        frames = [Image.fromarray(frame) for frame in sample.frames]
        if arguments.augments:
            frames, masks = augment.turn(frames, masks, random)
        frames = [frame.resize((size, size), Image.Resampling.BILINEAR) for frame in frames]
        if arguments.augments:
            frames = augment.recolour(frames, random)
        pixels = np.stack([np.asarray(frame, np.float32) for frame in frames]) / 255
        pixels = ((pixels - np.float32(MEAN)) / np.float32(STD))[:, None]
    targets = np.stack([[fit_mask(mask, size) for mask in of_frame] for of_frame in masks])
    return Batch([sample.name], [sample.first], pixels, targets, np.zeros(targets.shape[1], np.int32))


def together(batches: Sequence[Batch]) -> Batch:
    """Samples as one batch; clips are cut to the shortest."""
    if len(batches) == 1:
        return batches[0]
    length = min(len(batch.targets) for batch in batches)
    pixels = None
    if batches[0].pixels is not None:
        pixels = np.concatenate([batch.pixels[:length] for batch in batches], axis=1)
    return Batch(
        [name for batch in batches for name in batch.names],
        [first for batch in batches for first in batch.first],
        pixels,
        np.concatenate([batch.targets[:length] for batch in batches], axis=1),
        np.concatenate([batch.owners + i for i, batch in enumerate(batches)]),
    )

"""What a data set is made of: items (a photo or a video) with objects, their class names and their masks.

Nothing is decoded before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..frames.source import FrameSource

if TYPE_CHECKING:
    from .frames import Frames
    from .masks import Mask

CLASS = "object"  # of objects whose format or file names no class


class DatasetError(ValueError):
    """A data set, or a file of one, that cannot be used. One line."""


@dataclass(frozen=True)
class DatasetObject:
    """One object of an item.

    Attributes:
        id: positive, and unique within its item.
        class_name: any text; "object" where the format names none.
        masks: frame index -> mask. A photo has frame 0 only. Frames where the object is absent have no entry.
        scores: frame index -> score, where the format has scores.
        crowd: a region of several objects that were not told apart, as COCO has them: nothing to train on.
    """

    id: int
    class_name: str
    masks: Mapping[int, Mask]
    scores: Mapping[int, float] = field(default_factory=dict)
    crowd: bool = False


@dataclass(eq=False)
class Item:
    """A photo, or a video.

    Attributes:
        name: unique within the data set, without a suffix; parts of a path are separated by "/".
        frames: where the pixels are; frame 0 alone of a photo.
        is_video: whether it is a video, of one frame perhaps.
        keyframes: the annotated frames, in order. An object without a mask there is absent there; of other frames
            nothing is known.
        load_objects: reads the objects, when ``objects`` is asked for.
    """

    name: str
    frames: Frames
    is_video: bool
    keyframes: tuple[int, ...]
    load_objects: Callable[[], Sequence[DatasetObject]]

    @cached_property
    def objects(self) -> tuple[DatasetObject, ...]:
        """The objects, by id. DatasetError if the annotation is damaged."""
        return tuple(sorted(self.load_objects(), key=lambda found: found.id))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames. DatasetError if it is not stated and the first frame cannot be read."""
        return self.frames.size

    @property
    def num_frames(self) -> int:
        return self.frames.count

    def frame(self, i: int) -> np.ndarray:
        """Frame `i`: (H, W, 3) uint8 RGB.

        Raises:
            DatasetError: it is missing, damaged, or has not the size that the data set states.
        """
        pixels = self.frames.read(i)
        if pixels.shape[:2] != self.size:
            (height, width), found = self.size, pixels.shape
            raise DatasetError(
                f"{self.frames.where(i)} is {found[1]}x{found[0]}, but the data set states {width}x{height}"
            )
        return pixels

    def has_pixels(self, i: int) -> bool:
        """Whether frame `i` is there to be read."""
        return self.frames.has_pixels(i)

    def masks(self, i: int) -> dict[int, Mask]:
        """Object id -> mask on frame `i`."""
        return {found.id: found.masks[i] for found in self.objects if i in found.masks}

    def source(self) -> FrameSource:
        """The frames as a source for the video predictor."""
        return self.frames.source()


@dataclass(eq=False)
class Dataset:
    """A data set that was opened: its items, in the order of the file or of their names.

    Attributes:
        path: what was opened.
        format: the name of its layout, as ``--to`` takes it.
        items: may be indexed; `dataset["name"]` finds one by its name.
        classes: the class names, in the order of their numbers.
        notes: what the reader left out or took in its stead, a line each.
    """

    path: Path
    format: str
    items: Sequence[Item]
    classes: tuple[str, ...] = (CLASS,)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __getitem__(self, key: int | str) -> Item:
        if isinstance(key, str):
            if key not in self._by_name:
                raise KeyError(f"{self.path} has no item {key!r}")
            return self._by_name[key]
        return self.items[key]

    @cached_property
    def _by_name(self) -> dict[str, Item]:
        return {item.name: item for item in self.items}

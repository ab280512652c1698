"""Writing a data set: what all formats share. A data set appears under its name when it is complete."""

from __future__ import annotations

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..files import make_folder
from ..frames.sinks import davis_palette
from ..masks.filled import polygons_to_rle
from ..masks.polygons import mask_to_polygons
from ..masks.rle import rle_to_mask
from .items import CLASS, Dataset, DatasetError, DatasetObject, Item
from .masks import Mask
from .pictures import is_upright

JPEG_QUALITY = 95  # of frames that have no file of their own
MAX_INDEX = 254  # object numbers and classes in 8-bit pictures; 255 is void


@dataclass(frozen=True)
class WriteOptions:
    """How to write.

    Attributes:
        polygons: write outlines instead of masks, where a format takes both.
        tolerance: of the outlines in pixels, 0 for exact or at least 0.5.
        predictions: the masks are a model's, to be looked at (Label Studio).
        photos: copy photos and frames, where a format is a folder.
    """

    polygons: bool = False
    tolerance: float = 0.0
    predictions: bool = False
    photos: bool = True


class Part(NamedTuple):
    """An annotated frame as formats of photos take it: a name with "/" between parts, without a suffix."""

    name: str
    index: int


class Writer(ABC):
    """Writes items into ``out``, which is a provisional folder or file.

    Attributes:
        lost: what the format cannot hold -> how many times.
    """

    takes_file = False  # whether the format may be one file of annotations, without photos
    suffix = ""  # of that file

    def __init__(self, out: Path, is_file: bool, options: WriteOptions, classes: Sequence[str] = ()) -> None:
        self.out, self.is_file, self.options = out, is_file, options
        self.lost: Counter[str] = Counter()
        self.classes: dict[str, int] = {name: i for i, name in enumerate(dict.fromkeys(classes))}
        self._names: set[str] = set()

    @abstractmethod
    def add(self, item: Item) -> None:
        """Write an item. DatasetError if its masks or its frames are damaged."""

    @abstractmethod
    def finish(self) -> None:
        """Write what belongs to all items."""

    # ---- for the formats

    def class_number(self, name: str) -> int:
        """The number of a class, from 0; a new name gets the next one."""
        return self.classes.setdefault(name, len(self.classes))

    def unique(self, name: str, flat: bool = False) -> str:
        """A name that no other item has; with ``flat`` without folders."""
        name = "/".join(safe_name(part) for part in name.split("/"))
        name = name.replace("/", "_") if flat else name
        wanted, n = name, 1
        while name.casefold() in self._names:  # one file for a Mac's disk
            name, n = f"{wanted}-{n}", n + 1
        self._names.add(name.casefold())
        return name

    def parts(self, item: Item, flat: bool = False) -> list[Part]:
        """The annotated frames of an item as photos."""
        if not item.is_video:
            return [Part(self.unique(item.name, flat), 0)]
        if len(item.keyframes) > 1 and item.objects:
            self.lost["videos: objects are not the same ones from frame to frame"] += 1
        if len(item.keyframes) < item.num_frames:
            self.lost["frames without annotation"] += item.num_frames - len(item.keyframes)
        return [Part(self.unique(f"{item.name}/{item.frames.name(i)}", flat), i) for i in item.keyframes]

    def copy_frame(self, item: Item, i: int, stem: Path, kinds: Sequence[str] = (".jpg", ".jpeg", ".png")) -> str:
        """Put frame `i` at ``stem`` and a suffix, as it is in its file if that is one of `kinds`.

        Returns:
            The suffix: of the file, .png of a photo and .jpg of a frame that has none of its own. Without pixels, or
            if photos are not wanted, nothing is written, and the suffix is what it would be.
        """
        path = item.frames.path(i)
        suffix = path.suffix.lower() if path is not None else ".jpg"
        is_kept = suffix in kinds and (path is None or not path.is_file() or is_upright(path))
        if not is_kept:
            suffix = ".jpg" if item.is_video or ".png" not in kinds else ".png"
        if self.is_file or not self.options.photos:
            return suffix
        if not item.has_pixels(i):
            self.lost["photos that the data set does not have"] += 1
            return suffix
        make_folder(stem.parent)
        target = stem.with_name(stem.name + suffix)
        if path is not None and is_kept:
            shutil.copyfile(path, target)
        else:
            save(target, Image.fromarray(item.frame(i)))
        return suffix

    def indexed(self, masks: dict[int, Mask], values: dict[int, int], size: tuple[int, int]) -> np.ndarray:
        """(H, W) uint8 of masks, by the value of each; the lowest value is on top."""
        picture, covered = np.zeros(size, np.uint8), 0
        for obj in sorted(masks, key=lambda obj: -values[obj]):
            mask = decoded(masks[obj], size)
            covered += np.count_nonzero(picture[mask])
            picture[mask] = values[obj]
        if covered:
            self.lost["pixels where objects overlap: the lowest number is on top"] += int(covered)
        return picture

    def lose_scores(self, objects: Sequence[DatasetObject]) -> None:
        """Count what COCO has and the format has not: scores, and which objects are crowds."""
        if count := sum(found.crowd for found in objects):
            self.lost["crowds: they become objects"] += count
        if count := sum(bool(found.scores) for found in objects):
            self.lost["scores"] += count


def decoded(mask: Mask, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool. DatasetError if it has not the size of its frame."""
    inside = mask.decode()
    if inside.shape != size:
        raise DatasetError(f"a mask of {inside.shape[1]}x{inside.shape[0]} on a frame of {size[1]}x{size[0]}")
    return inside


def outlines(mask: Mask, tolerance: float) -> Sequence[Sequence[float]]:
    """The polygons of a mask: its own, or its outline."""
    return mask.polygons if mask.polygons is not None else mask_to_polygons(mask.decode(), tolerance)


def joined(polygons: Sequence[Sequence[float]]) -> list[float]:
    """One polygon of several: joined by cuts of no width, walked there and back, which COCO's rule does not see."""
    rings = [list(polygon) for polygon in polygons if len(polygon) >= 6]
    if len(rings) < 2:
        return rings[0] if rings else []
    points = [c for ring in rings for c in (*ring, *ring[:2])]
    for ring in reversed(rings[:-1]):
        points += ring[:2]
    return points


def one_outline(mask: Mask, size: tuple[int, int], tolerance: float) -> list[float]:
    """One polygon of a mask, and of all its parts."""
    polygons = outlines(mask, tolerance)
    if mask.polygons is not None and len(polygons) > 1:
        rle = mask.rle()  # a DatasetError if it is damaged
        if polygons_to_rle([joined(polygons)], size) != rle:  # polygons that overlap
            polygons = mask_to_polygons(rle_to_mask(rle))
    return joined(polygons)


def save(path: Path, image: Image.Image) -> None:
    image.save(path, quality=JPEG_QUALITY) if path.suffix == ".jpg" else image.save(path)


def save_indexed(path: Path, indices: np.ndarray) -> None:
    make_folder(path.parent)
    image = Image.fromarray(indices)
    image.putpalette(davis_palette())
    image.save(path)


def renumbered(item: Item, most: int | None, lost: Counter[str]) -> list[DatasetObject]:
    """Objects with numbers from 1 to `most`; others are left out. Numbers that fit stay."""
    objects = list(item.objects)
    if all(1 <= found.id <= (most or found.id) for found in objects):
        return objects
    lost["objects that got another number"] += len(objects)
    objects = [replace(found, id=i) for i, found in enumerate(objects, 1)]
    if most is not None and len(objects) > most:
        lost[f"objects beyond {most} in one picture"] += len(objects) - most
        objects = objects[:most]
    return objects


def used_classes(dataset: Dataset) -> Sequence[str]:
    """The classes of a data set, unless there is but the one that stands for none."""
    return () if dataset.classes == (CLASS,) else dataset.classes


def safe_name(name: str) -> str:
    """A name for a file: without characters that a file system or a path would take for its own, and not too long."""
    name = re.sub(r"[\x00-\x1f\x7f<>:\"|?*\\/]", "_", name).strip(" ")
    name = os.fsencode(name)[:180].decode(errors="ignore")
    return name if name.strip(".") else "item"

"""What is in a data set, and what is odd: reported before a model is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..text import one_line, some
from .items import Dataset, DatasetError, DatasetObject, Item
from .masks import Mask
from .pictures import picture_size

EXAMPLES = 5  # that a finding names


@dataclass
class Finding:
    """Something odd: how often, and where first."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """The result of ``check``.

    Attributes:
        format, photos, videos, frames, keyframes, objects, masks: how many.
        classes: objects of each class name.
        most: the most objects that an item has.
        odd: what is odd -> how often, and where first. Empty if all is well.
    """

    format: str
    photos: int = 0
    videos: int = 0
    frames: int = 0
    keyframes: int = 0
    objects: int = 0
    masks: int = 0
    most: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    odd: dict[str, Finding] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def add(self, what: str, where: str) -> None:
        found = self.odd.setdefault(what, Finding())
        found.count += 1
        if len(found.examples) < EXAMPLES:
            found.examples.append(where)

    def lines(self) -> list[str]:
        """The report as text, a fact a line."""
        what = [_count(self.photos, "photo")] if self.photos or not self.videos else []
        what += (
            [f"{_count(self.videos, 'video')} of {_count(self.frames - self.photos, 'frame')}"] if self.videos else []
        )
        lines = [f"{self.format}: {' and '.join(what)}, {_count(self.keyframes, 'annotated frame')}"]
        names = ", ".join(f"{_printable(name)} {count}" for name, count in self.classes.most_common(8))
        more = f" and {len(self.classes) - 8} more classes" if len(self.classes) > 8 else ""
        lines.append(
            f"{_count(self.objects, 'object')} ({names}{more}), {_count(self.masks, 'mask')}, "
            f"at most {_count(self.most, 'object')} an item"
            if self.objects
            else "no objects"
        )
        lines += list(self.notes)
        lines += [f"odd: {what} ({found.count}): {some(found.examples)}" for what, found in self.odd.items()]
        return lines


def check(dataset: Dataset, progress: Callable[[Item], Any] | None = None) -> Report:
    """Read every annotation and the size of every photo; pixels are not decoded, and nothing is kept.

    Args:
        progress: called with each item when it is done.

    Returns:
        What was found. Damage of one item is a finding, not an error.
    """
    report = Report(dataset.format, notes=dataset.notes)
    for item in dataset:
        report.videos += item.is_video
        report.photos += not item.is_video
        report.keyframes += len(item.keyframes)
        try:
            report.frames += item.num_frames
            _check_item(report, item)
        except DatasetError as error:
            report.add("cannot be read", f"{item.name}: {error}")
        if progress is not None:
            progress(item)
    return report


def _check_item(report: Report, item: Item) -> None:
    size = item.size
    _check_frames(report, item, size)
    objects = item.objects
    report.most = max(report.most, len(objects))
    if not objects:
        report.add("no object", item.name)
    for found in objects:
        report.objects += 1
        report.classes[found.class_name] += 1
        if found.crowd:
            report.add("crowd, not one object", f"{item.name}, object {found.id}")
        seen = False
        for i, mask in found.masks.items():
            report.masks += 1
            where = f"{item.name}, frame {item.frames.name(i)}" if item.is_video else item.name
            area = _check_mask(report, mask, size, f"{where}, object {found.id}")
            if area == 0 and not item.is_video:
                report.add("empty mask", f"{where}, object {found.id}")
            seen |= area != 0
        if item.is_video and not seen:
            report.add("object that is never seen", f"{item.name}, object {found.id}")


def _check_frames(report: Report, item: Item, size: tuple[int, int]) -> None:
    for i in range(item.num_frames):
        path = item.frames.path(i)
        if path is None:
            continue
        if not path.is_file():
            report.add("missing frame" if item.is_video else "missing photo", str(path))
        elif item.is_video and i not in (0, *item.keyframes[:1], *item.keyframes[-1:]):
            continue  # the first ones and the last one speak for a video
        elif (found := picture_size(path)) != size:
            report.add("sizes that differ", f"{path} is {found[1]}x{found[0]}, {size[1]}x{size[0]} is stated")


def _check_mask(report: Report, mask: Mask, size: tuple[int, int], where: str) -> int | None:
    """The area of a mask, None if it is damaged."""
    try:
        if mask.size != size:
            report.add("mask of another size", f"{where}: {mask.size[1]}x{mask.size[0]}")
        if mask.polygons is not None:
            height, width = size
            for polygon in mask.polygons:
                x, y = polygon[0::2], polygon[1::2]
                if len(polygon) < 6:
                    report.add("polygon of fewer than three corners", where)
                elif min(x) < 0 or min(y) < 0 or max(x) > width or max(y) > height:
                    report.add("polygon out of bounds", where)
        return mask.area()
    except DatasetError as error:
        report.add("damaged mask", f"{where}: {error}")
        return None


def first_seen(found: DatasetObject) -> int | None:
    """The first frame on which an object has a pixel, or None. Masks are decoded until then."""
    return next((i for i in sorted(found.masks) if found.masks[i].area() > 0), None)


def _printable(name: str) -> str:
    """A stranger's name on a terminal: what would move its cursor is a question mark."""
    return "".join(c if c.isprintable() else "?" for c in one_line(name))[:60]


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"

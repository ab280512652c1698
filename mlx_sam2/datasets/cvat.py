"""CVAT's XML 1.1: "CVAT for images" and "CVAT for video", polygons and masks.

(docs.cvat.ai, "XML annotation format".) A mask has run lengths within its box, row by row, the first one background.
Shapes of one group are one object, as CVAT's own COCO export has it. A track has a shape for each frame; CVAT takes
masks for single frames only, so that a tracked mask is a track of its own for each frame; the group is the object.
"""

from __future__ import annotations

import math
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from ..masks.filled import polygons_to_rle
from ..masks.rle import MAX_PIXELS, Rle, rle_to_mask
from ..text import brief, shown
from .coco import unique_items
from .frames import PHOTOS, FileFrames, FilmFrames, Frames, NoFrames
from .hostile import MAX_FRAMES, entries, inside, read_xml
from .items import CLASS, Dataset, DatasetError, DatasetObject, Item
from .masks import LazyMask, Mask, PolygonMask

FILMS = (".mp4", ".mov", ".avi", ".mkv", ".webm")
Shape = Element


def is_cvat(path: Path) -> bool:
    """Whether an XML file begins as CVAT's do."""
    with open(path, "rb") as file:
        return b"<annotations" in file.read(512)


def read_cvat(path: Path, photos: Path | None = None) -> Dataset:
    """Open an XML file of CVAT, or a folder of them, one a video.

    Args:
        photos: the folder of the photos or frames; else they are looked for beside the file, and in images/.

    Raises:
        DatasetError: the file is damaged.
    """
    files = [path] if path.is_file() else [path / e.name for e in entries(path) if e.name.endswith(".xml")]
    items: list[Item] = []
    classes: dict[str, None] = {}
    for file in files:
        root = read_xml(file)
        if root.tag != "annotations":
            raise DatasetError(f"{file} is no XML of CVAT: its root is <{shown(root.tag)}>, not <annotations>")
        classes.update(dict.fromkeys(e.findtext("name") or CLASS for e in root.findall("meta//labels/label")))
        if root.find("track") is not None or root.find("meta/task/mode[.='interpolation']") is not None:
            items.append(_video(file, root, photos))
        else:
            items += [_photo(file, entry, photos) for entry in root.findall("image")]
    return Dataset(path, "cvat", unique_items(items), tuple(classes) or (CLASS,))


def _photo(file: Path, entry: Element, photos: Path | None) -> Item:
    where = f"{file}, image {shown(entry.get('id', '?'))}"
    name = inside(entry.get("name"), where)
    size = _whole(entry, "height", where), _whole(entry, "width", where)
    found = _find(file, name, photos)
    frames: Frames = FileFrames([found], size) if found else NoFrames(1, size, [Path(name).stem])
    shapes: dict[Any, list[Shape]] = defaultdict(list)
    for number, shape in enumerate(s for s in entry if s.tag in ("mask", "polygon")):
        group = shape.get("group_id", "0")
        shapes[(shape.get("label"), group) if group != "0" else number].append(shape)
    stem = name[: len(name) - len(Path(name).suffix)].removeprefix("images/")
    return Item(stem, frames, False, (0,), partial(_objects, [{0: found} for found in shapes.values()], size, where))


def _find(file: Path, name: str, photos: Path | None) -> Path | None:
    places = [photos] if photos else [file.parent, file.parent / "images"]
    return next((place / name for place in places if (place / name).is_file()), None)


def _video(file: Path, root: Element, photos: Path | None) -> Item:
    where = str(file)
    meta = root.find("meta/task")
    shape = root.find("meta/task/original_size")
    shape = root.find("meta/original_size") if shape is None else shape
    if meta is None or shape is None:
        raise DatasetError(f"{file}: a video needs meta/task/original_size")
    size = _whole(shape, "height", where, text=True), _whole(shape, "width", where, text=True)
    count = _whole(meta, "size", where, text=True)
    if count > MAX_FRAMES:
        raise DatasetError(f"{file} states {count:,} frames: at most {MAX_FRAMES:,} are taken")
    objects: dict[Any, dict[int, list[Shape]]] = defaultdict(lambda: defaultdict(list))
    highest = 0
    for number, track in enumerate(root.findall("track")):
        group = track.get("group_id", "0")
        is_mask = track.find("mask") is not None
        found = objects[(track.get("label"), group) if group != "0" and is_mask else number]
        for entry in track:
            if entry.tag in ("mask", "polygon"):
                frame = _whole(entry, "frame", where)
                highest = max(highest, frame)
                if entry.get("outside") != "1":
                    entry.set("label", track.get("label") or CLASS)
                    found[frame].append(entry)
    if highest >= count > 0 and any(max(frames, default=0) >= count for frames in objects.values()):
        raise DatasetError(f"{file} has a shape on frame {highest}, and {count} frames")
    frames = _video_frames(file, meta, photos, count, size)
    load = partial(_objects, list(objects.values()), size, where)
    return Item(file.stem, frames, True, tuple(range(count)), load)


def _video_frames(file: Path, meta: Element, photos: Path | None, count: int, size: tuple[int, int]) -> Frames:
    source = meta.findtext("source") or ""
    if Path(source).suffix.lower() in FILMS and (film := _find(file, inside(source, str(file)), photos)):
        return FilmFrames(film, count, size)
    for folder in [photos] if photos else [file.parent / "images" / file.stem, file.parent / "images", file.parent]:
        found = entries(folder) if folder.is_dir() else []
        paths = [folder / e.name for e in found if Path(e.name).suffix.lower() in PHOTOS]
        if len(paths) == count > 0:
            return FileFrames(paths, size)
    return NoFrames(count, size)


def _whole(entry: Element, name: str, where: str, text: bool = False) -> int:
    """A whole number of an attribute, or of an element's text."""
    found = entry.findtext(name) if text else entry.get(name)
    found = (found or "").strip()
    if not (found.isascii() and found.isdecimal()) or len(found) > 8:
        raise DatasetError(f"{where}: {name} must be a whole number, got {brief(found)}")
    return int(found)


# ---- shapes


def _objects(found: list[dict[int, list[Shape]]], size: tuple[int, int], where: str) -> list[DatasetObject]:
    objects = []
    for number, frames in enumerate(found, 1):
        masks = {i: _mask(shapes, size, f"{where}, frame {i}, object {number}") for i, shapes in frames.items()}
        if not frames:
            continue
        label = next(iter(frames.values()))[0].get("label") or CLASS
        objects.append(DatasetObject(number, label, masks))
    return objects


def _mask(shapes: list[Shape], size: tuple[int, int], where: str) -> Mask:
    if all(shape.tag == "polygon" for shape in shapes):
        return PolygonMask([_points(shape, where) for shape in shapes], size, where)
    return LazyMask(size, partial(_union, shapes, size, where), where)


def _points(shape: Shape, where: str) -> list[float]:
    try:
        points = [float(c) for pair in (shape.get("points") or "").split(";") for c in pair.split(",")]
    except ValueError:
        points = []
    if not points or len(points) % 2 or not all(map(math.isfinite, points)):
        raise DatasetError(f"{where}: points must be x,y;x,y;... got {brief(shape.get('points'))}")
    return points


def _union(shapes: list[Shape], size: tuple[int, int], where: str) -> np.ndarray:
    inside_any = np.zeros(size, bool)
    for shape in shapes:
        if shape.tag == "polygon":
            inside_any |= rle_to_mask(polygons_to_rle([_points(shape, where)], size))
            continue
        left, top, width, height = (_whole(shape, name, where) for name in ("left", "top", "width", "height"))
        if top + height > size[0] or left + width > size[1] or height * width > MAX_PIXELS:
            raise DatasetError(f"{where}: the box of a mask reaches outside of {size[1]}x{size[0]}")
        # Row by row is column by column of the box turned over.
        rle: Rle = {"size": [width, height], "counts": _counts(shape.get("rle") or "", where)}
        inside_any[top : top + height, left : left + width] |= rle_to_mask(rle).T
    return inside_any


def _counts(text: str, where: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 for word in words):
        raise DatasetError(f"{where}: rle must be whole numbers, got {brief(text)}")
    return [int(word) for word in words]

"""COCO's JSON: instances (polygons and RLE), LVIS, and videos as YouTube-VIS has them. Reading.

Instances: images, annotations with `segmentation`, categories (cocodataset.org, "Data format"); LVIS names its photos
by `coco_url` only. Videos: `videos` with `file_names`, annotations with `segmentations`, null where the object is
absent (the format of youtube-vos.org's "Video Instance Segmentation").
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..masks.rle import rle_size
from ..text import brief
from .frames import FileFrames, Frames, NoFrames
from .hostile import inside, is_number, need
from .items import CLASS, Dataset, DatasetError, DatasetObject, Item
from .masks import Mask, PolygonMask, RleMask

Json = dict[str, Any]


def kind_of(value: Any) -> str | None:
    """ "coco", "lvis" or "coco-video" of a JSON value, or None."""
    if not isinstance(value, dict) or not isinstance(value.get("annotations"), list):
        return None
    if isinstance(value.get("videos"), list):
        return "coco-video"
    images = value.get("images")
    if not isinstance(images, list):
        return None
    lvis = images and isinstance(images[0], dict) and "not_exhaustive_category_ids" in images[0]
    return "lvis" if lvis else "coco"


def read_coco(path: Path, value: Json, format_name: str, photos: Path | None = None) -> Dataset:
    """Open a COCO, LVIS or YouTube-VIS file whose JSON has been read.

    Args:
        photos: the folder of the photos; else they are looked for beside the file.

    Raises:
        DatasetError: the file is damaged: it lacks something, or two things have one id.
    """
    is_video = format_name == "coco-video"
    entries = _by_id(value.get("videos" if is_video else "images"), f"{path}: {'videos' if is_video else 'images'}")
    names = _classes(path, value.get("categories", []))
    of: dict[Any, list[Json]] = defaultdict(list)
    for i, annotation in enumerate(need(value.get("annotations"), list, f"{path}: annotations")):
        where = f"{path}: annotation {i}"
        key = need(annotation, dict, where).get("video_id" if is_video else "image_id")
        if not isinstance(key, (int, str)) or key not in entries:
            raise DatasetError(f"{where} belongs to {brief(key)}, which there is not")
        of[key].append(annotation)
    files = {key: _files(entry, f"{path}: {brief(key)}") for key, entry in entries.items()}
    folder = photos or _find_photos(path, [file for found in files.values() for file in found[:1]][:20])
    load = _load_video if is_video else _load_photo
    items = []
    for key, entry in entries.items():
        size = rle_size_of(entry, f"{path}: {brief(key)}")
        found = files[key]
        stems = [Path(name).stem for name in found]
        stems = stems if len({*stems}) == len(stems) else [f"{i:05d}" for i in range(len(stems))]
        frames: Frames = NoFrames(len(found), size, stems)
        if folder is not None:
            frames = FileFrames([folder / name for name in found], size, names=stems)
        name = _name(found, is_video, key)
        items.append(
            Item(
                name, frames, is_video, tuple(range(len(found))), partial(load, of[key], size, names, len(found), name)
            )
        )
    notes = [] if folder is not None else [f"{path}: its photos were not found beside it: only the masks can be used"]
    return Dataset(path, format_name, unique_items(items), tuple(names.values()) or (CLASS,), tuple(notes))


def _by_id(value: Any, where: str) -> dict[Any, Json]:
    found: dict[Any, Json] = {}
    for entry in need(value, list, where):
        key = need(entry, dict, where).get("id")
        if not isinstance(key, (int, str)) or key in found:
            raise DatasetError(f"{where}: an id is missing, or there twice: {brief(key)}")
        found[key] = entry
    return found


def _classes(path: Path, value: Any) -> dict[Any, str]:
    names = {}
    for key, entry in _by_id(value, f"{path}: categories").items():
        names[key] = need(entry.get("name", str(key)), str, f"{path}: the name of category {brief(key)}")
    return names


def _files(entry: Json, where: str) -> list[str]:
    """The files of a photo or a video, checked."""
    names = entry.get("file_names", entry.get("file_name"))
    if names is None and isinstance(url := entry.get("coco_url"), str):  # LVIS: .../train2017/000000391895.jpg
        names = "/".join(url.split("/")[-2:])
    names = names if isinstance(names, list) else [names]
    return [inside(name, where) for name in names]


def rle_size_of(entry: Json, where: str) -> tuple[int, int]:
    """(H, W) that an entry states as "height" and "width", checked."""
    try:
        height, width = rle_size({"size": [entry.get("height"), entry.get("width")]})
    except ValueError:
        raise DatasetError(
            f"{where}: height and width must be whole numbers of a picture, got {brief(entry.get('height'))} and "
            f"{brief(entry.get('width'))}"
        ) from None
    if height * width == 0:
        raise DatasetError(f"{where}: a picture of {width} x {height} pixels")
    return height, width


def _find_photos(path: Path, names: Sequence[str]) -> Path | None:
    """The folder in which one of the files lies: beside the JSON, in images/, or in a folder of the JSON's name."""
    split = re.sub(r"^(instances|lvis_v1|lvis_v0\.5|person_keypoints)_", "", path.stem)
    here = path.parent
    places = [
        place / inner for place in (here, here.parent) for inner in ("", "images", "JPEGImages", split, "val2017")
    ]
    places += [here / "images" / split, here.parent / "images" / split, here / split / "JPEGImages"]
    places += [here.parent / split / "JPEGImages", here.parent / "train2017"]
    return next((place for place in places for name in names if (place / name).is_file()), None)


def _name(files: Sequence[str], is_video: bool, number: Any) -> str:
    """The name of a photo, or of a video: of the folder of its frames."""
    if not files:
        return str(number)
    path = Path(files[0].removeprefix("images/"))
    if is_video and len(path.parts) > 1:
        return path.parent.as_posix()
    return path.with_suffix("").as_posix()


def unique_items(items: list[Item]) -> list[Item]:
    """Items with names that differ: a number is added to a name that was there before."""
    taken: set[str] = set()
    for item in items:
        name, n = item.name, 1
        while item.name in taken:
            item.name, n = f"{name}-{n}", n + 1
        taken.add(item.name)
    return items


def segmentation_mask(value: Any, size: tuple[int, int], where: str) -> Mask:
    """The mask of a `segmentation`: polygons, or run lengths as a list or a text.

    Raises:
        DatasetError: it is neither.
    """
    if isinstance(value, dict):
        return RleMask(value, where)
    polygons = need(value, list, f"{where}: segmentation")
    for polygon in polygons:
        is_numbers = isinstance(polygon, list) and all(map(is_number, polygon))
        if not is_numbers or len(polygon) % 2:
            raise DatasetError(f"{where}: a polygon must be a list of numbers, x and y in turn, got {brief(polygon)}")
    return PolygonMask(polygons, size, where)


def _numbered(annotations: list[Json]) -> list[tuple[int, Json]]:
    """Annotations with the numbers of their objects: those that our writer kept, or 1, 2, ..."""
    kept = [entry.get("object_id") for entry in annotations]
    is_kept = all(type(number) is int and number >= 0 for number in kept) and len({*kept}) == len(kept)
    return list(zip(kept if is_kept else range(1, len(kept) + 1), annotations, strict=True))


def _load_photo(
    annotations: list[Json], size: tuple[int, int], names: dict[Any, str], count: int, name: str
) -> list[DatasetObject]:
    objects = []
    for number, entry in _numbered(annotations):
        where = f"{name}, annotation {brief(entry.get('id', number))}"
        if not entry.get("segmentation"):  # boxes alone, as of detection
            continue
        scores = {0: float(entry["score"])} if is_number(entry.get("score")) else {}
        mask = segmentation_mask(entry["segmentation"], size, where)
        crowd = entry.get("iscrowd") == 1
        objects.append(DatasetObject(number, _class(entry, names, where), {0: mask}, scores, crowd))
    return objects


def _load_video(
    annotations: list[Json], size: tuple[int, int], names: dict[Any, str], count: int, name: str
) -> list[DatasetObject]:
    objects = []
    for number, entry in _numbered(annotations):
        where = f"{name}, annotation {brief(entry.get('id', number))}"
        found = need(entry.get("segmentations"), list, f"{where}: segmentations")
        if len(found) != count:
            raise DatasetError(f"{where} has {len(found)} segmentations for {count} frames")
        masks = {i: segmentation_mask(value, size, where) for i, value in enumerate(found) if value}
        scores = {i: float(entry["score"]) for i in masks} if is_number(entry.get("score")) else {}
        crowd = entry.get("iscrowd") == 1
        objects.append(DatasetObject(number, _class(entry, names, where), masks, scores, crowd))
    return objects


def _class(entry: Json, names: dict[Any, str], where: str) -> str:
    key = entry.get("category_id")
    if not names and key is None:
        return CLASS
    if not isinstance(key, (int, str)) or key not in names:
        raise DatasetError(f"{where} has the category {brief(key)}, which there is not")
    return names[key]

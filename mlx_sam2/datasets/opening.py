"""Opening a data set: its layout is recognised from folders and contents, never from a file's name alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import coco, folder, sequences
from .hostile import entries, read_json
from .items import Dataset, DatasetError

READ = ("coco", "coco-video", "lvis", *sequences.FORMATS, "folder")


def open_dataset(
    path: str | Path,
    format: str | None = None,  # noqa: A002
    *,
    split: str | None = None,
    images: str | Path | None = None,
) -> Dataset:
    """Open a data set. Annotations in text are read now; photos, frames and mask pictures when they are asked for.

    Args:
        path: a folder, or a file of annotations.
        format: one of ``READ``, for a layout that could be several.
        split: part of a data set that lists its parts, such as "train"; else all that has annotations.
        images: the folder of the photos, where a file of annotations lies apart from them.

    Raises:
        DatasetError: there is none, it is damaged, or its layout is not known. One line.
    """
    path = Path(path)
    if format is not None and format not in READ:
        raise DatasetError(f"there is no format {format!r} to read: {', '.join(READ)}")
    if not path.exists():
        raise DatasetError(f"there is no data set {path}")
    photos = None if images is None else Path(images)
    if path.is_dir() and (format in (None, *sequences.FORMATS)) and (format or sequences.recognise(path)):
        return sequences.read_sequences(path, format or sequences.recognise(path) or "davis", split)
    if path.is_dir() and (format == "folder" or (format is None and folder.recognise(path))):
        return folder.read_folder(path)
    file = _annotations(path) if path.is_dir() else path
    return _open_json(file, read_json(file), format, photos)


def _open_json(path: Path, value: Any, format_name: str | None, photos: Path | None) -> Dataset:
    kind = coco.kind_of(value)
    if kind is None:
        raise DatasetError(f"{path} is JSON of an unknown kind: {', '.join(READ)} are read")
    return coco.read_coco(path, value, format_name or kind, photos)


def _annotations(root: Path) -> Path:
    """The one JSON file of a folder, or of its folder annotations/."""
    for place in (root, root / "annotations"):
        found = [e.name for e in entries(place) if e.name.endswith(".json")] if place.is_dir() else []
        if len(found) == 1:
            return place / found[0]
        if found:
            raise DatasetError(f"{place} holds several annotation files, give one of them: {', '.join(found[:6])}")
    raise DatasetError(f"{root} has no layout that is known: {', '.join(READ)} are read")

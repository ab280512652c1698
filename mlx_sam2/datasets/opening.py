"""Opening a data set: its layout is recognised from folders and contents, never from a file's name alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import coco, cvat, folder, label_studio, sequences, voc, yolo
from .hostile import entries, read_json
from .items import Dataset, DatasetError
from .names import READ
from .sav_film import is_masklets, read_masklets

_OF_JSON = ("coco", "coco-video", "lvis", "label-studio", "sav")
_IN_FOLDERS = (*sequences.FORMATS, "voc", "yolo", "folder", "cvat")


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
    path, photos = Path(path), None if images is None else Path(images)
    if format is not None and format not in READ:
        raise DatasetError(f"there is no format {format!r} to read: {', '.join(READ)}")
    if not path.exists():
        raise DatasetError(f"there is no data set {path}")
    if path.is_dir():
        found = format or _recognise(path)
        if found in _IN_FOLDERS:
            return _open_folder(path, found, split, photos)
        path = _annotations(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        return yolo.read_yolo(path, split)
    if path.suffix.lower() == ".xml":
        return cvat.read_cvat(path, photos)
    return _open_json(path, read_json(path), format, photos)


def _recognise(root: Path) -> str | None:
    """The format of a folder that is more than a file of annotations with photos."""
    if found := sequences.recognise(root):
        return found
    if voc.recognise(root):
        return "voc"
    if folder.recognise(root):
        return "folder"
    if yolo.recognise(root):
        return "yolo"
    names = [entry.name for entry in entries(root)]
    if any(name.endswith(".xml") and cvat.is_cvat(root / name) for name in names):
        return "cvat"
    inner = [name for name in sequences.SPLITS if (root / name / "JPEGImages").is_dir()]
    return "davis" if inner else None  # whose reader says what to give


def _open_folder(root: Path, found: str, split: str | None, photos: Path | None) -> Dataset:
    if found in sequences.FORMATS:
        return sequences.read_sequences(root, found, split)
    if found == "voc":
        return voc.read_voc(root, split)
    if found == "yolo":
        return yolo.read_yolo(root, split)
    return folder.read_folder(root) if found == "folder" else cvat.read_cvat(root, photos)


def _open_json(path: Path, value: Any, format_name: str | None, photos: Path | None) -> Dataset:
    kind = "label-studio" if label_studio.is_tasks(value) else "sav" if is_masklets(value) else coco.kind_of(value)
    if kind is None or (format_name not in (None, *_OF_JSON)):
        raise DatasetError(f"{path} is JSON of an unknown kind: {', '.join(_OF_JSON)} are read")
    if kind == "label-studio":
        return label_studio.read_label_studio(path, value, photos)
    if kind == "sav":
        return read_masklets(path, value)
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

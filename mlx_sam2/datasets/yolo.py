"""YOLO's segmentation format: a text file for each photo, an outline a line, and data.yaml with the classes.

    0 0.25 0.1 0.5 0.1 0.4 0.3      class, then x and y of each corner as shares of width and height

(docs.ultralytics.com, "Instance Segmentation Datasets Overview"). One line is one object and one outline: parts and
holes are joined to it by cuts of no width. A photo without a text file, or with an empty one, has no object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import make_folder
from ..text import brief
from .frames import PHOTOS, FileFrames
from .hostile import entries, read_text
from .items import CLASS, Dataset, DatasetError, DatasetObject, Item
from .masks import PolygonMask
from .pictures import picture_size
from .writing import Writer, one_outline

CONFIG = "data.yaml"
MAX_CONFIG = 1 << 20
MAX_CLASS = 1 << 20
MAX_LABELS = 256 << 20  # bytes of the text file of one photo
SPLITS = ("train", "val", "test")

# ---- reading


def config_of(root: Path) -> Path | None:
    """The file of a data set's classes and folders: data.yaml, or the one file in YAML."""
    if (root / CONFIG).is_file():
        return root / CONFIG
    found = [root / e.name for e in entries(root) if e.name.endswith((".yaml", ".yml"))]
    return found[0] if len(found) == 1 else None


def recognise(root: Path) -> bool:
    if config_of(root) is not None:
        return True
    labels = root / "labels"
    inner = entries(labels) if labels.is_dir() else []
    return (root / "images").is_dir() and any(e.name.endswith(".txt") or _has_texts(labels / e.name) for e in inner)


def _has_texts(folder: Path) -> bool:
    return folder.is_dir() and any(e.name.endswith(".txt") for e in entries(folder))


def read_yolo(path: Path, split: str | None = None) -> Dataset:
    """Open a YOLO data set by its folder or its data.yaml. Lines are read when an item's objects are asked for.

    Args:
        split: "train", "val" or "test" of data.yaml; else all of them.

    Raises:
        DatasetError: data.yaml is damaged or names folders outside, or there is no photo.
    """
    root = path if path.is_dir() else path.parent
    config = path if path.is_file() else config_of(root)
    value = _read_config(config) if config else {}
    names = _classes(value.get("names"), str(config))
    items: dict[str, Item] = {}
    for folder in _folders(root, value, split):
        for photo in _photos(root / folder):
            name = photo.relative_to(root).with_suffix("").as_posix().removeprefix("images/")
            load = partial(_load, photo, _label_file(root, photo), names)
            items[name] = Item(name, FileFrames([photo]), False, (0,), load)
    if not items:
        raise DatasetError(f"{root} holds no photos in images/ ({', '.join(PHOTOS)})")
    used = tuple(names[i] for i in sorted(names)) or (CLASS,)
    return Dataset(path, "yolo", [items[name] for name in sorted(items)], used)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ModuleNotFoundError:
        raise DatasetError(f"reading {path} needs PyYAML (pip install pyyaml)") from None
    try:
        value = yaml.safe_load(read_text(path, MAX_CONFIG))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is no YAML: {brief(str(error))}") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{path} must hold names, train and val")
    return value


def _classes(value: Any, where: str) -> dict[int, str]:
    """Number -> name, of a list or a table."""
    pairs = dict(enumerate(value)) if isinstance(value, list) else value if isinstance(value, dict) else {}
    if not all(type(number) is int for number in pairs):
        raise DatasetError(f"{where}: names must be a list, or numbers with names, got {brief(value)}")
    return {number: str(name) if isinstance(name, (str, int, float)) else brief(name) for number, name in pairs.items()}


def _folders(root: Path, value: dict[str, Any], split: str | None) -> list[str]:
    """The folders of the photos, inside the data set."""
    if split is not None and split not in value:
        raise DatasetError(f"{root}: data.yaml has no split {split!r}")
    found = []
    for name in [split] if split else SPLITS:
        given = value.get(name)
        for folder in given if isinstance(given, list) else [given] if given else []:
            parts = PurePosixPath(str(folder).replace("\\", "/"))
            if parts.is_absolute() or not isinstance(folder, str):
                raise DatasetError(f"{root}: data.yaml names {brief(folder)}: a folder inside the data set is needed")
            kept = [part for part in parts.parts if part != ".."]  # Roboflow writes ../train/images for train/images
            found.append("/".join(kept))
    found = found or ["images"]
    return [folder for folder in dict.fromkeys(found) if (root / folder).is_dir()] or ["images"]


def _photos(folder: Path, depth: int = 4) -> list[Path]:
    if not folder.is_dir():
        return []
    found = []
    for entry in entries(folder):
        if entry.is_dir() and depth:
            found += _photos(folder / entry.name, depth - 1)
        elif Path(entry.name).suffix.lower() in PHOTOS:
            found.append(folder / entry.name)
    return found


def _label_file(root: Path, photo: Path) -> Path:
    """The last folder called images becomes labels, as ultralytics' ``img2label_paths`` does it."""
    parts = list(photo.relative_to(root).with_suffix(".txt").parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return root.joinpath(*parts)


def _load(photo: Path, labels: Path, names: dict[int, str]) -> list[DatasetObject]:
    if not labels.is_file():
        return []
    height, width = size = picture_size(photo)
    objects = []
    for number, line in enumerate(read_text(labels, MAX_LABELS).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{labels}, line {number}"
        try:
            klass, *values = (float(word) for word in words)
        except ValueError:
            raise DatasetError(f"{where} must be numbers: a class, then x and y of each corner") from None
        if not all(map(math.isfinite, [klass, *values])) or klass not in range(MAX_CLASS) or len(values) % 2:
            raise DatasetError(f"{where} must be a class, then x and y of each corner")
        if len(values) == 4:
            raise DatasetError(f"{where} is a box (five numbers): a data set of outlines is needed")
        scaled = [value * (width, height)[i % 2] for i, value in enumerate(values)]
        name = names.get(int(klass), CLASS if not names else str(int(klass)))
        objects.append(DatasetObject(len(objects) + 1, name, {0: PolygonMask([scaled], size, where)}))
    return objects


# ---- writing


class YoloWriter(Writer):
    """Photos in images/, their outlines in labels/, and data.yaml. Annotated frames of videos become photos."""

    def add(self, item: Item) -> None:
        (height, width) = size = item.size
        self.lose_scores(item.objects)
        for part in self.parts(item):
            self.copy_frame(item, part.index, self.out / "images" / part.name, PHOTOS[:7])
            lines = []
            for found in item.objects:
                if part.index not in found.masks:
                    continue
                outline = one_outline(found.masks[part.index], size, self.options.tolerance)
                if not outline:
                    self.lost["empty masks"] += 1
                    continue
                lines.append(self._line(self.class_number(found.class_name), outline, width, height))
            labels = self.out / "labels" / f"{part.name}.txt"
            make_folder(labels.parent)
            labels.write_text("".join(lines), encoding="ascii")

    def _line(self, klass: int, outline: Sequence[float], width: int, height: int) -> str:
        shares = (min(max(c / (width, height)[i % 2], 0.0), 1.0) for i, c in enumerate(outline))
        return " ".join([str(klass), *(f"{share:.8f}".rstrip("0").rstrip(".") or "0" for share in shares)]) + "\n"

    def finish(self) -> None:
        make_folder(self.out / "images")
        make_folder(self.out / "labels")
        names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for name, i in self.classes.items())
        names = f"names:\n{names}" if names else "names: {}\n"
        (self.out / CONFIG).write_text(f"path: .\ntrain: images\nval: images\n{names}", encoding="utf-8")

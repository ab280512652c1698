"""A folder of photos and a folder of masks: black and white, object numbers as pixel values, or a file an object.

images/NAME.jpg   masks/NAME.png                 one object in white, or object numbers as values
                  masks/NAME/0000.png, ...       a file an object
                  masks/NAME_1.png, NAME_2.png   a file an object
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..text import some
from .frames import PHOTOS, FileFrames
from .hostile import entries
from .items import CLASS, Dataset, DatasetError, DatasetObject, Item
from .masks import PictureMask, read_picture
from .pictures import VOID, values_of

PAIRS = [
    (images, masks) for images in ("images", "photos", "img", "imgs") for masks in ("masks", "labels", "annotations")
]
MASKS = (".png", ".tif", ".tiff", ".bmp")


def recognise(root: Path) -> bool:
    """Whether it holds a folder of photos and one of mask pictures."""
    return _pair(root) is not None


def _pair(root: Path) -> tuple[Path, Path] | None:
    for images, masks in PAIRS:
        if (root / images).is_dir() and (root / masks).is_dir():
            inner = entries(root / masks)
            inner += [found for entry in inner if entry.is_dir() for found in entries(Path(entry.path))]
            if any(map(_is_mask, inner)):
                return root / images, root / masks
    return None


def _is_mask(entry: os.DirEntry[str]) -> bool:
    return Path(entry.name).suffix.lower() in MASKS


def read_folder(root: Path) -> Dataset:
    """Open such a folder. Masks are read when an item's objects are asked for.

    Raises:
        DatasetError: it is none, or a mask has no photo.
    """
    pair = _pair(root)
    if pair is None:
        raise DatasetError(f"{root} has no folders images/ and masks/ of pictures with the same names")
    images, masks = pair
    photos = {Path(e.name).stem: images / e.name for e in entries(images) if Path(e.name).suffix.lower() in PHOTOS}
    if not photos:
        raise DatasetError(f"{images} holds no photos ({', '.join(PHOTOS)})")
    files: dict[str, list[Path]] = {name: [] for name in photos}
    strange = []
    for entry in entries(masks):
        path = masks / entry.name
        if entry.is_dir() and entry.name in photos:
            files[entry.name] += [path / e.name for e in entries(path) if Path(e.name).suffix.lower() in MASKS]
        elif path.suffix.lower() in MASKS and (owner := _owner(path.stem, photos)) is not None:
            files[owner].append(path)
        else:
            strange.append(entry.name)
    notes = [f"{masks}: {some(strange)} belong to no photo in {images}"] if strange else []
    items = [
        Item(name, FileFrames([photos[name]]), False, (0,), partial(_load, files[name])) for name in sorted(photos)
    ]
    return Dataset(root, "folder", items, (CLASS,), tuple(notes))


def _owner(stem: str, photos: dict[str, Path]) -> str | None:
    """The photo of a mask: of its name, or of its name before _NUMBER or _mask."""
    if stem in photos:
        return stem
    name, _, end = stem.rpartition("_")
    return name if name in photos and (end.isdecimal() or end == "mask") else None


def _load(files: Sequence[Path]) -> list[DatasetObject]:
    if len(files) > 1:
        return [DatasetObject(i, CLASS, {0: PictureMask(path, None)}) for i, path in enumerate(files, 1)]
    objects = []
    for path in files:
        values = set(values_of(read_picture(path))) - {0}
        if values <= {VOID}:
            return [DatasetObject(1, CLASS, {0: PictureMask(path, None)})]
        objects += [DatasetObject(i, CLASS, {0: PictureMask(path, i)}) for i in sorted(values - {VOID})]
    return objects

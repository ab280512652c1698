"""Videos as folders of frames and folders of masks: DAVIS, YouTube-VOS, MOSE, LVOS, SA-V. Reading.

    JPEGImages/SEQUENCE/00000.jpg   Annotations/SEQUENCE/00000.png          object numbers as pixel values
    JPEGImages_24fps/...            Annotations_6fps/SEQUENCE/000/00000.png  SA-V: a folder for each object

DAVIS has a folder of the resolution in between. YouTube-VOS and MOSE name classes in meta.json.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..frames.source import VideoError, numbered_images
from ..text import some
from .davis import RESOLUTIONS
from .frames import FileFrames
from .hostile import entries, read_json
from .items import CLASS, Dataset, DatasetError, DatasetObject, Item
from .masks import PictureMask, read_picture
from .pictures import VOID, values_of

FORMATS = ("davis", "ytvos", "mose", "lvos", "sav")
FOLDERS = [("JPEGImages_24fps", "Annotations_6fps"), *((f"JPEGImages/{r}", f"Annotations/{r}") for r in RESOLUTIONS)]
SPLITS = ("train", "valid", "val", "test", "sav_val", "sav_test")
META = ("meta.json", "meta_train.json", "meta_valid.json", "train_meta.json", "valid_meta.json")
LISTS = ("{}.txt", "sav_{}.txt", "ImageSets/{}.txt", "ImageSets/2017/{}.txt", "ImageSets/2016/{}.txt")


def recognise(root: Path) -> str | None:
    """The format of a folder: one of ``FORMATS``, or None."""
    for frames, masks in FOLDERS:
        if (root / masks).is_dir() and any(entry.is_dir() for entry in entries(root / masks)):
            if frames.endswith("24fps"):
                return "sav"
            if not (root / frames).is_dir():
                continue
            if frames == "JPEGImages/" and any((root / name).is_file() for name in META):
                return "ytvos"
            return "davis"
    return None


def read_sequences(root: Path, format_name: str, split: str | None = None) -> Dataset:
    """Open a data set of sequences. Masks are read when an item's objects are asked for.

    Args:
        split: the name of a list of sequences, such as "val" of ImageSets/2017/val.txt; else all with annotations.

    Raises:
        DatasetError: there is no such data set, or it lacks a sequence.
    """
    found = [pair for pair in FOLDERS if (root / pair[0]).is_dir() and (root / pair[1]).is_dir()]
    if not found:
        inner = some(name for name in SPLITS if (root / name / "JPEGImages").is_dir())
        hint = f"; give one of its parts: {inner}" if inner else ""
        raise DatasetError(f"{root} has no JPEGImages/SEQUENCE/*.jpg and Annotations/SEQUENCE/*.png{hint}")
    frames, masks = (root / name for name in found[0])
    names = _listed(root, split) if split else [entry.name for entry in entries(masks) if entry.is_dir()]
    if not names:
        raise DatasetError(f"{root} holds no sequence with annotations")
    classes = _classes(root)
    items = [_item(name, frames / name, masks / name, classes.get(name, {})) for name in names]
    used = sorted({name for objects in classes.values() for name in objects.values()})
    return Dataset(root, format_name, items, tuple(used) or (CLASS,))


def _listed(root: Path, split: str) -> list[str]:
    for form in LISTS:
        path = root / form.format(split)
        if path.is_file():
            return list(dict.fromkeys(path.read_text(encoding="utf-8", errors="replace").split()))
    raise DatasetError(f"{root} has no list of the split {split!r}: {', '.join(LISTS).format(*[split] * len(LISTS))}")


def _classes(root: Path) -> dict[str, dict[int, str]]:
    """Sequence -> object -> class name, of meta.json."""
    classes: dict[str, dict[int, str]] = {}
    for path in (root / name for name in META):
        if not path.is_file():
            continue
        value = read_json(path)
        videos = value.get("videos") if isinstance(value, dict) else None
        for name, video in videos.items() if isinstance(videos, dict) else ():
            objects = video.get("objects") if isinstance(video, dict) else None
            for key, entry in objects.items() if isinstance(objects, dict) else ():
                category = entry.get("category") if isinstance(entry, dict) else None
                if key.isascii() and key.isdecimal() and len(key) < 10 and isinstance(category, str):
                    classes.setdefault(name, {})[int(key)] = category
    return classes


def _item(name: str, frames: Path, masks: Path, classes: dict[int, str]) -> Item:
    for folder in (frames, masks):
        if not folder.is_dir():
            raise DatasetError(f"sequence {name!r} is incomplete: there is no folder {folder}")
    try:
        paths = numbered_images(frames)
    except VideoError as error:
        raise DatasetError(str(error)) from None
    index = {path.stem: i for i, path in enumerate(paths)}
    inner = entries(masks)
    objects = [(int(entry.name), masks / entry.name) for entry in inner if entry.name.isdecimal() and entry.is_dir()]
    pictures: dict[int, dict[int, Path]] = defaultdict(dict)  # frame -> object, or 0 for all -> file
    load: Callable[[], Sequence[DatasetObject]]
    if objects:
        for obj, folder in objects:
            for i, path in _pictures(folder, index, name).items():
                pictures[i][obj] = path
        load = partial(_apart, pictures, classes)
    else:
        pictures.update({i: {0: path} for i, path in _pictures(masks, index, name).items()})
        load = partial(_together, pictures, classes)
    return Item(name, FileFrames(paths, folder=frames), True, tuple(sorted(pictures)), load)


def _pictures(folder: Path, index: dict[str, int], name: str) -> dict[int, Path]:
    """Frame -> its mask picture in a folder."""
    paths = [folder / entry.name for entry in entries(folder) if entry.name.lower().endswith(".png")]
    strange = [path.name for path in paths if path.stem not in index]
    if strange:
        raise DatasetError(f"sequence {name!r}: {some(strange)} in {folder} have no frame of that name")
    return {index[path.stem]: path for path in paths}


def _apart(pictures: dict[int, dict[int, Path]], classes: dict[int, str]) -> list[DatasetObject]:
    """A picture for each object and frame; black where it is absent."""
    masks: dict[int, dict[int, Any]] = defaultdict(dict)
    for i, found in sorted(pictures.items()):
        for obj, path in found.items():
            masks[obj][i] = PictureMask(path, None)
    return [DatasetObject(obj, classes.get(obj, CLASS), masks[obj]) for obj in masks]


def _together(pictures: dict[int, dict[int, Path]], classes: dict[int, str]) -> list[DatasetObject]:
    """A picture for each frame. Values 0 and 255 alone in all of them are object 1, else 255 is void."""
    values = {i: set(values_of(read_picture(found[0]))) for i, found in sorted(pictures.items())}
    is_binary = set().union(*values.values()) <= {0, VOID}
    masks: dict[int, dict[int, Any]] = defaultdict(dict)
    for i, found in values.items():
        for value in found - {0}:
            if is_binary:
                masks[1][i] = PictureMask(pictures[i][0], None)
            elif value != VOID:
                masks[value][i] = PictureMask(pictures[i][0], value)
    return [DatasetObject(obj, classes.get(obj, CLASS), masks[obj]) for obj in masks]

"""PASCAL VOC's segmentation: pictures of object numbers and of classes, and XML with each object's class and box.

    JPEGImages/N.jpg  Annotations/N.xml  SegmentationObject/N.png  SegmentationClass/N.png  ImageSets/Segmentation/S.txt

("The PASCAL VOC Challenge 2012 Development Kit"). Value i of the object picture is object i of the XML; 255 is void.
labelmap.txt names the classes' colours, as CVAT and datumaro have it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from ..files import make_folder
from ..frames.sinks import davis_palette
from ..masks.boxes import mask_to_box
from .frames import PHOTOS, FileFrames, Frames, NoFrames
from .hostile import entries, read_text, read_xml
from .items import CLASS, Dataset, DatasetError, DatasetObject, Item
from .masks import PictureMask, read_picture
from .pictures import VOID, values_of
from .writing import MAX_INDEX, Writer, renumbered, save_indexed

OBJECTS, CLASSES, BOXES, PHOTOS_FOLDER = "SegmentationObject", "SegmentationClass", "Annotations", "JPEGImages"
MAX_XML = 64 << 20  # bytes of the annotation of one photo

# ---- reading


def recognise(root: Path) -> bool:
    return (root / OBJECTS).is_dir()


def read_voc(root: Path, split: str | None = None) -> Dataset:
    """Open a VOC data set. Pictures and XML are read when an item's objects are asked for.

    Args:
        split: of ImageSets/Segmentation, such as "train"; else all that has a picture of objects.

    Raises:
        DatasetError: it is none, or has no such split.
    """
    if not recognise(root):
        raise DatasetError(f"{root} has no folder {OBJECTS}: objects of PASCAL VOC are told apart by its pictures")
    names = [Path(e.name).stem for e in entries(root / OBJECTS) if e.name.lower().endswith(".png")]
    if split is not None:
        names = read_text(root / f"ImageSets/Segmentation/{split}.txt", 64 << 20).split("\n")
        names = [name.strip() for name in names if name.strip()]
    photos_folder = root / PHOTOS_FOLDER
    found = entries(photos_folder) if photos_folder.is_dir() else []
    photos = {Path(e.name).stem: photos_folder / e.name for e in found if Path(e.name).suffix.lower() in PHOTOS}
    items = []
    for name in names:
        picture = root / OBJECTS / f"{name}.png"
        if "/" in name or not picture.is_file():
            raise DatasetError(f"{root}: there is no picture {OBJECTS}/{name}.png")
        frames: Frames = FileFrames([photos[name]]) if name in photos else _NoPhoto(picture)
        items.append(Item(name, frames, False, (0,), partial(_load, picture, root / BOXES / f"{name}.xml")))
    return Dataset(root, "voc", items, _labels(root) or (CLASS,))


class _NoPhoto(NoFrames):
    """The photo is missing; its masks have its size."""

    def __init__(self, picture: Path) -> None:
        super().__init__(1, (0, 0), [picture.stem])
        self._picture = picture

    @property
    def size(self) -> tuple[int, int]:
        height, width = read_picture(self._picture).shape
        return height, width


def _labels(root: Path) -> tuple[str, ...]:
    """The classes of labelmap.txt, without the background."""
    path = root / "labelmap.txt"
    if not path.is_file():
        return ()
    lines = [line for line in read_text(path, 1 << 20).splitlines() if line.strip() and not line.startswith("#")]
    return tuple(name for name in (line.rsplit(":", 3)[0] for line in lines) if name != "background")


def _load(picture: Path, boxes: Path) -> list[DatasetObject]:
    names: list[str] = []
    if boxes.is_file():
        names = [entry.findtext("name") or CLASS for entry in read_xml(boxes, MAX_XML).iter("object")]
    objects = []
    for value in values_of(read_picture(picture)):
        if value not in (0, VOID):
            name = names[value - 1] if value <= len(names) else CLASS
            objects.append(DatasetObject(value, name, {0: PictureMask(picture, value)}))
    return objects


# ---- writing


class VocWriter(Writer):
    """Photos, pictures of objects and classes, boxes, and one list, train."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._written: list[str] = []

    def add(self, item: Item) -> None:
        numbered = renumbered(item, MAX_INDEX, self.lost)
        self.lose_scores(numbered)
        for name, i in self.parts(item, flat=True):
            suffix = self.copy_frame(item, i, self.out / PHOTOS_FOLDER / name)
            here = [found for found in numbered if i in found.masks]
            # Value i is the XML's object i, so numbers have no gaps.
            values = {found.id: value for value, found in enumerate(here, 1)}
            if any(found.id != value for value, found in enumerate(here, 1)):
                self.lost["objects that got another number"] += len(here)
            indices = self.indexed({found.id: found.masks[i] for found in here}, values, item.size)
            classes = np.zeros(VOID + 1, np.uint8)
            for found in here:
                classes[values[found.id]] = self._class_value(found.class_name)
            save_indexed(self.out / OBJECTS / f"{name}.png", indices)
            save_indexed(self.out / CLASSES / f"{name}.png", classes[indices])
            self._write_boxes(name, suffix, item.size, here, indices)
            self._written.append(name)

    def _class_value(self, name: str) -> int:
        value = self.class_number(name) + 1
        if value > MAX_INDEX:
            raise DatasetError(f"PASCAL VOC has room for {MAX_INDEX} classes, and {name!r} is one more")
        return value

    def _write_boxes(
        self, name: str, suffix: str, size: tuple[int, int], here: list[DatasetObject], indices: np.ndarray
    ) -> None:
        root = Element("annotation")
        SubElement(root, "folder").text = PHOTOS_FOLDER
        SubElement(root, "filename").text = f"{name}{suffix}"
        shape = SubElement(root, "size")
        for tag, value in (("width", size[1]), ("height", size[0]), ("depth", 3)):
            SubElement(shape, tag).text = str(value)
        SubElement(root, "segmented").text = "1"
        for value, found in enumerate(here, 1):
            entry = SubElement(root, "object")
            SubElement(entry, "name").text = xml_text(found.class_name)
            for tag, text in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
                SubElement(entry, tag).text = text
            box = SubElement(entry, "bndbox")
            inside = indices == value
            corners = [c + 1 for c in mask_to_box(inside)] if inside.any() else [1, 1, 1, 1]  # VOC counts from 1
            if not inside.any():
                self.lost["empty masks: their class is kept, with a box of one pixel"] += 1
            for tag, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                SubElement(box, tag).text = str(corner)
        indent(root)
        path = self.out / BOXES / f"{name}.xml"
        make_folder(path.parent)
        ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)

    def finish(self) -> None:
        for folder in (PHOTOS_FOLDER, BOXES, OBJECTS, CLASSES):
            make_folder(self.out / folder)
        listed = self.out / "ImageSets/Segmentation/train.txt"
        make_folder(listed.parent)
        listed.write_text("".join(f"{name}\n" for name in self._written), encoding="utf-8")
        palette = np.reshape(davis_palette(), (-1, 3)).tolist()
        lines = [f"{label}:{','.join(map(str, palette[i]))}::" for i, label in enumerate(["background", *self.classes])]
        if any(":" in name or "\n" in name for name in self.classes):
            self.lost["class names with a colon, in labelmap.txt"] += 1
        text = "\n".join(["# label:color_rgb:parts:actions", *lines]) + "\n"
        (self.out / "labelmap.txt").write_text(text, encoding="utf-8")


def xml_text(text: str) -> str:
    """Text without the characters that XML has no room for."""
    return "".join(c if c in "\t\n\r" or "\x20" <= c <= "\ud7ff" or c >= "\ue000" else "\ufffd" for c in text)

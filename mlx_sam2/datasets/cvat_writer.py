"""CVAT's XML 1.1 for photos and for videos. Writing. ``cvat`` says where it is defined."""

from __future__ import annotations

import re
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from ..masks.boxes import mask_to_box
from ..masks.rle import mask_to_rle
from .items import DatasetError, DatasetObject, Item
from .masks import Mask
from .voc import xml_text
from .writing import Writer, decoded, one_outline, outlines

NAME = "annotations.xml"  # of photos, in a folder; a video's bears its name


class CvatWriter(Writer):
    """Photos go into one file, each video into its own, as CVAT has a task for each.

    Masks stay masks. With outlines wanted, a tracked object is a track, which CVAT can show as one.
    """

    takes_file, suffix = True, ".xml"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._images: list[Element] = []
        self._tasks = 0

    def add(self, item: Item) -> None:
        if item.is_video:
            self._add_video(item)
            return
        name = self.unique(item.name)
        suffix = self.copy_frame(item, 0, self.out / "images" / name)
        self.lose_scores(item.objects)
        image = Element("image", id=str(len(self._images)), name=f"{xml_text(name)}{suffix}")
        image.set("width", str(item.size[1]))
        image.set("height", str(item.size[0]))
        for found in item.objects:
            if 0 in found.masks:
                label = xml_text(found.class_name)
                self.class_number(found.class_name)
                shapes = self._shapes(found.masks[0], item.size)
                for shape in shapes:
                    shape.set("label", label)
                    shape.set("source", "auto" if self.options.predictions else "manual")
                    shape.set("z_order", "0")
                    if len(shapes) > 1:
                        shape.set("group_id", str(found.id + 1))  # 0 is no group
                image.extend(shapes)
        self._images.append(image)

    def _shapes(self, mask: Mask, size: tuple[int, int]) -> list[Element]:
        """A mask, or its polygons."""
        if self.options.polygons or mask.polygons is not None:
            found = [p for p in outlines(mask, self.options.tolerance) if len(p) >= 6]
            return [_polygon(points) for points in found]
        inside = decoded(mask, size)
        if not inside.any():
            self.lost["empty masks"] += 1
            return []
        return [_mask(inside)]

    def _add_video(self, item: Item) -> None:
        name = self.unique(item.name, flat=True)
        if self.is_file and (self._tasks or self._images):
            raise DatasetError("CVAT has a file for each video: give a folder instead of one file")
        self._tasks += 1
        for i in range(item.num_frames):
            self.copy_frame(item, i, self.out / "images" / name / f"frame_{i:06d}")
        self.lose_scores(item.objects)
        if len(item.keyframes) < item.num_frames:
            self.lost["which frames are annotated: CVAT takes an object as absent on the others"] += 1
        root = Element("annotations")
        labels = {found.class_name: None for found in item.objects}
        for label in labels:
            self.class_number(label)
        _meta(root, name, item.num_frames, labels, item.size)
        number = 0
        for found in item.objects:
            tracks = self._polygon_tracks(item, found) if self.options.polygons else self._mask_tracks(item, found)
            for track in tracks:
                track.set("id", str(number))
                number += 1
            root.extend(tracks)
        if not self.options.polygons and item.objects and len(item.keyframes) > 1:
            self.lost[
                "tracks of masks: CVAT shows a mask on each frame, grouped by object (--polygons makes tracks)"
            ] += 1
        self._save(root, self.out if self.is_file else self.out / f"{name}.xml")

    def _mask_tracks(self, item: Item, found: DatasetObject) -> list[Element]:
        """A track for each frame, which ends on the next one; the group is the object."""
        tracks = []
        for i, mask in sorted(found.masks.items()):
            inside = decoded(mask, item.size)
            if not inside.any():
                continue
            track = self._track(found)
            track.set("group_id", str(found.id + 1))
            for frame in (i, i + 1) if i + 1 < item.num_frames else (i,):
                track.append(_on_frame(_mask(inside), frame, outside=frame > i))
            tracks.append(track)
        return tracks

    def _polygon_tracks(self, item: Item, found: DatasetObject) -> list[Element]:
        """One track: a polygon for each frame, parts joined, and outside where the object is absent."""
        track, last = self._track(found), None
        for i in range(item.num_frames):
            points = one_outline(found.masks[i], item.size, self.options.tolerance) if i in found.masks else []
            if points:
                track.append(_on_frame(_polygon(points), i, outside=False))
            elif last:
                track.append(_on_frame(_polygon(last), i, outside=True))
            last = points
        return [track] if len(track) else []

    def _track(self, found: DatasetObject) -> Element:
        source = "auto" if self.options.predictions else "manual"
        return Element("track", label=xml_text(found.class_name), source=source)

    def finish(self) -> None:
        if self._images or not self._tasks:
            root = Element("annotations")
            _meta(root, "photos", len(self._images), self.classes, None)
            root.extend(self._images)
            self._save(root, self.out if self.is_file else self.out / NAME)

    def _save(self, root: Element, path: Any) -> None:
        indent(root)
        ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _meta(root: Element, name: str, count: int, labels: Any, size: tuple[int, int] | None) -> None:
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    for tag, text in (("name", name), ("size", count), ("mode", "annotation" if size is None else "interpolation")):
        SubElement(task, tag).text = xml_text(str(text))
    for tag, text in (("start_frame", 0), ("stop_frame", max(count - 1, 0)), ("overlap", 0)):
        SubElement(task, tag).text = str(text)
    found = SubElement(task, "labels")
    for label in labels:
        entry = SubElement(found, "label")
        SubElement(entry, "name").text = xml_text(label)
        SubElement(entry, "attributes")
    if size is not None:
        shape = SubElement(task, "original_size")
        SubElement(shape, "width").text, SubElement(shape, "height").text = str(size[1]), str(size[0])


def _polygon(points: Any) -> Element:
    pairs = zip(points[::2], points[1::2], strict=True)
    return Element("polygon", occluded="0", points=";".join(f"{_decimal(x)},{_decimal(y)}" for x, y in pairs))


def _decimal(value: float) -> str:
    """Two decimals, as CVAT writes them; more where they are needed."""
    text = f"{value:.2f}"
    return text if abs(float(text) - value) < 1e-9 else re.sub(r"0+$", "", f"{value:.6f}")


def _mask(inside: np.ndarray) -> Element:
    """A mask with a pixel at least."""
    x0, y0, x1, y1 = mask_to_box(inside)
    counts = mask_to_rle(inside[y0 : y1 + 1, x0 : x1 + 1].T, compressed=False)["counts"]
    shape = Element("mask", occluded="0", rle=", ".join(map(str, counts)), left=str(x0), top=str(y0))
    shape.set("width", str(x1 - x0 + 1))
    shape.set("height", str(y1 - y0 + 1))
    return shape


def _on_frame(shape: Element, frame: int, outside: bool) -> Element:
    for name, value in (("frame", frame), ("keyframe", 1), ("outside", int(outside)), ("z_order", 0)):
        shape.set(name, str(value))
    return shape

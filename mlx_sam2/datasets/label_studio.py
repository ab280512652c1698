"""Label Studio's JSON: tasks with brush and polygon regions.

A list of tasks {"data": {"image": ...}, "annotations" or "predictions": [{"result": [region, ...]}]}
(labelstud.io/guide/task_format). A brush's value is {"format": "rle", "rle": [...]}, see ``brush``; a polygon's has
points in hundredths of width and height.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from ..text import brief, shown
from .brush import decode_brush, encode_brush
from .coco import unique_items
from .frames import FileFrames, Frames, NoFrames
from .hostile import inside, is_number, need
from .items import CLASS, Dataset, DatasetError, DatasetObject, Item
from .masks import LazyMask, Mask, PolygonMask
from .pictures import picture_size
from .voc import xml_text
from .writing import Writer, decoded, one_outline

NAME, CONFIG = "tasks.json", "label_config.xml"
BRUSHES, POLYGONS = ("brushlabels", "brush"), ("polygonlabels", "polygon")
Json = dict[str, Any]

# ---- reading


def is_tasks(value: Any) -> bool:
    """Whether a JSON value is a list of tasks."""
    first = value[0] if isinstance(value, list) and value else None
    return isinstance(first, dict) and "data" in first and ("annotations" in first or "predictions" in first)


def read_label_studio(path: Path, value: Any, photos: Path | None = None) -> Dataset:
    """Open tasks whose JSON has been read. Of several annotations of a task the first is taken, else a prediction.

    Args:
        photos: the folder of the photos; else they are looked for beside the file, and in images/.

    Raises:
        DatasetError: a task is damaged.
    """
    items, classes, several = [], {}, 0
    for number, task in enumerate(need(value, list, f"{path}: the tasks")):
        where = f"{path}, task {number}"
        name = _image_name(need(need(task, dict, where).get("data"), dict, f"{where}: data"), where)
        regions, others = _regions(task, where)
        several += others
        labels = {key: label for key, (label, _) in regions.items()}
        classes.update(dict.fromkeys(labels.values()))
        frames = _frames(path, name, photos, regions, where)
        stem = name[: len(name) - len(Path(name).suffix)].removeprefix("images/")
        items.append(Item(stem, frames, False, (0,), partial(_load, regions, where)))
    notes = [f"{path}: annotations of tasks beyond the first one are left out: {several}"] if several else []
    return Dataset(path, "label-studio", unique_items(items), tuple(classes) or (CLASS,), tuple(notes))


def _image_name(data: Json, where: str) -> str:
    """The relative path of a task's photo: of a local file, an upload, or the end of an address."""
    texts = [data.get("image"), *data.values()]
    text = next((text for text in texts if isinstance(text, str) and text), None)
    if text is None:
        raise DatasetError(f"{where} has no image")
    try:
        address = urlsplit(text)
    except ValueError:  # no address of an IPv6 machine, say
        raise DatasetError(f"{where}: {shown(text)!r} is no address of an image") from None
    local = parse_qs(address.query).get("d")
    path = local[0] if local else unquote(address.path)
    if address.scheme or path.startswith("/data/upload") or (path.startswith("/") and not local):
        path = path.rpartition("/")[2]
    return inside(path.lstrip("/"), where)


def _regions(task: Json, where: str) -> tuple[dict[str, tuple[str, Json]], int]:
    """Region id -> its label and its region with a shape; and how many annotations are left out."""
    found, guessed = (
        [entry for entry in need(task.get(name) or [], list, f"{where}: {name}") if isinstance(entry, dict)]
        for name in ("annotations", "predictions")
    )
    found = [entry for entry in found if not entry.get("was_cancelled")] or guessed[:1]
    labels: dict[str, str] = {}
    shapes: dict[str, Json] = {}
    for number, region in enumerate(need(found[0].get("result", []), list, f"{where}: result") if found else []):
        value = need(region, dict, f"{where}: a region").get("value")
        if not isinstance(value, dict):
            continue
        kind, key = str(region.get("type", "")).lower(), str(region.get("id", number))
        label = value.get(kind) or value.get("labels")
        if isinstance(label, list) and label and isinstance(label[0], str):
            labels[key] = label[0]
        if kind in (*BRUSHES, *POLYGONS):
            shapes[key] = {**region, "type": kind}
    return {key: (labels.get(key, CLASS), shape) for key, shape in shapes.items()}, max(len(found) - 1, 0)


def _frames(path: Path, name: str, photos: Path | None, regions: dict[str, tuple[str, Json]], where: str) -> Frames:
    places = [photos] if photos else [path.parent, path.parent / "images"]
    files = [place / inner for place in places for inner in (name, Path(name).name)]
    file = next((file for file in files if file.is_file()), None)
    stated = next((_size(region, where) for _, region in regions.values()), None)
    if file is not None:
        return FileFrames([file], stated or picture_size(file))
    return NoFrames(1, stated or (1, 1), [Path(name).stem])


def _size(region: Json, where: str) -> tuple[int, int]:
    height, width = region.get("original_height"), region.get("original_width")
    if type(height) is not int or type(width) is not int or not (0 < height < 1 << 16 and 0 < width < 1 << 16):
        raise DatasetError(f"{where}: a region of {brief(width)} x {brief(height)} pixels")
    return height, width


def _load(regions: dict[str, tuple[str, Json]], where: str) -> list[DatasetObject]:
    objects = []
    for number, (key, (label, region)) in enumerate(regions.items(), 1):
        place = f"{where}, region {brief(key)}"
        score = region.get("score")
        scores = {0: float(score)} if is_number(score) else {}
        objects.append(DatasetObject(number, label, {0: _mask(region, _size(region, place), place)}, scores))
    return objects


def _mask(region: Json, size: tuple[int, int], where: str) -> Mask:
    value = region["value"]
    if region["type"] in BRUSHES:
        code = need(value.get("rle"), list, f"{where}: rle")
        return LazyMask(size, partial(decode_brush, code, size), where)
    points = need(value.get("points"), list, f"{where}: points")
    height, width = size
    polygon = []
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(map(is_number, point)):
            raise DatasetError(f"{where}: a corner must be two numbers, got {brief(point)}")
        polygon += [point[0] * width / 100, point[1] * height / 100]
    return PolygonMask([polygon], size, where)


# ---- writing


class LabelStudioWriter(Writer):
    """Tasks; in a folder also photos, and label_config.xml for the project's labelling interface.

    In a folder, tasks name photos as Label Studio's local files do: /data/local-files/?d=images/NAME.
    """

    takes_file, suffix = True, ".json"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._tasks: list[Json] = []

    def add(self, item: Item) -> None:
        for part in self.parts(item):
            suffix = self.copy_frame(item, part.index, self.out / "images" / part.name)
            here = [found for found in item.objects if part.index in found.masks]
            result = [self._region(item, found, part.index) for found in here]
            regions = {"result": result}
            if self.options.predictions:
                scores = [found.scores[part.index] for found in here if part.index in found.scores]
                regions |= {"model_version": "mlx_sam2", "score": sum(scores) / len(scores)} if scores else {}
            image = f"/data/local-files/?d=images/{part.name}{suffix}"
            kind = "predictions" if self.options.predictions else "annotations"
            self._tasks.append({"data": {"image": image}, kind: [regions]})

    def _region(self, item: Item, found: DatasetObject, i: int) -> Json:
        (height, width), mask = item.size, found.masks[i]
        self.class_number(found.class_name)
        fields: Json = {"id": str(found.id), "to_name": "image", "original_width": width, "original_height": height}
        fields["image_rotation"] = 0
        if i in found.scores:
            fields["score"] = found.scores[i]
        outline: Sequence[float] = ()
        if self.options.polygons or mask.polygons is not None:
            outline = one_outline(mask, item.size, self.options.tolerance)
        if outline:
            points = [[100 * x / width, 100 * y / height] for x, y in zip(outline[::2], outline[1::2], strict=True)]
            value = {"points": points, "closed": True, "polygonlabels": [found.class_name]}
            return {**fields, "type": "polygonlabels", "from_name": "polygon", "value": value}
        value = {"format": "rle", "rle": encode_brush(decoded(mask, item.size)), "brushlabels": [found.class_name]}
        return {**fields, "type": "brushlabels", "from_name": "brush", "value": value}

    def finish(self) -> None:
        path = self.out if self.is_file else self.out / NAME
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self._tasks, file, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if self.is_file:
            return
        view = Element("View")
        SubElement(view, "Image", name="image", value="$image", zoom="true")
        for tag, name in (("BrushLabels", "brush"), ("PolygonLabels", "polygon")):
            labels = SubElement(view, tag, name=name, toName="image")
            for klass in self.classes or {CLASS: 0}:
                SubElement(labels, "Label", value=xml_text(klass))
        indent(view)
        ElementTree(view).write(self.out / CONFIG, encoding="utf-8")

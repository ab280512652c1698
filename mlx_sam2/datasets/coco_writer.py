"""COCO's JSON: instances, LVIS, and videos as YouTube-VIS has them. Writing. ``coco`` says where they are defined."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ..files import make_folder
from ..masks.rle import rle_area, rle_to_bbox
from .items import Item
from .masks import Mask
from .writing import Writer, outlines

NAME = "annotations/instances.json"  # in a folder, beside images/


class _JsonWriter(Writer):
    takes_file, suffix = True, ".json"

    def finish(self) -> None:
        path = self.out if self.is_file else self.out / NAME
        make_folder(path.parent)
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self._value(), file, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    def _value(self) -> Any:
        raise NotImplementedError

    def _categories(self) -> list[dict[str, Any]]:
        return [{"id": i + 1, "name": name, "supercategory": ""} for name, i in self.classes.items()]

    def _shape(self, mask: Mask) -> dict[str, Any]:
        """The fields of a mask: as polygons where it is polygons or these are wanted, else run lengths."""
        rle = mask.rle()
        fields = {"segmentation": rle, "area": rle_area(rle), "bbox": rle_to_bbox(rle)}
        if self.options.polygons or mask.polygons is not None:
            polygons = [list(p) for p in outlines(mask, self.options.tolerance) if len(p) >= 6]
            if polygons:
                fields["segmentation"] = polygons
        return fields


class CocoWriter(_JsonWriter):
    """Instances of photos. Annotated frames of videos become photos; `track_id` keeps their objects apart."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, item: Item) -> None:
        height, width = item.size
        first = {found.id: len(self._annotations) + k for k, found in enumerate(item.objects, 1)}
        for part in self.parts(item):
            suffix = self.copy_frame(item, part.index, self.out / "images" / part.name)
            file_name = f"{part.name}{suffix}"
            image = {"id": len(self._images) + 1, "file_name": file_name, "height": height, "width": width}
            self._images.append({**image, **self._image_fields(file_name)})
            for found in item.objects:
                if part.index not in found.masks:
                    continue
                entry = {"id": len(self._annotations) + 1, "image_id": image["id"]}
                entry["category_id"] = self.class_number(found.class_name) + 1
                entry |= {"object_id": found.id, "iscrowd": int(found.crowd), **self._shape(found.masks[part.index])}
                if item.is_video:
                    entry["track_id"] = first[found.id]
                if part.index in found.scores:
                    entry["score"] = found.scores[part.index]
                self._annotations.append(entry)

    def _image_fields(self, file_name: str) -> dict[str, Any]:
        return {}

    def _value(self) -> Any:
        return {"images": self._images, "annotations": self._annotations, "categories": self._categories()}


class LvisWriter(CocoWriter):
    """LVIS: COCO's instances, and for each photo which classes were not looked for: none."""

    def _image_fields(self, file_name: str) -> dict[str, Any]:
        return {"coco_url": f"file:///{file_name}", "neg_category_ids": [], "not_exhaustive_category_ids": []}

    def _categories(self) -> list[dict[str, Any]]:
        instances = Counter(entry["category_id"] for entry in self._annotations)
        photos = Counter(key for key, _ in {(entry["category_id"], entry["image_id"]) for entry in self._annotations})
        return [
            {
                "id": i,
                "name": name,
                "synset": "",
                "synonyms": [name],
                "def": "",
                "frequency": "r" if photos[i] <= 10 else "c" if photos[i] <= 100 else "f",  # rare, common, frequent
                "image_count": photos[i],
                "instance_count": instances[i],
            }
            for name, i in ((name, i + 1) for name, i in self.classes.items())
        ]


class CocoVideoWriter(_JsonWriter):
    """Videos of their annotated frames; a photo is a video of one frame. A video's score is its frames' mean."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._videos: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, item: Item) -> None:
        (height, width), name = item.size, self.unique(item.name)
        if len(item.keyframes) < item.num_frames:
            self.lost["frames without annotation"] += item.num_frames - len(item.keyframes)
        files = []
        for i in item.keyframes:
            frame = f"{name}/{item.frames.name(i) if item.is_video else '00000'}"
            suffix = self.copy_frame(item, i, self.out / "images" / frame)
            files.append(f"{frame}{suffix}")
        number = len(self._videos) + 1
        video = {"id": number, "name": name, "file_names": files, "length": len(files)}
        self._videos.append({**video, "height": height, "width": width})
        for found in item.objects:
            shapes = [self._shape(found.masks[i]) if i in found.masks else {} for i in item.keyframes]
            entry = {"id": len(self._annotations) + 1, "video_id": number, "iscrowd": int(found.crowd)}
            entry["object_id"] = found.id
            entry |= {"category_id": self.class_number(found.class_name) + 1, "height": height, "width": width}
            entry["length"] = len(files)
            for plural, field in (("segmentations", "segmentation"), ("areas", "area"), ("bboxes", "bbox")):
                entry[plural] = [shape.get(field) for shape in shapes]
            if found.scores:
                entry["score"] = sum(found.scores.values()) / len(found.scores)
                if len(found.scores) > 1:
                    self.lost["scores of single frames: their mean is kept"] += 1
            self._annotations.append(entry)

    def _value(self) -> Any:
        return {"videos": self._videos, "annotations": self._annotations, "categories": self._categories()}

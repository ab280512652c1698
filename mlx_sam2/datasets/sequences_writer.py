"""Videos as folders of frames and folders of masks: DAVIS, and SA-V with a folder for each object. Writing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..files import make_folder
from .items import CLASS, Item
from .writing import MAX_INDEX, Writer, decoded, renumbered, save_indexed


class _SequenceWriter(Writer):
    frames, annotations = "", ""
    lists: tuple[str, ...] = ()
    most: int | None = None  # the highest number of an object

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._videos: dict[str, dict[str, Any]] = {}

    def add(self, item: Item) -> None:
        name = self.unique(item.name, flat=True)
        for i in range(item.num_frames):
            self.copy_frame(item, i, self.out / self.frames / name / self._frame(item, i), (".jpg", ".jpeg"))
        self._objects = self._numbered(item)
        self.lose_scores(self._objects)
        make_folder(self.out / self.annotations / name)
        for i in item.keyframes:
            self._write_masks(item, i, name)
        named = {str(found.id): {"category": found.class_name} for found in self._objects}
        self._videos[name] = {"objects": named}
        if any(found.class_name != CLASS for found in self._objects):
            self.lost["class names: meta.json has them, as of YouTube-VOS, which not all readers read"] += 1

    def _numbered(self, item: Item) -> list[Any]:
        return renumbered(item, self.most, self.lost)

    def _frame(self, item: Item, i: int) -> str:
        return item.frames.name(i) if item.is_video else "00000"

    def _write_masks(self, item: Item, i: int, name: str) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        for path in (self.out / name for name in self.lists):
            make_folder(path.parent)
            path.write_text("".join(f"{name}\n" for name in self._videos), encoding="utf-8")
        (self.out / "meta.json").write_text(json.dumps({"videos": self._videos}, ensure_ascii=False), encoding="utf-8")


class DavisWriter(_SequenceWriter):
    """An indexed picture for each frame. The folder is called 480p, where DAVIS' tools look, whatever the size."""

    frames, annotations = "JPEGImages/480p", "Annotations/480p"
    lists = ("ImageSets/2017/train.txt", "ImageSets/2017/val.txt")
    most = MAX_INDEX

    def _write_masks(self, item: Item, i: int, name: str) -> None:
        masks = {found.id: found.masks[i] for found in self._objects if i in found.masks}
        indices = self.indexed(masks, {obj: obj for obj in masks}, item.size)
        save_indexed(self.out / self.annotations / name / f"{self._frame(item, i)}.png", indices)


class SavWriter(_SequenceWriter):
    """A picture for each frame and object, black where it is absent. Objects may overlap."""

    frames, annotations = "JPEGImages_24fps", "Annotations_6fps"
    lists = ("sav_val.txt",)

    def _numbered(self, item: Item) -> list[Any]:
        if not item.objects:
            self.lost["which frames of a video without objects are annotated"] += 1
        return list(item.objects)  # from 0 on

    def _write_masks(self, item: Item, i: int, name: str) -> None:
        for found in self._objects:
            mask = decoded(found.masks[i], item.size) if i in found.masks else np.zeros(item.size, bool)
            path = self.out / self.annotations / name / f"{found.id:03d}" / f"{self._frame(item, i)}.png"
            save_indexed(path, mask.astype(np.uint8))

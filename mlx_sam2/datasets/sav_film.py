"""SA-V's training videos: sav_000001.mp4 and sav_000001_manual.json or _auto.json. Reading.

"masklet" holds for each annotated frame a list of COCO run lengths, one an object; the frames are every fourth one of
24 frames a second (``sav_dataset`` of the official repository).
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

from .coco import rle_size_of
from .frames import FilmFrames, Frames, NoFrames
from .hostile import MAX_FRAMES, need
from .items import CLASS, Dataset, DatasetError, DatasetObject, Item
from .masks import RleMask

STEP = 4  # frames of the video from one annotated frame to the next


def is_masklets(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("masklet"), list) and "masklet_id" in value


def read_masklets(path: Path, value: dict[str, Any]) -> Dataset:
    """Open the annotation of one video whose JSON has been read; the video lies beside it.

    Raises:
        DatasetError: it is damaged.
    """
    where = str(path)
    ids = need(value.get("masklet_id"), list, f"{where}: masklet_id")
    found = need(value.get("masklet"), list, f"{where}: masklet")
    if not all(type(i) is int and i >= 0 for i in ids) or len({*ids}) != len(ids):
        raise DatasetError(f"{where}: masklet_id must be whole numbers that differ")
    if any(not isinstance(frame, list) or len(frame) != len(ids) for frame in found):
        raise DatasetError(f"{where}: each frame of masklet must have {len(ids)} masks")
    stated = {"height": value.get("video_height"), "width": value.get("video_width")}
    size = rle_size_of({key: int(n) if isinstance(n, float) and n == n // 1 else n for key, n in stated.items()}, where)
    count = value.get("video_frame_count")
    count = int(count) if type(count) in (int, float) and 0 < count < MAX_FRAMES else (len(found) - 1) * STEP + 1
    keyframes = tuple(i * STEP for i in range(len(found)) if i * STEP < count)
    name = re.sub(r"_(manual|auto)$", "", path.stem)
    film = path.with_name(f"{name}.mp4")
    frames: Frames = FilmFrames(film, count, size) if film.is_file() else NoFrames(count, size)
    notes = () if film.is_file() else (f"{path}: there is no {film.name} beside it: only the masks can be used",)
    item = Item(name, frames, True, keyframes, partial(_load, ids, found, keyframes, where))
    return Dataset(path, "sav", [item], (CLASS,), notes)


def _load(ids: list[int], found: list[list[Any]], keyframes: tuple[int, ...], where: str) -> list[DatasetObject]:
    objects = []
    for k, number in enumerate(ids):
        masks = {}
        for i, frame in zip(keyframes, found, strict=False):
            if frame[k]:
                masks[i] = RleMask(need(frame[k], dict, f"{where}: a mask"), f"{where}, object {number}, frame {i}")
        objects.append(DatasetObject(number, CLASS, masks))
    return objects

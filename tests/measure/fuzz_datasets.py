"""Good files of data sets, and what reads all of them: what ``fuzz_readers.py`` damages."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (24, 32)


def _items() -> list[Any]:
    from mlx_sam2.datasets import DatasetObject, Item, RleMask
    from mlx_sam2.datasets.frames import NoFrames
    from mlx_sam2.masks.rle import mask_to_rle

    def mask(at: int) -> Any:
        found = np.zeros(SIZE, bool)
        found[at : at + 8, at : at + 9] = True
        found[at + 2, at + 3] = False
        return RleMask(mask_to_rle(found))

    photo = [DatasetObject(1, "cup", {0: mask(2)}, {0: 0.5}), DatasetObject(2, "ö", {0: mask(11)})]
    film = [DatasetObject(1, "dog", {0: mask(1), 2: mask(4)}), DatasetObject(7, "cat", {1: mask(9)})]
    return [
        Item("a/photo", NoFrames(1, SIZE, ["photo"]), False, (0,), lambda: photo),
        Item("film", NoFrames(3, SIZE), True, (0, 1, 2), lambda: film),
    ]


def _written(formats: list[str], suffix: str) -> list[bytes]:
    """Each format as it is written, with run lengths and with outlines."""
    from mlx_sam2.datasets import WriteOptions, write_dataset

    found = []
    with tempfile.TemporaryDirectory() as name:
        for number, (kind, outlines) in enumerate((k, o) for k in formats for o in (False, True)):
            items = _items()[1:] if kind == "coco-video" else _items()[:1]
            path = Path(name) / f"{number}{suffix}"
            write_dataset(items, path, kind, options=WriteOptions(polygons=outlines, photos=False))
            found.append(path.read_bytes())
    return found


def dataset_seeds(folder: Path) -> list[bytes]:
    return _written(["coco", "coco-video", "lvis", "label-studio"], ".json")


def xml_seeds(folder: Path) -> list[bytes]:
    return _written(["cvat"], ".xml")


def mask_seeds(folder: Path) -> list[bytes]:
    found = []
    for mode in ("L", "P", "1", "I;16"):
        file = io.BytesIO()
        values = np.zeros(SIZE, np.uint16 if mode == "I;16" else np.uint8)
        values[3:9, 4:12], values[12:20, 5:9] = 1, 2
        Image.fromarray(values).convert(mode).save(file, format="PNG") if mode != "I;16" else Image.fromarray(
            values
        ).save(file, format="PNG")
        found.append(file.getvalue())
    return found


def read_dataset(path: Path) -> None:
    """All that a data set says: items, objects, sizes, masks."""
    from mlx_sam2.datasets import check, open_dataset

    data = open_dataset(path)
    for item in data:
        for obj in item.objects:
            for mask in obj.masks.values():
                height, width = mask.size
                if height * width <= 1 << 24:  # what a header states is no work until a mask is decoded
                    mask.rle()
    check(data)


def read_mask_picture(path: Path) -> None:
    from mlx_sam2.datasets.pictures import read_labels, values_of

    values_of(read_labels(path))

"""Photos and videos with objects, made in memory, to be written as data sets; and files of their frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from mlx_sam2.datasets import DatasetObject, Item, RleMask
from mlx_sam2.datasets.frames import FileFrames
from mlx_sam2.masks import mask_to_rle

NAMES = ("Bär", "自転車", 'a "quoted" & <odd> name', "chat noir")


def blob(seed: int, size: tuple[int, int], share: float = 0.5) -> np.ndarray:
    """(H, W) bool with parts, holes and pixels that touch by a corner."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((-(-size[0] // 3), -(-size[1] // 3))) < share
    return np.kron(coarse, np.ones((3, 3), bool))[: size[0], : size[1]] & (rng.random(size) < 0.9)


def apart(masks: list[np.ndarray]) -> list[np.ndarray]:
    """The masks without the pixels that an earlier one has."""
    taken = np.zeros_like(masks[0])
    kept = []
    for mask in masks:
        kept.append(mask & ~taken)
        taken |= mask
    return kept


def frames(folder: Path, count: int, size: tuple[int, int], suffix: str = ".jpg") -> FileFrames:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05d}{suffix}" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (*size, 3), np.uint8)).save(path)
    return FileFrames(paths)


def item(
    folder: Path, name: str, masks: Mapping[int, Mapping[int, np.ndarray]], *, count: int | None = None,
    size: tuple[int, int], scores: bool = False,
) -> Item:  # fmt: skip
    """Object -> frame -> mask as an item; a photo without `count`, else a video."""
    objects = [
        DatasetObject(
            obj,
            NAMES[obj % len(NAMES)],
            {i: RleMask(mask_to_rle(mask)) for i, mask in sorted(found.items())},
            {i: round(0.5 + obj / 100, 2) for i in found} if scores else {},
        )
        for obj, found in masks.items()
    ]
    number = 1 if count is None else count
    pixels = frames(folder / name, number, size)
    return Item(name, pixels, count is not None, tuple(range(number)), lambda: objects)


def photos(folder: Path) -> list[Item]:
    """Odd sizes, one pixel, no object, 50 objects that are apart, parts and holes."""
    numbers = np.kron(np.random.default_rng(8).permutation(14 * 19).reshape(14, 19) % 53, np.ones((3, 3), int))
    many = [numbers[:41, :57] == i for i in range(1, 51)]
    made = {
        "odd": ((17, 23), {1: blob(1, (17, 23))}),
        "pixel": ((1, 1), {1: np.ones((1, 1), bool)}),
        "nobody": ((9, 300), {}),
        "many": ((41, 57), dict(enumerate(many, 1))),
        "Größe": ((30, 31), dict(enumerate(apart([blob(3, (30, 31)), blob(4, (30, 31))]), 1))),
    }
    return [
        item(folder, name, {obj: {0: mask} for obj, mask in found.items()}, size=size)
        for name, (size, found) in made.items()
    ]


def videos(folder: Path) -> list[Item]:
    """Objects that come late, leave, are never there; one frame; nobody."""
    size = (19, 33)
    one, two = blob(5, size), blob(6, size)
    late = {
        1: {0: one & ~two, 1: one & ~two, 3: one & ~two},
        2: {2: two, 3: two},
    }
    return [
        item(folder, "late", late, count=4, size=size, scores=True),
        item(folder, "single", {1: {0: blob(7, (5, 7))}}, count=1, size=(5, 7)),
        item(folder, "nobody", {}, count=2, size=(6, 8)),
    ]


def decoded(found: Item) -> dict[str, list[tuple[str, bytes]]]:
    """Frame name -> (class, mask) of its objects that are seen, sorted: what all formats hold."""
    return {
        found.frames.name(i) if found.is_video else "": sorted(
            (obj.class_name, obj.masks[i].decode().tobytes())
            for obj in found.objects
            if i in obj.masks and obj.masks[i].area()
        )
        for i in found.keyframes
    }

"""A picture of nine samples with their prompts, as a run would draw them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..datasets.items import Item
from ..files import beside
from ..images.drawing import overlay
from ..images.preprocess import MEAN, STD
from .arguments import Arguments
from .prompts import draw_plan
from .samples import draw_sample, prepare, trainable
from .steps import generator

SIDE, COUNT, TILE = 3, 9, 320
BOX = 2  # the label of a box's first corner


def draw_preview(path: Path, items: Sequence[Item], arguments: Arguments, size: int) -> None:
    """Write a PNG of nine samples, three a row: one object of each, and its first prompt (a tint alone: its mask).

    Args:
        size: of the model's input.
    """
    video = arguments.preset != "decoder" and bool(items) and all(item.is_video for item in items)
    items = [item for item in items if trainable(item, video)]
    sheet = np.full((SIDE * TILE, SIDE * TILE, 3), 255, np.uint8)
    for i in range(COUNT if items else 0):
        random = generator(arguments.seed, i)
        item = items[int(random.integers(len(items)))]
        row, column = divmod(i, SIDE)
        tile = _tile(item, arguments, size, random, video)
        sheet[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = tile
    with beside(path) as part:
        Image.fromarray(sheet).save(part, format="PNG")


def _tile(item: Item, arguments: Arguments, size: int, random: np.random.Generator, video: bool) -> np.ndarray:
    batch = prepare(draw_sample(item, arguments, random, video, True), size, arguments, random)
    plan = draw_plan(batch.targets, arguments, random)
    pixels = batch.pixels[0, 0] * np.float32(STD) + np.float32(MEAN)
    picture = np.clip(pixels * 255, 0, 255).round().astype(np.uint8)
    prompt, target = plan.first[0], batch.targets[0, 0]
    points, labels, box = [], [], None
    if prompt is not None:
        places, kinds = np.array(prompt.points)[0], np.array(prompt.labels)[0]
        if kinds[0] == BOX:
            box = tuple(places.flatten().tolist())
        else:
            points, labels = [tuple(place) for place in places.tolist()], kinds.tolist()
    shown = Image.fromarray(overlay(picture, target, points, labels, box))
    return np.asarray(shown.resize((TILE, TILE), Image.Resampling.BILINEAR))

"""Pictures for the tests of the demo model, with their true masks: tests/data/demo, and films made of its sprites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

DATA = Path(__file__).parents[1] / "data" / "demo"
SIDE = 256
STILLS = 8
LEAST = 200  # pixels of the smallest object that is asked for: 0.3 % of the picture, as in the evaluation


def _read(name: str, mode: str = "RGB") -> np.ndarray:
    return np.asarray(Image.open(DATA / name).convert(mode))


@lru_cache(maxsize=STILLS)
def still(n: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene of tools/demo_model: (SIDE, SIDE, 3) uint8 and its objects' numbers (SIDE, SIDE), 0 for the ground."""
    return _read(f"scene_{n}.jpg"), _read(f"scene_{n}_names.png")[..., 0]


def objects(names: np.ndarray, most: int = 255) -> list[np.ndarray]:
    """The masks of the objects that are large enough."""
    found = np.flatnonzero(np.bincount(names.ravel(), minlength=256)[1:] >= LEAST) + 1
    return [names == name for name in found[:most]]


def coins() -> tuple[np.ndarray, list[np.ndarray]]:
    """scikit-image's photograph, (303, 384, 3) uint8, and its 24 coins by a classical segmentation."""
    labels = _read("coins_labels.png", "L")
    return _read("../../../examples/coins.png"), [labels == n for n in range(1, labels.max() + 1)]


Place = tuple[float, float, float, float]  # centre x, y in pixels, scale, angle in degrees


@dataclass(frozen=True)
class Actor:
    """A sprite and its way through a film; `at(t)` is where it is at t of 0..1."""

    sprite: int
    at: Callable[[float], Place]


def along(*places: tuple[float, float], scale: float = 1.0, turn: float = 0.0) -> Callable[[float], Place]:
    """At even speed from place to place, turning by `turn` degrees in all."""

    def at(t: float) -> Place:
        s = t * (len(places) - 1)
        k = min(int(s), len(places) - 2)
        (x0, y0), (x1, y1) = places[k], places[k + 1]
        return x0 + (x1 - x0) * (s - k), y0 + (y1 - y0) * (s - k), scale, turn * t

    return at


def _placed(sprite: Image.Image, place: Place) -> np.ndarray:
    """The sprite on an empty canvas, (SIDE, SIDE, 4) float32, to sub-pixel place."""
    x, y, scale, angle = place
    c, s, half = np.cos(np.radians(angle)) / scale, np.sin(np.radians(angle)) / scale, sprite.width / 2
    affine = (c, s, half - c * x - s * y, -s, c, half + s * x - c * y)
    return np.asarray(
        sprite.transform((SIDE, SIDE), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR), np.float32
    )


def film(ground: int, actors: list[Actor], length: int, noise: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Frames (length, SIDE, SIDE, 3) uint8 and names (length, SIDE, SIDE): actors from 1, the last in front."""
    rng = np.random.default_rng(ground)
    back = _read(f"ground_{ground}.jpg")[32 : 32 + SIDE, 32 : 32 + SIDE].astype(np.float32)
    sprites = [Image.open(DATA / f"sprite_{actor.sprite}.png") for actor in actors]
    frames, names = np.empty((length, SIDE, SIDE, 3), np.uint8), np.zeros((length, SIDE, SIDE), np.uint8)
    for n in range(length):
        canvas = back.copy()
        for k, (actor, sprite) in enumerate(zip(actors, sprites, strict=True), 1):
            pixels = _placed(sprite, actor.at(n / max(1, length - 1)))
            alpha = pixels[..., 3:] / 255
            canvas += (pixels[..., :3] - canvas) * alpha
            names[n][alpha[..., 0] > 0.5] = k
        canvas += rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * noise
        frames[n] = np.clip(canvas, 0, 255).astype(np.uint8)
    return frames, names


LEFT, RIGHT, MIDDLE = (56.0, 124.0), (200.0, 132.0), (128.0, 128.0)


def crossing(front: bool) -> tuple[np.ndarray, np.ndarray]:
    """Object 1 goes from left to right, in front of object 2 or (half hidden) behind it.

    They have parted from frame 11 on.
    """
    way = (LEFT, RIGHT) if front else ((56.0, 106.0), (200.0, 110.0))
    mover, other = Actor(0, along(*way)), Actor(3, along(MIDDLE, MIDDLE, scale=0.8))
    frames, names = film(1, [other, mover] if front else [mover, other], 15)
    if front:
        names = np.array([0, 2, 1], np.uint8)[names]
    return frames, names


def out_and_back() -> tuple[np.ndarray, np.ndarray]:
    """Object 1 leaves at the right edge, is not there on frames 7 to 11, and comes back; object 2 stays."""
    mover = Actor(0, along((200, 90), (300, 90), (196, 96)))
    return film(2, [mover, Actor(4, along((70, 180), (84, 190)))], 19)


def swap(head_on: bool) -> tuple[np.ndarray, np.ndarray]:
    """Two objects swap sides, the second one in front: it grazes the first one, or hides most of it.

    They have parted from frame 11 on.
    """
    y0, y1 = (112, 140) if head_on else (100, 104)
    y2 = 128 if head_on else 148
    return film(0, [Actor(1, along((60, y0), (196, y1))), Actor(5, along((196, y2), (60, y2), turn=40))], 15)

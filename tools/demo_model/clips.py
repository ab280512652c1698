"""Clips: the objects of scenes.py in motion before a moving background; seeded.

Objects drift, swing, grow, shrink and turn; some cross another one, some leave the picture and come back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from scenes import SIDE, Sprite, finish_like, make_background, make_finish, make_sprite
from textures import TextureBank

__all__ = ["Clip", "make_clip"]


@dataclass
class Clip:
    frames: np.ndarray  # (T, SIDE, SIDE, 3) uint8
    ids: np.ndarray  # (T, SIDE, SIDE) uint8: 0 background, 1.. objects, the same number in every frame


@dataclass
class _Path:
    """Where an object is at time t of 0..1: centre x, y in pixels, scale, angle in degrees."""

    start: np.ndarray
    end: np.ndarray
    swing: np.ndarray
    rounds: float
    phase: float
    growth: float
    turn: float
    back: bool  # there and back again

    def at(self, t: float) -> tuple[float, float, float, float]:
        along = 1 - abs(2 * t - 1) if self.back else t
        wave = np.sin(2 * np.pi * (self.rounds * t + self.phase)) - np.sin(2 * np.pi * self.phase)
        x, y = self.start + (self.end - self.start) * along + self.swing * wave
        return float(x), float(y), float(np.exp(self.growth * t)), self.turn * t


def _paths(rng: np.random.Generator, count: int, length: int) -> list[_Path]:
    """A path for every object; speeds are meant per frame, so longer clips go further."""
    paths: list[_Path] = []
    for n in range(count):
        start = rng.uniform(0.15, 0.85, 2) * SIDE
        angle = rng.uniform(0, 2 * np.pi)
        speed = rng.choice([0.0, rng.uniform(0, 4), rng.uniform(3, 11)], p=[0.1, 0.5, 0.4])
        end = start + speed * length * np.array([np.cos(angle), np.sin(angle)])
        end = np.clip(end, 0.08 * SIDE, 0.92 * SIDE)  # turn-backs come from `back`
        back = rng.random() < 0.2
        kind = rng.random()
        if kind < 0.25 and n:  # crosses the one before, where that one is half way
            middle = (paths[-1].start + paths[-1].end) / 2
            start, end = middle - (end - start) / 2, middle + (end - start) / 2
        elif kind < 0.5:  # leaves the picture, and mostly comes back
            away = np.array([np.cos(angle), np.sin(angle)])
            end, back = start + away * SIDE * rng.uniform(0.75, 1.1), rng.random() < 0.75
        growth = rng.normal(0, 0.25) if rng.random() < 0.6 else 0.0
        turn = rng.normal(0, 4) * length if rng.random() < 0.6 else 0.0
        swing = rng.normal(0, 10, 2) if rng.random() < 0.5 else np.zeros(2)
        paths.append(_Path(start, end, swing, rng.uniform(0.2, 1.5), rng.random(), growth, turn, back))
    return paths


def _placed(sprite: Image.Image, x: float, y: float, scale: float, angle: float) -> tuple[np.ndarray, int, int]:
    """The sprite scaled and turned to sub-pixel place: (n, n, 4) float32 and its left and top."""
    side = int(np.ceil(sprite.width * scale)) + 4
    left, top = int(np.floor(x - side / 2)), int(np.floor(y - side / 2))
    c, s = np.cos(np.radians(angle)) / scale, np.sin(np.radians(angle)) / scale
    cx, cy, half = x - left, y - top, sprite.width / 2
    affine = (c, s, half - c * cx - s * cy, -s, c, half + s * cx - c * cy)
    turned = sprite.transform((side, side), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.asarray(turned, np.float32), left, top


def _as_image(sprite: Sprite) -> Image.Image:
    """Colours reach a little beyond the outline, so that turning mixes nothing foreign in."""
    alpha = np.clip(sprite.alpha * 255, 0, 255)
    return Image.fromarray(np.dstack([np.clip(sprite.rgb, 0, 255), alpha]).astype(np.uint8), "RGBA")


def make_clip(rng: np.random.Generator, bank: TextureBank, length: int) -> Clip:
    """`length` frames with one to five objects."""
    count = int(rng.integers(1, 6))
    sizes = np.exp(rng.uniform(np.log(34), np.log(120), count)).astype(int)
    kind = None
    if rng.random() < 0.15:  # look-alikes
        kind, look = None, make_sprite(rng, bank, int(sizes[0]))
        sprites = [_as_image(look) for _ in sizes]
    else:
        sprites = [_as_image(make_sprite(rng, bank, int(side), kind)) for side in sizes]
    paths = _paths(rng, count, length)
    ground = make_background(rng, bank, SIDE + 96)
    pan_from, pan_to = rng.uniform(0, 96, 2), rng.uniform(0, 96, 2)
    if rng.random() < 0.5:
        pan_to = pan_from
    style = make_finish(rng)
    frames = np.empty((length, SIDE, SIDE, 3), np.uint8)
    ids = np.zeros((length, SIDE, SIDE), np.uint8)
    for n in range(length):
        t = n / max(1, length - 1)
        left, top = (pan_from + (pan_to - pan_from) * t).astype(int)
        canvas = ground[top : top + SIDE, left : left + SIDE].copy()
        for k, (sprite, path) in enumerate(zip(sprites, paths, strict=True), 1):
            pixels, x0, y0 = _placed(sprite, *path.at(t))
            side = pixels.shape[0]
            xa, xb = np.clip([x0, x0 + side], 0, SIDE)
            ya, yb = np.clip([y0, y0 + side], 0, SIDE)
            piece = pixels[ya - y0 : yb - y0, xa - x0 : xb - x0]
            alpha = piece[..., 3:] / 255
            canvas[ya:yb, xa:xb] += (piece[..., :3] - canvas[ya:yb, xa:xb]) * alpha
            ids[n, ya:yb, xa:xb][alpha[..., 0] > 0.5] = k
        frames[n] = finish_like(rng, canvas, style)
    return Clip(frames, ids)

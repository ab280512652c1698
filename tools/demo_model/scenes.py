"""Stills: textured objects before a textured background, with shadows, occlusion, blur and noise; seeded.

`Scene.ids` says which object is visible at a pixel, `Scene.parts` which part of a composite object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from shapes import KINDS, draw_shape
from textures import TextureBank, noise_field

__all__ = ["SIDE", "Scene", "Sprite", "finish_like", "make_background", "make_finish", "make_scene", "make_sprite"]

SIDE = 256


@dataclass
class Sprite:
    """One object: colours (n, n, 3) float32 0..255, alpha (n, n) 0..1, parts (n, n) uint8 from 1 (0 without)."""

    rgb: np.ndarray
    alpha: np.ndarray
    parts: np.ndarray


@dataclass
class Scene:
    image: np.ndarray  # (SIDE, SIDE, 3) uint8
    ids: np.ndarray  # (SIDE, SIDE) uint8: 0 background, 1.. objects
    parts: np.ndarray  # (SIDE, SIDE) uint8: 0 none, 1.. parts of composite objects, distinct over the scene


def _blurred(plane: np.ndarray, radius: float) -> np.ndarray:
    image = Image.fromarray((np.clip(plane, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius)), np.float32) / 255


def _shade(rng: np.random.Generator, rgb: np.ndarray, alpha: np.ndarray, relief: float) -> np.ndarray:
    """Light on a rounded edge, as the slope of the blurred outline."""
    height = _blurred(alpha, max(1.0, alpha.shape[0] * rng.uniform(0.03, 0.2)))
    slope_y, slope_x = np.gradient(height)
    angle = rng.uniform(0, 2 * np.pi)
    light = slope_x * np.cos(angle) + slope_y * np.sin(angle)
    return rgb + (relief * light / (np.abs(light).max() + 1e-6))[..., None]


def make_sprite(rng: np.random.Generator, bank: TextureBank, side: int, kind: str | None = None) -> Sprite:
    """An object about `side` pixels across."""
    weights = np.array([3, 2, 1.5, 2.5, 2, 1, 1, 1.5, 3])
    kind = kind or str(rng.choice(KINDS, p=weights / weights.sum()))
    layers = draw_shape(rng, kind, side)
    rgb, alpha = bank.sample(rng, side, side), layers[0]
    parts = np.zeros((side, side), np.uint8)
    if len(layers) > 1:
        parts[alpha > 0.5] = 1
        for n, layer in enumerate(layers[1:], 2):
            skin = bank.sample(rng, side, side) if rng.random() < 0.7 else rgb * rng.uniform(0.6, 1.3)
            rgb = rgb + (skin - rgb) * layer[..., None]
            alpha = np.maximum(alpha, layer)
            parts[layer > 0.5] = n
    if rng.random() < 0.45:
        rgb = _shade(rng, rgb, alpha, rng.uniform(20, 110))
    if rng.random() < 0.15:  # a drawn outline
        rim = alpha * np.clip(1.3 - _blurred(alpha, max(1.0, side * 0.03)), 0, 1)
        rgb = rgb * (1 - rim[..., None] * rng.uniform(0.5, 1))
    return Sprite(rgb, alpha, parts)


def make_background(rng: np.random.Generator, bank: TextureBank, side: int = SIDE) -> np.ndarray:
    """(side, side, 3) float32: one texture or two, lit unevenly."""
    canvas = bank.sample(rng, side, side)
    if rng.random() < 0.35:  # a horizon, a wall, a table
        other, field = bank.sample(rng, side, side), noise_field(rng, side, side, 2, 1)
        y, x = np.mgrid[:side, :side] / side
        angle = rng.uniform(0, 2 * np.pi)
        edge = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle) + rng.uniform(0, 0.5) * (field - 0.5)
        canvas = np.where((edge > rng.uniform(-0.3, 0.3))[..., None], other, canvas)
    if rng.random() < 0.4:
        canvas = canvas * (1 + rng.uniform(0.1, 0.8) * (noise_field(rng, side, side, 2, 1) - 0.5))[..., None]
    return canvas


@dataclass
class Finish:
    """What camera and light do to a picture; a clip keeps the same for all frames."""

    grey: bool
    gain: float
    offset: float
    blur: float
    noise: float
    coloured_noise: bool


def make_finish(rng: np.random.Generator, grey: float = 0.25) -> Finish:
    change = rng.random() < 0.5
    return Finish(
        grey=rng.random() < grey,
        gain=rng.uniform(0.45, 1.2) if change else 1.0,
        offset=rng.uniform(-30, 30) if change else 0.0,
        blur=rng.uniform(0.3, 1.2) if rng.random() < 0.35 else 0.0,
        noise=rng.uniform(1, 14) if rng.random() < 0.6 else 0.0,
        coloured_noise=rng.random() < 0.5,
    )


def finish_like(rng: np.random.Generator, canvas: np.ndarray, style: Finish) -> np.ndarray:
    """(H, W, 3) float32 -> uint8, with light, blur and fresh noise."""
    if style.grey:
        canvas = np.repeat(canvas.mean(2, keepdims=True), 3, 2)
    canvas = (canvas - 128) * style.gain + 128 + style.offset
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if style.blur:
        image = image.filter(ImageFilter.GaussianBlur(style.blur))
    result = np.asarray(image)
    if style.noise:
        shape = (*result.shape[:2], 3 if style.coloured_noise else 1)
        result = np.clip(result + rng.standard_normal(shape, np.float32) * style.noise, 0, 255).astype(np.uint8)
    return result


def finish(rng: np.random.Generator, canvas: np.ndarray, grey: float = 0.25) -> np.ndarray:
    return finish_like(rng, canvas, make_finish(rng, grey))


class _Canvas:
    def __init__(self, background: np.ndarray):
        self.rgb = np.ascontiguousarray(background)
        self.ids = np.zeros(background.shape[:2], np.uint8)
        self.parts = np.zeros(background.shape[:2], np.uint8)
        self.objects = 0
        self.part_count = 0

    def put(self, sprite: Sprite, x: int, y: int, shadow: tuple[float, int, int, float] | None) -> None:
        """The sprite centred at (x, y); shadow: strength, shift x, shift y, blur radius."""
        n = sprite.alpha.shape[0]
        if shadow:
            strength, dx, dy, radius = shadow
            pad = int(radius * 2) + 1
            soft = _blurred(np.pad(sprite.alpha, pad), radius)
            there, here = self._overlap(x - n // 2 + dx - pad, y - n // 2 + dy - pad, n + 2 * pad)
            self.rgb[there] *= 1 - strength * soft[here][..., None]
        there, here = self._overlap(x - n // 2, y - n // 2, n)
        alpha = sprite.alpha[here]
        self.rgb[there] += (sprite.rgb[here] - self.rgb[there]) * alpha[..., None]
        self.objects += 1
        solid = alpha > 0.5
        self.ids[there][solid] = self.objects
        parts = sprite.parts[here][solid].astype(np.int32)
        self.parts[there][solid] = np.where(parts > 0, parts + self.part_count, 0)
        self.part_count += int(sprite.parts.max())

    def _overlap(self, left: int, top: int, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        height, width = self.ids.shape
        x0, x1, y0, y1 = max(left, 0), min(left + side, width), max(top, 0), min(top + side, height)
        x1, y1 = max(x1, x0), max(y1, y0)
        return (slice(y0, y1), slice(x0, x1)), (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))


def _shadow(rng: np.random.Generator, side: int) -> tuple[float, int, int, float]:
    reach = max(1.0, side * rng.uniform(0.02, 0.15))
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(0.2, 0.7), int(reach * np.cos(angle)), int(reach * np.sin(angle)), 1 + reach * rng.uniform(0, 1)


def _coin(rng: np.random.Generator, side: int, level: float) -> Sprite:
    """A disc with relief, rim and worn spots, its brightness near `level`."""
    alpha = draw_shape(rng, "disc", side)[0]
    face = noise_field(rng, side, side, int(rng.integers(2, 6)), 4)
    slope_y, slope_x = np.gradient(_blurred(face, max(0.5, side * rng.uniform(0.01, 0.04))))
    light = slope_x + slope_y
    grey = level + rng.uniform(10, 45) * light / (np.abs(light).max() + 1e-6) + rng.uniform(5, 40) * (face - 0.5)
    rim = alpha - _blurred(alpha, max(1.0, side * 0.04))
    grey = grey + rng.uniform(-80, 120) * np.clip(rim, 0, 1)
    tint = np.array([1, 1, 1]) if rng.random() < 0.6 else rng.uniform(0.7, 1.2, 3)
    rgb = _shade(rng, (grey[..., None] * tint).astype(np.float32), alpha, rng.uniform(0, 50))
    return Sprite(rgb, alpha, np.zeros((side, side), np.uint8))


def _coins(rng: np.random.Generator, bank: TextureBank) -> Scene:
    """Similar discs in rough rows on an unevenly lit ground, as in a collector's tray."""
    lit = noise_field(rng, SIDE, SIDE, int(rng.integers(2, 4)), 2)[..., None]
    dark, bright = rng.uniform(10, 110), rng.uniform(60, 190)
    ground = dark + (bright - dark) * lit + (bank.sample(rng, SIDE, SIDE) - 128) * rng.uniform(0, 0.15)
    if rng.random() < 0.3:
        ground = make_background(rng, bank)
    canvas = _Canvas(ground.astype(np.float32))
    across = int(rng.integers(2, 8))
    down = max(1, across + int(rng.integers(-2, 2)))
    cell_x, cell_y = SIDE / across, SIDE / down
    level, spread = rng.uniform(60, 220), rng.uniform(5, 40)
    base = min(cell_x, cell_y) * rng.uniform(0.55, 0.95)
    shadow = _shadow(rng, int(base)) if rng.random() < 0.5 else None
    for row in range(down):
        for column in range(across):
            if rng.random() < 0.08:
                continue
            side = int(np.clip(base * rng.uniform(0.7, 1.1), 8, 200))
            x = int((column + 0.5 + rng.normal(0, 0.07)) * cell_x)
            y = int((row + 0.5 + rng.normal(0, 0.07)) * cell_y)
            canvas.put(_coin(rng, side, level + rng.normal(0, spread)), x, y, shadow)
    return Scene(finish(rng, canvas.rgb, grey=0.7), canvas.ids, canvas.parts)


def make_scene(rng: np.random.Generator, bank: TextureBank) -> Scene:
    """A still. Seven in ten are mixed objects, two rows of coins, one a crowd of the same kind."""
    pick = rng.random()
    if pick < 0.2:
        return _coins(rng, bank)
    canvas = _Canvas(make_background(rng, bank))
    crowd = pick < 0.3
    kind = str(rng.choice(KINDS)) if crowd else None
    count = int(rng.integers(7, 16)) if crowd else int(rng.integers(2, 8))
    sizes = np.exp(rng.uniform(np.log(24), np.log(60 if crowd else 190), count)).astype(int)
    for side in np.sort(sizes)[::-1] if rng.random() < 0.7 else sizes:
        x, y = (int(v) for v in rng.uniform(0.03 * SIDE, 0.97 * SIDE, 2))
        shadow = _shadow(rng, int(side)) if rng.random() < 0.4 else None
        canvas.put(make_sprite(rng, bank, int(side), kind), x, y, shadow)
    return Scene(finish(rng, canvas.rgb), canvas.ids, canvas.parts)

"""Scenes and clips as scenes.py and clips.py make them, rendered in batches by MLX, on a GPU if there is one.

Outlines and textures are drawn once, by shapes.py and textures.py, into a bank; where objects are, how large, how they
are turned, coloured and lit is drawn for every scene; MLX samples the bank and lays the objects over one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image, ImageFilter

from clips import _paths as paths_of
from scenes import SIDE, Finish, make_finish
from shapes import KINDS, draw_shape
from textures import TILE, TextureBank

__all__ = ["Bank", "Scenes", "draw_clips", "draw_stills", "make_bank", "render"]

SPRITE = 128  # pixels of an outline in the bank
ALPHA, SLOPE_X, SLOPE_Y, SOFT, PART = range(5)  # its planes; the slopes of a blurred outline, for light and shadow
TAPS = np.arange(-4, 5)


class Bank(NamedTuple):
    """What scenes are made of."""

    tiles: mx.array  # (K, TILE, TILE, 3) uint8
    means: mx.array  # (K, 3) float32, of their colours
    sprites: mx.array  # (M, SPRITE, SPRITE, 5) float16
    discs: int  # the first sprites are discs, for coins


def make_bank(seed: int, sprites: int = 512, tiles: int = 180) -> Bank:
    """Draw outlines of all kinds, an eighth of them discs, and textures."""
    rng, textures = np.random.default_rng([seed, 1]), TextureBank(seed, tiles // 2, tiles - tiles // 2)
    discs = max(1, sprites // 8)
    kinds = ["disc"] * discs + [KINDS[i % len(KINDS)] for i in range(sprites - discs)]
    arrays = np.stack([_planes(draw_shape(rng, kind, SPRITE)) for kind in kinds])
    stack = np.stack(textures.tiles)
    return Bank(mx.array(stack), mx.array(stack.mean((1, 2), dtype=np.float32)), mx.array(arrays), discs)


def _planes(layers: Sequence[np.ndarray]) -> np.ndarray:
    alpha = np.max(layers, axis=0)
    part = np.zeros(alpha.shape, np.float32)
    for n, layer in enumerate(layers):
        part[layer > 0.5] = n
    soft = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(SPRITE * 0.06))
    soft = np.asarray(soft, np.float32) / 255
    slope_y, slope_x = np.gradient(soft)
    largest = max(np.abs(slope_x).max(), np.abs(slope_y).max(), 1e-6)
    return np.stack([alpha, slope_x / largest, slope_y / largest, soft, part], -1).astype(np.float16)


@dataclass
class Skins:
    """Textures of n things: a tile, its place and turn, and how far it is mixed towards one colour."""

    tile: np.ndarray  # (n,) int
    place: np.ndarray  # (n, 2) float32 x, y of its first pixel
    order: np.ndarray  # (n, 3) int, of the channels
    colour: np.ndarray  # (n, 3) float32
    strength: np.ndarray  # (n,) float32


@dataclass
class Objects:
    """K objects of N scenes, from the lowest to the top one; those of size 0 are left out."""

    sprite: np.ndarray  # (N, K) int
    centre: np.ndarray  # (N, K, 2) float32 x, y
    size: np.ndarray  # (N, K) float32: pixels across
    angle: np.ndarray  # (N, K) float32, radians
    light: np.ndarray  # (N, K, 2) float32: brightness along the slopes
    shadow: np.ndarray  # (N, K, 3) float32: strength, shift x, shift y
    skin: Skins  # of N * K
    inner: Skins  # of their parts


@dataclass
class Scenes:
    """All that is drawn for N scenes."""

    objects: Objects
    ground: Skins  # of N
    other: Skins  # of N, beyond an edge
    edge: np.ndarray  # (N, 3) float32: normal x, y, and how far; far away: none
    lit: np.ndarray  # (N, 4, 4) float32: brightness, coarse
    finish: list[Finish]


def _skins(rng: np.random.Generator, bank: Bank, count: int) -> Skins:
    colour = rng.uniform(0, 255, (count, 3)).astype(np.float32)
    grey = rng.random(count) < 0.3
    colour[grey] = colour[grey].mean(1, keepdims=True)
    strength = rng.choice([0.05, 0.15, 0.3, 0.6, 1.0], count, p=[0.2, 0.25, 0.2, 0.15, 0.2])
    return Skins(
        rng.integers(len(bank.tiles), size=count),
        rng.uniform(0, TILE - SIDE, (count, 2)).astype(np.float32),
        np.stack([rng.permutation(3) for _ in range(count)]),
        colour,
        strength.astype(np.float32),
    )


def _objects(rng: np.random.Generator, bank: Bank, sizes: np.ndarray) -> Objects:
    n, k = sizes.shape
    angle = rng.uniform(0, 2 * np.pi, (n, k))
    relief = np.where(rng.random((n, k)) < 0.45, rng.uniform(20, 110, (n, k)), 0)
    reach = np.maximum(1, sizes * rng.uniform(0.02, 0.15, (n, k)))
    strength = np.where(rng.random((n, k)) < 0.4, rng.uniform(0.2, 0.7, (n, k)), 0)
    return Objects(
        rng.integers(len(bank.sprites), size=(n, k)),
        rng.uniform(0.03 * SIDE, 0.97 * SIDE, (n, k, 2)).astype(np.float32),
        sizes.astype(np.float32),
        rng.uniform(0, 2 * np.pi, (n, k)).astype(np.float32),
        (relief[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)).astype(np.float32),
        np.stack([strength, reach * np.sin(angle), reach * np.cos(angle)], -1).astype(np.float32),
        _skins(rng, bank, n * k),
        _skins(rng, bank, n * k),
    )


def _scenes(rng: np.random.Generator, bank: Bank, objects: Objects) -> Scenes:
    n = len(objects.sprite)
    angle = rng.uniform(0, 2 * np.pi, n)
    far = np.where(rng.random(n) < 0.35, rng.uniform(-0.3, 0.3, n), 9) * SIDE
    amount = np.where(rng.random(n) < 0.4, rng.uniform(0.1, 0.8, n), 0)[:, None, None]
    lit = 1 + amount * (rng.random((n, 4, 4)) - 0.5)
    edge = np.stack([np.cos(angle), np.sin(angle), far], -1).astype(np.float32)
    grounds = _skins(rng, bank, n), _skins(rng, bank, n)
    return Scenes(objects, *grounds, edge, lit.astype(np.float32), [make_finish(rng) for _ in range(n)])


def draw_stills(rng: np.random.Generator, bank: Bank, count: int) -> Scenes:
    """Seven in ten are mixed objects, two rows of coins, one a crowd of the same outline."""
    most = 16
    sizes = np.zeros((count, most))
    kinds = rng.choice(3, count, p=[0.7, 0.2, 0.1])
    for i, kind in enumerate(kinds):
        drawn = int(rng.integers(2, 8)) if kind == 0 else int(rng.integers(7, most))
        drawn_sizes = np.exp(rng.uniform(np.log(24), np.log(60 if kind == 2 else 190), drawn))
        sizes[i, :drawn] = np.sort(drawn_sizes)[::-1] if rng.random() < 0.7 else drawn_sizes
    objects = _objects(rng, bank, sizes)
    for i in np.flatnonzero(kinds == 2):
        objects.sprite[i] = objects.sprite[i, 0]
    for i in np.flatnonzero(kinds == 1):
        _lay_coins(rng, bank, objects, i)
    return _scenes(rng, bank, objects)


def _lay_coins(rng: np.random.Generator, bank: Bank, objects: Objects, i: int) -> None:
    across, down = (int(v) for v in rng.integers(2, 5, 2))
    cells = np.array([(x, y) for y in range(down) for x in range(across)], np.float32)[: objects.size.shape[1]]
    pitch = np.float32([SIDE / across, SIDE / down])
    count, k = len(cells), objects.size.shape[1]
    objects.size[i] = 0
    objects.size[i, :count] = pitch.min() * rng.uniform(0.55, 0.95) * rng.uniform(0.8, 1.1, count)
    objects.centre[i, :count] = (cells + 0.5 + rng.normal(0, 0.07, cells.shape)) * pitch
    objects.sprite[i] = rng.integers(bank.discs, size=k)
    level = rng.uniform(60, 220) + rng.normal(0, rng.uniform(5, 40), (k, 1))
    objects.skin.colour[i * k : (i + 1) * k] = level
    objects.skin.strength[i * k : (i + 1) * k] *= 0.3


def draw_clips(rng: np.random.Generator, bank: Bank, count: int, length: int) -> Scenes:
    """``count`` clips of ``length`` frames, one after the other, with one to five objects that move as in clips.py."""
    most = 5
    frames = []
    for _ in range(count):
        drawn = int(rng.integers(1, most + 1))
        sizes = np.zeros((1, most))
        sizes[0, :drawn] = np.exp(rng.uniform(np.log(34), np.log(120), drawn))
        scene = _scenes(rng, bank, _objects(rng, bank, sizes))
        if rng.random() < 0.15:  # look-alikes
            scene.objects.sprite[:] = scene.objects.sprite[0, 0]
        paths = paths_of(rng, drawn, length)
        frames.append(_over_time(scene, paths, length))
    return _joined(frames)


def _over_time(scene: Scenes, paths: Sequence, length: int) -> Scenes:
    repeated = _joined([scene] * length)
    objects = repeated.objects
    for t in range(length):
        for k, path in enumerate(paths):
            x, y, scale, degrees = path.at(t / max(1, length - 1))
            objects.centre[t, k] = x, y
            objects.size[t, k] *= scale
            objects.angle[t, k] += np.radians(degrees)
    return repeated


def _joined(parts: Sequence) -> Scenes:
    """Bundles of arrays, one after the other."""
    first = parts[0]
    if isinstance(first, np.ndarray):
        return np.concatenate(parts)
    if isinstance(first, list):
        return [one for part in parts for one in part]
    return type(first)(**{f.name: _joined([getattr(part, f.name) for part in parts]) for f in fields(first)})


def render(bank: Bank, scenes: Scenes, seed: int) -> tuple[mx.array, mx.array]:
    """Pictures (N, SIDE, SIDE, 3) uint8 and numbers of objects (N, SIDE, SIDE) uint8, 0 for the background."""
    objects = scenes.objects
    n, k = objects.sprite.shape
    y, x = mx.meshgrid(mx.arange(SIDE), mx.arange(SIDE), indexing="ij")
    canvas = _background(bank, scenes, x, y)
    ids = mx.zeros((n, SIDE, SIDE), mx.uint8)
    for i in np.flatnonzero(objects.size.any(axis=0)).tolist():
        rows = np.arange(n) * k + i
        canvas, solid = _put(bank, objects, i, rows, canvas, x, y)
        ids = mx.where(solid, mx.array(i + 1, mx.uint8), ids)
    return _finished(canvas, scenes.finish, seed), ids


def _background(bank: Bank, scenes: Scenes, x: mx.array, y: mx.array) -> mx.array:
    every = np.arange(len(scenes.edge))
    ground, other = (_textured(bank, skin, every, x[None], y[None]) for skin in (scenes.ground, scenes.other))
    normal = mx.array(scenes.edge)[:, None, None]
    beyond = (x - SIDE / 2) * normal[..., 0] + (y - SIDE / 2) * normal[..., 1] > normal[..., 2]
    canvas = mx.where(beyond[..., None], other, ground)
    lit = mx.array(scenes.lit)[..., None]
    places = (x[None] * (3 / (SIDE - 1)), y[None] * (3 / (SIDE - 1)))
    return canvas * _sampled(lit, mx.arange(len(lit)), *places)


def _put(
    bank: Bank, objects: Objects, i: int, rows: np.ndarray, canvas: mx.array, x: mx.array, y: mx.array
) -> tuple[mx.array, mx.array]:
    """Object i of every scene: its shadow, then itself; where it hides what is below it."""
    size, angle = mx.array(objects.size[:, i]), mx.array(objects.angle[:, i])
    there = (size > 0)[:, None, None, None]
    scale = (SPRITE / mx.maximum(size, 1))[:, None, None]
    cos, sin = mx.cos(angle)[:, None, None] * scale, mx.sin(angle)[:, None, None] * scale
    centre, shadow = mx.array(objects.centre[:, i])[:, None, None], mx.array(objects.shadow[:, i])[:, None, None]
    sprite = mx.array(objects.sprite[:, i])

    def local(x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
        return x * cos + y * sin + SPRITE // 2, y * cos - x * sin + SPRITE // 2

    cast = _sampled(
        bank.sprites, sprite, *local(x - centre[..., 0] - shadow[..., 1], y - centre[..., 1] - shadow[..., 2])
    )
    canvas = canvas * (1 - mx.where(there, shadow[..., :1] * cast[..., SOFT : SOFT + 1], 0))
    u, v = local(x - centre[..., 0], y - centre[..., 1])
    planes = _sampled(bank.sprites, sprite, u, v)
    alpha = mx.where(there, planes[..., ALPHA : ALPHA + 1], 0)
    part = planes[..., PART : PART + 1] > 0.5
    skin = mx.where(part, _textured(bank, objects.inner, rows, u, v), _textured(bank, objects.skin, rows, u, v))
    light = mx.array(objects.light[:, i])[:, None, None]
    skin = skin + (planes[..., SLOPE_X : SLOPE_Y + 1] * light).sum(-1, keepdims=True)
    return canvas + (skin - canvas) * alpha, alpha[..., 0] > 0.5


def _sampled(images: mx.array, index: mx.array, u: mx.array, v: mx.array) -> mx.array:
    """Bilinear samples of images (M, H, W, C) at (N, S, S) pixel places, image ``index`` (N,); 0 outside."""
    height, width = images.shape[1:3]
    left, top = mx.floor(u), mx.floor(v)
    total = None
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        column, row = left + dx, top + dy
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = mx.where(inside, (1 - mx.abs(u - column)) * (1 - mx.abs(v - row)), 0)
        place = mx.clip(row, 0, height - 1).astype(mx.int32), mx.clip(column, 0, width - 1).astype(mx.int32)
        found = images[index[:, None, None], place[0], place[1]].astype(mx.float32) * weight[..., None]
        total = found if total is None else total + found
    return total


def _textured(bank: Bank, skins: Skins, rows: np.ndarray, u: mx.array, v: mx.array) -> mx.array:
    """Colours (N, S, S, 3) of things at places of their own; a tile goes on as its mirror image."""
    tile, place = mx.array(skins.tile[rows]), mx.array(skins.place[rows])[:, None, None]
    u, v = (_mirrored(w + place[..., axis]) for axis, w in enumerate((u, v)))
    order = mx.broadcast_to(mx.array(skins.order[rows])[:, None, None], (len(rows), *u.shape[1:], 3))
    cut = mx.take_along_axis(_sampled(bank.tiles, tile, u, v), order, axis=-1)
    mean = mx.take_along_axis(bank.means[tile], mx.array(skins.order[rows]), axis=-1)[:, None, None]
    strength, colour = mx.array(skins.strength[rows])[:, None, None, None], mx.array(skins.colour[rows])[:, None, None]
    return (cut - mean) * strength + (1 - strength) * colour + strength * mean


def _mirrored(u: mx.array) -> mx.array:
    return (TILE - 1) - mx.abs(mx.remainder(u, 2 * (TILE - 1)) - (TILE - 1))


def _finished(canvas: mx.array, finish: Sequence[Finish], seed: int) -> mx.array:
    """Light, blur and noise of each picture, as ``scenes.finish_like``."""

    def each(name: str) -> mx.array:
        return mx.array(np.array([getattr(one, name) for one in finish], np.float32))[:, None, None, None]

    canvas = mx.where(each("grey") > 0, canvas.mean(-1, keepdims=True), canvas)
    canvas = mx.clip((canvas - 128) * each("gain") + 128 + each("offset"), 0, 255)
    for axis in (1, 2):
        canvas = _blurred(canvas, each("blur"), axis)
    colours = mx.random.normal(canvas.shape, key=mx.random.key(seed))
    noise = mx.where(each("coloured_noise") > 0, colours, colours[..., :1])
    return mx.clip(canvas + noise * each("noise"), 0, 255).astype(mx.uint8)


def _blurred(x: mx.array, radius: mx.array, axis: int) -> mx.array:
    """A Gaussian of each picture's radius along an axis; at 0 the picture itself."""
    weights = [mx.where(radius > 0, mx.exp(-(t**2) / (2 * mx.maximum(radius, 0.1) ** 2)), float(t == 0)) for t in TAPS]
    wide = mx.pad(x, [(4, 4) if a == axis else (0, 0) for a in range(4)], mode="edge")
    parts = (weight * mx.take(wide, mx.arange(i, i + x.shape[axis]), axis=axis) for i, weight in enumerate(weights))
    return sum(parts, mx.array(0.0)) / sum(weights, mx.array(0.0))

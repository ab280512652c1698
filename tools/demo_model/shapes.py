"""Outlines of objects: blobs, polygons, glyphs, rings, snakes and composites of them, with holes.

A shape is drawn at twice its size with PIL and reduced, so that its alpha has soft edges.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["KINDS", "draw_shape"]

GLYPHS = "ABCDEFGHKMNPQRSTUVXYZabdefghkmnqrstuxyz0123456789&@#%?!$+*=<>{}"
FONTS = Path("/usr/share/fonts/truetype/dejavu")
# "disc" is drawn too, by the rows of coins
KINDS = ("blob", "polygon", "star", "ellipse", "rectangle", "ring", "snake", "glyph", "composite")
OVER = 2  # drawn this many times larger


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = FONTS / name
    return ImageFont.truetype(str(path), size) if path.is_file() else ImageFont.load_default(size)


def _turned(points: np.ndarray, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _outline(rng: np.random.Generator, kind: str) -> np.ndarray:
    """(N, 2) closed outline within the unit circle, turned at random."""
    if kind == "blob":
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        radius = np.ones(64)
        for k in range(2, 8):
            radius += rng.normal(0, 0.35 / k) * np.cos(k * angles + rng.uniform(0, 2 * np.pi))
        radius = np.clip(radius, 0.15, None)
    elif kind == "polygon":
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))
        radius = rng.uniform(0.5, 1, len(angles))
    elif kind == "star":
        spikes = rng.integers(3, 9)
        angles = np.linspace(0, 2 * np.pi, 2 * spikes, endpoint=False)
        radius = np.where(np.arange(2 * spikes) % 2, rng.uniform(0.3, 0.8), 1.0)
    else:
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        power = 2.0 if kind in ("ellipse", "disc") else rng.uniform(4, 30)
        radius = (np.abs(np.cos(angles)) ** power + np.abs(np.sin(angles)) ** power) ** (-1 / power)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]
    if kind != "disc":
        points *= np.array([1.0, rng.uniform(0.35, 1.0)])
    return _turned(points / np.abs(points).max() * 0.97, rng.uniform(0, 2 * np.pi))


def _pixels(points: np.ndarray, side: int) -> list[tuple[float, float]]:
    scale = side / 2 / max(1.0, np.hypot(*points.T).max())
    return [(float(x), float(y)) for x, y in points * scale + side / 2]


def _glyph(rng: np.random.Generator, side: int) -> Image.Image:
    names = ("DejaVuSans-Bold.ttf", "DejaVuSans.ttf", "DejaVuSerif-Bold.ttf", "DejaVuSansMono-Bold.ttf")
    font = _font(str(rng.choice(names)), max(8, int(side * 0.8)))
    image = Image.new("L", (side, side))
    text = GLYPHS[rng.integers(len(GLYPHS))]
    ImageDraw.Draw(image).text((side / 2, side / 2), text, 255, font, anchor="mm", stroke_width=int(side * 0.02))
    return image.rotate(float(rng.normal(0, 30)), Image.Resampling.BILINEAR)


def _snake(rng: np.random.Generator, side: int) -> Image.Image:
    """A thick curve."""
    steps = 24
    angle, points = rng.uniform(0, 2 * np.pi), [np.zeros(2)]
    turn = rng.normal(0, 0.15)
    for _ in range(steps):
        turn += rng.normal(0, 0.08)
        angle += turn
        points.append(points[-1] + [np.cos(angle), np.sin(angle)])
    line = np.array(points)
    line -= (line.min(0) + line.max(0)) / 2
    line *= 0.42 * side / np.abs(line).max()
    width = max(4.0, side * rng.uniform(0.04, 0.14))
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    dots = [(float(x) + side / 2, float(y) + side / 2) for x, y in line]
    draw.line(dots, 255, int(width), joint="curve")
    for x, y in (dots[0], dots[-1]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), 255)
    return image


def _simple(rng: np.random.Generator, kind: str, side: int) -> Image.Image:
    if kind == "glyph":
        return _glyph(rng, side)
    if kind == "snake":
        return _snake(rng, side)
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    outline = _outline(rng, "ellipse" if kind == "ring" else kind)
    draw.polygon(_pixels(outline, side), 255)
    if kind == "ring":
        draw.polygon(_pixels(outline * rng.uniform(0.4, 0.8), side), 0)
    elif rng.random() < 0.15:
        for _ in range(rng.integers(1, 4)):
            hole = _outline(rng, str(rng.choice(["ellipse", "polygon"])))
            shift = rng.uniform(-0.4, 0.4, 2)
            spots = (hole * rng.uniform(0.12, 0.3) + shift) * side / 2 + side / 2
            draw.polygon([(float(x), float(y)) for x, y in spots], 0)
    return image


def draw_shape(rng: np.random.Generator, kind: str, side: int) -> list[np.ndarray]:
    """Alphas of the shape's parts, each (side, side) float32 in 0..1, later ones on top; one part unless composite."""
    large = OVER * side
    if kind != "composite":
        return [np.asarray(_simple(rng, kind, large).reduce(OVER), np.float32) / 255]
    simple = ("blob", "polygon", "ellipse", "rectangle", "snake", "ring")
    first = _simple(rng, str(rng.choice(simple[:4])), int(large * rng.uniform(0.5, 0.8)))
    body = Image.new("L", (large, large))
    body.paste(first, ((large - first.width) // 2, (large - first.height) // 2))
    parts = [body]
    for _ in range(rng.integers(1, 4)):
        piece = _simple(rng, str(rng.choice(simple)), int(large * rng.uniform(0.25, 0.5)))
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.3) * large
        layer = Image.new("L", (large, large))
        x, y = large / 2 + far * np.cos(angle), large / 2 + far * np.sin(angle)
        layer.paste(piece, (int(x - piece.width / 2), int(y - piece.height / 2)))
        parts.append(layer)
    return [np.asarray(part.reduce(OVER), np.float32) / 255 for part in parts]

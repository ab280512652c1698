"""A bank of textures: crops of free photographs that come with scikit-image, and procedural patterns."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["HELD_OUT", "PHOTOS", "TextureBank", "noise_field"]

# scikit-image 0.26, licences as its docstrings (skimage.data) give them.
PHOTOS = {
    "astronaut": "NASA, public domain",
    "brick": "CC0Textures, CC0",
    "camera": "Lav Varshney, CC0",
    "cell": "CC0",
    "grass": "CC0 (DeviantArt texture as skimage documents it)",
    "gravel": "CC0Textures, CC0",
    "hubble_deep_field": "NASA, public domain",
    "retina": "CC0",
    "rocket": "SpaceX, public domain",
}
HELD_OUT = ("coins", "coffee", "chelsea")  # the model never sees them: evaluation and examples use them
TILE = 384


def _photo(name: str) -> np.ndarray:
    from skimage import data

    photo = getattr(data, name)()
    if photo.ndim == 2:
        photo = np.repeat(photo[..., None], 3, 2)
    return np.ascontiguousarray(photo[..., :3])


def noise_field(rng: np.random.Generator, height: int, width: int, coarsest: int, octaves: int = 4) -> np.ndarray:
    """(H, W) float32 in 0..1: octaves of smooth noise, `coarsest` cells across at first."""
    total = np.zeros((height, width), np.float32)
    decay = rng.uniform(0.35, 0.8)
    for octave in range(octaves):
        cells = min(coarsest * 2**octave, max(height, width))
        grid = Image.fromarray(rng.random((cells, cells), np.float32))
        total += decay**octave * np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC))
    low, high = total.min(), total.max()
    return (total - low) / (high - low + 1e-6)


def _coloured(rng: np.random.Generator, field: np.ndarray) -> np.ndarray:
    """(H, W) in 0..1 -> (H, W, 3) uint8 through two or three random colours."""
    stops = rng.uniform(0, 255, (rng.integers(2, 4), 3)).astype(np.float32)
    at = field * (len(stops) - 1)
    low = np.minimum(at.astype(np.int32), len(stops) - 2)
    part = (at - low)[..., None]
    return (stops[low] * (1 - part) + stops[low + 1] * part).astype(np.uint8)


def _pattern(rng: np.random.Generator) -> np.ndarray:
    """(TILE, TILE) float32 in 0..1."""
    y, x = np.mgrid[:TILE, :TILE].astype(np.float32)
    warp = noise_field(rng, TILE, TILE, 4, 2) * rng.uniform(0, 40)
    angle, period = rng.uniform(0, np.pi), np.exp(rng.uniform(np.log(5), np.log(60)))
    u = (x * np.cos(angle) + y * np.sin(angle) + warp) / period
    v = (-x * np.sin(angle) + y * np.cos(angle) + warp) / period
    kind = rng.integers(7)
    if kind == 0:  # stripes
        return (0.5 + 0.5 * np.sin(2 * np.pi * u)) ** rng.uniform(0.3, 3)
    if kind == 1:  # checks
        return ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    if kind == 2:  # dots
        return np.clip((np.hypot(u % 1 - 0.5, v % 1 - 0.5) - rng.uniform(0.1, 0.4)) * 8, 0, 1)
    if kind == 3:  # bricks
        offset = u + 0.5 * (np.floor(v) % 2)
        return ((offset % 1 > 0.1) & (v % 1 > 0.15)).astype(np.float32)
    if kind == 4:  # cells
        points = rng.uniform(0, TILE, (rng.integers(8, 40), 2)).astype(np.float32)
        nearest = np.argmin([(x - a) ** 2 + (y - b) ** 2 for a, b in points], 0)
        return rng.random(len(points), np.float32)[nearest]
    return noise_field(rng, TILE, TILE, int(rng.choice([2, 4, 8, 24, 64])), int(rng.integers(1, 6)))


class TextureBank:
    """Tiles made once; `sample` cuts and recolours them."""

    def __init__(self, seed: int, photo_tiles: int = 90, pattern_tiles: int = 90):
        rng = np.random.default_rng(seed)
        photos = [_photo(name) for name in PHOTOS]
        self.tiles: list[np.ndarray] = []
        for i in range(photo_tiles):
            photo = photos[i % len(photos)]
            side = int(min(photo.shape[:2]) * np.exp(rng.uniform(np.log(0.25), 0)))
            top, left = (int(rng.integers(0, n - side + 1)) for n in photo.shape[:2])
            crop = Image.fromarray(photo[top : top + side, left : left + side])
            tile = np.asarray(crop.resize((TILE, TILE), Image.Resampling.BICUBIC))
            self.tiles.append(np.ascontiguousarray(np.rot90(tile, rng.integers(4))))
        for _ in range(pattern_tiles):
            self.tiles.append(_coloured(rng, _pattern(rng)))

    def sample(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """(H, W, 3) float32 in about 0..255, at most TILE a side: a cut, mixed towards one colour."""
        tile = self.tiles[rng.integers(len(self.tiles))]
        top, left = int(rng.integers(0, TILE - height + 1)), int(rng.integers(0, TILE - width + 1))
        cut = tile[top : top + height, left : left + width].astype(np.float32)
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        cut = cut[..., rng.permutation(3)]
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        if rng.random() < 0.3:  # greys are common in the world
            colour[:] = colour.mean()
        strength = rng.choice([0.05, 0.15, 0.3, 0.6, 1.0], p=[0.2, 0.25, 0.2, 0.15, 0.2])
        return (cut - cut.mean((0, 1))) * strength + (1 - strength) * colour + strength * cut.mean((0, 1))

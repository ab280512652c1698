"""Scenes of cells: clusters of touching cells, told apart by thin outlines only. The demo model has seen none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SIDE = 256


def make_cells(seed: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A picture (side, side, 3) uint8 and its labels (side, side) uint8: 0 background, 1.. a number for each cell."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    inside = np.zeros((side, side), bool)
    for _ in range(random.integers(2, 5)):  # clusters
        cx, cy = random.uniform(0.2, 0.8, 2) * side
        rx, ry = random.uniform(0.14, 0.26, 2) * side
        inside |= ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1
    pitch = side / random.uniform(5, 7)
    places = np.array([(i, j) for i in np.arange(0, side, pitch) for j in np.arange(0, side, pitch)])
    places = places + random.uniform(-0.35, 0.35, places.shape) * pitch
    distance = (x[..., None] - places[:, 0]) ** 2 + (y[..., None] - places[:, 1]) ** 2
    nearest = distance.argmin(axis=-1)
    edge = np.zeros_like(inside)
    edge[:-1] |= nearest[:-1] != nearest[1:]
    edge[:, :-1] |= nearest[:, :-1] != nearest[:, 1:]
    ring = inside ^ np.asarray(Image.fromarray(inside).convert("L").filter(ImageFilter.MinFilter(5))).astype(bool)
    labels = np.zeros((side, side), np.uint8)
    number = 0
    for cell in np.unique(nearest[inside]):
        mask = (nearest == cell) & inside
        if mask.sum() > 60:
            number += 1
            labels[mask] = number
    base, tint = random.uniform(120, 190, 3), random.uniform(-18, 18, 3)
    picture = np.full((side, side, 3), base + random.uniform(20, 50))
    picture[inside] = base + tint
    picture[(edge & inside) | ring] = base + tint - random.uniform(45, 70)
    blurred = np.asarray(Image.fromarray(picture.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7)))
    noisy = blurred + random.normal(0, 5, picture.shape)
    return noisy.clip(0, 255).astype(np.uint8), labels


def write_cells(folder: Path, count: int, seed: int = 0, side: int = SIDE) -> Path:
    """A data set of ``count`` scenes: images/ and masks/ with numbered cells."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(count):
        picture, labels = make_cells(seed + i, side)
        Image.fromarray(picture).save(folder / "images" / f"cells_{i:03d}.png")
        Image.fromarray(labels).save(folder / "masks" / f"cells_{i:03d}.png")
    return folder

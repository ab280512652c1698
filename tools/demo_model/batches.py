"""From the pool of scenes to training batches: crops, turns, colours, and the objects to ask for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

__all__ = ["MEAN", "STD", "Batch", "Pool", "choose_targets", "normalised", "resized"]

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@dataclass
class Batch:
    """B pictures and P objects of each."""

    images: torch.Tensor  # (B, 3, S, S) normalised
    ids: torch.Tensor  # (B, S, S) uint8
    targets: torch.Tensor  # (B * P, S, S) bool: the pixels of the object; empty where none is asked for
    clicks: torch.Tensor  # (B * P, 2) float: for the empty ones, a place on the background, x and y


def normalised(images: np.ndarray) -> torch.Tensor:
    """(B, S, S, 3) uint8 or float 0..255 -> (B, 3, S, S)."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).contiguous().float() / 255
    return (tensor - MEAN) / STD


def choose_targets(
    rng: np.random.Generator, ids: np.ndarray, parts: np.ndarray, count: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """`count` objects of at least `least` visible pixels: masks (count, S, S) bool and background places (count, 2).

    One in ten is a part of a composite object instead, one in sixteen nothing at all.
    """
    objects = np.flatnonzero(np.bincount(ids.ravel(), minlength=256)[1:] >= least) + 1
    pieces = np.flatnonzero(np.bincount(parts.ravel(), minlength=256)[1:] >= least) + 1
    rng.shuffle(objects)
    masks = np.zeros((count, *ids.shape), bool)
    ground = np.argwhere(ids[::4, ::4] == 0) * 4
    places = np.zeros((count, 2), np.float32)
    for n in range(count):
        if len(ground):
            places[n] = ground[rng.integers(len(ground))][::-1]
        if len(objects) == 0 or (len(ground) and rng.random() < 0.06):
            continue
        if len(pieces) and rng.random() < 0.1:
            masks[n] = parts == rng.choice(pieces)
        else:
            masks[n] = ids == objects[n % len(objects)]
    return masks, places


class Pool:
    """Shards written by pool.py, read through the page cache; new shards are found as they appear."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.shards: dict[Path, np.ndarray] = {}
        self.refresh()

    def refresh(self) -> None:
        for path in sorted(self.folder.glob("stills_*.npy")):
            if path not in self.shards and ".partial" not in path.name:
                self.shards[path] = np.load(path, mmap_mode="r")
        if not self.shards:
            raise FileNotFoundError(f"{self.folder} holds no stills_*.npy: run pool.py first")

    def scene(self, rng: np.random.Generator) -> np.ndarray:
        """(SIDE, SIDE, 5) uint8."""
        shard = list(self.shards.values())[rng.integers(len(self.shards))]
        return shard[rng.integers(len(shard))]

    def view(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """(size, size, 5) uint8: a random cut of a random scene, resized, turned and mirrored."""
        scene = self.scene(rng)
        side = scene.shape[0]
        whole = rng.random() < (0.7 if size >= side else 0.25)
        cut = side if whole else int(rng.integers(min(size, 3 * side // 5), side + 1))
        top, left = (int(rng.integers(0, side - cut + 1)) for _ in range(2))
        scene = scene[top : top + cut, left : left + cut]
        if cut != size:
            image = Image.fromarray(np.ascontiguousarray(scene[..., :3])).resize(
                (size, size), Image.Resampling.BILINEAR
            )
            planes = [
                Image.fromarray(np.ascontiguousarray(scene[..., k])).resize((size, size), Image.Resampling.NEAREST)
                for k in (3, 4)
            ]
            scene = np.dstack([np.asarray(image), *(np.asarray(plane) for plane in planes)])
        scene = np.rot90(scene, rng.integers(4))
        return scene[:, ::-1] if rng.random() < 0.5 else scene

    def batch(self, rng: np.random.Generator, size: int, images: int, prompts: int) -> Batch:
        views = [self.view(rng, size) for _ in range(images)]
        least = max(32, size * size // 400)
        chosen = [choose_targets(rng, view[..., 3], view[..., 4], prompts, least) for view in views]
        pixels = np.stack([recoloured(rng, view[..., :3]) for view in views])
        return Batch(
            normalised(pixels),
            torch.from_numpy(np.stack([view[..., 3] for view in views])),
            torch.from_numpy(np.concatenate([masks for masks, _ in chosen])),
            torch.from_numpy(np.concatenate([places for _, places in chosen])),
        )


def resized(scene: np.ndarray, size: int) -> np.ndarray:
    """(n, n, 3 + k) uint8 -> (size, size, 3 + k): colours smoothly, names of objects and parts by the nearest pixel."""
    colours = Image.fromarray(np.ascontiguousarray(scene[..., :3])).resize((size, size), Image.Resampling.BILINEAR)
    planes = [Image.fromarray(np.ascontiguousarray(scene[..., k])) for k in range(3, scene.shape[2])]
    names = [np.asarray(plane.resize((size, size), Image.Resampling.NEAREST)) for plane in planes]
    return np.dstack([np.asarray(colours), *names])


def recoloured(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """(S, S, 3) uint8 -> float32: channels swapped, gains, offset, sometimes grey or inverted."""
    pixels = image[..., rng.permutation(3)].astype(np.float32)
    if rng.random() < 0.15:
        pixels = np.repeat(pixels.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.1:
        pixels = 255 - pixels
    gain, offset = rng.uniform(0.75, 1.25, 3).astype(np.float32), rng.uniform(-25, 25)
    return np.clip((pixels - 128) * gain + 128 + np.float32(offset), 0, 255)

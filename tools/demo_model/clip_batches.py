"""From the pool of clips to training batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from batches import normalised, resized

__all__ = ["ClipBatch", "ClipPool"]


@dataclass
class ClipBatch:
    """B clips of T frames and N objects in all."""

    frames: torch.Tensor  # (T, B, 3, S, S) normalised
    ids: torch.Tensor  # (T, B, S, S) uint8
    clips: torch.Tensor  # (N,) which clip an object belongs to
    targets: torch.Tensor  # (T, N, S, S) bool


class ClipPool:
    """Shards `clips_*.npy` written by pool.py --clips."""

    def __init__(self, folder: Path):
        self.shards = [
            np.load(p, mmap_mode="r") for p in sorted(folder.glob("clips_*.npy")) if ".partial" not in p.name
        ]
        if not self.shards:
            raise FileNotFoundError(f"{folder} holds no clips_*.npy: run pool.py --clips first")

    def view(self, rng: np.random.Generator, size: int, length: int) -> np.ndarray:
        """(length, size, size, 4) uint8: some frames on end, forwards or backwards, cut, mirrored, turned."""
        shard = self.shards[rng.integers(len(self.shards))]
        clip = shard[rng.integers(len(shard))]
        first = int(rng.integers(0, len(clip) - length + 1))
        clip = clip[first : first + length]
        if rng.random() < 0.5:
            clip = clip[::-1]
        side = clip.shape[1]
        cut = side if rng.random() < 0.5 else int(rng.integers(2 * side // 3, side + 1))
        top, left = (int(rng.integers(0, side - cut + 1)) for _ in range(2))
        clip = clip[:, top : top + cut, left : left + cut]
        if cut != size:
            clip = np.stack([resized(frame, size) for frame in clip])
        clip = np.rot90(clip, rng.integers(4), (1, 2))
        return clip[:, :, ::-1] if rng.random() < 0.5 else clip

    def batch(self, rng: np.random.Generator, size: int, clips: int, objects: int, length: int) -> ClipBatch:
        views, owners, targets = [], [], []
        least = max(24, size * size // 900)
        while len(views) < clips:
            view = self.view(rng, size, length)
            seen = np.flatnonzero(np.bincount(view[0, ..., 3].ravel(), minlength=256)[1:] >= least) + 1
            if len(seen) == 0:
                continue
            rng.shuffle(seen)
            for name in seen[:objects]:
                owners.append(len(views))
                targets.append(view[..., 3] == name)
            views.append(view)
        stack = np.stack(views, 1)  # (T, B, S, S, 4)
        colours = stack[..., :3].astype(np.float32)[..., rng.permutation(3)]
        gain, offset = rng.uniform(0.75, 1.25, 3).astype(np.float32), np.float32(rng.uniform(-25, 25))
        colours = np.clip((colours - 128) * gain + 128 + offset, 0, 255)
        frames = torch.stack([normalised(frame) for frame in colours])
        return ClipBatch(
            frames,
            torch.from_numpy(np.ascontiguousarray(stack[..., 3])),
            torch.tensor(owners),
            torch.from_numpy(np.stack(targets, 1)),
        )

"""A pool of scenes on disk: shards of uint8 arrays, rendered once, read many times.

    python tools/demo_model/pool.py FOLDER --shards 20 --first 0

A shard `stills_0007.npy` is (N, SIDE, SIDE, 5): red, green, blue, object id, part id; `clips_0007.npy` (with --clips)
is (N, T, SIDE, SIDE, 4) without parts. The number is the seed; evaluation uses numbers from EVAL_FIRST on, which
training never renders.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from clips import make_clip
from scenes import SIDE, make_scene
from textures import TextureBank

__all__ = ["EVAL_FIRST", "SCENES_PER_SHARD", "render_clips", "render_stills", "seed_of"]

SCENES_PER_SHARD = 1000
CLIPS_PER_SHARD, CLIP_LENGTH = 100, 10
EVAL_FIRST = 900_000  # shard numbers from here on belong to the evaluation


def seed_of(shard: int, index: int) -> np.random.Generator:
    return np.random.default_rng([shard, index])


def render_stills(shard: int, count: int = SCENES_PER_SHARD) -> np.ndarray:
    """(count, SIDE, SIDE, 5) uint8: the scenes of one shard."""
    bank = TextureBank(shard)
    out = np.empty((count, SIDE, SIDE, 5), np.uint8)
    for i in range(count):
        scene = make_scene(seed_of(shard, i), bank)
        out[i, ..., :3], out[i, ..., 3], out[i, ..., 4] = scene.image, scene.ids, scene.parts
    return out


def render_clips(shard: int, count: int = CLIPS_PER_SHARD, length: int = CLIP_LENGTH) -> np.ndarray:
    """(count, length, SIDE, SIDE, 4) uint8."""
    bank = TextureBank(shard)
    out = np.empty((count, length, SIDE, SIDE, 4), np.uint8)
    for i in range(count):
        clip = make_clip(seed_of(shard, i), bank, length)
        out[i, ..., :3], out[i, ..., 3] = clip.frames, clip.ids
    return out


def save(array: np.ndarray, path: Path) -> None:
    """Under another name first: a reader never meets half a shard."""
    partial = path.with_suffix(".partial.npy")
    np.save(partial, array)
    os.replace(partial, path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shards", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number, and seed, of the first shard")
    parser.add_argument("--clips", action="store_true", help="clips rather than stills")
    options = parser.parse_args(argv)
    name, render = ("clips", render_clips) if options.clips else ("stills", render_stills)
    options.folder.mkdir(parents=True, exist_ok=True)
    for shard in range(options.first, options.first + options.shards):
        path = options.folder / f"{name}_{shard:04d}.npy"
        if not path.exists():
            save(render(shard), path)
            print(path, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

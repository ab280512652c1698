"""``python -m mlx_sam2.track`` as tests run it: a short clip, the process, what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import synthetic
from mlx_sam2.frames.sinks import davis_palette

NUM_FRAMES, HEIGHT, WIDTH = 6, 72, 96
PIXEL_ASPECT = Fraction(16, 11)  # of the fixture mp4
POINT, BOX = (40, 30), (50, 20, 90, 60)
NOT_LOADED = "no-such/model"  # a Hub id: whatever is refused with it is refused before the model is looked for


def frames_of_clip(count: int = NUM_FRAMES, seed: int = 5) -> list[np.ndarray]:
    picture = synthetic.picture(HEIGHT + 40, WIDTH + 80, seed)
    return [picture[i % 40 :][:HEIGHT, 2 * (i % 40) :][:, :WIDTH] for i in range(count)]


def write_frames(folder: Path, count: int = NUM_FRAMES, seed: int = 5) -> Path:
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames_of_clip(count, seed)):
        Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=95)
    return folder


def command(*args: Any) -> list[str]:
    return [sys.executable, "-m", "mlx_sam2.track", *map(str, args)]


def run(*args: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, check=False, cwd=cwd, env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def succeeded(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def failed(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The error's one line, without the name of the command."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("mlx_sam2.track: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("mlx_sam2.track: error: ").rstrip()


def merged(ids: list[int], logits: np.ndarray) -> np.ndarray:
    """The indexed picture of masks: the lowest id on top."""
    indices = np.zeros(logits.shape[2:], np.uint8)
    for obj, mask in sorted(zip(ids, logits[:, 0] > 0, strict=True), key=lambda pair: -pair[0]):
        indices[mask] = obj
    return indices


def write_indexed(path: Path, indices: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(davis_palette())
    image.save(path)
    return path


def two_objects() -> np.ndarray:
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[10:40, 10:40] = 1
    indices[30:60, 50:90] = 2
    return indices


def num_decodable(path: Path) -> int:
    import av

    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))

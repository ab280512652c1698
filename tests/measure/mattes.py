"""Time and memory of mattes on a frame of 4K: python tests/measure/mattes.py [--size WIDTHxHEIGHT] [--objects N]

An object covers a third of the frame. Memory is the peak of numpy's arrays while a step runs, without those that were
there before; time is the best of three runs.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np

import _paths  # noqa: F401
from mlx_sam2.frames.smoothing import MatteFrame, Smoother, patch_of
from mlx_sam2.images.filters import guided_filter
from mlx_sam2.images.matte import Edges, alpha, decontaminated, refined_mask

RUNS = 3


def measured(step: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and MB at the peak."""
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    tracemalloc.start()
    step()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds), peak / 1e6


def smooth(frames: list[MatteFrame], reach: int) -> None:
    smoother = Smoother(reach)
    for frame in frames:
        list(smoother.push(frame))
    list(smoother.flush())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="3840x2160", metavar="WIDTHxHEIGHT")
    parser.add_argument("--objects", type=int, default=1, metavar="N")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:256, :256]
    low = (80 - np.hypot(y - 128, x - 128)).astype(np.float32)
    edges = Edges("guided")
    matte = alpha(low, photo, edges)
    mattes = {n: patch_of(matte) for n in range(options.objects)}
    frames = [MatteFrame(i, i / 25, photo, mattes) for i in range(6)]
    radius = edges.radius_for((height, width))
    steps: dict[str, Callable[[], Any]] = {
        "guided filter, the whole frame": lambda: guided_filter(matte, photo, radius, 1e-4),
        "matte, soft": lambda: alpha(low, photo, Edges("soft")),
        "matte, guided": lambda: alpha(low, photo, edges),
        "matte, guided, every option": lambda: alpha(low, photo, Edges("guided", 8, None, 2, 4, 100, 100)),
        "mask, grown by 4": lambda: refined_mask(matte > 0.5, Edges(grow=4)),
        "colours without the background's": lambda: decontaminated(photo, matte),
        "6 frames, smoothed over 2 + 1 + 2": lambda: smooth(frames, 2),
    }
    print(f"{width}x{height}, radius {radius}, {options.objects} objects; a frame is {photo.nbytes / 1e6:.0f} MB")
    print(f"{'':36}{'seconds':>9}{'MB':>8}")
    for name, step in steps.items():
        seconds, peak = measured(step)
        print(f"{name:36}{seconds:9.2f}{peak:8.0f}")


if __name__ == "__main__":
    main()

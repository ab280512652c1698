"""Print what a second pass over a video costs, beside the first, and the bytes of a frame that is kept for it.

python tests/measure/second_pass.py [--model demo|tiny] [--frames N] [--cache memory|disk]

The model is the shipped one, or SAM 2.1 tiny with random weights (it takes the time that trained ones take). One object
is followed through a clip of moving discs; the first pass encodes every frame, the second one none.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import json
import time

import numpy as np

import mlx_sam2
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.feature_cache import frame_bytes

import synthetic  # isort: skip

REPEATS = 3


def clip(length: int) -> list[np.ndarray]:
    picture = synthetic.picture(360, 640 + 4 * length)
    return [np.ascontiguousarray(picture[:, 4 * i : 4 * i + 640]) for i in range(length)]


def measure(model: SAM2, frames: int, cache: str | None) -> dict[str, float]:
    predictor = SAM2VideoPredictor(model, feature_cache=cache)
    runs, same = [], True
    for length in (2, *[frames] * REPEATS):  # first to warm up
        with predictor.init_state(clip(length)) as state:
            predictor.add_new_points_or_box(state, 0, 1, points=[[320, 180]], labels=[1])
            times, outputs = [], []
            for _ in range(2):
                start, start_cpu = time.perf_counter(), time.process_time()
                outputs.append([masks for _, _, masks in predictor.propagate_in_video(state)])
                times += [time.perf_counter() - start, time.process_time() - start_cpu]
            runs.append(times)
            same &= all(np.array_equal(a, b) for a, b in zip(*outputs, strict=True))
    first, first_cpu, second, second_cpu = np.min(runs[1:], axis=0)  # the least disturbed ones
    return {
        "first_s": round(first, 3),
        "second_s": round(second, 3),
        "share": round(second / first, 3),
        "share_of_cpu_time": round(second_cpu / first_cpu, 3),  # what counts on a busy machine
        "bytes_a_frame": frame_bytes(model.config, model.dtype.size),
        "same_bits": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["demo", "tiny"], default="demo")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--cache", choices=["memory", "disk"], default="memory")
    args = parser.parse_args()
    model = mlx_sam2.load("demo") if args.model == "demo" else SAM2(SAM2Config()).eval()
    print(json.dumps(measure(model, args.frames, None if args.cache == "memory" else "disk")))


if __name__ == "__main__":
    main()

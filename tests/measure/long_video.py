"""Track objects through a long synthetic video and print how resident memory grows, as one JSON line.

python tests/measure/long_video.py --frames 10000 --mode disk      (or ram, or stream)
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

import synthetic


class MovingPicture(Sequence):
    """A picture that shifts by a pixel from frame to frame; frames are made when they are asked for."""

    def __init__(self, length: int, height: int = 90, width: int = 120):
        self.length = length
        self.picture = synthetic.picture(height, width)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> np.ndarray:
        if not 0 <= i < self.length:
            raise IndexError(i)
        return np.roll(self.picture, i % self.picture.shape[1], axis=1)


def resident_mb() -> float:
    """Resident memory of this process now (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def track(mode: str, frames: int, objects: int, image_size: int) -> Iterator[np.ndarray]:
    """Yields the masks of every frame."""
    from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

    model = synthetic.nano_model()
    config = dataclasses.replace(model.config.with_postprocessing(True, video=True), image_size=image_size)
    predictor = SAM2VideoPredictor(model.with_config(config), fill_hole_area=8, feature_cache="off")
    video = MovingPicture(frames)
    points = [[[20 + 15 * i, 30 + 5 * i]] for i in range(objects)]
    if mode == "stream":
        with predictor.stream(video[i] for i in range(frames)) as stream:
            for frame_idx, _, masks in stream:
                for i in range(objects) if frame_idx == 0 else ():
                    masks = stream.add_new_points_or_box(i, points=points[i], labels=[1])[2]
                yield masks
        return
    with predictor.init_state(video, memory=mode) as state:
        for i in range(objects):
            predictor.add_new_points_or_box(state, 0, i, points=points[i], labels=[1])
        for _, _, masks in predictor.propagate_in_video(state):
            yield masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--mode", choices=("disk", "ram", "stream"), default="disk")
    parser.add_argument("--objects", type=int, default=1)
    parser.add_argument("--image-size", type=int, default=256)
    args = parser.parse_args()
    start, resident = time.time(), {}
    for i, _ in enumerate(track(args.mode, args.frames, args.objects, args.image_size)):
        if i and i % max(args.frames // 10, 1) == 0:
            resident[i] = round(resident_mb(), 1)
            print(f"frame {i}: {resident[i]} MB, {(time.time() - start) / i * 1e3:.0f} ms a frame", file=sys.stderr)
    print(json.dumps({**vars(args), "resident_mb": resident, "seconds": round(time.time() - start, 1)}))


if __name__ == "__main__":
    main()

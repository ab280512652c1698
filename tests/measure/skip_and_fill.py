"""Print how far masks of ``track --every-nth N --fill`` agree with those of the full run, and the time that they take.

python tests/measure/skip_and_fill.py          (a minute on a CPU)

The demo model on the films of tests/support/demo_scenes.py, each object given by its mask on the first frame. IoU is
the mean over objects and frames: with the full run, and with the objects that the films were made of.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import time
from collections.abc import Iterable

import numpy as np

import mlx_sam2
from mlx_sam2.frames.source import SequenceSource
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.track.fill import track_sampled
from mlx_sam2.track.prompts import ObjectPrompt
from mlx_sam2.track.run import Plan, TrackedFrame, track_session

import demo_scenes as scenes  # isort: skip

FILMS = {
    "crossing, in front": lambda: scenes.crossing(True),
    "crossing, behind": lambda: scenes.crossing(False),
    "out and back": scenes.out_and_back,
}


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def timed(run: Iterable[TrackedFrame]) -> tuple[dict[int, TrackedFrame], float]:
    start = time.process_time()
    found = {frame.index: frame for frame in run}
    return found, time.process_time() - start


def main() -> None:
    predictor = SAM2VideoPredictor(mlx_sam2.load("demo"), fill_hole_area=8)
    print(f"{'film':20} {'every':>5} {'with full run':>13} {'filled only':>11} {'true IoU':>8} {'CPU time':>8}")
    for name, make in FILMS.items():
        frames, names = make()
        objects = [int(n) for n in np.unique(names[0]) if n]
        prompts = [ObjectPrompt(n, 0, mask=names[0] == n) for n in objects]
        plan = Plan(prompts, 0, len(frames), reverse=False)
        source = SequenceSource(list(frames))
        full, seconds = timed(track_session(predictor, source, plan, "ram"))
        for nth in (1, 2, 3, 4):
            run = track_sampled(predictor, source, plan, "ram", nth, True)
            found, time_taken = (full, seconds) if nth == 1 else timed(run)
            pairs = [(t, n) for t in found for n in objects]
            same = {(t, n): iou(found[t].masks[n], full[t].masks[n]) for t, n in pairs}
            filled = [same[t, n] for t, n in pairs if found[t].filled]
            true = np.mean([iou(found[t].masks[n], names[t] == n) for t, n in pairs])
            between = f"{np.mean(filled):.3f}" if filled else "-"
            print(
                f"{name:20} {nth:5} {np.mean(list(same.values())):13.3f} {between:>11} {true:8.3f} "
                f"{time_taken / seconds:8.2f}"
            )


if __name__ == "__main__":
    main()

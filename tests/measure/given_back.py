"""Tracking that goes on from masks of an earlier session (``add_tracked_mask``), beside one that was never interrupted.

    python tests/measure/given_back.py [VIDEO] [--point X,Y] [--model demo]

The object gets a click on frame 0. Half way the session ends; another one gets the prompt, and then nothing more, or
the masks so far. The table has the mean IoU of the second half with that of the whole run.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
from pathlib import Path

import numpy as np

import mlx_sam2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.memory_bank import recall_distance
from mlx_sam2.video.policies import NAMES

CLIP = Path(__file__).parents[2] / "examples" / "clip.mp4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", default=str(CLIP))
    parser.add_argument("--point", default="65,105")
    parser.add_argument("--model", default="demo")
    args = parser.parse_args()
    point = [float(value) for value in args.point.split(",")]
    print(f"mlx_sam2 {mlx_sam2.__version__}: {args.video}, {args.model}; IoU of the second half with the whole run\n")
    print(f"{'policy':10} {'prompt alone':>14} {'masks given back':>18}")
    for policy in NAMES:
        predictor = SAM2VideoPredictor.from_pretrained(args.model, memory_policy=policy)
        alone, given = compared(predictor, args.video, point)
        print(f"{policy:10} {alone:14.4f} {given:18.4f}")


def compared(predictor: SAM2VideoPredictor, video: str, point: list[float]) -> tuple[float, float]:
    with predictor.init_state(video) as state:
        whole, half = followed(predictor, state, point), state.num_frames // 2
        scores = {t: state.scores(t)[1] for t in whole}
    with predictor.init_state(video) as state:
        alone = followed(predictor, state, point, half)
    with predictor.init_state(video) as state:
        for t in range(max(half - recall_distance(predictor.model.config), 1), half):
            predictor.add_tracked_mask(state, t, 1, whole[t], scores[t])
        given = followed(predictor, state, point, half)
    return mean_iou(alone, whole), mean_iou(given, whole)


def followed(predictor: SAM2VideoPredictor, state: object, point: list[float], start: int = 0) -> dict[int, np.ndarray]:
    predictor.add_new_points_or_box(state, 0, 1, points=[point], labels=[1])
    return {t: logits[0, 0] > 0 for t, _, logits in predictor.propagate_in_video(state, start)}


def mean_iou(masks: dict[int, np.ndarray], true: dict[int, np.ndarray]) -> float:
    ious = [(mask & true[t]).sum() / max((mask | true[t]).sum(), 1) for t, mask in masks.items()]
    return float(np.mean(ious))


if __name__ == "__main__":
    main()

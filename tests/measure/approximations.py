"""Print what every approximation of the tracker costs in agreement, and what it gains, a row each.

python tests/measure/approximations.py [--frames N]          (minutes on a CPU)

Agreement is the mean IoU of masks with those of the same run without approximations; the true IoU is with the objects
that the films were made of. Both are of the demo model (256 x 256 pixels, trained on scenes like these) on the films
of tests/support/demo_scenes.py, each object given by its mask on the first frame. Published models see 1024 x 1024
pixels: a share of the image size stands for the same share of that. Gains are modelled, for SAM 2.1 tiny in float16
on an M2 Max: encoding of the image and tracking of one object with a full memory bank.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import dataclasses
import json
from typing import Any

import mlx_sam2
from mlx_sam2.benchmark import roofline, stages
from mlx_sam2.machine import CHIPS
from mlx_sam2.model.results import ImageFeatures
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

import demo_scenes as scenes  # isort: skip
import mlx.core as mx
import numpy as np

CHIP, SIZE, DTYPE = "M2 Max", "tiny", "float16"
STRIDE = "memory_temporal_stride_for_eval"
ROWS: dict[str, dict[str, Any]] = {  # as they would be given to `track`; sizes are shares of the trained one
    "none": {},
    "image size 3/4": {"image_size": 0.75},
    "image size 1/2": {"image_size": 0.5},
    "--memory-pooling 2": {"memory_pooling": 2},
    "--memory-pooling 4": {"memory_pooling": 4},
    "--max-memories 4": {"max_memories": 4},
    "--max-memories 2": {"max_memories": 2},
    "--memory-stride 2": {STRIDE: 2},
    "--memory-stride 4": {STRIDE: 4},
    "--static 2": {"static_threshold": 2.0},
    "--static 8": {"static_threshold": 8.0},
    "--memory-pooling 2 --max-memories 4": {"memory_pooling": 2, "max_memories": 4},
}


def pausing() -> tuple[np.ndarray, np.ndarray]:
    """Two objects that stop for half of the film and go on."""

    def at(t: float) -> scenes.Place:
        moved = min(t, 0.25) + max(t - 0.75, 0)
        return 60 + 200 * moved, 110 + 40 * moved, 1.0, 0.0

    other = scenes.Actor(4, lambda t: (190 - 120 * (min(t, 0.25) + max(t - 0.75, 0)), 190, 0.9, 0.0))
    return scenes.film(1, [scenes.Actor(0, at), other], 19)


FILMS = {
    "in front": lambda: scenes.crossing(True),
    "behind": lambda: scenes.crossing(False),
    "out and back": scenes.out_and_back,
    "swap": lambda: scenes.swap(False),
    "pause": pausing,
}


def configured(model: SAM2, options: dict[str, Any]) -> tuple[SAM2, dict[str, Any]]:
    """The model under its options of a row, and those left for the predictor."""
    rest = dict(options)
    mine = {STRIDE: rest.pop(STRIDE)} if STRIDE in rest else {}
    if "image_size" in rest:
        mine["image_size"] = round(rest.pop("image_size") * model.config.image_size)
    return (model.with_config(dataclasses.replace(model.config, **mine)) if mine else model), rest


def tracked(model: SAM2, options: dict[str, Any], film: tuple[np.ndarray, np.ndarray], count: int) -> np.ndarray:
    """Masks (frames - 1, objects, H, W) bool of every frame but the first."""
    model, rest = configured(model, options)
    frames, names = film
    predictor = SAM2VideoPredictor(model, fill_hole_area=8, **rest)
    with predictor.init_state(list(frames[:count]), memory="ram") as state:
        for obj in (1, 2):
            predictor.add_new_mask(state, 0, obj, names[0] == obj)
        return np.stack([masks[:, 0] > 0 for _, _, masks in predictor.propagate_in_video(state)])[1:]


def mean_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Over frames and objects; two empty masks agree."""
    union = (a | b).sum(axis=(2, 3))
    return float(np.where(union == 0, 1.0, (a & b).sum(axis=(2, 3)) / np.maximum(union, 1)).mean())


def modelled_ms(model: SAM2, options: dict[str, Any]) -> float:
    """Modelled milliseconds of a frame with one object; a frame that is static, where these are looked for."""
    model, rest = configured(model, options)
    config = model.config
    side, size, width, dtype = config.embedding_size, config.image_size, config.neck.d_model, model.dtype
    finer = tuple(mx.zeros((1, n * side, n * side, width // d), dtype) for n, d in ((4, 8), (2, 4)))
    features = ImageFeatures(mx.zeros((1, side, side, width), dtype), finer)
    count, pointers = rest.get("max_memories", config.num_maskmem), config.max_obj_ptrs_in_encoder
    memories = mx.zeros((1, count, side, side, config.memory_encoder.out_dim), mx.bfloat16)
    times, ages = mx.array([list(range(count))]), mx.zeros((1, pointers))
    pooling, remember = rest.get("memory_pooling", 1), "static_threshold" not in rest
    mx.eval(features.arrays(), times, ages)

    def frame(memories: mx.array, pointers: mx.array) -> tuple[mx.array, ...]:
        found, memory = model.track(features, memories, times, pointers, ages, None, True, pooling, remember)
        return found.low_res_mask, found.pointer, found.object_score, *([memory] if remember else [])

    def encode(pixels: mx.array) -> tuple[mx.array, ...]:
        return tuple(model.encode_image(pixels).arrays())

    chip = CHIPS[CHIP]
    parts = (frame, (memories, mx.zeros((1, pointers, width)))), (encode, (mx.zeros((1, size, size, 3), dtype),))
    return sum(roofline.cost(roofline.trace(function, *examples), chip).milliseconds for function, examples in parts)


def measure(count: int) -> list[dict[str, Any]]:
    demo, published = mlx_sam2.load("demo", dtype="float32"), stages.build_model(SIZE, None, DTYPE)
    films = {name: make() for name, make in FILMS.items()}
    exact = {name: tracked(demo, {}, film, count) for name, film in films.items()}
    whole = modelled_ms(published, {})
    rows = []
    for label, options in ROWS.items():
        agreement, true = [], []
        for name, film in films.items():
            found = tracked(demo, options, film, count) if options else exact[name]
            truth = np.stack([film[1][1:count] == obj for obj in (1, 2)], axis=1)
            agreement.append(mean_iou(found, exact[name]))
            true.append(mean_iou(found, truth))
        spent = modelled_ms(published, options)
        row = {"agreement": round(float(np.mean(agreement)), 4), "least": round(min(agreement), 4)}
        row |= {"true_iou": round(float(np.mean(true)), 4), "modelled_ms": round(spent, 2)}
        rows.append({"approximation": label, **row, "of_exact": round(spent / whole, 3)})
        print(
            f"| {label} | {row['agreement']:.3f} | {row['least']:.3f} | {row['true_iou']:.3f} | {spent:.1f} "
            f"| {spent / whole:.2f} |",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=19, help="of each film, at most; default: %(default)s")
    args = parser.parse_args()
    print(
        "| approximation | agreement | worst film | true IoU | modelled ms | of exact |",
        "|---|---|---|---|---|---|",
        sep="\n",
    )
    print(json.dumps(measure(args.frames)))


if __name__ == "__main__":
    main()

"""How far half precision moves EdgeTAM, part by part: ours, and transformers' on the same weights.

    python tests/measure/edgetam_half.py

Our trunk computes in float32, whatever the model's precision. Synthetic weights of ``edgetam_nano``: as they are, with
batch norms calibrated on pictures, and with residual branches of half their strength besides. A movement is the root
mean square of a difference from float32 over that of the values (of an IoU: not divided), the mean of two pictures.
Theirs needs torch, transformers and timm. The second table has each block of our trunk alone in half precision, from
float32 input; and what it makes of a relative noise in that input. Products of halves are summed in float32, as on a
GPU.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_map

import half_precision
import synthetic_edgetam
from mlx_sam2.model.repvit import RepViT
from mlx_sam2.model.sam2 import SAM2
from transformers_edgetam import channels_first, image_model, pictures

DTYPES = "float16", "bfloat16"
POINTS, LABELS = [[70.0, 120.0], [200.5, 31.0]], [1, 0]
PARTS = [*(f"stage {i}" for i in range(4)), "neck, stride 4", "neck, stride 8", "neck, stride 16", "logits", "IoU"]
NOISE = 1e-3
WEIGHTS: dict[str, Callable[[mx.array], SAM2]] = {
    "as they are": lambda pixels: synthetic_edgetam.nano_model(),
    "calibrated": synthetic_edgetam.calibrated_model,
    "calibrated, half the residuals": lambda pixels: synthetic_edgetam.calibrated_model(pixels, 0.5),
}


def moved(x: Any, whole: Any, is_score: bool = False) -> float:
    """Root mean square of a difference, over that of what it is taken from if this is no score."""
    x, whole = (np.array(v.astype(mx.float32)) if isinstance(v, mx.array) else v.float().numpy() for v in (x, whole))
    return float(np.sqrt(np.square(x - whole).mean() / (1 if is_score else np.square(whole).mean())))


def ours(model: SAM2, dtype: mx.Dtype, pixels: np.ndarray) -> list[mx.array]:
    """The parts of one picture."""
    model = half_precision.in_dtype(model, dtype)
    encoder = model.image_encoder
    image = encoder.entry(mx.array(pixels))
    with half_precision.summed_in_float32():
        stages = encoder.trunk(image, encoder.prepared(image))
        levels = encoder(image, encoder.prepared(image))
        found = model.predict_masks(model.encode_image(image), mx.array([POINTS]), mx.array([LABELS]))
        return [*stages, *levels, *found]


def ours_all_half(model: SAM2, dtype: mx.Dtype, pixels: np.ndarray) -> list[mx.array]:
    """As ``ours``, with the trunk in half precision as well."""
    kept = RepViT.precision
    try:
        RepViT.precision = None
        return ours(model, dtype, pixels)
    finally:
        RepViT.precision = kept


def theirs(state: dict[str, np.ndarray], dtype: Any, pixels: np.ndarray) -> list[Any]:
    import torch

    model = image_model(state).to(dtype)
    image = channels_first(pixels).to(dtype)
    points, labels = torch.tensor([[POINTS]], dtype=dtype), torch.tensor([[LABELS]])
    with torch.no_grad():
        stages = model.vision_encoder.backbone(image).last_hidden_state
        levels = model.vision_encoder(image).fpn_hidden_states
        found = model(pixel_values=image, input_points=points, input_labels=labels)
    return [*stages, *levels, found.pred_masks, found.iou_scores]


def mean_movement(run: Callable[[Any, np.ndarray], list[Any]], whole: Any, dtype: Any) -> list[float]:
    found = []
    for seed in range(2):
        pixels = pictures(range(seed, seed + 1))
        pairs = zip(PARTS, run(dtype, pixels), run(whole, pixels), strict=True)
        found.append([moved(a, b, part == "IoU") for part, a, b in pairs])
    return [float(np.mean(of_part)) for of_part in zip(*found, strict=True)]


def blocks(trunk: RepViT, pixels: mx.array, dtype: mx.Dtype) -> Iterator[tuple[str, float, float]]:
    """Name of each block, how far half precision moves it alone, and its factor on relative noise of its input."""
    stem, *stages = trunk.body.parts()
    first, *folds = trunk.prepared(pixels)
    todo = [("stem", stem, first)]
    for i, (stage, (before, of_blocks)) in enumerate(zip(stages, folds, strict=True)):
        todo += [(f"stage {i}, down", stage.downsample, before)] if "downsample" in stage else []
        todo += [(f"stage {i}, {j}", *pair) for j, pair in enumerate(zip(stage.blocks, of_blocks, strict=True))]
    for name, part, fold in todo:
        whole = part(pixels, fold)
        half = part(pixels.astype(dtype), tree_map(lambda x: x.astype(dtype), fold))
        noisy = part(pixels * (1 + NOISE * mx.random.normal(pixels.shape, key=mx.random.key(0))), fold)
        yield name, moved(half, whole), moved(noisy, whole) / NOISE
        pixels = whole


def main() -> None:
    calibration = mx.array(pictures(range(10, 18)))
    has_theirs = all(importlib.util.find_spec(name) for name in ("torch", "transformers", "timm"))
    if has_theirs:
        import torch

        import timm_alone

        timm_alone.import_timm()
    else:
        print("theirs is left out: torch, transformers or timm is missing\n")
    print("| weights | dtype | whose | " + " | ".join(PARTS) + " |\n|---|---|---" + "|---" * len(PARTS) + "|")
    for weights, make in WEIGHTS.items():
        model = make(calibration)
        state = synthetic_edgetam.trunk_state(model)
        for dtype in DTYPES:
            rows = {
                whose: mean_movement(lambda d, x, m=model, f=run: f(m, d, x), mx.float32, getattr(mx, dtype))
                for whose, run in (("ours", ours), ("ours, trunk half too", ours_all_half))
            }
            if has_theirs:
                run = lambda d, x, s=state: theirs(s, d, x)  # noqa: E731
                rows["transformers"] = mean_movement(run, torch.float32, getattr(torch, dtype))
            for whose, row in rows.items():
                print(f"| {weights} | {dtype} | {whose} | " + " | ".join(f"{x:.4f}" for x in row) + " |", flush=True)
    print("\n| block alone | float16 | bfloat16 | factor on noise |\n|---|---|---|---|")
    trunk, picture = synthetic_edgetam.nano_model().image_encoder.trunk, mx.array(pictures(range(1)))
    with half_precision.summed_in_float32():
        for half, brain in zip(*(blocks(trunk, picture, getattr(mx, dtype)) for dtype in DTYPES), strict=True):
            print(f"| {half[0]} | {half[1]:.5f} | {brain[1]:.5f} | {half[2]:.2f} |")


if __name__ == "__main__":
    main()

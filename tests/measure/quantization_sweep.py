"""Which parts of a model 4 bits hurt: agreement with float32 against size, a row for each part packed alone.

    python tests/measure/quantization_sweep.py [MODEL] [--clip examples/clip.mp4 --point 65,105]

Masks of clicks on a grid over two photos, and those of an object in a clip, all computed in float32 from what packed
weights stand for. Parts whose mean IoU with 4 bits is below ``ENOUGH`` belong into 8 bits: that is how the recipe
``mixed`` of ``model/quantization.py`` was chosen. The last rows are whole recipes.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
import re

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from mlx_sam2 import images
from mlx_sam2.checkpoint import loading
from mlx_sam2.model import quantization
from mlx_sam2.model.quantization import Scheme
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

ENOUGH = 0.99
PHOTOS = ("examples/coins.png", "examples/coffee.jpg")
SIDE = 6  # clicks of a photo's grid
MEMORY = r"memory_attention\.layers\.\d+\."


def parts_of(model: SAM2) -> dict[str, str]:
    """Names of parts, and patterns of their layers."""
    found = {}
    ends = getattr(model.config.trunk, "stage_end_indices", ())
    for stage, end in enumerate(ends):
        blocks = "|".join(map(str, range(ends[stage - 1] + 1 if stage else 0, end + 1)))
        for kind, name in (("attn", "attention"), ("mlp", "MLPs")):
            found[f"trunk, stage {stage}, {name}"] = rf"image_encoder\.trunk\.blocks\.({blocks})\.{kind}\..*"
    found["memory, self-attention"] = MEMORY + r"self_attn\.out_proj"
    found["memory, cross-attention"] = MEMORY + r"cross_attn_image\.out_proj"
    found["memory, first of MLP"] = MEMORY + "linear1"
    found["memory, second of MLP"] = MEMORY + "linear2"
    return found


def packed(name: str, schemes: dict[str, Scheme]) -> tuple[SAM2, float]:
    """A model with layers packed and unpacked again, and the megabytes that float16 and packing take together."""
    model = loading.load(name, dtype="float32")
    quantization.quantize(model, schemes)
    sizes = [v.nbytes if v.dtype == mx.uint32 else v.size * 2 for _, v in tree_flatten(model.parameters())]
    quantization.unquantize(model)
    return model, sum(sizes) / 1e6


def clicks(model: SAM2) -> list[np.ndarray]:
    predictor, found = SAM2ImagePredictor(model), []
    for photo in PHOTOS:
        picture = images.read(photo)
        predictor.set_image(picture)
        height, width = picture.shape[:2]
        grid = [((x + 0.5) / SIDE * width, (y + 0.5) / SIDE * height) for y in range(SIDE) for x in range(SIDE)]
        for point in grid:
            masks, scores, _ = predictor.predict(point_coords=np.array([point]), point_labels=np.array([1]))
            found.append(masks[scores.argmax()] > 0)
    return found


def tracked(model: SAM2, clip: str, point: list[float]) -> list[np.ndarray]:
    predictor = SAM2VideoPredictor(model)
    with predictor.init_state(clip) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[point], labels=[1])
        return [masks[0, 0] > 0 for _, _, masks in predictor.propagate_in_video(state)]


def agreement(ours: list[np.ndarray], theirs: list[np.ndarray]) -> tuple[float, float]:
    """Mean and smallest IoU."""
    found = [(a & b).sum() / max((a | b).sum(), 1) if (a | b).any() else 1.0 for a, b in zip(ours, theirs, strict=True)]
    return float(np.mean(found)), float(np.min(found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="demo")
    parser.add_argument("--clip", default="examples/clip.mp4")
    parser.add_argument("--point", default="65,105")
    args = parser.parse_args()
    point = [float(x) for x in args.point.split(",")]
    plain, whole = packed(args.model, {})
    expected = clicks(plain), tracked(plain, args.clip, point)
    everything = quantization.plan(plain, Scheme(64, 8))[0]
    print(f"{args.model}: {whole:.2f} MB in float16\n")
    print(
        "| part | bits | MB | clicks, mean IoU | smallest | clip, mean IoU | smallest |\n|---|---|---|---|---|---|---|"
    )

    def row(name: str, bits: str, schemes: dict[str, Scheme]) -> None:
        model, size = packed(args.model, schemes)
        of_clicks = agreement(clicks(model), expected[0])
        of_clip = agreement(tracked(model, args.clip, point), expected[1])
        print(
            f"| {name} | {bits} | {size:.2f} | " + " | ".join(f"{x:.4f}" for x in (*of_clicks, *of_clip)) + " |",
            flush=True,
        )

    for name, pattern in parts_of(plain).items():
        layers = {k: v for k, v in everything.items() if re.fullmatch(pattern, k)}
        for bits in (8, 4):
            if layers:
                row(name, str(bits), {k: Scheme(v.group_size, bits) for k, v in layers.items()})
    for bits in (8, 4):
        row("all", str(bits), quantization.plan(plain, Scheme(64, bits))[0])
    if hasattr(quantization, "MIXED"):
        row("all", "mixed", quantization.plan(plain, Scheme(64, 8), quantization.MIXED)[0])


if __name__ == "__main__":
    main()

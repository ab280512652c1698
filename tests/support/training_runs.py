"""Reading the goldens of training: clip, targets and prompts of a case, and its gradients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import cells
import goldens
import synthetic

if TYPE_CHECKING:
    import mlx.core as mx

    from mlx_sam2.datasets.items import Item
    from mlx_sam2.finetune.rollout import Plan
    from mlx_sam2.model.sam2 import SAM2

GRADIENT_NOISE = {"train_nano_image": 1e-3, "train_nano_video": 1e-2}  # golden/README.md, of a parameter's norm


class Case(NamedTuple):
    golden: goldens.Golden
    model: SAM2
    pixels: mx.array  # (T, S, S, 3) normalised
    targets: mx.array  # (T, B, S, S) bool
    plan: Plan


def read(name: str) -> Case:
    import mlx.core as mx

    from mlx_sam2.finetune.clicks import Points
    from mlx_sam2.finetune.rollout import Plan, training_config
    from mlx_sam2.images.preprocess import MEAN, STD

    golden = goldens.read(name)
    about = golden.about
    targets = np.array([[shape(about["image_size"], *one) for one in frame] for frame in about["masks"]])
    pixels = (golden.tensors["input.images"].astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    plan = Plan({0: None}, {})
    if isinstance(about["prompts"], list):
        first, *others = (
            Points(mx.array(p["points"], mx.float32)[:, None], mx.array(p["labels"])[:, None]) for p in about["prompts"]
        )
        plan = Plan({0: first}, {0: others})
    model = golden.model()
    model = model.with_config(training_config(model.config))
    return Case(golden, model, mx.array(pixels.astype(np.float32)), mx.array(targets), plan)


def shape(size: int, kind: str, *values: float) -> np.ndarray:
    """(size, size) bool: an ellipse (centre, radii), a rectangle (corners, the last ones outside) or nothing."""
    y, x = np.mgrid[:size, :size]
    if kind == "ellipse":
        cx, cy, rx, ry = values
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1
    if kind == "rect":
        x0, y0, x1, y1 = values
        return (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    return np.zeros((size, size), bool)


def official_layout(name: str, value: Any) -> np.ndarray:
    """A parameter or a gradient, flat, in the order of axes of PyTorch."""
    from mlx_sam2.checkpoint import key_map

    axes, array = key_map.mlx_axes(name), np.array(value)
    return (array if axes is None else array.transpose(np.argsort(axes))).flatten()


def is_noise(name: str) -> bool:
    """Whether the gradient is 0 but for rounding: a bias that the softmax cancels (TRAINING.md 7)."""
    return name.startswith("sam_mask_decoder") and name.endswith("k_proj.bias")


def differences(case: Case, kind: str, values: dict[str, mx.array]) -> dict[str, float]:
    """Largest difference of each parameter's norm, samples and projection, as a share of its norm.

    Parameters of little gradient (less than 1e-4 of the largest norm) are left out. ``kind`` is grad or delta.
    """
    names, tensors = case.golden.about["grad_names"], case.golden.tensors
    least = 1e-4 * tensors[f"{kind}.norm"].max()
    found = {}
    for i, name in enumerate(names):
        norm = tensors[f"{kind}.norm"][i]
        value = official_layout(name, values[name])
        if name.endswith("qkv.bias"):  # its middle third is of the keys
            continue
        if norm < least or is_noise(name):
            continue
        n = len(value)
        samples = value[[j * (n - 1) // 7 for j in range(8)]] - tensors[f"{kind}.samples"][i]
        dot = (value * synthetic.normal(f"dot|{name}", (n,), 0)).sum() - tensors[f"{kind}.dot"][i]
        found[name] = max(abs(np.linalg.norm(value) - norm), np.abs(samples).max(), abs(dot)) / norm
    return found


def small_model(side: int = 64) -> SAM2:
    """The nano model for pictures of 64 pixels: a step takes a fraction of a second."""
    import dataclasses

    model = synthetic.nano_model()
    return model.with_config(dataclasses.replace(model.config, image_size=side))


def small_items(folder: Path, count: int = 6, side: int = 64) -> list[Item]:
    """Photos of cells as items."""
    from mlx_sam2.datasets.opening import open_dataset

    return list(open_dataset(cells.write_cells(folder, count, side=side)))


def write_clip(root: Path, frames: int = 5, side: int = 64) -> Path:
    """A DAVIS-style data set of two clips with two moving squares each."""
    from PIL import Image

    for name in ("one", "two"):
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / name).mkdir(parents=True)
        for t in range(frames):
            labels = np.zeros((side, side), np.uint8)
            labels[8 + t : 24 + t, 6 : 22 + t] = 1
            labels[40:56, 30 + t : 46 + t] = 2
            picture = np.stack([labels * 90 + 40, labels * 30 + 80, 200 - labels * 60], -1).astype(np.uint8)
            Image.fromarray(picture).save(root / "JPEGImages" / name / f"{t:05d}.jpg")
            Image.fromarray(labels).save(root / "Annotations" / name / f"{t:05d}.png")
    return root

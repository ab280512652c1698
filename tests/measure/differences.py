"""Print the largest differences from the official code's image goldens, a row for each checkpoint.

python tests/measure/differences.py [NAME ...]      (all five sizes take minutes on a CPU)
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import sys

import numpy as np

import goldens
import synthetic
from golden_runs import LARGE, SMALL, arguments
from mlx_sam2 import images
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor


def largest_differences(name: str) -> tuple[int, float, float, float, float]:
    """Number of prompts; largest difference of features, logits and IoU scores; smallest IoU of stored mask rows."""
    golden = goldens.read(name)
    model = golden.model()
    predictor = SAM2ImagePredictor(model.with_config(model.config.with_postprocessing(True)))
    predictor.set_image(images.read(goldens.input_path(golden.about["image"])))
    embedding = predictor.get_image_embedding()
    stored = golden.tensors.get("feat.embed")
    features = (
        embedding - stored if stored is not None else embedding[:, ::4, ::4, ::4] - golden.tensors["feat.embed.sub"]
    )
    logits, ious, overlaps, low_res, scores = [], [], [], {}, {}
    for case in golden.about["cases"]:
        key = case["name"]
        masks, scores[key], low_res[key] = predictor.predict(**arguments(case["prompt"], low_res, scores))
        whole = golden.tensors.get(f"{key}.low")
        low = low_res[key] if whole is not None else low_res[key][..., ::4, ::4]
        logits.append(np.abs(low - (whole if whole is not None else golden.tensors[f"{key}.low.sub4"])).max())
        ious.append(np.abs(scores[key] - golden.tensors[f"{key}.iou"]).max())
        rows = masks[..., :: case["mask_rows_stride"], :] > 0
        expected = np.unpackbits(golden.tensors[f"{key}.mask_rows_bits"], axis=-1, count=masks.shape[-1]) > 0
        both, either = (rows & expected).sum(axis=(-2, -1)), (rows | expected).sum(axis=(-2, -1))
        overlaps.append((both / np.maximum(either, 1)).min())
    return len(logits), float(np.abs(features).max()), float(max(logits)), float(max(ious)), float(min(overlaps))


def main(names: list[str]) -> None:
    if not synthetic.GOLDEN.is_dir():
        sys.exit(goldens.MISSING)
    print("| golden | prompts | features | logits | IoU scores | smallest mask IoU |\n|---|---|---|---|---|---|")
    for name in names or [*SMALL, *LARGE]:
        count, features, logits, ious, overlap = largest_differences(name)
        print(f"| {name} | {count} | {features:.1e} | {logits:.1e} | {ious:.1e} | {overlap:.6f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

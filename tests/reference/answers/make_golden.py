"""Make `image_nano.npz` and `.json`: answers of the official code to a few prompts on a small picture.

python tests/reference/answers/make_golden.py        (with the packages of "Oracle tests" in CONTRIBUTING.md)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent
sys.path[:0] = [str(DATA.parent), str(DATA.parents[1] / "support")]

from synthetic import NANO_DIGEST, config_dict, digest, nano_state, picture  # noqa: E402

# "mask": the low-resolution logits of an earlier case, by name and index
CASES = {
    "click": {"point_coords": [[70, 120]], "point_labels": [1]},
    "click_single": {"point_coords": [[130, 60]], "point_labels": [1], "multimask_output": False},
    "clicks": {"point_coords": [[70, 120], [150, 220], [20, 30]], "point_labels": [1, 0, 1]},
    "box": {"box": [30, 80, 140, 190], "multimask_output": False},
    "box_click": {"box": [30, 80, 140, 190], "point_coords": [[60, 100]], "point_labels": [0]},
    "boxes": {"box": [[10, 20, 90, 110], [60, 130, 190, 280]], "multimask_output": False},
    "refined": {"point_coords": [[75, 130]], "point_labels": [1], "mask": ["click", 1]},
    "nothing": {"multimask_output": False},
    "normalised": {"point_coords": [[0.3, 0.7]], "point_labels": [1], "normalize_coords": False},
}
FULL = "click"  # every other case keeps each second row and column of its logits


def arguments(prompt: dict, low_res: dict[str, np.ndarray]) -> dict:
    """A case as keyword arguments of `predict`."""
    given = {key: np.array(value) if isinstance(value, list) else value for key, value in prompt.items()}
    if "mask" in prompt:
        name, index = prompt["mask"]
        given["mask_input"] = low_res[name][index][None]
        del given["mask"]
    return given


def main() -> None:
    from official import official_image_predictor, official_model, torch

    state = nano_state()
    assert digest(state) == NANO_DIGEST
    image = picture()
    predictor = official_image_predictor(official_model(config_dict(), state))
    predictor.set_image(image)
    arrays, low_res = {}, {}
    for name, prompt in CASES.items():
        masks, scores, low_res[name] = predictor.predict(**arguments(prompt, low_res))
        step = 1 if name == FULL else 2
        arrays[f"{name}.low"] = low_res[name][..., ::step, ::step]
        arrays[f"{name}.scores"] = scores
        arrays[f"{name}.mask_bits"] = np.packbits(masks.astype(bool), axis=-1)
    np.savez_compressed(DATA / "image_nano.npz", **arrays)
    about = {
        "made by": "tests/reference/answers/make_golden.py",
        "official": f"sam2 1.1.0, build_sam2(apply_postprocessing=True), CPU, torch {torch.__version__}",
        "weights": NANO_DIGEST,
        "picture_shape": list(image.shape),
        "cases": {name: {"prompt": prompt, "step": 1 if name == FULL else 2} for name, prompt in CASES.items()},
    }
    (DATA / "image_nano.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The official EdgeTAM code, as PyPI has it (``edgetam-dimos``), on a click and the frames after it.

    PYTHONPATH=<folder of that package>:tests/reference python run_edgetam_dimos.py CONFIG.json GIVEN.npz ANSWERS.npz

A process of its own: the package is called ``sam2``, as the official SAM 2 is. GIVEN holds the weights under their
names, ``frames`` (T, 3, S, S) float32, ``points`` and ``labels``; ANSWERS the features of the first frame, and of each
frame its logits, score and memory.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys

import numpy as np
import torch

import timm_alone


def build(config: dict, state: dict[str, np.ndarray]) -> torch.nn.Module:
    from hydra.utils import instantiate

    with timm_alone.without_torchvision():
        backbone = importlib.import_module("sam2.modeling.backbones.timm")
    create = backbone.create_model
    backbone.create_model = lambda *names, **options: create(*names, **options | {"pretrained": False})
    predictor = instantiate(config | {"_target_": "sam2.sam2_video_predictor.SAM2VideoPredictor"})
    predictor.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in state.items()}, strict=True)
    return predictor.eval()


def main(config_path: str, given_path: str, answers_path: str) -> None:
    torch.set_num_threads(1)
    with open(config_path) as file:
        config = json.load(file)["model"]
    with np.load(given_path) as file:
        given = dict(file)
    frames, points, labels = (given.pop(key) for key in ("frames", "points", "labels"))
    predictor = build(config, given)
    module = importlib.import_module("sam2.sam2_video_predictor")
    pixels = torch.from_numpy(frames)
    module.load_video_frames = functools.partial(lambda found, **_: found, (pixels, *frames.shape[2:]))
    with torch.inference_mode():
        answers = {f"level{i}": x for i, x in enumerate(predictor.forward_image(pixels[:1])["backbone_fpn"])}
        state = predictor.init_state("frames")
        predictor.add_new_points_or_box(state, 0, 1, points=points, labels=labels)
        for t, _, masks in predictor.propagate_in_video(state):
            stored = {**state["output_dict"]["cond_frame_outputs"], **state["output_dict"]["non_cond_frame_outputs"]}[t]
            answers |= {f"masks{t}": masks[0, 0], f"low{t}": stored["pred_masks"][0, 0]}
            answers[f"memory{t}"], answers[f"pointer{t}"] = stored["maskmem_features"][0], stored["obj_ptr"][0]
    np.savez(answers_path, **{key: value.float().numpy() for key, value in answers.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])

"""transformers' EdgeTAM with weights under official names. Needs torch, transformers and timm (``timm_alone``)."""

from __future__ import annotations

from typing import Any

import numpy as np

import synthetic
from checkpoint_files import transformers_config
from mlx_sam2.checkpoint import key_map


def renamed(state: dict[str, np.ndarray], keys: list[str]) -> dict[str, Any]:
    """A state dict of transformers from official names; every key must be met."""
    import torch

    found = {}
    for key in keys:
        if key == key_map.POINT_TABLE:
            value = np.concatenate([state[row] for row in key_map.POINT_ROWS])
        elif half := key_map.half(key):
            value = np.split(state[half[0]], 2)[half[1]]
        else:
            value = state[key_map.from_transformers(key)]
        found[key] = torch.from_numpy(np.array(value))
    return found


def filled(theirs: Any, state: dict[str, np.ndarray]) -> Any:
    theirs.load_state_dict(renamed(state, list(theirs.state_dict())), strict=True)
    return theirs.eval()


def image_model(state: dict[str, np.ndarray]) -> Any:
    """EdgeTamModel of the configuration ``edgetam_nano``."""
    import transformers

    values = transformers_config("edgetam_nano")
    parts = {key: values[key] for key in ("vision_config", "prompt_encoder_config", "mask_decoder_config")}
    return filled(transformers.EdgeTamModel(transformers.EdgeTamConfig(**parts)), state)


def pictures(seeds: range) -> np.ndarray:
    """(N, 256, 256, 3): frames, normalised."""
    frames = np.stack([synthetic.picture(256, 256, seed) for seed in seeds]).astype(np.float32) / 255
    return ((frames - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)


def channels_first(x: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))

"""EdgeTAM's checkpoints as the official code and transformers write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from checkpoint_files import write_torch
from mlx_sam2.checkpoint import key_map

State = dict[str, np.ndarray]


def in_transformers(state: State) -> State:
    """The rules of transformers' own conversion script, written out."""
    found = {}
    for key, value in state.items():
        if key in key_map.POINT_ROWS:
            continue
        if key.endswith(".to_kv.weight"):
            names = "self_attention" if "self_attn" in key else "cross_attention"
            start = key.split(".self_attn" if "self_attn" in key else ".attn")[0]
            half = len(value) // 2
            found[f"{start}.{names}.k_proj.weight"], found[f"{start}.{names}.v_proj.weight"] = (
                value[:half],
                value[half:],
            )
        elif key.startswith("image_encoder.trunk.body."):
            found[key.replace("image_encoder.trunk.body.", "vision_encoder.backbone.timm_model.")] = value
        elif key.startswith("memory_attention.layers.") and ".linear" in key:
            found[key.replace("linear1", "mlp.up_proj").replace("linear2", "mlp.down_proj")] = value
        else:
            found[key_map.to_transformers(key)] = value
    matrix = found[key_map.POSITION_COPIES[0]]
    found[key_map.POSITION_COPIES[1]] = matrix
    found[key_map.POINT_TABLE] = np.concatenate([state[row] for row in key_map.POINT_ROWS])
    return found


def write(folder: Path, state: State, config: dict[str, Any]) -> dict[str, Path]:
    """``edgetam.pt``, which says nothing of its configuration, and the folder ``hf``."""
    (folder / "hf").mkdir()
    (folder / "hf" / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    save_file(in_transformers(state), folder / "hf" / "model.safetensors", metadata={"format": "pt"})
    return {"official": write_torch(folder / "edgetam.pt", state), "transformers": folder / "hf"}

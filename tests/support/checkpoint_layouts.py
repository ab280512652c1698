"""The same small weights in every layout of a checkpoint, and what loading them must give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from checkpoint_files import (
    transformers_config,
    write_torch,
    write_transformers,
)
from mlx_sam2.checkpoint import key_map, loading
from mlx_sam2.checkpoint.tensors import CheckpointError
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.model.sam2 import SAM2
from synthetic import config_dict, nano_config, nano_state

State = dict[str, np.ndarray]


def parameters(model: SAM2) -> dict[str, np.ndarray]:
    return {key: np.array(value) for key, value in tree_flatten(model.parameters())}


def assert_same(model: SAM2, expected: State) -> None:
    found = parameters(model)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert found[key].shape == value.shape, key
        assert found[key].tobytes() == value.tobytes(), key


def refusal(path: str | Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        loading.load(path, dtype="float32", **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1500
    assert str(path) in message
    return message.replace(str(path), "")  # pytest puts the test's name into it


def ours(folder: Path) -> tuple[Path, SAM2Config | None]:
    config = nano_config()
    model = SAM2(config)
    weights = {key: mx.array(value) for key, value in key_map.from_official(nano_state()).items()}
    model.load_weights(list(weights.items()))
    loading.save(model, folder / "ours")
    return folder / "ours", None


def official(folder: Path) -> tuple[Path, SAM2Config | None]:
    return write_torch(folder / "any name", nano_state()), nano_config()


def official_bare_in_parallel(folder: Path) -> tuple[Path, SAM2Config | None]:
    state = {f"module.{key}": value for key, value in nano_state().items()}
    return write_torch(folder / "x.pth", state, wrap=None), nano_config()


def official_safetensors(folder: Path) -> tuple[Path, SAM2Config | None]:
    save_file(nano_state(), folder / "x.safetensors")
    return folder / "x.safetensors", nano_config()


def official_with_config(folder: Path) -> tuple[Path, SAM2Config | None]:
    save_file(nano_state(), folder / "x.safetensors")
    (folder / "config.json").write_text(json.dumps(config_dict()))
    return folder, None


def transformers(folder: Path, **options: Any) -> tuple[Path, SAM2Config | None]:
    config = transformers_config()
    return write_transformers(folder / "hf", nano_state(), config, **options), None


LAYOUTS: dict[str, Callable[[Path], tuple[Path, SAM2Config | None]]] = {
    "ours": ours,
    "official": official,
    "official, bare, from DataParallel": official_bare_in_parallel,
    "official names in safetensors": official_safetensors,
    "official names in a folder with its configuration": official_with_config,
    "transformers": transformers,
    "transformers, first copy of the position matrix": lambda f: transformers(f, copies=(0,)),
    "transformers, second copy": lambda f: transformers(f, copies=(1,)),
    "transformers, shards": lambda f: transformers(f, shards=3),
}

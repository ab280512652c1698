"""Write checkpoint files as PyTorch and transformers do, with numpy alone; broken and hostile ones too."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from mlx_sam2.checkpoint import key_map
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.model.sam2 import SAM2
from synthetic import DATA

STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
}


@dataclass(frozen=True)
class Raw:
    """Opcodes to be put into the pickle as they are."""

    opcodes: bytes


@dataclass(frozen=True)
class Tensor:
    """A tensor by what the pickle says of it, true or not."""

    storage: str = "FloatStorage"
    key: str = "0"
    numel: int = 1
    offset: int = 0
    shape: tuple[int, ...] = (1,)
    strides: tuple[int, ...] = (1,)

    def opcodes(self) -> bytes:
        storage = pickled(("storage", Raw(global_op("torch", self.storage)), self.key, "cpu", self.numel)) + b"Q"
        hooks = Raw(global_op("collections", "OrderedDict") + b")R")
        args = (Raw(storage), self.offset, self.shape, self.strides, False, hooks)
        return global_op("torch._utils", "_rebuild_tensor_v2") + pickled(args) + b"R"


def global_op(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def pickled(value: Any) -> bytes:
    """Opcodes of protocol 2 for a value, without header and end."""
    if isinstance(value, Raw):
        return value.opcodes
    if isinstance(value, Tensor):
        return value.opcodes()
    if isinstance(value, bool):
        return b"\x88" if value else b"\x89"
    if isinstance(value, int):
        digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(digits)]) + digits
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(pickled, value)) + b"t"
    if isinstance(value, Mapping):
        return b"}(" + b"".join(pickled(k) + pickled(v) for k, v in value.items()) + b"u"
    raise TypeError(type(value))


def write_archive(
    path: Path, top: Any, storages: Mapping[str, bytes], order: bytes = b"little", **zip_options: Any
) -> Path:
    """A file as torch.save lays it out: `top` pickled, and the bytes of each storage."""
    with zipfile.ZipFile(path, "w", **zip_options) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickled(top) + b".")
        archive.writestr("archive/byteorder", order)
        for key, data in storages.items():
            archive.writestr(f"archive/data/{key}", data)
        archive.writestr("archive/version", b"3\n")
    return path


def write_torch(path: Path, state: Mapping[str, Any], wrap: str | None = "model") -> Path:
    """A .pt file of a state dict, within {"model": ...} as the official files have it, or bare.

    Values of the state may be arrays, dicts of further ones, or whatever ``pickled`` takes.
    """
    storages: dict[str, bytes] = {}

    def described(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: described(inner) for name, inner in value.items()}
        if not isinstance(value, np.ndarray):
            return value
        key = str(len(storages))
        storages[key] = value.tobytes()
        strides = tuple(s // value.itemsize for s in np.empty(value.shape, value.dtype).strides)
        return Tensor(STORAGES[value.dtype.name], key, value.size, 0, value.shape, strides)

    top = described(state)
    return write_archive(path, {wrap: top} if wrap else top, storages)


def transformers_state(state: Mapping[str, np.ndarray], copies: tuple[int, ...] = (0, 1)) -> dict[str, np.ndarray]:
    """The same weights under transformers' names, with one or both `copies` of the position matrix."""
    renamed = {key_map.to_transformers(k): v for k, v in state.items() if k not in key_map.POINT_ROWS}
    matrix = renamed.pop(key_map.POSITION_COPIES[0])
    renamed.update({key_map.POSITION_COPIES[i]: matrix for i in copies})
    renamed[key_map.POINT_TABLE] = np.concatenate([state[row] for row in key_map.POINT_ROWS])
    return renamed


def write_transformers(
    folder: Path,
    state: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
    copies: tuple[int, ...] = (0, 1),
    shards: int = 1,
) -> Path:
    """A folder as transformers' save_pretrained writes it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    renamed = transformers_state(state, copies)
    if shards == 1:
        save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {key: renamed[key] for key in sorted(renamed)[shard::shards]}
        save_file(part, folder / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, name))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def transformers_config(name: str = "nano") -> dict[str, Any]:
    """The ``config.json`` that transformers writes for a small model."""
    return json.loads((DATA / f"transformers_config_{name}.json").read_text())


def published_widths(config_json: dict[str, Any]) -> dict[str, Any]:
    """The trunk of nano below the published 256 channels and 64 of memory, which transformers relies on."""
    values = deepcopy(config_json)
    values["vision_config"]["fpn_hidden_size"] = 256
    values["prompt_encoder_config"]["hidden_size"] = values["mask_decoder_config"]["hidden_size"] = 256
    for key in ("memory_attention_hidden_size", "memory_encoder_hidden_size", "mask_downsampler_embed_dim"):
        values[key] = 256
    values |= {"memory_fuser_embed_dim": 256, "memory_fuser_intermediate_dim": 1024}
    return values | {"memory_encoder_output_channels": 64}


def parameter_shapes(config: SAM2Config) -> dict[str, tuple[int, ...]]:
    """In PyTorch's axis order. Nothing is computed: a new model's arrays are promises until evaluated."""
    found = {}
    for key, value in tree_flatten(SAM2(config).parameters()):
        axes = key_map.torch_axes(key)
        found[key] = tuple(value.shape[a] for a in axes) if axes else tuple(value.shape)
    return found

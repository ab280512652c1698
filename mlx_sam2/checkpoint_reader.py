"""Read any of the three kinds of checkpoint into one form: official names, each tensor read when asked for.

- official: a ``.pt`` of facebookresearch/sam2, or the same names in a safetensors file;
- transformers: ``model.safetensors`` (or several, with an index) and ``config.json``;
- ours: ``config.json`` and ``model.safetensors`` with metadata {"format": "mlx"}, in MLX layouts.

Which kind a file is shows in the names of its tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from . import hub, key_map, safetensors_file, torch_file
from .config import PUBLISHED, ConfigError, SAM2Config
from .torch_pickle import shown

MAX_CONFIG_BYTES = 1 << 20

_PARALLEL_PREFIX = "module."  # what torch's DataParallel and DistributedDataParallel put before every name


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded or written; one line that says what is wrong with it and what to do."""


@dataclass(frozen=True)
class Weight:
    """One tensor of a checkpoint, not read yet."""

    name: str  # in the file
    shape: tuple[int, ...]  # in the file
    dtype: str  # such as "float32"
    axes: tuple[int, ...] | None  # the file's axes in MLX's order; None: they are
    fetch: Callable[[], mx.array]  # as it stands in the file

    @property
    def mlx_shape(self) -> tuple[int, ...]:
        """Shape of what ``read`` gives, if the tensor has as many axes as it should."""
        fits = self.axes is not None and len(self.axes) == len(self.shape)
        return tuple(self.shape[a] for a in self.axes) if fits else self.shape

    def read(self) -> mx.array:
        """The tensor in MLX layout and the file's dtype (float64 as float32: MLX's GPUs know no float64)."""
        value = self.fetch()
        return value if self.axes is None else mx.contiguous(value.transpose(self.axes))


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint: what ``read`` found, with nothing loaded."""

    path: Path
    layout: str  # "official", "transformers" or "mlx"
    weights: dict[str, Weight]  # by official name
    unknown: tuple[str, ...]  # names in the file that no SAM 2 has
    config: SAM2Config | None  # as given, or from config.json
    metadata: dict[str, str]


def read(path: str | os.PathLike[str], config: SAM2Config | None = None) -> Checkpoint:
    """What a local checkpoint (file or folder) holds; none of its tensors is read before it is asked for.

    Without ``config``, that of a folder, or of a ``model.safetensors``, is in the ``config.json`` beside it.

    Raises:
        CheckpointError: it is damaged, or no SAM 2 checkpoint.
    """
    path = Path(os.path.expanduser(path))
    try:
        if path.exists() and not (path.is_dir() or path.is_file()):  # reading a pipe would wait for ever
            raise CheckpointError(f"{path} is neither a file nor a folder")
        file = _weights_file(path) if path.is_dir() else path
        config_file = file.parent / hub.CONFIG
        has_config = path.is_dir() or file.name in (hub.WEIGHTS, safetensors_file.INDEX_NAME)
        if config is None and has_config and config_file.is_file():
            config = read_config(config_file)
        raw, metadata = _read_tensors(file)
        return _interpret(path, raw, metadata, config)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or path}: {error.strerror or error}") from None
    except (torch_file.TorchFileError, safetensors_file.SafetensorsFileError, ConfigError) as error:
        raise CheckpointError(str(error)) from None


def _weights_file(folder: Path) -> Path:
    """The file of a folder that holds the weights, or its index of several."""
    for name in (hub.WEIGHTS, safetensors_file.INDEX_NAME):
        if (folder / name).is_file():
            return folder / name
    for suffixes in ((".safetensors",), hub.TORCH_SUFFIXES):
        found = sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(p.name for p in found[:5])
            raise CheckpointError(f"{folder} holds {len(found)} weights files ({names}): pass the one to load")
    raise CheckpointError(f"{folder} holds no weights: no {hub.WEIGHTS} and no .pt file")


_Raw = dict[str, "mx.array | torch_file.TensorRef"]


def _read_tensors(file: Path) -> tuple[_Raw, dict[str, str]]:
    """The tensors of a weights file by their names in it, and its metadata."""
    if file.name.endswith(".index.json"):
        weight_map = safetensors_file.read_index(file)
        raw: _Raw = {}
        for shard in sorted(set(weight_map.values())):
            raw.update(safetensors_file.read(file.parent / shard)[0])
        absent = weight_map.keys() - raw.keys()
        if absent:
            raise CheckpointError(f"{file}: its files lack {some(absent)}")
        return raw, {}
    with file.open("rb") as opened:  # what the file is shows in its first bytes, not in its name
        head = opened.read(9)
    if file.suffix == ".safetensors" or head[8:] == b"{":
        return safetensors_file.read(file)
    return torch_file.read(file), {}


def _interpret(path: Path, raw: _Raw, metadata: dict[str, str], config: SAM2Config | None) -> Checkpoint:
    """Give every tensor its official name and its axes."""
    if raw and all(name.startswith(_PARALLEL_PREFIX) for name in raw):
        raw = {name.removeprefix(_PARALLEL_PREFIX): value for name, value in raw.items()}
    if any(name.startswith("vision_encoder.") for name in raw):
        layout = "transformers"
    elif any(name.startswith("image_encoder.") for name in raw):
        layout = "mlx" if metadata.get("format") == "mlx" else "official"
    else:
        raise CheckpointError(f"{path} is no SAM 2 checkpoint: its tensors have names such as {some(raw, 2)}")
    weights: dict[str, Weight] = {}
    unknown = []
    for name, value in raw.items():
        if key_map.ignored(name):
            continue
        if layout == "transformers" and name == key_map.POINT_TABLE:
            weights.update(_point_rows(path, value))
            continue
        key = key_map.from_transformers(name) if layout == "transformers" else name
        if key is None:
            unknown.append(name)
            continue
        fetch = _fetcher(value)
        if name in key_map.POSITION_COPIES and all(copy in raw for copy in key_map.POSITION_COPIES):
            fetch = _same(path, *(_fetcher(raw[copy]) for copy in key_map.POSITION_COPIES))
        axes = None if layout == "mlx" else key_map.mlx_axes(key)
        weights[key] = Weight(name, tuple(value.shape), _dtype_name(value), axes, fetch)
    return Checkpoint(path, layout, weights, tuple(unknown), config, metadata)


def _dtype_name(value: mx.array | torch_file.TensorRef) -> str:
    return str(value.dtype).removeprefix("mlx.core.")


def _fetcher(value: mx.array | torch_file.TensorRef) -> Callable[[], mx.array]:
    if isinstance(value, mx.array):
        return lambda: value

    def fetch() -> mx.array:
        array = value.read()
        if value.dtype == "float64":
            return mx.array(array, dtype=mx.float32)
        return mx.array(array).view(mx.bfloat16) if value.dtype == "bfloat16" else mx.array(array)

    return fetch


def _point_rows(path: Path, table: mx.array | torch_file.TensorRef) -> dict[str, Weight]:
    """Transformers' table of point embeddings, (4, C), as four official tensors of (1, C)."""
    rows, fetch = len(key_map.POINT_ROWS), _fetcher(table)
    if len(table.shape) != 2 or table.shape[0] != rows:
        shape = list(table.shape)
        raise CheckpointError(f"{path}: {key_map.POINT_TABLE} has the shape {shape}; it needs {rows} rows")
    return {
        key: Weight(key_map.POINT_TABLE, (1, table.shape[1]), _dtype_name(table), None, lambda i=i: fetch()[i : i + 1])
        for i, key in enumerate(key_map.POINT_ROWS)
    }


def _same(path: Path, first: Callable[[], mx.array], second: Callable[[], mx.array]) -> Callable[[], mx.array]:
    def fetch() -> mx.array:
        value = first()
        if not mx.array_equal(value, second()).item():
            names = " and ".join(key_map.POSITION_COPIES)
            raise CheckpointError(f"{path}: {names} differ, and SAM 2 has only one such matrix")
        return value

    return fetch


def read_config(source: SAM2Config | dict[str, Any] | str | os.PathLike[str]) -> SAM2Config:
    """A configuration from any form that ``load`` takes.

    Raises:
        ConfigError: there is no such file or name, or the configuration breaks a rule.
    """
    if isinstance(source, SAM2Config):
        return source
    if isinstance(source, dict):
        return SAM2Config.from_dict(source)
    text = os.fspath(source)
    path = Path(os.path.expanduser(text))
    if not os.path.isfile(path):
        model = hub.published(text)
        if model is None:
            names = ", ".join(m.short_name for m in PUBLISHED.values())
            raise ConfigError(f"config={text!r} is neither a file nor a published model ({names})")
        return model.config
    try:
        values = _read_yaml(path) if path.suffix in (".yaml", ".yml") else _read_json(path)
        return SAM2Config.from_dict(values)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (safetensors_file.SafetensorsFileError, ConfigError) as error:
        raise ConfigError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _read_json(path: Path) -> dict[str, Any]:
    return safetensors_file.read_json(path, MAX_CONFIG_BYTES)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise ConfigError("reading YAML needs PyYAML (pip install pyyaml)") from None
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"is not valid YAML ({' '.join(str(error).split())[:120]})") from None


def some(names: Iterable[str], limit: int = 4) -> str:
    """The first of the names, for a message, and how many more there are."""
    names = sorted(set(names))
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more

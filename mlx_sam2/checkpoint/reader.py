"""Read any of the three kinds of checkpoint into one form: official names, each tensor read when asked for.

- official: a ``.pt`` of facebookresearch/sam2, or the same names in a safetensors file;
- transformers: ``model.safetensors`` (or several, with an index) and ``config.json``;
- ours: ``config.json`` and ``model.safetensors`` (or several, with an index) with metadata {"format": "mlx"}, in MLX
  layouts; a quantised layer is three tensors, ``weight``, ``scales`` and ``biases``.

Which kind a file is shows in the names of its tensors.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx

from ..config.parts import ConfigError
from ..config.published import published, shipped, short_names
from ..config.sam2 import SAM2Config
from ..formats import safetensors_file, torch_file
from ..formats.names import CONFIG, INDEX, TORCH_SUFFIXES, WEIGHTS
from ..formats.safetensors_file import MAX_CONFIG_BYTES
from ..text import dtype_name, one_line, shown, some
from . import key_map

MAX_YAML_BYTES = 1 << 16

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
    files: tuple[Path, ...] = ()  # that hold the tensors
    values: dict[str, Any] = field(default_factory=dict)  # config.json as it stands, where it was read


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
        config_file = file.parent / CONFIG
        has_config = path.is_dir() or file.name in (WEIGHTS, INDEX)
        values: dict[str, Any] = {}
        if config is None and has_config and config_file.is_file():
            values, config = _read_json(config_file), read_config(config_file)
        raw, metadata, files = _read_tensors(file)
        return _interpret(Checkpoint(path, "", {}, (), config, metadata, files, values), raw)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or path}: {error.strerror or error}") from None
    except (torch_file.TorchFileError, safetensors_file.SafetensorsFileError, ConfigError) as error:
        raise CheckpointError(str(error)) from None


def _weights_file(folder: Path) -> Path:
    """The file of a folder that holds the weights, or its index of several."""
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    for suffixes in ((".safetensors",), TORCH_SUFFIXES):
        found = sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(p.name for p in found[:5])
            raise CheckpointError(f"{folder} holds {len(found)} weights files ({names}): pass the one to load")
    raise CheckpointError(f"{folder} holds no weights: no {WEIGHTS} and no .pt file")


class _Raw(NamedTuple):
    """A tensor by its name in the file."""

    shape: tuple[int, ...]
    dtype: str
    fetch: Callable[[], mx.array]


class _SafetensorsFile:
    """The tensors of one file, each given away when it is asked for.

    MLX reads an array when it is evaluated, and the array keeps what was read. Kept here, the whole file would
    stay in memory beside the model; a tensor that is asked for twice is mapped again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays, self.metadata = safetensors_file.read(path)
        self.tensors = {
            name: _Raw(tuple(value.shape), dtype_name(value.dtype), lambda n=name: self._take(n))
            for name, value in self._arrays.items()
        }

    def _take(self, name: str) -> mx.array:
        if name not in self._arrays:
            self._arrays = safetensors_file.read(self.path)[0]
        return self._arrays.pop(name)


def _read_tensors(file: Path) -> tuple[dict[str, _Raw], dict[str, str], tuple[Path, ...]]:
    """The tensors of a weights file by their names in it, its metadata, and the files that it consists of."""
    if file.name.endswith(".index.json"):
        weight_map = safetensors_file.read_index(file)
        shards = [_SafetensorsFile(file.parent / name) for name in sorted(set(weight_map.values()))]
        raw = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
        twice = [name for name in raw if sum(name in shard.tensors for shard in shards) > 1]
        if twice:
            raise CheckpointError(f"{file}: two of its files hold {some(twice)}; download or convert it again")
        absent = weight_map.keys() - raw.keys()
        if absent:
            raise CheckpointError(f"{file}: its files lack {some(absent)}")
        if len({shard.metadata.get("format") for shard in shards}) > 1:
            raise CheckpointError(f"{file}: its files are of different formats; download or convert it again")
        return raw, shards[0].metadata, tuple(shard.path for shard in shards)
    with file.open("rb") as opened:  # what the file is shows in its first bytes, not in its name
        head = opened.read(9)
    if file.suffix == ".safetensors" or head[8:] == b"{":
        only = _SafetensorsFile(file)
        return only.tensors, only.metadata, (file,)
    refs = torch_file.read(file)
    return {name: _Raw(ref.shape, ref.dtype, _fetcher(ref)) for name, ref in refs.items()}, {}, (file,)


def _interpret(found: Checkpoint, raw: dict[str, _Raw]) -> Checkpoint:
    """The checkpoint with every tensor under its official name and with its axes."""
    path = found.path
    if raw and all(name.startswith(_PARALLEL_PREFIX) for name in raw):
        raw = {name.removeprefix(_PARALLEL_PREFIX): value for name, value in raw.items()}
    if any(name.startswith("vision_encoder.") for name in raw):
        layout = "transformers"
    elif any(name.startswith("image_encoder.") for name in raw):
        layout = "mlx" if found.metadata.get("format") == "mlx" else "official"
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
        fetch = value.fetch
        if name in key_map.POSITION_COPIES and all(copy in raw for copy in key_map.POSITION_COPIES):
            fetch = _same(path, *(raw[copy].fetch for copy in key_map.POSITION_COPIES))
        axes = None if layout == "mlx" else key_map.mlx_axes(key)
        weights[key] = Weight(name, value.shape, value.dtype, axes, fetch)
    return dataclasses.replace(found, layout=layout, weights=weights, unknown=tuple(unknown))


def _fetcher(ref: torch_file.TensorRef) -> Callable[[], mx.array]:
    def fetch() -> mx.array:
        array = ref.read()
        if ref.dtype == "float64":
            return mx.array(array, dtype=mx.float32)
        return mx.array(array).view(mx.bfloat16) if ref.dtype == "bfloat16" else mx.array(array)

    return fetch


def _point_rows(path: Path, table: _Raw) -> dict[str, Weight]:
    """Transformers' table of point embeddings, (4, C), as four official tensors of (1, C)."""
    rows = len(key_map.POINT_ROWS)
    if len(table.shape) != 2 or table.shape[0] != rows:
        shape = list(table.shape)
        raise CheckpointError(f"{path}: {key_map.POINT_TABLE} has the shape {shape}; it needs {rows} rows")
    return {
        key: Weight(
            key_map.POINT_TABLE,
            (1, table.shape[1]),
            table.dtype,
            None,
            lambda i=i: mx.contiguous(table.fetch()[i : i + 1]),
        )
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
        if (folder := shipped(text)) is not None:
            return read_config(folder / CONFIG)
        model = published(text)
        if model is None:
            raise ConfigError(f"config={text!r} is neither a file nor a published model ({short_names()})")
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
    with path.open("rb") as file:
        data = file.read(MAX_YAML_BYTES + 1)
    if len(data) > MAX_YAML_BYTES:  # PyYAML takes minutes for megabytes
        raise ConfigError(f"is longer than {MAX_YAML_BYTES} bytes, which such a file never is")
    try:
        return yaml.safe_load(data.decode())
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        # but for the first these are what PyYAML's constructors meet in numbers, dates and tags that are none
        raise ConfigError(f"is not valid YAML ({shown(one_line(error))})") from None

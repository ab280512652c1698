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
from typing import Any

import mlx.core as mx

from ..config.parts import ConfigError
from ..config.sam2 import SAM2Config
from ..formats import safetensors_file, torch_file
from ..formats.names import CONFIG, INDEX, WEIGHTS
from ..text import some
from . import families, key_map
from .config_file import read_config, read_json_config
from .copies import Copy, CopyError, choose, find
from .tensors import CheckpointError, Contents, Raw, read_tensors, weights_file

_TRUNKS = tuple(
    f"{encoder}.{part}"
    for encoder, body in (("image_encoder.trunk", "body"), ("vision_encoder.backbone", "timm_model"))
    for part in ("blocks.", f"{body}.")
)


@dataclass(frozen=True)
class Weight:
    """One tensor of a checkpoint, not read yet."""

    name: str  # in the file
    shape: tuple[int, ...]  # in the file
    dtype: str  # such as "float32"
    axes: tuple[int, ...] | None  # the file's axes in MLX's order; None: they are in it already
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
    """The contents of a checkpoint, as ``read`` found them. Nothing is loaded yet."""

    path: Path
    layout: str  # "official", "transformers" or "mlx"
    weights: dict[str, Weight]  # by official name
    unknown: tuple[str, ...]  # names in the file that no SAM 2 has
    config: SAM2Config | None  # as given, or from config.json
    metadata: dict[str, str]
    files: tuple[Path, ...] = ()  # that hold the tensors
    values: dict[str, Any] = field(default_factory=dict)  # config.json as it stands, where it was read
    copy: str | None = None  # the label of the copy, where the file holds several
    counters: dict[str, Weight] = field(default_factory=dict)  # by official name; conversions keep them


def read(path: str | os.PathLike[str], config: SAM2Config | None = None, weights_key: str | None = None) -> Checkpoint:
    """The contents of a local checkpoint (file or folder). No tensor is read before it is asked for.

    Args:
        path: of the file or folder.
        config: of the model; None: that of the ``config.json`` in the folder, or beside a ``model.safetensors``.
        weights_key: which of several copies of the weights, such as "ema"; None: the trained ones, with a warning
            that lists the others.

    Raises:
        CheckpointError: it is damaged, no SAM 2 checkpoint, or holds no such copy.
    """
    path = Path(os.path.expanduser(path))
    try:
        if path.exists() and not (path.is_dir() or path.is_file()):  # reading a pipe would wait for ever
            raise CheckpointError(f"{path} is neither a file nor a folder")
        file = weights_file(path) if path.is_dir() else path
        config_file = file.parent / CONFIG
        has_config = path.is_dir() or file.name in (WEIGHTS, INDEX)
        values: dict[str, Any] = {}
        if config is None and has_config and config_file.is_file():
            values, config = read_json_config(config_file), read_config(config_file)
        contents = read_tensors(file)
        copy, others = _copy_of(contents, path, weights_key)
        found = Checkpoint(path, "", {}, (), config, contents.metadata, contents.files, values, others)
        return _interpret(found, copy)
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or path}: {error.strerror or error}") from None
    except torch_file.TorchFileError as error:
        if other := families.family_of_class(error.named):
            raise CheckpointError(f"{path} {families.refusal(other)}") from None
        raise CheckpointError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    except (safetensors_file.SafetensorsFileError, ConfigError) as error:
        raise CheckpointError(str(error)) from None


def _copy_of(contents: Contents, path: Path, weights_key: str | None) -> tuple[Copy, str | None]:
    """The copy of the weights to load, and its label if there are several.

    Raises:
        CheckpointError: there is none.
    """
    try:
        copies = find(contents.dicts)
        if not copies:
            _refuse_family({name for group in contents.dicts.values() for name in group}, path)
            outermost = contents.dicts.get("") or next(iter(contents.dicts.values()), {})
            for tensor in outermost.values():
                tensor.check()
            if not outermost:
                raise CheckpointError(f"{path} is no SAM 2 checkpoint: it holds no tensors")
            raise CheckpointError(f"{path} is no SAM 2 checkpoint: its tensors have names such as {some(outermost, 2)}")
        copy = choose(copies, weights_key, path)
    except CopyError as error:
        raise CheckpointError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    names = set(copy.tensors)
    if not any(name.startswith(_TRUNKS) for name in names):
        names |= {name for group in contents.dicts.values() for name in group}
    _refuse_family(names, path)
    if copy.beside and weights_key is None:
        raise CheckpointError(
            f"{path} holds tensors beside the model {copy.shown!r} that no SAM 2 has ({some(copy.beside)}): "
            f"weights_key={copy.shown!r} (--weights-key {copy.shown}) leaves them out"
        )
    for tensor in copy.tensors.values():
        tensor.check()
    return copy, copy.label if len(copies) > 1 else None


def _refuse_family(names: set[str], path: Path) -> None:
    if found := families.family(names):
        raise CheckpointError(f"{path} {families.refusal(found)}")


def _interpret(found: Checkpoint, copy: Copy) -> Checkpoint:
    """The checkpoint with every tensor under its official name and with its axes."""
    path, raw = found.path, copy.tensors
    if any(name.startswith("vision_encoder.") for name in raw):
        layout = "transformers"
    else:
        layout = "mlx" if found.metadata.get("format") == "mlx" else "official"
    weights: dict[str, Weight] = {}
    counters: dict[str, Weight] = {}
    halves: dict[str, dict[int, str]] = {}
    unknown = []
    for name, value in raw.items():
        if key_map.ignored(name):
            continue
        if layout == "transformers" and name == key_map.POINT_TABLE:
            weights.update(_point_rows(path, value))
            continue
        if layout == "transformers" and (half := key_map.half(name)) is not None:
            halves.setdefault(half[0], {})[half[1]] = name
            continue
        key = key_map.from_transformers(name) if layout == "transformers" else name
        if key is None:
            unknown.append(name)
            continue
        if key_map.is_counter(key):
            counters[key] = _counter(path, name, value)
            continue
        fetch = value.fetch
        if name in key_map.POSITION_COPIES and all(copy in raw for copy in key_map.POSITION_COPIES):
            fetch = _same(path, *(raw[copy].fetch for copy in key_map.POSITION_COPIES))
        axes = None if layout == "mlx" else key_map.mlx_axes(key)
        weights[key] = Weight(name, value.shape, value.dtype, axes, fetch)
    for key, names in halves.items():
        if len(names) == 2:
            weights[key] = _joined(path, names[0], raw[names[0]], raw[names[1]])
        else:
            unknown += names.values()
    return dataclasses.replace(found, layout=layout, weights=weights, unknown=tuple(unknown), counters=counters)


def _counter(path: Path, name: str, value: Raw) -> Weight:
    if value.shape not in ((), (1,)):
        raise CheckpointError(f"{path}: {name} has the shape {list(value.shape)}; it counts steps, so it is one number")
    return Weight(name, value.shape, value.dtype, None, value.fetch)


def _joined(path: Path, name: str, first: Raw, second: Raw) -> Weight:
    """Two matrices (C, M) as one (2 C, M)."""
    if len(first.shape) != 2 or first.shape != second.shape or first.dtype != second.dtype:
        shapes = f"{first.dtype} {list(first.shape)} and {second.dtype} {list(second.shape)}"
        raise CheckpointError(f"{path}: {name} and the values beside it do not fit each other: {shapes}")
    rows, columns = first.shape
    return Weight(name, (2 * rows, columns), first.dtype, None, lambda: mx.concatenate([first.fetch(), second.fetch()]))


def _point_rows(path: Path, table: Raw) -> dict[str, Weight]:
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

"""Read weights files: their tensors under the names in the file, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx

from ..formats import misfits, safetensors_file, torch_file
from ..formats.names import INDEX, TORCH_SUFFIXES, WEIGHTS
from ..text import dtype_name, some


class CheckpointError(ValueError):
    """A checkpoint cannot be loaded or written; one line that says what is wrong with it and what to do."""


class Raw(NamedTuple):
    """A tensor, not read yet."""

    shape: tuple[int, ...]
    dtype: str
    fetch: Callable[[], mx.array]
    check: Callable[[], None] = lambda: None  # compares what the file claims with its bytes


class Contents(NamedTuple):
    """A weights file, or several with an index."""

    dicts: dict[str, dict[str, Raw]]  # by their places in the file; "" is the outermost
    metadata: dict[str, str]
    files: tuple[Path, ...]


def weights_file(folder: Path) -> Path:
    """The weights file of a folder, or its index of several.

    Raises:
        CheckpointError: it holds none, or several.
    """
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    for suffixes in ((".safetensors",), TORCH_SUFFIXES, (".ckpt", ".bin")):  # the last: Lightning's, transformers'
        found = sorted(p for p in folder.iterdir() if p.suffix in suffixes and p.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(p.name for p in found[:5])
            raise CheckpointError(f"{folder} holds {len(found)} weights files ({names}): pass the one to load")
    raise CheckpointError(f"{folder} holds no weights: no {WEIGHTS} and no .pt file")


def read_tensors(file: Path) -> Contents:
    """Everything that a weights file holds.

    Raises:
        CheckpointError: the files of an index do not fit together.
        TorchFileError, SafetensorsFileError, OSError: the file is damaged, or no such file.
    """
    if file.name.endswith(".index.json"):
        return _read_shards(file)
    misfits.refuse(file)
    with file.open("rb") as opened:  # what the file is shows in its first bytes, not in its name
        head = opened.read(9)
    if file.suffix == ".safetensors" or head[8:] == b"{":
        only = _SafetensorsFile(file)
        return Contents({"": only.tensors}, only.metadata, (file,))
    dicts = {
        place: {name: Raw(ref.shape, ref.dtype, _fetcher(ref), ref.check) for name, ref in group.items()}
        for place, group in torch_file.read_all(file).items()
    }
    if not dicts:
        torch_file.read(file)  # says what it holds instead
    return Contents(dicts, {}, (file,))


def _read_shards(index: Path) -> Contents:
    weight_map = safetensors_file.read_index(index)
    shards = [_SafetensorsFile(index.parent / name) for name in sorted(set(weight_map.values()))]
    raw = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    twice = [name for name in raw if sum(name in shard.tensors for shard in shards) > 1]
    if twice:
        raise CheckpointError(f"{index}: two of its files hold {some(twice)}; download or convert it again")
    absent = weight_map.keys() - raw.keys()
    if absent:
        raise CheckpointError(f"{index}: its files lack {some(absent)}")
    if len({shard.metadata.get("format") for shard in shards}) > 1:
        raise CheckpointError(f"{index}: its files are of different formats; download or convert it again")
    return Contents({"": raw}, shards[0].metadata, tuple(shard.path for shard in shards))


class _SafetensorsFile:
    """The tensors of one file. Each is handed over, not kept.

    MLX reads an array when it is evaluated, and the array keeps what was read. Kept here, the whole file would
    stay in memory beside the model; a tensor that is asked for twice is mapped again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays, self.metadata = safetensors_file.read(path)
        self.tensors = {
            name: Raw(tuple(value.shape), dtype_name(value.dtype), lambda n=name: self._take(n))
            for name, value in self._arrays.items()
        }

    def _take(self, name: str) -> mx.array:
        if name not in self._arrays:
            self._arrays = safetensors_file.read(self.path)[0]
        return self._arrays.pop(name)


def _fetcher(ref: torch_file.TensorRef) -> Callable[[], mx.array]:
    def fetch() -> mx.array:
        array = ref.read()
        if ref.dtype == "float64":
            return mx.array(array, dtype=mx.float32)
        return mx.array(array).view(mx.bfloat16) if ref.dtype == "bfloat16" else mx.array(array)

    return fetch

"""Write safetensors files one tensor at a time: the header first, from names and shapes, then the bytes as they come.

MLX's own writer and that of the ``safetensors`` package take all tensors at once; here no more than one is in memory.
The format: github.com/huggingface/safetensors, README ("Format").
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from .names import INDEX, WEIGHTS

SHARD_BYTES = 5 << 30  # above it, several files and an index, as the Hub's tools have it
UNFINISHED = ".unfinished"  # what a file is called beyond its name until it is whole

_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint32": "U32"}
_ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint32": 4}


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written: what it will be, and how to get it."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # "float32", "float16", "bfloat16" or "uint32"
    make: Callable[[], mx.array]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _ITEMSIZES[self.dtype]

    def data(self) -> memoryview:
        """The bytes, row by row, in native order."""
        with mx.stream(mx.cpu):  # the same bits on every machine
            value = self.make()
            if (tuple(value.shape), str(value.dtype)) != (self.shape, f"mlx.core.{self.dtype}"):
                raise ValueError(f"{self.name}: made {value.dtype} {value.shape}, announced {self.dtype} {self.shape}")
            bits = value.view(mx.uint16) if self.dtype == "bfloat16" else value  # numpy has no bfloat16
            mx.eval(bits)
        return memoryview(np.ascontiguousarray(np.asarray(bits))).cast("B")


def write(
    folder: Path,
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, str]:
    """Write ``model.safetensors`` into a folder, or several files and an index where it would exceed ``shard_bytes``.

    The files have provisional names, so that a half-written folder is none that loads, until ``finish`` is called.

    Args:
        tensors: in any order; each is asked for once, and let go before the next.
        metadata: goes into the header of every file.
        progress: called with the number of bytes after each tensor.

    Returns:
        {file name: sha256}, the index included.

    Raises:
        OSError: the disk is full or fails.
    """
    shards = split(tensors, shard_bytes)
    names = shard_names(len(shards))
    hashes = {
        name: _write_file(folder / (name + UNFINISHED), shard, metadata, progress)
        for name, shard in zip(names, shards, strict=True)
    }
    if len(shards) > 1:
        text = index_text(dict(zip(names, shards, strict=True)))
        (folder / (INDEX + UNFINISHED)).write_text(text)
        hashes[INDEX] = hashlib.sha256(text.encode()).hexdigest()
    return hashes


def finish(folder: Path, names: Iterable[str]) -> None:
    """Give the files of ``write`` their names; the index comes last, and without it several files are no model."""
    for name in sorted(names, key=lambda name: name == INDEX):
        (folder / (name + UNFINISHED)).rename(folder / name)


def split(tensors: Iterable[Tensor], shard_bytes: int) -> list[list[Tensor]]:
    """Tensors in the order of writing, cut where a file would exceed the limit. A larger tensor has a file alone."""
    shards: list[list[Tensor]] = [[]]
    filled = 0
    # whole multiples of 8 bytes first: then every tensor begins where numbers of its size may
    for tensor in sorted(tensors, key=lambda t: (t.nbytes % 8 > 0, t.nbytes % 4 > 0)):
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


def shard_names(count: int) -> list[str]:
    if count == 1:
        return [WEIGHTS]
    stem, suffix = os.path.splitext(WEIGHTS)
    return [f"{stem}-{i:05d}-of-{count:05d}{suffix}" for i in range(1, count + 1)]


def index_text(shards: Mapping[str, Sequence[Tensor]]) -> str:
    """The index of several files, as transformers and MLX write it."""
    weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
    total = sum(tensor.nbytes for shard in shards.values() for tensor in shard)
    return json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}, indent=2)


def header(tensors: Sequence[Tensor], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON of a file's header, padded to a multiple of 8 bytes."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for tensor in tensors:
        end = start + tensor.nbytes
        entries[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_file(
    path: Path, tensors: Sequence[Tensor], metadata: Mapping[str, str], progress: Callable[[int], object]
) -> str:
    """Write one file; returns its sha256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        start = header(tensors, metadata)
        digest.update(start)
        file.write(start)
        for tensor in tensors:
            data = tensor.data()
            digest.update(data)
            file.write(data)
            progress(tensor.nbytes)
        file.flush()
        os.fsync(file.fileno())  # before it takes its name
    return digest.hexdigest()

"""Write a safetensors file one tensor at a time: the header first, from names and shapes, then the bytes as they come.

MLX's own writer and that of the ``safetensors`` package take all tensors at once; here no more than one is in memory.
The format: github.com/huggingface/safetensors, README ("Format").
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..text import dtype_name

_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint32": "U32", "int64": "I64"}
ITEMSIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "uint32": 4, "int64": 8}


@dataclass(frozen=True)
class Tensor:
    """A tensor to write. It is made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # one of ITEMSIZES
    make: Callable[[], mx.array]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZES[self.dtype]

    def data(self) -> memoryview:
        """The bytes, row by row, in native order."""
        with mx.stream(mx.cpu):  # the same bits on every machine
            value = self.make()
            if (tuple(value.shape), dtype_name(value.dtype)) != (self.shape, self.dtype):
                raise ValueError(f"{self.name}: made {value.dtype} {value.shape}, announced {self.dtype} {self.shape}")
            bits = value.view(mx.uint16) if self.dtype == "bfloat16" else value  # numpy has no bfloat16
            mx.eval(bits)
        return memoryview(np.ascontiguousarray(np.asarray(bits))).cast("B")


def write(
    path: Path,
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
    progress: Callable[[int], object] = lambda count: None,
) -> str:
    """Write a file that does not exist yet.

    Args:
        path: of the file.
        tensors: in any order. Each is made once, and let go before the next.
        metadata: goes into the header.
        progress: called with the number of bytes after each tensor.

    Returns:
        The sha256 of the file.

    Raises:
        OSError: the disk is full or fails.
    """
    tensors = _aligned(tensors)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        start = _header(tensors, metadata)
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


def file_size(tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> int:
    """The bytes of the file that ``write`` would make."""
    tensors = _aligned(tensors)
    return len(_header(tensors, metadata)) + sum(tensor.nbytes for tensor in tensors)


def _aligned(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Whole multiples of 8 bytes first: then every tensor begins where numbers of its size may."""
    return sorted(tensors, key=lambda t: (t.nbytes % 8 > 0, t.nbytes % 4 > 0))


def _header(tensors: Iterable[Tensor], metadata: Mapping[str, str]) -> bytes:
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

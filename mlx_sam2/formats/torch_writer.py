"""Write a PyTorch checkpoint (``.pt``) without torch, one tensor at a time; ``torch_file`` describes the format.

What comes out is what the official code loads: ``torch.load(path, weights_only=True)["model"]`` is the state dict.
"""

from __future__ import annotations

import os
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .safetensors_writer import ITEMSIZES, Tensor

_STORAGES = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}
_ROOT = "archive"
_ALIGNMENT = 64  # of the bytes of a storage, as torch.save writes them


def write(path: Path, tensors: Sequence[Tensor], progress: Callable[[int], object] = lambda count: None) -> None:
    """Write {"model": {name: tensor}} to a path that does not exist.

    Raises:
        OSError: the disk is full or fails.
    """
    with path.open("xb") as file:
        with zipfile.ZipFile(file, "w") as archive:
            _add(archive, "data.pkl", _pickle(tensors))
            _add(archive, "byteorder", sys.byteorder.encode())
            for index, tensor in enumerate(tensors):
                _add(archive, f"data/{index}", tensor.data())
                progress(tensor.nbytes)
            _add(archive, "version", b"3\n")
        file.flush()
        os.fsync(file.fileno())


def _add(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Add an uncompressed entry. Padding in the extra field of its header aligns its data."""
    entry = zipfile.ZipInfo(f"{_ROOT}/{name}")  # dated 1980: the same weights give the same file
    entry.file_size = len(data)
    start = archive.fp.tell() + 30 + len(entry.filename) + 4  # the header, the name, the extra field's own header
    padding = -start % _ALIGNMENT
    entry.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    with archive.open(entry, "w") as target:
        target.write(data)


def _pickle(tensors: Sequence[Tensor]) -> bytes:
    """The opcodes (protocol 2) of the dict of tensors."""
    items = b"".join(_text(t.name) + _tensor(t, str(index)) for index, t in enumerate(tensors))
    return b"\x80\x02" + b"}" + _text("model") + b"}(" + items + b"u" + b"s" + b"."


def _tensor(tensor: Tensor, key: str) -> bytes:
    """A call of torch's _rebuild_tensor_v2: storage, offset, shape, strides, requires_grad, hooks."""
    numel = tensor.nbytes // ITEMSIZES[tensor.dtype]
    storage = b"(" + _text("storage") + _global("torch", _STORAGES[tensor.dtype]) + _text(key) + _text("cpu")
    storage += _integer(numel) + b"tQ"
    shape, strides = _tuple(tensor.shape), _tuple(tuple(_strides(tensor.shape)))
    hooks = _global("collections", "OrderedDict") + b")R"
    arguments = b"(" + storage + _integer(0) + shape + strides + b"\x89" + hooks + b"t"
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + b"R"


def _strides(shape: Sequence[int]) -> Iterator[int]:
    """The strides of a row-major tensor, in elements."""
    for axis in range(len(shape)):
        stride = 1
        for size in shape[axis + 1 :]:
            stride *= size
        yield stride


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def _tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"

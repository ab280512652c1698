"""Read the tensors of a PyTorch checkpoint (``.pt``) without torch, one at a time.

``torch.save`` writes a zip archive of uncompressed entries (PyTorch ``torch/serialization.py``):
``<root>/data.pkl``, a pickle of containers that describes every tensor (see ``torch_pickle``), and
``<root>/data/<key>``, the bytes of each storage. Every size that the file claims is compared with the bytes
it has before memory is taken.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..text import shown
from . import torch_pickle
from .torch_pickle import TensorClaim, TorchFileError

MAX_PICKLE_BYTES = 4 << 20  # SAM 2 large needs 0.2 MB, with its optimizer 0.6 MB
MAX_DIRECTORY_BYTES = 4 << 20  # of the archive; as many again
PICKLE_START, TAR_MARK = b"\x80", b"ustar"  # of what PyTorch wrote before 1.6
MAX_GROUPS, MAX_PLACE = 1000, 100  # dicts that are looked into, and the letters of their places

# numpy knows no bfloat16, and a byte that is neither 0 nor 1 is no numpy bool: both are read as bits.
_READ_AS = {"bfloat16": "uint16", "bool": "uint8"}


@dataclass(frozen=True)
class TensorRef:
    """A tensor in a file, described. Only ``read`` reads its bytes."""

    claim: TensorClaim
    archive: _Archive

    @property
    def shape(self) -> tuple[int, ...]:
        return self.claim.shape

    @property
    def dtype(self) -> str:
        """PyTorch's name of the element type, such as "float32" or "bfloat16"."""
        return self.claim.dtype

    @property
    def _np_dtype(self) -> np.dtype:
        return np.dtype(_READ_AS.get(self.dtype, self.dtype))

    @property
    def _span(self) -> int:
        """Elements of the storage from the first that the tensor touches to the last."""
        if math.prod(self.shape) == 0:
            return 0
        return 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.claim.strides, strict=True))

    def check(self) -> None:
        """Compare what the pickle claims with the bytes that the archive has.

        Raises:
            TorchFileError: the storage is absent or smaller than claimed, or the tensor does not fit into it.
        """
        claim, itemsize = self.claim, self._np_dtype.itemsize
        what = f"a tensor of shape {list(claim.shape)}, strides {list(claim.strides)} and offset {claim.offset}"
        _, stored = self.archive.place(f"data/{claim.storage_key}")
        if claim.storage_size * itemsize > stored:
            claimed = f"claims a storage of {claim.storage_size * itemsize} bytes"
            raise TorchFileError(f"{what} {claimed}, but entry data/{shown(claim.storage_key)} has {stored}")
        # A tensor with more elements than its storage (an expanded one) could ask for any amount of memory.
        # What is empty along one axis may have others that numpy and MLX cannot count.
        fits = claim.offset + self._span <= claim.storage_size and math.prod(claim.shape) <= claim.storage_size
        if not fits or math.prod(n or 1 for n in claim.shape) >= 1 << 31:
            raise TorchFileError(f"{what} does not fit its storage of {claim.storage_size} elements")

    def read(self) -> np.ndarray:
        """The tensor as a C-contiguous array in native byte order; bfloat16 comes as its bits, in uint16."""
        self.check()
        dtype, span = self._np_dtype, self._span
        start, _ = self.archive.place(f"data/{self.claim.storage_key}")
        start += self.claim.offset * dtype.itemsize
        with self.archive.path.open("rb") as file:
            flat = np.fromfile(file, dtype.newbyteorder(self.archive.byteorder), span, offset=start)
        if flat.size != span:
            raise TorchFileError(f"{self.archive.path}: the file became shorter while it was being read")
        flat = flat.astype(dtype, copy=False)
        used = [stride if n > 1 and span else 0 for n, stride in zip(self.shape, self.claim.strides, strict=True)]
        view = np.lib.stride_tricks.as_strided(flat, self.shape, [stride * dtype.itemsize for stride in used])
        return view != 0 if self.dtype == "bool" else np.ascontiguousarray(view).reshape(self.shape)


class _Frugal(io.FileIO):
    """A file that limits one read: zipfile reads the whole directory of an archive at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise TorchFileError(f"its directory has {size} bytes; no SAM 2 checkpoint needs {MAX_DIRECTORY_BYTES}")
        return super().read(size) or b""


class _Archive:
    """The zip archive: where the bytes of each entry lie. Compressed or overlapping entries are refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _Frugal(path) as file, zipfile.ZipFile(file) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            limits = [info.header_offset for info in infos[1:]] + [archive.start_dir]
        self._entries = {info.filename: (info, limit) for info, limit in zip(infos, limits, strict=True)}
        if len(self._entries) != len(infos):
            raise TorchFileError("two entries of the archive have the same name")
        if infos and infos[0].header_offset < 0:
            raise TorchFileError("an entry of the archive begins before the file")
        roots = [name.split("/")[0] for name in self._entries if name.split("/")[1:] == ["data.pkl"]]
        if len(roots) != 1:
            raise TorchFileError("this zip archive is no PyTorch checkpoint: it has no single data.pkl")
        self._root = roots[0]
        self._places: dict[str, tuple[int, int]] = {}
        self.byteorder = "<"  # files from before PyTorch 2.1 do not say, and are little-endian
        if f"{self._root}/byteorder" in self._entries:
            order = self.read("byteorder", limit=16)
            if order not in (b"little", b"big"):
                raise TorchFileError(f"unknown byte order {shown(order.decode('latin1'))}")
            self.byteorder = "<" if order == b"little" else ">"

    def place(self, name: str) -> tuple[int, int]:
        """Offset in the file and length in bytes of an entry's data."""
        if name not in self._places:
            self._places[name] = self._find(name)
        return self._places[name]

    def _find(self, name: str) -> tuple[int, int]:
        if f"{self._root}/{name}" not in self._entries:
            raise TorchFileError(f"the archive has no entry {shown(name)}")
        info, limit = self._entries[f"{self._root}/{name}"]
        stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        if not stored or info.flag_bits & 1:
            raise TorchFileError(f"entry {shown(name)} is compressed or encrypted, which torch.save never does")
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise TorchFileError(f"entry {shown(name)} does not begin where the archive says")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if start + info.file_size > limit:
            raise TorchFileError(f"entry {shown(name)} overlaps what follows it")
        return start, info.file_size

    def read(self, name: str, limit: int) -> bytes:
        start, size = self.place(name)
        if size > limit:
            raise TorchFileError(f"entry {shown(name)} has {size} bytes; no SAM 2 checkpoint needs more than {limit}")
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(size)


def is_torch_zip(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as the zip archives of ``torch.save`` do."""
    with Path(path).open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def has_end(path: str | os.PathLike[str]) -> bool:
    """Whether a zip archive has its directory, which comes last; without it the file was cut off."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it is there, and damaged
        return True


def read(path: str | os.PathLike[str]) -> dict[str, TensorRef]:
    """The tensors of a checkpoint by name, without torch. None of them is read yet.

    ``{"model": state}`` (the official files, and the checkpoints of the official trainer, whose other entries
    are left alone), ``{"state_dict": state}`` and a bare state dict are understood.

    Raises:
        TorchFileError: one line that says what is wrong with the file.
        OSError: the file cannot be opened.
    """
    with _one_line(Path(path)):
        archive, top = _open(Path(path))
        return _checked(_state_of(top), archive)


def read_all(path: str | os.PathLike[str]) -> dict[str, dict[str, TensorRef]]:
    """Every dict of the file that holds tensors, by its place: "" is the outermost, "ema.model" lies in "ema".

    Values beside the tensors are left out. The tensors have not been compared with the file yet, as
    ``TensorRef.check`` does.

    Raises:
        TorchFileError, OSError: as ``read``.
    """
    with _one_line(Path(path)):
        archive, top = _open(Path(path))
        found: dict[str, dict[str, TensorRef]] = {}
        for place, group in _groups(top):
            tensors = {k: TensorRef(v, archive) for k, v in group.items() if isinstance(v, TensorClaim)}
            if tensors and all(isinstance(key, str) for key in tensors):
                found[place] = tensors
        return found


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn errors of reading into one line that names the file."""
    try:
        yield
    except TorchFileError as error:
        told = TorchFileError(f"{path}: {str(error).removeprefix(f'{path}: ')}")
        told.named = error.named
        raise told from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        why = shown(str(error)) or type(error).__name__
        if isinstance(error, zipfile.BadZipFile) and not has_end(path):
            why = f"its end is missing: {path.stat().st_size:,} bytes are there"
        raise TorchFileError(f"{path}: truncated or damaged ({why}); download or copy it again") from None


def _open(path: Path) -> tuple[_Archive, Any]:
    """The archive, and the value that is pickled in it."""
    if not is_torch_zip(path):
        with path.open("rb") as file:
            start = file.read(512)
        if not start.startswith(PICKLE_START) and start[257:262] != TAR_MARK:
            raise TorchFileError("no PyTorch checkpoint: torch.save writes a zip archive, and this is none")
        raise TorchFileError(
            "not a zip archive, which is what torch.save writes since PyTorch 1.6; if this is an older "
            "PyTorch file, re-save it: torch.save(torch.load(path, map_location='cpu'), path)"
        )
    archive = _Archive(path)
    return archive, torch_pickle.loads(archive.read("data.pkl", MAX_PICKLE_BYTES))


def _checked(claims: dict[str, TensorClaim], archive: _Archive) -> dict[str, TensorRef]:
    refs = {key: TensorRef(claim, archive) for key, claim in claims.items()}
    for ref in refs.values():
        ref.check()
    return refs


def _groups(top: Any) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield dicts within dicts, each once, with its place. A pickle may hold circles of them."""
    ahead = [("", top)]
    seen: set[int] = set()
    for place, group in ahead:  # grows as it is read
        if not isinstance(group, dict) or id(group) in seen or len(seen) >= MAX_GROUPS:
            continue
        seen.add(id(group))
        yield place, group
        for key, value in group.items():
            if isinstance(value, dict) and isinstance(key, str) and len(place) + len(key) <= MAX_PLACE:
                ahead.append((f"{place}.{key}" if place else key, value))


def _kind(value: Any) -> str:
    return "tensor" if isinstance(value, TensorClaim) else type(value).__name__


def _state_of(top: Any) -> dict[str, TensorClaim]:
    """The state dict in the unpickled value."""
    if not isinstance(top, dict):
        raise TorchFileError(f"holds a {_kind(top)}, not a state dict")
    state = next((top[k] for k in ("model", "state_dict") if isinstance(top.get(k), dict)), top)
    for key, value in state.items():
        if not isinstance(key, str):
            raise TorchFileError(f"a {_kind(key)} is the name of an entry; expected a state dict")
        if not isinstance(value, TensorClaim):
            what = f"entry {shown(key)} is a {_kind(value)}, not a tensor"
            raise TorchFileError(f"{what}; expected a state dict or {{'model': state dict}}")
    if not state:
        raise TorchFileError("the state dict is empty")
    return state

"""Read safetensors files: the ``safetensors`` package checks the header, MLX reads the data when it is used.

``safetensors`` refuses absurd header lengths and offsets that lie, overlap or leave holes, before anything is
allocated. MLX then maps names to arrays that are read one by one, when they are first evaluated.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..text import one_line, shown

if TYPE_CHECKING:
    import mlx.core as mx

MAX_INDEX_BYTES = 4 << 20
MAX_CONFIG_BYTES = 1 << 20
MAX_HEADER_BYTES = 4 << 20  # large needs 0.1 MB


class SafetensorsFileError(ValueError):
    """A safetensors file, an index or a JSON file cannot be read. One line that says why."""


def read(path: str | os.PathLike[str]) -> tuple[dict[str, mx.array], dict[str, str]]:
    """The tensors of a file by name, not read yet, and the metadata of its header.

    Raises:
        SafetensorsFileError: the header is damaged or lies.
        OSError: the file cannot be opened.
    """
    import mlx.core as mx

    metadata = check(path)
    try:
        return mx.load(str(path), format="safetensors"), metadata
    except (RuntimeError, OverflowError) as error:  # an element type that MLX has not (F64), axes beyond 32 bits
        raise SafetensorsFileError(f"{path}: MLX cannot read it ({shown(one_line(error), 160)})") from None


def check(path: str | os.PathLike[str]) -> dict[str, str]:
    """Check a file's header against its length, and return the header's metadata. No tensor is read.

    Raises:
        SafetensorsFileError: the header is damaged or lies, or the file is cut off.
        OSError: the file cannot be opened.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise SafetensorsFileError(f"{path}: is no regular file")
    with path.open("rb") as file:  # a missing or forbidden file is an OSError with its name
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER_BYTES < length < path.stat().st_size:  # a longer one is no header: see below
        raise SafetensorsFileError(f"{path}: its header has {length} bytes; no SAM 2 needs over {MAX_HEADER_BYTES}")
    try:
        with safe_open(str(path), framework="numpy") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        size, whole = path.stat().st_size, _stated_size(path, length)
        why = shown(one_line(error), 160)
        if whole is not None and size < whole < 1 << 62:
            why = f"{size:,} of {whole:,} bytes are there"
        raise SafetensorsFileError(
            f"{path}: no safetensors file, or truncated or damaged ({why}); download or copy it again"
        ) from None


def _stated_size(path: Path, length: int) -> int | None:
    """The size of a file according to its header; None: it has none that can be read."""
    if length > MAX_HEADER_BYTES:
        return None
    with path.open("rb") as file:
        file.seek(8)
        text = file.read(length)
    try:
        entries = [entry for name, entry in json.loads(text).items() if name != "__metadata__"]
        return 8 + length + max(int(entry["data_offsets"][1]) for entry in entries)
    except (ValueError, ArithmeticError, RecursionError, LookupError, TypeError, AttributeError):  # no such JSON
        return None


def read_index(path: str | os.PathLike[str]) -> dict[str, str]:
    """The ``weight_map`` of a ``model.safetensors.index.json``: {tensor: file beside the index}.

    Raises:
        SafetensorsFileError: it is no such index, or a file name leaves the folder.
    """
    path = Path(path)
    weight_map = read_json(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SafetensorsFileError(f"{path}: has no weight_map, so it is no index of safetensors files")
    for name in weight_map.values():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise SafetensorsFileError(f"{path}: {ascii(name)[:120]} is no safetensors file beside the index")
    return weight_map


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        SafetensorsFileError: it is longer than ``limit`` bytes, no JSON, or no object.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise SafetensorsFileError(f"{path}: is longer than {limit} bytes, which such a file never is")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SafetensorsFileError(f"{path}: is not valid JSON ({shown(one_line(error), 160)})") from None
    if not isinstance(value, dict):
        raise SafetensorsFileError(f"{path}: holds a {type(value).__name__}, not an object")
    return value

"""Folders in our layout: ``config.json`` beside the weights, written and read back.

    {..., "trunk": {...}, "model_type": "mlx_sam2",    the configuration, and what transformers said beside it
     "quantization": {"group_size": 64, "bits": 4, "<layer>": {...} or false},
     "mlx_sam2": {"version", "dtype", "source", "files"}}

``quantization`` has the form that mlx-lm uses, and names the layers that differ from the rule. Loading does not need
it, because the tensors show how they are packed. People, other tools and ``convert --verify`` read it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..config.parts import ConfigError
from ..config.sam2 import SAM2Config, foreign_fields
from ..formats import safetensors_writer
from ..formats.names import UNFINISHED, WEIGHTS
from ..formats.safetensors_writer import Tensor
from ..model.quantization import Scheme
from ..text import brief

SECTION = "mlx_sam2"


@dataclass(frozen=True)
class Source:
    """Where weights come from."""

    name: str  # a Hub id, or the name of a local file or folder
    sha256: str  # of the weights file, or of the lines that sha256sum prints for several
    dtype: str
    layout: str  # "official", "transformers" or "mlx"
    files: tuple[str, ...]  # the names of the weights files
    revision: str | None = None  # the commit, of a Hub repository
    weights_key: str | None = None  # the copy, of weights that held several
    base_model: str | None = None  # the Hub id of the first weights in the chain, where it is known

    def metadata(self) -> dict[str, str]:
        """For the header of a safetensors file."""
        said = {"source": self.name, "source_revision": self.revision, "source_sha256": self.sha256}
        return {key: value for key, value in said.items() if value is not None}


def config_json(
    config: SAM2Config,
    *,
    dtype: str,
    files: Mapping[str, str],
    schemes: Mapping[str, Scheme],
    default: Scheme | None = None,
    unquantized: Iterable[str] = (),
    source: Source | None = None,
    values: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The contents of ``config.json``.

    Args:
        config: of the model.
        dtype: of the weights that are not packed.
        files: {name: sha256} of the weights files.
        schemes: of the quantised layers, by name.
        default: the scheme that was asked for; None: the commonest.
        unquantized: layers that no group size fits.
        source: where the weights come from.
        values: the source's ``config.json``, whose foreign fields stay.
    """
    kept = _with_dtype(foreign_fields(values or {}), dtype)
    out = {**kept, **config.to_dict()}
    if schemes:
        default = default or _commonest(schemes.values())
        special = {name: scheme._asdict() for name, scheme in schemes.items() if scheme != default}
        out["quantization"] = {**default._asdict(), **special, **dict.fromkeys(unquantized, False)}
    section: dict[str, Any] = {"version": __version__, "dtype": dtype}
    if source is not None:
        section["source"] = {k: v for k, v in dataclasses.asdict(source).items() if v is not None}
    out[SECTION] = {**section, "files": dict(files)}
    return out


def _commonest(schemes: Iterable[Scheme]) -> Scheme:
    found = list(schemes)
    return max(sorted(set(found)), key=found.count)


def _with_dtype(fields: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Transformers' fields, with the precision of the new weights."""
    out = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            value = _with_dtype(value, dtype)
        out[key] = dtype if key in ("dtype", "torch_dtype") and value is not None else value
    return out


def stated_scheme(values: Mapping[str, Any], layer: str) -> Scheme | None:
    """How a layer is packed according to ``config.json``; None: not at all.

    Raises:
        ConfigError: its ``quantization`` is malformed.
    """
    said = values.get("quantization")
    if said is None:
        return None
    if not isinstance(said, dict):
        raise ConfigError(f"quantization = {brief(said)}: must be an object with group_size and bits")
    entry = said.get(layer, said)
    if entry is False:
        return None
    if not isinstance(entry, dict) or not all(type(entry.get(k)) is int for k in Scheme._fields):
        raise ConfigError(f"quantization of {brief(layer)} = {brief(entry)}: must have group_size and bits")
    return Scheme(entry["group_size"], entry["bits"])


def digest(values: Mapping[str, Any]) -> str:
    """sha256 of ``config.json`` without our section; the header of the weights holds it."""
    said = {key: value for key, value in values.items() if key != SECTION}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def provenance(values: Mapping[str, Any]) -> dict[str, Any]:
    """Our section of ``config.json``: "version", "dtype", "files", and "source" where it was known.

    Raises:
        ConfigError: there is no such section, or it is damaged.
    """
    found = values.get(SECTION)
    ok = isinstance(found, dict) and isinstance(found.get("files"), dict) and isinstance(found.get("dtype"), str)
    if not ok or not isinstance(found.get("source", {}), dict):
        raise ConfigError(f"config.json has no section {SECTION!r} with dtype and files: mlx_sam2 did not write it")
    return found


def metadata(values: Mapping[str, Any], source: Source | None = None) -> dict[str, str]:
    """The metadata of the weights' header: our mark, the hash of ``config.json``, the source."""
    ours = {"format": "mlx", "mlx_sam2": __version__, "config_sha256": digest(values)}
    return {**ours, **(source.metadata() if source else {})}


def json_text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"


def write(
    folder: Path,
    tensors: Iterable[Tensor],
    metadata: Mapping[str, str],
    texts: Callable[[dict[str, str]], dict[str, str]],
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Make a folder of weights and texts. The weights take their name last; until then nothing loads.

    Args:
        folder: does not exist yet.
        tensors: in any order.
        metadata: for the header of the weights.
        texts: gives {file name: text} for {weights file: sha256}.
        progress: called with the number of bytes after each tensor.

    Raises:
        OSError: the disk is full or fails.
    """
    folder.mkdir()
    unfinished = folder / (WEIGHTS + UNFINISHED)
    files = {WEIGHTS: safetensors_writer.write(unfinished, tensors, metadata, progress)}
    for name, text in texts(files).items():
        (folder / name).write_text(text, encoding="utf-8")
    unfinished.rename(folder / WEIGHTS)

"""What a folder in our layout says of itself: ``config.json`` beside the weights, written and read back.

    {..., "trunk": {...}, "model_type": "mlx_sam2",    the configuration, and what transformers said beside it
     "quantization": {"group_size": 64, "bits": 4, "<layer>": {...} or false},
     "mlx_sam2": {"version", "dtype", "source", "files"}}

``quantization`` has the form that mlx-lm uses; it names the layers that differ from the rule. Loading needs none of
it, because the tensors say how they are packed; it is there for people, other tools and ``convert --verify``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..config.parts import ConfigError
from ..config.sam2 import SAM2Config, foreign_fields
from ..model.quantization import Scheme
from ..text import brief

SECTION = "mlx_sam2"


@dataclass(frozen=True)
class Source:
    """Where weights come from."""

    name: str  # a Hub id, or the name of a local file or folder
    sha256: str  # of the weights file; of several, of the lines that sha256sum prints for them
    dtype: str
    layout: str  # "official", "transformers" or "mlx"
    files: tuple[str, ...]  # the names of the weights files
    revision: str | None = None  # the commit, of a Hub repository
    base_model: str | None = None  # the Hub id that it all began with, where that is known

    def metadata(self) -> dict[str, str]:
        """For the header of a safetensors file."""
        said = {"source": self.name, "source_revision": self.revision, "source_sha256": self.sha256}
        return {key: value for key, value in said.items() if value is not None}


def describe(
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
        schemes: of the quantised layers; ``default`` is the one that was asked for.
        unquantized: layers that no group size fits.
        source: where the weights come from.
        values: the source's ``config.json``, of which transformers' fields are kept.
    """
    from .. import __version__

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
    """Transformers' fields, told the precision of the new weights."""
    out = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            value = _with_dtype(value, dtype)
        out[key] = dtype if key in ("dtype", "torch_dtype") and value is not None else value
    return out


def said_scheme(values: Mapping[str, Any], layer: str) -> Scheme | None:
    """How ``config.json`` says that a layer is packed; None: that it is not.

    Raises:
        ConfigError: its ``quantization`` is none of this form.
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
    """sha256 of all that ``config.json`` says except of itself; the header of the weights holds it."""
    said = {key: value for key, value in values.items() if key != SECTION}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def section(values: Mapping[str, Any]) -> dict[str, Any]:
    """What we wrote of ourselves into ``config.json``: "version", "dtype", "files", and "source" where it was known.

    Raises:
        ConfigError: there is no such section, or it is damaged.
    """
    found = values.get(SECTION)
    ok = isinstance(found, dict) and isinstance(found.get("files"), dict) and isinstance(found.get("dtype"), str)
    if not ok or not isinstance(found.get("source", {}), dict):
        raise ConfigError(f"config.json has no section {SECTION!r} with dtype and files: mlx_sam2 did not write it")
    return found

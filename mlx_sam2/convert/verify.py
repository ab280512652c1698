"""Check a converted folder: against its own config.json, and against the weights that it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from ..checkpoint import folder as converted
from ..checkpoint import key_map, loading
from ..checkpoint.folder import Source
from ..checkpoint.reader import Checkpoint
from ..config.parts import ConfigError
from ..config.sam2 import SAM2Config
from ..files import sha256
from ..formats import safetensors_file
from ..formats.names import CONFIG, INDEX, TORCH_SUFFIXES
from ..formats.safetensors_file import MAX_CONFIG_BYTES
from ..model.quantization import Scheme, schemes_of, unquantize
from . import card, conversion, layouts

if TYPE_CHECKING:
    from ..model.sam2 import SAM2


class VerificationError(RuntimeError):
    """A folder contradicts its config.json, or is not complete. One line."""


@dataclass(frozen=True)
class Verified:
    """The contents of a folder that passed."""

    folder: Path
    config: SAM2Config
    values: dict[str, Any]  # config.json
    tensors: int
    nbytes: int
    dtype: str
    schemes: dict[str, Scheme]
    source: Source | None

    @property
    def precision(self) -> str:
        """ "fp16", "8bit", "mixed" and so on."""
        schemes = list(self.schemes.values())
        several = len({scheme.bits for scheme in schemes}) > 1
        return card.suffix_of(self.dtype, schemes[0] if schemes else None, "mixed" if several else None)


def verify(folder: Path) -> Verified:
    """Check files and hashes, names, shapes, precision and packing of a converted folder, and load it.

    Raises:
        VerificationError: the first thing that is wrong.
        OSError: a file cannot be read.
    """
    if not folder.is_dir():
        raise VerificationError(f"{folder} is no folder, so it is no model that mlx_sam2 converted")
    if not (folder / CONFIG).is_file():
        raise VerificationError(f"{folder} is not finished, or was not converted by mlx_sam2: it has no {CONFIG}")
    try:
        values = safetensors_file.read_json(folder / CONFIG, MAX_CONFIG_BYTES)
        section = converted.provenance(values)
        _check_files(folder, section["files"])
        found = loading.read(folder)
        if found.layout != "mlx" or found.config is None:
            raise VerificationError(f"{folder}: its weights are in the layout of {found.layout}, not in ours")
        dtype = loading.parse_dtype(section["dtype"])
        schemes = schemes_of(loading.build(found, found.config, dtype))
        _check_precision(found, section["dtype"], values, schemes)
        source = _source(section)
    except ValueError as error:  # CheckpointError, ConfigError, SafetensorsFileError, a dtype that is none
        raise VerificationError(f"{folder}: {str(error).removeprefix(f'{folder}: ')}") from None
    if source is not None and not source.metadata().items() <= found.metadata.items():
        raise VerificationError(f"{folder}: config.json and the header of the weights name different sources")
    if found.metadata.get("config_sha256", converted.digest(values)) != converted.digest(values):
        raise VerificationError(
            f"{folder}: config.json was changed since the weights were written, whose header holds its hash; convert "
            "again (--config gives a model other numbers)"
        )
    nbytes = sum(path.stat().st_size for path in found.files)
    return Verified(folder, found.config, values, len(found.weights), nbytes, section["dtype"], schemes, source)


def check_complete(folder: Path) -> Verified:
    """``verify``, and check that model card, licence and notice are there, which publishing needs.

    Raises:
        VerificationError, OSError: as ``verify``.
    """
    found = verify(folder)
    for name in (card.CARD, card.LICENSE, card.NOTICE):
        if not (folder / name).is_file():
            raise VerificationError(f"{folder} is not finished: it has no {name}; convert it again")
    return found


def _check_files(folder: Path, files: dict[str, Any]) -> None:
    """Every file that config.json lists is there and has its hash, and no other weights lie beside them."""
    if not files or not all(isinstance(v, str) and Path(k).name == k for k, v in files.items()):
        raise VerificationError(f"{folder}: config.json lists no weights files with their hashes")
    for name, expected in files.items():
        if not (folder / name).is_file():
            raise VerificationError(f"{folder} is not finished: it has no {name}")
        digest = sha256(folder / name)
        if digest != expected:
            raise VerificationError(
                f"{folder}/{name} is damaged or was changed: sha256 {digest[:16]}... instead of "
                f"{expected[:16]}...; convert or download it again"
            )
    stray = sorted(p.name for p in folder.iterdir() if p.suffix == ".safetensors" and p.name not in files)
    if stray:
        raise VerificationError(f"{folder}: {stray[0]} is no part of the model that config.json describes; remove it")


def _check_precision(found: Checkpoint, dtype: str, values: dict[str, Any], schemes: dict[str, Scheme]) -> None:
    for key, weight in found.weights.items():
        layer, _, leaf = key.rpartition(".")
        expected = "float32" if key_map.stored_float32(key) else dtype
        expected = "uint32" if leaf == "weight" and layer in schemes else expected
        if weight.dtype != expected:
            raise VerificationError(f"{found.path}: {key} is {weight.dtype}, but config.json says {expected}")
    for layer, scheme in schemes.items():
        said = converted.stated_scheme(values, layer)
        if said != scheme:
            says = f"{said.bits} bits in groups of {said.group_size}" if said else "not quantised"
            is_ = f"{scheme.bits} bits in groups of {scheme.group_size}"
            raise VerificationError(f"{found.path}: {layer} has {is_}, but config.json says {says}")
    if "quantization" in values and not schemes:
        raise VerificationError(f"{found.path}: config.json says that it is quantised, but no layer is")


def _source(section: dict[str, Any]) -> Source | None:
    """The source that our section names, or None.

    Raises:
        ConfigError: the section is damaged.
    """
    said = section.get("source")
    if said is None:
        return None
    names = ("name", "sha256", "dtype", "layout", "revision", "base_model", "weights_key")
    fields = {name: said.get(name) for name in names}
    files = said.get("files")
    ok = all(v is None or isinstance(v, str) for v in fields.values()) and None not in list(fields.values())[:4]
    ok = ok and isinstance(files, list) and files
    if not ok or not all(isinstance(f, str) and Path(f).name == f for f in files):
        raise ConfigError("config.json describes its source incompletely; convert it again")
    return Source(files=tuple(files), **fields)


def source_at_hand(source: Source) -> Path | None:
    """The source in the Hub's cache, if all of its files are there. Nothing is downloaded."""
    if source.revision is None:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    names = source.files if source.files[0].endswith(TORCH_SUFFIXES) else (*source.files, CONFIG)
    if len(source.files) > 1:
        names += (INDEX,)
    try:
        found = [try_to_load_from_cache(source.name, name, revision=source.revision) for name in names]
    except HFValidationError:
        return None
    if not all(isinstance(path, str) for path in found):
        return None
    return Path(found[0]) if len(names) == 1 else Path(found[0]).parent


# ---- against the source


@dataclass(frozen=True)
class Agreement:
    """Masks of a converted model against those of its source, both computed in float32."""

    largest_difference: float  # of logits
    mask_iou: float  # the smallest of the masks


def compare(found: Verified, source: Path, weights_key: str | None = None) -> Agreement:
    """Convert the source again, tensor by tensor, and compare; then compare a click in the middle of a picture.

    ``weights_key`` says which of several copies in the source is meant; None: the one that ``config.json`` names.

    Raises:
        VerificationError: the source is another one, a tensor differs from what converting gives, or a forward pass
            differs although no number was rounded.
        CheckpointError: the source cannot be loaded.
    """
    weights_key = weights_key or (found.source.weights_key if found.source else None)
    raw = loading.read(source, found.config if source.is_file() else None, weights_key)
    if found.source is not None and conversion.sha256_of(raw.files) != found.source.sha256:
        raise VerificationError(f"{source} is not what {found.folder} was made from: its sha256 is another one")
    model = loading.empty_model(raw, found.config)
    parameters = layouts.parameters(raw, schemes_of(model))
    own = {parameter.dtype for key, parameter in parameters.items() if layouts.has_precision(key)}
    rounded = bool(found.schemes) or (found.dtype != "float32" and own != {found.dtype})
    ours = loading.read(found.folder)
    weights = {**ours.weights, **ours.counters}
    tensors = layouts.mlx_layout(parameters, found.dtype, found.schemes)
    if {tensor.name for tensor in tensors} != weights.keys():
        raise VerificationError(f"{found.folder} and {source} are not of the same parts: one lacks what video needs")
    for tensor in tensors:
        if not mx.array_equal(tensor.make(), weights[tensor.name].read()).item():
            raise VerificationError(f"{found.folder}: {tensor.name} is not what converting {source} gives")
    del model, parameters, ours, weights, tensors
    pixels = _picture(found.config.image_size)
    expected = _masks(loading.build(raw, found.config, mx.float32), pixels)
    model = loading.load(found.folder, dtype="float32")
    if mx.default_device() == mx.cpu:
        unquantize(model)  # the same numbers, in a fraction of the time
    masks = _masks(model, pixels)
    both = ((masks > 0) & (expected > 0)).sum(axis=(1, 2))
    either = ((masks > 0) | (expected > 0)).sum(axis=(1, 2))
    agreement = Agreement(float(np.abs(masks - expected).max()), float((both / np.maximum(either, 1)).min()))
    if not rounded and agreement.largest_difference > 0:
        raise VerificationError(f"{found.folder}: holds the numbers of {source}, but its masks differ from theirs")
    return agreement


def _picture(size: int) -> mx.array:
    """(1, size, size, 3) normalised pixels of a disc on a gradient."""
    y, x = np.mgrid[:size, :size] / size
    disc = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.06
    pixels = np.stack([np.where(disc, 1.5, x - 0.5), np.where(disc, -1.0, y - 0.5), x * y], axis=-1)
    return mx.array(pixels.astype(np.float32))[None]


def _masks(model: SAM2, pixels: mx.array) -> np.ndarray:
    """(M, h, w) logits of a click in the middle."""
    middle = model.config.image_size / 2
    features = model.encode_image(pixels)
    masks, _ = model.predict_masks(features, mx.array([[[middle, middle]]]), mx.array([[1]]), multimask=True)
    return np.array(masks[0].astype(mx.float32))

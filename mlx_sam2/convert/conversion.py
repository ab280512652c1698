"""A conversion: everything is decided before anything is written, and what is written appears at once."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint import folder, loading
from ..checkpoint.adapter import adapted
from ..checkpoint.folder import Source
from ..checkpoint.reader import Checkpoint
from ..config.published import DEMO, published, shipped
from ..config.sam2 import SAM2Config, foreign_fields
from ..files import beside, make_folder, sha256
from ..formats import safetensors_writer, torch_writer
from ..formats.names import CONFIG, WEIGHTS
from ..formats.safetensors_writer import Tensor
from ..hub import download
from ..hub.publish import REPO_ID
from ..model.quantization import RECIPES, Scheme, plan, schemes_of
from . import card as convert_card
from . import layouts
from .layouts import ConversionError

DEFAULT_DTYPE = "float16"  # what Apple's GPUs compute in
MIXED = "the weights have several precisions; float32 holds the same numbers"


@dataclass(frozen=True)
class Conversion:
    """What is going to be written."""

    layout: str
    config: SAM2Config
    source: Source
    values: dict[str, Any]  # the source's config.json
    dtype: str  # of the weights that are not packed
    tensors: list[Tensor]
    name: str  # of the model, with its precision
    video: bool  # whether the half for video is there
    scheme: Scheme | None = None
    schemes: Mapping[str, Scheme] = field(default_factory=dict)
    unquantized: list[str] = field(default_factory=list)
    recipe: str | None = None
    notes: list[str] = field(default_factory=list)  # what the user should know

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def precision(self) -> str:
        """In words."""
        return convert_card.precision(self.dtype, self.scheme, self.schemes, self.unquantized)

    @property
    def default_path(self) -> str:
        """A name in the working directory."""
        if self.layout == "official":
            return f"{self.name}.pt"
        return f"{self.name}-transformers" if self.layout == "transformers" else self.name

    def config_json(self, files: Mapping[str, str]) -> dict[str, Any]:
        """The contents of our ``config.json``, with the hashes of the weights files."""
        return folder.config_json(
            self.config,
            dtype=self.dtype,
            files=files,
            schemes=self.schemes,
            default=self.scheme,
            unquantized=self.unquantized,
            source=self.source,
            values=self.values,
        )

    def texts(self, files: Mapping[str, str], address: str) -> dict[str, str]:
        """The texts beside the weights, by file name.

        ``files`` maps weights files to their sha256. ``address`` is what ``from_pretrained`` will take.
        """
        if self.layout == "official":
            return {}
        if self.layout == "transformers":
            values = self.config.to_transformers(video=self.video, dtype=self.dtype, kept=foreign_fields(self.values))
            return {CONFIG: folder.json_text(values)}
        card = convert_card.card(
            self.name,
            address=address,
            source=self.source,
            dtype=self.dtype,
            scheme=self.scheme,
            schemes=self.schemes,
            unquantized=self.unquantized,
            nbytes=self.nbytes,
            video=self.video,
        )
        return {
            convert_card.CARD: card,
            convert_card.LICENSE: convert_card.license_text(),
            convert_card.NOTICE: convert_card.notice(self.source, self.precision),
            CONFIG: folder.json_text(self.config_json(files)),
        }


def prepare(
    fetched: download.Fetched,
    *,
    layout: str = "mlx",
    config: SAM2Config | None = None,
    dtype: str | None = None,
    scheme: Scheme | None = None,
    recipe: str | None = None,
    weights_key: str | None = None,
    adapter: str | None = None,
) -> Conversion:
    """Decide how a checkpoint will be written. No tensor is read, and nothing is written.

    Args:
        fetched: the checkpoint, and where it came from.
        layout: "mlx" (ours), "transformers" or "official".
        config: of the model; None: as ``mlx_sam2.load`` finds it.
        dtype: of the weights; None: float16 for our layout, and what every tensor has for the others.
        scheme: how to quantise; None: not.
        recipe: one of ``quantization.RECIPES``, which gives layers other bits than the scheme; None: all have those.
        weights_key: which of several copies of the weights; None: as ``mlx_sam2.load`` takes it.
        adapter: a folder or file that fine-tuning wrote, to be folded into the weights.

    Raises:
        CheckpointError: the checkpoint is damaged or not SAM 2; ``ConfigError``: its configuration is.
        ConversionError: it cannot be written as was asked.
    """
    config = config or (loading.config_of(fetched.repo_id) if fetched.repo_id else None)
    found = loading.read(fetched.path, config, weights_key)
    found = found if adapter is None else adapted(found, adapter)
    config = found.config or loading.recognise(found, "give --config (a JSON or YAML file, or a name: tiny)")
    model = loading.empty_model(found, config)
    packed, video = schemes_of(model), "memory_attention" in model
    _check(found, layout, packed, video, scheme)
    parameters = layouts.parameters(found, packed)
    own, mixed = _own_dtype(parameters)
    kept = own if mixed else None
    schemes, left = plan(model, scheme, RECIPES[recipe] if recipe else ()) if scheme else ({}, [])
    if scheme and not schemes:
        raise ConversionError(
            f"{found.path}: no group size divides the width of any of its {len(left)} layers; leave out -q"
        )
    if layout == "mlx":
        dtype = dtype or DEFAULT_DTYPE
        tensors = layouts.mlx_layout(parameters, dtype, schemes)
    elif layout == "transformers":
        tensors = layouts.transformers_layout(parameters, dtype or kept)
        config.to_transformers(video=video)  # raises where it has no words for this model
    else:
        tensors = sorted(layouts.official_layout(parameters, dtype or kept), key=lambda tensor: tensor.name)
    dtype = dtype or own
    base = convert_card.base_name(fetched.repo_id, found.path) + ("-tuned" if adapter else "")
    return Conversion(
        layout=layout,
        config=config,
        source=_source(fetched, found, own, adapter),
        values=found.values,
        dtype=dtype,
        tensors=tensors,
        name=f"{base}-{convert_card.suffix_of(dtype, scheme, recipe)}",
        video=video,
        scheme=scheme,
        schemes=schemes,
        unquantized=left,
        recipe=recipe,
        notes=_notes(layout, fetched, found, own, dtype, packed) + [MIXED] * (mixed and dtype == own),
    )


def _check(found: Checkpoint, layout: str, packed: Mapping[str, Scheme], video: bool, scheme: Scheme | None) -> None:
    """Refuse a checkpoint that this layout cannot hold."""
    if packed and layout == "mlx":
        bits = next(iter(packed.values())).bits
        origin = converted_from(found)
        raise ConversionError(
            f"{found.path} is quantised to {bits} bits already: convert what it was made from"
            f"{f', {origin}' if origin else ''}; --to official and --to transformers unpack it"
        )
    if scheme and layout != "mlx":
        raise ConversionError(f"the {layout} layout has no packed weights: only MLX reads them")
    if layout == "official" and not video:
        raise ConversionError(f"{found.path} is the image half of a model; a .pt of the official code needs all of it")


def _own_dtype(parameters: Mapping[str, layouts.Parameter]) -> tuple[str, bool]:
    """The precision of a checkpoint's weights, and whether it is mixed; float32 holds every mixture."""
    found = {p.dtype for key, p in parameters.items() if layouts.has_precision(key)}
    return ("float32", True) if len(found) > 1 else (found.pop(), False)


def _source(fetched: download.Fetched, found: Checkpoint, dtype: str, adapter: str | None) -> Source:
    origin = converted_from(found)
    name = fetched.repo_id or convert_card.printable(os.path.basename(os.path.abspath(fetched.path)))
    name = f"{name} of mlx_sam2" if _is_demo(fetched) else name
    if adapter is not None:
        name += f" with the adapter {convert_card.printable(os.path.basename(os.path.abspath(adapter)))}"
    return Source(
        name=name,
        sha256=sha256_of(found.files),
        dtype=dtype,
        layout=found.layout,
        files=tuple(path.name for path in found.files),
        revision=fetched.commit,
        base_model=origin or fetched.repo_id,
        weights_key=found.copy,
    )


def _is_demo(fetched: download.Fetched) -> bool:
    return fetched.path == shipped(DEMO)


def converted_from(found: Checkpoint) -> str | None:
    """The Hub id that one of our folders names as its origin."""
    section = found.values.get(folder.SECTION)
    source = section.get("source") if isinstance(section, dict) else None
    origin = source.get("base_model") if isinstance(source, dict) else None
    return origin if isinstance(origin, str) and re.fullmatch(REPO_ID, origin) else None


def _notes(
    layout: str, fetched: download.Fetched, found: Checkpoint, own: str, dtype: str, packed: Mapping[str, Scheme]
) -> list[str]:
    """Remarks for the user: rounding of weights that were no longer float32, and the licence of a stranger's."""
    notes = []
    if packed:
        bits = next(iter(packed.values())).bits
        notes.append(f"{len(packed)} layers of {bits} bits become {dtype} numbers; what the rounding lost stays lost")
    elif own != dtype and loading.DTYPES[own].size < loading.DTYPES[dtype].size:
        notes.append(f"the weights are {own} already: {dtype} holds the same numbers in twice the space")
    elif layout != "mlx" and own == dtype != "float32":
        notes.append(f"the weights are {own} and stay so")
    known = published(fetched.repo_id) if fetched.repo_id is not None else None
    if layout == "mlx" and fetched.repo_id is not None and (known is None or known.licence is None):
        notes.append(f"the card says apache-2.0, the licence of SAM 2; check that it is that of {fetched.repo_id} too")
    if _is_demo(fetched):
        notes.append("demo was trained on synthetic scenes: it is for trying out and for tests")
    if any(weight.dtype == "float64" for weight in found.weights.values()):
        notes.append("float64 tensors are rounded to float32 first")
    return notes


def sha256_of(files: tuple[Path, ...]) -> str:
    """The sha256 of a file, or that of the lines which sha256sum prints for several."""
    hashes = [sha256(path) for path in files]
    if len(hashes) == 1:
        return hashes[0]
    lines = "".join(f"{digest}  {path.name}\n" for digest, path in zip(hashes, files, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def write(
    job: Conversion,
    out: Path,
    *,
    address: str | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Write the folder (official: the ``.pt`` file). It appears under its name when it is complete.

    Args:
        job: from ``prepare``.
        out: a path that does not exist.
        address: how the model card calls the model; None: the name of ``out``.
        progress: called with a number of bytes after each tensor.

    Raises:
        ConversionError: a value does not fit its precision.
        OSError: the disk is full or fails, or ``out`` exists.
    """
    cache = mx.set_cache_limit(0)  # on an Apple GPU freed buffers would be kept, up to the size of the checkpoint
    try:
        make_folder(out.parent)
        with beside(out) as part:
            _write(job, part, address or out.name, progress)
    except OSError as error:
        where = str(error.filename or out)
        if not (where.startswith(str(out.parent)) or str(out).startswith(where)):
            raise  # of the source
        raise OSError(error.errno, f"cannot write {out}: {error.strerror}") from None
    finally:
        mx.set_cache_limit(cache)


def _write(job: Conversion, out: Path, address: str, progress: Callable[[int], object]) -> None:
    """Make the folder, or the ``.pt`` of the official layout."""
    if job.layout == "official":
        torch_writer.write(out, job.tensors, progress)
    else:
        folder.write(out, job.tensors, _metadata(job), lambda files: job.texts(files, address), progress)


def _metadata(job: Conversion) -> dict[str, str]:
    """The metadata of the weights' header."""
    if job.layout == "transformers":
        return {"format": "pt"}
    return folder.metadata(job.config_json({}), job.source)


def listing(job: Conversion, address: str) -> dict[str, int]:
    """The files that ``write`` would make, with their sizes in bytes (roughly, for a ``.pt``)."""
    if job.layout == "official":
        return {"": job.nbytes}
    sizes = {WEIGHTS: safetensors_writer.file_size(job.tensors, _metadata(job))}
    texts = job.texts(dict.fromkeys(sizes, "0" * 64), address)
    return sizes | {name: len(text.encode()) for name, text in texts.items()}

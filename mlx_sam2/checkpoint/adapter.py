"""Adapters: what fine-tuning changed, in a file of its own that is put on a model when it is loaded.

An adapter holds tensors that replace a parameter of the same name, and pairs NAME.lora_a (r, in), NAME.lora_b (out, r)
that add scale * b @ a to the matrix NAME. Names and axes are those of our own files.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from ..files import beside
from ..formats import safetensors_file, safetensors_writer
from ..text import dtype_name, one_line, some
from .reader import Checkpoint, Weight
from .tensors import CheckpointError

FILE = "adapter.safetensors"
FORMAT = "mlx_sam2_adapter"
LORA_A, LORA_B = ".lora_a", ".lora_b"


@dataclass(frozen=True)
class Adapter:
    """An adapter in memory.

    Attributes:
        tensors: by name, float32.
        scale: of all pairs.
        about: what the file says of itself: base, preset, steps, ...
    """

    tensors: Mapping[str, mx.array]
    scale: float = 1.0
    about: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The parameters of the model that change."""
        return sorted({name.removesuffix(LORA_A).removesuffix(LORA_B) for name in self.tensors})

    def changed(self, name: str, value: mx.array) -> mx.array:
        """The parameter ``name``, float32, where the model has ``value``."""
        if name in self.tensors:
            return self.tensors[name].astype(mx.float32)
        a, b = self.tensors[name + LORA_A].astype(mx.float32), self.tensors[name + LORA_B].astype(mx.float32)
        return value.astype(mx.float32) + self.scale * (b @ a)


def read_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Read an adapter: a file, or a folder that holds ``adapter.safetensors``.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    place = Path(os.path.expanduser(os.fspath(path)))
    file = place / FILE if place.is_dir() else place
    if not file.is_file():
        raise CheckpointError(f"there is no adapter {one_line(file)}: give the folder or file that fine-tuning wrote")
    try:
        tensors, about = safetensors_file.read(file)
    except safetensors_file.SafetensorsFileError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error.strerror}") from None
    if about.get("format") != FORMAT:
        raise CheckpointError(f"{file} is no adapter of mlx_sam2 (format {about.get('format')!r}); is it a model?")
    try:
        scale = float(about.get("scale", "1"))
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale):
        raise CheckpointError(f"{file} has the scale {about.get('scale')!r}, which is no number")
    for one, other in ((LORA_A, LORA_B), (LORA_B, LORA_A)):
        lone = [n for n in tensors if n.endswith(one) and n.removesuffix(one) + other not in tensors]
        if lone:
            raise CheckpointError(f"{file} lacks the other half of {some(lone)}")
    return Adapter(tensors, scale, about)


def write_adapter(path: Path, adapter: Adapter) -> None:
    """Write an adapter; a file that is there is replaced. OSError if the disk is full or fails."""
    about = {**adapter.about, "format": FORMAT, "scale": repr(adapter.scale)}
    write_tensors(path, adapter.tensors, about)


def write_tensors(path: Path, tensors: Mapping[str, mx.array], about: Mapping[str, str]) -> None:
    """Write tensors to a safetensors file that appears when it is complete."""
    listed = [
        safetensors_writer.Tensor(name, tuple(value.shape), dtype_name(value.dtype), lambda value=value: value)
        for name, value in tensors.items()
    ]
    with beside(path, replace=True) as part:
        safetensors_writer.write(part, listed, about)


def adapted(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> Checkpoint:
    """A checkpoint as an adapter changes it; what changes is float32. Nothing is read yet but the adapter.

    Raises:
        CheckpointError: the adapter is damaged, or made for another model.
    """
    adapter = read_adapter(path)
    weights = dict(checkpoint.weights)
    names = adapter.names()
    missing = [name for name in names if name not in weights]
    if missing:
        raise CheckpointError(f"{path} is an adapter of another model: {checkpoint.path} has no {some(missing)}")
    for name in names:
        weight = weights[name]
        _check(adapter, name, weight, f"{path} is an adapter of another model than {checkpoint.path}")
        weights[name] = _changed(adapter, name, weight)
    return dataclasses.replace(checkpoint, weights=weights)


def _check(adapter: Adapter, name: str, weight: Weight, refusal: str) -> None:
    """Compare shapes, so that nothing is broadcast."""
    wanted, given = weight.mlx_shape, adapter.tensors.get(name)
    if weight.dtype not in ("float64", "float32", "float16", "bfloat16"):
        raise CheckpointError(f"{refusal}: {name} is packed there; adapters need weights that are not quantised")
    if given is not None:
        if tuple(given.shape) != wanted:
            raise CheckpointError(f"{refusal}: {name} is {tuple(given.shape)} in one and {wanted} in the other")
        return
    a, b = adapter.tensors[name + LORA_A], adapter.tensors[name + LORA_B]
    if a.ndim != 2 or b.ndim != 2 or b.shape[1] != a.shape[0] or (b.shape[0], a.shape[1]) != wanted:
        raise CheckpointError(f"{refusal}: {name} is {wanted}, its adapter {tuple(b.shape)} @ {tuple(a.shape)}")


def _changed(adapter: Adapter, name: str, weight: Weight) -> Weight:
    return Weight(weight.name, weight.mlx_shape, "float32", None, lambda: adapter.changed(name, weight.read()))

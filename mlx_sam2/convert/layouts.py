"""The tensors of a checkpoint in each of the three layouts. Each is made when it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import mlx.core as mx

from ..checkpoint import key_map
from ..checkpoint.loading import DTYPES
from ..checkpoint.reader import Checkpoint, Weight
from ..formats.safetensors_writer import Tensor
from ..model.quantization import Scheme, pack, unpack

COUNTED_IN = "int64"


class ConversionError(ValueError):
    """A checkpoint cannot be written as was asked. One line."""


@dataclass(frozen=True)
class Parameter:
    """A parameter of the unquantised model, in MLX's axis order."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], mx.array]


def parameters(checkpoint: Checkpoint, packed: Mapping[str, Scheme]) -> dict[str, Parameter]:
    """The parameters of a checkpoint by official name. Its ``packed`` layers are unpacked."""
    weights, found = checkpoint.weights, {}
    for key, weight in weights.items():
        layer, _, leaf = key.rpartition(".")
        if layer in packed and leaf in ("scales", "biases"):
            continue
        if layer in packed and leaf == "weight":
            parts = (weight, weights[f"{layer}.scales"], weights[f"{layer}.biases"])
            rows, groups = parts[1].shape
            shape = (rows, groups * packed[layer].group_size)
            found[key] = Parameter(shape, parts[1].dtype, lambda p=parts, s=packed[layer]: unpack(*_read(p), s))
        else:
            dtype = "float32" if weight.dtype == "float64" else weight.dtype  # as Weight.read gives it
            found[key] = Parameter(weight.mlx_shape, dtype, weight.read)
        if key.endswith(key_map.BESIDE_COUNTER):
            counter = key.removesuffix(key_map.BESIDE_COUNTER) + key_map.COUNTER
            found[counter] = _counter(checkpoint.counters.get(counter))
    return found


def _counter(stored: Weight | None) -> Parameter:
    """The steps of a batch norm's training; 0 where they are not known."""
    if stored is None:
        return Parameter((), COUNTED_IN, lambda: mx.zeros((), mx.int64))
    return Parameter(stored.shape, COUNTED_IN, lambda: stored.read().astype(mx.int64))


def has_precision(key: str) -> bool:
    """Whether the precision of a tensor is that of the model's weights."""
    return not key_map.stored_float32(key) and not key_map.is_counter(key)


def _read(parts: tuple) -> tuple[mx.array, ...]:
    return tuple(part.read() for part in parts)


def mlx_layout(found: Mapping[str, Parameter], dtype: str, schemes: Mapping[str, Scheme]) -> list[Tensor]:
    """Our layout: official names, MLX's axes, the layers of ``schemes`` packed."""

    @lru_cache(maxsize=1)  # the three tensors of a layer follow each other
    def packed(key: str) -> tuple[mx.array, mx.array, mx.array]:
        with mx.stream(mx.cpu):
            return pack(_cast(key, found[key], dtype), schemes[key.removesuffix(".weight")])

    tensors = []
    for key, parameter in found.items():
        layer, _, leaf = key.rpartition(".")
        if leaf != "weight" or layer not in schemes:
            as_what = _dtype_of(key, parameter, dtype)
            tensors.append(Tensor(key, parameter.shape, as_what, partial(_cast, key, parameter, as_what)))
            continue
        (rows, width), scheme = parameter.shape, schemes[layer]
        sizes = ((width * scheme.bits // 32, "uint32"), *[(width // scheme.group_size, dtype)] * 2)
        for i, (part, (columns, kind)) in enumerate(zip(("weight", "scales", "biases"), sizes, strict=True)):
            tensors.append(Tensor(f"{layer}.{part}", (rows, columns), kind, lambda k=key, i=i: packed(k)[i]))
    return tensors


def official_layout(found: Mapping[str, Parameter], dtype: str | None) -> list[Tensor]:
    """The official layout: official names and PyTorch's axes. Without a dtype every tensor keeps its own."""
    tensors = []
    for key, parameter in found.items():
        axes, as_what = key_map.torch_axes(key), _dtype_of(key, parameter, dtype)
        shape = parameter.shape if axes is None else tuple(parameter.shape[a] for a in axes)
        tensors.append(Tensor(key, shape, as_what, partial(_cast, key, parameter, as_what, axes)))
    return tensors


def transformers_layout(found: Mapping[str, Parameter], dtype: str | None) -> list[Tensor]:
    """Transformers' layout: its names, its table of point embeddings, and both copies of the position matrix.

    Raises:
        ConversionError: a parameter has no name there.
    """
    perceives = any(key.startswith("spatial_perceiver.") for key in found)
    tensors = []
    rows: dict[str, Tensor] = {}
    for tensor in official_layout(found, dtype):
        if tensor.name in key_map.POINT_ROWS:
            rows[tensor.name] = tensor
            continue
        if names := key_map.halves(tensor.name):
            tensors += _split(tensor, names)
            continue
        try:
            name = key_map.to_transformers(tensor.name, perceives)
        except KeyError:
            raise ConversionError(f"transformers has no name for {tensor.name}; write --to official instead") from None
        for copy in key_map.POSITION_COPIES if name in key_map.POSITION_COPIES else (name,):
            tensors.append(Tensor(copy, tensor.shape, tensor.dtype, tensor.make))
    parts = [rows[name] for name in key_map.POINT_ROWS]
    shape, as_what = (len(parts), parts[0].shape[1]), parts[0].dtype
    table = Tensor(key_map.POINT_TABLE, shape, as_what, lambda: mx.concatenate([part.make() for part in parts]))
    return [*tensors, table]


def _split(tensor: Tensor, names: tuple[str, str]) -> list[Tensor]:
    """The upper and the lower half of the rows, under these names."""
    (rows, columns), half = tensor.shape, tensor.shape[0] // 2
    ranges = (slice(0, half), slice(half, rows))
    return [
        Tensor(name, (half, columns), tensor.dtype, lambda part=part: mx.contiguous(tensor.make()[part]))
        for name, part in zip(names, ranges, strict=True)
    ]


def _dtype_of(key: str, parameter: Parameter, dtype: str | None) -> str:
    if dtype is None or parameter.dtype == COUNTED_IN:
        return parameter.dtype
    return "float32" if key_map.stored_float32(key) else dtype


def _cast(key: str, parameter: Parameter, dtype: str, axes: tuple[int, ...] | None = None) -> mx.array:
    """The parameter in this precision, with its axes in this order.

    Raises:
        ConversionError: a value is not finite, or would not be.
    """
    with mx.stream(mx.cpu):
        value = parameter.read()
        if dtype == COUNTED_IN:
            return value
        cast = value.astype(DTYPES[dtype])
        if not mx.isfinite(cast).all().item():
            if mx.isfinite(value).all().item():
                raise ConversionError(f"{key} has values beyond the range of {dtype}: use --dtype bfloat16 or float32")
            raise ConversionError(f"{key} holds infinities or NaN: the checkpoint is damaged, or its training diverged")
        return cast if axes is None else mx.contiguous(cast.transpose(axes))

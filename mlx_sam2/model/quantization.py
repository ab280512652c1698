"""Which layers are quantised, and how (``mlx.nn.quantize``, affine groups of weights).

A matrix (O, I) becomes integers of 4 or 8 bits and, for every ``group_size`` inputs, a scale and a bias. If the group
size does not divide a width, the next smaller group that divides it is used; if none does, the layer stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

BITS = (4, 8)
GROUP_SIZES = (128, 64, 32)

# The projections and MLPs of the trunk, and most of memory attention: nearly all weights of a model. Everything else
# keeps its precision: norms, embeddings and convolutions; the shortcuts of the trunk; in memory attention the
# projections to queries, keys and values, which are small and rotate with the position; the memory encoder; and the
# mask decoder, a small part that 4 bits hurt more than the whole trunk (tests/measure/quantization.py --decoder).
QUANTIZED: tuple[str, ...] = (
    r"image_encoder\.trunk\.blocks\.\d+\.attn\.(qkv|proj)",
    r"image_encoder\.trunk\.blocks\.\d+\.mlp\.layers\.\d+",
    r"memory_attention\.layers\.\d+\.(self_attn|cross_attn_image)\.out_proj",
    r"memory_attention\.layers\.\d+\.linear[12]",
)
Recipe = tuple[tuple[str, int], ...]  # (pattern of layers, bits); the first that fits decides
# 8 bits where 4 hurt, which is the whole trunk: 4 bits in any stage of demo's cost 2 to 6 % of the masks of clicks, in
# memory attention nothing of them, and 0.1 to 0.2 % of a clip's (tests/measure/quantization_sweep.py).
MIXED: Recipe = ((r"memory_attention\..*", 4), (r".*", 8))
RECIPES: dict[str, Recipe] = {"mixed": MIXED}
_MAY_BE_QUANTIZED = re.compile("|".join(f"(?:{pattern})" for pattern in QUANTIZED))


class Scheme(NamedTuple):
    """How the weights of a layer are packed."""

    group_size: int
    bits: int


def fitting_group(width: int, wanted: int) -> int | None:
    """The largest group size, at most the wanted one, that divides the width of a layer's input."""
    return next((size for size in GROUP_SIZES if size <= wanted and width % size == 0), None)


def plan(model: nn.Module, scheme: Scheme, recipe: Recipe = ()) -> tuple[dict[str, Scheme], list[str]]:
    """The layers to quantise, each with its scheme, and those that no group size fits.

    Where a ``recipe`` names a layer it has the bits of that, in the place of the scheme's.

    Returns:
        {name of a layer: scheme}, where the group size may be smaller than asked for; and the names of layers of
        ``QUANTIZED`` that stay as they are.
    """
    chosen: dict[str, Scheme] = {}
    left: list[str] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and _MAY_BE_QUANTIZED.fullmatch(name):
            group = fitting_group(layer.weight.shape[1], scheme.group_size)
            if group is None:
                left.append(name)
            else:
                bits = (bits for pattern, bits in recipe if re.fullmatch(pattern, name))
                chosen[name] = Scheme(group, next(bits, scheme.bits))
    return dict(sorted(chosen.items())), sorted(left)


def quantize(model: nn.Module, schemes: Mapping[str, Scheme]) -> None:
    """Replace the named linear layers by quantised ones, in place. Names that are no linear layer are left out, and
    layers whose width the group size does not divide."""

    def scheme_of(name: str, layer: nn.Module) -> dict[str, int] | bool:
        scheme = schemes.get(name)
        fits = scheme is not None and isinstance(layer, nn.Linear) and layer.weight.shape[1] % scheme.group_size == 0
        return scheme._asdict() if fits else False

    if schemes:
        nn.quantize(model, class_predicate=scheme_of)


def unquantize(model: nn.Module) -> None:
    """Replace quantised layers by linear ones with the unpacked weights, in place.

    On a CPU linear layers are several times faster: MLX unpacks there while it multiplies.
    """
    layers = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.QuantizedLinear):
            weight = unpack(layer.weight, layer.scales, layer.biases, Scheme(layer.group_size, layer.bits))
            linear = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in layer)
            linear.update({"weight": weight, **({"bias": layer.bias} if "bias" in layer else {})})
            layers.append((name, linear))
    if layers:
        model.update_modules(tree_unflatten(layers))


def schemes_of(model: nn.Module) -> dict[str, Scheme]:
    """The quantised layers of a model."""
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.QuantizedLinear))
    return {name: Scheme(layer.group_size, layer.bits) for name, layer in sorted(layers)}


def recognise(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Scheme]:
    """The schemes of packed layers, from the shapes of their tensors and the widths of the unquantised model.

    Raises:
        ValueError: one line, if a tensor called ``.scales`` does not belong to a layer packed in 4 or 8 bits.
    """
    layers = dict(model.named_modules())
    found = {}
    for key, scales in sorted(shapes.items()):
        name, _, leaf = key.rpartition(".")
        if leaf != "scales":
            continue
        packed = shapes.get(f"{name}.weight", ())
        layer = layers.get(name)
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{key} belongs to no linear layer of this model")
        rows, width = layer.weight.shape
        fits = len(packed) == len(scales) == 2 and packed[0] == scales[0] == rows and scales[1] > 0
        scheme = Scheme(width // scales[1], packed[1] * 32 // width) if fits else None
        if scheme not in {Scheme(group, bits) for group in GROUP_SIZES for bits in BITS} or (
            (packed[1] * 32, scales[1] * scheme.group_size) != (width * scheme.bits, width)
        ):
            sizes = f"weight {list(packed)}, scales {list(scales)}"
            raise ValueError(f"{name} ({rows} x {width}) is not packed in 4 or 8 bits as MLX does it: {sizes}")
        found[name] = scheme
    return found


def pack(weight: mx.array, scheme: Scheme) -> tuple[mx.array, mx.array, mx.array]:
    """(O, I) -> the tensors ``weight``, ``scales`` and ``biases`` of a quantised layer."""
    return tuple(mx.quantize(weight, group_size=scheme.group_size, bits=scheme.bits))


def unpack(weight: mx.array, scales: mx.array, biases: mx.array, scheme: Scheme) -> mx.array:
    """The inverse of ``pack`` but for its rounding: (O, I) in the dtype of the scales."""
    return mx.dequantize(weight, scales, biases, group_size=scheme.group_size, bits=scheme.bits)

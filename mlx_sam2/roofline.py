"""What a stage must cost on a chip: its real graph, traced, priced by bytes and operations. Every figure is modelled.

``trace`` records the primitives that MLX would run on a Metal GPU; nothing is evaluated and no GPU is needed. A step
costs the larger of its bytes over the chip's bandwidth and its operations over the chip's arithmetic; launches are
counted, not priced. Caches are ignored, except that an input is read once by a step.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from .kernels.attention import FUSED_HEAD_DIMS
from .kernels.dispatch import tracing_for_metal
from .kernels.memory_attention import QUERIES


class Chip(NamedTuple):
    """Peak rates of a GPU; half precision is taken to be as fast as float32."""

    bandwidth: float  # GB/s of memory, from Apple's technical specifications
    tflops: float  # float32: cores x 128 lanes x 2 x clock; docs/performance.md has the sources


CHIPS = {  # with all GPU cores
    "M1": Chip(68, 2.6),
    "M1 Pro": Chip(200, 5.2),
    "M1 Max": Chip(400, 10.4),
    "M1 Ultra": Chip(800, 20.8),
    "M2": Chip(100, 3.6),
    "M2 Pro": Chip(200, 6.8),
    "M2 Max": Chip(400, 13.6),
    "M2 Ultra": Chip(800, 27.2),
    "M3": Chip(100, 4.1),
    "M3 Pro": Chip(150, 7.4),
    "M3 Max": Chip(400, 16.4),
    "M3 Ultra": Chip(819, 32.8),
    "M4": Chip(120, 4.4),
    "M4 Pro": Chip(273, 8.8),
    "M4 Max": Chip(546, 17.6),
    "M5": Chip(153, 4.45),  # M5: shader cores alone, without the matrix units beside them
    "M5 Pro": Chip(307, 8.9),
    "M5 Max": Chip(614, 17.8),
}

ELEMENTWISE = {
    "Abs", "Add", "AsType", "Ceil", "Cos", "Divide", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterEqual", "Less",
    "LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum", "Minimum", "Multiply", "Negative",
    "NotEqual", "Power", "Rsqrt", "Select", "Sigmoid", "Sin", "Sqrt", "Square", "Subtract", "Tanh",
}  # fmt: skip
VIEWS = {"Reshape", "Transpose", "Broadcast", "Slice", "Squeeze", "ExpandDims", "Flatten", "Unflatten", "Split"}
HEAVY = {"Matmul", "AddMM", "Convolution", "sdpa", "mask_unit_attention", "memory_attention"}


@dataclass
class Step:
    """One launch."""

    name: str
    flops: int
    inputs: dict[str, int] = field(default_factory=dict)  # array -> bytes read
    outputs: dict[str, int] = field(default_factory=dict)  # array -> bytes written
    rereads: int = 0  # bytes that are read again, because the sizes do not fit on the chip

    @property
    def bytes(self) -> int:
        return sum(self.inputs.values()) + sum(self.outputs.values()) + self.rereads

    def seconds(self, chip: Chip) -> float:
        return max(self.bytes / (chip.bandwidth * 1e9), self.flops / (chip.tflops * 1e12))


class Cost(NamedTuple):
    """Modelled cost of a stage on a chip."""

    milliseconds: float
    minimum_ms: float  # products, convolutions and attentions alone, every byte of theirs moved once
    gigabytes: float
    gflop: float
    launches: int


def cost(steps: Iterable[Step], chip: Chip) -> Cost:
    """Add up a stage."""
    steps = list(steps)
    least = sum(
        max((s.bytes - s.rereads) / (chip.bandwidth * 1e9), s.flops / (chip.tflops * 1e12))
        for s in steps
        if s.name in HEAVY
    )
    return Cost(
        1e3 * sum(s.seconds(chip) for s in steps),
        1e3 * least,
        sum(s.bytes for s in steps) / 1e9,
        sum(s.flops for s in steps) / 1e9,
        len(steps),
    )


def by_operation(steps: Iterable[Step], chip: Chip) -> dict[str, Cost]:
    """The cost of a stage, operation by operation, the dearest first."""
    groups: dict[str, list[Step]] = {}
    for step in steps:
        groups.setdefault(step.name, []).append(step)
    costs = {name: cost(group, chip) for name, group in groups.items()}
    return dict(sorted(costs.items(), key=lambda item: -item[1].milliseconds))


# ---- tracing


@contextmanager
def _replaced(module: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(module, name) for name in values}
    try:
        for name, value in values.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def _fused(name: str) -> Callable[..., mx.array]:
    """A stand-in for one of MLX's fused operations: a custom kernel with the same inputs."""

    def call(x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        inputs = [x, *(a for a in args if isinstance(a, mx.array))]
        names = [f"a{i}" for i in range(len(inputs))]
        kernel = mx.fast.metal_kernel(name=name, input_names=names, output_names=["o"], source="o[0] = a0[0];")
        one = (1, 1, 1)
        return kernel(inputs=inputs, grid=one, threadgroup=one, output_shapes=[x.shape], output_dtypes=[x.dtype])[0]

    return call


@contextmanager
def _as_on_metal(compiled: bool) -> Iterator[None]:
    """Let the model build the graph of a Metal GPU; MLX's fused operations stand in it as custom kernels."""
    real_attention = mx.fast.scaled_dot_product_attention

    def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Any = None) -> mx.array:
        if q.shape[-1] == v.shape[-1] and q.shape[-1] in FUSED_HEAD_DIMS and mask is None:
            return _fused("sdpa")(q, k, v)
        return real_attention(q, k, v, scale=scale, mask=mask)

    # nn.gelu is compiled by itself, but in a compiled model a part of what surrounds it
    gelu = nn.gelu if compiled else _fused("gelu")
    with (
        _replaced(mx.fast, layer_norm=_fused("layer_norm"), scaled_dot_product_attention=attention),
        _replaced(nn, gelu=gelu),
        _replaced(mx.metal, is_available=lambda: True),
        _replaced(mx, default_device=lambda: SimpleNamespace(type=mx.gpu)),
        tracing_for_metal(),
    ):
        yield


def runs_compiled(function: Callable[..., Any], *examples: mx.array) -> bool:
    """Whether a function runs under ``mx.compile``, from its graph on this machine; nothing is evaluated.

    MLX's own activations, which are compiled each by itself, do not count.
    """

    def fused(*arrays: mx.array) -> set[str]:
        text = io.StringIO()
        mx.export_to_dot(text, *arrays)
        return set(re.findall(r'label ?= ?"(Compiled\w*)"', text.getvalue()))

    small = mx.zeros((2, 2), examples[0].dtype)
    alone = fused(nn.gelu(small), nn.relu(small), nn.gelu(small.astype(mx.float32)))
    found = function(*examples)
    return bool(fused(*([found] if isinstance(found, mx.array) else found)) - alone)


def trace(function: Callable[..., Any], *examples: mx.array, compiled: bool | None = None) -> list[Step]:
    """The launches of a function on a Metal GPU.

    Args:
        function: takes arrays, returns an array or a tuple of arrays. Weights must be evaluated beforehand.
        examples: arrays of the shapes and dtypes to trace with.
        compiled: whether chains of elementwise operations are one launch, as ``mx.compile`` makes them; None looks
            whether the function compiles itself.
    """
    if compiled is None:
        compiled = runs_compiled(function, *examples)
    records: list[dict[str, Any]] = []
    with _as_on_metal(compiled):
        mx.export_function(records.append, function, *examples)
    arrays = _Arrays()
    steps: list[Step] = []
    wanted: set[str] = set()
    for record in records:
        if record["type"] == "outputs":
            wanted |= {name for name, *_ in record["outputs"]}
        elif record["type"] == "primitive":
            steps += arrays.steps(record)
    return _fuse(steps, wanted) if compiled else steps


@dataclass
class _Array:
    root: str  # the array whose memory it is a view of
    strides: tuple[int, ...]
    touched: int  # bytes behind it


class _Arrays:
    """What is known of every array of a trace: a view or not, and whether an operation would have to copy it."""

    def __init__(self) -> None:
        self._known: dict[str, _Array] = {}

    def _get(self, name: str, shape: tuple[int, ...], dtype: mx.Dtype) -> _Array:
        size = math.prod(shape) * dtype.size
        return self._known.setdefault(name, _Array(name, _row_contiguous(shape), size))

    def steps(self, record: dict[str, Any]) -> list[Step]:
        name, arguments = record["name"], record["arguments"]
        inputs = [(n, tuple(s), d, self._get(n, tuple(s), d)) for n, s, d in record["inputs"]]
        outputs = [(n, tuple(s), d) for n, s, d in record["outputs"]]
        if name in VIEWS:
            return self._view(name, arguments, inputs[0], outputs)
        if name == "CustomKernel":
            name = next(
                (k for k in ("sdpa", "layer_norm", "gelu", *HEAVY, "axial_rope") if k in arguments[0]), "kernel"
            )
        copies: list[Step] = []
        if name in HEAVY and name != "Convolution":
            for n, shape, dtype, array in inputs:
                if not _usable(array.strides, shape, name in ("Matmul", "AddMM")):
                    size = math.prod(shape) * dtype.size
                    copies.append(Step("copy", 0, {array.root: array.touched}, {n: size}))
                    self._known[n] = _Array(n, _row_contiguous(shape), size)
            inputs = [(n, s, d, self._known[n]) for n, s, d, _ in inputs]
        step = Step(name, _flops(name, arguments, inputs, outputs))
        for _, _, _, array in inputs:
            step.inputs[array.root] = max(step.inputs.get(array.root, 0), array.touched)
        for n, shape, dtype in outputs:
            step.outputs[n] = self._get(n, shape, dtype).touched
        if name == "memory_attention":  # keys and values, once for every block of queries
            step.rereads = (-(-inputs[0][1][2] // QUERIES) - 1) * (inputs[1][3].touched + inputs[2][3].touched)
        return [*copies, step]

    def _view(self, name: str, arguments: list[Any], source: tuple[Any, ...], outputs: list[Any]) -> list[Step]:
        _, shape, dtype, array = source
        for n, new, _ in outputs:
            size = math.prod(new) * dtype.size
            if name == "Transpose":
                strides = tuple(array.strides[axis] for axis in arguments[0])
            elif name == "Broadcast":
                missing = len(new) - len(shape)
                old, kept = (1,) * missing + shape, (0,) * missing + array.strides
                strides = tuple(0 if o != s else t for o, s, t in zip(old, new, kept, strict=True))
            elif name == "Slice":
                strides = tuple(s * t for s, t in zip(array.strides, arguments[2], strict=True))
            elif name == "Split":
                strides = array.strides
            else:
                strides = _reshaped(shape, array.strides, new)
            if strides is None:  # a reshape that has to copy
                self._known[n] = _Array(n, _row_contiguous(new), size)
                return [Step("copy", 0, {array.root: array.touched}, {n: size})]
            self._known[n] = _Array(array.root, strides, min(size, array.touched))
        return []


def _row_contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _usable(strides: tuple[int, ...], shape: tuple[int, ...], is_product: bool) -> bool:
    """Whether a product or a kernel takes an array as it lies: row by row, for products transposed as well."""
    real = [(s, t) for s, t in zip(shape, strides, strict=True) if s != 1]
    if is_product:
        return len(real) < 2 or 1 in (real[-1][1], real[-2][1]) or 0 in (real[-1][1], real[-2][1])
    return [t for _, t in real] == list(_row_contiguous(tuple(s for s, _ in real)))


def _reshaped(shape: tuple[int, ...], strides: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of a reshape that is a view, None where it is a copy."""
    old = [(s, t) for s, t in zip(shape, strides, strict=True) if s != 1]
    merged: list[list[int]] = []  # runs of axes that lie behind each other: [size, innermost stride]
    for size, stride in old:
        if merged and merged[-1][1] == size * stride:
            merged[-1] = [merged[-1][0] * size, stride]
        else:
            merged.append([size, stride])
    result: list[int] = []
    runs = iter(reversed(merged))
    left, step = next(runs, [1, 1])
    for size in reversed(new):
        if size == 1:
            result.append(step)
            continue
        if left == 1:
            left, step = next(runs, [1, 1])
        if left % size:
            return None
        result.append(step)
        left, step = left // size, step * size
    return tuple(reversed(result))


def _flops(name: str, arguments: list[Any], inputs: list[Any], outputs: list[Any]) -> int:
    shapes = [shape for _, shape, *_ in inputs]
    size = sum(math.prod(shape) for _, shape, _ in outputs)
    if name in ("Matmul", "AddMM"):
        return 2 * size * shapes[0][-1]
    if name == "Convolution":  # weights (O, kH, kW, I / groups); a transposed one multiplies zeros between its inputs
        return 2 * size * math.prod(shapes[1][1:]) // math.prod(arguments[4])
    if name == "sdpa":
        return 4 * math.prod(shapes[0]) * shapes[1][2]
    if name == "memory_attention":
        return 2 * math.prod(shapes[0][:3]) * shapes[1][2] * (shapes[1][3] + shapes[2][3])
    if name == "mask_unit_attention":  # ..._<dtype>_D_WINDOW_STRIDE_...
        window = int(arguments[0].split("float16_t_" if "float16_t_" in arguments[0] else "float_", 1)[1].split("_")[1])
        return 4 * size * window**2
    return size


# ---- what mx.compile makes of it


def _fuse(steps: list[Step], wanted: set[str]) -> list[Step]:
    """Join elementwise steps with those that feed them; what nobody else reads is never written."""
    group_of: dict[str, Step] = {}  # array -> the fused step that makes it
    result: list[Step] = []
    readers: dict[str, list[Step]] = {}
    for step in steps:
        if step.name not in ELEMENTWISE:
            result.append(step)
            continue
        feeding = [group_of[n] for n in step.inputs if n in group_of]
        if feeding and all(g is feeding[0] for g in feeding) and _same_size(feeding[0], step):
            group = feeding[0]
            group.flops += step.flops
            group.inputs |= {n: b for n, b in step.inputs.items() if n not in group.outputs}
            group.outputs |= step.outputs
            # a group runs where its last member does: everything that it reads exists by then
            result.remove(group)
        else:
            group = Step("elementwise", step.flops, dict(step.inputs), dict(step.outputs))
        result.append(group)
        group_of.update(dict.fromkeys(step.outputs, group))
    for step in result:
        for n in step.inputs:
            readers.setdefault(n, []).append(step)
    for step in result:
        if step.name == "elementwise":
            step.outputs = {n: b for n, b in step.outputs.items() if n in wanted or readers.get(n)}
    return result


def _same_size(group: Step, step: Step) -> bool:
    return next(iter(step.outputs.values())) in (b * r for b in group.outputs.values() for r in (0.25, 0.5, 1, 2, 4))

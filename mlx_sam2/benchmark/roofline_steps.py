"""From the records of a trace to launches: which operations are views, which copy, how many bytes each moves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from ..kernels.axial_memory_source import COLUMNS
from ..kernels.memory_attention import QUERIES
from ..machine import Chip

ELEMENTWISE = {
    "Abs", "Add", "AsType", "Ceil", "Cos", "Divide", "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterEqual", "Less",
    "LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum", "Minimum", "Multiply", "Negative",
    "NotEqual", "Power", "Rsqrt", "Select", "Sigmoid", "Sin", "Sqrt", "Square", "Subtract", "Tanh",
}  # fmt: skip
VIEWS = {"Reshape", "Transpose", "Broadcast", "Slice", "Squeeze", "ExpandDims", "Flatten", "Unflatten", "Split"}
WHOLE = ""  # the name of the part that is all of an array
ATTENTIONS = ("axial_memory_attention", "memory_attention", "mask_unit_attention", "sdpa")
KERNELS = (
    *ATTENTIONS,
    "mask_logits",
    "axial_rope",
    "layer_norm",
    "gelu",
)  # the first whose name occurs in that of a launch
HEAVY = {"Matmul", "AddMM", "Convolution", *ATTENTIONS, "mask_logits"}
ENTER, LEAVE = "compiled_enter", "compiled_leave"  # marks of a compiled stage, as names of kernels


@dataclass(eq=False)
class Step:
    """One launch."""

    name: str
    flops: int
    inputs: dict[str, dict[str, int]] = field(default_factory=dict)  # array -> parts of it -> bytes read
    outputs: dict[str, int] = field(default_factory=dict)  # array -> bytes written
    beyond: int = 0  # bytes that the minimum leaves out: reads that are repeated, and a matrix that is added
    region: int | None = None  # the compiled stage that it belongs to

    @property
    def bytes(self) -> int:
        read = sum(parts.get(WHOLE) or sum(parts.values()) for parts in self.inputs.values())
        return read + sum(self.outputs.values()) + self.beyond

    def read(self, parts: dict[str, dict[str, int]]) -> None:
        """Add inputs; the same part of an array is read once."""
        for name, of_it in parts.items():
            mine = self.inputs.setdefault(name, {})
            for part, size in of_it.items():
                mine[part] = max(mine.get(part, 0), size)

    def seconds(self, chip: Chip) -> float:
        return max(self.bytes / (chip.bandwidth * 1e9), self.flops / (chip.tflops * 1e12))


@dataclass
class _Array:
    root: str  # the array whose memory it is a view of
    strides: tuple[int, ...]
    touched: int  # bytes behind it
    part: str = WHOLE  # of the root

    @property
    def reading(self) -> dict[str, dict[str, int]]:
        """A read of this array, as in ``Step.inputs``."""
        return {self.root: {self.part: self.touched}}


class Arrays:
    """The arrays of a trace: which are views, and whether an operation has to copy one."""

    def __init__(self) -> None:
        self._known: dict[str, _Array] = {}

    def _get(self, name: str, shape: tuple[int, ...], dtype: mx.Dtype) -> _Array:
        size = math.prod(shape) * dtype.size
        return self._known.setdefault(name, _Array(name, _row_contiguous(shape), size))

    def root(self, name: str) -> str:
        return self._known[name].root if name in self._known else name

    def steps(self, record: dict[str, Any]) -> list[Step]:
        name, arguments = record["name"], record["arguments"]
        inputs = [(n, tuple(s), d, self._get(n, tuple(s), d)) for n, s, d in record["inputs"]]
        outputs = [(n, tuple(s), d) for n, s, d in record["outputs"]]
        if name in VIEWS:
            return self._view(name, arguments, inputs[0], outputs)
        if name == "CustomKernel":
            if ENTER in arguments[0] or LEAVE in arguments[0]:
                self._known[outputs[0][0]] = inputs[0][3]
                return []
            name = next((k for k in KERNELS if k in arguments[0]), "kernel")
        copies: list[Step] = []
        if name in HEAVY and name != "Convolution":
            for n, shape, dtype, array in inputs:
                if not _usable(array.strides, shape, name):
                    size = math.prod(shape) * dtype.size
                    copies.append(Step("copy", 0, array.reading, {n: size}))
                    self._known[n] = _Array(n, _row_contiguous(shape), size)
            inputs = [(n, s, d, self._known[n]) for n, s, d, _ in inputs]
        step = Step(name, _flops(name, arguments, inputs, outputs))
        for i, (_, _, _, array) in enumerate(inputs):
            if name == "AddMM" and i == 2 and array.touched >= math.prod(outputs[0][1]) * outputs[0][2].size:
                step.beyond = array.touched  # not a bias, but a whole matrix that is added
            else:
                step.read(array.reading)
        for n, shape, dtype in outputs:
            step.outputs[n] = self._get(n, shape, dtype).touched
            if name == "sdpa":  # written as (B, N, heads, D), whatever its shape says
                _, heads, tokens, dim = shape
                self._known[n].strides = (heads * tokens * dim, dim, heads * dim, 1)
        if name == "memory_attention":  # keys and values, once for every block of queries
            step.beyond = (-(-inputs[0][1][2] // QUERIES) - 1) * (inputs[1][3].touched + inputs[2][3].touched)
        if name == "axial_memory_attention":
            step.beyond = _read_again([shape for _, shape, *_ in inputs], [array.touched for *_, array in inputs])
        return [*copies, step]

    def _view(self, name: str, arguments: list[Any], source: tuple[Any, ...], outputs: list[Any]) -> list[Step]:
        _, shape, dtype, array = source
        for n, new, _ in outputs:
            size = math.prod(new) * dtype.size
            part = n if name in ("Slice", "Split") and size < array.touched else array.part
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
                return [Step("copy", 0, array.reading, {n: size})]
            self._known[n] = _Array(array.root, strides, min(size, array.touched), part)
        return []


def _read_again(shapes: list[tuple[int, ...]], touched: list[int]) -> int:
    """What ``axial_memory_attention`` reads more than once: half of the queries for each column, the rows' products
    and offsets for each strip of columns, and table, keys and values for each block of queries."""
    q, rows, offsets, table, keys, values = touched[:6]
    (_, queries, _), (shared, _, height, _), (columns, *_), (batch, *_) = shapes[0], shapes[1], shapes[3], shapes[4]
    strips, blocks, each = -(-columns // COLUMNS), -(-queries // QUERIES), batch // shared
    of_rows = rows + offsets * height // (height + columns)
    again = each * (columns * q // 2 + strips * of_rows) - q - rows
    return again + (blocks * batch - 1) * table + (blocks - 1) * (keys + values)


def _row_contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _usable(strides: tuple[int, ...], shape: tuple[int, ...], name: str) -> bool:
    """Whether an operation takes an array without a copy: row-contiguous; transposed too for a product; with any
    stride between tokens for MLX's attention."""
    real = [(s, t) for s, t in zip(shape, strides, strict=True) if s != 1]
    if name == "sdpa":
        return strides[-1] == 1
    if name in ("Matmul", "AddMM"):
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
    if name == "mask_logits":
        return 2 * size * shapes[2][-1]
    if name == "axial_memory_attention":  # scores and values of 8 frames, of which some are empty; and A
        (_, queries, dim), (columns, width, _), (batch, keys, _) = shapes[0], shapes[3], shapes[4]
        cells = columns * shapes[1][2]
        frames, tail = keys // cells, keys % cells
        computed = -(-frames // 8) * 8 * cells + -(-tail // 32) * 32
        return batch * queries * width * (4 * computed + dim * columns)
    if name == "mask_unit_attention":  # ..._<dtype>_D_WINDOW_STRIDE_...
        window = int(arguments[0].split("float16_t_" if "float16_t_" in arguments[0] else "float_", 1)[1].split("_")[1])
        return 4 * size * window**2
    return size

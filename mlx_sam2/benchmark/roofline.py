"""The modelled cost of a stage on a chip: its graph, traced and priced by bytes and operations.

``trace`` records the primitives that MLX would run on a Metal GPU. Nothing is evaluated, and no GPU is needed. A step
costs the larger of its bytes over the chip's bandwidth and its operations over the chip's arithmetic: at the chip's
peaks, which nothing reaches, and at the share of them that was published for its kind (``REACHED``). Launches are
counted, not priced. Caches are ignored, except that a step reads an input once.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

from ..kernels import gpu
from ..kernels.dispatch import tracing_for_metal
from ..machine import Chip
from ..model import compiled as compiling
from .roofline_steps import ELEMENTWISE, ENTER, HEAVY, LEAVE, Arrays, Step

# The share of a chip's peak arithmetic that a kind of launch reaches, as published. Other kinds are bound by bytes.
REACHED = {
    "Matmul": 0.70,  # MPSGraph on an M2 Max; 2.9 of 4.4 TFLOP/s on an M4 (arXiv 2502.05317)
    "AddMM": 0.70,
    "Convolution": 0.70,  # taken for the product that it is
    "sdpa": 0.76,  # MLX's fused attention with 72 channels on an M3 Ultra
    "mask_unit_attention": 0.70,  # counted, 65 to 76 %: its simdgroup products reach 80 % on an M1 Max
    "memory_attention": 0.70,
    "axial_memory_attention": 0.60,  # counted: its sums A + B, exponentials and rescaling are a larger share
}
# The same with matrix units, in shares of the shader cores: 51 and 50 of 17.8 TFLOP/s in bfloat16 on an M5 Max.
REACHED_WITH_MATRIX_UNITS = {**REACHED, "Matmul": 2.87, "AddMM": 2.87, "sdpa": 2.81}
BANDWIDTH_REACHED = 0.83  # STREAM on an M4's GPU: 100 of 120 GB/s (arXiv 2502.05317)


class Cost(NamedTuple):
    """Modelled cost of a stage on a chip."""

    milliseconds: float  # at the chip's peaks
    expected_ms: float  # at the published shares of them
    minimum_ms: float  # of products, convolutions and attentions alone, each of their bytes moved once
    gigabytes: float
    gflop: float
    launches: int


def cost(steps: Iterable[Step], chip: Chip) -> Cost:
    """The sum over the steps of a stage."""
    steps = list(steps)
    least = sum(
        max((s.bytes - s.beyond) / (chip.bandwidth * 1e9), s.flops / (chip.tflops * 1e12))
        for s in steps
        if s.name in HEAVY
    )
    return Cost(
        1e3 * sum(s.seconds(chip) for s in steps),
        1e3 * sum(expected_seconds(s, chip) for s in steps),
        1e3 * least,
        sum(s.bytes for s in steps) / 1e9,
        sum(s.flops for s in steps) / 1e9,
        len(steps),
    )


def expected_seconds(step: Step, chip: Chip) -> float:
    """The time of a launch at the shares of the chip's peaks that its kind reaches."""
    reached = (REACHED_WITH_MATRIX_UNITS if chip.matrix_units else REACHED).get(step.name, 1)
    memory = step.bytes / (BANDWIDTH_REACHED * chip.bandwidth * 1e9)
    return max(memory, step.flops / (reached * chip.tflops * 1e12))


def live_bytes(steps: Iterable[Step]) -> int:
    """The most bytes of results that exist at once when the launches run in this order; weights and inputs left out."""
    return max(live_bytes_of_each(steps), default=0)


def live_bytes_of_each(steps: Iterable[Step]) -> list[int]:
    """The bytes of results that exist while each launch runs.

    A result lives from its launch to the last one that reads it, or to the end.
    """
    steps = list(steps)
    last = {name: i for i, step in enumerate(steps) for name in step.inputs}
    leaving: dict[int, int] = {}
    found, alive = [], 0
    for i, step in enumerate(steps):
        for name, size in step.outputs.items():
            alive += size
            end = last.get(name, len(steps))
            leaving[end] = leaving.get(end, 0) + size
        found.append(alive)
        alive -= leaving.get(i, 0)
    return found


def by_operation(steps: Iterable[Step], chip: Chip) -> dict[str, Cost]:
    """The cost of each kind of operation in a stage, the most expensive first."""
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


class _Regions:
    """Marks the beginning and the end of compiled stages in the graph."""

    def __init__(self, everything: bool):
        self.depth = 1 if everything else 0  # 1 inside a compiled function
        self._count = 0

    def run(self, method: Callable[..., Any], module: nn.Module, args: tuple[Any, ...]) -> Any:
        """Replaces ``compiled.run``."""
        if self.depth:
            return method(module, *args)
        self.depth, self._count = 1, self._count + 1
        try:
            result = method(module, *tree_map(self._mark(f"{ENTER}_{self._count}_"), args))
        finally:
            self.depth = 0
        return tree_map(self._mark(f"{LEAVE}_"), result)

    @staticmethod
    def _mark(name: str) -> Callable[[Any], Any]:
        return lambda x: _fused(name)(x) if isinstance(x, mx.array) else x


@contextmanager
def _as_on_metal(regions: _Regions, on: gpu.Gpu) -> Iterator[None]:
    """Within the block the model builds the graph of a Metal GPU, with MLX's fused operations as custom kernels."""
    real_attention, real_gelu, fused_gelu = mx.fast.scaled_dot_product_attention, nn.gelu, _fused("gelu")

    def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Any = None) -> mx.array:
        if q.shape[-1] == v.shape[-1] and q.shape[-1] in on.fused_head_dims() and mask is None:
            return _fused("sdpa")(q, k, v)
        return real_attention(q, k, v, scale=scale, mask=mask)

    def gelu(x: mx.array) -> mx.array:  # MLX compiles it alone; in a compiled stage it joins its neighbours
        return (real_gelu if regions.depth else fused_gelu)(x)

    with (
        _replaced(mx.fast, layer_norm=_fused("layer_norm"), scaled_dot_product_attention=attention),
        _replaced(nn, gelu=gelu),
        _replaced(gpu, this_gpu=lambda: on),
        _replaced(mx.metal, is_available=lambda: True),
        _replaced(mx, default_device=lambda: SimpleNamespace(type=mx.gpu)),
        _replaced(compiling, compiles=lambda: True, run=regions.run),
        tracing_for_metal(),
    ):
        yield


def runs_compiled(function: Callable[..., Any], *examples: mx.array) -> bool:
    """Whether a function runs under ``mx.compile``, judged by its graph on this machine; nothing is evaluated.

    MLX's activations, each of which is compiled alone, do not count.
    """

    def fused(*arrays: mx.array) -> set[str]:
        text = io.StringIO()
        mx.export_to_dot(text, *arrays)
        return set(re.findall(r'label ?= ?"(Compiled\w*)"', text.getvalue()))

    small = mx.zeros((2, 2), examples[0].dtype)
    alone = fused(nn.gelu(small), nn.relu(small), nn.gelu(small.astype(mx.float32)))
    with _replaced(compiling, compiles=lambda: False):  # our own stages are marked anyway
        found = function(*examples)
    return bool(fused(*([found] if isinstance(found, mx.array) else found)) - alone)


def trace(
    function: Callable[..., Any], *examples: mx.array, compiled: bool | None = None, chip: Chip | None = None
) -> list[Step]:
    """The launches of a function on a Metal GPU.

    Args:
        function: takes arrays, returns an array or a tuple of arrays. Weights must be evaluated beforehand.
        examples: arrays of the shapes and dtypes to trace with.
        compiled: whether chains of elementwise operations are one launch, as under ``mx.compile``; None finds out
            whether the function compiles itself, or which of its stages are compiled.
        chip: whose built-in choices the ops take; None for those of a GPU without matrix units.
    """
    if compiled is None:
        compiled = runs_compiled(function, *examples)
    records: list[dict[str, Any]] = []
    on = gpu.MATRIX_UNITS if chip is not None and chip.matrix_units else gpu.SHADERS
    with _as_on_metal(_Regions(everything=compiled), on):
        mx.export_function(records.append, function, *examples)
    arrays = Arrays()
    steps: list[Step] = []
    wanted: set[str] = set()
    regions: dict[str, int | None] = {}
    for record in records:
        if record["type"] == "inputs":
            regions.update({name: None for name, *_ in record["inputs"]})
        elif record["type"] == "outputs":
            wanted |= {arrays.root(name) for name, *_ in record["outputs"]}
        elif record["type"] == "primitive":
            region = 0 if compiled else _region(record, regions)
            if region != OF_WEIGHTS:
                regions.update({name: region for name, *_ in record["outputs"]})
            for step in arrays.steps(record):
                step.region = region
                steps.append(step)
    return _fuse(_with_weights(steps), wanted)


OF_WEIGHTS = -1


def _region(record: dict[str, Any], regions: dict[str, int | None]) -> int | None:
    """The compiled stage that a record belongs to: the one of its inputs. None: it is not compiled."""
    kernel = record["arguments"][0] if record["name"] == "CustomKernel" else ""
    if LEAVE in kernel:
        return None
    if ENTER in kernel:
        return int(kernel.split(f"{ENTER}_")[1].split("_")[0])
    found = [regions[name] for name, *_ in record["inputs"] if name in regions]
    return next((region for region in found if region is not None), None if found else OF_WEIGHTS)


def _with_weights(steps: list[Step]) -> list[Step]:
    """Steps that read only weights join the stage that reads their results, if that is a single one."""
    readers: dict[str, set[int | None]] = {}
    for step in reversed(steps):
        if step.region == OF_WEIGHTS:
            found = set[int | None]().union(*(readers.get(name, ()) for name in step.outputs))
            step.region = found.pop() if len(found) == 1 else None
        for name in step.inputs:
            readers.setdefault(name, set()).add(step.region)
    return steps


# ---- fusing as mx.compile does


def _fuse(steps: list[Step], wanted: set[str]) -> list[Step]:
    """Join elementwise steps of compiled stages as MLX does: a step joins its reader if it has only one."""
    makers = {name: step for step in steps for name in step.outputs}
    readers: dict[str, list[Step]] = {}
    for step in steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    taken: set[int] = set()
    result: list[Step] = []
    for step in reversed(steps):  # a fused step runs where its last member does
        if id(step) in taken:
            continue
        members = _members(step, makers, readers, wanted) if _fuses(step) else [step]
        taken.update(map(id, members))
        result.append(step if not _fuses(step) else _joined(members))
    return result[::-1]


def _fuses(step: Step) -> bool:
    return step.name in ELEMENTWISE and step.region is not None


def _members(last: Step, makers: dict[str, Step], readers: dict[str, list[Step]], wanted: set[str]) -> list[Step]:
    members, waiting = [last], list(last.inputs)
    while waiting:
        step = makers.get(waiting.pop())
        if step is None or step in members or not _fuses(step) or step.region != last.region:
            continue
        inside = all(reader in members for name in step.outputs for reader in readers[name])
        if inside and not wanted & step.outputs.keys() and _same_size(last, step):
            members.append(step)
            waiting += step.inputs
    return members


def _joined(members: list[Step]) -> Step:
    last = members[0]
    group = Step("elementwise", sum(m.flops for m in members), {}, last.outputs, region=last.region)
    made = {name for member in members for name in member.outputs}
    for member in members:
        group.read({name: parts for name, parts in member.inputs.items() if name not in made})
    return group


def _same_size(last: Step, step: Step) -> bool:
    return next(iter(step.outputs.values())) in (b * r for b in last.outputs.values() for r in (0.25, 0.5, 1, 2, 4))

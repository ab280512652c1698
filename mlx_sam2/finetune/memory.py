"""The memory that a run takes, counted from the graph of its largest step; nothing is computed for it.

MLX keeps a buffer until the last operation that reads it has run. The same is done here with the sizes alone, in the
order in which MLX lists the operations, those of the kernels' references. The cache of freed buffers is not counted,
nor what a backend takes on the way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from ..kernels.dispatch import references_only
from ..model.compiled import holding
from ..model.results import ImageFeatures
from .encoder import Call, checkpoints_stood_in
from .prompts import draw_click, draw_corrections
from .rollout import Plan
from .samples import Batch
from .steps import Gradients, generator

if TYPE_CHECKING:
    from .trainer import Trainer

Record = dict[str, Any]
# views: the result is another look at the input's buffer
VIEWS = {
    "AsStrided", "Broadcast", "BroadcastAxes", "Contiguous", "Copy", "Depends", "ExpandDims", "Flatten", "Reshape",
    "Slice", "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten", "View",
}  # fmt: skip
COPYING = {"Contiguous", "Flatten", "Reshape"}  # those that copy what does not lie in a row
SCATTERING = {"AsStrided", "Broadcast", "BroadcastAxes", "Slice", "Split", "Transpose"}  # results may not lie in a row
# operations whose result takes over the buffer of an input that nothing else reads
DONATING = {
    "Abs", "Add", "AsType", "BitwiseBinary", "Cos", "Divide", "Equal", "Erf", "Exp", "Floor", "Greater",
    "GreaterEqual", "Less", "LessEqual", "Log1p", "LogAddExp", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum",
    "Minimum", "Multiply", "Negative", "NotEqual", "Power", "Select", "Sigmoid", "Sign", "Sin", "Softmax", "Sqrt",
    "Square", "Subtract", "Tanh",
}  # fmt: skip


class Memory(NamedTuple):
    """Bytes of a run."""

    weights: int  # all weights, those that are trained once more, and two moments; an average if one is kept
    step: int  # at most, of a step: activations and gradients
    update: int  # of an update: gradients and new weights

    @property
    def peak(self) -> int:
        return self.weights + max(self.step, self.update)


def count(trainer: Trainer) -> Memory:
    """Count the memory of a run: of its largest batch, with clicks on as many frames as the settings allow."""
    arguments, weights = trainer.arguments, trainer.weights
    own = sum(value.nbytes for value in weights.masters.values())
    copies = 4 if arguments.ema else 3
    total = sum(value.nbytes for value in weights.start.values()) + copies * own
    if arguments.compute != "float32":
        total += sum(value.nbytes for value in weights.start.values()) // 2
    batch, plan, features = _largest(trainer)
    given = batch.targets.nbytes + (0 if batch.pixels is None else batch.pixels.nbytes)
    ways = {arguments.checkpoint, False}  # with checkpoints it is a bound, and less than without any
    step = min(_step(trainer, batch, plan, features, checkpoint) for checkpoint in ways)
    return Memory(total, given + step, 2 * own)


def _step(trainer: Trainer, batch: Batch, plan: Plan, features: list[ImageFeatures] | None, checkpoint: bool) -> int:
    weights = trainer.weights
    names, values = list(weights.masters), list(weights.masters.values())
    arguments = dataclasses.replace(trainer.arguments, checkpoint=checkpoint)
    gradients = Gradients(trainer.model, weights, arguments)
    records: list[Record] = []

    def step(*masters: mx.array) -> tuple[mx.array, ...]:
        weights.masters = dict(zip(names, masters, strict=True))
        found = gradients.of(batch, plan, features, mx.random.key(0), 1.0)
        return found.total, *found.gradients.values()

    try:
        with references_only(), checkpoints_stood_in() as calls:
            mx.export_function(records.append, step, *values)
    finally:
        weights.masters = dict(zip(names, values, strict=True))
        weights.put(trainer.model, weights.masters)
    return peak_of(records) + _largest_call(calls)


def _largest_call(calls: Sequence[Call]) -> int:
    """What the largest of the calls takes that are computed again in the backward pass."""
    shapes: dict[tuple[Any, ...], Call] = {}
    for call in calls:
        weights = (value.shape for _, value in tree_flatten(call.layer.parameters()))
        shapes.setdefault((*weights, *(x.shape for x in call.args if x is not None)), call)
    return max(map(_peak_of_call, shapes.values()), default=0)


def _peak_of_call(call: Call) -> int:
    names, values = zip(*tree_flatten(call.layer.parameters()), strict=True)
    x, *others = (x if x is None else mx.zeros(x.shape, x.dtype) for x in call.args)
    records: list[Record] = []

    def total(x: mx.array, weights: list[mx.array]) -> mx.array:
        layer = holding(call.layer, tree_unflatten(list(zip(names, weights, strict=True))))
        return call.function(layer, x, *others).sum()

    def backward(x: mx.array, *weights: mx.array) -> tuple[mx.array, ...]:
        from_x, from_weights = mx.grad(total, argnums=(0, 1))(x, list(weights))
        return from_x, *from_weights

    with references_only():
        mx.export_function(records.append, backward, x, *(mx.zeros(value.shape, value.dtype) for value in values))
    return peak_of(records)


def _largest(trainer: Trainer) -> tuple[Batch, Plan, list[ImageFeatures] | None]:
    """A batch as large as any of the run, its prompts, and its features where they are cached. All values are 0."""
    arguments, size = trainer.arguments, trainer.model.config.image_size
    samples = arguments.batch
    each = min(arguments.max_objects, max(len(item.objects) for item in trainer.items))
    longest = max(len(item.keyframes) for item in trainer.items)
    frames = min(arguments.num_frames, longest) if trainer.video else 1
    targets = np.zeros((frames, samples * each, size, size), bool)
    random = generator(0)
    first = range(min(arguments.first_frames, frames))
    corrected = range(min(arguments.corrected_frames, frames)) if arguments.corrections else ()
    plan = Plan(
        {t: draw_click(targets[t], random) for t in first},
        {t: draw_corrections(samples * each, arguments, random) for t in corrected},
    )
    cached, pixels = None, np.zeros((frames, samples, size, size, 3), np.float32)
    if trainer.features is not None:
        shapes = trainer.scored.encode_image(mx.zeros((1, size, size, 3))).arrays()
        embedding, *high_res = (mx.zeros(array.shape, mx.float16) for array in shapes)
        cached, pixels = [ImageFeatures(embedding, tuple(high_res) or None)] * samples, None
    owners = np.repeat(np.arange(samples), each)
    return Batch(["zeros"] * samples, [0] * samples, pixels, targets, owners), plan, cached


def peak_of(records: Sequence[Record]) -> int:
    """The most bytes that a graph holds at once, without its inputs, from what ``mx.export_function`` reports."""
    operations = [record for record in records if record["type"] == "primitive"]
    outputs = [name for record in records if record["type"] == "outputs" for name, *_ in record["outputs"]]
    roots = _buffers(records, operations)
    last = {roots[name]: at for at, op in enumerate(operations) for name, *_ in op["inputs"]}
    last |= {roots[name]: len(operations) for name in outputs if name in roots}
    sizes = {name: _bytes(shape, dtype) for op in operations for name, shape, dtype in op["outputs"]}
    live = peak = 0
    for at, op in enumerate(operations):
        made = sum(sizes[name] for name, *_ in op["outputs"] if roots[name] == name)
        read = {roots[name] for name, *_ in op["inputs"]}
        freed = [sizes[root] for root in read if last[root] == at and root in sizes]
        unread = sum(sizes[name] for name, *_ in op["outputs"] if roots[name] == name and name not in last)
        donated = made if op["name"] in DONATING and made in freed else 0
        live += made - donated
        peak = max(peak, live)
        live -= sum(freed) - donated + unread
    return peak


def _buffers(records: Sequence[Record], operations: Sequence[Record]) -> dict[str, str]:
    """The array whose buffer each array is a view of; most are their own."""
    roots = {name: name for record in records for kind in ("inputs", "constants") for name, *_ in record.get(kind, ())}
    scattered: set[str] = set()
    for op in operations:
        for name, shape, _ in op["outputs"]:
            roots[name] = name
            if op["name"] not in VIEWS:
                continue
            given, given_shape, _ = op["inputs"][0]
            if op["name"] in COPYING and given in scattered:
                continue
            roots[name] = roots[given]
            moved = op["name"] in SCATTERING and not _lies_in_a_row(op, given_shape, shape)
            if moved or given in scattered:
                scattered.add(name)
    return roots


def _lies_in_a_row(op: Record, given: Sequence[int], shape: Sequence[int]) -> bool:
    if op["name"] == "Transpose":
        wide = [axis for axis in op["arguments"][0] if given[axis] != 1]
        return wide == sorted(wide)
    return tuple(given) == tuple(shape)


def _bytes(shape: Sequence[int], dtype: mx.Dtype) -> int:
    total = dtype.size
    for side in shape:
        total *= side
    return total

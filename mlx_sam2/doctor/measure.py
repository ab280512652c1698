"""The doctor's measurements: every op that a model calls, by its Metal kernel and by MLX's own operations."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import mlx.core as mx

from ..kernels import dispatch
from ..kernels.dispatch import Op, Tensor
from ..model.sam2 import SAM2
from ..text import dtype_name, first_line

ROUNDS, QUICK_ROUNDS = 11, 3
REDUCED_TOLERANCE = 1e-2  # of the largest value, if float32 products run as TF32
ROUND_SECONDS = 0.01  # a round repeats an op for this long, so that its start does not count
MAX_REPEATS = 64
MAX_ROUND_BYTES = 1 << 29  # of the results of a round, which exist at once


@dataclass(frozen=True)
class Call:
    """A call of an op by a model."""

    op: Op
    args: tuple[Any, ...]  # with `Tensor`s in place of arrays
    count: int = 1  # calls in one image, or one frame
    other: bool = False  # of none but ``OTHER_FRAMES``: at full size only timed, and checked on a small case

    @property
    def dtype(self) -> mx.Dtype:
        return next(a.dtype for a in self.args if isinstance(a, Tensor))

    def placeholders(self) -> tuple[Any, ...]:
        """Arrays that are never evaluated, for questions about shapes."""
        return tuple(mx.zeros(a.shape, a.dtype) if isinstance(a, Tensor) else a for a in self.args)


@dataclass(frozen=True)
class Measurement:
    """One row of the doctor's table."""

    op: str
    variant: str
    size: str
    count: int
    served: bool = True  # whether the kernel supports this shape
    fault: str | None = None  # of the kernel (without Metal: of the reference)
    difference: float | None = None  # relative, of the kernel (without Metal: the reference) from float32 on the CPU
    kernel_ms: float | None = None  # None: no kernel, or a wrong one
    mlx_ms: float | None = None
    megabytes: float | None = None  # that have to move
    share: float | None = None  # of the chip's peak bandwidth that the faster way reaches
    of_product: float | None = None  # its operations a second over those of one large product of this dtype
    kernel_chosen: bool | None = None
    kind: str = ""  # its op and dtype

    @property
    def key(self) -> str:
        return f"{self.op} {self.variant} {self.size}"


class Frame(NamedTuple):
    """A tracked frame: how many objects it has, and what their memory holds."""

    objects: int = 1
    memories: int | None = None  # and as many pointers; None: a full memory
    padded: bool = False  # whether some memories are padding, as with objects that were seen for different times


# Besides a frame of one object with a full memory: all that makes other variants of the kernels (16 objects do at 512
# pixels). Sizes leave the batch out, so what 16 objects share with 4 is measured once.
OTHER_FRAMES = (
    Frame(memories=1),
    Frame(padded=True),
    Frame(objects=4),
    Frame(objects=4, padded=True),
    Frame(objects=16),
)


def record(model: SAM2) -> list[Call]:
    """The ops of an image, of a frame with one object and a full memory, and of ``OTHER_FRAMES``. Evaluates nothing."""
    config = model.config
    with dispatch.references_only(), dispatch.recorded() as calls:
        features = model.encode_image(mx.zeros((1, config.image_size, config.image_size, 3)))
        embedding = features.embedding
        if config.num_maskmem > 0 and "memory_attention" in model:
            embedding = _attended(model, embedding, Frame())
            mask = mx.zeros((1, config.image_size, config.image_size, 1))
            model.encode_memory(features.embedding, mask, mx.zeros((1, 1)))
        model.decode(embedding, features.high_res, mx.zeros((1, 1, 2)), mx.zeros((1, 1), mx.int32), None)
        first = len(calls)
        if config.num_maskmem > 0 and "memory_attention" in model:
            for frame in OTHER_FRAMES:
                _attended(model, features.embedding, frame)
    counted: dict[str, Call] = {}
    for i, (op, args) in enumerate(calls):
        call = Call(op, args, other=i >= first)
        key = op.key(*call.placeholders())
        if key not in counted:
            counted[key] = call
        elif counted[key].other == call.other:
            counted[key] = dataclasses.replace(counted[key], count=counted[key].count + 1)
    return list(counted.values())


def _attended(model: SAM2, embedding: mx.array, frame: Frame) -> mx.array:
    """The features of a frame after memory attention."""
    config, count = model.config, model.config.num_maskmem if frame.memories is None else frame.memories
    memories = mx.zeros((frame.objects, count, *config.memory_shape), mx.bfloat16)
    order = mx.broadcast_to(mx.arange(count), (frame.objects, count))
    pointers = times = None
    recalled = 0
    if config.use_obj_ptrs_in_encoder:
        recalled = config.max_obj_ptrs_in_encoder if frame.memories is None else frame.memories
        times = mx.zeros((frame.objects, recalled))
        pointers = mx.zeros((*times.shape, config.neck.d_model))
    present = mx.ones((frame.objects, count + recalled), mx.bool_) if frame.padded else None
    return model.attend_memory(embedding, memories, order, pointers, times, present)


def measure(
    calls: Iterable[Call], peak_gb_s: float | None, quick: bool, products: Mapping[str, float] | None = None
) -> Iterator[Measurement]:
    """Check and time each call both ways on the default device.

    Args:
        calls: as from ``record``.
        peak_gb_s: the chip's memory bandwidth; None if unknown.
        quick: fewer repetitions, and the differences of small cases only.
        products: GFLOP/s of one large product by dtype (``examination.yardstick``).
    """
    for call in calls:
        yield _measure(call, peak_gb_s, quick, (products or {}).get(dtype_name(call.dtype)))


def _measure(call: Call, peak_gb_s: float | None, quick: bool, product: float | None) -> Measurement:
    op = call.op
    args = dispatch.make_arguments(call.args, call.dtype)
    mx.eval([a for a in args if isinstance(a, mx.array)])
    row = Measurement(
        op.name, op.variant(*args), op.size(*args), call.count, served=op.supports(*args), kind=op.kind(*args)
    )
    fault = difference = None
    if row.served:
        fault = dispatch.check(op, *args)
        if not fault:
            difference, fault = _difference(op, args, quick or call.other)
    ways: list[Callable[..., mx.array]] = [op.reference]
    if row.served and not fault:
        ways.append(op.kernel)
    times = _race(ways, args, QUICK_ROUNDS if quick else ROUNDS)
    moved = op.minimum_bytes(*args)
    return dataclasses.replace(
        row,
        fault=fault,
        difference=difference,
        mlx_ms=1e3 * times[0],
        kernel_ms=1e3 * times[1] if len(times) > 1 else None,
        megabytes=moved / 1e6,
        share=None if peak_gb_s is None else moved / min(times) / (1e9 * peak_gb_s),
        of_product=None if product is None or op.flops is None else op.flops(*args) / min(times) / (1e9 * product),
        kernel_chosen=times[-1] <= times[0] and len(times) > 1,
    )


def _difference(op: Op, args: tuple[Any, ...], quick: bool) -> tuple[float | None, str | None]:
    """The relative difference of the kernel from the exact reference (if quick, on a small case), or its fault."""
    dtype = next(a.dtype for a in args if isinstance(a, mx.array))
    try:
        result = op.kernel(*args)  # if quick, too: it may fail at this size only
        mx.eval(result)
    except (RuntimeError, ValueError) as error:
        return None, f"it failed: {first_line(error)}"
    if quick:
        args = dispatch.make_arguments(op.check_case(*args), dtype)
        result = op.kernel(*args)
    difference = dispatch.relative_difference(result, dispatch.exact_reference(op, args))
    if difference > dispatch.TOLERANCE[dtype]:
        return None, f"it differs from the reference by {difference:.1e} of the largest value"
    return difference, None


def _race(ways: list[Callable[..., mx.array]], args: tuple[Any, ...], rounds: int) -> list[float]:
    """Median seconds of each way, measured in turns: a clock rate that changes affects all."""
    repeats = []
    for way in ways:
        mx.eval(way(*args))  # compiles
        start = time.perf_counter()
        result = way(*args)
        mx.eval(result)
        wanted = math.ceil(ROUND_SECONDS / max(time.perf_counter() - start, 1e-6))
        nbytes = sum(x.nbytes for x in dispatch.arrays_of(result))
        repeats.append(max(min(wanted, MAX_REPEATS, MAX_ROUND_BYTES // max(nbytes, 1)), 1))
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, repeat, seconds in zip(ways, repeats, times, strict=True):
            start = time.perf_counter()
            mx.eval([way(*args) for _ in range(repeat)])  # waits for the GPU
            seconds.append((time.perf_counter() - start) / repeat)
    return [statistics.median(seconds) for seconds in times]


def chosen(rows: Iterable[Measurement]) -> dict[str, bool]:
    """The choices to store: whether the kernel is faster at each size, and over all calls of a variant and of a kind.

    The last two are for what was not measured: a size, such as a memory that is not full yet, or a variant. A variant
    whose kernel is wrong says nothing of the others.
    """
    stored: dict[str, bool] = {}
    saved: dict[str, float] = {}  # milliseconds over all calls of a variant or kind
    for row in rows:
        if row.served:
            stored[row.key] = bool(row.kernel_chosen)
            saving = -math.inf if row.kernel_ms is None else row.count * (row.mlx_ms - row.kernel_ms)
            for name in (f"{row.op} {row.variant}", *([row.kind] if row.kernel_ms is not None else [])):
                saved[name] = saved.get(name, 0.0) + saving
    return {**{name: saving >= 0 for name, saving in saved.items()}, **stored}


def verify_references(calls: Iterable[Call], reduced: bool) -> Iterator[Measurement]:
    """Without Metal: compare the reference of each variant, on a small case, with float32 on the CPU.

    Args:
        calls: as from ``record``.
        reduced: whether float32 products run in reduced precision on the default device.
    """
    variants: dict[tuple[str, str], Call] = {}
    for call in calls:
        name = call.op.name, call.op.variant(*call.placeholders())
        count = call.count + (variants[name].count if name in variants else 0)
        variants[name] = dataclasses.replace(call, count=count)
    for (_, variant), call in variants.items():
        placeholders = call.placeholders()
        args = dispatch.make_arguments(call.op.check_case(*placeholders), call.dtype)
        with dispatch.references_only():
            difference = dispatch.relative_difference(call.op.reference(*args), dispatch.exact_reference(call.op, args))
        allowed = max(dispatch.TOLERANCE[call.dtype], REDUCED_TOLERANCE if reduced else 0)
        fault = (
            None
            if difference <= allowed
            else f"the reference is off by {difference:.1e} of the largest value on this machine"
        )
        finite = difference if math.isfinite(difference) else None
        yield Measurement(call.op.name, variant, "small case", call.count, fault=fault, difference=finite)

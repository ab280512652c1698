"""The choice between an op's Metal kernel and its reference in plain MLX.

An `Op` holds a reference, a kernel, and everything needed to choose between them. A kernel is an optimisation with a
witness: its first use checks it against the reference, on a small case of the same variant.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..text import dtype_name, first_line
from . import choices, rules  # modules: tests replace the rules there

TOLERANCE = {mx.float32: 1e-4, mx.float16: 5e-3, mx.bfloat16: 4e-2}  # of the largest value; a wrong kernel is far off


class Tensor(NamedTuple):
    """A placeholder for an array of normal numbers, scale * x + offset; its dtype is None for that of the case."""

    shape: tuple[int, ...]
    dtype: mx.Dtype | None = None
    scale: float = 1.0
    offset: float = 0.0
    excluded: tuple[tuple[int, int], ...] = ()  # ranges of the last axis that are -inf, as biases of left-out keys are

    def values(self, random: np.random.Generator) -> np.ndarray:
        x = random.standard_normal(self.shape, dtype=np.float32)
        if (self.scale, self.offset) != (1, 0):
            x = x * np.float32(self.scale) + np.float32(self.offset)
        for start, end in self.excluded:
            x[..., start:end] = -np.inf
        return x


@dataclass(frozen=True)
class Op:
    """One operation in two forms that take the same positional arguments."""

    name: str
    reference: Callable[..., Any]  # MLX's own operations, on any device: an array, or a tuple of arrays
    kernel: Callable[..., Any]  # one Metal kernel
    supports: Callable[..., bool]  # whether the kernel accepts these arguments
    variant: Callable[..., str]  # what is compiled in: dtype, head dim, window, ...
    size: Callable[..., str]  # what else its speed depends on: tokens, grid; not the batch
    check_case: Callable[..., tuple[Any, ...]]  # arguments -> a small case of the same variant, with `Tensor`s
    minimum_bytes: Callable[..., int]  # every needed input byte read once, every output byte written once
    cases: tuple[tuple[Any, ...], ...] = ()  # arguments with `Tensor`s: what tests, doctor and benchmark share
    preferred: Callable[..., bool] = field(default=lambda *args: True)  # the built-in choice, if none is stored
    dtype: mx.Dtype | None = None  # of the results; None: that of the arguments
    flops: Callable[..., int] | None = None  # of its products; None: it is bound by the bytes that it moves

    def __call__(self, *args: Any) -> Any:
        for calls in _recorders.get():
            calls.append((self, tuple(_describe(a) for a in args)))
        if not self.uses_kernel(*args):
            return self.reference(*args)
        return self.kernel(*args) if _tracing.get() else _with_gradient(self, args)

    def uses_kernel(self, *args: Any) -> bool:
        """Whether a call with these arguments goes through the Metal kernel."""
        if _references_only.get():
            return False
        if _tracing.get() == UNCHECKED:
            return self.supports(*args) and self.preferred(*args)
        if not rules.metal_allowed() or not self.supports(*args):
            return False
        return (rules.metal_forced() or self._chosen(*args)) and _trusted(self, *args)

    def _chosen(self, *args: Any) -> bool:
        """The stored choice for this size, else for this variant, else for this op and dtype, else the built-in one."""
        variant = f"{self.name} {self.variant(*args)}"
        for key in (f"{variant} {self.size(*args)}", variant, self.kind(*args)):
            if (stored := choices.lookup(key)) is not None:
                return stored
        return self.preferred(*args)

    def kind(self, *args: Any) -> str:
        """The name of a choice for all variants of a dtype, those that were not measured too."""
        return f"{self.name} ({dtype_name(next(a.dtype for a in args if isinstance(a, mx.array)))})"

    def key(self, *args: Any) -> str:
        """The name of a choice: op, variant and size."""
        return f"{self.name} {self.variant(*args)} {self.size(*args)}"


def arrays_of(result: Any) -> list[mx.array]:
    """One array, or several, as a list."""
    return [result] if isinstance(result, mx.array) else list(result)


# ---- gradients


def _with_gradient(op: Op, args: tuple[Any, ...]) -> Any:
    """Call the kernel, with the gradient of the reference: MLX knows no gradient of a custom kernel."""
    places = [i for i, a in enumerate(args) if isinstance(a, mx.array)]

    def called(way: Callable[..., Any], arrays: Sequence[mx.array]) -> Any:
        given = list(args)
        for i, array in zip(places, arrays, strict=True):
            given[i] = array
        return way(*given)

    kernel = mx.custom_function(lambda *arrays: called(op.kernel, arrays))

    @kernel.vjp
    def gradient(primals: Any, cotangents: Any, output: Any) -> Any:
        _, found = mx.vjp(lambda *arrays: called(op.reference, arrays), arrays_of(primals), arrays_of(cotangents))
        return found[0] if len(found) == 1 else tuple(found)

    return kernel(*(args[i] for i in places))


# ---- checked at first use

_lock = threading.RLock()  # a kernel's own function may call other ops
_verdicts: dict[tuple[str, str], bool] = {}  # (op, variant) -> agrees with the reference
_complained: set[str] = set()  # ops of which a variant failed: one warning each


def forget_checks() -> None:
    """Forget all verdicts, so that the next use of every kernel checks it again (tests, doctor)."""
    with _lock:
        _verdicts.clear()
        _complained.clear()


def _trusted(op: Op, *args: Any) -> bool:
    key = (op.name, op.variant(*args))
    with _lock:
        if key not in _verdicts:
            fault = check(op, *args)
            _verdicts[key] = fault is None
            if fault is not None and op.name not in _complained:
                _complained.add(op.name)
                warnings.warn(
                    f"mlx_sam2: the Metal kernel {op.name} ({key[1]}) is not used on this machine, because {fault}. "
                    "MLX's own operations take its place, with the same results; `python -m mlx_sam2.doctor` says more",
                    RuntimeWarning,
                    stacklevel=4,
                )
        return _verdicts[key]


def check(op: Op, *args: Any) -> str | None:
    """Run a small case of the same variant both ways. Returns the kernel's fault, or None."""
    dtype = next(a.dtype for a in args if isinstance(a, mx.array | Tensor))
    case = make_arguments(op.check_case(*args), dtype)
    try:
        result = op.kernel(*case)
        mx.eval(result)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:  # the last two: an MLX that differs
        return f"it failed: {first_line(error)}"
    given, wanted = arrays_of(result)[0].dtype, op.dtype or dtype
    if given != wanted:
        return f"it gives {dtype_name(given)} in place of {dtype_name(wanted)}"
    difference = relative_difference(result, exact_reference(op, case))
    if difference <= TOLERANCE[dtype]:
        return None
    return f"it differs from the reference by {difference:.1e} of the largest value (allowed {TOLERANCE[dtype]:.0e})"


def exact_reference(op: Op, args: tuple[Any, ...]) -> Any:
    """The reference on the CPU in float32, where products have full precision."""
    with mx.stream(mx.cpu), references_only():
        result = op.reference(*(a.astype(mx.float32) if isinstance(a, mx.array) else a for a in args))
        mx.eval(result)
    return result


def relative_difference(result: Any, expected: Any) -> float:
    """Largest difference as a share of the largest expected value; infinite for another shape or a NaN.

    Of several results, the largest of theirs.
    """
    pairs = zip(arrays_of(result), arrays_of(expected), strict=True)
    return max(_difference(*(np.array(x.astype(mx.float32)) for x in pair)) for pair in pairs)


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.shape != b.shape or not np.isfinite(a).all():
        return float("inf")
    return float(np.abs(a - b).max(initial=0) / max(float(np.abs(b).max(initial=0)), 1e-30))


def make_arguments(args: tuple[Any, ...], dtype: mx.Dtype, seed: int = 0) -> tuple[Any, ...]:
    """Replace the `Tensor`s of a case by arrays, the same on every machine; keep other arguments."""
    random = np.random.default_rng(seed)
    return tuple(mx.array(a.values(random)).astype(a.dtype or dtype) if isinstance(a, Tensor) else a for a in args)


# ---- watching the ops of a model

_recorders: ContextVar[tuple[list[tuple[Op, tuple[Any, ...]]], ...]] = ContextVar("recorders", default=())
CHECKED, UNCHECKED = "checked", "unchecked"
_tracing: ContextVar[str | None] = ContextVar("tracing", default=None)  # how, while a graph is traced
_references_only: ContextVar[bool] = ContextVar("references_only", default=False)


def _describe(argument: Any) -> Any:
    return Tensor(tuple(argument.shape), argument.dtype) if isinstance(argument, mx.array) else argument


@contextmanager
def recorded() -> Iterator[list[tuple[Op, tuple[Any, ...]]]]:
    """Record the calls of ops inside the block, with `Tensor`s in place of arrays. Evaluates nothing."""
    calls: list[tuple[Op, tuple[Any, ...]]] = []
    token = _recorders.set((*_recorders.get(), calls))
    try:
        yield calls
    finally:
        _recorders.reset(token)


@contextmanager
def _traced(how: str) -> Iterator[None]:
    token = _tracing.set(how)
    try:
        yield
    finally:
        _tracing.reset(token)


def tracing_for_metal() -> AbstractContextManager[None]:
    """Inside the block ops follow the built-in choice, unchecked: for tracing where there is no Metal."""
    return _traced(UNCHECKED)


def tracing_on_metal() -> AbstractContextManager[None]:
    """Inside the block kernels have no gradient: MLX cannot export a function with a gradient of its own."""
    return _traced(CHECKED)


@contextmanager
def references_only() -> Iterator[None]:
    """Inside the block every op runs its reference."""
    token = _references_only.set(True)
    try:
        yield
    finally:
        _references_only.reset(token)


def is_watched() -> bool:
    """Whether one of the blocks above is active: then every call of an op must reach it, so nothing may be cached."""
    return bool(_recorders.get()) or _tracing.get() is not None or _references_only.get()


# ---- building kernels


def metal_kernel(name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], source: str, header: str = "") -> Any:
    """``mx.fast.metal_kernel``, cached. Tests replace MLX's function, so it is a part of the key."""
    return _build(mx.fast.metal_kernel, name, inputs, outputs, source, header)


@lru_cache(maxsize=64)
def _build(factory: Any, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], source: str, header: str) -> Any:
    return factory(
        name=f"mlx_sam2_{name}",
        input_names=list(inputs),
        output_names=list(outputs),
        source=source,
        header=header,
        ensure_row_contiguous=True,
    )

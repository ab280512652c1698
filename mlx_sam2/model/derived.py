"""A cached value computed from weights; recomputed when a weight changes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import mlx.core as mx
import numpy as np

T = TypeVar("T")


class Derived(Generic[T]):
    """One cached value and the arrays that it was computed from.

    A change is noticed whether a weight is assigned or changed in place (``weight += 1``, ``weight[0] = 0``): either
    way the array gets other memory, because its old memory is held here. ``mx.grad`` puts another array with the same
    memory in the place of a weight; that counts as a change too, so a cached value never cuts a gradient off. Traced
    arrays (``mx.compile``, export) have no memory, and nothing is cached for them. A copy starts empty.
    """

    def __init__(self) -> None:
        self._sources: list[tuple[mx.array, mx.array]] = []
        self._places: list[tuple[int, int, int]] = []
        self._value: T | None = None

    def get(self, sources: Sequence[mx.array], make: Callable[[], T]) -> T:
        """``make()``, or its last result if none of the sources has changed since."""
        try:
            places = [_place(source) for source in sources]
        except RuntimeError:  # the array is being traced
            return make()
        if self._value is None or places != self._places:
            self._value = make()
            # Holding the arrays keeps their ids and memory from reuse. A copy shares the memory, but no later change.
            self._sources, self._places = [(source, copy.copy(source)) for source in sources], places
        return self._value

    def clear(self) -> None:
        """Forget the value."""
        self.__init__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Derived[T]:
        return Derived()

    def __reduce__(self) -> tuple[type[Derived[T]], tuple[()]]:
        return Derived, ()


def _place(array: mx.array) -> tuple[int, int, int]:
    """The identity of an array, its address in memory, and its size in bytes."""
    data = memoryview(array)  # evaluates it
    return id(array), (np.frombuffer(data, np.uint8).ctypes.data if data.contiguous else 0), data.nbytes

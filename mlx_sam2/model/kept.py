"""Values computed from arrays that seldom change, such as weights: once, and again when these have changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import mlx.core as mx
import numpy as np

T = TypeVar("T")


class Kept(Generic[T]):
    """Keeps one value, and what it was computed from.

    Assigned weights and weights changed in place (``weight += 1``, ``weight[0] = 0``) are noticed alike: either gives
    an array other memory while its old memory is held here. Inside a transformation (``mx.grad``, ``mx.compile``) of
    which a source is an argument nothing is kept.
    """

    def __init__(self) -> None:
        self._sources: list[tuple[mx.array, mx.array]] = []
        self._places: list[tuple[int, ...]] = []
        self._value: T | None = None

    def get(self, sources: Sequence[mx.array], make: Callable[[], T]) -> T:
        """``make()``, or what it returned the last time if none of the sources has changed since."""
        try:
            places = [_place(source) for source in sources]
        except RuntimeError:  # what mx.compile traces has no memory
            return make()
        if self._value is None or places != self._places:
            self._value = make()
            # A copy shares the memory but not the later changes; what mx.grad traces shares the memory, too, and is
            # another array.
            self._sources, self._places = [(source, copy.copy(source)) for source in sources], places
        return self._value


def _place(array: mx.array) -> tuple[int, ...]:
    """Which array it is, where it lies in memory, and its bytes."""
    data = memoryview(array)  # evaluates it
    address = np.frombuffer(data.cast("B"), np.uint8).ctypes.data if data.contiguous else 0
    return id(array), address, data.nbytes

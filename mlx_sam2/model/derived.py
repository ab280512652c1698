"""Values computed from arrays that seldom change, such as weights: once, and again when these have changed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import mlx.core as mx
import numpy as np

T = TypeVar("T")


class Kept(Generic[T]):
    """Keeps one value, and what it was computed from.

    Assigned weights and weights changed in place (``weight += 1``, ``weight[0] = 0``) are noticed alike: either gives
    an array other memory while its old memory is held here. So is what ``mx.grad`` puts in the place of a weight,
    another array with the same memory: gradients do not end at a value that was kept. Nothing is kept of arrays that
    have no memory, under ``mx.compile`` or an export. A copy starts empty.
    """

    def __init__(self) -> None:
        self._sources: list[tuple[mx.array, mx.array]] = []
        self._places: list[tuple[int, int, int]] = []
        self._value: T | None = None

    def get(self, sources: Sequence[mx.array], make: Callable[[], T]) -> T:
        """``make()``, or what it returned the last time if none of the sources has changed since."""
        try:
            places = [_place(source) for source in sources]
        except RuntimeError:  # MLX's, of an array that is being traced
            return make()
        if self._value is None or places != self._places:
            self._value = make()
            # Held, so that neither goes to another array; a copy shares the memory, but not the later changes.
            self._sources, self._places = [(source, copy.copy(source)) for source in sources], places
        return self._value

    def clear(self) -> None:
        """Forget the value."""
        self.__init__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept[T]:
        return Kept()

    def __reduce__(self) -> tuple[type[Kept[T]], tuple[()]]:
        return Kept, ()


def _place(array: mx.array) -> tuple[int, int, int]:
    """Which array it is, where it lies in memory, and its bytes."""
    data = memoryview(array)  # evaluates it
    return id(array), (np.frombuffer(data, np.uint8).ctypes.data if data.contiguous else 0), data.nbytes

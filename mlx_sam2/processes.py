"""Models and processes: what uses MLX stays in the process that made it.

MLX computes on threads, and a fork does not copy threads: a child of a process that has computed would wait for ever.
Start such children with ``multiprocessing.get_context("spawn")``, or load the model in the children only.
"""

from __future__ import annotations

import os
from typing import Any, NoReturn, TypeVar

Self = TypeVar("Self", bound="OneProcess")

_used = False  # whether this process has computed with MLX
_forked = False  # whether its parent had, before the fork


def before_computing() -> None:
    """Call this before the first computation of a call that computes with MLX.

    Raises:
        RuntimeError: this process was forked from one that had computed with MLX. Computing would never end.
    """
    global _used
    if _forked:
        raise RuntimeError(
            "this process was forked from one that had used a model, and MLX cannot compute in it: start it with "
            'multiprocessing.get_context("spawn"), or load the model in the forked processes only'
        )
    _used = True


def _after_fork() -> None:
    global _forked
    _forked = _used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class OneProcess:
    """A class whose objects can neither be pickled nor copied in depth.

    Args of the class statement:
        advice: what to do instead.
        shared: whether ``copy.copy`` gives another object on the same model; else it is refused, too.
    """

    _advice = "load it there with from_pretrained, or let one process answer for all"
    _shared = True

    def __init_subclass__(cls, advice: str | None = None, shared: bool | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls._advice = cls._advice if advice is None else advice
        cls._shared = cls._shared if shared is None else shared

    def __copy__(self: Self) -> Self:
        if not self._shared:
            self._refuse("copied")
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self._refuse("copied in depth" if self._shared else "copied")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        self._refuse("pickled")

    def _refuse(self, what: str) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be {what}: {self._advice}")

"""``mx.compile`` for whole stages of the model, on a GPU.

A compiled stage is a pure function of the module's weights and its arguments. The weights are passed at every call, so
weights that are loaded, trained, cast or quantised later take effect at once. MLX keeps one graph per set of shapes
for as long as the module lives.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..kernels import rules
from ..kernels.dispatch import is_watched


def compiles() -> bool:
    """Whether stages run compiled now. Asked at every call; tests replace it.

    Not on the CPU: MLX would start the machine's C++ compiler, and the longest chain there, GELU, is faster in pieces
    that fit the cache (``kernels.gelu``). Not while the ops are listed or recorded: a compiled
    stage calls them only once.
    """
    return mx.default_device().type == mx.gpu and not is_watched()


def compiled(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method of a module so that it runs compiled if ``compiles()``.

    The method takes arrays, constants (int, float, str, None) and trees of them, returns a tree of arrays, and depends
    on nothing else that changes. A compiled method that calls another one makes it a part of its own graph.
    """

    @functools.wraps(method)
    def call(self: nn.Module, *args: Any) -> Any:
        return run(method, self, args) if compiles() else method(self, *args)

    return call


def run(method: Callable[..., Any], module: nn.Module, args: tuple[Any, ...]) -> Any:
    """Call the compiled form of a method."""
    functions = vars(module).setdefault("_compiled", _Functions())
    token = _called.set(module)
    try:
        return functions.of(method)(module, _kernel_settings(), *args)
    finally:
        _called.reset(token)


_called: ContextVar[nn.Module] = ContextVar("called")


class _Functions:
    """The compiled methods of one module."""

    def __init__(self) -> None:
        self._by_name: dict[str, Callable[..., Any]] = {}

    def of(self, method: Callable[..., Any]) -> Callable[..., Any]:
        name = method.__qualname__
        if name not in self._by_name:
            self._by_name[name] = mx.compile(_pure(method))
        return self._by_name[name]


def _pure(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method as a function of the module's weights. MLX runs it once for each set of shapes, to trace it."""

    def function(weights: dict[str, Any], settings: str, *args: Any) -> Any:
        return method(holding(_called.get(), weights), *args)

    return function


def holding(part: Any, weights: Any) -> Any:
    """A copy of a module, or of a part of its tree, with these weights.

    The module itself is left alone: an error or another thread must not find traced arrays in it.
    """
    if isinstance(part, dict):
        twin = copy.copy(part)
        for name, value in weights.items():
            twin[name] = holding(part[name], value)
        return twin
    if isinstance(part, list):
        return [holding(p, w) for p, w in zip(part, weights, strict=True)]
    return weights


def _kernel_settings() -> str:
    """The kernel settings that the ops read at every call, as an argument: MLX makes a graph for each value."""
    return f"{rules.metal_allowed()} {rules.metal_forced()}"

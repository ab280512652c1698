"""Where ``mx.compile`` is applied: whole stages of the model, on a GPU.

A compiled stage is a pure function of the module's weights and its arguments: weights are handed to it at every call,
so that one that is loaded, trained, cast or quantised afterwards counts at once. MLX keeps one graph for each set of
shapes, as long as the module lives.
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
    """Whether stages run compiled now. The one rule; asked at every call, replaceable in tests.

    Not on the CPU: MLX would start the machine's C++ compiler, and the longest chain there, GELU, is faster in pieces
    that fit the cache (``layers.gelu``). Not while the ops are listed or recorded: a compiled stage calls them once.
    """
    return mx.default_device().type == mx.gpu and not is_watched()


def compiled(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a method of a module: compiled where ``compiles`` says so.

    Its arguments are arrays, constants (int, float, str, None) and trees of them; its result is a tree of arrays. It
    must not depend on anything else that changes. A nested one is part of the outer one.
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
        return functions.of(method)(module, _ways(), *args)
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
    """A method as a function of the module's weights. It runs once for each set of shapes, to be traced."""

    def function(weights: dict[str, Any], ways: str, *args: Any) -> Any:
        return method(_holding(_called.get(), weights), *args)

    return function


def _holding(part: Any, weights: Any) -> Any:
    """A copy of a module, or of a part of its tree, with these weights: the module itself is left alone, so that
    neither an error nor another thread finds what belongs to the trace in it."""
    if isinstance(part, dict):
        twin = copy.copy(part)
        for name, value in weights.items():
            twin[name] = _holding(part[name], value)
        return twin
    if isinstance(part, list):
        return [_holding(p, w) for p, w in zip(part, weights, strict=True)]
    return weights


def _ways() -> str:
    """What the ops ask for at every call: a graph is made for each."""
    return f"{rules.metal_allowed()} {rules.metal_forced()}"

"""timm without torchvision, whose wheel of PyPI does not load beside every torch. Models of timm never call it.

While timm is imported an empty package answers for torchvision; afterwards nobody sees it.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

REASON = "needs timm: pip install --no-deps timm"


class _Nothing(types.ModuleType):
    """A module in which every public name is a class of its own."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"BILINEAR": 0, "BICUBIC": 1, "LANCZOS": 2, "NEAREST": 3, "BOX": 4, "HAMMING": 5})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        found = name.partition(".")[0] == "torchvision"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if found else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Nothing(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def import_timm() -> None:
    """Import timm, or skip the module that asks; transformers then builds its EdgeTAM."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip(REASON, allow_module_level=True)
    from transformers import utils

    # transformers takes timm for missing where torchvision is
    utils.is_timm_available = utils.import_utils.is_timm_available = lambda: True
    utils.import_utils.BACKENDS_MAPPING["timm"] = (lambda: True, "")
    with without_torchvision():
        importlib.import_module("timm.models.repvit")
        importlib.import_module("transformers.models.timm_wrapper.modeling_timm_wrapper")


@contextmanager
def without_torchvision() -> Iterator[None]:
    """An empty package answers for torchvision where there is none."""
    finder = _Finder()
    sys.meta_path.append(finder)  # last: a torchvision that is there is taken
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, _Nothing)]:
            del sys.modules[name]

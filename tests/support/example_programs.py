"""The programs in examples/, imported or run as their users run them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
COFFEE = EXAMPLES / "coffee.jpg"
WAIT = 60  # seconds after which a test that hangs fails


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def run_example(name: str, *args: Any, stdin: str = "", path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=str(EXAMPLES.parent))
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, args)],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * WAIT,
        check=False,
    )

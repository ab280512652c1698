"""Commands in tests: in a process of their own, as users run them, or in this one, which is quicker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def environment(**env: str) -> dict[str, str]:
    """This one, offline, and without MLX's advice about a missing BLAS, which would be another line on stderr."""
    return {**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **env}


def run_command(name: str, *args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """``python -m mlx_sam2.NAME`` in a process of its own."""
    call = [sys.executable, "-m", f"mlx_sam2.{name}", *map(str, args)]
    return subprocess.run(call, capture_output=True, text=True, check=False, cwd=cwd, env=environment(**env))


def call_main(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], *args: object
) -> tuple[int, str, str]:
    """A command's ``main`` in this process: exit code, stdout, stderr."""
    try:
        code = main([str(a) for a in args])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err

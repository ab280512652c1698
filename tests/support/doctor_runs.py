"""The doctor, run in a process of its own or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_sam2.doctor import command as doctor

ROOT = Path(__file__).parents[2]
NO_METAL = pytest.mark.skipif(mx.metal.is_available(), reason="this machine has Metal: the doctor measures there")


def run(*args: object, code: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own; MLX's advice about a missing BLAS would be another line on stderr."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "MLX_ENABLE_TF32"}
    environment = {**kept, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **env}
    start = ["-m", "mlx_sam2.doctor"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *map(str, args)], capture_output=True, text=True, check=False, env=environment
    )


def main(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = doctor.main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err

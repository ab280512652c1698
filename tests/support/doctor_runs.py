"""The doctor, run in a process of its own or in this one."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_sam2.doctor import command as doctor
from processes import environment

NO_METAL = pytest.mark.skipif(mx.metal.is_available(), reason="this machine has Metal: the doctor measures there")


def run(*args: object, code: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, without what this environment says of the Hub and of float32 products."""
    kept = {k: v for k, v in environment().items() if not k.startswith("HF_") and k != "MLX_ENABLE_TF32"}
    start = ["-m", "mlx_sam2.doctor"] if code is None else ["-c", code]
    call = [sys.executable, *start, *map(str, args)]
    given = {**kept, "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run(call, capture_output=True, text=True, check=False, env=given)


def main(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = doctor.main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err

"""``python -m mlx_sam2.app`` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from app_machine import SLOW


class Running:
    """The command in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], temporary: Path) -> None:
        self.process = process
        self.temporary = temporary
        self.line = process.stdout.readline()
        found = re.search(r"http://\S+", self.line)
        assert found, (self.line, process.stderr.read())
        self.url, _, self.fragment = found[0].partition("#")

    def state(self) -> dict[str, Any]:
        return httpx.get(self.url + "api/state", timeout=SLOW).json()

    def end(self, signum: int) -> int:
        self.process.send_signal(signum)
        return self.process.wait(SLOW)


@contextmanager
def command(model: str, folder: Path, *args: str) -> Iterator[Running]:
    temporary = folder / "temporary"
    temporary.mkdir(parents=True, exist_ok=True)
    call = [sys.executable, "-m", "mlx_sam2.app", "--model", model, "--no-browser", *args]
    if "--port" not in args:
        call += ["--port", "0"]
    process = subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "MLX_SAM2_APP_DATA": str(folder / "data")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield Running(process, temporary)
    finally:
        process.kill()
        process.communicate()

"""Two sides that do the same work in turn, each in a process of its own.

Both are started with the same environment and live as long as the comparison: A, B, A, B, ... A ratio is ours over the
peer's, of neighbouring runs. The median of the ratios is reported: a machine that slows down meanwhile changes it
little.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import mlx_sam2
from sides import NEEDS

PEERS = tuple(NEEDS)
ON_MLX = ("mlx-sam",)
INSTALL = {
    "mlx-sam": "pip install --ignore-requires-python --no-deps mlx-sam==0.3.0 opencv-python-headless",
    "transformers": "pip install torch transformers",
    "sam2": "pip install torch sam2",
}
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MLX_SAM2_BLAS", "MLX_ENABLE_TF32")
PACKAGE, TOOLS = Path(mlx_sam2.__file__).parent, Path(__file__).parent
# Imports this package by its path, because its folder may hold another numpy and MLX than the interpreter of the peer.
# It comes before MLX, so that a peer's products run in the same BLAS as ours.
_START = """
import importlib.util, sys
folder, tools = sys.argv.pop(1), sys.argv.pop(1)
spec = importlib.util.spec_from_file_location("mlx_sam2", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["mlx_sam2"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
sys.path.insert(0, tools)
from serve import main
main()
"""


class PeerMissing(ValueError):
    """The peer is not installed where it was looked for."""


@dataclass
class Worker:
    """One side, running."""

    name: str
    process: subprocess.Popen[str]
    errors: IO[bytes]
    about: dict[str, Any]

    def ask(self, do: str, stage: str, **more: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: the process ended instead, with the last line that it wrote.
        """
        try:
            print(json.dumps({"do": do, "stage": stage, **more}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended(stage) from None
        return self.answer(stage)

    def answer(self, stage: str) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise self._ended(stage)
        return json.loads(line)

    def _ended(self, stage: str) -> RuntimeError:
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else f"it was ended with code {code}, perhaps for want of memory"
        return RuntimeError(f"{self.name}, {stage}: {why}")


@contextmanager
def worker(side: str, spec: dict[str, Any], python: str) -> Iterator[Worker]:
    """Start a side.

    Args:
        side: "ours" or the name of a peer.
        spec: size, model, config (as ``SAM2Config.to_dict``), dtype, compile.
        python: the interpreter.

    Raises:
        PeerMissing: the interpreter lacks the package.
        ValueError: the interpreter cannot be started.
    """
    arguments = [python, "-c", _START, str(PACKAGE), str(TOOLS), json.dumps({**spec, "side": side})]
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        except OSError as error:
            raise ValueError(f"--peer-python {python!r}: {error.strerror}; name a Python interpreter") from None
        try:
            started = Worker(side, process, errors, {})
            started.about = started.answer("start")
            if "missing" in started.about:
                where = "" if python == sys.executable else f" for {python}"
                lacks = "" if started.about["missing"] == NEEDS.get(side) else f" (it lacks {started.about['missing']})"
                raise PeerMissing(f"{side} is not installed{where}{lacks}: {INSTALL.get(side, 'pip install mlx-sam2')}")
            yield started
        finally:
            process.kill()
            process.communicate()


@contextmanager
def pair(peer: str, spec: dict[str, Any], peer_python: str | None) -> Iterator[tuple[Worker, Worker]]:
    """Start our side and a peer's. Both run in the same interpreter, on the same MLX, if the peer runs on MLX."""
    python = peer_python or sys.executable
    with ExitStack() as stack:
        other = stack.enter_context(worker(peer, spec, python))
        mine = stack.enter_context(worker("ours", spec, python if peer in ON_MLX else sys.executable))
        yield mine, other


def compare(a: tuple[Worker, str], b: tuple[Worker, str], repeat: int, warm_up: bool = True) -> dict[str, Any] | None:
    """Run two stages in turn, each by a worker, after one run each to warm up; None if a side lacks its stage.

    Returns:
        Medians in milliseconds and largest peaks in MB of both, the median of the ratios a / b, and all ratios.
    """
    sides = (a, b)
    answers = [worker.ask("prepare", stage, warm_up=warm_up) for worker, stage in sides]
    if any("missing" in answer for answer in answers):
        return None
    rounds = [[worker.ask("time", stage) for worker, stage in sides] for _ in range(repeat)]
    for worker, stage in sides:
        worker.ask("drop", stage)
    ratios = [mine["seconds"] / other["seconds"] for mine, other in rounds]
    result: dict[str, Any] = {"ratio": round(statistics.median(ratios), 4), "ratios": [round(r, 4) for r in ratios]}
    for i, name in enumerate(("ours", "peer")):
        result[f"{name}_ms"] = round(1e3 * statistics.median(r[i]["seconds"] for r in rounds), 3)
        peaks = [r[i]["peak_mb"] for r in rounds]
        result[f"{name}_peak_mb"] = None if None in peaks else round(max(peaks), 3)
    if None not in (result["ours_peak_mb"], result["peer_peak_mb"]):
        result["peak_ratio"] = round(result["ours_peak_mb"] / result["peer_peak_mb"], 4)
    return result


def conditions() -> dict[str, str]:
    """The environment variables that set threads and BLAS, the same for both sides."""
    return {name: os.environ[name] for name in THREADS if name in os.environ}

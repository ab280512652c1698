"""The same work by two implementations, in turn: ``python -m mlx_sam2.benchmark --peer NAME``.

Each side is a process of its own, started with the same environment, and both live as long as the comparison lasts: A,
B, A, B, ... A ratio is ours over the peer's, of neighbouring runs; what is reported is the median of the ratios, which
a machine that slows down meanwhile moves little.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .sides import NEEDS, STAGES

PEERS = tuple(NEEDS)
ON_MLX = ("mlx-sam",)
INSTALL = {
    "mlx-sam": "pip install --ignore-requires-python --no-deps mlx-sam==0.3.0 opencv-python-headless",
    "transformers": "pip install torch transformers",
    "sam2": "pip install torch sam2",
}
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MLX_SAM2_BLAS", "MLX_ENABLE_TF32")
# Imports this package, and nothing else of its folder: the other interpreter has its own numpy and MLX. It comes before
# MLX, so that a peer's products run in the same BLAS as ours.
_START = """
import importlib.util, sys
folder = sys.argv.pop(1)
spec = importlib.util.spec_from_file_location("mlx_sam2", folder + "/__init__.py", submodule_search_locations=[folder])
sys.modules["mlx_sam2"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from mlx_sam2.benchmark.sides import main
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
        """Send a request, wait for its answer.

        Raises:
            RuntimeError: the process ended instead; the last line that it wrote says why.
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
        PeerMissing: the interpreter has no such package.
        ValueError: there is no such interpreter.
    """
    arguments = [python, "-c", _START, str(Path(__file__).parents[1]), json.dumps({**spec, "side": side})]
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
    """Our side and a peer's. A peer on MLX and we run in the same interpreter, and so on the same MLX."""
    python = peer_python or sys.executable
    with ExitStack() as stack:
        other = stack.enter_context(worker(peer, spec, python))
        mine = stack.enter_context(worker("ours", spec, python if peer in ON_MLX else sys.executable))
        yield mine, other


def compare(a: tuple[Worker, str], b: tuple[Worker, str], repeat: int, warm_up: bool = True) -> dict[str, Any] | None:
    """Run two stages in turn, each by a worker, after one run each to warm up; None where a side has no such stage.

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
    """What of the environment both sides share and that matters."""
    return {name: os.environ[name] for name in THREADS if name in os.environ}


def run(peer: str, spec: dict[str, Any], peer_python: str | None, repeat: int, chip: str | None) -> dict[str, Any]:
    """Compare every stage with a peer; with a chip, the modelled times as well where the peer runs on MLX."""
    stages: dict[str, Any] = {}
    with pair(peer, spec, peer_python) as (mine, other):
        report = {"peer": peer, "ours": mine.about, "theirs": other.about, "environment": conditions()}
        for stage in STAGES:
            stages[stage] = compare((mine, stage), (other, stage), repeat)
        modelled = modelled_ratios(mine, other, chip) if chip is not None and peer in ON_MLX else {}
    return {**report, "stages": stages, "modelled": modelled}


def modelled_ratios(mine: Worker, other: Worker, chip: str) -> dict[str, Any]:
    """Modelled milliseconds of both graphs on a chip, in the dtype of the workers, and their ratio."""
    found = {}
    for stage in STAGES:
        a, b = (w.ask("model", stage, chip=chip)["milliseconds"] for w in (mine, other))
        found[stage] = {"ours_ms": round(a, 3), "peer_ms": round(b, 3), "ratio": round(a / b, 4)}
    return found


def table(report: dict[str, Any], chip: str | None) -> str:
    """The report for people."""
    peer = report["peer"]
    lines = [_about("ours", report["ours"]), _about(peer, report["theirs"]), _about("both", report["environment"]), ""]
    lines += [f"| stage | ours ms | {peer} ms | ratio | ours peak MB | {peer} peak MB | ratio |", "|---|" + "---|" * 6]
    for name, r in report["stages"].items():
        if r is None:
            lines.append(f"| {name} | not measured | | | | | |")
            continue
        cells = [f"{r['ours_ms']:.1f}", f"{r['peer_ms']:.1f}", f"{r['ratio']:.2f}"]
        cells += [_or_nothing(r.get(key), form) for key, form in _PEAKS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if report["modelled"]:
        lines += ["", f"| modelled on {chip} | ours ms | {peer} ms | ratio |", "|---|---|---|---|"]
    for name, r in report["modelled"].items():
        lines.append(f"| {name} | {r['ours_ms']:.2f} | {r['peer_ms']:.2f} | {r['ratio']:.2f} |")
    return "\n".join(lines) + "\n"


_PEAKS: Sequence[tuple[str, str]] = (("ours_peak_mb", ".0f"), ("peer_peak_mb", ".0f"), ("peak_ratio", ".2f"))


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _about(name: str, values: dict[str, Any]) -> str:
    return f"{name}: " + (", ".join(f"{key} {value}" for key, value in values.items()) or "nothing set")

"""What all commands share: how they end."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path

import pytest

from mlx_sam2 import cli
from mlx_sam2.benchmark import command as benchmark
from mlx_sam2.doctor import command as doctor


def stop(number: int) -> int:
    os.kill(os.getpid(), number)
    return 0  # not reached: the handler runs before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command(number: int, code: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned: list[int] = []

    def run() -> int:
        try:
            return stop(number)
        finally:
            cleaned.append(number)

    assert cli.guard_output("command", run) == code
    assert cleaned == [number]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (cli.UsageError("the box\nhas no area"), 2, "the box has no area"),
        (ValueError("not a model"), 2, "not a model"),
        (RuntimeError("the Hub is away"), 1, "the Hub is away"),
        (OSError(28, "No space left on device", "m.png"), 1, "m.png: No space left on device"),
    ],
)
def test_an_error_is_a_line_and_a_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.fail("python -m mlx_sam2.x", error, "!") == code
    assert capsys.readouterr().err == f"mlx_sam2.x: error: {line}!\n"


def test_another_thread_leaves_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []
    run = threading.Thread(target=lambda: cli.guard_output("x", lambda: seen.append(signal.getsignal(15)) or 0))
    run.start()
    run.join()
    assert seen == [before]


@pytest.mark.parametrize("command", [benchmark, doctor], ids=["benchmark", "doctor"])
def test_sigterm_ends_the_instruments(command: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_run", lambda args: stop(signal.SIGTERM))
    assert command.main([]) == 143


def test_benchmark_without_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert benchmark.main(["--model", "demo", "--stages", "load", "--repeat", "1"]) == 1
    assert capsys.readouterr().err.count("\n") == 1

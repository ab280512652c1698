"""An export that is stopped, killed or given an impossible output leaves the old one or a whole new one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam2 import files
from mlx_sam2.export import command, functions

ROOT = Path(__file__).parents[2]
FILES = ["image_encoder.mlxfn", "manifest.json", "mask_decoder.mlxfn"]
COMMAND = ("--no-kernels", "--max-points", "1", "--dtype", "float32", "--overwrite")
# Runs the command, and is killed after the given number of renames; without an exchange of folders if `apart`.
KILLED = """
import os, signal, sys
from pathlib import Path
from mlx_sam2 import files
from mlx_sam2.export import main
count, apart = int(sys.argv.pop(1)), sys.argv.pop(1) == "apart"
exchange, rename, done = files._exchange, Path.rename, []
def killed(result):
    done.append(result)
    if len(done) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
files._exchange = (lambda a, b: False) if apart else (lambda a, b: killed(exchange(a, b)))
Path.rename = lambda self, target: killed(rename(self, target))
main()
"""


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def complete(folder: Path) -> str:
    """Which export a folder holds; fails if it is not whole."""
    assert sorted(os.listdir(folder)) == FILES
    manifest = manifest_of(folder)
    mx.import_function(str(folder / "mask_decoder.mlxfn"))
    return "old" if "old" in manifest else "new"


@pytest.fixture
def old(exported: Path, tmp_path: Path) -> Path:
    """An earlier export, to be overwritten."""
    folder = tmp_path / "nano"
    shutil.copytree(exported, folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest_of(folder), "old": True}))
    return folder


@pytest.mark.parametrize(("way", "count"), [("at once", 1), ("apart", 1), ("apart", 2)])
def test_overwriting_loses_nothing_when_it_is_killed(old: Path, model_folder: str, way: str, count: int) -> None:
    arguments = ["-c", KILLED, str(count), way, "--model", model_folder, "--output", str(old), *COMMAND]
    done = subprocess.run([sys.executable, *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    files.sweep(old.parent)  # as the next export into this place does first
    assert complete(old) == ("old" if (way, count) == ("apart", 1) else "new")
    assert os.listdir(old.parent) == ["nano"]


@pytest.mark.slow
def test_signals_at_any_moment(old: Path, model_folder: str) -> None:
    """Eight stops, spread over a run: Ctrl-C, SIGTERM and SIGKILL."""
    command = [sys.executable, "-m", "mlx_sam2.export", "--model", model_folder, "--output", str(old), *COMMAND]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MLX_SAM2_BLAS": "0"}
    start = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)
    seconds, random = time.perf_counter() - start, np.random.default_rng(0)
    numbers = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
    for moment, number in zip(random.uniform(0, 1.1, 8), [*numbers, *numbers, *numbers], strict=False):
        with subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            time.sleep(moment * seconds)
            process.send_signal(number)
            process.wait()
        # before the command has begun Python itself answers the signal: with a traceback, or not at all
        assert process.returncode in (0, numbers[number], -number, 1)
        files.sweep(old.parent)
        assert complete(old) == "new"
        assert os.listdir(old.parent) == ["nano"], f"after signal {number} at {moment:.2f} of the run"


def test_sigterm_ends_it_as_ctrl_c_does(model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*args: object, **kwargs: object) -> None:
        assert len(os.listdir(tmp_path)) == 1  # half-written
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(functions, "export", export)
    assert command.main(["--model", model_folder, "--output", str(tmp_path / "nano")]) == 143
    assert os.listdir(tmp_path) == []


# ---- outputs that cannot be


def test_an_output_that_is_no_place(model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    for output, message in (
        ("pipe", f"{tmp_path}/pipe exists"),
        ("pipe/nano", f"{tmp_path}/pipe is not a folder"),
        ("file/deep/nano", f"{tmp_path}/file is not a folder"),
    ):
        assert command.main(["--model", model_folder, "--output", str(tmp_path / output)]) == 2
        assert message in capsys.readouterr().err
    assert command.main(["--model", model_folder, "--output", str(tmp_path / "pipe"), "--overwrite"]) == 2
    assert "is not what an export wrote" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


def test_a_read_only_place(
    model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", model_folder, "--no-kernels", "--max-points", "1"]
    if sys.platform == "linux":  # nobody makes folders there
        assert command.main([*arguments, "--output", "/proc/nano"]) in (1, 2)
        assert capsys.readouterr().err.startswith("mlx_sam2.export: error: /proc")
    monkeypatch.setattr(os, "access", lambda *args: False)  # root may write everywhere
    assert command.main([*arguments, "--output", str(tmp_path / "new" / "nano")]) == 2
    assert capsys.readouterr().err == (
        f"mlx_sam2.export: error: {tmp_path} cannot be written to: give --output another place\n"
    )
    assert os.listdir(tmp_path) == []


def test_without_a_temporary_folder(model_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    folder = tmp_path / "nano"
    assert command.main(["--model", model_folder, "--output", str(folder), "--no-kernels", "--max-points", "1"]) == 0
    assert sorted(os.listdir(folder)) == FILES


def test_the_finders_file_is_no_hindrance(old: Path, model_folder: str) -> None:
    (old / ".DS_Store").touch()
    assert command.main(["--model", model_folder, "--output", str(old), *COMMAND]) == 0
    assert complete(old) == "new"

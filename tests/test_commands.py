"""The commands as users find and call them: by module, by one program, by a program each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_sam2
from mlx_sam2.__main__ import COMMANDS

ROOT = Path(mlx_sam2.__file__).parents[1]
SCRIPTS = dict(
    re.findall(
        r'^"?([\w.-]+)"? = "([\w.]+:main)"$',
        (ROOT / "pyproject.toml").read_text().partition("[project.scripts]\n")[2].partition("\n\n")[0],
        re.MULTILINE,
    )
)


def run(*args: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, env=environment, **options)


def script(name: str, folder: Path) -> Path:
    """The program that pip makes of a line of [project.scripts]."""
    module, function = SCRIPTS[name].split(":")
    path = folder / name
    path.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return path


def test_every_command_is_listed_and_has_its_program() -> None:
    folders = {path.parent.name for path in (ROOT / "mlx_sam2").glob("*/__main__.py")}
    assert folders == set(COMMANDS)
    assert set(SCRIPTS) == {"mlx-sam2", *(f"mlx_sam2.{name}" for name in COMMANDS)}


@pytest.mark.parametrize("args", [[], ["--help"]], ids=["nothing", "help"])
def test_the_list_has_a_line_each(args: list[str]) -> None:
    done = run("-m", "mlx_sam2", *args)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m mlx_sam2 COMMAND")
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", done.stdout, re.MULTILINE)
    assert run("-m", "mlx_sam2", "--version").stdout == f"mlx-sam2 {mlx_sam2.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_usage_and_errors_show_how_a_command_was_called(name: str, tmp_path: Path) -> None:
    ways = {
        f"python -m mlx_sam2.{name}": ["-m", f"mlx_sam2.{name}"],
        f"python -m mlx_sam2 {name}": ["-m", "mlx_sam2", name],
        f"mlx-sam2 {name}": [script("mlx-sam2", tmp_path), name],
        f"mlx_sam2.{name}": [script(f"mlx_sam2.{name}", tmp_path)],
    }
    for called, args in ways.items():
        done = run(*args, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"usage: {called} [-h]")
        examples = re.findall(rf"(?:python -m )?mlx.sam2[. ]{name}\b", done.stdout)
        assert set(examples) == {called}
        wrong = run(*args, "--no-such-option")
        assert (wrong.returncode, wrong.stdout) == (2, "")
        assert wrong.stderr.startswith(f"{called.removeprefix('python -m ')}: error: ")


def test_a_command_that_there_is_not() -> None:
    done = run("-m", "mlx_sam2", "segments", "photo.jpg")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mlx_sam2: error: there is no command 'segments': use segment, track, ")
    assert done.stderr.count("\n") == 1


def test_a_photo_through_the_one_program(tmp_path: Path) -> None:
    program = script("mlx-sam2", tmp_path)
    photo = ROOT / "examples" / "coffee.jpg"
    done = run(program, "segment", photo, "--point", "290,150", "--model", "demo", "--output", "m.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    again = run(program, "segment", photo, "--point", "290,150", "--model", "demo", "--output", "m.png", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr.startswith("mlx-sam2 segment: error: m.png exists")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_output_that_cannot_be_written_takes_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "mlx_sam2"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    line = "mlx_sam2: error: cannot write to standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_a_reader_that_has_gone_takes_no_line() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "mlx_sam2"], stdout=gone, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert (done.returncode, done.stderr) == (1, "")

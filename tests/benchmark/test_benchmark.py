"""The benchmark runs every stage and ends with one line of JSON. What it measures is nobody's test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_sam2.checkpoint import loading
from mlx_sam2.model.sam2 import SAM2


def run(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlx_sam2.benchmark", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(nano_model: SAM2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("benchmark") / "nano"
    loading.save(nano_model, path)
    return path


@pytest.mark.slow
def test_a_table_and_one_line_of_json(folder: Path) -> None:
    done = run("--model", str(folder), "--repeat", "1", "--stages", "load", "image", "start-up")
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.strip().splitlines()
    report = json.loads(last)
    assert report["dtype"] == "float32" and report["machine"]["mlx"]
    stages = report["stages"]
    assert {"load", "image encode", "first click", "further click", "segment --help"} <= stages.keys()
    for name, stage in stages.items():
        assert 0 < stage["min_ms"] <= stage["median_ms"] <= stage["max_ms"]
        assert sum(line.startswith(f"| {name} |") for line in table) == 1
    weights = (folder / "model.safetensors").stat().st_size / 1e6
    assert stages["load"]["peak_mb"] >= weights  # of a process that holds them
    assert stages["first click"]["max_ms"] > stages["further click"]["min_ms"]  # it encodes as well


@pytest.mark.slow
def test_json_alone(folder: Path) -> None:
    done = run("--model", str(folder), "--repeat", "1", "--stages", "video", "--json", "--chip", "M2 Max")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout)["stages"]  # nothing but the line
    one, many = stages["tracked frame, 1 object"], stages["tracked frame, 16 objects"]
    assert 0 < one["modelled_minimum_ms"] < one["modelled_milliseconds"] < many["modelled_milliseconds"]
    assert 14 < many["modelled_gflop"] / one["modelled_gflop"] < 16.5  # the frame is shared, the objects are not
    assert {"tracked frame, 1 object", "tracked frame, 16 objects"} <= stages.keys()
    assert stages["tracked frame, 16 objects"]["peak_mb"] > stages["tracked frame, 1 object"]["peak_mb"]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("--size", "huge"), "'huge' is none of the published sizes"),
        (("--chip", "M99"), "'M99' is none of those known: M1, M1 Pro"),
        (("--repeat", "0"), "'0' is not a whole number from 1 up"),
        (("--stages", "lunch"), "invalid choice: 'lunch'"),
    ],
)
def test_bad_options(args: tuple[str, ...], complaint: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert complaint in done.stderr and len(done.stderr.splitlines()) == 1

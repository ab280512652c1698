"""The command: what it prints and writes, what it refuses, and a run that is killed for good."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import cells
from mlx_sam2.finetune import Arguments, main
from mlx_sam2.finetune.command import build_parser, read_settings
from mlx_sam2.segment import main as segment

QUICK = ["--model", "demo", "--set", "corrections=1", "--set", "evaluated=4", "--set", "evaluate_every=2"]
TUNED = ["--model", "demo", "--adapter"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cells.write_cells(tmp_path_factory.mktemp("cells") / "data", 4)


@pytest.mark.slow
def test_from_photos_to_a_tuned_model(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, preview = tmp_path / "tuned", tmp_path / "preview.png"
    words = [str(data), "--output", str(out), "--preview", str(preview), "--steps", "3", *QUICK]
    assert main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "folder: 4 photos, 4 annotated frames"
    assert [line.split(":")[0] for line in shown[5:-1]] == ["step 0", "step 2", "step 3"]
    assert shown[4].startswith("memory: about 0.")
    assert "peak memory" in shown[-1]
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter.safetensors", "curves.png", "log.jsonl", "settings.yaml", "state.safetensors",
    ]  # fmt: skip
    kinds = [json.loads(line)["kind"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert kinds == ["evaluation", "step", "step", "evaluation", "step", "evaluation", "end"]
    assert Image.open(out / "curves.png").size == (900, 340)
    assert Image.open(preview).size == (960, 960)
    photo = next((data / "images").iterdir())
    mask = tmp_path / "mask.png"
    assert segment([str(photo), "--point", "128,128", *TUNED, str(out), "--output", str(mask)]) == 0
    assert main([str(data), "--output", str(out), *QUICK]) == 2
    assert "exists already" in capsys.readouterr().err


def test_checking_and_showing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(data), "--check"]) == 0
    assert "4 photos" in capsys.readouterr().out
    assert main(["--show-settings", "--preset", "lora", "--set", "rate=3e-5"]) == 0
    shown = capsys.readouterr().out
    assert "preset: lora\n" in shown
    assert "rate: 3.0e-05\n" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give DATA"),
        (["DATA"], "give --output"),
        (["DATA", "--check", "--resume"], "--resume needs --output"),
        (["DATA", "--output", "new", "--resume"], "there is no run in"),
        (["DATA", "--output", "new", "--set", "steps"], "give NAME=VALUE"),
        (["DATA", "--output", "new", "--set", "no=1"], "there is no setting no"),
        (["DATA", "--output", "new", "--preset", "all"], "one of decoder, lora, memory, full"),
        (["DATA", "--output", "new", "--settings", "none.yaml"], "cannot read none.yaml"),
        (["DATA", "--preview", "mine.png", "--model", "demo"], "mine.png exists: give another name"),
        (["DATA", "--preview", "new.jpg", "--model", "demo"], "its name must end in .png"),
        (["DATA", "--preview", "new/a.png", "--model", "demo"], "there is no folder new"),
        (["DATA", "--output", "new", "--set", "rate=nan"], "it must be from 0 to 1"),
        (["DATA", "--output", "new", "--set", "compute=float16"], "without loss scaling; give bfloat16"),
        (["none", "--output", "new"], "there is no data set none"),
        (["DATA", "--output", "new", "--preset", "memory", "--model", "demo"], "this data set has photos"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(
    words: list[str], message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.png").write_text("a photo")
    assert main([str(data) if word == "DATA" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]
    assert (tmp_path / "mine.png").read_text() == "a photo"


def test_data_that_cannot_be_trained_on_is_refused_before_a_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(data, bad)
    photos, masks = (sorted((bad / name).iterdir()) for name in ("images", "masks"))
    photos[0].write_bytes(b"no picture")
    Image.new("L", (9, 9), 255).save(masks[1])
    Image.new("L", (256, 256)).save(masks[2])
    words = [str(bad), "--output", str(tmp_path / "out"), "--model", "demo"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "bad cannot be trained on: cannot be read (1): cells_000" in error
    assert "mask of another size (1): cells_001, object 1: 9x9: repair or remove" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    empty = tmp_path / "empty"
    shutil.copytree(data, empty)
    for mask in (empty / "masks").iterdir():
        Image.new("L", (256, 256)).save(mask)
    assert main([str(empty), *words[1:]]) == 2
    error = capsys.readouterr().err
    assert "none of 3 items is a photo with an object" in error
    assert len(error.splitlines()) == 1


def test_a_run_goes_on_with_its_own_model_only(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.yaml").write_text(Arguments(model="demo", steps=3).to_yaml())
    words = [str(data), "--output", str(tmp_path), "--resume"]
    assert main([*words, "--model", "tiny"]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path} holds a run of --model demo, not tiny: leave out --model" in error
    assert len(error.splitlines()) == 1
    args = build_parser().parse_args(words)
    assert read_settings(args).model == args.model == "demo"
    plain = build_parser().parse_args([str(data)])
    read_settings(plain)
    assert plain.model == "base_plus"


@pytest.mark.slow
def test_killed_for_good_and_resumed(data: Path, tmp_path: Path) -> None:
    """Killed (SIGKILL) at five moments: the adapter is that of an undisturbed run, byte for byte."""
    settings = ["--steps", "8", *QUICK, "--set", "save_every=2"]
    command = [sys.executable, "-m", "mlx_sam2.finetune", str(data)]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, "--output", str(whole), *settings], check=True, capture_output=True)
    for lines in (2, 4, 5, 8, 10):
        words = ["--resume"] if broken.exists() else settings
        process = subprocess.Popen([*command, "--output", str(broken), *words], stdout=subprocess.DEVNULL)
        log = broken / "log.jsonl"
        while process.poll() is None and not (log.is_file() and len(log.read_text().splitlines()) >= lines):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--output", str(broken), "--resume"], check=True, capture_output=True)
    assert (whole / "adapter.safetensors").read_bytes() == (broken / "adapter.safetensors").read_bytes()
    states = [load_file(out / "state.safetensors") for out in (whole, broken)]
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(value, states[1][name]) for name, value in states[0].items())
    keys = ("kind", "step", "loss", "iou_1")
    logs = [[json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (whole, broken)]
    assert [[line.get(key) for key in keys] for line in logs[0]] == [
        [line.get(key) for key in keys] for line in logs[1]
    ]


def test_scenes_of_cells_are_the_same_for_a_seed() -> None:
    once, again = cells.make_cells(3), cells.make_cells(3)
    assert np.array_equal(once[0], again[0])
    assert once[1].max() > 10

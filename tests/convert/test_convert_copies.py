"""``--weights-key`` of the commands: which of several copies of the weights in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import synthetic
from checkpoint_files import write_torch
from convert_runs import Sources, refused, run
from mlx_sam2.checkpoint import key_map
from processes import ROOT
from synthetic import nano_state

NAME = "sam_mask_decoder.iou_token.weight"


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trainer's file: the weights, and their average."""
    state = nano_state()
    average = {name: value + np.float32(0.5) for name, value in state.items()}
    top = {"model": state, "ema_state_dict": {f"module.{name}": value for name, value in average.items()}, "epoch": 3}
    return write_torch(tmp_path_factory.mktemp("several") / "last.pt", top, None)


@pytest.mark.slow
def test_the_copy_is_told_and_chosen(sources: Sources, several: Path, tmp_path: Path) -> None:
    """One line on stderr; the copy stands in config.json, so that --verify compares with it."""
    options = ["--hf-path", several, "--config", sources.folder / "nano.json", "--dtype", "float32"]
    ran = run(*options, "--mlx-path", tmp_path / "a")
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == (
        f"mlx_sam2.convert: note: {several} holds 2 copies of the weights (model, ema_state_dict): model is taken; "
        "weights_key= (--weights-key) chooses\n"
    )
    ran = run(*options, "--mlx-path", tmp_path / "b", "--weights-key", "ema_state_dict")
    assert (ran.returncode, ran.stderr) == (0, "")
    for folder, added in (("a", 0), ("b", 0.5)):
        weights = mx.load(str(tmp_path / folder / "model.safetensors"))
        expected = nano_state()[NAME] + np.float32(added)
        assert np.array_equal(np.array(weights[NAME]), expected), folder
        assert key_map.mlx_axes(NAME) is None
    said = json.loads((tmp_path / "b" / "config.json").read_text())["mlx_sam2"]["source"]
    assert said["weights_key"] == "ema_state_dict"
    ran = run("--verify", tmp_path / "b", "--hf-path", several)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "every tensor is what converting" in ran.stdout
    ran = run("--verify", tmp_path / "b", "--hf-path", several, "--weights-key", "model")
    assert ran.returncode == 1
    assert "is not what converting" in ran.stderr


def test_a_key_that_is_not_there(
    sources: Sources, several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--hf-path", several, "--config", sources.folder / "nano.json", "--mlx-path", tmp_path / "x"]
    said = refused(capsys, *options, "--weights-key", "swa")
    assert "no copy of the weights is called weights_key='swa'; it holds model, ema_state_dict" in said
    assert list(tmp_path.iterdir()) == []
    said = refused(capsys, "--mlx-path", tmp_path, "--upload-repo", "a/b", "--weights-key", "ema")
    assert "--weights-key needs --hf-path" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("segment", ["photo.png", "--point", "60,60"]),
        ("segment", ["photo.png", "--everything", "--points-per-side", "2"]),
        ("track", ["frames", "--point", "60,60", "--output", "masks"]),
        ("export", ["--output", "out"]),
    ],
)
def test_every_command_takes_it(several: Path, tmp_path: Path, command: str, options: list[str]) -> None:
    """The folder of a fine-tuned model, with its configuration."""
    model = tmp_path / "tuned"
    model.mkdir()
    os.link(several, model / "last.pt")
    (model / "config.json").write_text(json.dumps(synthetic.config_dict()))
    (tmp_path / "frames").mkdir()
    for name in ("photo.png", "frames/0.jpg", "frames/1.jpg"):
        Image.fromarray(synthetic.picture(120, 160)).save(tmp_path / name)
    environment = {**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}

    def ran(*more: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", f"mlx_sam2.{command}", *options, "--model", str(model), *more, "--overwrite"]
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = ran()
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if "copies of the weights" in line]
    assert len(notes) == 1
    assert notes[0].startswith(f"mlx_sam2.{command}: note: {model} holds 2 copies of the weights")
    assert "--weights-key" in notes[0]
    done = ran("--weights-key", "ema_state_dict")
    assert done.returncode == 0, done.stderr
    assert "copies of the weights" not in done.stderr
    done = ran("--weights-key", "swa")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no copy of the weights is called weights_key='swa'" in done.stderr

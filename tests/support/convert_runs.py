"""The command ``convert`` in tests: sources in every layout, how to call it, and what it should write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import synthetic
from checkpoint_files import transformers_config, write_torch, write_transformers
from mlx_sam2.checkpoint import loading
from mlx_sam2.convert import command as convert
from mlx_sam2.model import quantization
from mlx_sam2.model.quantization import Scheme
from processes import call_main, environment, run_command
from synthetic import config_dict, nano_state

FORMATS = {
    "fp32": ["--dtype", "float32"],
    "fp16": [],
    "bf16": ["--dtype", "bfloat16"],
    "8bit": ["-q"],
    "4bit": ["-q", "--q-bits", "4", "--q-group-size", "32", "--dtype", "bfloat16"],
}
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "8bit": "float16", "4bit": "bfloat16"}
SCHEMES = {"8bit": Scheme(64, 8), "4bit": Scheme(32, 4)}


class Sources:
    """The same weights in the three layouts, with the options that the command needs for each."""

    def __init__(self, folder: Path) -> None:
        config = transformers_config() | {"dtype": "float32"}
        (folder / "nano.json").write_text(json.dumps(config_dict()))
        loading.save(synthetic.nano_model(), folder / "ours")
        self.folder = folder
        self.paths = {
            "official": write_torch(folder / "nano.pt", nano_state()),
            "transformers": write_transformers(folder / "hf", nano_state(), config),
            "mlx": folder / "ours",
        }

    def options(self, layout: str) -> list[str]:
        config = ["--config", str(self.folder / "nano.json")] if layout == "official" else []
        return ["--hf-path", str(self.paths[layout]), *config]


def run(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return run_command("convert", *args, cwd=cwd, **env)


def command(*args: object, cwd: Path | None = None, **env: str) -> dict:
    """What ``subprocess`` takes to start it."""
    return {"args": [sys.executable, "-m", "mlx_sam2.convert", *map(str, args)], "cwd": cwd, "env": environment(**env)}


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    return call_main(convert.main, capsys, *args)


def done(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    code, out, err = call(capsys, *args)
    assert (code, err) == (0, ""), err
    return out


def refused(capsys: pytest.CaptureFixture[str], *args: object, code: int = 2) -> str:
    found, out, err = call(capsys, *args)
    assert (found, out) == (code, ""), out
    assert err.startswith("mlx_sam2.convert: error: ")
    assert err.count("\n") == 1
    return err


def expected_weights(precision: str) -> dict[str, mx.array]:
    """What a folder of this precision holds, by way of numpy and ``nn.quantize`` alone."""
    model = synthetic.nano_model()
    dtype = loading.DTYPES[DTYPES[precision]]
    weights = {k: v.astype(dtype) for k, v in tree_flatten(model.parameters()) if k not in loading.KEPT_FLOAT32}
    model.load_weights(list(weights.items()), strict=False)
    if precision in SCHEMES:
        quantization.quantize(model, quantization.plan(model, SCHEMES[precision])[0])
    return dict(tree_flatten(model.parameters()))


def assert_same(found: dict[str, mx.array], expected: dict[str, mx.array]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape), key
        assert mx.array_equal(found[key], value).item(), key

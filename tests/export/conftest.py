"""An export of the nano model, shared by the tests of this folder."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import pytest

import synthetic
from mlx_sam2.checkpoint import loading
from mlx_sam2.export import command


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "nano"
    loading.save(synthetic.nano_model(), folder)
    return str(folder)


@pytest.fixture(scope="session")
def exported(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "nested" / "nano"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):  # in this process, on the CPU on a Mac, too
        arguments = ["--model", model_folder, "--output", str(folder), "--no-kernels", "--max-points", "3"]
        assert command.main([*arguments, "--dtype", "float32"]) == 0
    assert err.getvalue() == ""
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().endswith("manifest.json; float32, no calls of Metal kernels\n")
    assert sorted(os.listdir(folder)) == ["image_encoder.mlxfn", "manifest.json", "mask_decoder.mlxfn"]
    assert os.listdir(folder.parent) == ["nano"], "something was left behind"
    return folder

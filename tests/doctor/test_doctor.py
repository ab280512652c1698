"""The doctor, run as a user runs it; what it says of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest

from doctor_runs import NO_METAL, main, run
from mlx_sam2 import machine
from mlx_sam2.doctor import examination, known_answers
from mlx_sam2.kernels import choices, rules
from processes import ROOT

# ---- as a user runs it, without Metal


@pytest.mark.slow
@NO_METAL
def test_text() -> None:
    done = run("--model", "tiny", MLX_ENABLE_TF32="0", HF_HOME="/somewhere")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "mlx_sam2 doctor"
    assert lines[-1] == "verdict: fine"
    assert "note: no Metal here: MLX's own operations take the place of the kernels" in lines
    assert any(line.split()[:2] == ["float32", "full"] for line in lines)
    assert "  variables MLX_SAM2_KERNELS unset, MLX_ENABLE_TF32 0" in lines
    assert "  Hub cache /somewhere/hub" in lines
    # the ops of SAM 2.1 tiny, without an evaluation of the model
    rows = [line.split() for line in lines if "small case" in line]
    assert ["axial_rope", "float32", "D=256"] in [row[:3] for row in rows]
    counts = {name: sum(int(row[-2]) for row in rows if row[0] == name) for name in {row[0] for row in rows}}
    blocks = 12
    layers, early, padded, four, four_padded, sixteen = 4, 4, 4, 4 + 6, 4, 7  # objects share their first self-attention
    expected = {
        "axial_memory_attention": 4 * layers,
        "axial_rope": 4 * layers + early,
        "memory_attention": 2 * layers + early + padded + four + four_padded + sixteen,
        "mask_unit_attention": blocks - 3,
        "global_attention": 3,
    }
    decoder = {"residual_layer_norm": 2, "upscaled_layer_norm": 1, "mask_logits": 1}
    assert counts == {**expected, **decoder, "shifted_layer_norm": 2 * blocks}
    assert not choices.path().exists()


@NO_METAL
def test_json(folder: str) -> None:
    done = run("--model", folder, "--json", "--dtype", "float16")
    assert (done.returncode, done.stderr) == (0, "")
    findings = json.loads(done.stdout)
    assert findings["verdict"] == "fine"
    assert findings["dtype"] == "float16"
    assert findings["float32_product"]["precision"] == "float32"
    assert findings["machine"]["mlx"] == mx.__version__
    assert findings["machine"]["packages"]["numpy"] == np.__version__
    assert (findings["stored"], findings["weights"], findings["wrong"]) == (None, None, [])
    assert {row["op"] for row in findings["ops"]} >= {"axial_rope"}
    assert all(0 < row["difference"] < 5e-3 for row in findings["ops"]), "float16 is not exact"


@pytest.mark.slow
@NO_METAL
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone brings a BLAS of its own")
def test_no_blas_is_a_note() -> None:
    done = run("--model", "tiny", MLX_SAM2_BLAS="0")
    assert "note: no OpenBLAS or MKL found" in done.stdout
    assert "  BLAS      built into MLX" in done.stdout.splitlines()


@NO_METAL
def test_a_variable_that_means_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(rules.VARIABLE, "off")
    monkeypatch.setattr(rules, "_complained", set())
    code, out, err = main(capsys, "--model", "tiny")
    assert (code, err) == (1, "")
    assert out.splitlines()[-1] == "verdict: WRONG, 1 of the checks failed"
    assert "wrong: MLX_SAM2_KERNELS='off' is ignored: it must be 0, 1 or unset" in out


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--model", "nosuch"], 2, "no model is called 'nosuch'"),
        (["--model", "/no/such/folder"], 2, "no such file or folder: /no/such/folder"),
        (["--weights", "."], 2, "."),
        (["--weights", "a/b"], 1, "a/b is not in the local cache"),
        (["--model", "tiny", "--weights", "tiny"], 2, "not allowed with"),
        (["--revision", "main"], 2, "--revision goes with --weights"),
        (["--dtype", "int8"], 2, "invalid choice"),
        (["--mod", "tiny"], 2, "unrecognized arguments"),
    ],
)
def test_bad_input(args: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "a/b" in args:  # the Hub's client reads its variables once a process
        done = run(*args)
        returned, out, err = done.returncode, done.stdout, done.stderr
    else:
        try:
            returned, out, err = main(capsys, *args)
        except SystemExit as stop:  # of the parser
            returned, (out, err) = stop.code, capsys.readouterr()
    assert (returned, out) == (code, "")
    assert err.startswith("mlx_sam2.doctor: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
@NO_METAL
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_output_that_cannot_be_written() -> None:
    environment = {**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlx_sam2.doctor", "--model", "tiny"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr == "mlx_sam2.doctor: error: cannot write to standard output: No space left on device\n"


# ---- the machine


def test_bandwidths() -> None:
    assert machine.bandwidth("Apple M1", 8) == 68.25
    assert machine.bandwidth("Apple M3 Max", 16) == 400
    assert machine.bandwidth("Apple M3 Max", 14) == 300
    assert machine.bandwidth("Apple M3 Max", 12) is None
    assert machine.bandwidth("Apple M9", 12) is None


def test_a_product_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = examination.facts()
    for error, kind in ((1e-6, "float32"), (1e-3, "reduced"), (0.5, "wrong")):
        scale = mx.array(1 + error)
        with monkeypatch.context() as patch:
            patch.setattr(examination, "PROBE_CPU", 32)
            patch.setattr(mx.array, "__matmul__", lambda a, b, s=scale: s * mx.matmul(a, b))
            product = examination.probe()
        assert product["precision"] == kind
        assert product["relative_error"] == pytest.approx(error, rel=0.3)
    wrong, _ = examination.opinions(facts, product)
    assert wrong[0].startswith("float32 products are off by 5.0e-01 of the largest value")


@NO_METAL
def test_numbers_that_json_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    """A GPU that is broken gives NaN: that is a finding, not a traceback."""
    nan = float("nan")
    answer = known_answers.Verification("nano", "sam2_hiera_tiny", (0.1, 0.2, 0.3), (nan, 0.2, float("inf")))
    monkeypatch.setattr(known_answers, "verify", lambda model, name: answer)
    monkeypatch.setattr(mx.array, "__matmul__", lambda a, b: nan * mx.matmul(a, b))
    monkeypatch.setattr(examination, "PROBE_CPU", 32)
    code, out, _ = main(capsys, "--weights", folder, "--json")
    findings = json.loads(out)
    assert (code, findings["verdict"], len(findings["wrong"])) == (1, "wrong", 3)  # and a reference that multiplies
    assert findings["float32_product"]["relative_error"] is None
    assert findings["weights"]["scores"] == [None, 0.2, None]
    assert "scores nan 0.2000 inf" in main(capsys, "--weights", folder)[1]

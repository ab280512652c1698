"""The doctor: run as a user runs it, and its measurements on kernels that are right, slow, wrong, or emulated."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

import metal
import synthetic
from checkpoint_files import write_transformers
from hub_stand_in import HubStandIn
from mlx_sam2 import machine
from mlx_sam2.checkpoint import loading
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.doctor import command as doctor
from mlx_sam2.doctor import examination, known_answers, measure
from mlx_sam2.doctor.measure import Call, Measurement
from mlx_sam2.kernels import choices, dispatch, rules
from mlx_sam2.kernels.dispatch import Op, Tensor
from mlx_sam2.model.sam2 import SAM2

ROOT = Path(__file__).parents[2]
DEAD = "http://127.0.0.1:9"
OURS = "facebook/sam2.1-hiera-tiny"
NO_METAL = pytest.mark.skipif(mx.metal.is_available(), reason="this machine has Metal: the doctor measures there")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv(choices.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(rules.VARIABLE, raising=False)
    choices.forget()
    dispatch.forget_checks()
    yield
    choices.forget()
    dispatch.forget_checks()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "nano"
    loading.save(synthetic.nano_model(), path)
    return str(path)


def run(*args: object, code: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own; MLX's advice about a missing BLAS would be another line on stderr."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "MLX_ENABLE_TF32"}
    environment = {**kept, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **env}
    start = ["-m", "mlx_sam2.doctor"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *start, *map(str, args)], capture_output=True, text=True, check=False, env=environment
    )


# ---- as a user runs it, without Metal


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
    expected = {"axial_rope": 4 * 4, "memory_attention": 4 * 2, "mask_unit_attention": blocks - 3}
    assert counts == {**expected, "shifted_layer_norm": 2 * blocks}
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
def test_bad_input(args: list[str], code: int, message: str) -> None:
    done = run(*args)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("mlx_sam2.doctor: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@NO_METAL
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_output_that_cannot_be_written() -> None:
    environment = {**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mlx_sam2.doctor", "--model", "tiny"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr == "mlx_sam2.doctor: error: cannot write to standard output: No space left on device\n"


# ---- known answers

# what a machine with the true weights would print, for weights that we have: their own scores are the expected ones
WITH_ANSWERS = """
import sys
from mlx_sam2.doctor import command, known_answers
known_answers.variant_of = lambda config: "sam2.1_hiera_tiny"
known_answers.SCORES = {"sam2.1_hiera_tiny": tuple(map(float, sys.argv.pop().split(",")))}
known_answers.CLICK = (40, 30)
sys.exit(command.main())
"""


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("hub")
    photo = base / "photo" / known_answers.PHOTO
    photo.parent.mkdir(parents=True)
    Image.fromarray(synthetic.picture(90, 120)).save(photo)
    weights = write_transformers(base / "weights", synthetic.nano_state(), synthetic.config_dict())
    return {known_answers.PHOTO_REPO: base / "photo", OURS: weights}


@pytest.fixture(scope="module")
def scores() -> str:
    from mlx_sam2 import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(synthetic.nano_model())
    predictor.set_image(synthetic.picture(90, 120))
    return ",".join(f"{score:.4f}" for score in predictor.predict([[40, 30]], [1])[1])


def doctor_of_weights(endpoint: str, home: Path, scores: str) -> dict[str, Any]:
    arguments = ("--weights", OURS, "--json", scores)
    done = run(*arguments, code=WITH_ANSWERS, HF_ENDPOINT=endpoint, HF_HOME=str(home), HF_HUB_OFFLINE="0")
    assert done.stderr == ""
    findings = json.loads(done.stdout)
    assert findings["exit_code"] == done.returncode
    return findings


def test_weights_that_agree_differ_or_cannot_be_verified(
    repositories: dict[str, Path], scores: str, tmp_path: Path
) -> None:
    with HubStandIn(repositories) as endpoint:
        findings = doctor_of_weights(endpoint, tmp_path, scores)
        assert (findings["verdict"], findings["exit_code"]) == ("fine", 0)
        assert findings["weights"]["agrees"] is True
        expected = [float(s) for s in scores.split(",")]
        np.testing.assert_allclose(findings["weights"]["scores"], expected, rtol=0, atol=1e-4)

        reversed_order = ",".join(reversed(scores.split(",")))
        findings = doctor_of_weights(endpoint, tmp_path, reversed_order)
        assert (findings["verdict"], findings["exit_code"]) == ("wrong", 1)
        assert "the scores of facebook/sam2.1-hiera-tiny are not those of sam2.1_hiera_tiny" in findings["wrong"][0]

    findings = doctor_of_weights(DEAD, tmp_path, scores)  # both are in the cache by now
    assert findings["verdict"] == "fine"

    with HubStandIn({OURS: repositories[OURS]}) as endpoint:
        findings = doctor_of_weights(endpoint, tmp_path / "other", scores)
        assert (findings["verdict"], findings["exit_code"]) == ("not verified", 1)
        assert findings["weights"]["unverified"].startswith(
            "the photo assets/car.png of ybelkada/segment-anything is not"
        )


def test_no_network_at_all(tmp_path: Path) -> None:
    """The machine is examined all the same, and the report says that the weights were not."""
    done = run("--weights", "tiny", HF_ENDPOINT=DEAD, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="0")
    assert (done.returncode, done.stderr) == (1, "")
    assert "axial_rope" in done.stdout
    assert f"weights of tiny: NOT verified, {OURS} is not in the local cache, and {DEAD} could not be" in done.stdout
    assert done.stdout.splitlines()[-1] == "verdict: the machine is fine, but the weights were NOT verified"


def test_a_setting_of_the_hub_that_makes_no_sense() -> None:
    done = run("--model", "tiny", HF_HUB_DOWNLOAD_TIMEOUT="soon")
    assert (done.returncode, done.stderr) == (1, "")
    assert "wrong: nothing can be downloaded: " in done.stdout


@NO_METAL
def test_weights_without_published_scores(capsys: pytest.CaptureFixture[str], folder: str) -> None:
    code, out, _ = main(capsys, "--weights", folder)
    assert code == 1
    assert "NOT verified, no scores were published for a model of this configuration" in out


def test_every_published_model_is_known() -> None:
    assert known_answers.SCORES.keys() == PUBLISHED.keys()
    for name, model in PUBLISHED.items():
        assert known_answers.variant_of(model.config.with_postprocessing(True, video=True)) == name


@pytest.mark.parametrize(
    ("scores", "agrees"), [((0.1, 0.5, 0.989), True), ((0.1, 0.5, 0.96), False), ((0.1, 0.5, float("nan")), False)]
)
def test_tolerance(scores: tuple[float, ...], agrees: bool) -> None:
    assert known_answers.Verification("m", "v", (0.1, 0.5, 0.98), scores).agrees is agrees


# ---- measuring, with a clock that the ways move


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", clock)
    return clock


def call_of(clock: Clock, kernel_ms: float, mlx_ms: float, factor: float = 2, **changes: Any) -> Call:
    """Doubles 250 000 numbers: 2 MB that move."""

    def taking(ms: float, factor: float) -> Callable[[mx.array], mx.array]:
        def way(x: mx.array) -> mx.array:
            clock.now += ms / 1e3
            return factor * x if x.size > 3 else 2 * x

        return way

    op = Op(
        name="double",
        reference=taking(mlx_ms, 2),
        kernel=changes.get("kernel", taking(kernel_ms, factor)),
        supports=lambda x: changes.get("serves", True),
        variant=lambda x: "float32",
        size=lambda x: f"n={x.size}",
        check_case=lambda x: (Tensor((3,)),),
        minimum_bytes=lambda x: 2 * x.nbytes,
    )
    return Call(op, (Tensor((250_000,), mx.float32),), 5)


@pytest.mark.parametrize(("kernel_ms", "mlx_ms", "faster"), [(2.0, 3.0, True), (3.0, 2.5, False)])
def test_the_faster_way_is_chosen(clock: Clock, kernel_ms: float, mlx_ms: float, faster: bool) -> None:
    (row,) = measure.measure([call_of(clock, kernel_ms, mlx_ms)], 100.0, quick=False)
    assert row.kernel_chosen is faster
    assert row.kernel_ms == pytest.approx(kernel_ms)
    assert row.mlx_ms == pytest.approx(mlx_ms)
    assert row.megabytes == 2.0
    assert row.share == pytest.approx(2e6 / (min(kernel_ms, mlx_ms) * 1e-3) / 100e9)
    assert (row.count, row.fault, row.difference) == (5, None, 0.0)


def test_a_kernel_that_is_wrong_at_full_size_only(clock: Clock) -> None:
    (row,) = measure.measure([call_of(clock, 1.0, 2.0, factor=2.01)], None, quick=False)
    assert row.fault == "it differs from the reference by 5.0e-03 of the largest value"
    assert (row.kernel_chosen, row.kernel_ms, row.share) == (False, None, None)
    (row,) = measure.measure([call_of(clock, 1.0, 2.0, factor=2.01)], None, quick=True)
    assert row.fault is None, "--quick looks at the small case only"


def test_a_kernel_that_does_not_compile(clock: Clock) -> None:
    def kernel(x: mx.array) -> mx.array:
        raise RuntimeError("no library\nbecause")

    (row,) = measure.measure([call_of(clock, 1.0, 2.0, kernel=kernel)], None, quick=False)
    assert (row.fault, row.kernel_chosen) == ("it failed: no library", False)


@pytest.mark.parametrize("quick", [False, True])
def test_a_kernel_that_fails_at_full_size_only(clock: Clock, quick: bool) -> None:
    def kernel(x: mx.array) -> mx.array:
        if x.size > 3:
            raise ValueError("Thread group size (1024) is greater than the maximum\nmore")
        return 2 * x

    (row,) = measure.measure([call_of(clock, 1.0, 2.0, kernel=kernel)], None, quick=quick)
    assert row.fault == "it failed: Thread group size (1024) is greater than the maximum"
    assert (row.kernel_chosen, row.kernel_ms, row.mlx_ms) == (False, None, pytest.approx(2.0))


def test_a_shape_that_no_kernel_serves_is_no_fault(clock: Clock) -> None:
    (row,) = measure.measure([call_of(clock, 1.0, 2.0, serves=False)], None, quick=False)
    assert (row.served, row.fault, row.kernel_chosen, row.mlx_ms) == (False, None, False, pytest.approx(2.0))


def test_what_is_stored_for_a_variant() -> None:
    def row(size: str, kernel_ms: float | None, mlx_ms: float, count: int = 1, served: bool = True) -> Measurement:
        fast = kernel_ms is not None and kernel_ms <= mlx_ms
        return Measurement("o", "v", size, count, served, kernel_ms=kernel_ms, mlx_ms=mlx_ms, kernel_chosen=fast)

    assert measure.chosen([row("a", 1.0, 3.0), row("b", 2.0, 1.0)]) == {
        "o v": True,
        "o v a": True,
        "o v b": False,
    }
    assert measure.chosen([row("a", 1.0, 3.0), row("b", 2.0, 1.0, 3)])["o v"] is False, "three calls"
    assert measure.chosen([row("a", 1.0, 9.0), row("b", None, 1.0)])["o v"] is False, "wrong at one size"
    assert measure.chosen([row("a", None, 1.0, served=False)]) == {}


def test_references_where_products_are_those_of_tf32(clock: Clock) -> None:
    def off(x: mx.array) -> mx.array:  # first on the default device, then as the exact one
        return factors.pop(0) * x

    for reduced in (False, True):
        factors = [2.002, 2.0]
        call = call_of(clock, 1.0, 1.0)
        call = dataclasses.replace(call, op=dataclasses.replace(call.op, reference=off))
        (row,) = measure.verify_references([call], reduced)
        assert row.difference == pytest.approx(1e-3, rel=0.1)
        assert (row.fault is None) is reduced


def main(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = doctor.main(args)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def pretended_metal(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Callable[[list[Call]], None]:
    """The doctor believes in Metal, and finds these calls in any model."""

    def pretend(calls: list[Call]) -> None:
        monkeypatch.setattr(rules, "metal_allowed", lambda: True)
        monkeypatch.setattr(measure, "record", lambda model: calls)
        monkeypatch.setattr(
            examination, "probe", lambda: {"relative_error": 1e-3, "precision": "reduced", "gflop_s": 1.0}
        )
        monkeypatch.setattr(machine, "chip", lambda: "Apple M2 Max")

    return pretend


def test_the_table_and_what_is_stored(
    capsys: pytest.CaptureFixture[str], clock: Clock, pretended_metal: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = call_of(clock, 0.5, 1.0)
    pretended_metal([call])
    key = call.op.key(*call.placeholders())
    code, out, err = main(capsys, "--model", "tiny", "--no-store")
    assert (code, err) == (0, "")
    assert choices.lookup(key) is None
    code, out, err = main(capsys, "--model", "tiny")
    assert (code, err) == (0, "")
    assert choices.lookup(key) is True
    assert f"choices stored in {choices.path()}" in out.splitlines()
    lines = [line.split() for line in out.splitlines()]
    assert ["op", "shape", "calls", "difference", "kernel", "ms", "MLX", "ms", "MB", "of", "peak", "faster"] in lines
    assert ["double", "float32", "n=250000", "5", "0.0e+00", "0.500", "1.000", "2.0", "1%", "kernel"] in lines
    assert (
        "note: float32 products run in reduced precision, as TF32 does, on this GPU; MLX_ENABLE_TF32=0 restores" in out
    )
    assert "400 GB/s" in out
    pretended_metal([call_of(clock, 2.0, 1.0)])
    assert main(capsys, "--model", "tiny")[0] == 0
    assert choices.lookup(key) is False


def test_a_wrong_kernel_is_the_verdict_and_never_chosen(
    capsys: pytest.CaptureFixture[str], clock: Clock, pretended_metal: Callable
) -> None:
    call = call_of(clock, 0.1, 1.0, factor=3)
    pretended_metal([call])
    code, out, err = main(capsys, "--model", "tiny")
    assert (code, err) == (1, "")
    assert "wrong: double (float32, n=250000): it differs from the reference by 5.0e-01 of the largest value" in out
    assert out.splitlines()[-1] == "verdict: WRONG, 1 of the checks failed"
    assert choices.lookup(call.op.key(*call.placeholders())) is False


def test_choices_that_cannot_be_stored(
    capsys: pytest.CaptureFixture[str], clock: Clock, pretended_metal: Callable, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    pretended_metal([call_of(clock, 0.5, 1.0)])
    code, out, err = main(capsys, "--model", "tiny")
    assert (code, err) == (0, "")
    assert f"note: the choices could not be stored ({tmp_path / 'cache'}: File exists)" in out


@pytest.mark.slow
def test_every_op_of_a_model_in_the_emulator(
    capsys: pytest.CaptureFixture[str], nano_model: SAM2, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """The measuring, from the model to the stored choices and to what dispatch then does."""
    monkeypatch.setattr(measure, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(measure, "ROUND_SECONDS", 0.0)
    with metal.emulated("fast", forced=False) as reports:
        code, out, err = main(capsys, "--model", folder, "--quick", "--json")
    assert (code, err) == (0, "")
    rows = json.loads(out)["ops"]
    assert {row["op"] for row in rows} == {
        "axial_rope", "mask_unit_attention", "memory_attention", "shifted_layer_norm"
    }  # fmt: skip
    for row in rows:
        assert row["served"]
        assert row["fault"] is None
        assert row["difference"] < 1e-5
        assert row["kernel_ms"] > 0
        assert row["mlx_ms"] > 0
        assert sum(f"mlx_sam2_{row['op']}_" in r.name for r in reports) >= 1
        assert choices.lookup(f"{row['op']} {row['variant']} {row['size']}") is row["kernel_chosen"]
    calls = measure.record(nano_model)
    monkeypatch.setattr(rules, "metal_allowed", lambda: True)
    monkeypatch.setattr(dispatch, "check", lambda op, *args: None)
    assert [c.op.uses_kernel(*c.placeholders()) for c in calls] == [row["kernel_chosen"] for row in rows]


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
    assert (code, findings["verdict"], len(findings["wrong"])) == (1, "wrong", 2)
    assert findings["float32_product"]["relative_error"] is None
    assert findings["weights"]["scores"] == [None, 0.2, None]
    assert "scores nan 0.2000 inf" in main(capsys, "--weights", folder)[1]

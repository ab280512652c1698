"""Comparisons: both sides work in turn, ratios are ours over the peer's, bars are held. No times are asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bars as benchmark_bars
import workers
from mlx_sam2.checkpoint import loading
from mlx_sam2.machine import CHIPS
from mlx_sam2.model.sam2 import SAM2
from sides import APART, CLICK, ENCODE, STAGES, TOGETHER, TRACK

# A stand-in for mlx-sam whose work is known: one product of two SIDE x SIDE matrices wherever a stage begins.
SIDE = 256
FAKE = {
    "config.py": """
from dataclasses import dataclass, field
@dataclass
class HieraConfig:
    image_size: int = 0; embed_dim: int = 0; num_heads: int = 0; stages: tuple = (); global_att_blocks: tuple = ()
    window_spec: tuple = (); q_pool: int = 0; mlp_ratio: float = 0; pos_embed_hw: tuple = ()
@dataclass
class FpnConfig:
    d_model: int = 0; backbone_channel_list: tuple = (); fpn_top_down_levels: tuple = ()
@dataclass
class Sam2ImageEncoderConfig:
    hiera: HieraConfig = field(default_factory=HieraConfig)
    fpn: FpnConfig = field(default_factory=FpnConfig)
""",
    "models/__init__.py": "",
    "models/segmenter.py": f"""
import os, sys
assert "mlx_sam2" in sys.modules and "mlx.core" in sys.modules
import mlx.core as mx
import mlx.nn as nn
print("a peer that talks")
class Positions:
    def position_encoding(self, x):
        return mx.zeros(x.shape, x.dtype)
class Sam2ImageSegmenter(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.square = mx.ones(({SIDE}, {SIDE}))
        self._config, self.neck, self.memory_encoder = config, Positions(), Positions()
    def set_image_size(self, size):
        assert size == self._config.hiera.image_size == 256
    def _work(self, shape):
        return mx.broadcast_to((self.square @ self.square)[0, 0], shape)
    def encode_image(self, pixels):
        assert pixels.shape == (1, 3, 256, 256)
        if os.environ.get("FAKE_FAILS"):
            raise RuntimeError("out of luck")
        n, w = 16, self._config.fpn.d_model
        shapes = (1, w // 8, 4 * n, 4 * n), (1, w // 4, 2 * n, 2 * n)
        return {{"vision_features": self._work((1, w, n, n)), "high_res_features": [self._work(s) for s in shapes]}}
    def predict_from_encoded(self, encoded, points, labels, multimask_output=True, add_no_mem_embed=True):
        assert (points is None) == (not add_no_mem_embed)
        one = self._work((1, 1, 1, 1)) + encoded["vision_features"][:, :1, :1, :1]
        return {{k: one for k in ("low_res_masks", "ious", "object_score_logits", "obj_ptr")}}
    def condition_with_memories(self, encoded, memories, cond_memories, current_frame_idx):
        frames = [m["frame_idx"] for m in cond_memories + memories]
        assert frames == list(range(current_frame_idx - 16, current_frame_idx))
        assert self.memory_attention_dtype == (None if self.square.dtype == mx.float32 else "float16")
        return encoded["vision_features"][0, 0, 0, 0] * 0 + self._work(encoded["vision_features"].shape)
    def encode_memory(self, features, mask, score):
        return {{"vision_features": mask}}
""",
}


@pytest.fixture(scope="module")
def nano(nano_model: SAM2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "nano"
    loading.save(nano_model, path)
    return path


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import the stand-in from."""
    folder = tmp_path_factory.mktemp("fake")
    for name, text in FAKE.items():
        file = folder / "mlx_sam" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "mlx_sam" / "__init__.py").write_text("")
    return folder


@pytest.fixture
def absent(tmp_path: Path) -> Path:
    """A folder that hides an mlx-sam that may be installed."""
    (tmp_path / "mlx_sam.py").write_text("raise ModuleNotFoundError('none', name='mlx_sam')")
    return tmp_path


ROOT = Path(__file__).parents[2]
BARS, PEERS = (str(ROOT / "tools" / "benchmark" / name) for name in ("bars.py", "peers.py"))
MODELLED = ("-m", "mlx_sam2.benchmark", "--modelled")


def run(*args: str, path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]), "OPENBLAS_NUM_THREADS": "1", **more}
    command = [sys.executable, *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.slow
def test_every_stage_is_compared(nano: Path, fake: Path) -> None:
    args = (PEERS, "mlx-sam", "--model", str(nano), "--chip", "M2 Max", "--repeat", "2")
    done = run(*args, "--peer-python", sys.executable, path=fake)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.strip().splitlines()
    report = json.loads(last)
    assert report["ours"]["mlx"] == report["theirs"]["mlx"] and report["ours"]["blas"] == report["theirs"]["blas"]
    assert report["environment"]["OPENBLAS_NUM_THREADS"] == "1"
    assert set(report["stages"]) == set(STAGES)
    for name, stage in report["stages"].items():
        assert len(stage["ratios"]) == 2
        assert stage["peak_ratio"] == pytest.approx(stage["ours_peak_mb"] / stage["peer_peak_mb"], rel=0.1)
        assert sum(line.startswith(f"| {name} |") for line in table) == 1 + (name in report["modelled"])
    # the peer's tracked frame: two products, bound by their bytes (the same matrix twice, and the result)
    product = 2 * 4 * SIDE**2 / (CHIPS["M2 Max"].bandwidth * 1e9) * 1e3
    assert 2 * product <= report["modelled"][TRACK]["peer_ms"] + 5e-4 < 3 * product
    assert report["modelled"][TRACK]["ratio"] > 10  # a real frame is more than one small product


@pytest.mark.slow
def test_bars(nano: Path, fake: Path) -> None:
    done = run(BARS, "--model", str(nano), "--repeat", "1", path=fake)
    *table, last = done.stdout.strip().splitlines()
    report = json.loads(last)
    bars = report["bars"]
    assert len(bars) == 10
    assert [b["result"] for b in bars[:9]].count("not run") == 0 and bars[9]["result"] == "not run"  # CUDA
    assert done.returncode == (1 if any(b["result"] == "fail" for b in bars) else 0)
    for bar in bars:
        assert sum(line.startswith(f"| {bar['bar']} |") and f"| {bar['result']} |" in line for line in table) == 1
    assert bars[0]["ratio"] >= 1  # nothing costs less than the physical minimum
    measured = report["measured"]
    assert bars[2]["ratio"] == measured[ENCODE]["ratio"] and bars[4]["ratio"] == measured[CLICK]["ratio"]
    assert bars[5]["ratio"] == measured[ENCODE]["peak_ratio"] and bars[6]["ratio"] == measured[TRACK]["peak_ratio"]


@pytest.mark.slow
def test_modelled_bars_without_the_peer(nano: Path, absent: Path) -> None:
    done = run(BARS, "--modelled", "--model", str(nano), path=absent)
    *table, last = done.stdout.strip().splitlines()
    bars = json.loads(last)["bars"]
    assert [b["result"] for b in bars[1:]] == ["not run"] * 9 and bars[0]["ratio"] >= 1
    assert "pip install" in table[-2] and sum("pip install" in line for line in table) == 1
    alone = json.loads(run(*MODELLED, "--model", str(nano), "--json", path=absent).stdout)["stages"]
    encode = alone[ENCODE]
    assert bars[0]["ratio"] == pytest.approx(encode["modelled_milliseconds"] / encode["modelled_minimum_ms"], rel=0.05)
    for stage in alone.values():
        parts = stage["modelled_operations"].values()
        assert sum(p["launches"] for p in parts) == stage["modelled_launches"]
        assert sum(p["milliseconds"] for p in parts) == pytest.approx(stage["modelled_milliseconds"], abs=1e-3)


def test_a_missing_peer_is_one_line(nano: Path, absent: Path) -> None:
    done = run(PEERS, "mlx-sam", "--model", str(nano), path=absent)
    assert done.returncode == 2 and not done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert "mlx-sam is not installed: pip install" in done.stderr and "mlx-sam==0.3.0" in done.stderr


def test_a_failing_peer_is_one_line(nano: Path, fake: Path) -> None:
    done = run(PEERS, "mlx-sam", "--model", str(nano), path=fake, FAKE_FAILS="1")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"python tools/benchmark/peers.py: error: mlx-sam, {ENCODE}: RuntimeError: out of luck",
    ]


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((PEERS, "mlx-sam", "--peer-python", "/nowhere/python"), "name a Python interpreter"),
        ((PEERS, "somebody"), "invalid choice: 'somebody'"),
        ((PEERS, "mlx-sam", "--peer-compile"), "--peer-compile goes with transformers or sam2"),
        ((PEERS, "mlx-sam", "--chip", "M99"), "'M99' is none of those known: M1, M1 Pro"),
        ((BARS, "--dtype", "float16"), "unrecognized arguments: --dtype"),
        ((BARS, "--chip", "M99"), "'M99' is none of those known: M1, M1 Pro"),
        ((BARS, "--size", "huge"), "'huge' is none of the published sizes"),
        ((*MODELLED, "--stages", "load"), "--stages does not go with --modelled"),
    ],
)
def test_bad_options(args: tuple[str, ...], complaint: str, absent: Path) -> None:
    done = run(*args, path=absent)
    assert done.returncode == 2
    assert complaint in done.stderr and len(done.stderr.splitlines()) == 1


# ---- the arithmetic, on sides whose times are known


class Scripted:
    """A worker that says what it is told to."""

    def __init__(self, log: list[str], name: str, seconds: list[float], peaks: list[float | None]) -> None:
        self.log, self.name, self.turns = log, name, iter(zip(seconds, peaks, strict=True))

    def ask(self, do: str, stage: str, **more: Any) -> dict[str, Any]:
        self.log.append(f"{self.name} {do}")
        if do == "time":
            seconds, peak = next(self.turns)
            return {"seconds": seconds, "peak_mb": peak}
        return {"missing": None} if do == "prepare" and stage == "none" else {}


def test_in_turn_and_the_median_of_ratios() -> None:
    log: list[str] = []
    a = Scripted(log, "a", [1.0, 2.0, 9.0], [5.0, 7.0, 6.0])
    b = Scripted(log, "b", [2.0, 8.0, 10.0], [10.0, 14.0, 12.0])
    found = workers.compare((a, "x"), (b, "x"), 3)
    assert log == ["a prepare", "b prepare", *["a time", "b time"] * 3, "a drop", "b drop"]
    assert found["ratios"] == [0.5, 0.25, 0.9] and found["ratio"] == 0.5  # not 2.0 / 8.0, of the medians
    assert (found["ours_ms"], found["peer_ms"]) == (2000, 8000)
    assert found["peak_ratio"] == 0.5  # 7 / 14
    assert workers.compare((a, "none"), (b, "none"), 3) is None


def test_peaks_that_nobody_counts() -> None:
    found = workers.compare((Scripted([], "a", [1.0], [5.0]), "x"), (Scripted([], "b", [2.0], [None]), "x"), 1)
    assert found["ratio"] == 0.5 and found["peer_peak_mb"] is None and "peak_ratio" not in found


@pytest.mark.parametrize(
    ("ratio", "strict", "verdict"),
    [(0.99, True, "pass"), (1.0, True, "fail"), (1.0, False, "pass"), (1.01, False, "fail"), (None, False, "not run")],
)
def test_verdicts(ratio: float | None, strict: bool, verdict: str) -> None:
    assert benchmark_bars.Result("bar", 1.0, ratio, "", strict).verdict == verdict


def test_without_the_peer_its_bars_are_not_run() -> None:
    rows = benchmark_bars._against_peer({}, benchmark_bars.NOT_INSTALLED)
    assert [r.verdict for r in rows] == ["not run"] * 5
    assert all(r.remark == "mlx-sam is not installed" for r in rows)


def test_sixteen_objects_are_held_against_sixteen_of_ours() -> None:
    assert TOGETHER != APART
    many = {"ratio": 0.71, "ours_ms": 70.0, "peer_ms": 100.0}
    measured = {ENCODE: {"ours_ms": 10.0}, TRACK: {"peer_ms": 10.0}, benchmark_bars.MANY: many}
    row = benchmark_bars._many(measured, "")
    assert (row.ratio, row.limit, row.verdict) == (80 / 260, 0.6, "pass")  # (70 + 10) / (100 + 160)
    assert "0.71" in row.remark and "0.44" in row.remark  # 70 / 160
    assert benchmark_bars._many({}, "left out").verdict == "not run"

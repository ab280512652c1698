"""The command, run as a user runs it: every layout and precision, and back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors import safe_open

import synthetic
from checkpoint_files import write_torch
from convert_runs import DTYPES, FORMATS, Sources, assert_same, done, expected_weights, refused
from mlx_sam2.checkpoint import key_map, loading
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.formats import torch_file
from mlx_sam2.model import quantization
from synthetic import nano_config, nano_state

# ---- every source in every precision


MATRIX = [("transformers", p) for p in FORMATS] + [
    (layout, p) for layout in ("official", "mlx") for p in ("fp32", "8bit")
]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "precision"), MATRIX)  # the rest of it in test_convert_published.py
def test_matrix(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str, precision: str
) -> None:
    out = tmp_path / f"nano-{precision}"
    done(capsys, *sources.options(layout), "--mlx-path", out, *FORMATS[precision])
    assert_same(mx.load(str(out / "model.safetensors")), expected_weights(precision))
    if layout != "transformers":
        return
    model = loading.load(out, dtype=DTYPES[precision])
    assert_same(dict(tree_flatten(model.parameters())), expected_weights(precision))
    assert model.config == nano_config()
    said = done(capsys, "--verify", out, *sources.options(layout)[:2])
    assert "hashes, names, shapes and precision are as config.json says" in said
    iou = float(re.search(r"smallest IoU ([\d.]+)", said)[1])
    # measured on this click: fp16 0.9991, bf16 0.98, 8 bits 0.99, 4 bits 0.87
    assert iou >= {"fp32": 1, "fp16": 0.99, "bf16": 0.9, "8bit": 0.9, "4bit": 0.6}[precision]


@pytest.mark.slow
def test_three_layouts_give_the_same_masks(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done(capsys, *sources.options("transformers"), "--mlx-path", tmp_path / "fp32", "--dtype", "float32")
    pixels = mx.array(synthetic.picture(256, 256)[None] / np.float32(128) - 1)
    results = []
    for path in (*sources.paths.values(), tmp_path / "fp32"):
        config = nano_config() if path.is_file() else None
        model = loading.load(path, config=config, dtype="float32")
        features = model.encode_image(pixels)
        results.append(model.predict_masks(features, mx.array([[[90.0, 120.0]]]), mx.array([[1]])))
    for masks, scores in results[1:]:
        assert mx.array_equal(masks, results[0][0]).item()
        assert mx.array_equal(scores, results[0][1]).item()


# ---- and back


@pytest.mark.slow
@pytest.mark.parametrize("start", ["official", "transformers", "mlx"])
@pytest.mark.parametrize("end", ["official", "transformers"])
def test_round_trips_are_bit_exact(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], start: str, end: str
) -> None:
    """start -> ours -> end, in float32, against the state dict that all began with."""
    ours, back = tmp_path / "nano-fp32", tmp_path / ("back.pt" if end == "official" else "back")
    done(capsys, *sources.options(start), "--mlx-path", ours, "--dtype", "float32")
    done(capsys, "--hf-path", ours, "--to", end, "--mlx-path", back)
    state = nano_state()
    if end == "official":
        refs = torch_file.read(back)
        assert list(refs) == sorted(state)
        found = {key: ref.read() for key, ref in refs.items()}
    else:
        with safe_open(back / "model.safetensors", "numpy") as file:
            assert file.metadata() == {"format": "pt"}
            raw = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  a safe_open is no dict
        assert set(key_map.POSITION_COPIES) <= raw.keys()
        table = raw.pop(key_map.POINT_TABLE)
        found = {key_map.from_transformers(key): value for key, value in raw.items()}
        found |= {row: table[i : i + 1] for i, row in enumerate(key_map.POINT_ROWS)}
        written = json.loads((back / "config.json").read_text())
        assert SAM2Config.from_dict(written) == nano_config()
        if start == "transformers":  # what transformers said beside the configuration comes back as well
            original = json.loads((sources.paths["transformers"] / "config.json").read_text())
            changed = {"architectures": ["Sam2VideoModel"], "dtype": "float32"}
            assert written == {**original, **changed} | {k: written[k] for k in written if k not in original}
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert found[key].dtype == value.dtype
        assert found[key].shape == value.shape
        assert found[key].tobytes() == value.tobytes(), key


def test_straight_from_one_layout_to_another(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done(capsys, *sources.options("transformers"), "--to", "official", "--mlx-path", tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size > 6_000_000
    done(capsys, *sources.options("official"), "--to", "transformers", "--mlx-path", tmp_path / "x")
    state = nano_state()
    for path, config in ((tmp_path / "x.pt", nano_config()), (tmp_path / "x", None)):
        for key, weight in loading.read(path, config).weights.items():
            value = np.array(weight.read())
            axes = key_map.mlx_axes(key)
            assert (
                value.tobytes()
                == np.ascontiguousarray(state[key] if axes is None else state[key].transpose(axes)).tobytes()
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "dtype", "note"),
    [
        ([], "float16", "note: the weights are float16 and stay so"),
        (["--dtype", "float32"], "float32", "float32 holds the same numbers in twice the space"),
    ],
)
@pytest.mark.parametrize("to", ["official", "transformers"])
def test_back_from_half_precision(
    sources: Sources,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    to: str,
    options: list[str],
    dtype: str,
    note: str,
) -> None:
    """It says what it writes; the position matrix stays float32."""
    done(capsys, *sources.options("mlx"), "--mlx-path", tmp_path / "half")
    back = tmp_path / ("back.pt" if to == "official" else "back")
    assert note in done(capsys, "--hf-path", tmp_path / "half", "--to", to, "--mlx-path", back, *options)
    weights = loading.read(back, nano_config()).weights
    assert {w.dtype for k, w in weights.items() if k not in loading.KEPT_FLOAT32} == {dtype}
    assert {weights[k].dtype for k in loading.KEPT_FLOAT32} == {"float32"}
    expected = expected_weights("fp16")
    for key, weight in weights.items():
        value = expected[key] if key in loading.KEPT_FLOAT32 else expected[key].astype(loading.DTYPES[dtype])
        assert mx.array_equal(weight.read(), value).item(), key
    if to == "transformers":
        assert json.loads((back / "config.json").read_text())["dtype"] == dtype


@pytest.mark.slow
def test_several_precisions(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name and config.json can tell one precision only: that which holds all the numbers."""
    state = {key: value.astype(np.float16) if i % 2 else value for i, (key, value) in enumerate(nano_state().items())}
    write_torch(tmp_path / "tuned.pt", state)
    options = ["--hf-path", tmp_path / "tuned.pt", "--config", sources.folder / "nano.json", "--to"]
    said = refused(capsys, *options, "official", "--mlx-path", tmp_path / "x-fp16.pt")
    assert "the weights will be fp32" in said
    assert "several precisions" in done(capsys, *options, "official", "--mlx-path", tmp_path / "x-fp32.pt")
    done(capsys, *options, "transformers", "--mlx-path", tmp_path / "hf")
    for path in (tmp_path / "x-fp32.pt", tmp_path / "hf"):
        config = nano_config() if path.is_file() else None
        for key, weight in loading.read(path, config).weights.items():
            assert weight.dtype == "float32", key
            axes = key_map.mlx_axes(key)
            expected = state[key].astype(np.float32)
            assert np.array_equal(np.array(weight.read()), expected if axes is None else expected.transpose(axes)), key
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("to", ["official", "transformers"])
def test_back_from_packed_weights(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str
) -> None:
    packed, back = tmp_path / "nano-8bit", tmp_path / ("back.pt" if to == "official" else "back")
    done(capsys, *sources.options("mlx"), "-q", "--mlx-path", packed)
    assert re.search(r"note: \d+ layers of 8 bits become float16 numbers", done(
        capsys, "--hf-path", packed, "--to", to, "--mlx-path", back
    ))  # fmt: skip
    expected, weights = expected_weights("8bit"), loading.read(back, nano_config()).weights
    layers = quantization.schemes_of(loading.load(packed))
    for key, weight in weights.items():
        layer = key.removesuffix(".weight")
        value = expected[key]
        if layer in layers:
            value = quantization.unpack(value, expected[f"{layer}.scales"], expected[f"{layer}.biases"], layers[layer])
        assert mx.array_equal(weight.read(), value).item(), key
    said = refused(capsys, "--hf-path", packed, "--mlx-path", tmp_path / "again")
    assert "is quantised to 8 bits already" in said
    assert not (tmp_path / "again").exists()

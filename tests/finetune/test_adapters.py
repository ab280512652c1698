"""Adapters: read, put on a model, folded into a checkpoint, refused."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_sam2.checkpoint.adapter import FILE, LORA_A, LORA_B, Adapter, read_adapter, write_adapter
from mlx_sam2.checkpoint.loading import load
from mlx_sam2.checkpoint.tensors import CheckpointError
from mlx_sam2.convert import main as convert
from mlx_sam2.track import main as track

QKV = "image_encoder.trunk.blocks.0.attn.qkv.weight"
TOKEN = "sam_mask_decoder.iou_token.weight"


def made(**more: mx.array) -> Adapter:
    rows, columns = dict(tree_flatten(load("demo").parameters()))[QKV].shape
    random = np.random.default_rng(0)
    tensors = {
        TOKEN: mx.array(random.standard_normal((1, 96), dtype=np.float32)),
        QKV + LORA_A: mx.array(random.standard_normal((4, columns), dtype=np.float32)),
        QKV + LORA_B: mx.array(random.standard_normal((rows, 4), dtype=np.float32)),
    }
    return Adapter({**tensors, **more}, 0.5, {"base": "demo"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_adapter(tmp_path / FILE, made())
    return tmp_path


def weights(model: object) -> dict[str, mx.array]:
    return dict(tree_flatten(model.parameters()))


def test_round_trip(folder: Path) -> None:
    found, adapter = read_adapter(folder), made()
    assert (found.scale, found.about["base"]) == (0.5, "demo")
    assert found.names() == [QKV, TOKEN]
    assert all(mx.array_equal(found.tensors[name], value).item() for name, value in adapter.tensors.items())


def test_loaded_onto_a_model(folder: Path) -> None:
    plain, tuned, adapter = weights(load("demo")), weights(load("demo", adapter=folder)), made()
    for name, value in tuned.items():
        if name == TOKEN:
            np.testing.assert_array_equal(np.array(value), np.array(adapter.tensors[TOKEN]))
        elif name == QKV:
            pair = np.array(adapter.tensors[QKV + LORA_B]) @ np.array(adapter.tensors[QKV + LORA_A])
            np.testing.assert_allclose(np.array(value), np.array(plain[QKV]) + 0.5 * pair, rtol=0, atol=1e-6)
        else:
            assert mx.array_equal(value, plain[name]).item()
    assert load("demo", adapter=folder / FILE, dtype="float16").dtype == mx.float16


@pytest.mark.parametrize("layout", [[], ["--to", "transformers"], ["--to", "official"]], ids=["mlx", "hf", "official"])
def test_merged_equals_applied(layout: list[str], folder: Path, tmp_path: Path) -> None:
    out = tmp_path / ("merged-fp32.pt" if "official" in layout else "merged-fp32")
    words = ["--hf-path", "demo", "--merge-adapter", str(folder), "--mlx-path", str(out), "--dtype", "float32", *layout]
    assert convert(words) == 0
    config = {} if layout != ["--to", "official"] else {"config": "demo"}
    merged, applied = weights(load(out, dtype="float32", **config)), weights(load("demo", adapter=folder))
    for name, value in applied.items():
        np.testing.assert_allclose(np.array(merged[name]), np.array(value), rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"no.such.weight": mx.zeros(1)}, "has no no.such.weight"),
        ({TOKEN: mx.zeros((1, 95))}, "sam_mask_decoder.iou_token.weight is"),
        ({QKV + LORA_A: mx.zeros((4, 9))}, "its adapter"),
    ],
    ids=["unknown", "shape", "pair"],
)
def test_an_adapter_of_another_model(change: dict[str, mx.array], message: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / FILE, made(**change))
    with pytest.raises(CheckpointError, match=message) as error:
        load("demo", adapter=tmp_path)
    assert "\n" not in str(error.value)


def test_files_that_are_no_adapters(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no adapter"):
        read_adapter(tmp_path / "none")
    mx.save_safetensors(str(tmp_path / "other.safetensors"), {"a": mx.zeros(1)})
    with pytest.raises(CheckpointError, match="no adapter of mlx_sam2"):
        read_adapter(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((folder / FILE).read_bytes()[:900])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_adapter(tmp_path / "cut.safetensors")
    lone = Adapter({QKV + LORA_A: mx.zeros((4, 24))})
    write_adapter(tmp_path / "lone.safetensors", lone)
    with pytest.raises(CheckpointError, match="the other half"):
        read_adapter(tmp_path / "lone.safetensors")


def test_commands_take_an_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["clip.mp4", "--point", "1,1", "--model", "demo", "--adapter", str(tmp_path / "none")]
    (tmp_path / "clip").mkdir()
    assert track(words) in (1, 2)
    assert len(capsys.readouterr().err.splitlines()) == 1

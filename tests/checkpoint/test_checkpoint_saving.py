"""The dtypes that a model is loaded and saved in, and what saving leaves alone."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from checkpoint_layouts import official
from mlx_sam2.checkpoint import loading
from mlx_sam2.checkpoint.tensors import CheckpointError
from mlx_sam2.model.sam2 import SAM2


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading.parse_dtype("bfloat16") == loading.parse_dtype(mx.bfloat16) == mx.bfloat16
    for wrong in ("int8", "half", mx.int32, mx.float64, 16):
        with pytest.raises(ValueError, match="use float32, float16, bfloat16"):
            loading.parse_dtype(wrong)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    assert loading.parse_dtype(None) == mx.float16
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.cpu))
    assert loading.parse_dtype(None) == mx.float32
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu))
    monkeypatch.setattr(mx.metal, "is_available", lambda: False)
    assert loading.parse_dtype(None) == mx.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_saving_keeps_the_dtype(tmp_path: Path, dtype: str) -> None:
    path, config = official(tmp_path)
    model = loading.load(path, config=config, dtype=dtype)
    loading.save(model, tmp_path / "deep" / "ours")
    assert sorted(p.name for p in (tmp_path / "deep").rglob("*")) == [
        "config.json",
        "model.safetensors",
        "ours",
    ]
    _, metadata = mx.load(str(tmp_path / "deep" / "ours" / "model.safetensors"), return_metadata=True)
    assert metadata["format"] == "mlx"
    again = loading.load(tmp_path / "deep" / "ours", dtype=dtype)
    for (key, one), (_, other) in zip(tree_flatten(model.parameters()), tree_flatten(again.parameters()), strict=True):
        assert other.dtype == loading.DTYPES["float32" if key in loading.KEPT_FLOAT32 else dtype], key
        assert mx.array_equal(one, other), key


def test_saving_leaves_what_exists(tmp_path: Path, nano_model: SAM2) -> None:
    (tmp_path / "ours").mkdir()
    with pytest.raises(CheckpointError, match="exists already"):
        loading.save(nano_model, tmp_path / "ours")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        loading.save(nano_model, tmp_path / "file" / "ours")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "ours"]


def test_nothing_is_left_of_a_failed_save(tmp_path: Path, nano_model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        loading.save(nano_model, tmp_path / "ours")
    assert list(tmp_path.iterdir()) == []

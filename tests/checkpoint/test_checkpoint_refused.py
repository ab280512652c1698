"""Strict keys, and one line for what is wrong with a checkpoint."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoint_files import (
    Raw,
    Tensor,
    global_op,
    pickled,
    write_archive,
    write_torch,
)
from checkpoint_layouts import LAYOUTS, State, assert_same, ours, refusal, transformers
from mlx_sam2.checkpoint import key_map, loading
from mlx_sam2.config.parts import ConfigError
from synthetic import nano_config, nano_state

VIDEO_STATE = "memory_attention.layers.0.linear1.weight"


@pytest.mark.parametrize("layout", ["official", "transformers", "ours"])
def test_wrong_keys_are_listed(tmp_path: Path, layout: str) -> None:
    """A missing, an extra and a misshapen key: each named as the file names it, in one line."""
    path, config = LAYOUTS[layout](tmp_path)
    tensors = nano_state() if layout == "official" else load_file(path / "model.safetensors")
    name = "mask_decoder.conv_s0.weight" if layout == "transformers" else "sam_mask_decoder.conv_s0.weight"
    prompt = "prompt_encoder.not_a_point_embed.weight"
    prompt = prompt if layout == "transformers" else f"sam_{prompt}"

    def said(change: State, drop: str | None = None) -> str:
        changed = {key: value for key, value in {**tensors, **change}.items() if key != drop}
        if layout == "official":
            write_torch(path, changed)
        else:
            save_file(changed, path / "model.safetensors", metadata={"format": "mlx" if layout == "ours" else "pt"})
        return refusal(path, config=config)

    missing = said({}, drop=prompt)
    assert "1 missing" in missing
    assert prompt in missing
    assert "unexpected" not in missing
    extra = said({"vision_encoder.x" if layout == "transformers" else "image_encoder.x": np.zeros(1, np.float32)})
    assert "1 unexpected" in extra
    assert "encoder.x" in extra
    wrong = said({name: np.zeros((8, 64, 3, 1), np.float32)})
    needed = [8, 1, 1, 64] if layout == "ours" else [8, 64, 1, 1]
    assert f"{name}: [8, 64, 3, 1] instead of {needed}" in wrong
    assert "1 wrong" in wrong
    assert f"{prompt}: int64 instead of a floating-point type" in said({prompt: np.zeros((1, 64), np.int64)})


def test_long_lists_are_cut(tmp_path: Path) -> None:
    state = {key: value for key, value in nano_state().items() if ".transformer." not in key}
    said = refusal(write_torch(tmp_path / "x.pt", state), config=nano_config())
    assert "and 78 more" in said
    assert len(said) < 1000


def test_point_table_of_another_length(tmp_path: Path) -> None:
    folder, _ = transformers(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors[key_map.POINT_TABLE] = tensors[key_map.POINT_TABLE][:3]
    save_file(tensors, folder / "model.safetensors")
    assert "needs 4 rows" in refusal(folder)


def test_every_ignored_name_has_a_reason(tmp_path: Path, expected: State) -> None:
    assert all(reason for _, reason in key_map.IGNORED)
    folder, _ = transformers(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors.update({name + "x": np.zeros(1, np.float32) for name, _ in key_map.IGNORED})
    save_file(tensors, folder / "model.safetensors")
    assert_same(loading.load(folder, dtype="float32"), expected)


# ---- hostile and broken files


def test_a_malicious_pt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = Raw(global_op("os", "system") + pickled(("touch ran",)) + b"R")
    assert "os.system" in refusal(write_archive(tmp_path / "x.pt", {"model": {"a": call}}, {}))
    assert os.listdir(tmp_path) == ["x.pt"]


def test_a_truncated_pt_and_ten_terabytes(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "x.pt", nano_state())
    os.truncate(path, path.stat().st_size // 2)
    assert "truncated or damaged" in refusal(path)
    huge = Tensor(numel=10 << 38, shape=(10 << 38,))
    assert "claims a storage of 10995116277760 bytes" in refusal(
        write_archive(tmp_path / "y.pt", {"model": {"a": huge}}, {"0": b"\0" * 4})
    )


def header(entries: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
BROKEN_SAFETENSORS = {
    "empty": b"",
    "short": b"\x10",
    "no JSON": struct.pack("<Q", 4) + b"{abc",
    "an absurd header length": header({"a": ENTRY}, b"\0" * 4, length=1 << 60),
    "a header beyond the file": header({"a": ENTRY}, b"\0" * 4, length=1 << 20),
    "data missing": header({"a": ENTRY}),
    "data left over": header({"a": ENTRY}, b"\0" * 8),
    "overlapping": header({"a": ENTRY, "b": ENTRY}, b"\0" * 4),
    "a hole": header({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 12]}}, b"\0" * 12),
    "an end at infinity": header({"a": {**ENTRY, "data_offsets": [0, float("inf")]}}, b"\0" * 4),
    "an end of 4,000 digits": header({"a": {**ENTRY, "data_offsets": [0, 10**4000]}}, b"\0" * 4),
    "backwards": header({"a": {**ENTRY, "data_offsets": [4, 0]}}, b"\0" * 4),
    "a shape of 10 TB": header({"a": {**ENTRY, "shape": [10 << 38]}}, b"\0" * 4),
    "an overflowing shape": header({"a": {**ENTRY, "shape": [1 << 40, 1 << 40]}}, b"\0" * 4),
    "a vast shape with a zero": header({"a": {"dtype": "F32", "shape": [0, 1 << 40], "data_offsets": [0, 0]}}),
    "a negative shape": header({"a": {**ENTRY, "shape": [-1]}}, b"\0" * 4),
    "an unknown type": header({"a": {**ENTRY, "dtype": "F99"}}, b"\0" * 4),
    "eight-bit floats": header({"a": {"dtype": "F8_E5M2", "shape": [4], "data_offsets": [0, 4]}}, b"\0" * 4),
    "not a safetensors file": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
    "other names": header({"\n\x1b[2J": ENTRY}, b"\0" * 4),
    "no tensors": header({}),
    "a scalar for the patch embedding": header(
        {"image_encoder.trunk.patch_embed.proj.weight": {**ENTRY, "shape": []}}, b"\0" * 4
    ),
}


@pytest.mark.parametrize("case", BROKEN_SAFETENSORS)
def test_broken_safetensors(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(BROKEN_SAFETENSORS[case])
    refusal(path)


def test_a_truncated_safetensors(tmp_path: Path) -> None:
    folder, _ = ours(tmp_path)
    os.truncate(folder / "model.safetensors", 100_000)
    assert "truncated or damaged" in refusal(folder)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "[" * 100_000, '{"model_type": "vit"}', '{"trunk": {"stages": [0]}}', " " * (2 << 20)],
)
def test_broken_configurations(tmp_path: Path, text: str) -> None:
    folder, _ = ours(tmp_path)
    (folder / "config.json").write_text(text)
    assert "config.json" in refusal(folder)
    with pytest.raises(ConfigError, match=r"config\.json"):
        loading.read_config(folder / "config.json")


def test_an_index_that_does_not_fit(tmp_path: Path) -> None:
    folder, _ = transformers(tmp_path, shards=2)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["nowhere"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    assert "lack nowhere" in refusal(folder)
    (folder / "model-00001-of-00002.safetensors").unlink()
    assert "No such file" in refusal(folder)


def test_folders_without_one_checkpoint(tmp_path: Path) -> None:
    assert "holds no weights" in refusal(tmp_path)
    for name in ("a.pt", "b.pt"):
        write_torch(tmp_path / name, {"a": np.zeros(1, np.float32)})
    assert "a.pt, b.pt" in refusal(tmp_path)
    assert "no SAM 2 checkpoint" in refusal(tmp_path / "a.pt")


def test_a_file_without_tensors(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({}, path)
    assert "it holds no tensors" in refusal(path)

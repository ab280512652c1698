"""Files that lie where weights should: each is called what it is."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from checkpoint_files import write_torch
from mlx_sam2.checkpoint import loading
from mlx_sam2.checkpoint.tensors import CheckpointError
from mlx_sam2.formats import torch_file
from synthetic import nano_config, nano_state

POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69
size 155906050
"""
MISFITS = {
    "is empty": b"",
    "is a Git LFS pointer to the weights of 155,906,050 bytes, not the weights: run git lfs pull": POINTER,
    "is a Git LFS pointer to the weights, not": POINTER.split(b"\n")[0],
    "is an HTML page": b"<!DOCTYPE html>\n<html><head><title>GitHub</title>",
    "is an HTML page, not": b"\n\n  <HTML lang=en>",
    "is an HTML page, not a checkpoint: ": b"\xef\xbb\xbf<!doctype HTML>",
    "is an XML text": b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>',
    "is the answer of a server that refused": b'{"error":"Repository not found"}',
    "is a GGUF file": b"GGUF\3\0\0\0",
    "is an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "is a TensorFlow Lite file": b"\x1c\0\0\0TFL3",
    "is compressed (gzip)": gzip.compress(b"x" * 1000),
    "holds zeros where its contents should begin (5,000 bytes)": bytes(5000),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ""])
@pytest.mark.parametrize("said", MISFITS)
def test_what_is_no_checkpoint(tmp_path: Path, said: str, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(MISFITS[said])
    with pytest.raises(CheckpointError) as caught:
        loading.load(path)
    assert str(caught.value).startswith(f"{path} {said}")
    assert "\n" not in str(caught.value)
    assert "re-save" not in str(caught.value)


def test_in_a_folder(tmp_path: Path) -> None:
    """As a clone without Git LFS leaves it."""
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a Git LFS pointer"):
        loading.load(tmp_path, config=nano_config())


@pytest.mark.parametrize("kept", [0.3, 0.999])
def test_a_file_that_was_cut_off(tmp_path: Path, kept: float) -> None:
    path = write_torch(tmp_path / "x.pt", nano_state())
    size = int(path.stat().st_size * kept)
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(CheckpointError, match=rf"its end is missing: {size:,} bytes are there\); download or copy it"):
        loading.load(path, config=nano_config())


def test_a_safetensors_file_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(nano_state(), path)
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(100_000)
    with pytest.raises(CheckpointError, match=rf"truncated or damaged \(100,000 of {whole:,} bytes are there\)"):
        loading.load(path, config=nano_config())


def test_an_archive_on_several_disks(tmp_path: Path) -> None:
    """It has an end, which zipfile does not like."""
    path = write_torch(tmp_path / "x.pt", nano_state())
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    path.write_bytes(data[:end] + b"PK\x06\x07" + struct.pack("<LQL", 0, 0, 2) + data[end:])
    assert torch_file.has_end(path)
    with pytest.raises(CheckpointError, match=r"truncated or damaged \(zipfiles that span multiple disks"):
        loading.load(path, config=nano_config())


def test_an_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(CheckpointError, match=r"x\.onnx is an ONNX file: this needs the PyTorch or safetensors file"):
        loading.load(tmp_path / "x.onnx")

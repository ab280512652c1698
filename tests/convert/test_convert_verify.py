"""``convert --verify``: every damage is found."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_files import transformers_config, write_torch, write_transformers
from convert_runs import Sources, call, done, refused
from mlx_sam2.checkpoint import key_map
from mlx_sam2.convert import conversion
from mlx_sam2.hub import download
from mlx_sam2.model.quantization import Scheme
from synthetic import nano_state


@pytest.fixture(scope="module")
def packed(sources: Sources, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packed") / "nano-8bit"
    job = conversion.prepare(download.Fetched(sources.paths["mlx"]), scheme=Scheme(64, 8))
    conversion.write(job, out)
    return out


def change_config(folder: Path, change: Callable[[dict], object]) -> None:
    values = json.loads((folder / "config.json").read_text())
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


def rehash(folder: Path) -> None:
    """Make config.json agree with weights that were changed."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    change_config(folder, lambda v: v["mlx_sam2"]["files"].update({"model.safetensors": digest}))


def flip_last_byte(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


DAMAGE = {
    "a flipped bit": (flip_last_byte, "is damaged or was changed: sha256"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "is not finished: it has no model.safetensors"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "it has no config.json"),
    "a broken configuration": (lambda f: (f / "config.json").write_text("{"), "is not valid JSON"),
    "not ours": (lambda f: change_config(f, lambda v: v.pop("mlx_sam2")), "mlx_sam2 did not write it"),
    "no hashes": (lambda f: change_config(f, lambda v: v["mlx_sam2"]["files"].clear()), "lists no weights files"),
    "a file outside": (
        lambda f: change_config(f, lambda v: v["mlx_sam2"].update(files={"../x": "0"})), "lists no weights files"
    ),
    "another width": (
        lambda f: change_config(f, lambda v: v["trunk"].update(stages=[1, 2, 2, 2])), "is not packed in 4 or 8 bits"
    ),
    "another precision": (
        lambda f: change_config(f, lambda v: v["mlx_sam2"].update(dtype="float32")), "config.json says float32"
    ),
    "no precision": (
        lambda f: change_config(f, lambda v: v["mlx_sam2"].update(dtype="int8")), "use float32, float16, bfloat16"
    ),
    "other bits": (
        lambda f: change_config(f, lambda v: v["quantization"].update(bits=4)),
        "8 bits in groups of 64, but config.json says 4 bits",
    ),
    "not quantised": (lambda f: change_config(f, lambda v: v.pop("quantization")), "config.json says not quantised"),
    "another source": (
        lambda f: change_config(f, lambda v: v["mlx_sam2"]["source"].update(sha256="0")), "name different sources"
    ),
    "half a source": (
        lambda f: change_config(f, lambda v: v["mlx_sam2"]["source"].pop("files")), "describes its source incompletely"
    ),
    "a source without files": (
        lambda f: change_config(f, lambda v: v["mlx_sam2"]["source"].update(files=[], revision="0" * 40)),
        "describes its source incompletely",
    ),
    "another name of the source": (
        lambda f: change_config(f, lambda v: v["mlx_sam2"]["source"].update(name="x/y")), "name different sources"
    ),
    "a number that no shape shows": (
        lambda f: change_config(f, lambda v: v.update(sigmoid_scale_for_mem_enc=3.0)), "config.json was changed since"
    ),
    "another file of weights": (
        lambda f: shutil.copy(f / "model.safetensors", f / "b.safetensors"), "b.safetensors is no part of the model"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_verify_finds(packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    shutil.copytree(packed, tmp_path / "x")
    harm, said = DAMAGE[case]
    harm(tmp_path / "x")
    assert said in refused(capsys, "--verify", tmp_path / "x", code=1)
    assert said in refused(capsys, "--mlx-path", tmp_path / "x", "--upload-repo", "me/x", code=1), "it would be sent"


def test_verify_against_the_source(
    sources: Sources, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number that was changed, and hashed again: only the source shows it. Another source is told."""
    shutil.copytree(packed, tmp_path / "x")
    flip_last_byte(tmp_path / "x")
    rehash(tmp_path / "x")
    assert "hashes, names" in done(capsys, "--verify", tmp_path / "x")
    code, _, err = call(capsys, "--verify", tmp_path / "x", "--hf-path", sources.paths["mlx"])
    assert code == 1
    assert "is not what converting" in err
    code, _, err = call(capsys, "--verify", packed, "--hf-path", sources.paths["official"])
    assert code == 1
    assert "its sha256 is another one" in err


def test_verify_something_else(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is no folder" in refused(capsys, "--verify", sources.paths["official"], code=1)
    assert "mlx_sam2 did not write it" in refused(capsys, "--verify", sources.paths["transformers"], code=1)
    assert "no such file" in refused(capsys, "--verify", tmp_path / "no")
    assert "hashes, names" in done(capsys, "--verify", sources.paths["mlx"])  # what save() writes
    assert "is not finished: it has no README.md" in refused(
        capsys, "--mlx-path", sources.paths["mlx"], "--upload-repo", "me/x", code=1
    )


@pytest.mark.slow
def test_verify_what_does_not_belong_together(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of save() names no source: any may be given."""
    assert "every tensor is what" in done(
        capsys, "--verify", sources.paths["mlx"], "--hf-path", sources.paths["official"]
    )
    image = {key: value for key, value in nano_state().items() if not key_map.is_video_only(key)}
    config = transformers_config()
    write_transformers(tmp_path / "image", image, config)
    code, _, err = call(capsys, "--verify", sources.paths["mlx"], "--hf-path", tmp_path / "image")
    assert (code, err.count("\n")) == (1, 1)
    assert "are not of the same parts" in err
    write_torch(tmp_path / "other.pt", nano_state(name="nano20"))
    code, _, err = call(capsys, "--verify", sources.paths["mlx"], "--hf-path", tmp_path / "other.pt")
    assert (code, err.count("\n")) == (2, 1)
    assert "its tensors are not" in err

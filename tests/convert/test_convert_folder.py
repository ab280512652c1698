"""What lies in a converted folder, and how it is called."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

import synthetic
from checkpoint_files import transformers_config, write_transformers
from convert_runs import Sources, assert_same, command, done, expected_weights, refused, run
from mlx_sam2.checkpoint import loading
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.convert import conversion
from mlx_sam2.formats import safetensors_writer
from mlx_sam2.hub import download
from mlx_sam2.model import quantization
from mlx_sam2.model.quantization import Scheme
from processes import ROOT
from synthetic import nano_config, nano_state


def front_matter(text: str) -> dict:
    """The YAML between the first two lines of dashes; only what we write: scalars and one list."""
    _, front, _ = text.split("---\n", 2)
    found: dict = {}
    for line in front.splitlines():
        if line.startswith("- "):
            found["tags"].append(line[2:])
        else:
            key, _, value = line.partition(":")
            found[key] = value.strip() or []
    return found


def test_the_folder(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "nano-4bit"
    done(capsys, *sources.options("transformers"), "-q", "--q-bits", "4", "--mlx-path", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nano-4bit"]
    assert sorted(p.name for p in out.iterdir()) == [
        "LICENSE",
        "NOTICE",
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert (out / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()

    source = sources.paths["transformers"]
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
    with safe_open(out / "model.safetensors", "numpy") as file:
        metadata = file.metadata()
    import mlx_sam2

    values = json.loads((out / "config.json").read_text())
    said = json.dumps({k: v for k, v in values.items() if k != "mlx_sam2"}, sort_keys=True)
    of_config = {"config_sha256": hashlib.sha256(said.encode()).hexdigest()}
    of_source = {"source": "hf", "source_sha256": digest}
    assert metadata == {"format": "mlx", "mlx_sam2": mlx_sam2.__version__, **of_config, **of_source}

    assert SAM2Config.from_dict(values) == nano_config()
    original = json.loads((source / "config.json").read_text())
    for key, value in original.items():
        if key not in ("model_type", "dtype"):
            assert values[key] == value, key
    assert values["dtype"] == "float16"  # the one thing that transformers said and that is no longer true
    section = values["mlx_sam2"]
    assert section["files"] == {
        "model.safetensors": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    }
    assert section["source"]["sha256"] == digest
    assert section["dtype"] == "float16"
    quantization_said = values["quantization"]
    assert (quantization_said.pop("group_size"), quantization_said.pop("bits")) == (64, 4)
    schemes, left = quantization.plan(synthetic.nano_model(), Scheme(64, 4))
    special = {name: scheme._asdict() for name, scheme in schemes.items() if scheme.group_size != 64}
    assert special
    assert left
    assert quantization_said == {**special, **dict.fromkeys(left, False)}

    card = (out / "README.md").read_text()
    assert front_matter(card) == {
        "library_name": "mlx",
        "pipeline_tag": "mask-generation",
        "license": "apache-2.0",
        "tags": ["mlx", "sam2", "segment-anything", "mlx-sam2"],
    }
    assert digest in card
    assert digest in (out / "NOTICE").read_text()
    assert str(tmp_path) not in card + json.dumps(values), "a path of this machine is published"


def test_layers_that_no_group_fits(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that ends in -8bit would not be true."""
    monkeypatch.setattr(quantization, "GROUP_SIZES", (4096,))
    with pytest.raises(conversion.ConversionError, match="no group size divides the width of any of its 40 layers"):
        conversion.prepare(download.Fetched(sources.paths["mlx"]), scheme=Scheme(4096, 8))
    with pytest.raises(conversion.ConversionError, match="no packed weights"):
        conversion.prepare(download.Fetched(sources.paths["mlx"]), scheme=Scheme(64, 8), layout="official")


def test_the_front_matter_is_yaml(sources: Sources) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    job = conversion.prepare(
        download.Fetched(sources.paths["transformers"], "someone/tuned", "f" * 40), scheme=Scheme(64, 8)
    )
    assert "check that it is that of someone/tuned too" in job.notes[0]
    assert (
        conversion.prepare(download.Fetched(sources.paths["transformers"], "facebook/sam2-hiera-tiny", "f" * 40)).notes
        == []
    )
    card = job.texts({"model.safetensors": "0" * 64}, "me/tuned-8bit")["README.md"]
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == front_matter(card)
    assert (front["base_model"], front["base_model_relation"]) == ("someone/tuned", "quantized")
    assert "[someone/tuned](https://huggingface.co/someone/tuned) at revision `" + "f" * 40 in card
    assert 'from_pretrained("me/tuned-8bit")' in card


@pytest.mark.slow
def test_the_snippet_of_the_card_runs(sources: Sources, tmp_path: Path) -> None:
    assert run(*sources.options("mlx"), "--mlx-path", "nano's ünit-fp16", cwd=tmp_path).returncode == 0
    card = (tmp_path / "nano's ünit-fp16" / "README.md").read_text(encoding="utf-8")
    snippet = card.split("```python\n")[1].split("```")[0]
    environment = command()["env"]
    ran = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    from PIL import Image

    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert mask.shape == (480, 640)
    line = next(line for line in card.splitlines() if "mlx_sam2.segment" in line).strip()
    Image.fromarray(synthetic.picture(400, 500)).save(tmp_path / "photo.jpg")
    line = line.replace("python", sys.executable, 1)
    ran = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "photo_mask.png").exists()


def test_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A source of several files and an index: all of them are read, and named in config.json and in its hash."""
    source = write_transformers(tmp_path / "hf", nano_state(), transformers_config(), shards=3)
    names = sorted(p.name for p in source.glob("*.safetensors"))
    assert len(names) == 3
    done(capsys, "--hf-path", source, "--mlx-path", tmp_path / "nano-8bit", "-q")
    assert_same(mx.load(str(tmp_path / "nano-8bit" / "model.safetensors")), expected_weights("8bit"))
    said = json.loads((tmp_path / "nano-8bit" / "config.json").read_text())["mlx_sam2"]["source"]
    hashes = {name: hashlib.sha256((source / name).read_bytes()).hexdigest() for name in names}
    lines = "".join(f"{digest}  {name}\n" for name, digest in hashes.items()).encode()  # as sha256sum prints them
    assert said["sha256"] == hashlib.sha256(lines).hexdigest()
    assert said["files"] == names
    assert "every tensor is what" in done(capsys, "--verify", tmp_path / "nano-8bit", "--hf-path", source)


def test_aligned(tmp_path: Path) -> None:
    """Every tensor begins at a multiple of the size of its numbers, as numpy and Metal like it."""
    shapes = {"a": ((1,), "float16"), "b": ((3,), "float32"), "c": ((5,), "bfloat16"), "d": ((2, 2), "uint32")}
    tensors = [
        safetensors_writer.Tensor(n, s, d, lambda s=s, d=d: mx.ones(s).astype(getattr(mx, d)))
        for n, (s, d) in shapes.items()
    ]
    safetensors_writer.write(tmp_path / "model.safetensors", tensors, {})
    data = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {}
    assert length % 8 == 0
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}
    assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in header.values())
    for name, value in mx.load(str(tmp_path / "model.safetensors")).items():
        assert (value.shape, str(value.dtype)) == (shapes[name][0], f"mlx.core.{shapes[name][1]}")
        assert (value == 1).all().item()


# ---- names


@pytest.mark.slow
def test_default_names(sources: Sources, tmp_path: Path) -> None:
    ran = run("--hf-path", sources.paths["transformers"], cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("hf-fp16: 371 tensors, 3.3 MB. Weights in float16.")
    ran = run("--hf-path", "hf-fp16", "--to", "official", cwd=tmp_path)
    assert ran.stdout.splitlines()[0] == "note: the weights are float16 and stay so"
    ran = run("--hf-path", "hf-fp16", "-q", "--dtype", "float32", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf-8bit", "hf-fp16", "hf-fp16.pt"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("x-8bit", [], "says 8bit, but the weights will be fp16: name it x-fp16"),
        ("x-4bit", ["-q"], "says 4bit, but the weights will be 8bit"),
        ("x-fp16", ["-q"], "says fp16, but the weights will be 8bit"),
        ("x_FP32", [], "says fp32, but the weights will be fp16"),
        ("x-float16-mlx", ["--dtype", "float32"], "name it x-fp32-mlx"),
        ("x-bfloat16", [], "says bf16"),
        ("x.int4", ["-q"], "says 4bit"),
        ("x-6-bit", ["-q"], "says 6bit"),
        ("x-half", ["--dtype", "float32"], "says fp16"),
        ("x-32bit", [], "says 32bit, but the weights will be fp16: name it x-fp16"),
        ("x-16-bit", ["-q"], "says 16bit"),
        ("x-mxfp4", ["-q", "--q-bits", "4"], "says fp4, but the weights will be 4bit"),
    ],
)
def test_a_name_that_lies(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, options: list[str], said: str
) -> None:
    assert said in refused(capsys, *sources.options("mlx"), "--mlx-path", tmp_path / name, *options)
    sent = refused(
        capsys, *sources.options("mlx"), "--mlx-path", tmp_path / "x", "--upload-repo", f"me/{name}", *options
    )
    assert said in sent.replace("me/", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["x", "x-fp16", "x-16bit", "x-16bits-of-luck", "fp32-study", "x_float16", "8bit", "half"]
)
def test_a_name_that_does_not(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert "nothing was written" in done(capsys, *sources.options("mlx"), "--mlx-path", tmp_path / name, "--dry-run")


def test_a_mixed_folder_says_what_each_layer_has(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nano-mixed"
    said = done(capsys, *sources.options("mlx"), "-q", "--q-recipe", "mixed", "--mlx-path", out)
    assert " in 8 bits and " in said and " in 4 bits, in groups of 64" in said
    schemes = quantization.schemes_of(loading.load(out))
    assert {s.bits for name, s in schemes.items() if name.startswith("memory_attention.")} == {4}
    assert {s.bits for name, s in schemes.items() if name.startswith("image_encoder.")} == {8}
    done(capsys, "--verify", out, "--hf-path", sources.paths["mlx"])
    assert "says 8bit, but the weights will be mixed" in refused(
        capsys, *sources.options("mlx"), "-q", "--q-recipe", "mixed", "--mlx-path", "x-8bit"
    )

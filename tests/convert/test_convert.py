"""The command, run as a user runs it: every layout and precision, what lies in the folder, and nothing half-written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors import safe_open

import synthetic
from checkpoint_files import parameter_shapes, transformers_config, write_torch, write_transformers
from mlx_sam2.checkpoint import key_map, loading
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.convert import card as convert_card
from mlx_sam2.convert import command as convert
from mlx_sam2.convert import conversion
from mlx_sam2.formats import safetensors_writer, torch_file
from mlx_sam2.hub import download
from mlx_sam2.model import quantization
from mlx_sam2.model.quantization import Scheme
from synthetic import config_dict, nano_config, nano_state

ROOT = Path(__file__).parents[2]
FORMATS = {
    "fp32": ["--dtype", "float32"],
    "fp16": [],
    "bf16": ["--dtype", "bfloat16"],
    "8bit": ["-q"],
    "4bit": ["-q", "--q-bits", "4", "--q-group-size", "32", "--dtype", "bfloat16"],
}
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "8bit": "float16", "4bit": "bfloat16"}
SCHEMES = {"8bit": Scheme(64, 8), "4bit": Scheme(32, 4)}


class Sources:
    """The same weights in the three layouts, with the options that the command needs for each."""

    def __init__(self, folder: Path) -> None:
        config = transformers_config() | {"dtype": "float32"}
        (folder / "nano.json").write_text(json.dumps(config_dict()))
        loading.save(synthetic.nano_model(), folder / "ours")
        self.folder = folder
        self.paths = {
            "official": write_torch(folder / "nano.pt", nano_state()),
            "transformers": write_transformers(folder / "hf", nano_state(), config),
            "mlx": folder / "ours",
        }

    def options(self, layout: str) -> list[str]:
        config = ["--config", str(self.folder / "nano.json")] if layout == "official" else []
        return ["--hf-path", str(self.paths[layout]), *config]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


def run(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(*args, cwd=cwd, **env), capture_output=True, text=True, check=False)


def command(*args: object, cwd: Path | None = None, **env: str) -> dict:
    """In a process of its own; MLX's advice about a missing BLAS would be another line on stderr."""
    environment = {**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **env}
    return {"args": [sys.executable, "-m", "mlx_sam2.convert", *map(str, args)], "cwd": cwd, "env": environment}


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """The same without the start of an interpreter: exit code, stdout, stderr."""
    try:
        code = convert.main([str(a) for a in args])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def done(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    code, out, err = call(capsys, *args)
    assert (code, err) == (0, ""), err
    return out


def refused(capsys: pytest.CaptureFixture[str], *args: object, code: int = 2) -> str:
    found, out, err = call(capsys, *args)
    assert (found, out) == (code, ""), out
    assert err.startswith("mlx_sam2.convert: error: ")
    assert err.count("\n") == 1
    return err


def expected_weights(precision: str) -> dict[str, mx.array]:
    """What a folder of this precision holds, by way of numpy and ``nn.quantize`` alone."""
    model = synthetic.nano_model()
    dtype = loading.DTYPES[DTYPES[precision]]
    weights = {k: v.astype(dtype) for k, v in tree_flatten(model.parameters()) if k not in loading.KEPT_FLOAT32}
    model.load_weights(list(weights.items()), strict=False)
    if precision in SCHEMES:
        quantization.quantize(model, quantization.plan(model, SCHEMES[precision])[0])
    return dict(tree_flatten(model.parameters()))


def assert_same(found: dict[str, mx.array], expected: dict[str, mx.array]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape), key
        assert mx.array_equal(found[key], value).item(), key


# ---- every source in every precision


MATRIX = [("transformers", p) for p in FORMATS] + [
    (layout, p) for layout in ("official", "mlx") for p in ("fp32", "8bit")
]


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


# ---- what lies in the folder


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


# ---- nothing is written


@pytest.mark.parametrize("precision", ["fp16", "4bit"])
def test_dry_run(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str) -> None:
    out = tmp_path / "deep" / f"x-{precision}"
    options = [*sources.options("official"), "--mlx-path", out, *FORMATS[precision]]
    said = done(capsys, *options, "--dry-run", "--upload-repo", "me/x", "--private")
    assert list(tmp_path.iterdir()) == []
    assert "would send 5 files" in said
    assert "the private repository me/x" in said
    done(capsys, *options)
    sizes = {Path(m[2]).name: int(m[1].replace(",", "")) for m in re.finditer(r"([\d,]+) bytes  (.+)", said)}
    card = len('from_pretrained("me/x")') - len(f'from_pretrained("x-{precision}")')
    sizes["README.md"] -= 3 * card  # the name stands in it three times
    assert sizes == {p.name: p.stat().st_size for p in out.iterdir()}


REFUSALS = {
    "nothing": ([], "nothing to convert: give --hf-path"),
    "an absent file": (["--hf-path", "no.pt"], "no such file or folder: no.pt"),
    "a name of nothing": (["--hf-path", "huge"], "no model is called 'huge'"),
    "a revision of a file": (["--hf-path", "{nano}", "--revision", "main"], "belongs to a Hub repository"),
    "no configuration": (["--hf-path", "{nano}"], "cannot tell which model this is"),
    "an absent configuration": (["--hf-path", "{nano}", "--config", "no.json"], "config='no.json' is neither"),
    "another configuration": (["--hf-path", "{nano}", "--config", "tiny"], "its tensors are not"),
    "bits without -q": (["--hf-path", "{ours}", "--q-bits", "8"], "--q-bits needs -q"),
    "groups without -q": (["--hf-path", "{ours}", "--q-group-size", "32"], "--q-group-size needs -q"),
    "packed for PyTorch": (["--hf-path", "{ours}", "-q", "--to", "official"], "-q does not go with --to official"),
    "a folder for official": (["--hf-path", "{ours}", "--to", "official", "--mlx-path", "x"], "name it .pt"),
    "private and not sent": (["--hf-path", "{ours}", "--private"], "--private needs --upload-repo"),
    "sent for PyTorch": (["--hf-path", "{ours}", "--to", "transformers", "--upload-repo", "a/b"], "convert first"),
    "no repository": (["--hf-path", "{ours}", "--upload-repo", "b"], "use owner/name"),
    "sent from nowhere": (["--mlx-path", "no", "--upload-repo", "a/b"], "no is no folder"),
    "sent as something else": (["--mlx-path", "{ours}", "--upload-repo", "a/b", "-q"], "--quantize needs --hf-path"),
    "verified and written": (["--verify", "{ours}", "--mlx-path", "x"], "--mlx-path does not go with --verify"),
    "three bits": (["--hf-path", "{ours}", "-q", "--q-bits", "3"], "invalid choice: 3"),
    "an unknown option": (["--hf-path", "{ours}", "--quantise"], "unrecognized arguments"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options, said = REFUSALS[case]
    options = [o.format(nano=sources.paths["official"], ours=sources.paths["mlx"]) for o in options]
    assert said in refused(capsys, *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link", "link"])
def test_what_exists_is_left_alone(
    sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    out = tmp_path / "x.pt"
    if kind == "folder":
        out.mkdir()
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / ("nowhere" if kind == "dangling link" else ""))
    for options in ([], ["--to", "official"], ["--dry-run"]):
        assert "exists already" in refused(capsys, *sources.options("mlx"), "--mlx-path", out, *options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.pt"]


@pytest.mark.parametrize("layout", ["mlx", "official"])
def test_what_appears_meanwhile_is_left_alone(sources: Sources, tmp_path: Path, layout: str) -> None:
    """Renaming would replace an empty folder, and any file."""
    out = tmp_path / "x.pt"
    with pytest.raises(OSError, match="exists already"):
        conversion.write(
            conversion.prepare(download.Fetched(sources.paths["mlx"]), layout=layout),
            out,
            progress=lambda _: out.mkdir(exist_ok=True) if layout == "mlx" else out.write_text("mine"),
        )
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
    assert out.is_dir() or out.read_text() == "mine"


def test_values_beyond_half_precision(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = nano_state()
    key = "image_encoder.trunk.blocks.0.norm1.weight"
    options = ["--config", sources.folder / "nano.json", "--mlx-path", tmp_path / "x"]
    write_torch(tmp_path / "big.pt", {**state, key: state[key] * np.float32(1e5)})
    said = refused(capsys, "--hf-path", tmp_path / "big.pt", *options)
    assert f"{key} has values beyond the range of float16: use --dtype bfloat16 or float32" in said
    write_torch(tmp_path / "nan.pt", {**state, key: state[key] * np.float32("nan")})
    assert f"{key} holds infinities or NaN" in refused(capsys, "--hf-path", tmp_path / "nan.pt", *options)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.pt", "nan.pt"]
    done(capsys, "--hf-path", tmp_path / "big.pt", *options, "--dtype", "bfloat16")


def test_the_image_half_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Converts and goes back to transformers' Sam2Model; the official code has no such thing."""
    image = {key: value for key, value in nano_state().items() if not key_map.is_video_only(key)}
    config = transformers_config()
    write_transformers(tmp_path / "hf", image, config)
    done(capsys, "--hf-path", tmp_path / "hf", "--mlx-path", tmp_path / "x", "--dtype", "float32")
    done(capsys, "--hf-path", tmp_path / "x", "--mlx-path", tmp_path / "back", "--to", "transformers")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model_type"] == "sam2"
    assert loading.read(tmp_path / "back").weights.keys() == image.keys()
    said = refused(capsys, "--hf-path", tmp_path / "x", "--mlx-path", tmp_path / "x.pt", "--to", "official")
    assert "image half" in said
    card = (tmp_path / "x" / "README.md").read_text()
    assert "mlx_sam2.segment" in card
    assert "mlx_sam2.track" not in card, "a command that this model refuses"


# ---- interrupted, and on a full disk


def converting(sources: Sources, out: Path, hold: str) -> subprocess.Popen[str]:
    """The command in a process that stops before the ``hold``-th tensor until it is killed."""
    script = f"""
import signal, sys, time
from pathlib import Path
from mlx_sam2.convert import command
from mlx_sam2.formats import safetensors_writer
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started the tests in the background
plain, count = safetensors_writer.Tensor.data, 0
def data(self):
    global count
    count += 1
    if count == {hold}:
        print("holding", flush=True)
        time.sleep(60)
    return plain(self)
safetensors_writer.Tensor.data = data
sys.exit(command.main(sys.argv[1:]))
"""
    options = command(*sources.options("official"), "--mlx-path", out)
    options["args"] = [sys.executable, "-c", script, *options["args"][3:]]
    process = subprocess.Popen(**options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n", process.stderr.read()
    return process


def test_killed(sources: Sources, tmp_path: Path) -> None:
    """No folder under the name; in what is left nothing loads, not even by its published shapes."""
    process = converting(sources, tmp_path / "x", "370")
    process.kill()
    process.wait()
    assert not (tmp_path / "x").exists()
    left = [p for p in tmp_path.rglob("*") if p.is_dir()]
    assert left
    for folder in left:
        with pytest.raises(loading.CheckpointError, match="holds no weights"):
            loading.load(folder, config=nano_config())
    assert run(*sources.options("official"), "--mlx-path", tmp_path / "x").returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x"], "what the killed run left is still there"
    loading.load(tmp_path / "x")


def test_stopped(sources: Sources, tmp_path: Path) -> None:
    """Ctrl-C leaves nothing at all."""
    process = converting(sources, tmp_path / "x", "100")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk(sources: Sources, tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands in for a full disk: the system refuses to write on."""
    import resource

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    for options in ([], ["--to", "official"], ["-q"]):
        out = tmp_path / ("x.pt" if "--to" in options else "x")
        ran = subprocess.run(
            **command(*sources.options("mlx"), "--mlx-path", out, *options),
            preexec_fn=limit,
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 1
        assert ran.stderr == f"mlx_sam2.convert: error: cannot write {out}: File too large\n"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.chmod(0o500)
    for out in (tmp_path / "x", tmp_path / "deep" / "er" / "x"):
        said = refused(capsys, *sources.options("mlx"), "--mlx-path", out, code=1)
        assert f"cannot write {out}: Permission denied" in said


@pytest.mark.parametrize("name", ["\N{SMILING FACE WITH HALO}" * 60, "with spaces and 'quotes\"", "-x", "two\nlines"])
def test_odd_names(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """60 times four bytes, signs of the shell, an option, a line break."""
    shutil.copytree(sources.paths["mlx"], tmp_path / name)
    done(capsys, "--hf-path", tmp_path / name, f"--mlx-path={tmp_path / 'out' / name}")
    assert os.listdir(tmp_path / "out") == [name]
    loading.load(tmp_path / "out" / name)


def test_the_door_at_the_top() -> None:
    ran = subprocess.run([sys.executable, ROOT / "convert.py", "--help"], capture_output=True, text=True, cwd="/")
    assert ran.returncode == 0
    assert ran.stdout.startswith("usage: python -m mlx_sam2.convert")


def test_a_card_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is read-only is sent only if its card bears the right name already."""
    (tmp_path / "README.md").write_text('predictor = SAM2ImagePredictor.from_pretrained("me/x")\n')

    def read_only(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(args[0]))

    monkeypatch.setattr(Path, "write_text", read_only)
    convert_card.readdress_file(tmp_path / "README.md", "me/x")
    with pytest.raises(OSError, match=r"cannot write .*README.md, which has to name me/y: Permission denied"):
        convert_card.readdress_file(tmp_path / "README.md", "me/y")


def test_below_a_file(sources: Sources, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    said = refused(capsys, *sources.options("mlx"), "--mlx-path", tmp_path / "file" / "x", code=1)
    assert f"cannot write {tmp_path / 'file' / 'x'}: Not a directory" in said


# ---- verification


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


# ---- memory and time of loading


PEAK = """
import sys
from mlx_sam2.checkpoint import loading
from mlx_sam2.convert import command, conversion, verify
def peak():  # of this process alone: ru_maxrss would begin with that of the parent
    status = open("/proc/self/status").read()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
before = peak()
print(eval(sys.argv[1]), peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory(tmp_path: Path) -> None:
    """A checkpoint of 50 MB: converting takes a few of its tensors, loading the model and little more.

    Measured above the imports, in MB: converting 11 to 17, loading 56 from float32 and 31 from float16.
    """
    wide = 40_000  # the MLPs of the mask decoder
    decoder = {**nano_config().decoder.to_dict(), "mlp_dim": wide}
    config = SAM2Config.from_dict({**nano_config().to_dict(), "decoder": decoder})
    state = {key: np.full(shape, 0.1, np.float32) for key, shape in parameter_shapes(config).items()}
    whole, largest = sum(v.nbytes for v in state.values()), max(v.nbytes for v in state.values())
    assert whole > 45e6
    values = transformers_config()
    values["mask_decoder_config"]["mlp_dim"] = wide
    write_torch(tmp_path / "x.pt", state)
    write_transformers(tmp_path / "hf", state, values)
    (tmp_path / "x.json").write_text(json.dumps(config.to_dict()))
    peaks = {}
    for name, expression in {
        "from .pt": "command.main('--hf-path x.pt --config x.json --mlx-path half'.split())",
        "packed": "command.main('--hf-path hf -q --mlx-path q'.split())",
        "to .pt": "command.main('--hf-path half --to official --mlx-path b.pt'.split())",
        "load float32": "int(loading.load('hf', dtype='float32') is None)",
        "load half": "int(loading.load('half', dtype='float16') is None)",
        "load float32 as half": "int(loading.load('hf', dtype='float16') is None)",
    }.items():
        options = {**command(cwd=tmp_path), "args": [sys.executable, "-c", PEAK, expression]}
        ran = subprocess.run(**options, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        code, peak = map(int, ran.stdout.split()[-2:])
        assert code == 0, ran.stdout
        peaks[name] = peak
    print({name: f"{peak / 1e6:.1f} MB" for name, peak in peaks.items()}, f"{whole / 1e6:.1f}, {largest / 1e6:.1f}")
    for name in ("from .pt", "packed", "to .pt"):
        assert peaks[name] < whole, name  # the bound is the checkpoint and its largest tensor
    for name, model in (("load float32", whole), ("load half", whole / 2), ("load float32 as half", whole / 2)):
        assert peaks[name] < model + 3 * largest, name

"""Exported functions: imported again they give the model's numbers; with kernels, the kernels are in them."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import synthetic
from mlx_sam2 import SAM2ImagePredictor
from mlx_sam2.export import command, functions
from mlx_sam2.images import preprocess
from mlx_sam2.kernels import dispatch, rules
from mlx_sam2.model.resize import resize_bilinear
from mlx_sam2.model.sam2 import SAM2
from processes import run_command

ROOT = Path(__file__).parents[2]
NO_METAL = pytest.mark.skipif(mx.metal.is_available(), reason="this machine has Metal")
FILES = ["image_encoder.mlxfn", "manifest.json", "mask_decoder.mlxfn"]


def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    given = env if rules.VARIABLE in env else {**env, rules.VARIABLE: ""}
    return run_command("export", *args, **given)


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def encode(folder: Path, picture: np.ndarray) -> list[mx.array]:
    """As an app does it, with what the manifest says."""
    manifest = manifest_of(folder)
    said, size = manifest["preprocessing"], manifest["image_size"]
    resized = resize_bilinear(mx.array(picture.astype(np.float32) / 255)[None], (size, size), antialias=True)
    pixels = (resized - mx.array(said["mean"])) / mx.array(said["std"])
    return mx.import_function(str(folder / "image_encoder.mlxfn"))(pixels)


PROMPTS = {
    "click": {"point_coords": [[70, 120]], "point_labels": [1]},
    "box": {"box": [30, 80, 140, 190]},
    "box and click": {"box": [30, 80, 140, 190], "point_coords": [[60, 100]], "point_labels": [0]},
}


@pytest.mark.parametrize("with_mask", [False, True], ids=["", "mask"])
@pytest.mark.parametrize("name", PROMPTS)
def test_the_numbers_of_the_predictor(exported: Path, nano_model: SAM2, name: str, with_mask: bool) -> None:
    picture, prompt = synthetic.picture(300, 200), PROMPTS[name]
    predictor = SAM2ImagePredictor(nano_model)
    rough = np.where(np.add.outer(np.arange(64), np.arange(64)) < 60, 5.0, -5.0).astype(np.float32)
    given = {"mask_input": rough[None]} if with_mask else {}
    with dispatch.references_only():  # what is exported knows nothing of this machine's CPU either
        predictor.set_image(picture)
        _, ious, low = predictor.predict(**prompt, **given)
        _, single_iou, single_low = predictor.predict(**prompt, **given, multimask_output=False)

    manifest = manifest_of(exported)
    corners = np.reshape(prompt.get("box", []), (-1, 2)).tolist()
    points = np.array([*corners, *prompt.get("point_coords", [])], np.float32)
    labels = np.array([2, 3][: len(corners)] + prompt.get("point_labels", []), np.int32)
    points = points / np.array([200, 300], np.float32) * np.float32(manifest["image_size"])
    inputs = [*encode(exported, picture), mx.array(points[None]), mx.array(labels[None])]
    inputs += [mx.array(rough[None, :, :, None])] if with_mask else []
    decode = mx.import_function(str(exported / "mask_decoder.mlxfn"))
    outputs = {
        entry["name"]: out
        for entry, out in zip(manifest["functions"]["mask_decoder"]["outputs"], decode(*inputs), strict=True)
    }
    # measured: 0, the same operations in the same order
    for ours, theirs in (
        (mx.clip(outputs["masks"][0], -32, 32), low),
        (outputs["ious"][0], ious),
        (mx.clip(outputs["single_mask"][0], -32, 32), single_low),
        (outputs["single_iou"][0], single_iou),
    ):
        np.testing.assert_allclose(np.array(ours), theirs, rtol=0, atol=1e-6)
    assert np.isfinite(outputs["object_score"].item())


def test_the_manifest_tells_the_truth(exported: Path, nano_model: SAM2) -> None:
    manifest = manifest_of(exported)
    assert (manifest["kernels"], manifest["dtype"], manifest["image_size"]) == ({}, "float32", 256)
    assert manifest["mlx"] == mx.__version__
    assert manifest["preprocessing"]["mean"] == list(preprocess.MEAN)
    assert manifest["preprocessing"]["std"] == list(preprocess.STD)
    encoder, decoder = (manifest["functions"][name] for name in ("image_encoder", "mask_decoder"))
    dtypes = {"float32": mx.float32, "int32": mx.int32}
    for n in (1, decoder["max_points"]):
        for skip_optional in (False, True):
            for entry in (encoder, decoder):
                wanted = [i for i in entry["inputs"] if not (skip_optional and i.get("optional"))]
                shapes = [[n if side == "N" else side for side in i["shape"]] for i in wanted]
                inputs = [mx.ones(shape, dtypes[i["dtype"]]) for shape, i in zip(shapes, wanted, strict=True)]
                outputs = mx.import_function(str(exported / entry["file"]))(*inputs)
                said = [(tuple(o["shape"]), dtypes[o["dtype"]]) for o in entry["outputs"]]
                assert [(o.shape, o.dtype) for o in outputs] == said
    too_many = [mx.ones([decoder["max_points"] + 1 if s == "N" else s for s in i["shape"]]) for i in decoder["inputs"]]
    with pytest.raises(ValueError, match="No imported function found which matches"):
        mx.import_function(str(exported / decoder["file"]))(*too_many)


def test_weights_are_there_once(tmp_path: Path) -> None:
    nano_model = synthetic.nano_model()
    nano_model.set_dtype(mx.float16)  # lazy: neither the float32 weights nor the conversion belong into the files
    sizes = []
    for count in (1, 4):
        folder = tmp_path / str(count)
        folder.mkdir()
        functions.export(nano_model, folder, with_kernels=False, max_points=count)
        sizes.append({name: (folder / name).stat().st_size for name in FILES})
    weights = dict(tree_flatten(nano_model.parameters()))
    encoder = sum(value.nbytes for name, value in weights.items() if name.startswith("image_encoder"))
    decoder = sum(value.nbytes for name, value in weights.items() if name.startswith("sam_"))
    assert encoder < sizes[0]["image_encoder.mlxfn"] < 1.1 * encoder
    assert decoder < sizes[0]["mask_decoder.mlxfn"] < 1.2 * decoder  # twice the graph, some 70 kB each
    assert sizes[1]["mask_decoder.mlxfn"] - sizes[0]["mask_decoder.mlxfn"] < 6 * 0.1 * decoder  # six more


# ---- kernels


@NO_METAL
def test_kernels_are_in_the_files(nano_model: SAM2, model_folder: str, tmp_path: Path) -> None:
    done = run("--model", model_folder, "--output", tmp_path / "nano", "--max-points", "1")
    assert done.returncode == 0
    assert done.stderr.startswith("mlx_sam2.export: note: no Metal here: the kernels are in the files unchecked")
    assert done.stderr.count("\n") == 1
    manifest = manifest_of(tmp_path / "nano")

    found: list[str] = []
    pixels = mx.zeros((1, 256, 256, 3))
    with dispatch.tracing_for_metal():
        mx.export_function(
            lambda r: found.append(r["arguments"][1]) if r.get("name") == "CustomKernel" else None,
            functions.encoder_function(nano_model),
            pixels,
        )
    blocks = nano_model.image_encoder.trunk.blocks
    expected = {
        "mask_unit_attention": sum(block.attn.window > 0 for block in blocks),
        "shifted_layer_norm": 2 * len(blocks),
    }
    assert manifest["kernels"].items() >= expected.items()
    assert len(found) == sum(expected.values())
    content = (tmp_path / "nano" / "image_encoder.mlxfn").read_bytes()
    assert content.count(b"CustomKernel") == len(found)
    for source in found:
        assert source.encode() in content
    with pytest.raises(ValueError, match="gpu"):  # what the note says: it loads on a Mac only
        mx.import_function(str(tmp_path / "nano" / "image_encoder.mlxfn"))


@NO_METAL
def test_the_variable_turns_them_off(model_folder: str, tmp_path: Path) -> None:
    done = run("--model", model_folder, "--output", tmp_path / "nano", "--max-points", "1", MLX_SAM2_KERNELS="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert manifest_of(tmp_path / "nano")["kernels"] == {}


# ---- bad input


@pytest.mark.slow
def test_an_existing_output(model_folder: str, exported: Path, tmp_path: Path) -> None:
    call = ("--model", model_folder, "--no-kernels", "--max-points", "1", "--output")
    before = {name: (exported / name).read_bytes() for name in FILES}
    done = run(*call, exported)
    assert done.returncode == 2
    assert (
        done.stderr == f"mlx_sam2.export: error: {exported} exists: give another name, or --overwrite to replace it\n"
    )
    assert {name: (exported / name).read_bytes() for name in FILES} == before

    other = tmp_path / "photos"
    other.mkdir()
    (other / "holiday.jpg").write_text("precious")
    for target in (other, other / "holiday.jpg"):
        done = run(*call, target, "--overwrite")
        assert done.returncode == 2
        assert f"{target} is not what an export wrote: --overwrite does not replace it" in done.stderr
    assert (other / "holiday.jpg").read_text() == "precious"

    mine = tmp_path / "mine"
    assert run(*call, mine).returncode == 0
    (mine / "manifest.json").write_text("{}")
    assert run(*call, mine, "--overwrite").returncode == 0
    assert manifest_of(mine)["functions"]["mask_decoder"]["max_points"] == 1
    assert sorted(os.listdir(tmp_path)) == ["mine", "photos"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "the following arguments are required: --output"),
        (["--output", "x", "--max-points", "0"], "'0' is not a whole number from 1 to 64"),
        (["--output", "x", "--model", "nosuch"], "no model is called 'nosuch'"),
        (["--output", "x", "--model", "/no/such"], "no such file or folder: /no/such"),
    ],
)
def test_bad_input(args: list[str], message: str, tmp_path: Path) -> None:
    args = [str(tmp_path / "x") if a == "x" else a for a in args]
    done = run(*args)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("mlx_sam2.export: error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full(model_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Here: a limit on the size of files."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        code = command.main(["--model", model_folder, "--output", str(tmp_path / "nano"), "--no-kernels"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    captured = capsys.readouterr()
    assert (code, captured.out) == (1, "")
    assert captured.err.startswith("mlx_sam2.export: error: image_encoder.mlxfn cannot be written")
    assert captured.err.count("\n") == 1
    assert os.listdir(tmp_path) == []

"""EdgeTAM as a user runs it: ``track`` and ``segment`` with checkpoints of each layout, packed, adapted; policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

import edgetam_files
import synthetic_edgetam
from checkpoint_files import parameter_shapes, transformers_config, write_torch
from mlx_sam2.checkpoint.adapter import FILE, LORA_A, LORA_B, Adapter, write_adapter
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.convert.command import main as convert
from mlx_sam2.masks import rle_to_mask
from mlx_sam2.segment.command import main as segment
from mlx_sam2.track.command import main as track
from track_command import HEIGHT, POINT, WIDTH, write_frames

pytestmark = pytest.mark.slow

CLICK = f"1:{POINT[0]},{POINT[1]}"
ADAPTED = "memory_attention.layers.0.linear1.weight", "image_encoder.neck.convs.1.conv.bias"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The small EdgeTAM: transformers' folder, ours, ours in 8 bits; an adapter, and ours with it merged."""
    folder = tmp_path_factory.mktemp("edgetam")
    found = edgetam_files.write(folder, synthetic_edgetam.nano_state(), transformers_config("edgetam_nano"))
    parameters = dict(tree_flatten(synthetic_edgetam.nano_model().parameters()))
    random = np.random.default_rng(0)
    matrix, bias = (parameters[name] for name in ADAPTED)
    pair = [mx.array(random.standard_normal(s, dtype=np.float32)) for s in ((2, matrix.shape[1]), (len(matrix), 2))]
    tensors = {ADAPTED[0] + LORA_A: pair[0], ADAPTED[0] + LORA_B: pair[1], ADAPTED[1]: bias + 0.5}
    write_adapter(folder / FILE, Adapter(tensors, 0.25, {"base": "edgetam"}))
    found["adapter"] = folder / FILE
    wanted = {"mlx": ["--dtype", "float32"], "8bit": ["-q", "--q-group-size", "32"]}
    wanted["merged"] = ["--dtype", "float32", "--merge-adapter", found["adapter"]]
    for name, options in wanted.items():
        found[name] = folder / name
        words = ["--hf-path", found["transformers"], "--mlx-path", found[name], *options]
        assert convert(list(map(str, words))) == 0
    return found


@pytest.fixture(scope="module")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_frames(tmp_path_factory.mktemp("clip") / "clip", 3)


def tracked(clip: Path, model: Path, out: Path, *options: Any) -> np.ndarray:
    """(T, H, W) bool: the masks of the only object."""
    out = out.with_suffix(".jsonl")
    prompt = () if "--reference" in options else ("--point", CLICK)
    words = [clip, *prompt, "--model", model, "--dtype", "float32", "--output", out, *options]
    assert track(list(map(str, words))) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert all([one["id"] for one in line["objects"]] == [1] for line in lines)
    return np.stack([rle_to_mask(line["objects"][0]["rle"]) for line in lines])


def test_each_layout_packed_or_not(models: dict[str, Path], short_clip: Path, tmp_path: Path) -> None:
    found = {name: tracked(short_clip, models[name], tmp_path / name) for name in ("transformers", "mlx", "8bit")}
    np.testing.assert_array_equal(found["mlx"], found["transformers"])
    assert found["mlx"].any() and not found["mlx"].all()
    both, either = (f(found["mlx"], found["8bit"]).sum() for f in (np.logical_and, np.logical_or))
    assert both / either > 0.9  # measured: 0.98


def test_an_adapter_is_applied_as_it_is_merged(models: dict[str, Path], short_clip: Path, tmp_path: Path) -> None:
    applied = tracked(short_clip, models["mlx"], tmp_path / "a", "--adapter", models["adapter"])
    np.testing.assert_array_equal(applied, tracked(short_clip, models["merged"], tmp_path / "b"))
    assert not np.array_equal(applied, tracked(short_clip, models["mlx"], tmp_path / "c"))
    photo, click = short_clip / "00000.jpg", ["--point", f"{POINT[0]},{POINT[1]}", "--dtype", "float32"]
    masks = []
    for name, options in (("mlx", ["--adapter", models["adapter"]]), ("merged", []), ("mlx", [])):
        target = tmp_path / f"{len(masks)}.png"
        assert segment(list(map(str, [photo, *click, "--model", models[name], "--output", target, *options]))) == 0
        masks.append(np.asarray(Image.open(target)))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])


@pytest.mark.parametrize("policy", ["samurai", "dam4sam"])
def test_memory_policies(models: dict[str, Path], short_clip: Path, tmp_path: Path, policy: str) -> None:
    assert len(tracked(short_clip, models["mlx"], tmp_path / "a", "--memory-policy", policy)) == 3


def test_an_object_from_elsewhere(models: dict[str, Path], short_clip: Path, tmp_path: Path) -> None:
    saved = tmp_path / "object.safetensors"
    tracked(short_clip, models["mlx"], tmp_path / "a", "--save-reference", f"1:{saved}")
    found = [tracked(short_clip, models["mlx"], tmp_path / n, "--reference", f"1:{saved}") for n in "bc"]
    assert len(found[0]) == 3
    np.testing.assert_array_equal(found[0], found[1])


def test_the_published_size_in_each_layout(tmp_path: Path) -> None:
    """``edgetam.pt`` alone says what it is; two frames of a clip."""
    config = PUBLISHED["edgetam"].config
    shapes = parameter_shapes(config)
    counters = [key.removesuffix("running_mean") for key in shapes if key.endswith(".running_mean")]
    state = synthetic_edgetam.make_state({**shapes, **{f"{k}num_batches_tracked": () for k in counters}}, 3)
    models = {"official": write_torch(tmp_path / "edgetam.pt", state)}
    for name, options in {"transformers": ["--to", "transformers"], "edgetam-8bit": ["-q"]}.items():
        models[name] = tmp_path / name
        words = ["--hf-path", str(models["official"]), "--mlx-path", str(models[name]), *options]
        assert convert(words) == 0
    clip = write_frames(tmp_path / "clip", 2)
    found = {name: tracked(clip, path, tmp_path / name) for name, path in models.items()}
    np.testing.assert_array_equal(found["official"], found["transformers"])
    assert found["official"].shape == found["edgetam-8bit"].shape == (2, HEIGHT, WIDTH)

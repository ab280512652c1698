"""Checkpoints of every kind: the same parameters bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

import mlx_sam2
from checkpoint_files import (
    Tensor,
    transformers_config,
    write_archive,
    write_torch,
    write_transformers,
)
from checkpoint_layouts import LAYOUTS, State, assert_same, official, ours, parameters, refusal, transformers
from mlx_sam2.checkpoint import key_map, loading
from mlx_sam2.checkpoint.tensors import CheckpointError
from mlx_sam2.config.parts import ConfigError
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.model.sam2 import SAM2
from synthetic import config_dict, nano_config, nano_state


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bits(tmp_path: Path, layout: str, expected: State) -> None:
    path, config = LAYOUTS[layout](tmp_path)
    model = loading.load(path, config=config, dtype="float32")
    assert_same(model, expected)
    assert model.config == nano_config()
    half = loading.load(path, config=config, dtype="float16")
    kept = loading.KEPT_FLOAT32
    assert_same(half, {k: value.astype(np.float32 if k in kept else np.float16) for k, value in expected.items()})


def test_a_file_within_a_folder_finds_its_configuration(tmp_path: Path, expected: State) -> None:
    folder, _ = ours(tmp_path)
    assert_same(mlx_sam2.load(str(folder / "model.safetensors"), dtype=mx.float32), expected)


def test_other_dtypes_in_the_file(tmp_path: Path) -> None:
    """float16 stays exact in float32, bfloat16 too; float64 is rounded once."""
    state = nano_state()
    key = "no_mem_embed"
    for kind in (np.float16, np.float64):
        path = write_torch(tmp_path / "x.pt", {**state, key: state[key].astype(kind)})
        model = loading.load(path, config=nano_config(), dtype="float32")
        np.testing.assert_array_equal(np.array(model.no_mem_embed), state[key].astype(kind).astype(np.float32))
    bits = (state[key].view(np.uint32) >> 16).astype(np.uint16)
    tensors, storages = {}, {}
    for index, (name, value) in enumerate({**state, key: bits}.items()):
        strides = tuple(s // value.itemsize for s in np.empty(value.shape, value.dtype).strides)
        kind = "BFloat16Storage" if name == key else "FloatStorage"
        tensors[name] = Tensor(kind, str(index), value.size, 0, value.shape, strides)
        storages[str(index)] = value.tobytes()
    path = write_archive(tmp_path / "y.pt", {"model": tensors}, storages)
    model = loading.load(path, config=nano_config(), dtype="float32")
    np.testing.assert_array_equal(np.array(model.no_mem_embed).view(np.uint32), bits.astype(np.uint32) << 16)


def test_the_image_half_alone(tmp_path: Path, expected: State) -> None:
    """Sam2Model saves no video weights: the model lacks those modules instead of inventing them."""
    image = {key: value for key, value in nano_state().items() if not key_map.is_video_only(key)}
    config = transformers_config()
    model = loading.load(write_transformers(tmp_path / "hf", image, config), dtype="float32")
    assert_same(model, {key: value for key, value in expected.items() if key in image})
    assert "memory_attention" not in model
    loading.save(model, tmp_path / "ours")
    assert_same(loading.load(tmp_path / "ours", dtype="float32"), parameters(model))


def test_a_given_configuration_comes_before_the_one_beside_the_weights(tmp_path: Path, expected: State) -> None:
    folder, _ = ours(tmp_path)
    (folder / "config.json").write_text('{"model_type": "vit"}')
    assert_same(loading.load(folder, config=nano_config(), dtype="float32"), expected)
    save_file(nano_state(), folder / "x.safetensors")
    assert "cannot tell which model" in refusal(folder / "x.safetensors")  # not its configuration


def test_two_different_position_matrices(tmp_path: Path) -> None:
    folder, _ = transformers(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors[key_map.POSITION_COPIES[1]] = tensors[key_map.POSITION_COPIES[1]] + 1
    save_file(tensors, folder / "model.safetensors")
    assert "differ" in refusal(folder)


# ---- key map


def test_names_are_invertible() -> None:
    for key in nano_state():
        if key in key_map.POINT_ROWS:
            with pytest.raises(KeyError):
                key_map.to_transformers(key)
        else:
            assert key_map.from_transformers(key_map.to_transformers(key)) == key
    for stray in ("mask_decoder.transformer.layers.0.norm1.weight", "image_encoder.trunk.pos_embed", "x", ""):
        assert key_map.from_transformers(stray) is None


def test_layouts_are_invertible() -> None:
    """A kernel, a depthwise and a transposed one, a position grid; and nothing else moves."""
    state = nano_state()
    moved = key_map.from_official(state)
    for key, value in key_map.to_official(moved).items():
        assert value.shape == state[key].shape, key
        np.testing.assert_array_equal(value, state[key])
    o, i, y, x = 3, 1, 2, 1
    key = "image_encoder.trunk.patch_embed.proj.weight"
    assert moved[key][o, y, x, i] == state[key][o, i, y, x]
    key = "memory_encoder.fuser.layers.1.dwconv.weight"
    assert moved[key][o, y, x, 0] == state[key][o, 0, y, x]
    key = "sam_mask_decoder.output_upscaling.0.weight"
    assert moved[key][o, 1, 0, i] == state[key][i, o, 1, 0]
    key = "image_encoder.trunk.pos_embed_window"
    assert moved[key][0, y, x, o] == state[key][0, o, y, x]
    spatial = [key for key, value in state.items() if value.ndim == 4 and key != "maskmem_tpos_enc"]
    assert [key for key in state if key_map.mlx_axes(key)] == spatial


# ---- which model it is


def published_shapes(name: str) -> loading.Checkpoint:
    """A published checkpoint by names and shapes alone."""

    def nothing() -> mx.array:
        raise AssertionError("no weight is read to recognise a model")

    weights = {}
    for key, value in tree_flatten(SAM2(PUBLISHED[name].config).parameters()):
        axes = key_map.torch_axes(key)
        shape = tuple(value.shape[a] for a in axes) if axes else tuple(value.shape)
        weights[key] = loading.Weight(key, shape, "float32", key_map.mlx_axes(key), nothing)
    return loading.Checkpoint(Path("x.pt"), "official", weights, (), None, {})


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_are_recognised(name: str) -> None:
    assert loading.recognise(published_shapes(name)) == PUBLISHED[name].config


def test_what_is_not_recognised_asks_for_its_configuration(tmp_path: Path, expected: State) -> None:
    path, config = official(tmp_path)
    said = refusal(path)
    assert "cannot tell which model" in said
    assert "pass config=" in said
    (tmp_path / "config.yaml").write_text(json.dumps(config_dict()))  # JSON is YAML
    (tmp_path / "config.json").write_text(json.dumps(nano_config().to_dict()))
    for given in (config, config_dict(), tmp_path / "config.json", str(tmp_path / "config.yaml")):
        if str(given).endswith("yaml"):
            pytest.importorskip("yaml", reason="PyYAML is not installed")
        assert_same(loading.load(path, config=given, dtype="float32"), expected)
    assert "missing" in refusal(path, config="tiny")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CheckpointError, match=r"pipe\.pt is neither a file nor a folder"):
        loading.read(tmp_path / "pipe.pt")


def test_configurations_by_name() -> None:
    assert loading.read_config("sam2-base-plus") == PUBLISHED["sam2_hiera_base_plus"].config
    with pytest.raises(ConfigError, match="neither a file nor a published model"):
        loading.read_config("huge")

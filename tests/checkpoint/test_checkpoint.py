"""Checkpoints of every kind: the same parameters bit for bit, strict keys, one line for what is wrong."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

import mlx_sam2
from checkpoint_files import (
    Raw,
    Tensor,
    global_op,
    pickled,
    transformers_config,
    write_archive,
    write_torch,
    write_transformers,
)
from mlx_sam2.checkpoint import key_map, loading
from mlx_sam2.checkpoint.reader import CheckpointError
from mlx_sam2.config.parts import ConfigError
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.model.sam2 import SAM2
from synthetic import config_dict, nano_config, nano_state

State = dict[str, np.ndarray]
VIDEO_STATE = "memory_attention.layers.0.linear1.weight"


def parameters(model: SAM2) -> dict[str, np.ndarray]:
    return {key: np.array(value) for key, value in tree_flatten(model.parameters())}


def assert_same(model: SAM2, expected: State) -> None:
    found = parameters(model)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert found[key].shape == value.shape, key
        assert found[key].tobytes() == value.tobytes(), key


@pytest.fixture(scope="module")
def expected() -> State:
    """The parameters that every layout must give, by way of numpy alone."""
    return {key: np.ascontiguousarray(value) for key, value in key_map.from_official(nano_state()).items()}


def refusal(path: str | Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        loading.load(path, dtype="float32", **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message.replace(str(path), "")  # pytest puts the test's name into it


# ---- the three layouts


def ours(folder: Path) -> tuple[Path, SAM2Config | None]:
    config = nano_config()
    model = SAM2(config)
    weights = {key: mx.array(value) for key, value in key_map.from_official(nano_state()).items()}
    model.load_weights(list(weights.items()))
    loading.save(model, folder / "ours")
    return folder / "ours", None


def official(folder: Path) -> tuple[Path, SAM2Config | None]:
    return write_torch(folder / "any name", nano_state()), nano_config()


def official_bare_in_parallel(folder: Path) -> tuple[Path, SAM2Config | None]:
    state = {f"module.{key}": value for key, value in nano_state().items()}
    return write_torch(folder / "x.pth", state, wrap=None), nano_config()


def official_safetensors(folder: Path) -> tuple[Path, SAM2Config | None]:
    save_file(nano_state(), folder / "x.safetensors")
    return folder / "x.safetensors", nano_config()


def official_with_config(folder: Path) -> tuple[Path, SAM2Config | None]:
    save_file(nano_state(), folder / "x.safetensors")
    (folder / "config.json").write_text(json.dumps(config_dict()))
    return folder, None


def transformers(folder: Path, **options: Any) -> tuple[Path, SAM2Config | None]:
    config = transformers_config()
    return write_transformers(folder / "hf", nano_state(), config, **options), None


LAYOUTS: dict[str, Callable[[Path], tuple[Path, SAM2Config | None]]] = {
    "ours": ours,
    "official": official,
    "official, bare, from DataParallel": official_bare_in_parallel,
    "official names in safetensors": official_safetensors,
    "official names in a folder with its configuration": official_with_config,
    "transformers": transformers,
    "transformers, first copy of the position matrix": lambda f: transformers(f, copies=(0,)),
    "transformers, second copy": lambda f: transformers(f, copies=(1,)),
    "transformers, shards": lambda f: transformers(f, shards=3),
}


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


# ---- strictness


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


# ---- dtype and saving


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

"""Weights in the wrappers that trainers and torch put around them, and files that hold several copies."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from checkpoint_files import Raw, global_op, pickled, transformers_state, write_torch
from checkpoint_layouts import State, assert_same, refusal
from mlx_sam2.checkpoint import loading
from synthetic import nano_config, nano_state


def prefixed(prefix: str, state: State | None = None) -> State:
    return {prefix + name: value for name, value in (state or nano_state()).items()}


def changed(state: State) -> State:
    """Other weights, as an average differs from what is averaged."""
    return {name: value + np.float32(1) for name, value in state.items()}


PREFIXES = [
    "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "model.", "sam2_model.", "sam.",
    "model.sam2_model.", "module.model.", "net.", "_forward_module.model.",
]  # fmt: skip


@pytest.mark.parametrize("wrap", ["model", "state_dict", "model_state_dict", None])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_come_off(tmp_path: Path, expected: State, prefix: str, wrap: str | None) -> None:
    path = write_torch(tmp_path / "x.pt", prefixed(prefix), wrap)
    assert_same(loading.load(path, config=nano_config(), dtype="float32"), expected)


def test_wrappers_within_names(tmp_path: Path, expected: State) -> None:
    """torch.compile and FSDP of one part put their names into the middle."""
    state = {}
    for name, value in nano_state().items():
        name = name.replace("image_encoder.", "image_encoder._orig_mod.")
        name = name.replace("memory_attention.layers.0.", "memory_attention.layers.0._fsdp_wrapped_module.")
        state[name.replace("mlp.", "_checkpoint_wrapped_module.mlp.")] = value
    path = write_torch(tmp_path / "x.pt", state)
    assert_same(loading.load(path, config=nano_config(), dtype="float32"), expected)


def test_prefixes_in_safetensors_and_of_transformers(tmp_path: Path, expected: State) -> None:
    save_file(prefixed("model."), tmp_path / "x.safetensors")
    assert_same(loading.load(tmp_path / "x.safetensors", config=nano_config(), dtype="float32"), expected)
    save_file(prefixed("module.sam.", transformers_state(nano_state())), tmp_path / "x.safetensors")
    assert_same(loading.load(tmp_path / "x.safetensors", config=nano_config(), dtype="float32"), expected)


NAMESPACE = Raw(global_op("argparse", "Namespace") + b")\x81}X\x02\0\0\0lrK\x01sb")  # as protocol 2 pickles it
SCALAR = Raw(
    global_op("numpy._core.multiarray", "scalar") + b"(" + global_op("numpy", "dtype") + pickled(("f8", False, True))
    + b"R" + pickled((3, "<")) + b"bX\x08\0\0\0\0\0\0\0\0\0\0\0tR"
)  # fmt: skip
WRAPPERS: dict[str, Callable[[State], dict[str, Any]]] = {
    "a trainer's": lambda s: {"epoch": 3, "model_state_dict": s, "optimizer": {"state": {0: {"exp_avg": s}}, "lr": 1}},
    "Lightning's": lambda s: {"state_dict": prefixed("model.", s), "hyper_parameters": {"lr": 3}, "global_step": 5},
    "of two layers": lambda s: {"checkpoint": {"model": s}},
    "DeepSpeed's": lambda s: {"module": s, "ds_config": {"a": "b"}},
    "arguments and a score": lambda s: {"model": s, "args": NAMESPACE, "best": SCALAR},
    "an optimizer by names": lambda s: {"optimizer": {"exp_avg": changed(s)}, "net": s},
    "a counter beside": lambda s: {**s, "epoch": 7},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers(tmp_path: Path, expected: State, wrapper: str) -> None:
    path = write_torch(tmp_path / "x.pt", WRAPPERS[wrapper](nano_state()), None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # there is one copy: nothing to tell
        assert_same(loading.load(path, config=nano_config(), dtype="float32"), expected)


@pytest.mark.parametrize("name", ["last.ckpt", "pytorch_model.bin"])
def test_a_folder_of_a_trainer(tmp_path: Path, expected: State, name: str) -> None:
    write_torch(tmp_path / name, prefixed("model."), "state_dict")
    assert_same(loading.load(tmp_path, config=nano_config(), dtype="float32"), expected)
    write_torch(tmp_path / "x.pt", nano_state())  # comes before
    (tmp_path / name).write_bytes(b"")
    assert_same(loading.load(tmp_path, config=nano_config(), dtype="float32"), expected)


# {contents: (labels, the one that is taken)}
SEVERAL: dict[str, tuple[Callable[[State], dict[str, Any]], str, str]] = {
    "beside": (lambda s: {"ema": changed(s), "model": s}, "ema", "model"),
    "within": (lambda s: {"model": s, "extra": {"ema_state_dict": changed(s)}}, "ema_state_dict", "model"),
    "in one dict": (
        lambda s: {"state_dict": {**prefixed("model_ema.", changed(s)), **prefixed("model.", s)}},
        "model_ema", "state_dict.model",
    ),
    "a student and its teacher": (
        lambda s: {**prefixed("teacher.", changed(s)), **prefixed("student.", s)}, "teacher", "student",
    ),
    "before what it averages": (lambda s: {"ema": changed(s), "net": s}, "ema", "net"),
    "in safetensors": (lambda s: {**prefixed("ema.", changed(s)), **s}, "ema", "the outermost"),
}  # fmt: skip


@pytest.mark.parametrize("case", SEVERAL)
def test_several_copies(tmp_path: Path, expected: State, case: str) -> None:
    """The weights themselves are taken and the user is told; weights_key takes the average."""
    make, average, taken = SEVERAL[case]
    if case == "in safetensors":
        path = tmp_path / "x.safetensors"
        save_file(make(nano_state()), path)
    else:
        path = write_torch(tmp_path / "x.pt", make(nano_state()), None)
    with pytest.warns(
        UserWarning, match=rf"^mlx_sam2: .*x\.\w+ holds 2 copies of the weights \(.*\): {taken} is taken"
    ):
        model = loading.load(path, config=nano_config(), dtype="float32")
    assert_same(model, expected)
    chosen = loading.load(path, config=nano_config(), dtype="float32", weights_key=average)
    assert_same(chosen, {name: value + np.float32(1) for name, value in expected.items()})


def test_a_copy_that_is_not_there(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "x.pt", {"model": nano_state(), "ema": {"model": changed(nano_state())}}, None)
    said = refusal(path, config=nano_config(), weights_key="swa")
    assert "no copy of the weights is called weights_key='swa'; it holds model, ema.model" in said
    for key in ("ema.model", "ema"):
        loading.load(path, config=nano_config(), weights_key=key)
    said = refusal(write_torch(tmp_path / "y.pt", {"a": {"ema": nano_state()}, "b": {"ema": nano_state()}}, None),
                   config=nano_config(), weights_key="ema")  # fmt: skip
    assert "2 copies of the weights fit weights_key='ema'; it holds a.ema, b.ema" in said


def test_tensors_beside_a_prefix(tmp_path: Path, expected: State) -> None:
    """Part of a larger model: nothing is left out unasked."""
    state = {**prefixed("model."), "criterion.weight": np.ones(3, np.float32)}
    path = write_torch(tmp_path / "x.ckpt", state, "state_dict")
    said = refusal(path, config=nano_config())
    assert "beside the model 'state_dict.model' that no SAM 2 has (criterion.weight)" in said
    assert "(--weights-key state_dict.model) leaves them out" in said
    assert_same(loading.load(path, config=nano_config(), dtype="float32", weights_key="model"), expected)


def test_names_that_fall_together(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "x.pt", {**nano_state(), "module.no_mem_embed": np.ones((1, 1, 32), np.float32)})
    assert "two of its tensors have the same name without wrappers: no_mem_embed" in refusal(path, config=nano_config())


def test_labels_are_safe_to_print(tmp_path: Path) -> None:
    """They are names out of a stranger's file."""
    odd = "\x1b[2J\u202e" + "x" * 5000 + "\n"
    path = write_torch(tmp_path / "x.pt", {"model": nano_state(), "other": prefixed(f"{odd}.")}, None)
    said = refusal(path, config=nano_config(), weights_key="ema")
    assert said.isprintable()
    assert "it holds model, other.\\x1b[2J\\u202exxx" in said
    said = refusal(write_torch(tmp_path / "y.pt", {**prefixed(f"{odd}."), f"{odd}y": np.ones(1, np.float32)}))
    assert said.isprintable()


def test_copies_without_end(tmp_path: Path) -> None:
    many = {f"a{i}": {"image_encoder.x": np.ones(1, np.float32)} for i in range(500)}
    assert "over 16 copies" in refusal(write_torch(tmp_path / "x.pt", many))
    names = {f"a{i}.image_encoder.x": np.ones(1, np.float32) for i in range(2000)}
    save_file(names, tmp_path / "x.safetensors")
    assert "over 16 copies" in refusal(tmp_path / "x.safetensors")


@pytest.mark.slow
def test_files_of_torch_itself(tmp_path: Path, expected: State) -> None:
    """What torch.compile, AveragedModel and a training script put into a file, as torch writes it."""
    torch = pytest.importorskip("torch", reason="needs the extra `reference`: pip install -e '.[reference]'")

    class Node(torch.nn.Module):
        """A module whose state dict has given names."""

        def __init__(self, state: State) -> None:
            super().__init__()
            children: dict[str, State] = {}
            for name, value in state.items():
                first, _, rest = name.partition(".")
                if rest:
                    children.setdefault(first, {})[rest] = value
                else:
                    self.register_parameter(first, torch.nn.Parameter(torch.from_numpy(value.copy()), False))
            for first, inner in children.items():
                self.add_module(first, Node(inner))

    model = Node(nano_state())
    assert set(model.state_dict()) == set(nano_state())
    average = torch.optim.swa_utils.AveragedModel(Node(changed(nano_state())))
    beside = {"args": argparse.Namespace(lr=1e-4, out=Path("runs/1")), "best": np.float64(0.7), "sizes": np.arange(3)}
    compiled = torch.compile(model)
    assert all(name.startswith("_orig_mod.") for name in compiled.state_dict())
    torch.save({"model": compiled.state_dict(), "ema": average.state_dict(), **beside}, tmp_path / "x.pt")
    with pytest.warns(UserWarning, match=r"\(model, ema\): model is taken"):
        assert_same(loading.load(tmp_path / "x.pt", config=nano_config(), dtype="float32"), expected)
    averaged = loading.load(tmp_path / "x.pt", config=nano_config(), dtype="float32", weights_key="ema")
    assert_same(averaged, {name: value + np.float32(1) for name, value in expected.items()})


# ---- others


FAMILIES = {
    "SAM 1": ["image_encoder.pos_embed", "image_encoder.blocks.0.norm1.weight", "mask_decoder.iou_token.weight"],
    "SAM 1 (of transformers)": ["vision_encoder.layers.0.attn.qkv.weight", "mask_decoder.iou_token.weight"],
    "MobileSAM": ["image_encoder.patch_embed.seq.0.c.weight", "mask_decoder.iou_token.weight"],
    "HQ-SAM,": ["image_encoder.blocks.0.norm1.weight", "mask_decoder.hf_token.weight"],
    "HQ-SAM 2": ["image_encoder.trunk.blocks.0.norm1.weight", "sam_mask_decoder.hf_token.weight"],
    "SAM 3": ["detector.backbone.vision_backbone.trunk.blocks.0.norm1.weight", "tracker.maskmem_tpos_enc"],
    "SAM 3 (of": ["detector_model.vision_encoder.backbone.layers.0.layer_norm1.weight", "tracker_model.x"],
    "EfficientTAM": ["image_encoder.trunk.pos_embed", "image_encoder.trunk.blocks.0.attn.qkv.weight"],
    "a YOLO": ["model.0.conv.weight", "model.1.conv.weight"],
    "Grounding DINO": ["transformer.level_embed", "bbox_embed.0.layers.0.weight"],
}


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_named(tmp_path: Path, family: str, prefix: str) -> None:
    state = {prefix + name: np.ones((2, 2), np.float32) for name in FAMILIES[family]}
    said = refusal(write_torch(tmp_path / "sam.pth", state, None))
    assert f" is {family}" in said
    assert "use demo, tiny, small, base_plus, large" in said
    assert "config" not in said, "useless advice"
    save_file(state, tmp_path / "sam.safetensors")
    assert f" is {family}" in refusal(tmp_path / "sam.safetensors")


def test_a_pickled_model_of_ultralytics(tmp_path: Path) -> None:
    """FastSAM-s.pt and yolo11n.pt hold objects; saying how to save them again would not help."""
    model = Raw(global_op("ultralytics.nn.tasks", "SegmentationModel") + b")\x81")
    said = refusal(write_torch(tmp_path / "FastSAM-s.pt", {"model": model, "epoch": 1}, None))
    assert "is a model of Ultralytics, such as YOLO or FastSAM, and this is SAM 2" in said
    assert "re-save" not in said

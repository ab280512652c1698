"""Quantised layers: which ones, what becomes of odd widths, and models that hold them."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import synthetic
from mlx_sam2 import SAM2ImagePredictor, SAM2VideoPredictor
from mlx_sam2.checkpoint import loading
from mlx_sam2.checkpoint.tensors import CheckpointError
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.model import quantization
from mlx_sam2.model.quantization import Scheme
from mlx_sam2.model.sam2 import SAM2

EIGHT, FOUR = Scheme(64, 8), Scheme(32, 4)


def quantized(scheme: Scheme = EIGHT) -> SAM2:
    model = synthetic.nano_model()
    quantization.quantize(model, quantization.plan(model, scheme)[0])
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantized") / "nano-8bit"
    loading.save(quantized(), path)
    return path


# ---- which layers


def test_the_table_names_layers_that_exist() -> None:
    """Every pattern finds layers in the smallest and the largest model, all of them attention or MLP projections."""
    for name, model in ((name, PUBLISHED[name]) for name in ("sam2_hiera_tiny", "sam2.1_hiera_large")):
        frame = SAM2(model.config)
        chosen, left = quantization.plan(frame, Scheme(64, 4))
        for pattern in quantization.QUANTIZED:
            assert any(quantization.re.fullmatch(pattern, layer) for layer in [*chosen, *left]), (name, pattern)
        whole = sum(v.size for _, v in tree_flatten(frame.parameters()))
        packed = sum(dict(frame.named_modules())[layer].weight.size for layer in chosen)
        assert packed / whole > 0.75, name
        for part in ("norm", "embed", "conv", "head", "hypernetworks", "mask_decoder", "q_proj", "k_proj", "v_proj"):
            assert not any(part in layer for layer in chosen), (name, part)


@pytest.mark.parametrize(
    ("width", "wanted", "group"),
    [(768, 128, 128), (768, 64, 64), (96, 64, 32), (192, 128, 64), (224, 128, 32), (112, 64, None), (144, 32, None)],
)  # fmt: skip
def test_groups_that_fit(width: int, wanted: int, group: int | None) -> None:
    assert quantization.fitting_group(width, wanted) == group


def test_odd_widths_of_base_plus() -> None:
    """Its first stage is 112 wide, which no group divides; the second 224, which takes groups of 32."""
    model = SAM2(PUBLISHED["sam2.1_hiera_base_plus"].config)
    chosen, left = quantization.plan(model, Scheme(128, 4))
    widths = {name: layer.weight.shape[1] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    assert {widths[name] for name in left} == {112}
    assert {(widths[name], scheme.group_size) for name, scheme in chosen.items()} == {
        (224, 32), (448, 64), (896, 128), (1792, 128), (3584, 128), (256, 128), (2048, 128),
    }  # fmt: skip
    assert {scheme.bits for scheme in chosen.values()} == {4}


# ---- models


@pytest.mark.parametrize("scheme", [EIGHT, FOUR])
def test_packing_loses_no_more_than_a_step(scheme: Scheme) -> None:
    plain = dict(tree_flatten(synthetic.nano_model().parameters()))
    model = quantized(scheme)
    found = quantization.schemes_of(model)
    assert found
    weights = dict(tree_flatten(model.parameters()))
    for name, used in found.items():
        packed, scales, biases = (weights[f"{name}.{leaf}"] for leaf in ("weight", "scales", "biases"))
        error = mx.abs(quantization.unpack(packed, scales, biases, used) - plain[f"{name}.weight"])
        # measured 0.997: MLX moves the scale so that one end of the range is met, and clips at the other
        step = mx.repeat(mx.abs(scales), used.group_size, axis=1)
        assert (error <= 1.01 * step).all().item(), name


def test_a_quantised_folder_loads_like_any_other(folder: Path) -> None:
    expected = dict(tree_flatten(quantized().parameters()))
    model = loading.load(folder, dtype="float32")
    found = dict(tree_flatten(model.parameters()))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert value.dtype == found[key].dtype and mx.array_equal(value, found[key]).item(), key
    assert isinstance(model.image_encoder.trunk.blocks[4].attn.qkv, nn.QuantizedLinear)
    half = loading.load(folder, dtype="float16")
    assert half.dtype == mx.float16
    for key, value in tree_flatten(half.parameters()):
        wanted = mx.uint32 if expected[key].dtype == mx.uint32 else mx.float16
        assert value.dtype == (mx.float32 if key in loading.KEPT_FLOAT32 else wanted), key


def test_saving_again_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    loading.save(loading.load(folder, dtype="float32"), tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_images_and_options(folder: Path) -> None:
    """Both predictors take it; what they return is that of the weights the packed ones stand for."""
    model = loading.load(folder, dtype="float32")
    plain = synthetic.unquantized(model)
    changed = model.with_config(model.config.with_postprocessing(False))
    assert quantization.schemes_of(changed) == quantization.schemes_of(model)
    assert changed.dtype == mx.float32
    image = synthetic.picture()
    results = []
    for each in (model, changed, plain):
        predictor = SAM2ImagePredictor(each)
        predictor.set_image(image)
        _, scores, logits = predictor.predict(np.array([[90, 120]]), np.array([1]))
        results.append((logits, scores))
    for logits, scores in results[1:]:
        # measured: logits 2.9e-5, scores 9e-7, from the order of the sums
        np.testing.assert_allclose(logits, results[0][0], rtol=0, atol=2e-4)
        np.testing.assert_allclose(scores, results[0][1], rtol=0, atol=8e-6)
    with pytest.raises(ValueError, match="ask for another model"):
        model.with_config(PUBLISHED["sam2.1_hiera_tiny"].config)


def test_video(folder: Path) -> None:
    """Three frames with memory attention and pointers: as with the weights that the packed ones stand for."""
    frames = [synthetic.picture(96, 96, seed) for seed in (0, 1, 2)]
    model = SAM2VideoPredictor.from_pretrained(str(folder), dtype="float32").model
    logits = []
    for each in (model, synthetic.unquantized(model)):
        predictor = SAM2VideoPredictor(each)
        with predictor.init_state(frames) as state:
            predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=[[40, 50]], labels=[1])
            logits.append(np.stack([masks for _, _, masks in predictor.propagate_in_video(state)]))
    # measured 2e-5 on the first frame, 0.002 on the third: memories are rounded to bfloat16, and some flip
    np.testing.assert_allclose(logits[0], logits[1], rtol=0, atol=0.02)


def test_unquantize(folder: Path) -> None:
    """In place; the same parameters as by way of the tensors alone."""
    model = loading.load(folder, dtype="float32")
    expected = dict(tree_flatten(synthetic.unquantized(model).parameters()))
    quantization.unquantize(model)
    assert quantization.schemes_of(model) == {}
    found = dict(tree_flatten(model.parameters()))
    assert found.keys() == expected.keys()
    assert all(mx.array_equal(found[key], value).item() for key, value in expected.items())
    quantization.unquantize(model)  # nothing is left to do


def refusal(folder: Path, change: dict[str, mx.array | None]) -> str:
    """What loading says when tensors are replaced, or removed."""
    weights = mx.load(str(folder / "model.safetensors"))
    weights = {k: v for k, v in {**weights, **change}.items() if v is not None}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    with pytest.raises(CheckpointError) as caught:
        loading.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


LAYER = "image_encoder.trunk.blocks.4.attn.qkv"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({f"{LAYER}.scales": mx.zeros((192, 3))}, "not packed in 4 or 8 bits"),
        ({f"{LAYER}.scales": mx.zeros((192, 0))}, "not packed in 4 or 8 bits"),
        ({f"{LAYER}.scales": mx.zeros((192,))}, "not packed in 4 or 8 bits"),
        ({f"{LAYER}.weight": mx.zeros((192, 5), mx.uint32)}, "not packed in 4 or 8 bits"),
        ({f"{LAYER}.weight": mx.zeros((192, 16), mx.float32)}, "float32 instead of uint32"),
        ({f"{LAYER}.biases": None}, "1 missing"),
        ({f"{LAYER}.scales": None}, "1 unexpected"),
        ({"image_encoder.trunk.blocks.4.norm1.scales": mx.zeros((64, 1))}, "belongs to no linear layer"),
        ({"x.scales": mx.zeros((64, 1))}, "belongs to no linear layer"),
    ],
)  # fmt: skip
def test_packed_tensors_that_do_not_fit(tmp_path: Path, change: dict, said: str) -> None:
    loading.save(quantized(), tmp_path / "x")
    assert said in refusal(tmp_path / "x", change)


def test_the_mixed_recipe_packs_memory_in_fewer_bits() -> None:
    model = SAM2(PUBLISHED["sam2.1_hiera_tiny"].config)
    uniform, left = quantization.plan(model, quantization.Scheme(64, 8))
    mixed, also_left = quantization.plan(model, quantization.Scheme(64, 8), quantization.MIXED)
    assert (mixed.keys(), also_left) == (uniform.keys(), left)
    for name, scheme in mixed.items():
        assert scheme.group_size == uniform[name].group_size
        assert scheme.bits == (4 if name.startswith("memory_attention.") else 8), name

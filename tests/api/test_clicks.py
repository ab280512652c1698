"""Clicks on an encoded image: few tokens through the image's projections, and what is kept between clicks."""

from __future__ import annotations

import copy

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_sam2.config.parts import DecoderConfig
from mlx_sam2.model.derived import Derived
from mlx_sam2.model.layers import Attention
from mlx_sam2.model.mask_decoder import DoublingConv
from mlx_sam2.model.results import ImageFeatures
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.model.two_way_transformer import (
    ImageToTokenAttention,
    TokenToImageAttention,
    TwoWayAttentionBlock,
    TwoWayTransformer,
)
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from synthetic import nano_model as fresh_nano
from synthetic import normal, picture

TOL = 2e-5  # of features of order 1, measured: 2e-6


def array(key: str, *shape: int) -> mx.array:
    return mx.array(normal(key, shape, 0))


def with_weights(module: nn.Module) -> nn.Module:
    module.apply(lambda w: mx.array(normal(str(w.shape), tuple(w.shape), 1)) / w.shape[-1] ** 0.5)
    return module


def close(got: mx.array, expected: mx.array, tolerance: float = TOL) -> None:
    np.testing.assert_allclose(np.array(got), np.array(expected), rtol=0, atol=tolerance)


# ---- the attentions are those of the official code, without projecting the image


@pytest.mark.parametrize("count", [1, 4, 5])  # 2 heads * 4 tokens = 8 channels: 5 are too many to go the short way
@pytest.mark.parametrize("batch", [1, 3])
def test_attention_between_tokens_and_image(count: int, batch: int) -> None:
    tokens, more = array("t", batch, count, 16), array("m", batch, count, 16)
    image, placed = array("i", batch, 30, 16), array("p", batch, 30, 16)
    for made, given in (
        (TokenToImageAttention, (tokens, placed, image)),
        (ImageToTokenAttention, (image, tokens, more)),
    ):
        attention = with_weights(made(16, 2, 2))
        close(attention(*given), Attention.__call__(attention, *given))


@pytest.mark.parametrize("count", [4, 9])
def test_the_first_layer_shares_one_image(count: int) -> None:
    """Three prompts on one image, its projections made once, as three prompts on three images that are alike."""
    block = with_weights(TwoWayAttentionBlock(16, DecoderConfig(num_heads=2, mlp_dim=24), skip_first_layer_pe=True))
    tokens, image, position = array("t", 3, count, 16), array("i", 1, 30, 16), array("p", 1, 30, 16)
    shared = block(tokens, image, tokens, position, block.project_image(image, position))
    apart = block(tokens, mx.broadcast_to(image, (3, 30, 16)), tokens, position)
    for got, expected in zip(shared, apart, strict=True):
        close(got, expected)


def test_several_prompts_make_what_they_share() -> None:
    transformer = with_weights(TwoWayTransformer(16, DecoderConfig(num_heads=2, mlp_dim=24)))
    tokens, image, position = array("t", 3, 4, 16), array("i", 1, 30, 16), array("p", 1, 30, 16)
    together = transformer(image, position, tokens)
    for i in range(3):
        for got, expected in zip(together, transformer(image, position, tokens[i : i + 1]), strict=True):
            close(got[i : i + 1], expected)


def test_doubling_is_a_transposed_convolution() -> None:
    conv = with_weights(DoublingConv(6, 4))
    x, more = array("x", 2, 3, 5, 6), array("more", 1, 6, 10, 4)
    expected = nn.ConvTranspose2d.__call__(conv, x)
    close(conv(x), expected, 2e-6)  # measured: 2e-7
    close(conv(x, more), expected + more, 2e-6)


# ---- what is kept


@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_kept_until_a_source_changes(dtype: mx.Dtype) -> None:
    weights, kept, made = [mx.ones((4, 4), dtype), mx.zeros((3,), dtype)], Derived(), []

    def get() -> float:
        return kept.get(weights, lambda: made.append(None) or (weights[0].sum() + weights[1].sum()).item())

    assert get() == get() == 16 and len(made) == 1
    weights[1] = mx.ones((3,), dtype)  # assigned
    assert get() == get() == 19 and len(made) == 2
    weights[1] += 1  # in place
    assert get() == get() == 22 and len(made) == 3
    weights[0][0, 0] = 2
    assert get() == 23 and len(made) == 4
    assert copy.deepcopy(kept).get([], lambda: "anew") == "anew"


def test_nothing_is_kept_of_a_traced_array() -> None:
    kept = Derived()
    double = mx.compile(lambda x: kept.get([x], lambda: 2 * x))
    assert double(mx.array(3.0)).item() == 6 and double(mx.array(4.0)).item() == 8
    assert kept.get([mx.array(1.0)], lambda: 5) == 5


@pytest.fixture
def model() -> SAM2:
    return fresh_nano()


POINT = {"point_coords": [[60, 50]], "point_labels": [1]}


def anew(model: SAM2, features: ImageFeatures) -> np.ndarray:
    """The masks of a click, nothing kept."""
    half = model.config.image_size / 2
    given = mx.full((1, 1, 2), half), mx.ones((1, 1), mx.int32)
    return np.array(model.predict_masks(ImageFeatures(features.embedding, features.high_res), *given)[0])


def kept_and_anew(model: SAM2, features: ImageFeatures) -> tuple[np.ndarray, np.ndarray]:
    half = model.config.image_size / 2
    given = mx.full((1, 1, 2), half), mx.ones((1, 1), mx.int32)
    return np.array(model.predict_masks(features, *given)[0]), anew(model, features)


CHANGES = {
    "no_mem_embed": lambda m: setattr(m, "no_mem_embed", m.no_mem_embed + 1),
    "no_mask_embed": lambda m: m.sam_prompt_encoder.no_mask_embed.update({"weight": mx.ones((1, 64))}),
    "positions": lambda m: m.sam_prompt_encoder.pe_layer.update(
        {"positional_encoding_gaussian_matrix": 2 * m.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix}
    ),
    **{
        f"{name}.{projection}": lambda m, name=name, projection=projection: _double(m, name, projection)
        for name, projection in (
            ("cross_attn_token_to_image", "k_proj"),
            ("cross_attn_token_to_image", "v_proj"),
            ("cross_attn_image_to_token", "q_proj"),
        )
    },
}


def _double(model: SAM2, attention: str, projection: str) -> None:
    model.sam_mask_decoder.transformer.layers[0][attention][projection].weight *= 2  # in place


@pytest.mark.parametrize("name", CHANGES)
def test_changed_weights_count_at_once(model: SAM2, name: str) -> None:
    features = model.encode_image(array("pixels", 1, 256, 256, 3))
    before, same = kept_and_anew(model, features)
    np.testing.assert_array_equal(before, same)
    CHANGES[name](model)
    after, expected = kept_and_anew(model, features)
    np.testing.assert_array_equal(after, expected)
    assert np.abs(after - before).max() > 1e-3


def test_further_clicks_project_no_image(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, calls = SAM2ImagePredictor(model), []
    project = TwoWayAttentionBlock.project_image
    monkeypatch.setattr(TwoWayAttentionBlock, "project_image", lambda *args: calls.append(args) or project(*args))
    predictor.set_image(picture())
    assert not calls  # whoever only encodes pays nothing
    for _ in range(3):
        predictor.predict(**POINT)
    assert len(calls) == 1
    predictor.predict(box=[[10, 20, 90, 80], [10, 20, 30, 80]])
    assert len(calls) == 1
    (features,) = predictor.image_features
    predictor.reset_predictor()
    assert not predictor.image_features and features.projections._value is not None  # it goes with the features
    predictor.set_image(picture(seed=1))
    predictor.predict(**POINT)
    assert len(calls) == 2


def test_low_resolution_alone(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = SAM2ImagePredictor(model)
    with pytest.raises(RuntimeError, match="no image is set"):
        predictor.predict_low_res(**POINT)
    predictor.set_image(picture())
    prompts = [POINT, {**POINT, "multimask_output": False}, {"box": [[10, 20, 90, 80], [10, 20, 30, 80]]}]
    expected = [predictor.predict(**prompt)[1:] for prompt in prompts]
    monkeypatch.setattr(predictor, "upscale", None)  # is not called
    for prompt, pair in zip(prompts, expected, strict=True):
        for got, said in zip(predictor.predict_low_res(**prompt), pair, strict=True):
            np.testing.assert_array_equal(got, said)


def test_gradients_reach_the_weights_in_training(model: SAM2) -> None:
    features = model.encode_image(array("pixels", 1, 256, 256, 3))
    layer = model.sam_mask_decoder.transformer.layers[0].cross_attn_token_to_image
    given = mx.full((1, 1, 2), 100.0), mx.ones((1, 1), mx.int32)

    def loss(weight: mx.array) -> mx.array:
        layer.v_proj.weight = weight
        return model.predict_masks(features, *given)[0].square().mean()

    model.train()
    weight = layer.v_proj.weight
    found = [float(mx.abs(mx.grad(loss)(weight)).max()) for _ in range(2)]
    assert found[0] == found[1] > 0

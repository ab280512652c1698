"""Rules of the model that ports get wrong, spelled out in numpy."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_sam2.config.parts import DecoderConfig, HieraConfig
from mlx_sam2.model import image_encoder, residual
from mlx_sam2.model.image_encoder import MultiScaleBlock
from mlx_sam2.model.resize import resize_bicubic, resize_bilinear
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.model.two_way_transformer import TwoWayAttentionBlock
from synthetic import normal


def fill(module: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, biases included; returned by name in float64."""
    values = {k: normal(k, v.shape, seed) / math.sqrt(v.shape[-1]) for k, v in tree_flatten(module.parameters())}
    module.load_weights([(k, mx.array(v)) for k, v in values.items()])
    return {k: v.astype(np.float64) for k, v in values.items()}


def layer_norm(x: np.ndarray, w: dict[str, np.ndarray], name: str, eps: float = 1e-6) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def pool(x: np.ndarray) -> np.ndarray:
    return np.array(
        [[x[i : i + 2, j : j + 2].max((0, 1)) for j in range(0, x.shape[1], 2)] for i in range(0, len(x), 2)]
    )


def block_by_definition(
    x: np.ndarray, w: dict[str, np.ndarray], window: tuple[int, int], heads: int, pools: bool
) -> np.ndarray:
    """A Hiera block on one (H, W, C) grid, window by window and head by head.

    Window places outside the grid are tokens as well: their q, k and v are the bias of qkv, nothing masks them.
    """
    normed = layer_norm(x, w, "norm1")
    shortcut = x
    if "proj.weight" in w:
        shortcut = linear(normed, w, "proj")  # of the normed input
        shortcut = pool(shortcut) if pools else shortcut
    step = 2 if pools else 1
    out = np.empty_like(shortcut)
    for top in range(0, x.shape[0], window[0]):
        for left in range(0, x.shape[1], window[1]):
            tokens = np.empty((*window, len(w["attn.qkv.bias"])))
            tokens[:] = w["attn.qkv.bias"]
            inside = normed[top : top + window[0], left : left + window[1]]
            tokens[: inside.shape[0], : inside.shape[1]] = linear(inside, w, "attn.qkv")
            q, k, v = np.split(tokens, 3, axis=-1)
            q = pool(q) if pools else q
            attended = linear(attend_by_definition(q, k, v, heads), w, "attn.proj")
            place = out[top // step : (top + window[0]) // step, left // step : (left + window[1]) // step]
            place[:] = attended.reshape(*q.shape[:2], -1)[: place.shape[0], : place.shape[1]]
    x = shortcut + out
    hidden = linear(layer_norm(x, w, "norm2"), w, "mlp.layers.0")
    hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return x + linear(hidden, w, "mlp.layers.1")


def attend_by_definition(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    q, k, v = (x.reshape(-1, heads, x.shape[-1] // heads) for x in (q, k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", shares, v).reshape(len(q), -1)


@pytest.mark.parametrize("in_bands", [False, True], ids=["whole", "in bands"])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10), (2, 6)])
@pytest.mark.parametrize("kind", ["pooling", "widening", "plain", "global"])
def test_hiera_block_by_its_definition(
    kind: str, height: int, width: int, in_bands: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of 4, on grids that they fit and on grids that they do not; the window of a stage's first block is
    that of the stage before (6 would be its own)."""
    config = HieraConfig(
        embed_dim=8,
        num_heads=2,
        stages=(1, 2),
        q_pool=0 if kind == "widening" else 1,
        window_spec=(4, 6),
        global_att_blocks=(2,) if kind == "global" else (),
    )
    monkeypatch.setattr(image_encoder, "in_pieces", lambda: in_bands)
    monkeypatch.setattr(residual, "PIECE", 1)  # bands of one window
    index, heads = {"pooling": (1, 4), "widening": (1, 4), "plain": (0, 2), "global": (2, 4)}[kind]
    block = MultiScaleBlock(config, index)
    weights = fill(block)
    x = 2 * normal(kind, (2, height, width, 16 if kind == "global" else 8), 0)
    got = np.array(block(mx.array(x)))
    window = (height, width) if kind == "global" else (4, 4)
    for b in range(2):
        expected = block_by_definition(x[b].astype(np.float64), weights, window, heads, kind == "pooling")
        np.testing.assert_allclose(got[b], expected, rtol=0, atol=5e-6)  # measured: 5e-7


@pytest.mark.parametrize("index", [0, 2], ids=["windows", "global"])
def test_a_block_in_bands_needs_less_memory(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between its input and its output never exists whole."""
    config = HieraConfig(embed_dim=32, num_heads=4, stages=(3,), q_pool=0, window_spec=(8,), global_att_blocks=(2,))
    block, x = MultiScaleBlock(config, index), mx.zeros((1, 64, 64, 32))
    mx.eval(block.parameters(), x)
    peaks = {}
    for in_bands in (False, True):
        monkeypatch.setattr(image_encoder, "in_pieces", lambda in_bands=in_bands: in_bands)
        monkeypatch.setattr(residual, "PIECE", 1 << 14)
        if index == 2:  # its attention aside, which is whole either way
            monkeypatch.setattr(block, "_add_attention", lambda stream: stream)
        mx.eval(block(x))
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(block(x))
        peaks[in_bands] = mx.get_peak_memory() - before
    assert peaks[True] < 0.5 * peaks[False]  # measured: 0.36 and 0.27


def test_position_embedding_tiles_the_window(nano_model: SAM2) -> None:
    """With no background what is left repeats with the window, and is tiled rather than interpolated."""
    trunk = nano_model.image_encoder.trunk
    both = np.array(trunk.position_embedding(16, 24))
    window = np.array(trunk.pos_embed_window)
    background = both[0].copy()
    for i, j in np.ndindex(16, 24):
        background[i, j] -= window[0, i % 8, j % 8]
    expected = np.array(resize_bicubic(trunk.pos_embed, (16, 24)))[0]
    np.testing.assert_allclose(background, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("first", [True, False])
def test_first_decoder_layer_has_no_positions_and_no_residual(first: bool) -> None:
    block = TwoWayAttentionBlock(16, DecoderConfig(num_heads=2, mlp_dim=24), skip_first_layer_pe=first)
    w = fill(block)
    queries, keys, query_pe, key_pe = (mx.array(normal(n, (2, 5, 16), 0)) for n in ("q", "k", "qp", "kp"))
    if first:
        x = np.array(block.self_attn(queries, queries, queries))
    else:
        at = queries + query_pe
        x = np.array(queries + block.self_attn(at, at, queries))
    x = mx.array(layer_norm(x, w, "norm1", 1e-5).astype(np.float32))
    k = keys + key_pe
    x = mx.array(layer_norm(np.array(x + block.cross_attn_token_to_image(x + query_pe, k, keys)), w, "norm2", 1e-5))
    x = x.astype(mx.float32)
    x = mx.array(layer_norm(np.array(x + block.mlp(x)), w, "norm3", 1e-5)).astype(mx.float32)
    image = layer_norm(np.array(keys + block.cross_attn_image_to_token(k, x + query_pe, x)), w, "norm4", 1e-5)
    got_queries, got_keys, got_placed = block(queries, keys, query_pe, key_pe)
    np.testing.assert_allclose(np.array(got_queries), np.array(x), rtol=0, atol=1e-6)  # measured: 1e-7
    np.testing.assert_allclose(np.array(got_keys), image, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.array(got_placed), np.array(got_keys + key_pe))


def test_a_padding_point_replaces_the_position(nano_model: SAM2) -> None:
    """-1 is its embedding alone, 0..3 add theirs to the position; one padding point closes every list."""
    encoder = nano_model.sam_prompt_encoder
    points = mx.array([[[10.0, 200.0]] * 5, [[255.0, 0.0]] * 5])
    tokens = np.array(encoder.embed_points(points, mx.array([[-1, 0, 1, 2, 3]] * 2)))
    assert tokens.shape == (2, 6, 64)
    padding = np.array(encoder.not_a_point_embed.weight)[0]
    position = np.array(encoder.pe_layer((points + 0.5) / 256))
    for b in range(2):
        np.testing.assert_array_equal(tokens[b, 0], padding)
        np.testing.assert_array_equal(tokens[b, 5], padding)
        for label in range(4):
            expected = position[b, 1 + label] + np.array(encoder.point_embeddings[label].weight)[0]
            np.testing.assert_allclose(tokens[b, 1 + label], expected, rtol=0, atol=1e-6)


def test_a_mask_prompt_replaces_the_embedding_of_no_mask(nano_model: SAM2) -> None:
    encoder = nano_model.sam_prompt_encoder
    sparse, none = encoder(None, None, None)
    assert sparse.shape == (1, 0, 64)  # no point at all: no token at all, as in the official image predictor
    np.testing.assert_array_equal(np.array(none)[0, 0], np.array(encoder.no_mask_embed.weight))
    mask = mx.array(normal("mask", (2, 64, 64, 1), 0))
    sparse, dense = encoder(None, None, mask)
    assert sparse.shape == (2, 0, 64)
    np.testing.assert_array_equal(np.array(dense), np.array(encoder.embed_mask(mask)))


def test_fit_mask_prompt(nano_model: SAM2) -> None:
    mask = mx.array(normal("mask", (2, 100, 80, 1), 0))
    expected = resize_bilinear(mask, (64, 64), antialias=True)
    np.testing.assert_array_equal(np.array(nano_model.fit_mask_prompt(mask)), np.array(expected))
    fitting = mask[:, :64, :64]
    assert nano_model.fit_mask_prompt(fitting) is fitting

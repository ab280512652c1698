"""EdgeTAM's perceiver, and the memory attention to its tokens, against the official code."""

from __future__ import annotations

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

import goldens
import synthetic_edgetam
from goldens import Golden, channels_last, close
from mlx_sam2.kernels import axial_rope
from mlx_sam2.model.layers import split_heads
from mlx_sam2.model.position_encoding import sine_position_encoding
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.model.spatial_perceiver import SpatialPerceiver

TOL = 5e-5  # measured: 7e-6
LATENTS, SIDE = 24, 4  # of edgetam_nano: 1-D latents, side of the grid of 2-D latents


@pytest.fixture(scope="module")
def captures() -> Golden:
    if not goldens.synthetic.GOLDEN.is_dir():
        pytest.skip(goldens.MISSING)
    return goldens.read("video_edgetam_nano_two_objects")


@pytest.fixture(scope="module")
def model() -> SAM2:
    return synthetic_edgetam.nano_model()


def test_layer_by_layer(captures: Golden) -> None:
    expected = {k.removeprefix("perceiver1."): v for k, v in captures.tensors.items() if k.startswith("perceiver1.")}
    model = captures.model()
    perceiver, x = model.spatial_perceiver, mx.array(channels_last(expected["x"]))
    position = model.memory_encoder.position_encoding(16, 16)
    close(position, channels_last(expected["pos"])[:1], 1e-6, "pos")
    latents = mx.concatenate([perceiver.latents, perceiver.latents_2d])[None]
    for i, layer in enumerate(perceiver.layers):
        latents = layer(latents, x, position)
        close(latents[:, :LATENTS], expected[f"layer{i}.latents_1d"], TOL, f"layer {i}, 1-D")
        close(latents[:, LATENTS:], expected[f"layer{i}.latents_2d"], TOL, f"layer {i}, 2-D")
    close(perceiver(x, position), expected["out"], TOL, "out")
    close(perceiver.position_encoding(), expected["pos_out"][0], 1e-6, "pos_out")


def test_positions_are_added_whatever_the_flag_says(model: SAM2) -> None:
    """The official ``forward_1d`` sets them to None without ``pos_enc_at_key_value``, and then takes them anyway."""
    config = dataclasses.replace(model.config.spatial_perceiver, pos_enc_at_key_value=False)
    other = SpatialPerceiver(config)
    other.update(model.spatial_perceiver.parameters())
    x = mx.array(np.random.default_rng(0).standard_normal((1, 16, 16, config.dim), dtype=np.float32))
    position = model.memory_encoder.position_encoding(16, 16)
    assert mx.array_equal(other(x, position), model.spatial_perceiver(x, position)).item()


def test_memory_encoder_before_it(captures: Golden) -> None:
    mask = mx.array(channels_last(captures.tensors["memenc1.mask_for_mem"].astype(np.float32)))
    features = mx.array(channels_last(captures.tensors["memenc1.pix_feat"]))
    got = captures.model().memory_encoder(features, mask)
    close(got, channels_last(captures.tensors["memenc1.out"]), TOL, "memenc1")


def attention_inputs(captures: Golden) -> tuple[mx.array, mx.array, mx.array, int]:
    """Features, keys and values of the captured call, and the tokens of pointers. The positions are our own, because
    they are stored as float16."""
    curr, memory, rounded = (captures.tensors[f"memattn4.{k}"].swapaxes(0, 1) for k in ("curr", "memory", "memory_pos"))
    tail = next(c["num_obj_ptr_tokens"] for c in captures.about["captures"] if c["prefix"] == "memattn4")
    model = captures.model()
    frames = (memory.shape[1] - tail) // (LATENTS + SIDE**2)
    own = np.array(model.spatial_perceiver.position_encoding())
    times = rounded[0, :: len(own)][:frames].astype(np.float32)  # the first token of a frame has only the time vector
    exact = np.array(model.maskmem_tpos_enc).reshape(-1, own.shape[1])
    rows = [np.abs(exact - t).sum(axis=1).argmin() for t in times]
    position = np.concatenate([own + exact[row] for row in rows] + [np.zeros((tail, own.shape[1]), np.float32)])
    close(mx.array(position), rounded[0], 1e-6, "memory_pos")
    return mx.array(curr.reshape(2, 16, 16, 64)), mx.array(memory + position), mx.array(memory), tail


def test_memory_attention(captures: Golden) -> None:
    curr, keys, values, tail = attention_inputs(captures)
    position = sine_position_encoding(16, 16, 64)
    got = captures.model().memory_attention(curr, position, keys, values, tail)
    expected = captures.tensors["memattn4.out"].swapaxes(0, 1)
    close(got.reshape(2, 256, 64), expected, TOL, "out")


def test_keys_of_placed_tokens_alone_are_rotated(captures: Golden) -> None:
    before, after = (captures.tensors[f"memattn4.layer0.k_{when}_rope"] for when in ("before", "after"))
    _, keys, _, tail = attention_inputs(captures)
    attention = captures.model().memory_attention.layers[0].cross_attn_image
    close(split_heads(attention.k_proj(keys), 1)[:, :, :-tail], before, TOL, "before")
    frames = before.reshape(2, 1, -1, LATENTS + SIDE**2, 64)
    placed = mx.array(frames[:, :, :, LATENTS:].reshape(2, 1, -1, 64))
    turned = axial_rope(placed, SIDE, SIDE).reshape(2, 1, -1, SIDE**2, 64)
    close(
        mx.concatenate([mx.array(frames[:, :, :, :LATENTS]), turned], axis=3).reshape(before.shape), after, TOL, "after"
    )


def test_padding_is_left_out_exactly(model: SAM2) -> None:
    """A batch of objects with two memories and with one: the padding changes nothing."""
    random = np.random.default_rng(1)

    def some(*shape: int) -> mx.array:
        return mx.array(random.standard_normal(shape, dtype=np.float32))

    x, memories, pointers = some(1, 16, 16, 64), some(2, 2, *model.config.memory_shape), some(2, 2, 64)
    times, ages = mx.array([[6, 0], [6, 1]]), mx.zeros((2, 2))
    both = model.attend_memory(x, memories, times, pointers, ages)
    present = mx.array([[True, True, True, True], [True, False, True, False]])
    padded = model.attend_memory(x, memories, times, pointers, ages, present)
    alone = model.attend_memory(x, memories[1:, :1], times[1:, :1], pointers[1:, :1], ages[1:, :1])
    np.testing.assert_allclose(np.array(padded[0]), np.array(both[0]), rtol=0, atol=2e-5)  # measured: 2e-6
    np.testing.assert_allclose(np.array(padded[1]), np.array(alone[0]), rtol=0, atol=2e-5)
    assert np.abs(np.array(padded[1] - both[1])).max() > 1e-3

"""The way of training through encoder and memory attention gives what inference gives, and differs where it should."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

import synthetic
import training_runs
from mlx_sam2.finetune.encoder import encode_images, memory_attention
from mlx_sam2.model.sam2 import SAM2


@pytest.fixture(scope="module")
def model() -> SAM2:
    return training_runs.small_model()


def pixels() -> mx.array:
    return mx.array(synthetic.normal("pixels", (2, 64, 64, 3), 0))


@pytest.mark.parametrize("checkpoint", [False, True])
def test_features_are_those_of_inference(model: SAM2, checkpoint: bool) -> None:
    ours, theirs = encode_images(model, pixels(), checkpoint=checkpoint), model.encode_image(pixels())
    for a, b in zip(ours.arrays(), theirs.arrays(), strict=True):
        np.testing.assert_allclose(np.array(a), np.array(b), rtol=0, atol=3e-5)  # measured: 3e-6


def test_drop_path_leaves_whole_branches_out(model: SAM2) -> None:
    kept, dropped = (encode_images(model, pixels(), rate, mx.random.key(1)).embedding for rate in (0.0, 0.9))
    assert mx.abs(kept - dropped).max().item() > 0.1
    again = encode_images(model, pixels(), 0.9, mx.random.key(1)).embedding
    assert mx.array_equal(dropped, again).item()


def gradients(model: SAM2, checkpoint: bool, dropout: float = 0.0) -> dict[str, mx.array]:
    """Of all weights, through the encoder and one call of memory attention."""
    size, dim = model.config.embedding_size, model.config.memory_encoder.out_dim
    memories = mx.array(synthetic.normal("memories", (2, 1, size, size, dim), 0))
    pointers = mx.array(synthetic.normal("pointers", (2, 1, 64), 0))
    recalled = memories, mx.zeros((2, 1), mx.int32), pointers, mx.ones((2, 1))

    def loss(weights: dict[str, mx.array]) -> mx.array:
        model.update(tree_unflatten(list(weights.items())))
        features = encode_images(model, pixels(), checkpoint=checkpoint)
        attend = memory_attention(model, dropout, mx.random.split(mx.random.key(0), 4), checkpoint)
        return ((attend or model.attend_memory)(features.embedding, *recalled) ** 2).mean()

    start = dict(tree_flatten(model.parameters()))
    found = mx.grad(loss)(start)
    mx.eval(found)
    model.update(tree_unflatten(list(start.items())))
    return found


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpoints_change_no_gradient(model: SAM2, dropout: float) -> None:
    kept, computed_again = gradients(model, False, dropout), gradients(model, True, dropout)
    largest = max(mx.abs(value).max().item() for value in kept.values())
    for name, value in kept.items():
        assert mx.abs(value - computed_again[name]).max().item() < 1e-5 * largest, name  # measured: 1e-7


def test_dropout_draws_anew_at_every_call(model: SAM2) -> None:
    size, dim = model.config.embedding_size, model.config.memory_encoder.out_dim
    memories = mx.array(synthetic.normal("memories", (1, 1, size, size, dim), 0))
    recalled = memories, mx.zeros((1, 1), mx.int32), None, None
    embedding = mx.array(synthetic.normal("embedding", (1, size, size, 64), 0))
    attend = memory_attention(model, 0.1, mx.random.split(mx.random.key(0), 4))
    assert attend is not None
    once, again = attend(embedding, *recalled), attend(embedding, *recalled)
    assert mx.abs(once - again).max().item() > 1e-3
    assert memory_attention(model, 0.0, None) is None


def test_a_vanishing_dropout_is_inference(model: SAM2) -> None:
    size, dim = model.config.embedding_size, model.config.memory_encoder.out_dim
    memories = mx.array(synthetic.normal("memories", (1, 1, size, size, dim), 0))
    recalled = memories, mx.zeros((1, 1), mx.int32), None, None
    embedding = mx.array(synthetic.normal("embedding", (1, size, size, 64), 0))
    attend = memory_attention(model, 1e-6, mx.random.split(mx.random.key(0), 4))
    assert attend is not None
    expected = model.attend_memory(embedding, *recalled)
    assert mx.abs(attend(embedding, *recalled) - expected).max().item() < 1e-4  # measured: 1e-5

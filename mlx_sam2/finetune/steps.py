"""One step of training: the loss of a batch and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from ..model.results import ImageFeatures
from ..model.sam2 import SAM2
from .arguments import Arguments
from .encoder import encode_images, memory_attention
from .losses import Terms, losses
from .optimizer import Arrays
from .parameters import without_gradient
from .rollout import Plan, roll_out
from .samples import Batch
from .weights import Weights


class Gradient(NamedTuple):
    """The losses of a batch, and the gradients of those masters that it gives one."""

    total: mx.array
    terms: Terms
    gradients: Arrays


def gradient_of(
    model: SAM2,
    weights: Weights,
    batch: Batch,
    plan: Plan,
    features: Sequence[ImageFeatures] | None,
    arguments: Arguments,
    key: mx.array,
    num_objects: float,
) -> Gradient:
    """The losses of a batch and their gradients. Nothing is computed yet.

    Args:
        model: with ``training_config``; it holds weights of the graph afterwards, until ``Weights.put``.
        features: of the samples, if they are cached.
        key: of ``mx.random``, for dropout and drop path.
        num_objects: N, by which losses are divided.
    """
    targets = mx.array(batch.targets)
    num_frames, num_samples = len(batch.targets), len(batch.names)
    owners = None if num_samples == 1 else mx.array(batch.owners)
    for_path, for_dropout = mx.random.split(key)

    def total(masters: Arrays) -> tuple[mx.array, Terms]:
        weights.put(model, masters)
        attend = memory_attention(
            model, arguments.dropout, mx.random.split(for_dropout, num_frames), arguments.checkpoint
        )
        if features is None:
            pixels = mx.array(batch.pixels)  # (T, V, S, S, 3)
            rate = arguments.drop_path if arguments.preset == "full" else 0.0
            encoded = encode_images(model, pixels.flatten(0, 1), rate, for_path, arguments.checkpoint)
            frames = [_owned(_rows(encoded, t * num_samples, num_samples), owners) for t in range(num_frames)]
        else:
            frames = [_owned(joined(features), owners)]
        found = losses(roll_out(model, frames, targets, plan, attend), targets, num_objects)
        return found.total(), found

    (value, terms), gradients = mx.value_and_grad(total)(weights.masters)
    masks_given = any(prompt is None for prompt in plan.first.values())
    unused = without_gradient(num_frames, plan.first, masks_given, bool(plan.corrections))
    return Gradient(value, terms, {n: g for n, g in gradients.items() if not n.startswith(unused)})


def joined(features: Sequence[ImageFeatures]) -> ImageFeatures:
    """Features of several photos as one batch."""
    if len(features) == 1:
        return features[0]
    embedding = mx.concatenate([f.embedding for f in features])
    high_res = None
    if features[0].high_res is not None:
        high_res = tuple(mx.concatenate([f.high_res[i] for f in features]) for i in range(2))  # type: ignore[index]
    return ImageFeatures(embedding, high_res)


def _rows(features: ImageFeatures, start: int, count: int) -> ImageFeatures:
    high_res = features.high_res and tuple(f[start : start + count] for f in features.high_res)
    return ImageFeatures(features.embedding[start : start + count], high_res)


def _owned(features: ImageFeatures, owners: mx.array | None) -> ImageFeatures:
    """The features of each object's sample; of one sample as they are."""
    if owners is None:
        return features
    high_res = features.high_res and tuple(f[owners] for f in features.high_res)
    return ImageFeatures(features.embedding[owners], high_res)


def added(one: Arrays, other: Arrays) -> Arrays:
    """Gradients of two batches together; one that only one of them has is taken as it is."""
    return {
        name: one[name] + other[name] if name in one and name in other else one.get(name, other.get(name))
        for name in {**one, **other}
    }


def generator(seed: int, *place: int) -> np.random.Generator:
    """The random numbers of a place in a run: the same whenever it comes there."""
    return np.random.default_rng([seed, *place])

"""One step of training: the loss of a batch and its gradient, compiled on a GPU where its graph comes often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ..model import compiled  # a module: tests replace compiles() there
from ..model.results import ImageFeatures
from ..model.sam2 import SAM2
from .arguments import Arguments
from .clicks import Points
from .encoder import encode_images, memory_attention
from .losses import Terms, losses
from .optimizer import Arrays
from .parameters import without_gradient
from .rollout import Plan, roll_out
from .samples import Batch
from .weights import Weights

Inputs = dict[str, Any]  # trees of arrays


class Gradient(NamedTuple):
    """The losses of a batch, and the gradients of those masters that it gives one."""

    total: mx.array
    terms: Terms
    gradients: Arrays


class Shape(NamedTuple):
    """What a graph depends on beside its arrays and their shapes."""

    num_frames: int
    num_samples: int
    cached: bool  # whether features are given instead of pixels
    first: tuple[tuple[int, bool], ...]  # initial frames, and whether each is prompted by points
    corrected: tuple[tuple[int, tuple[type, ...]], ...]  # frames, and the kinds of their corrections

    @property
    def is_frequent(self) -> bool:
        """Whether graphs of this kind come often: of photos, and of clips that are prompted on their first frame alone.

        Of 500 official clips of eight frames 182 are such, in three graphs; the others have 49 (test_steps.py).
        """
        return {t for t, _ in (*self.first, *self.corrected)} == {0}


class Gradients:
    """Computes gradients. Frequent graphs are compiled on a GPU.

    Args:
        model: with ``training_config``; after a call it holds weights of the graph, until ``Weights.put``.
    """

    def __init__(self, model: SAM2, weights: Weights, arguments: Arguments) -> None:
        self._model, self._weights, self._arguments = model, weights, arguments
        self._compiled: dict[Shape, Callable[..., Any]] = {}

    def of(
        self, batch: Batch, plan: Plan, features: Sequence[ImageFeatures] | None, key: mx.array, num_objects: float
    ) -> Gradient:
        """The losses of a batch and their gradients. Nothing is computed yet.

        Args:
            features: of the samples, if they are cached.
            key: of ``mx.random``, for dropout and drop path.
            num_objects: N, by which losses are divided.
        """
        inputs: Inputs = {
            "targets": mx.array(batch.targets),
            "owners": mx.array(batch.owners),
            "images": mx.array(batch.pixels) if features is None else joined(features).arrays(),
            "prompts": [list(points) for points in plan.first.values() if points is not None],
            "clicks": [[list(click) for click in clicks] for clicks in plan.corrections.values()],
            "key": key,
            "count": mx.array(float(num_objects)),
        }
        first = tuple((t, points is not None) for t, points in plan.first.items())
        corrected = tuple((t, tuple(map(type, clicks))) for t, clicks in plan.corrections.items())
        shape = Shape(len(batch.targets), len(batch.names), features is not None, first, corrected)
        (value, terms), gradients = self._function(shape)(self._weights.masters, inputs)
        masks_given = not all(by_points for _, by_points in first)
        unused = without_gradient(shape.num_frames, plan.first, masks_given, bool(corrected))
        return Gradient(value, Terms(*terms), {n: g for n, g in gradients.items() if not n.startswith(unused)})

    def _function(self, shape: Shape) -> Callable[..., Any]:
        def total(masters: Arrays, inputs: Inputs) -> tuple[mx.array, tuple[mx.array, ...]]:
            found = self._losses(masters, inputs, shape)
            return found.total(self._arguments.losses), tuple(found)

        function = mx.value_and_grad(total)
        if not (shape.is_frequent and compiled.compiles()):
            return function
        if shape not in self._compiled:
            self._compiled[shape] = mx.compile(function)
        return self._compiled[shape]

    def _losses(self, masters: Arrays, inputs: Inputs, shape: Shape) -> Terms:
        model, arguments = self._model, self._arguments
        self._weights.put(model, masters)
        for_path, for_dropout = mx.random.split(inputs["key"])
        attend = memory_attention(
            model, arguments.dropout, mx.random.split(for_dropout, shape.num_frames), arguments.checkpoint
        )
        if shape.cached:
            embedding, *high_res = inputs["images"]
            encoded = ImageFeatures(embedding, tuple(high_res) or None)
        else:
            rate = arguments.drop_path if arguments.preset == "full" else 0.0
            pixels = inputs["images"].flatten(0, 1)  # (T * V, S, S, 3)
            encoded = encode_images(model, pixels, rate, for_path, arguments.checkpoint)
        count, owners = shape.num_samples, inputs["owners"] if shape.num_samples > 1 else None
        frames = [_owned(_rows(encoded, t * count, count), owners) for t in range(shape.num_frames)]
        steps = roll_out(model, frames, inputs["targets"], _plan(inputs, shape), attend)
        return losses(steps, inputs["targets"], inputs["count"], arguments.losses)


def _plan(inputs: Inputs, shape: Shape) -> Plan:
    prompts = iter(inputs["prompts"])
    first = {t: Points(*next(prompts)) if by_points else None for t, by_points in shape.first}
    corrections = {
        t: [kind(*click) for kind, click in zip(kinds, clicks, strict=True)]
        for (t, kinds), clicks in zip(shape.corrected, inputs["clicks"], strict=True)
    }
    return Plan(first, corrections)


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

"""Corrective clicks that are drawn inside the graph of a training step, from what the answer so far gets wrong."""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx


class Points(NamedTuple):
    """N points for each of B objects."""

    points: mx.array  # (B, N, 2) float32 as (x, y), pixels of the S x S input
    labels: mx.array  # (B, N) int32: 1 positive, 0 negative, 2 and 3 the corners of a box

    def and_then(self, other: Points) -> Points:
        """These points, then others."""
        return Points(*(mx.concatenate([a, b], axis=1) for a, b in zip(self, other, strict=True)))


class Draw(NamedTuple):
    """A click to be drawn when the answer is known."""

    place: mx.array  # (B,) uniform in 0..1, one for each object
    from_target: mx.array  # () bool: from the target instead of the error


def click_on_error(target: mx.array, answer: mx.array, draw: Draw) -> Points:
    """One point, uniform over all wrong pixels (official ``sample_random_points_from_errors``).

    Positive on a missed pixel, negative elsewhere. If nothing is wrong, negative, uniform in the background.

    Args:
        target, answer: (B, S, S) bool.
    """
    b, _, width = target.shape
    target = target.reshape(b, -1)
    answer = mx.stop_gradient(answer).reshape(b, -1) & ~draw.from_target
    wrong = target != answer
    any_wrong = wrong.any(axis=1, keepdims=True)
    sums = mx.cumsum(mx.where(any_wrong, wrong, ~target).astype(mx.int32), axis=1)
    count = sums[:, -1:]
    number = mx.minimum((draw.place[:, None] * count).astype(mx.int32), count - 1)  # the pixel's, among those
    index = mx.argmax(sums > number, axis=1)  # the first one where it is reached
    missed = mx.take_along_axis(target, index[:, None], axis=1) & any_wrong
    points = mx.stack([index % width, index // width], axis=1).astype(mx.float32)
    return Points(points[:, None], missed.astype(mx.int32))

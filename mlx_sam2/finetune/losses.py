"""The losses of SAM 2 (official ``training/loss_fns.py``, ``MultiStepMultiMasksAndIous``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

FOCAL_ALPHA = 0.25  # weight of object pixels; the others get the rest of 1
MASK_WEIGHT = 20  # of the focal loss; the other terms weigh 1


class Step(NamedTuple):
    """One answer of the mask decoder about B objects on a frame."""

    masks: mx.array  # (B, S, S, M) logits
    ious: mx.array  # (B, M) predicted
    object_score: mx.array  # (B, 1) logit


class Terms(NamedTuple):
    """The four losses, not yet weighted, each a scalar."""

    focal: mx.array
    dice: mx.array
    iou: mx.array
    presence: mx.array

    def __add__(self, other: Terms) -> Terms:  # type: ignore[override]
        return Terms(*(a + b for a, b in zip(self, other, strict=True)))

    def total(self) -> mx.array:
        """20 focal + dice + IoU + presence."""
        return MASK_WEIGHT * self.focal + self.dice + self.iou + self.presence


def cross_entropy(logits: mx.array, target: mx.array) -> mx.array:
    """Binary cross entropy of each logit with targets of 0 and 1."""
    return mx.maximum(logits, 0) - logits * target + mx.log1p(mx.exp(-mx.abs(logits)))


def focal_and_dice(masks: mx.array, target: mx.array) -> tuple[mx.array, mx.array]:
    """Focal loss with gamma 2, the mean over pixels, and dice loss: (B, S, S, M) logits, (B, S, S, 1) -> (B, M) each.

    Dice is 1 - (2 |p g| + 1) / (|p| + |g| + 1), written without the difference of two numbers near 1.
    """
    probability = mx.sigmoid(masks)
    wrong = mx.sigmoid(masks * (1 - 2 * target))  # the probability of the wrong answer
    alpha = (1 - FOCAL_ALPHA) + target * (2 * FOCAL_ALPHA - 1)
    focal = _sum(alpha * cross_entropy(masks, target) * wrong * wrong) / (masks.shape[1] * masks.shape[2])
    return focal, _sum(wrong) / (_sum(probability) + _sum(target) + 1)


def _sum(x: mx.array) -> mx.array:
    """(B, S, S, M) -> (B, M). Row by row: one sum over all pixels loses four digits in MLX's CPU backend."""
    return x.sum(axis=2).sum(axis=1)


def actual_ious(masks: mx.array, target: mx.array) -> mx.array:
    """IoU of the masks above 0 with the target, without a gradient: shapes as for ``focal_and_dice``."""
    predicted = masks > 0
    there = target > 0
    common = (predicted & there).sum(axis=(1, 2)).astype(mx.float32)
    union = (predicted | there).sum(axis=(1, 2)).astype(mx.float32)
    return mx.stop_gradient(common / mx.maximum(union, 1))


def step_losses(step: Step, target: mx.array, num_objects: float | mx.array) -> Terms:
    """The losses of one step, summed over its objects and divided by their number.

    Of three masks the one with the smallest 20 focal + dice gets these two losses; the IoU loss is the mean of all
    three. An object with an empty target gets the presence loss only.

    Args:
        target: (B, S, S) bool.
        num_objects: N, objects of the batch; those that are absent count.
    """
    there = target.any(axis=(1, 2)).astype(mx.float32)[:, None]  # (B, 1)
    target = target.astype(mx.float32)[..., None]
    masks = step.masks.astype(mx.float32)
    focal, dice = focal_and_dice(masks, target)  # (B, M)
    iou = mx.abs(step.ious.astype(mx.float32) - actual_ious(masks, target)).mean(axis=1, keepdims=True)
    if focal.shape[1] > 1:
        best = mx.stop_gradient(mx.argmin(MASK_WEIGHT * focal + dice, axis=1))[:, None]
        focal, dice = mx.take_along_axis(focal, best, axis=1), mx.take_along_axis(dice, best, axis=1)
    presence = cross_entropy(step.object_score.astype(mx.float32), there)
    sums = [(x * there).sum() / num_objects for x in (focal, dice, iou)]
    return Terms(*sums, presence.sum() / num_objects)


def losses(frames: Sequence[Sequence[Step]], targets: mx.array, num_objects: float | mx.array) -> Terms:
    """The sum over all steps of all frames, not their mean. ``targets`` is (T, B, S, S) bool."""
    terms = [step_losses(step, targets[t], num_objects) for t, steps in enumerate(frames) for step in steps]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total

"""The losses of SAM 2 (official ``training/loss_fns.py``, ``MultiStepMultiMasksAndIous``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from .arguments import LossSettings

OFFICIAL = LossSettings()


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

    def total(self, settings: LossSettings = OFFICIAL) -> mx.array:
        """The weighted sum: officially 20 focal + dice + IoU + presence."""
        return (
            settings.loss_mask * self.focal
            + settings.loss_dice * self.dice
            + settings.loss_iou * self.iou
            + settings.loss_class * self.presence
        )


def cross_entropy(logits: mx.array, target: mx.array) -> mx.array:
    """Binary cross entropy of each logit with targets of 0 and 1."""
    return mx.maximum(logits, 0) - logits * target + mx.log1p(mx.exp(-mx.abs(logits)))


def focal_loss(logits: mx.array, target: mx.array, alpha: float, gamma: float) -> mx.array:
    """Focal loss of each logit with targets of 0 and 1: cross entropy times (probability of the wrong answer)^gamma.

    Args:
        alpha: weight of targets of 1, the others get 1 - alpha; negative: both weigh 1.
    """
    loss = cross_entropy(logits, target)
    if alpha >= 0:
        loss = ((1 - alpha) + target * (2 * alpha - 1)) * loss
    if gamma == 2:
        wrong = mx.sigmoid(logits * (1 - 2 * target))
        return loss * wrong * wrong
    # a power of the probability has no gradient where that is 0 in float32; its logarithm is never infinite
    return loss * mx.exp(-gamma * mx.logaddexp(0, logits * (2 * target - 1))) if gamma else loss


def focal_and_dice(masks: mx.array, target: mx.array, settings: LossSettings = OFFICIAL) -> tuple[mx.array, mx.array]:
    """Focal loss, the mean over pixels, and dice loss: (B, S, S, M) logits, (B, S, S, 1) -> (B, M) each.

    Dice is 1 - (2 |p g| + 1) / (|p| + |g| + 1), written without the difference of two numbers near 1.
    """
    probability = mx.sigmoid(masks)
    wrong = mx.sigmoid(masks * (1 - 2 * target))  # the probability of the wrong answer
    pixels = focal_loss(masks, target, settings.focal_alpha, settings.focal_gamma)
    focal = _sum(pixels) / (masks.shape[1] * masks.shape[2])
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


def step_losses(
    step: Step, target: mx.array, num_objects: float | mx.array, settings: LossSettings = OFFICIAL
) -> Terms:
    """The losses of one step, summed over its objects and divided by their number.

    Of three masks the one with the smallest 20 focal + dice gets these two losses; the IoU loss is the mean of all
    three. An object with an empty target gets the presence loss only. ``settings`` may change all of this.

    Args:
        target: (B, S, S) bool.
        num_objects: N, objects of the batch; those that are absent count.
    """
    there = target.any(axis=(1, 2)).astype(mx.float32)[:, None]  # (B, 1)
    target = target.astype(mx.float32)[..., None]
    masks = step.masks.astype(mx.float32)
    focal, dice = focal_and_dice(masks, target, settings)  # (B, M)
    wrong = step.ious.astype(mx.float32) - actual_ious(masks, target)
    iou = mx.abs(wrong) if settings.iou_use_l1_loss else wrong.square()
    if focal.shape[1] > 1:
        combined = settings.loss_mask * focal + settings.loss_dice * dice
        best = mx.stop_gradient(mx.argmin(combined, axis=1))[:, None]
        focal, dice = mx.take_along_axis(focal, best, axis=1), mx.take_along_axis(dice, best, axis=1)
        iou = iou.mean(axis=1, keepdims=True) if settings.supervise_all_iou else mx.take_along_axis(iou, best, axis=1)
    if not settings.pred_obj_scores:
        sums = [x.sum() / num_objects for x in (focal, dice, iou)]
        return Terms(*sums, mx.array(0.0))
    score = step.object_score.astype(mx.float32)
    presence = focal_loss(score, there, settings.focal_alpha_obj_score, settings.focal_gamma_obj_score)
    sums = [(x * there).sum() / num_objects for x in (focal, dice, iou)]
    return Terms(*sums, presence.sum() / num_objects)


def losses(
    frames: Sequence[Sequence[Step]],
    targets: mx.array,
    num_objects: float | mx.array,
    settings: LossSettings = OFFICIAL,
) -> Terms:
    """The sum over all steps of all frames, not their mean. ``targets`` is (T, B, S, S) bool."""
    terms = [step_losses(step, targets[t], num_objects, settings) for t, steps in enumerate(frames) for step in steps]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total

"""Losses of the SAM 2 paper: 20 focal + dice on the best of three masks, L1 on the IoU, cross entropy on presence.

Two things are ours: the single-mask token is trained on every prompt beside the three (the paper trains one or the
other), and a dense loss on the encoder's features, which small training budgets need.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

from model import AuxiliaryHead, Decoded
from prompts import shrunk

__all__ = ["dense_loss", "mask_losses", "sampled", "true_ious"]

IOU_STRIDE = 2  # of the pixels that true IoUs are counted on


@lru_cache(maxsize=8)
def _upscaling(size: int, to: int) -> torch.Tensor:
    """(to, size): rows of bilinear interpolation."""
    return F.interpolate(torch.eye(size)[None], size=to, mode="linear", align_corners=False)[0].T.contiguous()


def sampled(logits: torch.Tensor, targets: torch.Tensor, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Answer and truth at every stride-th pixel, from a random one on: (N, M, k, k) logits and (N, 1, k, k) 0 or 1.

    The logits are those that the predictor would have there, of its masks at the picture's size, without making all of
    these. On average over the places that is the comparison of all pixels. Comparing means of 4 x 4 pixels instead, at
    the size of the logits, would give the last pixels of every outline away.

    Args:
        logits: (N, M, S/4, S/4).
        targets: (N, S, S) bool.
    """
    top, left = torch.randint(stride, (2,)).tolist()
    matrix = _upscaling(logits.shape[-1], targets.shape[-1])
    return matrix[top::stride] @ logits @ matrix[left::stride].T, targets[:, None, top::stride, left::stride].float()


def _focal_and_dice(logits: torch.Tensor, truth: torch.Tensor, balanced: float) -> torch.Tensor:
    """(N, M, h, w) logits and (N, 1, h, w) targets, 0 or 1 -> (N, M).

    balanced: weight of a cross entropy in which object and rest count the same; without it a new model learns to
    answer "nothing" (objects are 2 % of the pixels) and both other losses go flat there.
    """
    truth = truth.expand_as(logits)
    probability = torch.sigmoid(logits)
    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    weight = (probability - truth).abs().square() * (0.25 * truth + 0.75 * (1 - truth)) * 2
    focal = (weight * cross).mean((2, 3))
    if balanced > 0:
        inside = (cross * truth).sum((2, 3)) / truth.sum((2, 3)).clamp(min=1)
        outside = (cross * (1 - truth)).sum((2, 3)) / (1 - truth).sum((2, 3)).clamp(min=1)
        focal = focal + balanced / 20 * (inside + outside)
    overlap = (probability * truth).sum((2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum((2, 3)) + truth.sum((2, 3)) + 1)
    return 20 * focal + dice


def true_ious(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """IoU of (N, M, h, w) logits > 0 with (N, 1, h, w) targets, 0 or 1: (N, M)."""
    answer, target = logits > 0, truth > 0.5
    union = (answer | target).sum((2, 3)).clamp(min=1)
    return (answer & target).sum((2, 3)) / union


def mask_losses(
    out: Decoded, targets: torch.Tensor, stride: int, balanced: float = 0.0
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of one answer, and what to log of it; targets (N, S, S) bool, compared at every stride-th pixel."""
    present = targets.flatten(1).any(1).float()
    count = present.sum().clamp(min=1)
    each = _focal_and_dice(*sampled(out.masks, targets, stride), balanced)
    single = (each[:, 0] * present).sum() / count
    best = each[:, 1:].min(1).values
    multi = (best * present).sum() / count
    with torch.no_grad():
        ious = true_ious(*sampled(out.masks, targets, IOU_STRIDE))
    iou = ((out.ious - ious).abs().mean(1) * present).sum() / count
    score = F.binary_cross_entropy_with_logits(out.score[:, 0], present)
    rows = torch.arange(len(ious))
    chosen = ious[rows, 1 + out.ious[:, 1:].argmax(1)]
    log = {
        "single": (ious[:, 0] * present).sum() / count,
        "best": (ious[:, 1:].max(1).values * present).sum() / count,
        "chosen": (chosen * present).sum() / count,
        "mask_loss": multi.detach(),
        "iou_loss": iou.detach(),
        "score_loss": score.detach(),
    }
    return single + multi + iou + score, log


def dense_loss(head: AuxiliaryHead, neck: list[torch.Tensor], ids: torch.Tensor, pixels: int = 96) -> torch.Tensor:
    """Edges and objects at stride 4, and whether two sampled pixels belong to the same object; ids (B, S, S)."""
    maps = head(neck)
    plane = ids[:, None].float()
    edge = (F.max_pool2d(plane, 4) != -F.max_pool2d(-plane, 4)).float()
    solid = shrunk((plane > 0).float(), 4)
    loss = F.binary_cross_entropy_with_logits(maps[:, :1], edge) + F.binary_cross_entropy_with_logits(
        maps[:, 1:2], solid
    )
    small = ids[:, 2::4, 2::4].flatten(1)
    weights = 1.0 / torch.stack([row.long().bincount(minlength=256) for row in small]).clamp(min=1).float()
    index = torch.multinomial(weights.gather(1, small.long()), pixels, replacement=True)  # as often from every object
    names = small.gather(1, index)
    vectors = maps[:, 2:].flatten(2).gather(2, index[:, None].expand(-1, maps.shape[1] - 2, -1))
    vectors = F.normalize(vectors, dim=1)
    same = (names[:, :, None] == names[:, None, :]).float()
    logits = vectors.transpose(1, 2) @ vectors * head.scale[0] * 2 + head.scale[1]
    return loss + F.binary_cross_entropy_with_logits(logits, same)

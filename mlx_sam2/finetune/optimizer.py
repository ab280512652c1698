"""AdamW with the official groups, cosine schedule and gradient clipping (official ``training/optimizer.py``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import mlx.core as mx

Arrays = dict[str, mx.array]


class Group(NamedTuple):
    """How one parameter is updated."""

    rate: float  # at the start
    decay: float


def cosine(where: float, start: float, end: float) -> float:
    """From ``start`` at 0 to ``end`` at 1."""
    return end + (start - end) * (1 + math.cos(math.pi * where)) / 2


class AdamW:
    """AdamW as torch has it: decoupled decay, and a count of steps for each parameter.

    A parameter that a step leaves out (``gradients`` lacks it) is neither moved nor decayed, and its count stays.

    Args:
        groups: by name, for every parameter that is trained.
        final_share: the share of its rate that a parameter ends at.
    """

    def __init__(
        self,
        groups: Mapping[str, Group],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        final_share: float = 0.1,
    ) -> None:
        self.groups = dict(groups)
        self.betas, self.eps, self.final_share = betas, eps, final_share
        self.first: Arrays = {}
        self.second: Arrays = {}
        self.counts: dict[str, int] = {}

    def step(self, parameters: Arrays, gradients: Arrays, where: float) -> Arrays:
        """The parameters after a step. Those without a gradient are passed through.

        Args:
            where: the share of the training that is done, 0..1.
        """
        one, two = self.betas
        moved = dict(parameters)
        for name, gradient in gradients.items():
            group = self.groups[name]
            rate = cosine(where, group.rate, group.rate * self.final_share)
            count = self.counts[name] = self.counts.get(name, 0) + 1
            if name not in self.first:
                self.first[name] = self.second[name] = mx.zeros_like(gradient)
            self.first[name] = one * self.first[name] + (1 - one) * gradient
            self.second[name] = two * self.second[name] + (1 - two) * gradient * gradient
            scale = mx.sqrt(self.second[name]) / math.sqrt(1 - two**count) + self.eps
            value = parameters[name] * (1 - rate * group.decay)
            moved[name] = value - (rate / (1 - one**count)) * self.first[name] / scale
        return moved


def global_norm(gradients: Mapping[str, mx.array]) -> mx.array:
    """The norm of all gradients together."""
    return mx.sqrt(sum((g.astype(mx.float32).square().sum() for g in gradients.values()), mx.array(0.0)))


def clipped(gradients: Arrays, norm: mx.array, largest: float) -> Arrays:
    """Gradients whose norm together is at most ``largest`` (as ``torch.nn.utils.clip_grad_norm_``)."""
    factor = mx.minimum(largest / (norm + 1e-6), 1.0)
    return {name: g * factor for name, g in gradients.items()}

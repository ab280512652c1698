"""Muon for the matrices, AdamW for everything else.

Muon (Jordan 2024; the scale is that of "Muon is Scalable for LLM Training", 2025) replaces a matrix's momentum by the
nearest orthogonal matrix, found by a Newton-Schulz iteration.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Muon", "make_optimizers", "orthogonal"]


def orthogonal(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """(N, m, n) -> about U V^T of each matrix's U S V^T; quintic iteration, singular values end within 0.7..1.2.

    In bfloat16, as its author does: half the time here.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = x.shape[1] <= x.shape[2]
    x = x if wide else x.transpose(1, 2)
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(steps):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.transpose(1, 2)).float()


class Muon(torch.optim.Optimizer):
    """For 2-D parameters; matrices of one shape are worked on together. Rates are comparable with AdamW's."""

    def __init__(self, groups: list[dict], lr: float, momentum: float = 0.95):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "scale": 1.0})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            alike: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None and group["lr"] > 0:
                    alike.setdefault(p.shape, []).append(p)
            for shape, parameters in alike.items():
                updates = [self._momentum(p, group["momentum"]) for p in parameters]
                size = 0.2 * max(shape) ** 0.5
                for p, update in zip(parameters, orthogonal(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * size)

    def _momentum(self, p: nn.Parameter, momentum: float) -> torch.Tensor:
        buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buffer, momentum)  # Nesterov


def make_optimizers(groups: list[dict], lr: float, muon: bool) -> list[torch.optim.Optimizer]:
    """Groups may name a "scale" of the learning rate. Weight decay is for matrices and kernels only."""
    hidden, rest = [], []
    for group in groups:
        scale = group.get("scale", 1.0)
        heavy = [p for p in group["params"] if p.ndim >= 2 and p.numel() > 1000]
        light = [p for p in group["params"] if p.ndim < 2 or p.numel() <= 1000]
        matrices = [p for p in heavy if muon and p.ndim == 2 and min(p.shape) >= 16]
        chosen = {id(p) for p in matrices}
        kernels = [p for p in heavy if id(p) not in chosen]
        hidden.append({"params": matrices, "weight_decay": 0.03, "scale": scale})
        rest.append({"params": kernels, "weight_decay": 0.03, "scale": scale})
        rest.append({"params": light, "weight_decay": 0.0, "scale": scale})
    adam = torch.optim.AdamW([g for g in rest if g["params"]], lr=lr, betas=(0.9, 0.99), fused=True)
    return [adam, Muon([g for g in hidden if g["params"]], lr)] if muon else [adam]

"""What every training run needs: equal processes that share gradients, checkpoints, a log."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

__all__ = ["Average", "Log", "Stop", "join", "load", "save", "share_gradients", "start_workers"]


def start_workers(entry: Any, options: Any) -> None:
    """One single-threaded process per core: for small tensors far faster than one process of many threads."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ["MASTER_PORT"] = str(options.port)
    if options.workers == 1:
        entry(0, options)
    else:
        torch.multiprocessing.spawn(entry, args=(options,), nprocs=options.workers)


def join(rank: int, workers: int) -> None:
    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", rank=rank, world_size=workers)


def share_gradients(parameters: list[nn.Parameter]) -> float:
    """Mean of the gradients over the processes (a missing one counts as 0), clipped to norm 1; gives the norm."""
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if dist.is_initialized():
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        at = 0
        for p in parameters:
            p.grad.copy_(flat[at : at + p.numel()].view_as(p))
            at += p.numel()
    return float(nn.utils.clip_grad_norm_(parameters, 1.0))


class Average:
    """Exponential average of the weights; what is evaluated and shipped."""

    def __init__(self, model: nn.Module, decay: float = 0.9985):
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)


class Stop:
    """SIGTERM and Ctrl-C ask for a checkpoint and an end, on all processes after the same step."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def agreed(self, step: int) -> bool:
        """Asks the other processes every tenth step."""
        if step % 10:
            return False
        flag = torch.tensor([float(self.asked)])
        if dist.is_initialized():
            dist.all_reduce(flag)
        return bool(flag > 0)


def save(path: Path, **content: Any) -> None:
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any] | None:
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


class Log:
    """One JSON line per `every` steps: means of what was added, and the speed."""

    def __init__(self, path: Path, every: int, per_step: int):
        self.path, self.every, self.per_step = path, every, per_step
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.began, self.steps = time.time(), 0

    def add(self, values: dict[str, Any]) -> None:
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(value)
            self.counts[key] = self.counts.get(key, 0) + 1

    def end_step(self, step: int, **facts: float) -> None:
        self.steps += 1
        if step % self.every:
            return
        line = {"step": step, **facts, "speed": self.steps * self.per_step / (time.time() - self.began)}
        line["time"] = round(time.time())
        line |= {key: self.sums[key] / self.counts[key] for key in sorted(self.sums)}
        with self.path.open("a") as file:
            file.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")
        self.sums, self.counts, self.began, self.steps = {}, {}, time.time(), 0

"""What every training run needs: equal processes that share their weights, checkpoints, a log, and the loop."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from optimizers import make_optimizers

__all__ = ["add_options", "join", "load", "start_workers", "train"]

Step = Callable[[np.random.Generator], tuple[torch.Tensor, dict[str, torch.Tensor]]]


def start_workers(entry: Any, options: Any) -> None:
    """One single-threaded process per core: for small tensors far faster than one process of many threads."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ["MASTER_PORT"] = str(options.port)
    if options.workers == 1:
        entry(0, options)
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the process group: the workers answer it
        torch.multiprocessing.spawn(entry, args=(options,), nprocs=options.workers)


def join(rank: int, workers: int) -> None:
    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", rank=rank, world_size=workers)


@torch.no_grad()
def share_weights(parameters: list[nn.Parameter]) -> None:
    """Every process gets the mean of the weights.

    Called every few steps (local SGD): on a busy machine waiting for the slowest process at every step costs more.
    """
    if not dist.is_initialized():
        return
    flat = torch.cat([p.flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    at = 0
    for p in parameters:
        p.copy_(flat[at : at + p.numel()].view_as(p))
        at += p.numel()


class Average:
    """Exponential average of the weights; what is evaluated and shipped."""

    def __init__(self, model: nn.Module, decay: float = 0.997):
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
        """Asks the other processes every 20th step."""
        if step % 20:
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that every kind of training has."""
    parser.add_argument("run", type=Path)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures")
    parser.add_argument("--stride", type=int, default=4, help="compare masks at every Nth pixel")
    parser.add_argument("--dense", type=float, default=1.0, help="weight of the loss on the encoder's features")
    parser.add_argument("--balanced", type=float, default=0.0, help="weight of the balanced cross entropy (early on)")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon", action="store_true", help="Muon for the matrices (else AdamW for everything)")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--until", type=int, default=20_000, help="end at this step, counted over all runs")
    parser.add_argument("--cooldown", type=int, default=0, help="lower the learning rate over the last steps")
    parser.add_argument("--share-every", type=int, default=4, help="average the processes' weights every N steps")
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--port", type=int, default=29511)


def _rate(step: int, begin: int, options: argparse.Namespace) -> float:
    """Share of the learning rate: warm-up, constant, linear to 2 % over the last --cooldown steps before --until."""
    warm = min(1.0, (step + 1 - begin) / options.warmup)
    left = (options.until - step) / options.cooldown if options.cooldown else 1.0
    return warm * min(1.0, max(left, 0.02))


def train(
    rank: int,
    options: argparse.Namespace,
    name: str,
    modules: nn.ModuleDict,
    groups: list[dict],
    per_step: int,
    loss_of: Step,
) -> None:
    """The loop: RUN/name.pt is continued where it exists, RUN/name.jsonl is the log.

    Args:
        modules: "model", whose average is kept, and what else is trained and saved.
        groups: parameters with an optional "scale" of the learning rate.
        per_step: pictures or clips a step, over all processes.
        loss_of: one batch's loss, and what to log of it.
    """
    parameters = [p for group in groups for p in group["params"]]
    optimizers = make_optimizers(groups, options.lr, options.muon)
    path, step, samples, average = options.run / f"{name}.pt", 0, 0, Average(modules["model"])
    if (state := load(path)) is not None:
        modules.load_state_dict(state["modules"])
        if len(state["optimizers"]) == len(optimizers):  # else another choice than before: they start afresh
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        average.state, average.updates = state["average"], state["updates"]
        step, samples = state["step"], state["samples"]
    begin, stop = step, Stop()
    log = Log(options.run / f"{name}.jsonl", 25, per_step)

    def checkpoint(to: Path) -> None:
        content = {"modules": modules.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
        save(to, **content, average=average.state, updates=average.updates, samples=samples)

    ending = False
    while step < options.until and not ending:
        torch.manual_seed(step * 64 + rank)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = options.lr * group["scale"] * _rate(step, begin, options)
        loss, facts = loss_of(np.random.default_rng([step, rank]))
        modules.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step, samples = step + 1, samples + per_step
        if step % options.share_every == 0:
            share_weights(parameters)
            average.update(modules["model"])
        ending = stop.agreed(step)
        if rank == 0:
            log.add({**facts, "loss": loss.detach(), "norm": norm})
            log.end_step(step, samples=samples, size=options.size, lr=optimizers[0].param_groups[0]["lr"])
            if ending or step == options.until or step % options.save_every == 0:
                checkpoint(path)
            if step % 10_000 == 0:
                checkpoint(options.run / f"{name}_{step:06d}.pt")

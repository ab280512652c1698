"""Train the image half: encoder, prompt encoder, mask decoder.

    python tools/demo_model/train_image.py RUN --size 128 --until 20000

RUN/pool holds the scenes (pool.py); RUN/image.pt is written every --save-every steps and on SIGTERM, and the next
call goes on from it, also at another --size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from batches import Batch, Pool
from losses import dense_loss, mask_losses
from model import AuxiliaryHead, Decoded, build, decode, encode
from prompts import boxes_of, correct, first_click, rough_masks
from runs import Average, Log, Stop, join, load, save, share_gradients, start_workers
from torch import nn

FIRST_PROMPTS = ("click", "box", "mask")


def image_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Everything that a still picture reaches."""
    parts = [model.image_encoder, model.sam_prompt_encoder, model.sam_mask_decoder]
    return [p for part in parts for p in part.parameters()] + [model.no_mem_embed]


def chosen_mask(out: Decoded, clicks: int) -> torch.Tensor:
    """(N, S/4, S/4): after one click the best of three by predicted IoU, else the single mask."""
    if clicks != 1:
        return out.masks[:, 0]
    return out.masks[torch.arange(len(out.masks)), 1 + out.ious[:, 1:].argmax(1)]


def image_loss(
    model: nn.Module, head: AuxiliaryHead, batch: Batch, first: str, passes: int, stride: int, dense: float
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss of a batch: a first prompt of the given kind, then passes - 1 corrective clicks."""
    features, neck = encode(model, batch.images)
    features[2] = features[2] + model.no_mem_embed.view(1, -1, 1, 1)
    each = len(batch.targets) // len(batch.images)
    per_prompt = [f.repeat_interleave(each, 0) for f in features]
    points, mask_logits = None, None
    if first == "click":
        points = first_click(batch.targets, batch.clicks)
    elif first == "box":
        points = boxes_of(batch.targets, batch.clicks)
    else:
        mask_logits = rough_masks(batch.targets)
    total, log = torch.zeros(()), {}
    for n in range(passes):
        out = decode(model, per_prompt, points, mask_logits)
        loss, facts = mask_losses(out, batch.targets, stride)
        total = total + loss / passes
        log |= {f"{first}{n}_{k}" if k in ("single", "best", "chosen") else k: v for k, v in facts.items()}
        if n + 1 < passes:
            clicks = 0 if points is None else points[0].shape[1]
            mask_logits = chosen_mask(out, clicks).detach().clamp(-32, 32)[:, None]
            points = correct(points, mask_logits[:, 0], batch.targets)
    if dense > 0:
        extra = dense_loss(head, neck, batch.ids)
        total, log["dense"] = total + dense * extra, extra.detach()
    return total, log


def rate(step: int, options: argparse.Namespace) -> float:
    """Learning rate: warm-up, constant, linear to nothing over the last --cooldown steps before --until."""
    warm = min(1.0, (step + 1 - options.begin) / options.warmup)
    left = min(1.0, (options.until - step) / max(1, options.cooldown)) if options.cooldown else 1.0
    return options.lr * warm * max(left, 0.02)


def work(rank: int, options: argparse.Namespace) -> None:
    join(rank, options.workers)
    torch.manual_seed(0)
    model, head = build(options.size), AuxiliaryHead(96)
    trained = image_parameters(model)
    parameters = trained + list(head.parameters())
    decayed = [p for p in parameters if p.ndim >= 2 and p.numel() > 1000]
    names = {id(p) for p in decayed}
    others = [p for p in parameters if id(p) not in names]
    groups = [{"params": decayed, "weight_decay": 0.03}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    path, step, samples = options.run / "image.pt", 0, 0
    average = Average(model)
    if (state := load(path)) is not None:
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        average.state, average.updates = state["average"], state["updates"]
        step, samples = state["step"], state["samples"]
    options.begin = step
    pool, stop = Pool(options.run / "pool"), Stop()
    per_step = options.images * options.workers
    log = Log(options.run / "image.jsonl", 50, per_step)

    def checkpoint(to: Path) -> None:
        content = {"model": model.state_dict(), "head": head.state_dict(), "optimizer": optimizer.state_dict()}
        content |= {"average": average.state, "updates": average.updates, "step": step, "samples": samples}
        save(to, **content)

    while step < options.until:
        rng = np.random.default_rng([step, rank])
        torch.manual_seed(step * 64 + rank)
        for group in optimizer.param_groups:
            group["lr"] = rate(step, options)
        batch = pool.batch(rng, options.size, options.images, options.prompts)
        first = FIRST_PROMPTS[rng.choice(3, p=options.mix)]
        passes = 1 if options.passes == 1 else int(rng.integers(1, options.passes + 1))
        loss, facts = image_loss(model, head, batch, first, passes, options.stride, options.dense)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = share_gradients(parameters)
        optimizer.step()
        step, samples = step + 1, samples + per_step
        if rank == 0:
            average.update(model)
            log.add({**facts, "loss": loss.detach(), "norm": norm})
            log.end_step(step, samples=samples, size=options.size, lr=optimizer.param_groups[0]["lr"])
        if step % 500 == 0:
            pool.refresh()
        ending = stop.agreed(step) or step >= options.until
        if rank == 0 and (ending or step % options.save_every == 0):
            checkpoint(path)
        if rank == 0 and step % 10_000 == 0:
            checkpoint(options.run / f"image_{step:06d}.pt")
        if ending:
            break


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--size", type=int, default=128, help="side of the pictures")
    parser.add_argument("--images", type=int, default=8, help="pictures a step and process")
    parser.add_argument("--prompts", type=int, default=6, help="prompts a picture")
    parser.add_argument("--passes", type=int, default=1, help="at most this many prompts after one another")
    parser.add_argument("--stride", type=int, default=4, help="compare masks at this fraction of the picture")
    parser.add_argument("--mix", type=float, nargs=3, default=[0.5, 0.25, 0.25], help="share of click, box, mask")
    parser.add_argument("--dense", type=float, default=1.0, help="weight of the loss on the encoder's features")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--until", type=int, default=20_000, help="end at this step, counted over all runs")
    parser.add_argument("--cooldown", type=int, default=0, help="lower the learning rate over the last steps")
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--port", type=int, default=29511)
    options = parser.parse_args(argv)
    start_workers(work, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Train the image half: encoder, prompt encoder, mask decoder.

    python tools/demo_model/train_image.py RUN --size 128 --until 20000

RUN/pool holds the scenes (pool.py); RUN/image.pt is written every --save-every steps and on SIGTERM, and the next
call goes on from it, also at another --size.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import nn

from batches import Batch, Pool
from losses import dense_loss, mask_losses
from model import AuxiliaryHead, Decoded, build, decode, encode
from prompts import boxes_of, correct, first_click, rough_masks
from runs import add_options, join, start_workers, train

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
    model: nn.Module, head: AuxiliaryHead, batch: Batch, first: str, passes: int, options: argparse.Namespace
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
        loss, facts = mask_losses(out, batch.targets, options.stride, options.balanced)
        total = total + loss / passes
        log |= {f"{first}{n}_{k}" if k in ("single", "best", "chosen") else k: v for k, v in facts.items()}
        if n + 1 < passes:
            clicks = 0 if points is None else points[0].shape[1]
            mask_logits = chosen_mask(out, clicks).detach().clamp(-32, 32)[:, None]
            points = correct(points, mask_logits[:, 0], batch.targets)
    if options.dense > 0:
        extra = dense_loss(head, neck, batch.ids)
        total, log["dense"] = total + options.dense * extra, extra.detach()
    return total, log


def work(rank: int, options: argparse.Namespace) -> None:
    join(rank, options.workers)
    torch.manual_seed(0)
    modules = nn.ModuleDict({"model": build(options.size), "head": AuxiliaryHead(96)})
    model, head, pool = modules["model"], modules["head"], Pool(options.run / "pool")
    parameters = image_parameters(model) + list(head.parameters())

    together = np.random.default_rng(options.until)  # as many passes in every process, or they wait for one another

    def loss_of(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = pool.batch(rng, options.size, options.images, options.prompts)
        first = FIRST_PROMPTS[rng.choice(3, p=options.mix)]
        return image_loss(model, head, batch, first, int(together.integers(1, options.passes + 1)), options)

    train(rank, options, "image", modules, [{"params": parameters}], options.images * options.workers, loss_of)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--images", type=int, default=4, help="pictures a step and process")
    parser.add_argument("--prompts", type=int, default=8, help="prompts a picture")
    parser.add_argument("--passes", type=int, default=1, help="at most this many prompts after one another")
    parser.add_argument("--mix", type=float, nargs=3, default=[0.45, 0.3, 0.25], help="share of click, box, mask")
    options = parser.parse_args(argv)
    start_workers(work, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Train the memory half on clips: memory attention, memory encoder, pointers, object score.

    python tools/demo_model/train_memory.py RUN --size 128 --until 20000

Begins with the averaged weights of RUN/image.pt; RUN/memory.pt is continued where it exists. RUN/pool holds clips
(pool.py --clips). With --encoder 0 the image half stays as it is and costs a third; later a low rate, such as 0.1,
lets both grow together (--stills keeps the single pictures in the mix).
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from batches import Pool
from clip_batches import ClipBatch, ClipPool
from losses import dense_loss, mask_losses
from model import AuxiliaryHead, build, encode, look_nearby
from prompts import boxes_of, correct, first_click
from rollout import frame_features, remember, start, track
from runs import add_options, join, load, start_workers, train
from train_image import FIRST_PROMPTS, chosen_mask, image_loss, image_parameters

FIRST = ("mask", "click", "box", "clicks")


def memory_parameters(model: nn.Module) -> list[nn.Parameter]:
    parts = [model.memory_attention, model.memory_encoder, model.obj_ptr_proj, model.obj_ptr_tpos_proj]
    single = [model.maskmem_tpos_enc, model.no_obj_ptr, model.no_obj_embed_spatial, *model.mask_downsample.parameters()]
    return [p for part in parts for p in part.parameters()] + single


def take_memory(model: nn.Module, path: Path) -> None:
    """The memory half of an earlier run, onto a newer image half."""
    if (earlier := load(path)) is None:
        raise FileNotFoundError(f"{path} does not exist")
    wanted = {id(p) for p in memory_parameters(model)}
    names = [name for name, p in model.named_parameters() if id(p) in wanted]
    model.load_state_dict({name: earlier["average"][name] for name in names}, strict=False)


def clip_loss(
    model: nn.Module, head: AuxiliaryHead, batch: ClipBatch, first: str, options: argparse.Namespace
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A prompt on the first frame, then tracking; the mean loss over the frames."""
    length = len(batch.frames)
    with torch.no_grad() if options.encoder == 0 else contextlib.nullcontext():
        maps, neck = encode(model, batch.frames.flatten(0, 1))
    maps = [m.unflatten(0, (length, -1)) for m in maps]
    features = [frame_features(model, [m[t] for m in maps], batch.clips) for t in range(length)]
    memory: dict = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    target = batch.targets[0]
    nowhere = torch.zeros(len(target), 2)  # every object is there on the first frame
    points, masks = None, None
    if first == "mask":
        masks = target[:, None].float()
    elif first == "box":
        points = boxes_of(target, nowhere)
    else:
        points = first_click(target, nowhere)
        if first == "clicks":
            with torch.no_grad():
                for _ in range(2):
                    out, _ = start(model, features[0], points, None)
                    points = correct(points, chosen_mask(out, points[0].shape[1]), target)
    out, stored = start(model, features[0], points, masks)
    remember(memory, 0, stored, True)
    total, log = torch.zeros(()), {}
    if out is not None:
        total, facts = mask_losses(out, target, options.stride, options.balanced)
        log["first_best"] = facts["best"]
    tracked: dict[str, list[torch.Tensor]] = {}
    for t in range(1, length):
        out, _, stored = track(model, features[t], memory, t, length)
        remember(memory, t, stored, False)
        loss, facts = mask_losses(out, batch.targets[t], options.stride, options.balanced)
        total = total + loss
        for key, value in facts.items():
            tracked.setdefault(key, []).append(value)
        log[f"chosen_{t}"] = facts["chosen"]
    log |= {f"track_{key}": torch.stack(values).mean() for key, values in tracked.items()}
    total = total / length
    if options.encoder > 0 and options.dense > 0:
        extra = dense_loss(head, neck, batch.ids.flatten(0, 1))
        total, log["dense"] = total + options.dense * extra, extra.detach()
    return total, log


def work(rank: int, options: argparse.Namespace) -> None:
    join(rank, options.workers)
    torch.manual_seed(0)
    modules = nn.ModuleDict({"model": build(options.size), "head": AuxiliaryHead(96)})
    model, head = modules["model"], modules["head"]
    if (image := load(options.run / "image.pt")) is None:
        raise FileNotFoundError(f"{options.run}/image.pt is missing: run train_image.py first")
    modules.load_state_dict(image["modules"])
    model.load_state_dict(image["average"])
    look_nearby(model)  # where memory.pt exists, its weights follow
    if options.memory_from is not None:
        take_memory(model, options.memory_from)
    groups = [{"params": memory_parameters(model)}]
    decoder = list(model.sam_mask_decoder.parameters()) + list(model.sam_prompt_encoder.parameters())
    inside = {id(p) for p in decoder}
    encoder = [p for p in image_parameters(model) + list(head.parameters()) if id(p) not in inside]
    groups.append({"params": decoder, "scale": options.decoder})
    groups.append({"params": encoder, "scale": options.encoder})
    if options.encoder == 0:
        for p in encoder:
            p.requires_grad_(False)
    clips, stills = ClipPool(options.run / "pool"), Pool(options.run / "pool")

    together = np.random.default_rng(options.until)  # as much work in every process, or they wait for one another

    def loss_of(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if together.random() < options.stills:
            batch = stills.batch(rng, options.size, 4, 8)
            first = FIRST_PROMPTS[rng.choice(3, p=[0.5, 0.35, 0.15])]
            return image_loss(model, head, batch, first, int(together.integers(1, options.passes + 1)), options)
        batch = clips.batch(rng, options.size, options.clips, options.objects, options.length)
        return clip_loss(model, head, batch, FIRST[rng.choice(4, p=[0.5, 0.2, 0.15, 0.15])], options)

    train(rank, options, "memory", modules, groups, options.clips * options.workers, loss_of)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--memory-from", type=Path, help="begin with the memory half of this memory.pt")
    parser.add_argument("--clips", type=int, default=2, help="clips a step and process")
    parser.add_argument("--objects", type=int, default=3, help="objects a clip, at most")
    parser.add_argument("--length", type=int, default=8, help="frames a clip")
    parser.add_argument("--encoder", type=float, default=0.0, help="the encoder's share of the learning rate")
    parser.add_argument("--decoder", type=float, default=0.3, help="the mask decoder's share of the learning rate")
    parser.add_argument("--stills", type=float, default=0.2, help="share of steps on single pictures")
    parser.add_argument("--passes", type=int, default=3, help="prompts after one another on single pictures, at most")
    options = parser.parse_args(argv)
    start_workers(work, options)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

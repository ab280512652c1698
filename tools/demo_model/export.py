"""Write trained weights in the official layout: {"model": state} in a .pt, and the YAML beside it.

    python tools/demo_model/export.py RUN/memory.pt demo.pt

`mlx_sam2.load("demo.pt", config="demo.yaml")` and convert.py read them, and so does the official code.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import torch

from model import CONFIG, build

__all__ = ["export"]


def export(checkpoint: Path, target: Path, averaged: bool = True) -> int:
    """Write target and target.yaml; gives the number of parameters.

    The averaged weights are what is evaluated; a strict load into a model of the shipped size proves them whole.
    """
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    prefix = "model."
    state = content["average"] if averaged else {}
    if not averaged:
        state = {k[len(prefix) :]: v for k, v in content["modules"].items() if k.startswith(prefix)}
    model = build()
    model.load_state_dict(state, strict=True)
    partial = target.with_suffix(".partial")
    torch.save({"model": {k: v.contiguous() for k, v in model.state_dict().items()}}, partial)
    os.replace(partial, target)
    shutil.copyfile(CONFIG, target.with_suffix(".yaml"))
    return sum(p.numel() for p in model.parameters())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--raw", action="store_true", help="the weights themselves, not their average")
    options = parser.parse_args(argv)
    count = export(options.checkpoint, options.target, not options.raw)
    print(f"{options.target}: {count:,} parameters, {2 * count / 1e6:.2f} MB in float16")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

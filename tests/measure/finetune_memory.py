"""Peak memory of fine-tuning, by preset: counted for every published size, or counted and measured at small sizes.

    python tests/measure/finetune_memory.py                # counted: tiny to large, 1024 pixels
    python tests/measure/finetune_memory.py --checkpoint   # the same with gradient checkpoints
    python tests/measure/finetune_memory.py --measure      # counted, and measured by MLX: nano and demo

A photo with 3 objects, or with ``memory`` a clip of 8 frames (measured: 4) with 3 objects, every object corrected by
seven clicks on two frames. Weights are zeros where they are only counted.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import _paths  # noqa: F401  # isort: skip
import mlx_sam2  # isort: skip
import mlx.core as mx
from mlx.utils import tree_map

import cells
import training_runs
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.datasets import open_dataset
from mlx_sam2.datasets.items import Item
from mlx_sam2.finetune import Arguments, Trainer
from mlx_sam2.finetune.memory import count
from mlx_sam2.kernels.dispatch import references_only
from mlx_sam2.model.sam2 import SAM2

MIB, GIB = 2**20, 2**30
SIZES = ("tiny", "small", "base_plus", "large")
PRESETS = ("decoder", "lora", "full", "memory")


def settings(checkpoint: bool, **changes: int) -> Iterator[Arguments]:
    for preset in PRESETS:
        plain = Arguments(preset=preset, steps=2, checkpoint=checkpoint, box_share=0.0, point_share=1.0)
        yield dataclasses.replace(plain, **changes)


def items(folder: Path, side: int) -> dict[bool, list[Item]]:
    """Photos with many objects, and clips of eight frames with three."""
    clips = open_dataset(training_runs.write_clip(folder / f"clips_{side}", 9, side))
    photos = open_dataset(cells.write_cells(folder / f"photos_{side}", 2, side=side))
    return {
        False: list(photos),
        True: [dataclasses.replace(c, load_objects=lambda c=c: [*c.objects, c.objects[0]]) for c in clips],
    }


def published(folder: Path, checkpoint: bool) -> None:
    print("GiB, counted\nsize      " + "".join(f"{preset:>9}" for preset in PRESETS))
    data = items(folder, 256)
    for size in SIZES:
        model = SAM2(PUBLISHED[f"sam2.1_hiera_{size}"].config)
        model.update(tree_map(lambda value: mx.zeros(value.shape), model.parameters()))
        mx.eval(model.parameters())
        print(f"{size:<10}", end="", flush=True)
        for arguments in settings(checkpoint):
            trainer = Trainer(model, data[arguments.preset == "memory"], (), arguments)
            print(f"{count(trainer).peak / GIB:9.1f}", end="", flush=True)
        print()


def measured(folder: Path) -> None:
    print("MiB\nmodel  preset   checkpoint   counted  measured")
    for name, side in (("nano", 64), ("demo", 256)):
        data = items(folder, side)
        for arguments in (*settings(False, num_frames=4), *settings(True, num_frames=4)):
            model = training_runs.small_model() if name == "nano" else mlx_sam2.load("demo", dtype="float32")
            mx.eval(model.parameters())
            trainer = Trainer(model, data[arguments.preset == "memory"], (), arguments)
            if trainer.features is not None:
                for item in trainer.items:
                    trainer.features.get(item, 0)
            peak = count(trainer).peak
            mx.clear_cache()
            mx.reset_peak_memory()
            with references_only():  # whose graph is counted
                trainer.run()
            line = f"{name:<6} {arguments.preset:<8} {arguments.checkpoint!s:<10}"
            print(f"{line} {peak / MIB:9,.0f} {mx.get_peak_memory() / MIB:9,.0f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="run two steps of small models as well")
    parser.add_argument("--checkpoint", action="store_true", help="with checkpoint=true")
    options = parser.parse_args()
    mx.set_default_device(mx.cpu)
    with tempfile.TemporaryDirectory() as folder:
        if options.measure:
            measured(Path(folder))
        else:
            published(Path(folder), options.checkpoint)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

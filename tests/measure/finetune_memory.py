"""Peak memory of a training step for each preset on the demo model, counted by MLX.

    python tests/measure/finetune_memory.py

A photo with 3 objects and 7 corrections, or a clip of 4 frames with 2 objects; with and without gradient checkpoints.
The state is what the weights take: masters, gradients and two moments of what is trained, float32.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import _paths  # noqa: F401  # isort: skip
import mlx.core as mx

import cells
import mlx_sam2
import training_runs
from mlx_sam2.datasets import open_dataset
from mlx_sam2.finetune import Arguments, Trainer

MIB = 2**20


def main() -> int:
    mx.set_default_device(mx.cpu)
    with tempfile.TemporaryDirectory() as folder:
        photos = list(open_dataset(cells.write_cells(Path(folder) / "photos", 2)))
        clips = list(open_dataset(training_runs.write_clip(Path(folder) / "clips", 5, 256)))
        print("preset    checkpoint  state MiB  peak MiB")
        for preset in ("decoder", "lora", "full", "memory"):
            for checkpoint in (False, True) if preset != "decoder" else (False,):
                settings = Arguments(preset=preset, steps=1, checkpoint=checkpoint, num_frames=4, box_share=0.0)
                model = mlx_sam2.load("demo", dtype="float32")
                trainer = Trainer(model, clips if preset == "memory" else photos, (), settings)
                state = 4 * sum(value.nbytes for value in trainer.weights.masters.values())
                if trainer.features is not None:
                    for item in photos:
                        trainer.features.get(item, 0)
                mx.clear_cache()
                mx.reset_peak_memory()
                trainer.run()
                print(
                    f"{preset:<9} {checkpoint!s:<10} {state / MIB:10,.0f} {mx.get_peak_memory() / MIB:9,.0f}",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

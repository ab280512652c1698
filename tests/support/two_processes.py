"""One of two processes of a training step, or a single one with both photos: prints the weights that come out.

python two_processes.py OUT.npz FOLDER single|shared
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402

import training_runs  # noqa: E402
from mlx_sam2.datasets.opening import open_dataset  # noqa: E402
from mlx_sam2.finetune import Arguments, Trainer  # noqa: E402
from mlx_sam2.finetune import trainer as loop  # noqa: E402
from mlx_sam2.finetune.clicks import Points  # noqa: E402
from mlx_sam2.finetune.rollout import Plan  # noqa: E402


def plan_of(targets: np.ndarray, *_: object) -> Plan:
    """The same clicks whichever process sees an object: the first pixel of its target, then a corner."""
    places = [np.argwhere(mask)[0][::-1] for mask in targets[0]]
    first = Points(mx.array(np.array(places, np.float32))[:, None], mx.ones((len(places), 1), mx.int32))
    corner = Points(mx.full((len(places), 1, 2), 60.0), mx.zeros((len(places), 1), mx.int32))
    return Plan({0: first}, {0: [corner]})


def main() -> None:
    out, folder, kind = sys.argv[1:]
    mx.set_default_device(mx.cpu)
    loop.draw_plan = plan_of
    items = list(open_dataset(folder))
    batch = 2 if kind == "single" else 1
    settings = Arguments(preset="lora", steps=2, batch=batch, augment=False, rate=1e-3)
    trainer = Trainer(training_runs.small_model(), items, (), settings)
    losses: list[float] = []
    trainer.run(lambda event: losses.append(event.values.get("norm", 0.0)))
    masters = {name: np.array(value) for name, value in trainer.weights.masters.items()}
    if trainer.world.rank == 0:
        np.savez(out, size=trainer.world.size, norms=np.array(losses[:2]), **masters)


if __name__ == "__main__":
    main()

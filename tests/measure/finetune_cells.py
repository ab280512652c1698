"""What fine-tuning brings the demo model on scenes of a kind that it has not seen, and what it loses on its own.

    python tests/measure/finetune_cells.py [--steps 150] [--presets decoder lora] [--work FOLDER]

Trains on 40 scenes of cells (outlines within clusters), the photo of coins, and 41 scenes of the demo's own kind, so
that these are not forgotten; evaluates on 12 other scenes of cells and on 24 of the demo's evaluation (seeds that its
training never rendered). Prints a row for each preset; exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import _paths  # noqa: F401
import cells
import demo_scenes

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools" / "demo_model"))

TRAIN, HELD_OUT, OWN = 40, 12, 24
GAIN, LOSS = 0.05, 0.01  # at least, at most
RECIPE = {"max_objects": 8, "corrections": 3, "evaluate_every": 0, "evaluated": 400, "seed": 1}


def write_scene(folder: Path, name: str, picture: np.ndarray, labels: np.ndarray) -> None:
    for kind, array in (("images", picture), ("masks", labels.astype(np.uint8))):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / kind / f"{name}.png")


def write_own(folder: Path, count: int, shard: int) -> None:
    """Scenes of the demo's own kind, of one shard of its pool."""
    from pool import seed_of
    from scenes import make_scene
    from textures import TextureBank

    bank = TextureBank(shard)
    for i in range(count):
        scene = make_scene(seed_of(shard, i), bank)
        picture, ids = (
            np.asarray(Image.fromarray(plane).resize((256, 256), method))
            for plane, method in ((scene.image, Image.Resampling.BILINEAR), (scene.ids, Image.Resampling.NEAREST))
        )
        sizes = np.bincount(ids.ravel(), minlength=256)
        write_scene(folder, f"own_{shard}_{i:03d}", picture, np.where(sizes[ids] >= demo_scenes.LEAST, ids, 0))


def write_data(work: Path) -> None:
    from pool import EVAL_FIRST

    train = cells.write_cells(work / "train", TRAIN, seed=100)
    photo, masks = demo_scenes.coins()
    write_scene(train, "coins", np.array(photo), sum(n * mask for n, mask in enumerate(masks, 1)))
    write_own(train, TRAIN + 1, 0)
    cells.write_cells(work / "held_out", HELD_OUT, seed=900)
    write_own(work / "own", OWN, EVAL_FIRST)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rate", type=float, default=7e-5)
    parser.add_argument("--presets", nargs="+", default=["decoder", "lora"])
    parser.add_argument("--work", type=Path, help="folder of the data; default: a temporary one")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        if not (work / "own").is_dir():
            write_data(work)
        met = [tune(work, preset, options) for preset in options.presets]
    return 0 if all(met) else 1


def tune(work: Path, preset: str, options: argparse.Namespace) -> bool:
    """Train one preset and print its row. Returns whether the bars are met."""
    import mlx_sam2
    from mlx_sam2.datasets.opening import open_dataset
    from mlx_sam2.finetune import Arguments, Trainer

    train, held_out, own = (list(open_dataset(work / name)) for name in ("train", "held_out", "own"))
    arguments = Arguments(preset=preset, steps=options.steps, rate=options.rate, **RECIPE)
    trainer = Trainer(mlx_sam2.load("demo", dtype="float32"), train, (), arguments)

    def score() -> list[float]:
        found = []
        for trainer.held_out in (held_out, own):
            found.append(trainer.evaluate())
        return [scores[name] for scores in found for name in ("iou_1", "iou_3", "iou_5")]

    before, began = score(), time.perf_counter()
    trainer.held_out = []
    trainer.run(lambda event: print(event.step, round(event.values.get("loss", 0), 3), file=sys.stderr, flush=True))
    seconds, after = time.perf_counter() - began, score()
    print(f"{preset}: {options.steps} steps, rate {options.rate:g}, seed {arguments.seed}, {seconds / 60:.1f} minutes")
    for where, i in (("cells, held out", 0), ("the demo's own", 3)):
        rows = zip((1, 3, 5), before[i : i + 3], after[i : i + 3], strict=True)
        print(f"  {where}: " + ", ".join(f"{n} clicks {a:.3f} -> {b:.3f}" for n, a, b in rows))
    met = after[0] - before[0] >= GAIN and all(a - b <= LOSS for a, b in zip(before[3:], after[3:], strict=True))
    bars = f"+{GAIN} after one click on cells, at most -{LOSS} on its own"
    print(f"  bars {'met' if met else 'missed'}: {bars}", flush=True)
    return met


if __name__ == "__main__":
    raise SystemExit(main())

"""The demo model on mlx_sam2's own trainer: scenes, training, evaluation and the verdict, in one call.

    python tools/demo_model/tune.py RUN                                    # ten minutes from the model in the package
    python tools/demo_model/tune.py RUN --model base_plus --minutes 60    # from any checkpoint, longer

Renders scenes of seeds that no evaluation uses, trains every weight on photos and then memory on clips (MLX takes a
GPU where it has one), folds what was learned into RUN/clips-fp32, and evaluates both models. It says whether every bar
rose; only then is `ship.py`'s work to be done. Run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import mlx_sam2  # noqa: E402  before MLX
from pool import render_clips, render_stills  # noqa: E402

FIRST = 2000  # shard: those below were rendered for the model in the package
PART = 20  # scenes of a shard here
CLIPS = 2
LEAST = 200  # pixels of the smallest object
SHARE = {"stills": 0.7, "clips": 0.3}  # of the time
RECIPE = {
    "stills": {"preset": "full", "rate": 3e-4, "max_objects": 8, "ema": 0.999},
    "clips": {"preset": "memory", "rate": 1e-4, "num_frames": 8, "ema": 0.99},
}


def save(picture: np.ndarray, ids: np.ndarray, folders: tuple[Path, Path], name: str) -> None:
    sizes = np.bincount(ids.ravel(), minlength=256)
    for folder, array in zip(folders, (picture, np.where(sizes[ids] >= LEAST, ids, 0).astype(np.uint8)), strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{name}.png")


def render(run: Path, kind: str, shard: int) -> None:
    """One shard as a part of a data set: stills as a folder of photos, clips as DAVIS has them."""
    root = run / kind
    if kind == "stills":
        for i, scene in enumerate(render_stills(shard, PART)):
            save(scene[..., :3], scene[..., 3], (root / "images", root / "masks"), f"{shard}_{i:03d}")
        return
    for i, clip in enumerate(render_clips(shard, CLIPS)):
        name = f"{shard}_{i:03d}"
        for t, frame in enumerate(clip):
            places = (root / "JPEGImages" / name, root / "Annotations" / name)
            save(frame[..., :3], frame[..., 3], places, f"{t:05d}")


def train(run: Path, kind: str, model: str, options: argparse.Namespace) -> str:
    """Train on one kind of data for its share of the time; returns what the model is then loaded as."""
    from mlx_sam2.convert import main as convert
    from mlx_sam2.datasets import open_dataset
    from mlx_sam2.finetune import Arguments, Event, Trainer

    out, merged = run / f"{kind}_run", run / f"{kind}-fp32"
    if merged.is_dir():
        return str(merged)
    out.mkdir(exist_ok=True)
    arguments = Arguments(
        **RECIPE[kind], steps=options.steps, batch=options.batch, held_out=0.0, evaluate_every=0, save_every=200
    )
    items = list(open_dataset(run / kind))
    trainer = Trainer(mlx_sam2.load(model, dtype="float32"), items, (), arguments, out, base=model)
    trainer.resume()
    end = time.monotonic() + 60 * options.minutes * SHARE[kind]

    def watch(event: Event) -> bool:
        if event.kind == "step" and event.step % 50 == 1:
            print(f"{kind}: step {event.step}, loss {event.values['loss']:.3f}", flush=True)
        return time.monotonic() < end

    trainer.run(watch)
    words = ["--hf-path", model, "--merge-adapter", str(out), "--mlx-path", str(merged), "--dtype", "float32"]
    if convert(words):
        raise SystemExit(f"{out}: what was learned cannot be folded in")
    return str(merged)


def evaluate(model: str, values: Path, options: argparse.Namespace) -> dict[str, float]:
    if not values.is_file():
        words = [HERE / "evaluate.py", model, "--stills", options.stills, "--clips", options.clips, "--json", values]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *map(str, words)], check=True, env=environment)
    return json.loads(values.read_text())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="demo", help="what to start from, as mlx_sam2.load takes it")
    parser.add_argument("--minutes", type=float, default=10, help="of training")
    parser.add_argument("--steps", type=int, default=20_000, help="the most of each half; the rates fall over them")
    parser.add_argument("--batch", type=int, default=8, help="photos or clips of a step")
    parser.add_argument("--shards", type=int, default=100, help=f"of {PART} scenes and {CLIPS} clips each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_argument("--stills", type=int, default=150, help="scenes of the evaluation")
    parser.add_argument("--clips", type=int, default=40, help="clips of the evaluation")
    options = parser.parse_args(argv)
    run, model = options.run, options.model
    run.mkdir(parents=True, exist_ok=True)
    for kind in ("stills", "clips"):
        if not (run / f"{kind}.done").exists():
            shutil.rmtree(run / kind, ignore_errors=True)
            with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
                list(pool.map(partial(render, run, kind), range(FIRST, FIRST + options.shards)))
            (run / f"{kind}.done").touch()
        model = train(run, kind, model, options)
    before = evaluate(options.model, run / "before.json", options)
    after = evaluate(model, run / "after.json", options)
    for name, value in before.items():
        print(f"{name}: {value:.3f} -> {after[name]:.3f}")
    fell = [name for name, value in before.items() if after[name] < value]
    print(f"{model}: ship it (README.md)" if not fell else f"not to be shipped: {', '.join(fell)} fell")
    return 0


if __name__ == "__main__":
    sys.exit(main())

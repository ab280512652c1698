"""The demo model on mlx_sam2's own trainer: scenes, training, evaluation and the verdict, in one call.

    python tools/demo_model/tune.py RUN                                    # ten minutes from the model in the package
    python tools/demo_model/tune.py RUN --model base_plus --minutes 60    # from any checkpoint, longer

Renders scenes of seeds that no evaluation uses (render.py on a GPU, else scenes.py in processes), trains every weight
on photos and then memory on clips (MLX takes a GPU where it has one), folds what was learned into RUN/clips-fp32, and
evaluates both models. It says whether every bar rose; only then is `ship.py`'s work to be done. Run again, it goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import mlx_sam2  # noqa: E402  before MLX  # isort: skip
import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from pool import render_clips, render_stills  # noqa: E402

FIRST = 2000  # shard: those below were rendered for the model in the package
PART = 20  # scenes of a shard here
CLIPS = 2
LEAST = 200  # pixels of the smallest object
LENGTH = 10  # frames of a clip
BANK = 25  # shards that share a bank of outlines and textures
UNTIL = {"stills": 0.5, "clips": 0.8}  # shares of the time that the halves end at; the rest is for the evaluation
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
    if kind == "stills":
        for i, scene in enumerate(render_stills(shard, PART)):
            save_still(run, f"{shard}_{i:03d}", scene[..., :3], scene[..., 3])
        return
    for i, clip in enumerate(render_clips(shard, CLIPS)):
        save_clip(run, f"{shard}_{i:03d}", clip[..., :3], clip[..., 3])


def save_still(run: Path, name: str, picture: np.ndarray, ids: np.ndarray) -> None:
    save(picture, ids, (run / "stills" / "images", run / "stills" / "masks"), name)


def save_clip(run: Path, name: str, frames: np.ndarray, ids: np.ndarray) -> None:
    for t, pair in enumerate(zip(frames, ids, strict=True)):
        save(*pair, (run / "clips" / "JPEGImages" / name, run / "clips" / "Annotations" / name), f"{t:05d}")


def render_in_batches(run: Path, kind: str, shards: range, jobs: int) -> None:
    """The same data set, every shard rendered as one batch by MLX; files are written on threads."""
    from render import draw_clips, draw_stills, make_bank
    from render import render as render_batch

    with ThreadPoolExecutor(jobs) as pool:
        for shard in shards:
            if (shard - shards.start) % BANK == 0:
                bank = make_bank(shard)
            rng = np.random.default_rng([shard, kind == "clips", 2])
            stills = kind == "stills"
            scenes = draw_stills(rng, bank, PART) if stills else draw_clips(rng, bank, CLIPS, LENGTH)
            pictures, ids = (np.array(array) for array in render_batch(bank, scenes, shard))
            if not stills:
                pictures, ids = (array.reshape(CLIPS, LENGTH, *array.shape[1:]) for array in (pictures, ids))
            names = [f"{shard}_{i:03d}" for i in range(len(ids))]
            list(pool.map(partial(save_still if stills else save_clip, run), names, pictures, ids))


def make_data(run: Path, kind: str, options: argparse.Namespace) -> None:
    if (run / f"{kind}.done").exists():
        return
    shutil.rmtree(run / kind, ignore_errors=True)
    shards = range(FIRST, FIRST + options.shards)
    if options.renderer == "mlx":
        render_in_batches(run, kind, shards, options.jobs)
    else:
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
            list(pool.map(partial(render, run, kind), shards))
    (run / f"{kind}.done").touch()


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
    end = options.began + 60 * options.minutes * UNTIL[kind]

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


def not_risen(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """The bars that did not rise; one that is full already must stay so."""
    from evaluate import BARS

    full = {"coins with IoU >= 0.85, of 24": 24}
    bars = [name for name in before if name in BARS]
    return [name for name in bars if after[name] < full.get(name, 1) and after[name] <= before[name]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--model", default="demo", help="what to start from, as mlx_sam2.load takes it")
    parser.add_argument("--minutes", type=float, default=10, help="of everything")
    parser.add_argument("--steps", type=int, default=20_000, help="the most of each half; the rates fall over them")
    parser.add_argument("--batch", type=int, default=8, help="photos or clips of a step")
    parser.add_argument("--shards", type=int, default=100, help=f"of {PART} scenes and {CLIPS} clips each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that render")
    on_gpu = mx.default_device().type == mx.gpu
    parser.add_argument("--renderer", choices=("mlx", "numpy"), default="mlx" if on_gpu else "numpy")
    parser.add_argument("--stills", type=int, default=150, help="scenes of the evaluation")
    parser.add_argument("--clips", type=int, default=40, help="clips of the evaluation")
    options = parser.parse_args(argv)
    options.began = time.monotonic()
    run, model = options.run, options.model
    run.mkdir(parents=True, exist_ok=True)
    for kind in ("stills", "clips"):
        make_data(run, kind, options)
        model = train(run, kind, model, options)
    before = evaluate(options.model, run / "before.json", options)
    after = evaluate(model, run / "after.json", options)
    for name, value in before.items():
        print(f"{name}: {value:.3f} -> {after[name]:.3f}")
    stayed = not_risen(before, after)
    print(f"{model}: ship it (README.md)" if not stayed else f"not to be shipped: {', '.join(stayed)} did not rise")
    return 0


if __name__ == "__main__":
    sys.exit(main())

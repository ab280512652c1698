"""From trained weights to the model in the package: export, convert to float16, write the card, evaluate.

    python tools/demo_model/ship.py RUN/memory.pt       # of train_memory.py
    python tools/demo_model/ship.py RUN/clips-fp32      # of tune.py

replaces mlx_sam2/demo (model.safetensors, config.json, scores.json, README.md) and prints the table of bars, which the
card shows as well. Everything is made in a temporary folder and takes its place when it is whole. `--card-only`
evaluates what is in the package and writes its card again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import mlx_sam2  # noqa: E402  before MLX

PACKAGED = ROOT / "mlx_sam2" / "demo"
CARD = HERE / "card.md"
MOST_BYTES = 6_000_000  # of the weights
FILES = ("config.json", "model.safetensors", "scores.json", "README.md")


def run(*command: str | Path) -> None:
    """Another program of this repository, by this interpreter; its failure is ours."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, *map(str, command)], env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{Path(command[0]).name} failed ({done.returncode}): the package is as it was")


def make_official(trained: Path, target: Path, raw: bool) -> None:
    """What was trained as a checkpoint in the official layout, and its configuration beside it."""
    if trained.is_dir():
        run(ROOT / "convert.py", "--hf-path", trained, "--to", "official", "--mlx-path", target)
        shutil.copyfile(HERE / "demo.yaml", target.with_suffix(".yaml"))
        return
    copy = target.with_name("run.pt")
    shutil.copyfile(trained, copy)  # training may write a new one meanwhile
    run(HERE / "export.py", copy, target, *(["--raw"] if raw else []))


def write_card(values: dict[str, float]) -> None:
    """The card in the package, from its template; `values` as evaluate.py --json writes them (none: not measured)."""
    config = json.loads((PACKAGED / "config.json").read_text())
    weights = PACKAGED / "model.safetensors"
    text = CARD.read_text().format(
        megabytes=f"{weights.stat().st_size / 1e6:.1f}",
        size=config["image_size"],
        source=config["mlx_sam2"]["source"]["sha256"][:16],
        table=bars_table(values) if values else "Not measured yet: `python tools/demo_model/evaluate.py`.",
    )
    partial = PACKAGED / ".README.md"
    partial.write_text(text)
    os.replace(partial, PACKAGED / "README.md")


def bars_table(values: dict[str, float]) -> str:
    """The bars alone; evaluate.py prints more."""
    from evaluate import BARS, table

    return table({name: value for name, value in values.items() if name in BARS})


def replace_package(new: Path) -> None:
    """Put the files of a converted folder where the package has them."""
    size = (new / "model.safetensors").stat().st_size
    if size > MOST_BYTES:
        raise SystemExit(f"the weights have {size:,} bytes, more than {MOST_BYTES:,}: the package is as it was")
    PACKAGED.mkdir(exist_ok=True)
    for name in FILES[:2]:
        shutil.copyfile(new / name, PACKAGED / f".{name}")
    for name in FILES[:2]:
        os.replace(PACKAGED / f".{name}", PACKAGED / name)
    (PACKAGED / "scores.json").write_text(json.dumps({"scores": known_scores()}) + "\n")


def known_scores() -> list[float]:
    """What `python -m mlx_sam2.doctor --weights demo` compares a machine with: float32 on the CPU."""
    import mlx.core as mx

    from mlx_sam2.doctor.known_answers import demo_scores

    mx.set_default_device(mx.cpu)
    return [round(score, 6) for score in demo_scores(mlx_sam2.load(PACKAGED, dtype="float32"))]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("checkpoint", type=Path, nargs="?", help="of train_memory.py, or a folder of tune.py")
    what.add_argument("--card-only", action="store_true", help="evaluate the model in the package, write its card")
    parser.add_argument("--raw", action="store_true", help="the weights themselves, not their average")
    parser.add_argument("--stills", type=int, default=150, help="of the evaluation; 0 for none at all")
    parser.add_argument("--clips", type=int, default=40, help="of the evaluation; 0 for none")
    parser.add_argument("--jobs", type=int, default=4, help="processes of the evaluation")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.checkpoint:
            make_official(options.checkpoint, folder / "demo.pt", options.raw)
            source = ["--hf-path", folder / "demo.pt", "--config", folder / "demo.yaml"]
            run(ROOT / "convert.py", *source, "--dtype", "float16", "--mlx-path", folder / "demo-fp16")
            run(ROOT / "convert.py", "--verify", folder / "demo-fp16", "--hf-path", folder / "demo.pt")
            replace_package(folder / "demo-fp16")
            write_card({})
        if options.stills:
            bars = folder / "bars.json"
            counts = [f"--{name}={getattr(options, name)}" for name in ("stills", "clips", "jobs")]
            run(HERE / "evaluate.py", *counts, "--json", bars)
            write_card(json.loads(bars.read_text()))
    print(f"{PACKAGED}: {', '.join(FILES)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

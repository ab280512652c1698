"""Modelled milliseconds of EdgeTAM beside SAM 2.1 tiny, float16: an encode, and a tracked frame with its encode.

    python tests/measure/edgetam_modelled.py

Nothing is run: ``benchmark/roofline`` counts the graph, at a chip's peaks and, in parentheses, at published shares of
them. With ``--measured`` both models are timed on this machine instead, in turns, in float32.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import sys
import time

import mlx.core as mx

from mlx_sam2.benchmark import roofline, stages
from mlx_sam2.machine import CHIPS, Chip
from mlx_sam2.model.results import ImageFeatures
from mlx_sam2.model.sam2 import SAM2

# of an iPhone 15 Pro Max: 6 cores x 128 lanes x 2 x 1.4 GHz, LPDDR5-6400 of 64 bits
CHOSEN = {name: CHIPS[name] for name in ("M1", "M2 Max", "M4 Max")} | {"A17 Pro": Chip(51.2, 2.15)}
OBJECTS = (1, 4, 16)


def features(model: SAM2) -> ImageFeatures:
    """Blank ones of one image."""
    side, width = model.config.embedding_size, model.config.neck.d_model
    finer = tuple(mx.zeros((1, n * side, n * side, width // d), model.dtype) for n, d in ((4, 8), (2, 4)))
    found = ImageFeatures(mx.zeros((1, side, side, width), model.dtype), finer)
    mx.eval(found.arrays())
    return found


def costs(model: SAM2, chip: Chip) -> dict[str, roofline.Cost]:
    size = model.config.image_size
    graphs = {"encode": stages.encode_graph(model, mx.zeros((1, size, size, 3), model.dtype))}
    graphs |= {f"{count}": stages.frame_graph(model, features(model), count) for count in OBJECTS}
    return {name: roofline.cost(roofline.trace(f, *given, chip=chip), chip) for name, (f, given) in graphs.items()}


def measured() -> None:
    models = {name: stages.build_model(name, None, "float32") for name in ("tiny", "edgetam")}
    runs = {}
    for name, model in models.items():
        encode, given = stages.encode_graph(model, mx.zeros((1, 1024, 1024, 3), model.dtype))
        frame, memories = stages.frame_graph(model, features(model), 1)
        runs[name] = [lambda f=encode, a=given: f(*a), lambda f=frame, a=memories: f(*a)]
    best = {name: [float("inf")] * 2 for name in runs}
    for _ in range(3):
        for name, functions in runs.items():
            for i, function in enumerate(functions):
                start = time.perf_counter()
                mx.eval(function())
                best[name][i] = min(best[name][i], time.perf_counter() - start)
    print("| seconds, best of 3 | encode | tracked frame | together |\n|---|---|---|---|")
    for name, (encode, frame) in best.items():
        print(f"| {name} | {encode:.2f} | {frame:.2f} | {encode + frame:.2f} |")
    print(f"edgetam / tiny: {sum(best['edgetam']) / sum(best['tiny']):.3f}")


def main() -> None:
    models = {name: stages.build_model(name, None, "float16") for name in ("tiny", "edgetam")}
    each: dict[str, tuple[float, float]] = {}
    print("| chip | model | encode | " + " | ".join(f"{n} object{'s' * (n > 1)}, with encode" for n in OBJECTS) + " |")
    print("|---" * (3 + len(OBJECTS)) + "|")
    for chip, rates in CHOSEN.items():
        totals = {}
        for name, model in models.items():
            found = costs(model, rates)
            if rates is CHOSEN["M1"]:
                each[name] = found["1"].gflop, (found["16"].gflop - found["1"].gflop) / 15
            encode = found["encode"]
            cells, totals[name] = [f"{encode.milliseconds:.2f} ({encode.expected_ms:.2f})"], []
            for count in OBJECTS:
                one = found[str(count)]
                totals[name].append(encode.milliseconds + one.milliseconds)
                cells.append(f"{totals[name][-1]:.2f} ({encode.expected_ms + one.expected_ms:.2f})")
            print(f"| {chip} | {name} | " + " | ".join(cells) + " |", flush=True)
        ratios = [a / b for a, b in zip(totals["edgetam"], totals["tiny"], strict=True)]
        print(f"| {chip} | ratio | | " + " | ".join(f"{r:.3f}" for r in ratios) + " |")
        print(
            f"| {chip} | 16 objects / 1 | | " + ", ".join(f"{n} {t[-1] / t[0]:.2f}" for n, t in totals.items()) + " |"
        )
    for name, (frame, per_object) in each.items():
        print(f"{name}: {frame:.1f} GFLOP a tracked frame, {per_object:.1f} of them for each further object")


if __name__ == "__main__":
    measured() if "--measured" in sys.argv else main()

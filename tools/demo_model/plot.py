"""Draw the training curves: python tools/demo_model/plot.py RUN curves.png"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

PANELS = {
    "image": (["click0_best", "click0_chosen", "box0_single", "mask0_single"], ["loss", "dense", "mask_loss"]),
    "memory": (
        ["track_chosen", "chosen_1", "chosen_7", "click0_best"],
        ["loss", "track_mask_loss", "track_score_loss"],
    ),
}


def read(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def smooth(values: list[float], share: float = 0.9) -> list[float]:
    result: list[float] = []
    for value in values:
        result.append(value if not result else share * result[-1] + (1 - share) * value)
    return result


def draw(run: Path, target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    logs = {name: lines for name in PANELS if (lines := read(run / f"{name}.jsonl"))}
    figure, rows = plt.subplots(len(logs), 2, figsize=(12, 4 * len(logs)), squeeze=False)
    for row, (name, lines) in zip(rows, logs.items(), strict=True):
        for axis, keys, label in zip(row, PANELS[name], ("IoU", "loss"), strict=True):
            for key in keys:
                points = [(line["samples"], line[key]) for line in lines if key in line]
                if points:
                    axis.plot([x for x, _ in points], smooth([y for _, y in points]), label=key)
            axis.set(title=f"{name}: {label}", xlabel="pictures" if name == "image" else "clips")
            axis.legend()
            axis.grid(alpha=0.3)
        row[0].set_ylim(0, 1)
        row[1].set_yscale("log")
    figure.tight_layout()
    figure.savefig(target, dpi=80)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args(argv)
    draw(options.run, options.target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

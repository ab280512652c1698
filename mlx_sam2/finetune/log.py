"""The log of a run: a line of JSON for every step and evaluation, and a picture of the curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ..files import beside
from .trainer import Event

LOG, CURVES = "log.jsonl", "curves.png"
WIDTH, HEIGHT, MARGIN = 900, 340, 56
COLOURS = ((31, 119, 180), (214, 97, 30), (44, 140, 60), (150, 80, 170))
SCORES = (("iou_1", "IoU, 1 click"), ("iou_3", "3 clicks"), ("iou_5", "5 clicks"), ("jf", "J&F"))
Point = tuple[float, float]


class Log:
    """Writes events to ``log.jsonl`` as they come, and the curves after every evaluation.

    Args:
        folder: of the run.
        step: lines of later steps, of a run that was killed after its last state, are removed.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._folder, self._file = folder, folder / LOG
        kept = [line for line in read_log(self._file) if line["step"] <= step] if step else []
        write_text_over(self._file, [json.dumps(line) for line in kept])
        self._lines = kept

    def __call__(self, event: Event) -> None:
        line = {"kind": event.kind, "step": event.step, **event.values}
        self._lines.append(line)
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if event.kind != "step":
            draw_curves(self._folder / CURVES, self._lines)


def write_text_over(path: Path, lines: Sequence[str]) -> None:
    """Replace a file of lines."""
    with beside(path, replace=True) as part:
        part.write_text("".join(f"{line}\n" for line in lines))


def read_log(path: Path) -> list[dict]:
    """The lines of a log; the last one may be cut off where a run was killed."""
    lines = []
    for text in path.read_text().splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def draw_curves(path: Path, lines: Sequence[dict]) -> None:
    """Draw losses (logarithmic) and scores of a log over its steps, side by side."""
    steps = [line for line in lines if line["kind"] == "step"]
    scores = [line for line in lines if line["kind"] == "evaluation"]
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    smooth = _smoothed([(line["step"], math.log10(max(line["loss"], 1e-9))) for line in steps])
    _panel(picture, 0, "loss (log10)", [("loss, smoothed", smooth)])
    curves = [(text, [(line["step"], line[key]) for line in scores if key in line]) for key, text in SCORES]
    _panel(picture, WIDTH // 2, "held-out items", [curve for curve in curves if curve[1]])
    with beside(path, replace=True) as part:
        picture.save(part, format="PNG")


def _smoothed(points: Sequence[Point], share: float = 0.9) -> list[Point]:
    result: list[Point] = []
    for x, y in points:
        result.append((x, y if not result else share * result[-1][1] + (1 - share) * y))
    return result


def _panel(picture: Image.Image, left: int, title: str, curves: Sequence[tuple[str, Sequence[Point]]]) -> None:
    draw = ImageDraw.Draw(picture)
    x0, y0, x1, y1 = left + MARGIN, MARGIN, left + WIDTH // 2 - 16, HEIGHT - 36
    draw.text((x0, 10), title, fill="black")
    draw.rectangle((x0, y0, x1, y1), outline="gray")
    points = [point for _, curve in curves for point in curve]
    if not points:
        return
    low_x, high_x = min(x for x, _ in points), max(x for x, _ in points)
    low_y, high_y = min(y for _, y in points), max(y for _, y in points)
    high_x, pad = max(high_x, low_x + 1), max((high_y - low_y) * 0.08, 0.01)
    low_y, high_y = low_y - pad, high_y + pad

    def at(x: float, y: float) -> Point:
        return x0 + (x - low_x) / (high_x - low_x) * (x1 - x0), y1 - (y - low_y) / (high_y - low_y) * (y1 - y0)

    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = low_y + share * (high_y - low_y)
        place = at(low_x, y)
        draw.line((x0, place[1], x1, place[1]), fill=(225, 225, 225))
        draw.text((left + 8, place[1] - 5), f"{y:.3f}", fill="black")
        x = low_x + share * (high_x - low_x)
        draw.text((at(x, low_y)[0] - 10, y1 + 6), f"{x:.0f}", fill="black")
    for i, (text, curve) in enumerate(curves):
        colour = COLOURS[i % len(COLOURS)]
        places = [at(x, y) for x, y in curve]
        draw.line(places, fill=colour, width=2)
        if len(places) < 40:
            for x, y in places:
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        draw.text((x0 + i * 100, 30), text, fill=colour)

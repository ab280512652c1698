"""Memory policies on films that are made to need them: official, samurai and dam4sam, with the demo model.

    python tests/measure/policies.py                     the table of docs/tracking.md
    python tests/measure/policies.py --pictures FOLDER   overlays too, one picture a film: official, samurai, dam4sam

Each film has a twin of the object in it. The object gets one click on frame 0. "all" is its mean IoU over the film,
"after" over the frames after the event, "twin" the share of those frames on which the mask lies on the twin.
"""

from __future__ import annotations

import _paths  # noqa: F401  # isort: skip

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import demo_scenes as scenes
import mlx_sam2
from mlx_sam2.images.drawing import draw_masks
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.policies import NAMES

LENGTH = 44
OBJECT, TWIN = 1, 2
SHOWN = 6  # frames in a row of a picture


class Film(NamedTuple):
    frames: np.ndarray  # (LENGTH, SIDE, SIDE, 3) uint8
    names: np.ndarray  # (LENGTH, SIDE, SIDE): OBJECT, TWIN, or another number
    after: int  # the first frame after the event


def crossing() -> Film:
    """Two that look alike swap sides; the twin passes in front."""
    mover = scenes.Actor(0, scenes.along((30, 100), (226, 150)))
    twin = scenes.Actor(0, scenes.along((226, 120), (30, 130)))
    return Film(*scenes.film(1, [mover, twin], LENGTH), after=29)


def hiding() -> Film:
    """The object goes behind a thing and comes out on the other side; its twin waits below."""
    mover = scenes.Actor(0, scenes.along((30, 90), (226, 90), scale=0.8))
    twin = scenes.Actor(0, scenes.along((150, 200), (170, 200), scale=0.8))
    screen = scenes.Actor(5, scenes.along((128, 90), (128, 90), scale=1.2))
    return Film(*scenes.film(0, [mover, twin, screen], LENGTH), after=32)


def leaving() -> Film:
    """The object leaves the picture and comes back elsewhere; its twin stays."""
    mover = scenes.Actor(0, scenes.along((150, 60), (340, 60), (160, 190)))
    twin = scenes.Actor(0, scenes.along((60, 130), (84, 120)))
    return Film(*scenes.film(2, [mover, twin], LENGTH), after=36)


FILMS: dict[str, Callable[[], Film]] = {"crossing": crossing, "hiding": hiding, "leaving": leaving}


def tracked(predictor: SAM2VideoPredictor, film: Film) -> np.ndarray:
    """Masks (LENGTH, H, W) bool of the object."""
    rows, columns = np.nonzero(film.names[0] == OBJECT)
    with predictor.init_state(list(film.frames), memory="ram") as state:
        point = [float(np.median(columns)), float(np.median(rows))]
        predictor.add_new_points_or_box(state, 0, OBJECT, points=[point], labels=[1])
        return np.stack([masks[0, 0] > 0 for _, _, masks in predictor.propagate_in_video(state)])


def ious(masks: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of each frame; 1 where both are empty."""
    either = (masks | truth).sum(axis=(1, 2))
    return np.where(either == 0, 1.0, (masks & truth).sum(axis=(1, 2)) / np.maximum(either, 1))


def figures(masks: np.ndarray, film: Film) -> tuple[float, float, float]:
    found = ious(masks, film.names == OBJECT)
    late = slice(film.after, None)
    on_twin = ious(masks, film.names == TWIN)[late] > 0.5
    return float(found.mean()), float(found[late].mean()), float(on_twin.mean())


def picture(film: Film, masks: dict[str, np.ndarray]) -> Image.Image:
    """A row for each policy."""
    shown = np.linspace(0, LENGTH - 1, SHOWN).round().astype(int)
    rows = [np.hstack([draw_masks(film.frames[t], {OBJECT: found[t]}) for t in shown]) for found in masks.values()]
    return Image.fromarray(np.vstack(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write the overlays there")
    args = parser.parse_args()
    model = mlx_sam2.load("demo", dtype="float32")
    print(f"{'film':10} {'policy':10} {'all':>6} {'after':>6} {'twin':>6}")
    for name, make in FILMS.items():
        film, found = make(), {}
        for policy in NAMES:
            found[policy] = tracked(SAM2VideoPredictor(model, fill_hole_area=8, memory_policy=policy), film)
            every, late, twin = figures(found[policy], film)
            print(f"{name:10} {policy:10} {every:6.3f} {late:6.3f} {twin:6.0%}", flush=True)
        if args.pictures is not None:
            args.pictures.mkdir(parents=True, exist_ok=True)
            picture(film, found).save(args.pictures / f"{name}.png")


if __name__ == "__main__":
    main()

"""The table of bars: stills, clips and the coins photo, with mlx_sam2's own predictors.

    python tools/demo_model/evaluate.py                                  # the model in the package
    python tools/demo_model/evaluate.py demo.pt --config demo.yaml
    python tools/demo_model/evaluate.py CONVERTED_FOLDER --json bars.json

Scenes come from seeds that training never renders (pool.EVAL_FIRST). The targets are whole objects of at least
200 visible pixels of the 256 x 256 (0.3 %); a click falls on the pixel deepest inside.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.stats import rankdata, spearmanr
from tqdm import tqdm

import mlx_sam2
from measures import box_of, deepest, iou
from mlx_sam2.datasets.davis import boundary_accuracy, region_similarity
from pool import EVAL_FIRST, render_clips, seed_of
from scenes import make_scene
from textures import TextureBank

LEAST = 200  # pixels of the smallest target
BARS = {
    "one click, best of three": 0.87,
    "one click, chosen": 0.80,
    "box": 0.90,
    "after five corrective clicks": 0.92,
    "rank correlation of predicted IoU": 0.6,
    "clips, J&F": 0.75,
    "clips, J&F above no memory": 0.15,
    "object score, AUC": 0.95,
    "coins with IoU >= 0.85, of 24": 20,
}


def targets_of(ids: np.ndarray, most: int) -> list[np.ndarray]:
    names = np.flatnonzero(np.bincount(ids.ravel(), minlength=256)[1:] >= LEAST) + 1
    return [ids == name for name in names[:most]]


def corrected(predictor: mlx_sam2.SAM2ImagePredictor, truth: np.ndarray, clicks: int = 5) -> tuple[float, ...]:
    """IoU after the first click and after `clicks` more, each in the middle of the largest error."""
    points, labels, previous = [deepest(truth)], [1], None
    result = []
    for n in range(clicks + 1):
        masks, scores, logits = predictor.predict(
            np.array(points), np.array(labels), mask_input=previous, multimask_output=n == 0
        )
        best = int(scores.argmax())
        answer, previous = masks[best] > 0, logits[best][None]
        result.append(iou(answer, truth))
        missing, excess = truth & ~answer, answer & ~truth
        at = [ndimage.distance_transform_edt(np.pad(region, 1)).max() for region in (missing, excess)]
        if max(at) == 0:
            break
        region, label = (missing, 1) if at[0] >= at[1] else (excess, 0)
        points.append(deepest(region))
        labels.append(label)
    return result[0], result[-1]


Found = dict[str, list[float]]


def stills(model: object, numbers: range) -> Found:
    """What the prompts give on these scenes of the evaluation."""
    predictor = mlx_sam2.SAM2ImagePredictor(model)
    bank = TextureBank(EVAL_FIRST)
    found: Found = {"best": [], "chosen": [], "box": [], "five": [], "true": [], "said": []}
    for n in tqdm(numbers, desc="stills", disable=None):
        made = make_scene(seed_of(EVAL_FIRST, n), bank)
        scene = np.dstack([made.image, made.ids])
        predictor.set_image(scene[..., :3])
        for truth in targets_of(scene[..., 3], 4):
            masks, scores, _ = predictor.predict(np.array([deepest(truth)]), np.array([1]))
            each = [iou(mask > 0, truth) for mask in masks]
            found["best"].append(max(each))
            found["chosen"].append(each[int(scores.argmax())])
            found["true"] += each
            found["said"] += list(scores)
            masks, _, _ = predictor.predict(box=box_of(truth), multimask_output=False)
            found["box"].append(iou(masks[0] > 0, truth))
            found["five"].append(corrected(predictor, truth)[-1])
    return found


def still_figures(found: Found) -> dict[str, float]:
    return {
        "one click, best of three": float(np.mean(found["best"])),
        "one click, chosen": float(np.mean(found["chosen"])),
        "box": float(np.mean(found["box"])),
        "after five corrective clicks": float(np.mean(found["five"])),
        "rank correlation of predicted IoU": float(spearmanr(found["said"], found["true"]).statistic),
        "targets": len(found["best"]),
    }


def without_memory(model: mlx_sam2.model.SAM2) -> Callable[..., object]:
    """What replaces memory attention: every frame of every object gets the no-memory embedding."""
    import mlx.core as mx

    def attend(embedding: mx.array, memories: mx.array, *others: object) -> mx.array:
        plain = model.add_no_memory(embedding)
        return mx.broadcast_to(plain, (len(memories), *plain.shape[1:]))

    return attend


def clips(model: object, shards: range, count: int, length: int) -> Found:
    """J&F with and without memory, and object scores, on the clips of these shards of `count` clips in all."""
    found: Found = {"with": [], "without": [], "there": [], "absent": []}
    attend = model.attend_memory
    for clip in tqdm(_clips(shards, count, length), desc="clips", disable=None):
        ids = clip[..., 3]
        truths = targets_of(ids[0], 3)
        names = [int(ids[0][truth][0]) for truth in truths]
        for use_memory in (True, False):
            model.attend_memory = attend if use_memory else without_memory(model)
            predictor = mlx_sam2.SAM2VideoPredictor(model)
            state = predictor.init_state(list(clip[..., :3]), memory="ram")
            for name, truth in zip(names, truths, strict=True):
                predictor.add_new_mask(state, 0, name, truth)
            for frame, objects, logits in predictor.propagate_in_video(state):
                for name, mask in zip(objects, np.asarray(logits)[:, 0] > 0, strict=True):
                    if frame == 0:
                        continue
                    truth = ids[frame] == name
                    both = (region_similarity(mask, truth) + boundary_accuracy(mask, truth)) / 2
                    found["with" if use_memory else "without"].append(both)
                    if use_memory:
                        score = state.tracks[name].tracked[frame].object_score
                        visible = np.count_nonzero(truth)
                        if visible == 0 or visible >= LEAST // 2:
                            found["there" if visible else "absent"].append(float(score))
    model.attend_memory = attend
    return found


def clip_figures(found: Found) -> dict[str, float]:
    with_it, without = float(np.mean(found["with"])), float(np.mean(found["without"]))
    return {
        "clips, J&F": with_it,
        "clips, J&F without memory": without,
        "clips, J&F above no memory": with_it - without,
        "object score, AUC": auc(np.array(found["there"]), np.array(found["absent"])),
        "frames with the object absent": len(found["absent"]),
    }


def _clips(shards: range, count: int, length: int) -> Iterator[np.ndarray]:
    for start in shards:
        for clip in render_clips(EVAL_FIRST + start, min(10, count - start), length):
            if targets_of(clip[0, ..., 3], 1):
                yield clip


def auc(above: np.ndarray, below: np.ndarray) -> float:
    if not len(above) or not len(below):
        return float("nan")
    ranks = rankdata(np.concatenate([above, below]))[: len(above)]
    return float((ranks.sum() - len(above) * (len(above) + 1) / 2) / (len(above) * len(below)))


def classical_coins() -> tuple[np.ndarray, list[np.ndarray]]:
    """scikit-image's coins and its own segmentation of them: watershed on the edges, from sure coin and sure ground."""
    from skimage import data, filters, segmentation

    photo = data.coins()
    markers = np.zeros(photo.shape, np.int32)
    markers[photo < 30], markers[photo > 150] = 1, 2
    solid = ndimage.binary_fill_holes(segmentation.watershed(filters.sobel(photo), markers) == 2)
    labels, count = ndimage.label(solid)
    masks = [labels == n for n in range(1, count + 1)]
    masks.sort(key=lambda mask: -np.count_nonzero(mask))
    return np.repeat(photo[..., None], 3, 2), masks[:24]


def coins(model: object) -> dict[str, float]:
    photo, truths = classical_coins()
    predictor = mlx_sam2.SAM2ImagePredictor(model)
    predictor.set_image(photo)
    chosen, best = [], []
    for truth in truths:
        y, x = ndimage.center_of_mass(truth)
        masks, scores, _ = predictor.predict(np.array([[x, y]]), np.array([1]))
        each = [iou(mask > 0, truth) for mask in masks]
        chosen.append(each[int(scores.argmax())])
        best.append(max(each))
    return {
        "coins with IoU >= 0.85, of 24": int(np.sum(np.array(chosen) >= 0.85)),
        "coins, best of three >= 0.85": int(np.sum(np.array(best) >= 0.85)),
        "coins, mean IoU": float(np.mean(chosen)),
    }


def table(values: dict[str, float]) -> str:
    lines = ["| measure | value | bar |", "|---|---|---|"]
    for name, value in values.items():
        bar = BARS.get(name)
        text = f"{value:.3f}" if isinstance(value, float) else str(value)
        mark = "" if bar is None else f"{bar} {'reached' if value >= bar else 'missed'}"
        lines.append(f"| {name} | {text} | {mark} |")
    return "\n".join(lines)


def load(options: argparse.Namespace) -> object:
    config = options.config
    if options.size is not None:
        from model import load_config

        config = load_config(options.size)
    return mlx_sam2.load(options.model, config=config, dtype=options.dtype)


def measure(options: argparse.Namespace, part: int) -> dict[str, Found]:
    """One of `options.jobs` parts of the stills and the clips."""
    model = load(options)
    found: dict[str, Found] = {}
    if options.stills:
        found["stills"] = stills(model, range(part, options.stills, options.jobs))
    if options.clips:
        found["clips"] = clips(model, range(10 * part, options.clips, 10 * options.jobs), options.clips, options.length)
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", nargs="?", default="demo", help="as mlx_sam2.load takes it; default: the one in the package"
    )
    parser.add_argument("--config", help="the YAML beside an official-layout checkpoint")
    parser.add_argument(
        "--size", type=int, help="another image size than the configuration's (for half-trained models)"
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--stills", type=int, default=150, help="scenes; 0 for none")
    parser.add_argument("--clips", type=int, default=40, help="clips; 0 for none")
    parser.add_argument("--length", type=int, default=24, help="frames a clip")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share scenes and clips")
    parser.add_argument("--json", type=Path, help="write the values here as well")
    options = parser.parse_args(argv)
    found: dict[str, Found] = {}
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for part in pool.map(partial(measure, options), range(options.jobs)):
            for kind, lists in part.items():
                for name, values in lists.items():
                    found.setdefault(kind, {}).setdefault(name, []).extend(values)
    figures = {"stills": still_figures, "clips": clip_figures}
    values = {name: value for kind, lists in found.items() for name, value in figures[kind](lists).items()}
    values |= coins(load(options))
    print(table(values))
    if options.json:
        options.json.write_text(json.dumps(values, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Scores on held-out items: IoU after 1, 3 and 5 clicks on photos, J&F on clips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import mlx.core as mx
import numpy as np

from ..datasets.davis import boundary_accuracy, region_similarity
from ..datasets.items import DatasetObject, Item
from ..model.resize import fit_mask, resize_bilinear
from ..model.results import ImageFeatures
from ..model.sam2 import SAM2
from ..sam2_video_predictor import SAM2VideoPredictor
from .centres import centre_click

CLICKS = (1, 3, 5)
PREVIOUS_CLAMP = 32.0  # of the logits that a correction sends back
OBJECTS = 16  # that are decoded together
CLIP = 24  # frames of a clip that are tracked
Scores = dict[str, float]


def evaluate_photos(
    model: SAM2, items: Iterable[Item], features: Callable[[Item, int], ImageFeatures], most: int
) -> Scores:
    """Mean IoU over objects after one, three and five clicks, each in the middle of the largest error.

    As the image predictor answers: of three masks after the first click the one of the highest predicted IoU, later a
    single one.

    Args:
        most: objects that are asked for, in the order of the items.
    """
    ious: list[list[float]] = []
    for item in items:
        if len(ious) >= most:
            break
        frame = item.keyframes[0]
        seen = [o for o in item.objects if frame in o.masks and o.masks[frame].area() > 0]
        masks = [fit_mask(o.masks[frame].decode(), model.config.image_size) for o in seen[: most - len(ious)]]
        for i in range(0, len(masks), OBJECTS):
            ious += _click(model, features(item, frame), np.array(masks[i : i + OBJECTS])).T.tolist()
    if not ious:
        return {}
    means = np.mean(ious, axis=0)
    return {f"iou_{count}": float(mean) for count, mean in zip(CLICKS, means, strict=True)} | {"objects": len(ious)}


def _click(model: SAM2, features: ImageFeatures, targets: np.ndarray) -> np.ndarray:
    """IoUs (clicks, B) of B objects of one photo; targets (B, S, S) bool."""
    answers = np.zeros_like(targets)
    points, labels, previous, found = [], [], None, []
    for count in range(1, max(CLICKS) + 1):
        clicks = [centre_click(target, answer) for target, answer in zip(targets, answers, strict=True)]
        points.append([click[0] for click in clicks])
        labels.append([click[1] for click in clicks])
        arrays = mx.array(np.array(points, np.float32).swapaxes(0, 1)), mx.array(np.array(labels, np.int32).T)
        masks, ious = model.predict_masks(features, *arrays, previous, multimask=count == 1)
        best = mx.argmax(ious, axis=1)[:, None, None, None]
        low_res = mx.take_along_axis(masks, best, axis=1).swapaxes(1, 2).swapaxes(2, 3)  # (B, 4h, 4w, 1)
        answers = np.array(resize_bilinear(low_res, targets.shape[1:])[..., 0] > 0)
        previous = mx.clip(low_res, -PREVIOUS_CLAMP, PREVIOUS_CLAMP)
        if count in CLICKS:
            found.append([region_similarity(a, t) for a, t in zip(answers, targets, strict=True)])
    return np.array(found)


def evaluate_clips(model: SAM2, items: Iterable[Item], most: int) -> Scores:
    """J, F and J&F over objects, each tracked from its mask on the first annotated frame.

    Frames after it are scored where they are annotated, up to ``CLIP`` of them.
    """
    predictor = SAM2VideoPredictor(model)
    scores: list[tuple[float, float]] = []
    for item in items:
        if len(scores) >= most:
            break
        first, last = item.keyframes[0], item.keyframes[: CLIP + 1][-1]
        seen = [o for o in item.objects if first in o.masks and o.masks[first].area() > 0]
        if seen and last > first:
            scores += _track(predictor, item, seen[: most - len(scores)], first, last)
    if not scores:
        return {}
    j, f = np.mean(scores, axis=0)
    return {"j": float(j), "f": float(f), "jf": float(j + f) / 2, "objects": len(scores)}


def _track(
    predictor: SAM2VideoPredictor, item: Item, objects: Sequence[DatasetObject], first: int, last: int
) -> list[tuple[float, float]]:
    state = predictor.init_state(item.source())
    for found in objects:
        predictor.add_new_mask(state, first, found.id, found.masks[first].decode())
    totals: dict[int, list[tuple[float, float]]] = {found.id: [] for found in objects}
    truths = {found.id: found.masks for found in objects}
    for t, ids, masks in predictor.propagate_in_video(state, first, last - first):
        if t == first or t not in item.keyframes:
            continue
        for obj_id, mask in zip(ids, np.array(masks)[:, 0] > 0, strict=True):
            truth = truths[obj_id][t].decode() if t in truths[obj_id] else np.zeros_like(mask)
            totals[obj_id].append((region_similarity(mask, truth), boundary_accuracy(mask, truth)))
    return [tuple(np.mean(values, axis=0)) for values in totals.values() if values]

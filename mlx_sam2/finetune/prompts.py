"""Sampling of prompts: what the user of a clip does (official ``SAM2Train.prepare_prompt_inputs``)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .arguments import Arguments
from .clicks import Draw, Points
from .rollout import Plan

BOX_NOISE = 0.1  # of a box's side, and at most
BOX_NOISE_PIXELS = 20


def draw_plan(targets: np.ndarray, arguments: Arguments, random: np.random.Generator) -> Plan:
    """Draw the prompts of a clip, the same kind for all of its objects.

    A clip of one frame is always prompted by points or boxes: a mask would teach nothing there.

    Args:
        targets: (T, B, S, S) bool.
    """
    num_frames, num_objects = targets.shape[:2]
    clicks = num_frames == 1 or random.random() < arguments.point_share
    most_first = min(arguments.first_frames, num_frames)
    count = int(random.integers(1, most_first, endpoint=True)) if most_first > 1 else 1
    # a short clip keeps a frame to track: a mask that is given has no loss of its own
    count = min(count, num_frames - 1) if num_frames > 1 and not clicks else count
    first = [0, *_chosen(random, range(1, num_frames), count - 1)]
    if not clicks:
        return Plan(dict.fromkeys(first), {})
    most = min(arguments.corrected_frames, num_frames)
    num_corrected = int(random.integers(count, most, endpoint=True)) if most > count else count
    prompts: dict[int, Points | None] = {}
    for t in first:
        box = random.random() < arguments.box_share
        prompts[t] = draw_box(targets[t], random) if box else draw_click(targets[t], random)
    others = [t for t in range(num_frames) if t not in first]
    corrected = [*first, *_chosen(random, others, num_corrected - count)]
    corrections = {t: draw_corrections(num_objects, arguments, random) for t in corrected}
    return Plan(prompts, corrections if arguments.corrections else {})


def draw_corrections(num_objects: int, arguments: Arguments, random: np.random.Generator) -> list[Draw]:
    """The clicks on one frame; their places depend on answers that are not known yet."""
    return [
        Draw(
            mx.array(random.random(num_objects, dtype=np.float32)),
            mx.array(bool(random.random() < arguments.from_target)),
        )
        for _ in range(arguments.corrections)
    ]


def draw_click(masks: np.ndarray, random: np.random.Generator) -> Points:
    """A positive click, uniform in each mask (B, S, S); a negative one in the background where it is empty."""
    points = []
    for mask in masks:
        inside = np.flatnonzero(mask if mask.any() else ~mask)
        index = int(inside[random.integers(len(inside))])
        points.append([index % mask.shape[1], index // mask.shape[1]])
    labels = masks.any(axis=(1, 2))
    return Points(mx.array(np.array(points, np.float32)[:, None]), mx.array(labels[:, None].astype(np.int32)))


def draw_box(masks: np.ndarray, random: np.random.Generator) -> Points:
    """A box round each mask (B, S, S), its corners moved by up to a tenth of its sides, at most 20 pixels.

    The box of an empty mask is what the official code makes of it: from the lower right corner to the upper left one.
    """
    _, height, width = masks.shape
    corners = []
    for mask in masks:
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        corners.append(
            [columns[0], rows[0], columns[-1], rows[-1]] if len(columns) else [width, height, -1, -1],
        )
    boxes = np.array(corners, np.float32)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    noise = (2 * random.random(boxes.shape, dtype=np.float32) - 1) * np.minimum(BOX_NOISE * sides, BOX_NOISE_PIXELS)
    boxes = np.clip(boxes + noise, 0, np.float32([width, height, width, height]) - 1)
    labels = np.tile(np.int32([2, 3]), (len(masks), 1))
    return Points(mx.array(boxes.reshape(-1, 2, 2).astype(np.float32)), mx.array(labels))


def _chosen(random: np.random.Generator, frames: range | list[int], count: int) -> list[int]:
    return random.choice(list(frames), count, replace=False).tolist() if count else []

"""The forward pass of training: a clip, its prompts, and every answer on the way (official ``training/model/sam2.py``).

A photo is a clip of one frame. Gradients run through the chain of corrections and through the memories.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import mlx.core as mx

from ..config.sam2 import SAM2Config
from ..model.resize import resize_bilinear
from ..model.results import ImageFeatures
from ..model.sam2 import MASK_BIAS, MASK_SCALE, SAM2
from ..video.memory_bank import ObjectTrack
from ..video.result_store import FrameMemory
from .clicks import Draw, Points, click_on_error
from .losses import Step

Attend = Callable[..., mx.array]  # as ``SAM2.attend_memory``


class Plan(NamedTuple):
    """How the user of a clip behaves."""

    first: Mapping[int, Points | None]  # initial conditioning frames, in order; None: the target is given as a mask
    corrections: Mapping[int, Sequence[Points | Draw]]  # clicks on frames to correct, one after the other


def training_config(config: SAM2Config) -> SAM2Config:
    """The configuration of the model in training: every memory at stride 1, pointers also from later frames.

    Masks are neither chosen by their stability nor made exclusive nor binarised.
    """
    return dataclasses.replace(
        config,
        decoder=dataclasses.replace(config.decoder, dynamic_multimask_via_stability=False),
        memory_temporal_stride_for_eval=1,
        only_obj_ptrs_in_the_past_for_eval=False,
        binarize_mask_from_pts_for_mem_enc=False,
        non_overlap_masks_for_mem_enc=False,
    )


class _Remembered(NamedTuple):
    memory: FrameMemory  # of all B objects: features (B, h, w, M), pointers (B, C)


def roll_out(
    model: SAM2, frames: Sequence[ImageFeatures], targets: mx.array, plan: Plan, attend: Attend | None = None
) -> list[list[Step]]:
    """All steps of all frames of a clip, in the order of time.

    Args:
        model: with ``training_config``.
        frames: the features of T frames, of batch 1 or B.
        targets: (T, B, S, S) bool.
        attend: replaces ``model.attend_memory``, to add dropout.
    """
    later = [t for t in range(len(frames)) if t not in plan.first]
    track = ObjectTrack({}, {}, {})  # type: ignore[arg-type]  # of all objects at once
    steps: dict[int, list[Step]] = {}
    for t in [*plan.first, *later]:
        if t in plan.first and plan.first[t] is None:
            answer = _from_mask(model, frames[t], targets[t])
        else:
            embedding = _conditioned(model, frames, t, t in plan.first, track, attend or model.attend_memory)
            answer = _from_clicks(model, embedding, frames[t].high_res, targets[t], plan, t)
        steps[t] = answer.steps
        if len(frames) > 1:
            memory = model.encode_memory(frames[t].embedding, answer.logits, answer.steps[-1].object_score)
            kept = track.conditioning if t in plan.first or t in plan.corrections else track.tracked
            kept[t] = _Remembered(FrameMemory(memory, answer.pointer))  # type: ignore[assignment]
    return [steps[t] for t in range(len(frames))]


class _Answer(NamedTuple):
    """All steps on a frame, and the final answer."""

    steps: list[Step]
    logits: mx.array  # (B, S, S, 1) of the last step's best mask
    pointer: mx.array  # (B, C)


def _from_mask(model: SAM2, features: ImageFeatures, target: mx.array) -> _Answer:
    """The target itself as the answer."""
    mask = target.astype(mx.float32)[..., None]
    given = model.predict_from_mask(features, mask)
    logits = mask * MASK_SCALE + MASK_BIAS
    return _Answer([Step(logits, given.ious, given.object_score)], logits, given.pointer)


def _conditioned(
    model: SAM2, frames: Sequence[ImageFeatures], t: int, first: bool, track: ObjectTrack, attend: Attend
) -> mx.array:
    """The features of a frame as the mask decoder reads them: with memories, or without any on the first frames."""
    embedding = frames[t].embedding
    if first:
        return model.add_no_memory(embedding)
    recall = track.recall(t, False, len(frames), model.config)
    memories = mx.stack([m.features for m in recall.memories], axis=1)  # (B, T, h, w, M)
    pointers = times = None
    if recall.pointers:
        pointers = mx.stack([m.pointer for m in recall.pointers], axis=1)  # (B, P, C)
        times = mx.broadcast_to(mx.array(recall.pointer_times, mx.float32), pointers.shape[:2])
    time_indices = mx.broadcast_to(mx.array(recall.time_indices), memories.shape[:2])
    return attend(embedding, memories, time_indices, pointers, times)


def _from_clicks(
    model: SAM2,
    embedding: mx.array,
    high_res: tuple[mx.array, mx.array] | None,
    target: mx.array,
    plan: Plan,
    t: int,
) -> _Answer:
    """The first answer on a frame, and one more for every corrective click.

    A correction sends all clicks so far and the logits of the answer before, neither clamped nor detached.
    """
    points, mask = plan.first.get(t), None
    embedding = mx.broadcast_to(embedding, (len(target), *embedding.shape[1:]))  # of one photo
    steps: list[Step] = []
    logits = None
    for correction in [None, *plan.corrections.get(t, ())]:
        if correction is not None:
            click = (
                click_on_error(target, logits[..., 0] > 0, correction) if isinstance(correction, Draw) else correction
            )
            points = click if points is None else points.and_then(click)
        multimask = _several(model.config, t in plan.first, points)
        found = model.candidates(embedding, high_res, *(points or (None, None)), mask, multimask)
        chosen = model.choose(found)
        mask = chosen.low_res_mask
        masks = model.blank_absent(found.masks, found.object_score).swapaxes(1, 2).swapaxes(2, 3)
        masks, logits = _upsampled(masks, target), _upsampled(mask, target)
        steps.append(Step(masks, found.ious, found.object_score))
    return _Answer(steps, logits, chosen.pointer)


def _upsampled(masks: mx.array, target: mx.array) -> mx.array:
    """(B, 4h, 4w, M) logits at the size of the targets (B, S, S)."""
    return resize_bilinear(masks, target.shape[1:])


def _several(config: SAM2Config, first: bool, points: Points | None) -> bool:
    """Whether the decoder gives three masks: for at most one point (a box is two)."""
    count = 0 if points is None else points.labels.shape[1]
    allowed = config.multimask_output_in_sam and (first or config.multimask_output_for_tracking)
    return allowed and config.multimask_min_pt_num <= count <= config.multimask_max_pt_num

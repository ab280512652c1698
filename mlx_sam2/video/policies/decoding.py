"""A tracked frame in two graphs: the decoder's candidates, then the one that a policy took and its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from ...model.compiled import compiled
from ...model.resize import resize_bilinear
from ...model.results import Candidates, ImageFeatures, ObjectPrediction
from ...model.sam2 import SAM2
from ...processes import before_computing
from ..result_store import FrameResult
from .official import Choice, Notes, Official, Review, Sight

Recalled = tuple[Any, ...]  # arguments of ``SAM2.attend_memory`` behind the embedding


def find(model: SAM2, features: ImageFeatures, recalled: Recalled, multimask: bool) -> Candidates:
    """The candidates for B objects on a frame, from their memories."""
    before_computing()
    position = model.sam_prompt_encoder.dense_position_encoding()
    return Candidates(*_find(model, features.embedding, features.high_res, recalled, multimask, position))


@compiled
def _find(
    model: SAM2,
    embedding: mx.array,
    high_res: tuple[mx.array, mx.array] | None,
    recalled: Recalled,
    multimask: bool,
    position: mx.array,
) -> tuple[mx.array, ...]:
    attended = model.attend_memory(embedding, *recalled)
    return tuple(model.candidates(attended, high_res, multimask=multimask, position=position))


class Place(NamedTuple):
    frame_idx: int
    direction: int


class Decision(NamedTuple):
    """What a policy takes of the candidates for B objects."""

    found: Candidates
    before: list[Notes | None]
    choices: list[Choice]

    def carried_out(
        self, model: SAM2, embedding: mx.array, presence: float, remember: bool
    ) -> tuple[ObjectPrediction, mx.array | None]:
        """The candidates that were chosen, one for each object, and (``remember``) their memories.

        Args:
            embedding: of the frame.
            presence: the object score above which mask and pointer are kept.
        """
        before_computing()
        chosen = mx.array([choice.index for choice in self.choices])[:, None]
        taken, memory = _take(model, embedding, tuple(self.found), chosen, presence, remember)
        return ObjectPrediction(*taken), memory

    def reviews(
        self, policy: Official, results: Sequence[FrameResult], place: Place, video_size: tuple[int, int]
    ) -> Iterator[Review]:
        """What the policy makes of the results."""
        for i, (result, before, choice) in enumerate(zip(results, self.before, self.choices, strict=True)):
            others = partial(self._others, i, choice.index)
            yield policy.review(place.frame_idx, result, others, before, place.direction, video_size)

    def _others(self, i: int, chosen: int) -> list[np.ndarray]:
        return [mask for n, mask in enumerate(np.array(self.found.masks[i])) if n != chosen]


def decide(
    policy: Official, found: Candidates, before: list[Notes | None], direction: int, image_size: int
) -> Decision:
    """Let a policy choose among the candidates for B objects; of a single one nothing is to be chosen."""
    if found.ious.shape[1] == 1:
        return Decision(found, before, [Choice(0)] * len(before))
    ious = np.array(found.ious)
    places = boxes(found, image_size, policy.presence) if policy.needs_boxes else [None] * len(ious)
    sights = map(Sight, ious, places)
    return Decision(found, before, [policy.choose(*seen, direction) for seen in zip(sights, before, strict=True)])


@compiled
def _take(
    model: SAM2,
    embedding: mx.array,
    found: tuple[mx.array, ...],
    chosen: mx.array,
    presence: float,
    remember: bool,
) -> tuple[tuple[mx.array, ...], mx.array | None]:
    masks, ious, tokens, score = found
    one = mx.take_along_axis(masks, chosen[:, :, None, None], axis=1), mx.take_along_axis(ious, chosen, axis=1)
    if tokens.shape[1] > 1:
        tokens = mx.take_along_axis(tokens, chosen[:, :, None], axis=1)
    taken = model.choose(Candidates(*one, tokens, score), presence)
    memory = model.remember(embedding, taken.low_res_mask, score, False) if remember else None
    return tuple(taken), memory


def boxes(found: Candidates, size: int, presence: float) -> np.ndarray:
    """Boxes of candidates at the model's input size, (B, M, 4) as x0, y0, x1, y1 of the outermost pixels.

    (0, 0, 0, 0) for an empty mask, and for all masks of an object that is absent.
    """
    inside = resize_bilinear(found.masks.swapaxes(1, 2).swapaxes(2, 3), (size, size)) > 0  # (B, S, S, M)
    inside = inside & (found.object_score > presence)[:, :, None, None]
    ends = []
    for axis in (1, 2):  # columns of any row, then rows of any column
        line = np.array(inside.any(axis=axis)).swapaxes(1, 2)  # (B, M, S)
        some = line.any(-1)
        ends.append((np.where(some, line.argmax(-1), 0), np.where(some, size - 1 - line[..., ::-1].argmax(-1), 0)))
    (x0, x1), (y0, y1) = ends
    return np.stack([x0, y0, x1, y1], axis=-1)

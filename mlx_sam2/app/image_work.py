"""Prompts on a picture answered: it is encoded once, and each new click is one decode.

A prompt's masks depend on the prompt alone. With ``refine``, click k is decoded together with the clicks before it and
the low-resolution logits that these gave, as the official notebook does. Decoded steps are remembered, so a new click
costs one decode and undoing it none, and a click at the place of the latest preview none either.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..images.preprocess import mask_prompt
from ..masks.boxes import mask_to_bbox
from ..masks.rle import compress_rle, mask_to_rle, rle_area, rle_to_bbox, rle_to_mask
from ..masks.upscaled import UpscaledMask
from ..utils.image import LOW_RES_CLAMP
from .schemas import Mask, Point, PreviewAsk, Prompt, Rle

if TYPE_CHECKING:
    from ..sam2_image_predictor import SAM2ImagePredictor

REMEMBERED = 32  # decoded steps of a session: three masks of logits each


class Step:
    """A decoded prompt. Its masks are made when they are asked for, from logits: nothing has the picture's size.

    Args:
        low_res: (M, h, w) float32 logits, not clamped: masks are upscaled from these.
        scores: (M,) predicted IoU.
        size: (H, W) of the picture.
    """

    def __init__(self, low_res: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> None:
        self.low_res, self._scores, self._size = low_res, scores, size

    @cached_property
    def masks(self) -> list[Mask]:
        return [self.mask(i, self._size) for i in range(len(self._scores))]

    def mask(self, index: int, size: tuple[int, int]) -> Mask:
        """One of the masks at any size, pixel for pixel what the predictor gives for a picture of that size."""
        score = require_finite(float(self._scores[index]))
        rle = UpscaledMask(self.low_res[index], size, 0.0).rle(0.0, size)
        area, bbox = rle_area(rle), tuple(rle_to_bbox(rle))
        return Mask(size=size, counts=compress_rle(rle)["counts"], area=area, bbox=bbox, score=score)

    def chosen(self, choice: int | None) -> int:
        if len(self._scores) == 1:
            return 0
        return int(np.argmax(self._scores)) if choice is None else choice

    def logits(self, choice: int | None) -> np.ndarray:
        """The chosen mask's (1, h, w), clamped, for the next click."""
        return np.clip(self.low_res[self.chosen(choice)], -LOW_RES_CLAMP, LOW_RES_CLAMP)[None]


class ImageWork:
    """An encoded picture and its remembered steps. Only the worker thread uses it."""

    def __init__(self, predictor: SAM2ImagePredictor, pixels: np.ndarray) -> None:
        self.predictor = predictor
        self._size = pixels.shape[:2]
        self._steps: OrderedDict[tuple[Any, ...], Step] = OrderedDict()
        self._seen: tuple[Point, Step] | None = None  # the latest preview: a click there needs no decoding
        predictor.set_image(pixels)

    def answer(self, prompt: Prompt) -> tuple[list[Mask], int]:
        """The masks of a prompt that is not empty, and the number of the chosen one.

        Raises:
            ArithmeticError: the model gave no finite score.
        """
        if prompt.mask is not None and not prompt.points and prompt.box is None:
            return [as_given(prompt.mask, prompt.score)], 0
        step = self._answered(prompt)
        return step.masks, step.chosen(prompt.choice)

    def logits(self, prompt: Prompt, shown: Mask) -> np.ndarray | None:
        """Low-resolution logits (h, w) of the mask that a prompt gives; None if that is not the one that is shown."""
        if prompt.is_empty or (prompt.mask is not None and not prompt.points and prompt.box is None):
            return None
        step = self._answered(prompt)
        chosen = step.chosen(prompt.choice)
        return step.low_res[chosen] if step.masks[chosen].counts == shown.counts else None

    def _answered(self, prompt: Prompt) -> Step:
        """The last step of a prompt; those that are not remembered are decoded."""
        step: Step | None = None
        for count in clicks_of(prompt):
            points = prompt.points[:count]
            key = (prompt.refine, prompt.box, _key(prompt.mask), tuple(points), prompt.choice)
            if key not in self._steps:
                previous = None if step is None else step.logits(prompt.choice)
                self._steps[key] = self._decode(points, prompt.box, prompt.mask, previous)
            self._steps.move_to_end(key)
            step = self._steps[key]
            while len(self._steps) > REMEMBERED:
                self._steps.popitem(last=False)
        assert step is not None
        return step

    def close(self) -> None:
        """Forget the picture."""
        self.predictor.reset_predictor()
        self._steps.clear()

    def preview(self, ask: PreviewAsk) -> Mask:
        """The mask that a click would give: the best of three, no side longer than the page shows."""
        point = (ask.x, ask.y, 1)
        step = self._decode([point], None, None, None)
        self._seen = (point, step)
        return step.mask(step.chosen(None), shown_size(self._size, ask.side))

    def _decode(
        self, points: Sequence[Point], box: tuple[float, ...] | None, mask: Rle | None, previous: np.ndarray | None
    ) -> Step:
        given = previous
        if mask is not None and given is None:
            size = self.predictor.model.sam_prompt_encoder.mask_input_size
            given = mask_prompt(rle_to_mask(mask.rle), size)
        is_first = len(points) == 1 and box is None and given is None
        if is_first and self._seen is not None and self._seen[0] == points[0]:
            return self._seen[1]
        scores, low_res = self.predictor.predict_low_res(
            point_coords=[(x, y) for x, y, _ in points] or None,
            point_labels=[label for _, _, label in points] or None,
            box=box,
            mask_input=given,
            multimask_output=is_first,
            clamp=False,
        )
        return Step(low_res.astype(np.float32), scores, self._size)


def shown_size(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """(H, W) made smaller, where the longer side has more than `side` pixels."""
    longest = max(size)
    if side is None or longest <= side:
        return size
    height, width = (max(1, round(n * side / longest)) for n in size)
    return height, width


def clicks_of(prompt: Prompt) -> range:
    """How many clicks go into each step of a prompt; a box or a mask is looked at alone first."""
    count = len(prompt.points)
    if not prompt.refine:
        return range(count, count + 1)
    alone = prompt.box is not None or (prompt.mask is not None and not count)
    return range(0 if alone else 1, count + 1)


def _key(mask: Rle | None) -> tuple[Any, ...] | None:
    return None if mask is None else (mask.size, mask.counts)


def as_mask(mask: np.ndarray, score: float, predicted_iou: float | None = None) -> Mask:
    """A bool mask (H, W) for the wire."""
    require_finite(score if predicted_iou is None else score + predicted_iou)
    rle = mask_to_rle(mask)
    area = int(np.count_nonzero(mask))
    facts = {"area": area, "bbox": tuple(mask_to_bbox(mask)), "score": score, "predicted_iou": predicted_iou}
    return Mask(size=tuple(rle["size"]), counts=rle["counts"], **facts)


def require_finite(score: float) -> float:
    """The score itself.

    Raises:
        ArithmeticError: it is no finite number.
    """
    if not np.isfinite(score):
        raise ArithmeticError("the model gave a score that is not a finite number; try --dtype float32")
    return score


def as_given(rle: Rle, score: float | None) -> Mask:
    """A mask that is its own answer; one that a user drew has no score, so 1."""
    area, bbox = rle_area(rle.rle), tuple(rle_to_bbox(rle.rle))
    return Mask(**rle.rle, area=area, bbox=bbox, score=1.0 if score is None else score)

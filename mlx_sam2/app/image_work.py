"""Prompts on a picture answered: it is encoded once, and each new click is one decode.

A prompt's masks depend on the prompt alone. With ``refine``, click k is decoded together with the clicks before it and
the low-resolution logits that these gave, as the official notebook does. Decoded steps are remembered, so a new click
costs one decode and undoing it none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..images.preprocess import mask_prompt
from ..masks.boxes import mask_to_bbox
from ..masks.rle import mask_to_rle, rle_area, rle_to_bbox, rle_to_mask
from .schemas import Mask, PreviewAsk, Prompt, Rle

if TYPE_CHECKING:
    from ..sam2_image_predictor import SAM2ImagePredictor

REMEMBERED = 32  # decoded steps of a session: three masks of logits each


@dataclass(frozen=True)
class Step:
    """A decoded prompt: its masks, and their logits (M, h, w) for the next click."""

    masks: list[Mask]
    low_res: np.ndarray

    def chosen(self, choice: int | None) -> int:
        if len(self.masks) == 1:
            return 0
        return int(np.argmax([mask.score for mask in self.masks])) if choice is None else choice


class ImageWork:
    """An encoded picture and its remembered steps. Only the worker thread uses it."""

    def __init__(self, predictor: SAM2ImagePredictor, pixels: np.ndarray) -> None:
        self.predictor = predictor
        self._size = pixels.shape[:2]
        self._steps: OrderedDict[tuple[Any, ...], Step] = OrderedDict()
        predictor.set_image(pixels)

    def answer(self, prompt: Prompt) -> tuple[list[Mask], int]:
        """The masks of a prompt that is not empty, and the number of the chosen one.

        Raises:
            ArithmeticError: the model gave no finite score.
        """
        if prompt.mask is not None and not prompt.points and prompt.box is None:
            return [as_given(prompt.mask, prompt.score)], 0
        step: Step | None = None
        for count in clicks_of(prompt):
            points = prompt.points[:count]
            key = (prompt.refine, prompt.box, _key(prompt.mask), tuple(points), prompt.choice)
            if key not in self._steps:
                previous = None if step is None else step.low_res[step.chosen(prompt.choice)]
                self._steps[key] = self._decode(points, prompt.box, prompt.mask, previous)
            self._steps.move_to_end(key)
            step = self._steps[key]
            while len(self._steps) > REMEMBERED:
                self._steps.popitem(last=False)
        return step.masks, step.chosen(prompt.choice)

    def close(self) -> None:
        """Forget the picture."""
        self.predictor.reset_predictor()
        self._steps.clear()

    def preview(self, ask: PreviewAsk) -> Mask:
        """The mask that a click would give: the best of three."""
        step = self._decode([(ask.x, ask.y, 1)], None, None, None)
        return step.masks[step.chosen(None)]

    def _decode(
        self,
        points: Sequence[tuple[float, float, int]],
        box: tuple[float, ...] | None,
        mask: Rle | None,
        previous: np.ndarray | None,
    ) -> Step:
        given = None if previous is None else previous[None]
        if mask is not None and given is None:
            size = self.predictor.model.sam_prompt_encoder.mask_input_size
            given = mask_prompt(rle_to_mask(mask.rle), size)
        masks, scores, low_res = self.predictor.predict(
            point_coords=[(x, y) for x, y, _ in points] or None,
            point_labels=[label for _, _, label in points] or None,
            box=box,
            mask_input=given,
            multimask_output=len(points) == 1 and box is None and given is None,
        )
        found = [as_mask(mask > 0, float(score)) for mask, score in zip(masks, scores, strict=True)]
        return Step(found, low_res)


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
    if not np.isfinite(score if predicted_iou is None else score + predicted_iou):
        raise ArithmeticError("the model gave a score that is not a finite number; try --dtype float32")
    rle = mask_to_rle(mask)
    area = int(np.count_nonzero(mask))
    facts = {"area": area, "bbox": tuple(mask_to_bbox(mask)), "score": score, "predicted_iou": predicted_iou}
    return Mask(size=tuple(rle["size"]), counts=rle["counts"], **facts)


def as_given(rle: Rle, score: float | None) -> Mask:
    """A mask that is its own answer; one that a user drew has no score, so 1."""
    area, bbox = rle_area(rle.rle), tuple(rle_to_bbox(rle.rle))
    return Mask(**rle.rle, area=area, bbox=bbox, score=1.0 if score is None else score)

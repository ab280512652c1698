"""``segment --reference``: the object that was learned elsewhere, in each photo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import cli
from ..sam2_video_predictor import SAM2VideoPredictor
from ..video.reference import Reference

if TYPE_CHECKING:
    from ..model.sam2 import SAM2


class ReferencePredictor:
    """Answers as ``SAM2ImagePredictor`` does, with an object that was learned elsewhere in the place of prompts.

    Each photo is the first frame of a stream of its own, prepared as frames of video are.
    """

    def __init__(self, predictor: SAM2VideoPredictor, references: Sequence[Reference]) -> None:
        self._predictor, self._references = predictor, references

    @classmethod
    def load(cls, args: argparse.Namespace) -> ReferencePredictor:
        """The model of the command's options, and its references. ValueError for one of another model."""
        options = {"dtype": args.dtype, "revision": args.revision, **cli.weights_key(args), **cli.image_size(args)}
        predictor = SAM2VideoPredictor.from_pretrained(args.model, feature_cache="off", **options)
        return cls(predictor, [Reference.load(path, predictor.model) for path in args.reference])

    @property
    def model(self) -> SAM2:
        return self._predictor.model

    def set_image(self, pixels: np.ndarray) -> None:
        """Take a photo, (H, W, 3) uint8."""
        self._pixels = pixels

    def predict(self, return_logits: bool = False, **no_prompts: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The object in the photo: masks (1, H, W), its presence (1,) from 0 to 1, logits (1, S/4, S/4), float32."""
        with self._predictor.stream() as stream:
            for reference in self._references:
                stream.add_reference(1, reference)
            _, _, logits = stream.push(self._pixels)
            result = stream.state.tracks[1].result(0)
        presence = 1 / (1 + np.exp(-np.float32([result.object_score])))
        found = logits[:, 0] if return_logits else (logits[:, 0] > 0).astype(np.float32)
        return np.asarray(found), presence, result.low_res_mask[None]

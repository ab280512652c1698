"""The embedding of photos as scripts keep it: the official ``predictor._features``, a dict that can be set again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..model.results import ImageFeatures
from ..model.sam2 import SAM2
from .arrays import ResultArray, to_numpy

KEYS = ("image_embed", "high_res_feats")


class FeatureDict(dict[str, Any]):
    """``image_embed`` (B, C, h, w) and ``high_res_feats``, [(B, C / 8, 4h, 4w), (B, C / 4, 2h, 2w)], float32.

    The arrays are made when they are asked for. Given back to the predictor that it came from, or to another one with
    the same weights, it restores the very features; pickled or copied by hand, the arrays within a rounding of them.
    An array that a script puts in counts from then on, in the predictor too whose features these are.
    """

    def __init__(self, model: SAM2, images: list[ImageFeatures]) -> None:
        super().__init__(dict.fromkeys(KEYS))
        self.model, self.images = model, images

    def __getitem__(self, key: str) -> Any:
        if key in KEYS and super().__getitem__(key) is None:
            super().__setitem__(key, self._made(key))
        return super().__getitem__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        changed = {**self, key: value}
        if key in KEYS:
            self.images[:] = restored(self.model, changed)
        super().__setitem__(key, value)

    def __iter__(self) -> Any:  # without one of our own dict(features) would take the arrays that are not made yet
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401  dict.get would not make the arrays

    def values(self) -> Any:
        return [self[key] for key in self]

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def copy(self) -> dict[str, Any]:
        return dict(self.items())

    def __reduce__(self) -> Any:
        return dict, (self.items(),)

    def _made(self, key: str) -> Any:
        if key == "image_embed":
            return _channels_first([self.model.add_no_memory(image.embedding) for image in self.images])
        if any(image.high_res is None for image in self.images):
            return []
        return [_channels_first([image.high_res[i] for image in self.images]) for i in range(2)]


def _channels_first(maps: Sequence[mx.array]) -> ResultArray:
    joined = mx.concatenate(list(maps)).astype(mx.float32).transpose(0, 3, 1, 2)
    return ResultArray.of(np.array(joined))


def restored(model: SAM2, features: Mapping[str, Any] | None) -> list[ImageFeatures]:
    """The features of photos from what a script kept of ``_features``.

    Raises:
        ValueError: for anything else, or features of another model.
    """
    side, width = model.config.embedding_size, model.no_mem_embed.shape[-1]
    expected = (side, side, width)
    if isinstance(features, FeatureDict):
        for image in features.images:
            _check(image.embedding, expected)
        return features.images
    if features is None:
        return []
    if not isinstance(features, Mapping) or any(key not in features for key in KEYS):
        raise ValueError("features must be what predictor._features gave: a dict with image_embed and high_res_feats")
    with_no_memory = _channels_last(features["image_embed"], "image_embed")
    _check(with_no_memory, expected)
    embedding = with_no_memory.astype(model.dtype) - model.no_mem_embed
    maps = [_channels_last(value, "high_res_feats").astype(model.dtype) for value in features["high_res_feats"]]
    everything = ImageFeatures(embedding, (maps[0], maps[1]) if maps else None)
    return [everything.image(i) for i in range(len(embedding))]


def _check(embedding: mx.array, expected: tuple[int, ...]) -> None:
    if embedding.shape[1:] != expected:
        raise ValueError(
            f"image_embed has {list(embedding.shape[1:])} values a photo, and this model has {list(expected)}: "
            "it comes from another model"
        )


def _channels_last(value: Any, name: str) -> mx.array:
    array = to_numpy(value)
    if array.ndim != 4:
        raise ValueError(f"{name} has shape {array.shape}; it must be (B, C, h, w)")
    return mx.array(np.ascontiguousarray(array.transpose(0, 2, 3, 1)))

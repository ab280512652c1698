"""Masks at the size of the video, from the logits of low resolution that tracking keeps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import mlx.core as mx
import numpy as np

from ..model.resize import resize_bilinear
from ..model.sam2 import NO_OBJECT_LOGIT

NON_OVERLAP_LOGIT = -10.0  # upper bound of an object's logits where another one wins


def video_masks(low_res: Sequence[np.ndarray | None], size: tuple[int, int], non_overlap: bool) -> np.ndarray:
    """Masks of N objects at the size of the video, (N, 1, *size) float32 logits; None means -1024 everywhere.

    With ``non_overlap`` the highest logit takes a pixel and the others fall to -10 or below; ties go to the first.
    """
    out = np.full((len(low_res), 1, *size), NO_OBJECT_LOGIT, np.float32)
    present = [i for i, mask in enumerate(low_res) if mask is not None]
    if present:
        stacked = mx.array(np.stack([low_res[i] for i in present]))[..., None]  # (N', 4h, 4w, 1)
        with mx.stream(_beside(mx.default_device().type)):
            out[present, 0] = np.array(resize_bilinear(stacked, size)[..., 0])
    return without_overlap(out) if non_overlap else out


def without_overlap(masks: np.ndarray) -> np.ndarray:
    """(N, 1, H, W) logits: the highest takes a pixel, the others fall to -10 or below; ties go to the first."""
    if len(masks) < 2:
        return masks
    winner = masks.argmax(axis=0, keepdims=True) == np.arange(len(masks))[:, None, None, None]
    return np.where(winner, masks, np.minimum(masks, NON_OVERLAP_LOGIT))


@lru_cache(maxsize=4)
def _beside(device: mx.DeviceType) -> mx.ThreadLocalStream:
    """A stream for results that users wait for: on the default one they would come after the next frame's encoding."""
    return mx.new_thread_local_stream(mx.Device(device))

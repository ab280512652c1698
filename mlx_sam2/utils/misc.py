"""Names of the official ``utils/misc.py``, on numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..frames.opening import open_source
from ..images.preprocess import MEAN, STD, preprocess_frame
from ..masks import connected_components, fill_holes
from ..video.tracker import HOLE_LOGIT
from .amg import batched_mask_to_box
from .arrays import ResultArray, to_numpy

__all__ = ["concat_points", "fill_holes_in_mask_scores", "get_connected_components", "load_video_frames", "mask_to_box"]


def get_connected_components(mask: Any) -> tuple[ResultArray, ResultArray]:
    """(N, 1, H, W) masks -> labels of their 8-connected components, 0 outside, and the area at every pixel."""
    labels, areas = connected_components(to_numpy(mask))
    return ResultArray.of(labels), ResultArray.of(areas[labels])


def mask_to_box(masks: Any) -> ResultArray:
    """(B, 1, H, W) masks -> (B, 1, 4) corners, first and last pixel inside."""
    return batched_mask_to_box(masks)


def fill_holes_in_mask_scores(mask: Any, max_area: float) -> ResultArray:
    """(N, 1, H, W) logits with the holes of at most ``max_area`` pixels raised to 0.1."""
    if max_area <= 0:
        raise ValueError(f"max_area={max_area}: it must be above 0")
    return ResultArray.of(fill_holes(np.array(to_numpy(mask), np.float32), max_area, HOLE_LOGIT))


def concat_points(old_point_inputs: dict[str, Any] | None, new_points: Any, new_labels: Any) -> dict[str, ResultArray]:
    """Points (1, N, 2) and labels (1, N), those given before first."""
    points, labels = to_numpy(new_points), to_numpy(new_labels)
    if old_point_inputs is not None:
        points = np.concatenate([to_numpy(old_point_inputs["point_coords"]), points], axis=1)
        labels = np.concatenate([to_numpy(old_point_inputs["point_labels"]), labels], axis=1)
    return {"point_coords": ResultArray.of(points), "point_labels": ResultArray.of(labels)}


def load_video_frames(
    video_path: Any,
    image_size: int,
    offload_video_to_cpu: bool = True,
    img_mean: Any = None,
    img_std: Any = None,
    async_loading_frames: bool = False,
    compute_device: Any = None,
) -> tuple[ResultArray, int, int]:
    """All frames of a video as the model's input, (N, 3, S, S) float32, and the video's height and width.

    They are read at once, as in the official code: 12 MB a frame at 1024 pixels. A session reads them one by one.
    """
    for given, known in ((img_mean, MEAN), (img_std, STD)):
        if given is None or np.array_equal(np.float32(to_numpy(given)).ravel(), np.float32(known)):
            continue
        raise ValueError("img_mean and img_std cannot be chosen: the model was trained with one mean and deviation")
    with open_source(video_path) as source:
        frames = [np.array(preprocess_frame(frame, image_size))[0].transpose(2, 0, 1) for frame in source]
        return ResultArray.of(np.stack(frames)), source.height, source.width

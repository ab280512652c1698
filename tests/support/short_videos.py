"""Short videos for sessions of the nano model, a run over one of them, and its outputs compared with another's."""

from __future__ import annotations

from typing import Any

import numpy as np

import synthetic
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.state import VideoState

# Batched products round differently from single ones (1e-6), and a bfloat16 rounding of a memory may flip.
FLIP_TOL = 6e-2
HEIGHT, WIDTH = 54, 96


def clip(length: int = 8) -> list[np.ndarray]:
    picture = synthetic.picture(HEIGHT, WIDTH + length)
    return [np.ascontiguousarray(picture[:, i : i + WIDTH]) for i in range(length)]


def three_objects(predictor: SAM2VideoPredictor, state: VideoState) -> list[tuple[int, list[Any], np.ndarray]]:
    """One object more on a later frame, one removed, one corrected."""
    predictor.add_new_points_or_box(state, 0, "a", points=[[30, 20]], labels=[1])
    predictor.add_new_points_or_box(state, 0, "b", box=[40, 10, 80, 50])
    outputs = list(predictor.propagate_in_video(state, max_frame_num_to_track=3))
    predictor.add_new_points_or_box(state, 3, "c", points=[[70, 30], [10, 5]], labels=[1, 0])
    predictor.add_new_points_or_box(state, 3, "a", points=[[35, 25]], labels=[1])
    outputs += predictor.propagate_in_video(state, start_frame_idx=4, max_frame_num_to_track=1)
    predictor.remove_object(state, "b")
    return outputs + list(predictor.propagate_in_video(state, start_frame_idx=6))


def assert_equal_outputs(ours: list, theirs: list, tolerance: float = 0) -> None:
    assert [(t, ids) for t, ids, _ in ours] == [(t, ids) for t, ids, _ in theirs]
    for (t, _, a), (_, _, b) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=f"frame {t}")

"""What runs on the worker: an image layer as a video, prompts, and masks as labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlx_sam2 import SAM2VideoPredictor

Clicks = tuple[tuple[float, float, int], ...]  # x, y in pixels, 1 on the object or 0 off it


class Frames(Sequence[np.ndarray]):
    """The frames of an image layer, (H, W, 3) uint8, made when they are asked for.

    Raises:
        ValueError: for a layer that is neither a picture nor a stack of pictures.
    """

    def __init__(self, data: Any, rgb: bool, limits: tuple[float, float]) -> None:
        axes = np.ndim(data) - int(rgb)
        if axes not in (2, 3):
            raise ValueError(f"the layer has {axes} axes; SAM 2 takes a picture (2) or a stack or film of pictures (3)")
        self.data, self.rgb, self.limits, self.is_stack = data, rgb, limits, axes == 3

    def __len__(self) -> int:
        return len(self.data) if self.is_stack else 1

    def __getitem__(self, t: int) -> np.ndarray:
        frame = np.asarray(self.data[t] if self.is_stack else self.data)
        if frame.dtype != np.uint8 or not self.rgb:  # as napari shows it
            low, high = (0, np.iinfo(frame.dtype).max) if self.rgb and frame.dtype.kind in "ui" else self.limits
            scaled = (frame.astype(np.float32) - low) / max(high - low, 1e-9)
            frame = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
        return np.ascontiguousarray(frame[..., :3]) if self.rgb else np.repeat(frame[..., None], 3, axis=2)


@dataclass
class Session:
    predictor: SAM2VideoPredictor
    state: Any


def open_session(model: str, frames: Frames) -> Session:
    predictor = SAM2VideoPredictor.from_pretrained(model)
    return Session(predictor, predictor.init_state(frames))


def prompt(session: Session, obj_id: int, t: int, clicks: Clicks) -> tuple[int, np.ndarray | None]:
    """All clicks of an object on a frame, in place of those before. Returns the frame and its labels, (H, W).

    The labels are None where the last click was taken back.
    """
    predictor, state = session.predictor, session.state
    if obj_id in state.obj_ids:
        predictor.clear_all_prompts_in_frame(state, t, obj_id, need_output=False)
    if not clicks:
        if obj_id in state.obj_ids and not state.tracks[obj_id].prompts:
            predictor.remove_object(state, obj_id, need_output=False)
        return t, None
    points, labels = [click[:2] for click in clicks], [click[2] for click in clicks]
    t, obj_ids, logits = predictor.add_new_points_or_box(state, t, obj_id, points=points, labels=labels)
    return t, to_labels(obj_ids, logits)


def track(session: Session) -> Iterator[tuple[int, np.ndarray]]:
    """Every frame from the first one with a prompt on, and its labels."""
    for t, obj_ids, logits in session.predictor.propagate_in_video(session.state):
        yield t, to_labels(obj_ids, logits)


def to_labels(obj_ids: list[int], logits: np.ndarray) -> np.ndarray:
    """(N, 1, H, W) logits -> (H, W) labels; where objects overlap the surer one has the pixel."""
    best = logits[:, 0].argmax(axis=0)
    return np.where(logits[:, 0].max(axis=0) > 0, np.array(obj_ids)[best], 0)

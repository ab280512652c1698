"""Approximations of tracking, off by default: less work, and masks that differ a little from the official ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..config.sam2 import SAM2Config

MAX_THRESHOLD = 255.0
CHANGE_CELL = 16  # frames are compared by the means of cells of 16 x 16 pixels of the model's input


@dataclass(frozen=True)
class Approximations:
    """Options of the video predictor that change its results; the defaults change nothing.

    Two more are options of the model, ``image_size`` and ``memory_temporal_stride_for_eval``.
    """

    memory_pooling: int = 1  # keys and values of memories are averaged over N x N cells
    max_memories: int | None = None  # recalled on a frame, one conditioning frame included; None: as many as trained
    static_threshold: float = 0.0  # grey levels; a frame that differs less from the last remembered one is not encoded

    def check(self, config: SAM2Config) -> None:
        """Raise a ValueError for options that do not fit the model."""
        if config.spatial_perceiver is not None and self.memory_pooling != 1:
            raise ValueError(
                f"memory_pooling={self.memory_pooling!r}: this model's memories are tokens already, not maps to average"
            )
        side = config.embedding_size
        if not _is_whole(self.memory_pooling) or self.memory_pooling < 1 or side % self.memory_pooling:
            fitting = [n for n in range(1, side + 1) if side % n == 0][:4]
            raise ValueError(
                f"memory_pooling={self.memory_pooling!r}: it must divide the {side} x {side} cells of a memory, "
                f"such as {', '.join(map(str, fitting))}"
            )
        most = config.num_maskmem
        if self.max_memories is not None and not (_is_whole(self.max_memories) and 1 <= self.max_memories <= most):
            raise ValueError(f"max_memories={self.max_memories!r}: it must be a whole number from 1 to {most}, or None")
        level = self.static_threshold
        if isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 <= level <= MAX_THRESHOLD:
            raise ValueError(f"static_threshold={level!r}: it must be a number from 0 to {MAX_THRESHOLD:g}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def small_picture(frame: np.ndarray, side: int) -> np.ndarray:
    """A frame (H, W, 3) uint8 as means of side x side areas, (side, side, 3) float32."""
    return np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BOX), np.float32)


def largest_change(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference between two small pictures, in grey levels."""
    return float(np.abs(a - b).max())

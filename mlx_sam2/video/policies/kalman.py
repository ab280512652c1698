"""A Kalman filter over boxes that move at constant velocity, one step a frame (as SAMURAI uses it; all float64).

The state is (x, y, a, h, vx, vy, va, vh): the box's centre, aspect ratio width / height, height, and their velocities.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

POSITION, VELOCITY = 1 / 20, 1 / 160  # standard deviations, as shares of the height
_STEP = np.eye(8) + np.eye(8, k=4)  # dt = 1
_SEEN = np.eye(4, 8)


class Motion(NamedTuple):
    """Mean (8,) and covariance (8, 8)."""

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def start(cls, z: np.ndarray) -> Motion:
        """Begin at a measurement (4,), at rest."""
        p, v = 2 * POSITION * z[3], 10 * VELOCITY * z[3]
        deviations = np.array([p, p, 1e-2, p, v, v, 1e-5, v])
        return cls(np.concatenate([z, np.zeros(4)]), np.diag(deviations**2))

    def predicted(self) -> Motion:
        """One frame later."""
        p, v = POSITION * self.mean[3], VELOCITY * self.mean[3]
        noise = np.diag(np.array([p, p, 1e-2, p, v, v, 1e-5, v]) ** 2)
        return Motion(_STEP @ self.mean, _STEP @ self.covariance @ _STEP.T + noise)

    def updated(self, z: np.ndarray) -> Motion:
        """Corrected by a measurement (4,)."""
        p = POSITION * self.mean[3]
        noise = np.diag(np.array([p, p, 1e-1, p]) ** 2)
        seen = _SEEN @ self.covariance @ _SEEN.T + noise
        gain = np.linalg.solve(seen, _SEEN @ self.covariance).T  # both are symmetric
        mean = self.mean + gain @ (z - _SEEN @ self.mean)
        return Motion(mean, self.covariance - gain @ seen @ gain.T)

    def iou(self, box: np.ndarray) -> float:
        """IoU of a box (x0, y0, x1, y1) with this one; 0 for the empty box (0, 0, 0, 0)."""
        if not np.any(box):
            return 0.0
        x, y, a, h = self.mean[:4]
        ours = x - a * h / 2, y - h / 2, x + a * h / 2, y + h / 2
        width = max(min(ours[2], box[2]) - max(ours[0], box[0]), 0)
        height = max(min(ours[3], box[3]) - max(ours[1], box[1]), 0)
        both = width * height
        areas = (ours[2] - ours[0]) * (ours[3] - ours[1]) + (box[2] - box[0]) * (box[3] - box[1])
        return float(both / (areas - both)) if areas > both else 0.0


def measurement(box: np.ndarray) -> np.ndarray:
    """(x0, y0, x1, y1) -> (x, y, a, h). A box without height gets the height 1."""
    x0, y0, x1, y1 = (float(value) for value in box)
    height = (y1 - y0) or 1.0
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / height, height])

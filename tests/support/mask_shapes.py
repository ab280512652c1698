"""Masks to try things on: those that have broken encoders before, noise, and shapes like objects."""

from __future__ import annotations

import numpy as np


def named() -> dict[str, np.ndarray]:
    """Masks that have broken encoders before."""
    ring = np.ones((5, 6), bool)
    ring[1:4, 1:5] = False
    target = np.zeros((9, 9), bool)
    target[0:9, 0:9] = True
    target[2:7, 2:7] = False
    target[4, 4] = True  # an island in a hole: a component of its own
    return {
        "empty": np.zeros((4, 5), bool),
        "full": np.ones((4, 5), bool),
        "one pixel": np.ones((1, 1), bool),
        "no pixel": np.zeros((1, 1), bool),
        "one row": np.array([[1, 0, 1, 1, 0]], bool),
        "one column": np.array([[0], [1], [1], [0], [1]], bool),
        "diagonal": np.eye(5, dtype=bool),
        "antidiagonal": np.eye(5, dtype=bool)[::-1],
        "checkerboard": np.indices((6, 7)).sum(0) % 2 == 0,
        "ring": ring,
        "island in a hole": target,
        "hole by a corner": np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool),
        "two holes, one side": np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], bool),
    }


def shapes_like_objects(height: int, width: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).random((height, width))
    for axis in (0, 1):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-3, 4))
    return noise > np.median(noise)


def many() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    small = [random.random(random.integers(1, 13, 2)) < random.choice([0.1, 0.3, 0.5, 0.7, 0.9]) for _ in range(600)]
    return [*named().values(), *small, shapes_like_objects(90, 130, 1), shapes_like_objects(131, 77, 2)]

"""Asynchronous predictors in tests: a run with a limit, a clip, results compared bit by bit."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np

import synthetic

WAIT = 60  # seconds after which a test that hangs fails
CLICK: dict[str, Any] = {"point_coords": [[100, 150]], "point_labels": [1]}
EVERYTHING: dict[str, Any] = {
    "points_per_side": 2,
    "points_per_batch": 3,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "crop_n_layers": 1,
}


def clip(length: int = 5) -> list[np.ndarray]:
    picture = synthetic.picture(54, 96 + length)
    return [np.ascontiguousarray(picture[:, i : i + 96]) for i in range(length)]


def wait_for(main: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(main, WAIT)

    return asyncio.run(limited())


def assert_same(ours: Any, theirs: Any) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(a, tuple):
            assert_same(a, b)
        else:
            np.testing.assert_array_equal(a, b)

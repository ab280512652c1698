"""The asynchronous predictors that several files of tests share, on one worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from mlx_sam2 import aio
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.worker import Worker


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


@pytest.fixture(scope="module")
def video_model(nano_model: SAM2) -> SAM2:
    config = nano_model.config.with_postprocessing(True, video=True)
    return nano_model.with_config(dataclasses.replace(config, image_size=128))


@pytest.fixture
def images(nano_model: SAM2, worker: Worker) -> aio.AsyncImagePredictor:
    return aio.AsyncImagePredictor(SAM2ImagePredictor(nano_model), worker)


@pytest.fixture
def videos(video_model: SAM2, worker: Worker) -> aio.AsyncVideoPredictor:
    return aio.AsyncVideoPredictor(SAM2VideoPredictor(video_model), worker)

"""Models and processes: one line in a forked child, in place of waiting for ever; predictors are not pickled."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import synthetic
from mlx_sam2 import processes
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.checkpoint import loading
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.worker import ClosedError, Worker

WAIT = 60  # seconds after which a child counts as hanging
FRAMES = [np.zeros((48, 64, 3), np.uint8)] * 2


def in_a_fork(call: Callable[[], Any]) -> str:
    """What the error of a call in a forked child says; "no error" if there is none."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001  it is what the test is about
            theirs.send(f"{type(error).__name__}: {error}")
        else:
            theirs.send("no error")

    process = context.Process(target=child)
    process.start()
    try:
        return ours.recv() if ours.poll(WAIT) else "it hangs"
    finally:
        process.kill()
        process.join()


FORKED = "RuntimeError: this process was forked from one that had used a model, and MLX cannot compute in it: start"


def test_a_model_used_before_a_fork_says_so_in_the_child(nano_model: SAM2, tmp_path: Any) -> None:
    image = synthetic.picture(60, 80)
    predictor, videos = SAM2ImagePredictor(nano_model), SAM2VideoPredictor(nano_model)
    predictor.set_image(image)
    state = videos.init_state(FRAMES)
    loading.save(nano_model, tmp_path / "nano")
    calls: list[Callable[[], Any]] = [
        lambda: predictor.set_image(image),
        lambda: predictor.predict(point_coords=[[10, 10]], point_labels=[1]),
        lambda: SAM2AutomaticMaskGenerator(nano_model, 2).generate(image),
        lambda: videos.add_new_points_or_box(state, 0, 1, points=[[10, 10]], labels=[1]),
        lambda: SAM2ImagePredictor.from_pretrained(str(tmp_path / "nano")),
    ]
    for call in calls:
        said = in_a_fork(call)
        assert said.startswith(FORKED)
        assert "\n" not in said


def test_a_fork_before_the_first_use_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_used", False)
    assert in_a_fork(processes.before_computing) == "no error"
    processes.before_computing()
    assert in_a_fork(processes.before_computing).startswith(FORKED)
    processes.before_computing()  # the parent goes on


def test_a_worker_stays_in_its_process() -> None:
    with Worker() as worker:
        assert worker.submit(int).result(WAIT) == 0
        said = in_a_fork(lambda: worker.submit(int).result(WAIT))
        assert said == "ClosedError: a worker works in the process that made it; make another one in the forked process"
    assert in_a_fork(lambda: Worker().submit(int).result(WAIT)) == "no error"  # not on an idle thread of the parent
    with pytest.raises(ClosedError, match="was shut down"):
        worker.submit(int)


def test_nothing_is_pickled_or_copied(nano_model: SAM2) -> None:
    image, videos = SAM2ImagePredictor(nano_model), SAM2VideoPredictor(nano_model)
    everything = SAM2AutomaticMaskGenerator(nano_model)
    with videos.init_state(FRAMES) as state, videos.stream(FRAMES) as stream, Worker() as worker:
        for shared in (image, videos, everything):
            with pytest.raises(TypeError, match=r"cannot be copied in depth: load it there with from_pretrained"):
                copy.deepcopy(shared)
            assert copy.copy(shared) is not shared
            assert type(copy.copy(shared)) is type(shared)
        assert copy.copy(image).model is image.model
        for alone, advice in ((state, "init_state"), (stream, "predictor.stream"), (worker, "a worker of its own")):
            for copied in (copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match=f"cannot be copied: .*{advice}"):
                    copied(alone)
        for thing in (image, videos, everything, state, stream, worker):
            with pytest.raises(TypeError, match=f"a {type(thing).__name__} cannot be pickled: "):
                pickle.dumps(thing)

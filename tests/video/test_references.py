"""An object that was learned in one video is found in another, as if its frames began that one; files of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import synthetic
from mlx_sam2 import aio
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.reference import MAX_VIEWS, Reference
from short_videos import clip

LENGTH = 20  # the official time encoding depends on the length of shorter videos


def small(model: SAM2, size: int = 128) -> SAM2:
    return model.with_config(dataclasses.replace(model.config.with_postprocessing(True, video=True), image_size=size))


@pytest.fixture(scope="module")
def predictor(nano_model: SAM2) -> SAM2VideoPredictor:
    return SAM2VideoPredictor(small(nano_model), fill_hole_area=8)


@pytest.fixture(scope="module")
def learned(predictor: SAM2VideoPredictor) -> Reference:
    """One object, prompted on frames 0 and 1 of the clip."""
    with predictor.init_state(clip(LENGTH)) as state:
        prompt(predictor, state, 0)
        prompt(predictor, state, 1)
        return predictor.reference(state, 1)


def prompt(predictor: SAM2VideoPredictor, state: Any, t: int) -> None:
    predictor.add_new_points_or_box(state, t, 1, points=[[30 + t, 20]], labels=[1])


def masks_of(run: Any) -> list[np.ndarray]:
    return [masks for _, _, masks in run]


def test_a_reference_stands_before_the_first_frame(predictor: SAM2VideoPredictor, learned: Reference) -> None:
    """The same bits as a video that begins with the frames of the reference."""
    frames = clip(LENGTH)
    with predictor.init_state(frames) as whole, predictor.init_state(frames[2:]) as rest:
        prompt(predictor, whole, 0)
        prompt(predictor, whole, 1)
        expected = masks_of(predictor.propagate_in_video(whole, start_frame_idx=2))
        assert predictor.add_reference(rest, "cup", learned) == ["cup"]
        found = list(predictor.propagate_in_video(rest))
        assert [t for t, _, _ in found] == list(range(LENGTH - 2))
        np.testing.assert_array_equal(masks_of(found), expected)
        assert rest.obj_ids == ["cup"] and learned.features.shape == (2, 8, 8, 16)


def test_references_add_up(predictor: SAM2VideoPredictor, learned: Reference) -> None:
    frames = clip(LENGTH)
    views = [
        Reference(learned.features[i, None], learned.pointers[i, None], learned.scores[i, None], learned.maker)
        for i in range(2)
    ]
    with predictor.init_state([frames[1], frames[0], *frames[2:]]) as whole, predictor.init_state(frames[2:]) as rest:
        predictor.add_new_points_or_box(whole, 1, 1, points=[[30, 20]], labels=[1])
        predictor.add_new_points_or_box(whole, 0, 1, points=[[31, 20]], labels=[1])
        expected = masks_of(predictor.propagate_in_video(whole, start_frame_idx=2))
        for view in views:
            predictor.add_reference(rest, 1, view)
        np.testing.assert_array_equal(masks_of(predictor.propagate_in_video(rest)), expected)
        both = predictor.reference(rest, 1)
        assert len(both) == 2 and mx.array_equal(both.features[0], learned.features[0])


def test_backwards_a_reference_stands_before_the_last_frame(predictor: SAM2VideoPredictor, learned: Reference) -> None:
    frames = clip(LENGTH)
    one = Reference(learned.features[:1], learned.pointers[:1], learned.scores[:1], learned.maker)
    with predictor.init_state(frames[1:]) as forwards, predictor.init_state(frames[:0:-1]) as backwards:
        predictor.add_reference(forwards, 1, one)
        predictor.add_reference(backwards, 1, one)
        expected = masks_of(predictor.propagate_in_video(forwards))
        found = masks_of(predictor.propagate_in_video(backwards, start_frame_idx=LENGTH - 2, reverse=True))
    np.testing.assert_array_equal(found, expected)


def test_a_stream_and_a_clip_read_the_same_reference(predictor: SAM2VideoPredictor, learned: Reference) -> None:
    frames = clip(LENGTH)[2:]
    with predictor.init_state(frames) as state, predictor.stream() as stream:
        predictor.add_reference(state, 1, learned)
        expected = masks_of(predictor.propagate_in_video(state))
        stream.add_reference(1, learned)
        found = masks_of(stream.push(frame) for frame in frames)
    np.testing.assert_array_equal(found, expected)


def test_a_click_corrects_what_a_reference_found(predictor: SAM2VideoPredictor, learned: Reference) -> None:
    with predictor.init_state(clip(4)) as state:
        predictor.add_reference(state, 1, learned)
        list(predictor.propagate_in_video(state))
        prompt(predictor, state, 2)
        assert len(masks_of(predictor.propagate_in_video(state))) == 4
        state.reset()
        with pytest.raises(RuntimeError, match="no input points or masks"):
            next(predictor.propagate_in_video(state))


def test_asyncio(predictor: SAM2VideoPredictor, learned: Reference) -> None:
    async def run() -> list[Any]:
        front = aio.AsyncVideoPredictor(predictor, worker)
        async with front.session(clip(2)) as state:
            await front.add_reference(state, 1, learned)
            assert len(await front.reference(state, 1)) == 2
            return [t async for t, _, _ in front.propagate_in_video(state)]

    worker = aio.Worker()
    try:
        assert asyncio.run(run()) == [0, 1]
    finally:
        worker.shutdown()


# ---- files


def test_a_file_gives_the_same_bits(predictor: SAM2VideoPredictor, learned: Reference, tmp_path: Path) -> None:
    path = tmp_path / "cup.safetensors"
    learned.save(path)
    again = Reference.load(path, predictor.model)
    for name in ("features", "pointers", "scores"):
        assert mx.array_equal(getattr(again, name), getattr(learned, name)), name
    with predictor.init_state(clip(2)) as state:
        assert predictor.add_reference(state, 7, path) == [7]
    with pytest.raises(FileExistsError):
        learned.save(path)
    learned.save(path, overwrite=True)


def test_weights_in_half_precision_are_the_same_model(learned: Reference, nano_model: SAM2) -> None:
    half = small(synthetic.nano_model())
    half.set_dtype(mx.bfloat16)
    learned.maker.require(half, "it")


@pytest.mark.parametrize(
    ("other", "words"),
    [("size", "was made with image_size=128, and this model has 256"), ("weights", "another model"),
     ("kind", "another model")],
)  # fmt: skip
def test_other_models_are_refused(learned: Reference, nano_model: SAM2, other: str, words: str, tmp_path: Path) -> None:
    model = {
        "size": lambda: small(nano_model, 256),
        "weights": lambda: small(synthetic.nano_model(seed=2)),
        "kind": lambda: small(synthetic.nano_model(name="nano20")),
    }[other]()
    predictor = SAM2VideoPredictor(model)
    path = tmp_path / "cup.safetensors"
    learned.save(path)
    with predictor.init_state(clip(2)) as state:
        for reference in (learned, path):
            with pytest.raises(ValueError, match=words) as refused:
                predictor.add_reference(state, 1, reference)
            assert "\n" not in str(refused.value) and not state.tracks


def test_there_must_be_something_to_learn_from(predictor: SAM2VideoPredictor) -> None:
    with predictor.init_state(clip(2)) as state:
        with pytest.raises(ValueError, match="object 3 does not exist"):
            predictor.reference(state, 3)
        prompt(predictor, state, 0)
        predictor.clear_all_prompts_in_frame(state, 0, 1)
        with pytest.raises(ValueError, match="object 1 has no prompt"):
            predictor.reference(state, 1)


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


HUGE = 1 << 40
META = {"format": "mlx_sam2 reference 1", "config": "x", "image_size": "128"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": np.zeros((MAX_VIEWS + 1, 8, 8, 16), np.uint16)}, "holds 65 views"),
        ({"features": np.zeros((0, 8, 8, 16), np.uint16)}, "holds 0 views"),
        ({"features": np.zeros((2, 80, 8, 16), np.uint16)}, "damaged: its tensors"),
        ({"pointers": np.zeros((2, 640), np.float32)}, "damaged: its tensors"),
        ({"pointers": np.full((2, 64), np.nan, np.float32)}, "not finite"),
        ({"extra": np.zeros(3, np.float32)}, "damaged: its tensors"),
        ({"times": np.full((7, 16), np.nan, np.float32)}, "another model"),
    ],
)
def test_lying_tensors(
    predictor: SAM2VideoPredictor, learned: Reference, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "lie.safetensors"
    arrays = {"features": learned.features, "pointers": learned.pointers, "scores": learned.scores}
    arrays |= {"times": learned.maker.times, **{name: mx.array(value) for name, value in change.items()}}
    if "features" in change:
        arrays["features"] = arrays["features"].view(mx.bfloat16)
    metadata = {"format": META["format"], "config": learned.maker.config, "image_size": "128"}
    mx.save_safetensors(str(path), arrays, metadata)
    with pytest.raises(ValueError, match=words) as refused:
        Reference.load(path, predictor.model)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04cos\nsystem\n",
        struct.pack("<Q", 1 << 62) + b"{}",
        header(features={"dtype": "BF16", "shape": [HUGE, 8, 8, 16], "data_offsets": [0, HUGE * 2048]}),
        header(__metadata__=META, features={"dtype": "BF16", "shape": [0, HUGE, HUGE, HUGE], "data_offsets": [0, 0]}),
        header(__metadata__={**META, "image_size": "9" * 5000}),
        header(__metadata__={}),
    ],
)
def test_hostile_files(predictor: SAM2VideoPredictor, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "stranger.safetensors"
    path.write_bytes(data)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    with pytest.raises(ValueError, match=r"stranger\.safetensors") as refused:
        Reference.load(path, predictor.model)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600
    assert mx.get_peak_memory() - before < 1 << 20

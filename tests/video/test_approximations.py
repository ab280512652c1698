"""Opt-in approximations of tracking: what each one computes, its arguments and its flags. Costs: approximations.py."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import approximations
import synthetic
from mlx_sam2.checkpoint.loading import save
from mlx_sam2.frames.source import SequenceSource
from mlx_sam2.kernels import axial_rope
from mlx_sam2.model.memory import RoPEAttention, pool_cells
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.track.command import build_parser
from mlx_sam2.track.resume import resume_arguments
from mlx_sam2.track.run import Plan, Progress, TrackedFrame
from mlx_sam2.video.memory_bank import ObjectTrack
from mlx_sam2.video.result_store import FrameResult, ResultStore
from short_videos import assert_equal_outputs, clip
from track_command import failed, merged, run, succeeded, write_frames


@pytest.fixture
def folder_of_clip(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "clip")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "nano"
    save(synthetic.nano_model(), folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(nano_model: SAM2) -> SAM2:
    config = nano_model.config.with_postprocessing(True, video=True)
    return nano_model.with_config(dataclasses.replace(config, image_size=128))


def outputs(model: SAM2, frames: list[np.ndarray], **options: Any) -> list[Any]:
    predictor = SAM2VideoPredictor(model, fill_hole_area=8, **options)
    with predictor.init_state(frames) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        return list(predictor.propagate_in_video(state))


@pytest.mark.parametrize(
    "options", [{"memory_pooling": 1}, {"max_memories": 7}, {"max_memories": None}, {"static_threshold": 0}]
)
def test_the_least_of_each_changes_nothing(model: SAM2, options: dict[str, Any]) -> None:
    assert_equal_outputs(outputs(model, clip(4), **options), outputs(model, clip(4)))


@pytest.mark.parametrize("options", [{"memory_pooling": 2}, {"max_memories": 2}, {"static_threshold": 255}])
def test_each_changes_results_a_little(model: SAM2, options: dict[str, Any]) -> None:
    exact, found = (np.concatenate([m for _, _, m in outputs(model, clip(8), **o)]) for o in ({}, options))
    assert np.array_equal(exact[0], found[0])  # nothing to recall yet
    assert not np.array_equal(exact, found)


# ---- pooled memories


def test_pool_cells() -> None:
    x = np.arange(2 * (2 * 4 * 6 + 3) * 5, dtype=np.float32).reshape(2, 2 * 4 * 6 + 3, 5)
    pooled = np.array(pool_cells(mx.array(x), (4, 6), 3, 2))
    assert pooled.shape == (2, 2 * 2 * 3 + 3, 5)
    frames = x[:, :48].reshape(2, 2, 4, 6, 5)
    for row, column in np.ndindex(2, 3):
        expected = frames[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(axis=(2, 3))
        np.testing.assert_allclose(pooled[:, :12].reshape(2, 2, 2, 3, 5)[:, :, row, column], expected, rtol=1e-6)
    np.testing.assert_array_equal(pooled[:, 12:], x[:, 48:])


def test_a_pooled_cell_counts_as_often_as_the_cells_in_it(model: SAM2) -> None:
    """Attention to the means of rotated keys and of values, by its definition; pointers as they are."""
    attention = model.memory_attention
    layer: RoPEAttention = synthetic.with_weights(attention.layers[0].cross_attn_image)
    side, width, dim = 4, layer.q_proj.weight.shape[1], layer.k_proj.weight.shape[1]
    shapes = {"q": (1, side**2, width), "keys": (1, 2 * side**2 + 4, dim), "values": (1, 2 * side**2 + 4, dim)}
    q, keys, values = (mx.array(synthetic.normal(name, shape, 0)) for name, shape in shapes.items())
    bias = mx.array([[math.log(4)] * 2 + [0.0] * 4])  # of two memories and four pointers
    got = layer(q, keys, pool_cells(values, (side, side), 4, 2), (side, side), 4, bias, 2)

    turned_q = np.array(axial_rope(layer.q_proj(q)[:, None], side, side))[0, 0]
    turned = np.array(axial_rope(layer.k_proj(keys)[:, None], side, side, num_tail=4))[0, 0]

    def pooled(x: np.ndarray) -> np.ndarray:
        cells = x[:32].reshape(2, 2, 2, 2, 2, -1).mean(axis=(2, 4)).reshape(8, -1)
        return np.concatenate([np.repeat(cells, 4, axis=0), x[32:]])  # each as often as the cells in it

    scores = turned_q @ pooled(turned).T / math.sqrt(turned.shape[1])
    shares = np.exp(scores - scores.max(1, keepdims=True))
    attended = shares / shares.sum(1, keepdims=True) @ pooled(np.array(values[0]))
    expected = layer.out_proj(layer.v_proj(mx.array(attended.astype(np.float32))))
    np.testing.assert_allclose(np.array(got[0]), np.array(expected), rtol=0, atol=2e-5)  # measured: 2e-6


# ---- fewer memories


def test_fewer_memories_are_the_prompted_frame_and_the_latest(model: SAM2) -> None:
    track = ObjectTrack.empty(ResultStore(on_disk=False))
    results = {t: FrameResult(np.zeros((4, 4), np.float32), mx.zeros(4), 1.0, mx.full((2, 2, 1), t)) for t in range(10)}
    track.conditioning[0] = results[0]
    for t in range(1, 10):
        track.tracked[t] = results[t]

    def frames(limit: int | None) -> list[int]:
        return [int(m.features[0, 0, 0].item()) for m in track.recall(10, False, 20, model.config, limit).memories]

    assert frames(None) == frames(7) == [0, 4, 5, 6, 7, 8, 9]
    assert frames(4) == [0, 7, 8, 9] and frames(1) == [0]
    assert track.recall(10, False, 20, model.config, 4).time_indices == [6, 2, 1, 0]  # as trained for these distances


# ---- static frames


def test_memories_of_static_frames_are_those_before(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    remember = SAM2.remember
    monkeypatch.setattr(SAM2, "remember", lambda self, *args: (encoded.append(1), remember(self, *args))[1])
    moving = clip(8)
    frames = [moving[0], moving[4], moving[4], moving[4] + (moving[4] < 250), moving[0], moving[0]]
    predictor = SAM2VideoPredictor(model, static_threshold=2)
    with predictor.init_state(frames) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        list(predictor.propagate_in_video(state))
        memories = [state.tracks[1].result(t).features for t in range(6)]
        assert len(encoded) == 3  # frames 0, 1 and 4
        same = [bool(mx.array_equal(memories[t], memories[t - 1])) for t in range(1, 6)]
        assert same == [False, True, True, False, True]
        predictor.add_new_points_or_box(state, 5, 1, points=[[60, 30]], labels=[1])  # what was remembered is outdated
        list(predictor.propagate_in_video(state, start_frame_idx=5))
        assert len(encoded) == 5  # the prompted mask, and the frame anew


def test_a_slow_drift_is_noticed(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames are compared with the last one that was remembered, not with the one before."""
    encoded = []
    remember = SAM2.remember
    monkeypatch.setattr(SAM2, "remember", lambda self, *args: (encoded.append(1), remember(self, *args))[1])
    outputs(model, [np.full((54, 96, 3), 100 + t, np.uint8) for t in range(9)], static_threshold=2.5)
    assert len(encoded) == 4  # frame 0 by its prompt, frames 1, 4 and 7


# ---- image size


def test_image_size(model: SAM2) -> None:
    small = model.with_config(dataclasses.replace(model.config, image_size=96))
    found = outputs(small, clip(2))
    assert found[1][2].shape == (1, 1, 54, 96) and np.isfinite(found[1][2]).all()


# ---- arguments and flags


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_pooling": 3}, "memory_pooling=3: it must divide the 8 x 8 cells of a memory, such as 1, 2, 4, 8"),
        ({"memory_pooling": 0}, "memory_pooling=0: it must divide"),
        ({"memory_pooling": 2.0}, "memory_pooling=2.0: it must divide"),
        ({"max_memories": 0}, "max_memories=0: it must be a whole number from 1 to 7, or None"),
        ({"max_memories": 8}, "max_memories=8: it must be a whole number from 1 to 7"),
        ({"max_memories": True}, "max_memories=True: it must be"),
        ({"static_threshold": -1}, "static_threshold=-1: it must be a number from 0 to 255"),
        ({"static_threshold": math.nan}, "static_threshold=nan: it must be"),
        ({"static_threshold": "2"}, "static_threshold='2': it must be"),
    ],
)
def test_arguments_that_cannot_be_used(model: SAM2, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        SAM2VideoPredictor(model, **options)


FLAGS = "--image-size 128 --memory-pooling 2 --memory-stride 2 --max-memories 3 --static 1.5"


@pytest.mark.slow
def test_flags_give_what_the_arguments_give(tmp_path: Path, folder_of_clip: Path, saved_model: str) -> None:
    from mlx_sam2.datasets.pictures import read_indexed
    from mlx_sam2.frames.opening import open_source

    args = [folder_of_clip, "--point", "40,30", "--output", tmp_path / "out", "--model", saved_model]
    succeeded(run(*args, *FLAGS.split(), cwd=tmp_path))
    options = {"image_size": 128, "memory_pooling": 2, "memory_temporal_stride_for_eval": 2}
    options |= {"max_memories": 3, "static_threshold": 1.5}
    predictor = SAM2VideoPredictor.from_pretrained(saved_model, **options)
    assert predictor.image_size == 128
    with predictor.init_state(open_source(folder_of_clip)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[40, 30]], labels=[1])
        for t, ids, logits in predictor.propagate_in_video(state):
            np.testing.assert_array_equal(read_indexed(tmp_path / "out" / f"{t:05d}.png"), merged(ids, logits))


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--memory-pooling 3", "memory_pooling=3: it must divide"),
        ("--max-memories 9", "max_memories=9: it must be a whole number from 1 to 7"),
        ("--image-size 100", "image_size"),
        ("--memory-stride 0", "'0' is not a whole number from 1 up"),
        ("--static 300", "'300' is not a number from 0 to 255"),
    ],
)
def test_flags_that_cannot_be_used(
    tmp_path: Path,
    folder_of_clip: Path,
    saved_model: str,
    flag: str,
    message: str,
) -> None:
    args = [folder_of_clip, "--point", "40,30", "--output", tmp_path / "out", "--model", saved_model]
    assert message in failed(run(*args, *flag.split(), cwd=tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_has_the_same_flags(tmp_path: Path) -> None:
    source = SequenceSource(clip(6))
    line = "clip --point 40,30 --model m --image-size 128 --memory-pooling 2 --static 1.5"
    args = build_parser().parse_args([*line.split(), "--output", str(tmp_path / "x.jsonl")])
    last = TrackedFrame(3, source[3], {}, {}, None)
    progress = Progress(count=4, first=0, last=last)
    words = resume_arguments(args, Plan([], 0, 6, False), source, [str(tmp_path / "x.jsonl")], progress)
    text = " ".join(words)
    assert "--image-size 128 --memory-pooling 2 --static 1.5" in text
    assert "--memory-stride" not in text and "--max-memories" not in text


def test_segment_at_another_size(tmp_path: Path, saved_model: str) -> None:
    from PIL import Image

    from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
    from mlx_sam2.segment.command import main

    photo = tmp_path / "photo.png"
    Image.fromarray(synthetic.picture(60, 80)).save(photo)
    args = [str(photo), "--point", "40,30", "--image-size", "128", "--model", saved_model]
    assert main([*args, "--output", str(tmp_path / "mask.png")]) == 0
    predictor = SAM2ImagePredictor.from_pretrained(saved_model, image_size=128)
    predictor.set_image(synthetic.picture(60, 80))
    found, scores, _ = predictor.predict(np.array([[40, 30]]), np.array([1]))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), 255 * found[scores.argmax()])


def test_everything_at_another_size(tmp_path: Path) -> None:
    """The size is among the settings of a run that can go on; without it they are as before."""
    from mlx_sam2.segment.command import build_parser
    from mlx_sam2.segment.everything import run_settings

    plain, small = (
        run_settings(build_parser().parse_args(["photo.png", "--everything", "--model", "tiny", *more]))
        for more in ([], ["--image-size", "512"])
    )
    assert "image_size" not in plain and small == {**plain, "image_size": 512}


@pytest.mark.parametrize("make", approximations.FILMS.values(), ids=approximations.FILMS)
def test_the_films_of_the_table_show_two_objects(make: Any) -> None:
    frames, names = make()
    assert frames.shape[:3] == names.shape
    assert set(np.unique(names[0])) == {0, 1, 2}

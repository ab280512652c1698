"""A second pass over frames that were encoded: the same bits without encoding, within a budget, on a full disk too."""

from __future__ import annotations

import dataclasses
import gc
import os
import random
import warnings
import weakref
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import synthetic
from mlx_sam2.model.results import ImageFeatures
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.feature_cache import IN_WORK, FeatureCache, frame_bytes
from short_videos import assert_equal_outputs, clip

LENGTH = 8


@pytest.fixture(scope="module")
def nano_model() -> SAM2:
    """One of its own: these tests change its weights."""
    return synthetic.nano_model()


@pytest.fixture(scope="module")
def model(nano_model: SAM2) -> SAM2:
    config = nano_model.config.with_postprocessing(True, video=True)
    return nano_model.with_config(dataclasses.replace(config, image_size=128))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each frame that is encoded."""
    calls: list[int] = []
    encode = SAM2.encode_image

    def watched(self: SAM2, pixels: mx.array) -> ImageFeatures:
        calls.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(SAM2, "encode_image", watched)
    return calls


def one_frame(model: SAM2) -> int:
    return frame_bytes(model.config, model.dtype.size)


def passes(predictor: SAM2VideoPredictor, encoded: list[int], count: int = 2) -> list[tuple[list[Any], int]]:
    """Of each pass its outputs, and how many frames were encoded for it."""
    found = []
    with predictor.init_state(clip(LENGTH)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        predictor.add_new_points_or_box(state, 5, 1, points=[[35, 20]], labels=[1])
        for _ in range(count):
            encoded.clear()
            found.append((list(predictor.propagate_in_video(state)), len(encoded)))
    return found


@pytest.mark.parametrize("budget", [None, "disk", 1 << 30])
def test_a_second_pass_encodes_nothing_and_gives_the_same_bits(
    model: SAM2, encoded: list[int], budget: int | str | None
) -> None:
    cached = passes(SAM2VideoPredictor(model, feature_cache=budget), encoded)
    plain = passes(SAM2VideoPredictor(model, feature_cache="off"), encoded)
    assert [count for _, count in cached] == [LENGTH - 2, 0]  # the prompted frames are there already
    assert [count for _, count in plain][1] >= LENGTH - 2
    for (ours, _), (theirs, _) in zip(cached, plain, strict=True):
        assert_equal_outputs(ours, theirs)


def test_bytes_of_a_frame(model: SAM2) -> None:
    features = model.encode_image(mx.zeros((1, 128, 128, 3)))
    assert one_frame(model) == sum(array.nbytes for array in features.arrays())


@pytest.mark.parametrize("budget", [1 << 30, "disk"])
def test_rounded_features_take_half(model: SAM2, encoded: list[int], budget: int | str) -> None:
    predictor = SAM2VideoPredictor(model, feature_cache=budget, feature_cache_dtype="float16")
    with predictor.init_state(clip(LENGTH)) as state:
        exact = [state.features(t) for t in range(LENGTH)]
        assert predictor.feature_cache.nbytes == (LENGTH - IN_WORK) * one_frame(model) // 2
        again = state.features(0)
    assert len(encoded) == LENGTH
    for ours, theirs in zip(again.arrays(), exact[0].arrays(), strict=True):
        assert ours.dtype == theirs.dtype
        assert mx.array_equal(ours, theirs.astype(mx.float16).astype(theirs.dtype))


def test_a_video_that_does_not_fit_keeps_what_the_next_pass_comes_to(model: SAM2, encoded: list[int]) -> None:
    room, counts = 3, []
    predictor = SAM2VideoPredictor(model, feature_cache=room * one_frame(model))
    with predictor.init_state(clip(LENGTH)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        for _ in range(3):
            encoded.clear()
            list(predictor.propagate_in_video(state))
            counts.append(len(encoded))
    # frame 0 is a user's, and not needed again; the least recently used alone would be 1, 2, 3, always just gone
    assert counts == [LENGTH - 1, LENGTH - 1 - room, LENGTH - 1 - room]


@pytest.mark.parametrize("change", ["weight", "in place", "size"])
def test_features_of_other_weights_or_sizes_are_forgotten(nano_model: SAM2, change: str) -> None:
    model = nano_model.with_config(dataclasses.replace(nano_model.config, image_size=128))
    predictor = SAM2VideoPredictor(model)
    with predictor.init_state(clip(3)) as state:
        before = state.features(0).embedding
        assert state.features(0).embedding is before
        weight = predictor.model.image_encoder.neck.convs[1].conv
        if change == "weight":
            weight["bias"] = weight.bias + 1
        elif change == "in place":
            weight.bias += 1
        else:
            predictor.image_size = 256
        after = state.features(0).embedding
        assert after.shape != before.shape if change == "size" else not mx.array_equal(after, before)
        weight.bias = weight.bias - (change != "size")


def test_other_options_of_the_model_forget_nothing(model: SAM2, encoded: list[int]) -> None:
    predictor = SAM2VideoPredictor(model)
    with predictor.init_state(clip(3)) as state:
        state.features(0)
        predictor.memory_temporal_stride_for_eval = 2
        state.features(0)
    assert len(encoded) == 1


@pytest.mark.parametrize("budget", [100_000, "disk"])
def test_memory_stays_within_the_budget_over_2000_frames(model: SAM2, budget: int | str) -> None:
    small = nn.Linear(1, 1)  # few weights to look after
    decoder = SimpleNamespace(conv_s0=small, conv_s1=small)
    model = SimpleNamespace(config=model.config, image_encoder=small, sam_mask_decoder=decoder, dtype=mx.float32)
    cache = FeatureCache(budget)
    session = cache.session()
    size = 4 * 8 * 8 * (4 + 4 + 4)
    held: list[weakref.ref[ImageFeatures]] = []
    for t in range(2000):
        arrays = [mx.full((1, 8, 8, 4), t + i, mx.float32) for i in range(3)]
        mx.eval(arrays)
        features = ImageFeatures(arrays[0], (arrays[1], arrays[2]))
        held.append(weakref.ref(features))
        session.put(t, features, model)
        del features
    in_memory = sum(reference() is not None for reference in held)
    assert in_memory == IN_WORK + (0 if budget == "disk" else budget // size)
    assert cache.nbytes == (2000 - IN_WORK) * size if budget == "disk" else budget - size < cache.nbytes <= budget
    for t in [0, 1999, 1000] if budget == "disk" else [1999, 1980]:
        assert session.get(t, model).high_res[1].max().item() == t + 2
    assert 0 in session or budget != "disk"


def test_a_full_disk_loses_nothing(model: SAM2, encoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = passes(SAM2VideoPredictor(model, feature_cache="off"), encoded)
    write, written = os.pwrite, []

    def almost_full(file: int, data: bytes, offset: int) -> int:
        written.append(offset)
        return write(file, data[: len(data) if offset < 3 * one_frame(model) and len(written) < 9 else 10], offset)

    monkeypatch.setattr(os, "pwrite", almost_full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = passes(SAM2VideoPredictor(model, feature_cache="disk"), encoded)
    told = [str(w.message) for w in caught if "mlx_sam2" in str(w.message)]
    assert len(told) == 1 and "No space left on device; set TMPDIR to a folder with room. Frames" in told[0]
    for (ours, _), (theirs, _) in zip(found, plain, strict=True):
        assert_equal_outputs(ours, theirs)
    assert 0 < found[1][1] < LENGTH


@pytest.mark.parametrize("end", ["close", "forget"])
def test_a_session_that_ends_gives_its_features_up(model: SAM2, end: str) -> None:
    predictor = SAM2VideoPredictor(model)
    other = predictor.init_state(clip(3))
    other.features(0)
    state = predictor.init_state(clip(LENGTH))
    for t in range(LENGTH):
        state.features(t)
    if end == "close":
        state.close()
    del state
    gc.collect()
    assert predictor.feature_cache.nbytes == one_frame(model)
    assert 0 in other.encoded


def test_sessions_share_one_budget(model: SAM2) -> None:
    predictor = SAM2VideoPredictor(model, feature_cache=4 * one_frame(model))
    states = [predictor.init_state(clip(LENGTH)) for _ in range(2)]
    for state in states:
        for t in range(LENGTH):
            state.features(t)
    assert predictor.feature_cache.nbytes == 4 * one_frame(model)
    assert not any(t in states[0].encoded for t in range(LENGTH))  # used longest ago


@pytest.mark.parametrize("budget", [-1, True, "ram", 0.5])
def test_budgets_that_mean_nothing(model: SAM2, budget: Any) -> None:
    with pytest.raises(ValueError, match=r"feature_cache=.*: it must be a number of bytes, 'disk', 'off' or None"):
        SAM2VideoPredictor(model, feature_cache=budget)
    with pytest.raises(ValueError, match=r"feature_cache_dtype='int8': it must be"):
        SAM2VideoPredictor(model, feature_cache_dtype="int8")


def test_features_that_are_asked_for_twice_are_not_rounded_between(model: SAM2) -> None:
    predictor = SAM2VideoPredictor(model, feature_cache_dtype="float16")
    with predictor.init_state(clip(3)) as state:
        first = np.array(state.features(0).embedding)
        np.testing.assert_array_equal(np.array(state.features(0).embedding), first)


@pytest.mark.parametrize("budget", [6000, "disk"])
@pytest.mark.parametrize("seed", range(3))
def test_the_books_are_right_after_any_script(model: SAM2, budget: int | str, seed: int) -> None:
    """Sessions that seek, go over frames again, end, and whose weights change: what is found is what was put."""
    rng, made = random.Random(seed), 0
    layers = [nn.Linear(1, 1) for _ in range(2)]
    decoder = SimpleNamespace(conv_s0=layers[0], conv_s1=layers[0])
    model = SimpleNamespace(config=model.config, image_encoder=layers[1], sam_mask_decoder=decoder, dtype=mx.float32)
    cache = FeatureCache(budget)
    sessions, put = [cache.session() for _ in range(3)], {}
    for _ in range(600):
        n, t, deed = rng.randrange(3), rng.randrange(20), rng.random()
        if deed < 0.9:
            features = sessions[n].get(t, model)
            assert features is None or features.embedding.max().item() == put[n, t], (
                "another frame's, or older weights'"
            )
            if features is None:
                put[n, t] = made = made + 1
                sessions[n].put(t, ImageFeatures(mx.full((1, 8, 8, 4), made, mx.float32), None), model)
        elif deed < 0.95:
            sessions[n].expect(range(t, 20))
        elif deed < 0.98:
            sessions[n].close()
            sessions[n] = cache.session()
        else:
            layers[1].bias = layers[1].bias + 1
        kept = cache._kept.values()
        assert cache.nbytes == sum(entry.nbytes for entry in kept) <= cache.budget
        slots = [entry.place for entry in kept if isinstance(entry.place, int)]
        assert len({*slots, *cache._free}) == len(slots) + len(cache._free), "a slot is used twice"
    assert made < 560  # some were found again

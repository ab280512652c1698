"""Other configurations, against the running official code, and two of them against its stored answers."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import synthetic
from goldens import FEATURE_TOL, LOGIT_TOL, SCORE_TOL, close
from mlx_sam2.model.results import ImageFeatures
from mlx_sam2.model.sam2 import SAM2
from model_variants import (
    HEADS,
    STORED,
    STORED_VARIANTS,
    VARIANTS,
    Pair,
    both_features,
    every_other,
    official_heads,
    official_mask_as_output,
    official_memory,
    our_heads,
    our_mask_as_output,
    our_memory,
    pictures,
    planes,
    variant_weights,
)

HEAD_TOLERANCES = {"ious": SCORE_TOL, "low_res": LOGIT_TOL, "pointer": FEATURE_TOL, "score": LOGIT_TOL}
MASK_TOLERANCES = {"ious": 0, "low_res": 1e-5, "pointer": FEATURE_TOL, "score": 0}  # low_res measured: 1e-6
MEMORY_TOLERANCES = {"memory": 1e-4, "attended": 2e-4}  # measured: 1e-5, 2e-5


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(VARIANTS[request.param])


@pytest.fixture(scope="module")
def frame(pair: Pair) -> tuple[Any, ImageFeatures]:
    return both_features(pair)


def test_variant_image_encoder(pair: Pair, frame: tuple[Any, ImageFeatures]) -> None:
    theirs, ours = frame
    *high_res, embedding = planes(pair, theirs)
    pair.compare(ours.embedding, embedding, FEATURE_TOL, "embedding")
    for got, expected in zip(ours.high_res or (), high_res, strict=True):
        pair.compare(got, expected, FEATURE_TOL, "high_res")


@pytest.mark.parametrize("name", HEADS)
def test_variant_heads(pair: Pair, frame: tuple[Any, ImageFeatures], name: str) -> None:
    expected = official_heads(pair, frame[0], name)
    for what, got in our_heads(pair.ours, frame[1], name).items():
        pair.compare(got, expected[what], HEAD_TOLERANCES[what], what)


def test_variant_mask_as_output(pair: Pair, frame: tuple[Any, ImageFeatures]) -> None:
    expected = official_mask_as_output(pair, frame[0])
    for what, got in our_mask_as_output(pair.ours, frame[1]).items():
        pair.compare(got, expected[what], MASK_TOLERANCES[what], what)


@pytest.mark.parametrize("clicked", [False, True])
def test_variant_memory(pair: Pair, frame: tuple[Any, ImageFeatures], clicked: bool) -> None:
    expected = official_memory(pair, frame[0], clicked)
    for what, got in our_memory(pair.ours, frame[1], clicked).items():
        pair.compare(got, expected[what], MEMORY_TOLERANCES[what], what)


@pytest.fixture(scope="module", params=STORED_VARIANTS)
def stored(request: pytest.FixtureRequest) -> tuple[dict[str, np.ndarray], SAM2, ImageFeatures]:
    config, state = variant_weights(VARIANTS[request.param])
    model = synthetic.build_model(config, state)
    with np.load(STORED) as file:
        prefix = f"{request.param}."
        answers = {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}
    return answers, model, model.encode_image(mx.array(pictures(config.image_size)))


@pytest.mark.parametrize("name", [*HEADS, "mask", "memory.False", "memory.True"])
def test_stored_answers(stored: tuple[dict[str, np.ndarray], SAM2, ImageFeatures], name: str) -> None:
    expected, model, features = stored
    if name.startswith("memory"):
        answers, tolerances = our_memory(model, features, clicked=name == "memory.True"), MEMORY_TOLERANCES
    elif name == "mask":
        answers, tolerances = our_mask_as_output(model, features), MASK_TOLERANCES
    else:
        answers, tolerances = our_heads(model, features, name), HEAD_TOLERANCES
    for what, got in answers.items():
        close(mx.array(every_other(np.array(got))), expected[f"{name}.{what}"], tolerances[what], what)

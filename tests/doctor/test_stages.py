"""The stages of a model as the doctor times them, and the operations that it counts."""

from __future__ import annotations

import mlx.core as mx
import pytest

import synthetic
import synthetic_edgetam
from mlx_sam2.benchmark import roofline
from mlx_sam2.benchmark.roofline_steps import HEAVY
from mlx_sam2.config.published import published
from mlx_sam2.doctor import stages
from mlx_sam2.model.sam2 import SAM2


@pytest.fixture(scope="module", params=["nano", pytest.param("edgetam", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest) -> SAM2:
    return synthetic.nano_model() if request.param == "nano" else synthetic_edgetam.nano_model()


def test_operations_of_what_can_be_counted_by_hand() -> None:
    x, w = mx.zeros((3, 5)), mx.zeros((5, 7))
    assert stages.operations(lambda x: (x @ w,), (x,)) == 2 * 3 * 5 * 7
    image, kernel = mx.zeros((1, 8, 8, 4)), mx.zeros((6, 3, 3, 4))
    assert stages.operations(lambda x: (mx.conv2d(x, kernel, padding=1),), (image,)) == 2 * 64 * 6 * 36


@pytest.mark.slow
def test_operations_are_those_of_the_roofline() -> None:
    """At a published size, where padding is small: what its kernels compute on padding is 0.3 % of the encoder."""
    for name, (function, examples) in stages.graphs(SAM2(published("tiny").config)).items():
        steps = roofline.trace(lambda *x, f=function: tuple(f(*x)), *examples)
        traced = sum(step.flops for step in steps if step.name in HEAVY)
        assert stages.operations(function, examples) == pytest.approx(traced, rel=0.01), name


def test_every_stage_is_timed_and_held_against_the_product(model: SAM2) -> None:
    rows = list(stages.measure(model, quick=True, product=100.0))
    assert [row.stage for row in rows] == ["image encoder", "mask decoder", "memory attention", "memory encoder"]
    for row in rows:
        assert row.milliseconds > 0 and row.gflop > 0
        assert row.of_product == pytest.approx(row.gflop / (row.milliseconds / 1e3) / 100)
    assert all(row.of_product is None for row in stages.measure(model, quick=True, product=None))

"""The model in the package segments and tracks: tests/measure/demo_scenarios.py, held to tests/data/demo/bars.json.

After new weights: python tests/measure/demo_scenarios.py --write
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

import demo_scenarios
import demo_scenes
import mlx_sam2
from demo_scenarios import PRECISIONS, SCENARIOS

if TYPE_CHECKING:
    from mlx_sam2.model.sam2 import SAM2

BARS = demo_scenarios.read_bars()
QUICK = {"coins with IoU >= 0.85, of 24", "one click", "box", "negative click removes a part", "streamed"}


@lru_cache(maxsize=len(PRECISIONS))
def model(precision: str) -> SAM2:
    """Shared by every test of the process: do not change its weights."""
    return demo_scenarios.load(precision)


@pytest.mark.parametrize("scenario", [s if s in QUICK else pytest.param(s, marks=pytest.mark.slow) for s in SCENARIOS])
@pytest.mark.parametrize(
    "precision", [p if p == "float32" else pytest.param(p, marks=pytest.mark.slow) for p in PRECISIONS]
)
def test_scenario(precision: str, scenario: str) -> None:
    bar, wanted = BARS[scenario][precision], SCENARIOS[scenario].wanted
    if bar["measured"] < wanted / 2:
        pytest.skip(f"these weights cannot do it: {bar['measured']} was measured, {wanted} is wanted")
    value = SCENARIOS[scenario].run(model(precision))
    assert value >= bar["bar"], (
        f"{scenario}: {value:.4f} (measured {bar['measured']}); see tests/measure/demo_scenarios.py"
    )


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_bars_are_near_what_was_measured(scenario: str) -> None:
    """A bar that nothing can miss is none: each precision has its own, a little under its figure."""
    assert BARS[scenario].keys() == set(PRECISIONS)
    for entry in BARS[scenario].values():
        assert 0 <= entry["measured"] - entry["bar"] <= SCENARIOS[scenario].margin + 0.001


@pytest.mark.slow
def test_the_negative_click_matters() -> None:
    """The same mask and click without it keep the part."""
    with_it, without = (demo_scenarios.negative_click(model("float32"), negative) for negative in (True, False))
    assert with_it > without + 0.1


@pytest.mark.slow
def test_a_stream_gives_what_a_session_gives() -> None:
    frames, names = demo_scenes.crossing(front=True)
    prompt = demo_scenarios.a_click(names[0] == 1)
    predictor = mlx_sam2.SAM2VideoPredictor(model("float32"))
    with predictor.init_state(list(frames[:6]), memory="ram") as state:
        predictor.add_new_points_or_box(state, 0, 1, **prompt)
        expected = [logits for _, _, logits in predictor.propagate_in_video(state)]
    with predictor.stream(list(frames[:6])) as stream:
        for t, _, logits in stream:
            if t == 0:
                _, _, logits = stream.add_new_points_or_box(1, **prompt)
            np.testing.assert_array_equal(logits > 0, expected[t] > 0)

"""The video predictor against the official one: every script of the goldens named video_*."""

from __future__ import annotations

import numpy as np
import pytest

import goldens
from golden_runs import build, compare, run_script

pytestmark = goldens.needs_goldens

NANO = ["two_objects", "empty_clear_reverse_reset", "options", "pointers", "long", "masks_two_cond", "nopost"]
EDGETAM = ["video_edgetam", *(f"video_edgetam_nano_{name}" for name in ("two_objects", "masks", "long"))]
FILES = [f"video_nano_{name}" for name in NANO] + ["video_nano20"]
QUICK = ["video_nano_two_objects", "video_nano_options", "video_nano_masks_two_cond", "video_nano20"]
RUNS = [
    *((name, "disk") for name in QUICK),
    *(pytest.param(name, "disk", marks=pytest.mark.slow) for name in FILES if name not in QUICK),
    *(pytest.param(name, "ram", marks=pytest.mark.slow) for name in FILES),
    *(pytest.param(name, "disk", marks=pytest.mark.slow) for name in ("video_tiny", *EDGETAM)),
]


@pytest.mark.parametrize(("name", "memory"), RUNS)
def test_script(name: str, memory: str) -> None:
    golden = goldens.read(name)
    predictor = build(golden)
    records = iter(enumerate(golden.about["records"]))
    with predictor.init_state(goldens.input_path(golden.about["video"]), memory=memory) as state:

        def check(step: int, frame_idx: int | None, obj_ids: list[int], masks: np.ndarray | None) -> None:
            index, record = next(records)
            assert (record["step"], record["frame"], record["obj_ids"]) == (step, frame_idx, obj_ids), index
            if masks is not None:
                compare(golden.tensors, record, f"r{index}", state, masks)

        run_script(predictor, state, golden.about["script"], check)
    assert next(records, None) is None

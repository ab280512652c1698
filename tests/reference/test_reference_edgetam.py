"""EdgeTAM beside the official code, run as the package edgetam-dimos of PyPI: features, a click, frames after it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import synthetic
import synthetic_edgetam
import timm_alone
from golden_runs import LOGIT_TOL, MEMORY_TOL, OUTLIERS, POINTER_TOL, assert_close
from goldens import EDGETAM_TOL
from mlx_sam2.images.preprocess import MEAN, STD
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor

PACKAGE = Path(sys.prefix) / "edgetam_dimos"  # it is called sam2, so it has a folder of its own
POINT, LABEL, FRAMES = [70.0, 120.0], 1, 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PACKAGE.is_dir(), reason=f"needs edgetam-dimos in {PACKAGE}: see CONTRIBUTING.md"),
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason=timm_alone.REASON),
]


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """(T, S, S, 3) uint8: a picture that moves."""
    picture = synthetic.picture(256, 256 + 4 * FRAMES, 3)
    return np.stack([picture[:, 4 * t : 4 * t + 256] for t in range(FRAMES)])


@pytest.fixture(scope="module")
def answers(frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    folder = tmp_path_factory.mktemp("edgetam_dimos")
    pixels = ((frames.astype(np.float32) / 255 - MEAN) / STD).astype(np.float32).transpose(0, 3, 1, 2)
    given = {"frames": pixels, "points": np.array([POINT], np.float32), "labels": np.array([LABEL], np.int32)}
    np.savez(folder / "given.npz", **given, **synthetic_edgetam.nano_state())
    here = Path(__file__).parent
    command = [sys.executable, here / "run_edgetam_dimos.py", synthetic.DATA / "config_edgetam_nano.json"]
    paths = os.pathsep.join([str(PACKAGE), str(here), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, folder / "given.npz", folder / "answers.npz"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "answers.npz") as found:
        return dict(found)


def test_features(answers: dict[str, np.ndarray], frames: np.ndarray) -> None:
    encoder = synthetic_edgetam.nano_model().image_encoder
    pixels = mx.array(((frames[:1].astype(np.float32) / 255 - MEAN) / STD).astype(np.float32))
    levels = encoder(pixels, encoder.prepared(pixels))
    assert [f"level{i}" for i in range(len(levels))] == sorted(k for k in answers if k.startswith("level"))
    for i, level in enumerate(levels[2:], 2):  # the finer ones have gone through conv_s0 and conv_s1 there
        expected = answers[f"level{i}"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(np.array(level), expected, rtol=0, atol=EDGETAM_TOL[0])


def test_a_click_and_the_frames_after_it(answers: dict[str, np.ndarray], frames: np.ndarray) -> None:
    predictor = SAM2VideoPredictor(synthetic_edgetam.nano_model(), fill_hole_area=0)
    with predictor.init_state(list(frames)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[POINT], labels=[LABEL])
        for t, _, masks in predictor.propagate_in_video(state):
            stored = state.tracks[1].conditioning[t] if t == 0 else state.tracks[1].tracked[t]
            tolerance, few = ((EDGETAM_TOL[1], 0.0), 0.0) if t == 0 else (LOGIT_TOL, OUTLIERS)  # roundings flip
            assert_close(np.array(masks[0, 0]), answers[f"masks{t}"], tolerance, f"masks, frame {t}", few)
            assert_close(np.array(stored.low_res_mask), answers[f"low{t}"], tolerance, f"low, frame {t}", few)
            memory = np.array(stored.features.astype(mx.float32))
            assert_close(memory, answers[f"memory{t}"], MEMORY_TOL, f"memory, frame {t}", OUTLIERS)
            assert_close(np.array(stored.pointer), answers[f"pointer{t}"], POINTER_TOL, f"pointer, frame {t}")
    assert t == FRAMES - 1

"""The whole nano model with every kernel in the emulator: the results of the model without them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import golden_runs
import goldens
import metal
import synthetic
from mlx_sam2.kernels import rules
from mlx_sam2.kernels.dispatch import forget_checks, recorded
from mlx_sam2.model import compiled
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video import video_masks

# Largest differences measured on a CPU: features 3e-6, logits 3.4e-5, scores 1.2e-6. On later frames of a video 9.5e-4;
# where the rounding of a memory to bfloat16 flips, logits move by 0.008 to 0.03 (goldens).
FEATURE_TOL, LOGIT_TOL, SCORE_TOL, FLIP_TOL = 3e-5, 3e-4, 1e-5, 3e-2


OF_VIDEO = {"axial_memory_attention", "axial_rope", "memory_attention"}


def all_ops() -> set[str]:
    return {op.name for op in metal.all_ops()}


def both_ways(run: Callable[[], Any]) -> tuple[Any, Any, set[str]]:
    """A run without kernels, the same with all of them, and the ops that it calls, each of which took its kernel."""
    with recorded() as calls:
        plain = run()
    with metal.emulated("fast") as reports:
        through_kernels = run()
    wanted = Counter(op.name for op, _ in calls)
    for inside in ("axial_rope", "memory_attention"):  # called by its reference alone
        wanted[inside] -= wanted["axial_memory_attention"]
    for name, count in wanted.items():
        assert sum(f"mlx_sam2_{name}_" in report.name for report in reports) >= count, name
    return plain, through_kernels, {name for name, count in wanted.items() if count}


@pytest.fixture(scope="module")
def small_model(nano_model: SAM2) -> SAM2:
    config = nano_model.config.with_postprocessing(True, video=True)
    return nano_model.with_config(dataclasses.replace(config, image_size=128))


def image_run(model: SAM2) -> dict[str, np.ndarray]:
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(synthetic.picture(300, 200))
    results = {"features": predictor.get_image_embedding()}
    points = {"point_coords": [[70, 120], [20, 30]], "point_labels": [1, 0]}
    rough = np.where(np.add.outer(np.arange(64), np.arange(64)) < 60, 5.0, -5.0)[None]
    for name, prompt in {"points": points, "box": {"box": [30, 80, 140, 190]}, "mask": {"mask_input": rough}}.items():
        logits, results[f"{name} scores"], _ = predictor.predict(**prompt, return_logits=True)
        results[f"{name} logits"] = logits
    return results


def video_run(model: SAM2) -> dict[str, np.ndarray]:
    predictor = SAM2VideoPredictor(model, fill_hole_area=0)
    picture = synthetic.picture(54, 104)
    frames = [np.ascontiguousarray(picture[:, 2 * i : 2 * i + 96]) for i in range(4)]
    with predictor.init_state(frames) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        predictor.add_new_points_or_box(state, 0, 2, box=[40, 10, 80, 50])
        return {f"frame {t}": logits for t, _, logits in predictor.propagate_in_video(state)}


def assert_close(plain: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: Callable[[str], float]) -> None:
    assert plain.keys() == other.keys()
    for name, expected in plain.items():
        np.testing.assert_allclose(other[name], expected, rtol=0, atol=tolerance(name), err_msg=name)


@pytest.mark.slow
def test_image_predictor(nano_model: SAM2) -> None:
    plain, through_kernels, used = both_ways(lambda: image_run(nano_model))
    tolerances = {"features": FEATURE_TOL, "scores": SCORE_TOL, "logits": LOGIT_TOL}
    assert_close(plain, through_kernels, lambda name: tolerances[name.split()[-1]])
    assert used == all_ops() - OF_VIDEO


@pytest.mark.slow
def test_video_session(small_model: SAM2) -> None:
    plain, through_kernels, used = both_ways(lambda: video_run(small_model))
    assert_close(plain, through_kernels, lambda name: LOGIT_TOL if name == "frame 0" else FLIP_TOL)
    assert used == all_ops()


# ---- MLX_SAM2_KERNELS, on answers of the official code


@contextlib.contextmanager
def pretended_metal(value: str) -> Iterator[list[Any]]:
    """A machine with Metal as far as the package can see, and the variable; kernels run in the emulator."""
    metalcpu = metal.emulator()
    forget_checks()
    with pytest.MonkeyPatch.context() as patch, metalcpu.emulate(mode="fast") as reports:
        patch.setattr(mx.metal, "is_available", lambda: True)
        patch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))
        patch.setattr(video_masks, "_beside", lambda _: mx.cpu)  # there is no stream on that GPU
        patch.setattr(compiled, "compiles", lambda: False)  # the emulator computes; what is being traced has no values
        patch.setenv(rules.VARIABLE, value)
        yield reports
    forget_checks()


def image_golden(model: SAM2) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Masks and logits of the stored cases, the logits checked against the official ones."""
    about = json.loads((synthetic.DATA / "image_nano.json").read_text())
    stored = np.load(synthetic.DATA / "image_nano.npz")
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(synthetic.picture(*about["picture_shape"][:2]))
    results = {}
    for name, case in about["cases"].items():
        prompt = {key: np.array(v) if isinstance(v, list) else v for key, v in case["prompt"].items() if key != "mask"}
        if "mask" in case["prompt"]:
            other, index = case["prompt"]["mask"]
            prompt["mask_input"] = stored[f"{other}.low"][index][None]
        logits, _, low = predictor.predict(**prompt, return_logits=True)
        step = case["step"]
        np.testing.assert_allclose(low[..., ::step, ::step], stored[f"{name}.low"], rtol=0, atol=goldens.LOGIT_TOL)
        results[name] = (logits > predictor.mask_threshold, logits)
    return results


@pytest.mark.slow
def test_the_variable_on_an_image_golden(nano_model: SAM2) -> None:
    with pretended_metal("0") as reports:
        without = image_golden(nano_model)
    assert not reports
    with pretended_metal("1") as reports:
        with_kernels = image_golden(nano_model)
    assert reports or not all_ops() - OF_VIDEO
    for name, (mask, logits) in without.items():
        assert not ((mask != with_kernels[name][0]) & (np.abs(logits) > LOGIT_TOL)).any(), name


@pytest.mark.slow
@goldens.needs_goldens
def test_the_variable_on_a_video_golden() -> None:
    golden = goldens.read("video_nano_nopost")
    predictor = golden_runs.build(golden)
    script = [{**op, "max": 4} if op["op"] == "propagate" else op for op in golden.about["script"]]  # five frames
    masks: dict[str, list[np.ndarray]] = {"0": [], "1": []}
    for value, results in masks.items():
        with (
            pretended_metal(value) as reports,
            predictor.init_state(goldens.input_path(golden.about["video"])) as state,
        ):

            def check(
                step: int, frame: int | None, ids: list[int], logits: np.ndarray, state=state, out=results
            ) -> None:
                record = golden.about["records"][len(out)]
                golden_runs.compare(golden.tensors, record, f"r{len(out)}", state, logits)
                out.append(logits > 0)

            golden_runs.run_script(predictor, state, script, check)
        assert bool(reports) == (value == "1")
    for ours, theirs in zip(*masks.values(), strict=True):
        assert (ours != theirs).mean() <= 1e-4  # pixels whose logit is zero up to rounding

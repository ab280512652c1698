"""Losses, gradients and updates against the official training code (``shared/golden/train_*``, TRAINING.md)."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

import goldens
import training_runs
from mlx_sam2.finetune.losses import Step, Terms, losses, step_losses
from mlx_sam2.finetune.optimizer import AdamW, Group, clipped, cosine, global_norm
from mlx_sam2.finetune.parameters import FIXED, is_decayed, rate_factor, without_gradient
from mlx_sam2.finetune.rollout import roll_out

pytestmark = goldens.needs_goldens

TERMS = ("loss_mask", "loss_dice", "loss_iou", "loss_class")
Run = tuple[mx.array, tuple[Terms, list[list[Step]]], dict[str, mx.array]]


def run(case: training_runs.Case, weights: dict[str, mx.array]) -> Run:
    """Total loss, its terms and all steps, and the gradients of all weights."""

    def total(weights: dict[str, mx.array]) -> tuple[mx.array, tuple[Terms, list[list[Step]]]]:
        case.model.update(tree_unflatten(list(weights.items())))
        features = case.model.encode_image(case.pixels)
        frames = [features.image(t) for t in range(len(case.targets))]
        steps = roll_out(case.model, frames, case.targets, case.plan)
        terms = losses(steps, case.targets, case.targets.shape[1])
        return terms.total(), (terms, steps)

    (value, found), gradients = mx.value_and_grad(total)(weights)
    mx.eval(value, found, gradients)
    case.model.update(tree_unflatten(list(weights.items())))
    return value, found, gradients


@pytest.fixture(scope="module", params=["train_nano_image", pytest.param("train_nano_video", marks=pytest.mark.slow)])
def answered(request: pytest.FixtureRequest) -> tuple[training_runs.Case, Run]:
    case = training_runs.read(request.param)
    return case, run(case, dict(tree_flatten(case.model.parameters())))


def test_losses_of_every_step(answered: tuple[training_runs.Case, Run]) -> None:
    case, (_, (_, frames), _) = answered
    for expected in case.golden.about["steps"]:
        step = frames[expected["frame"]][expected["step"]]
        assert step.masks.shape[-1] == expected["num_masks"]
        found = step_losses(step, case.targets[expected["frame"]], case.targets.shape[1])
        for term, name in zip(found, TERMS, strict=True):
            # measured: 4e-6 of the value (a score of .1 has a noise of 5e-6); one pixel of an IoU, 3e-6
            assert float(term) == pytest.approx(expected[name], rel=5e-6, abs=4e-6), (expected["step"], name)
        for value, key in ((step.ious, "ious"), (step.object_score, "score")):
            stored = case.golden.tensors[f"f{expected['frame']}s{expected['step']}.{key}"]
            np.testing.assert_allclose(np.array(value), stored, rtol=0, atol=5e-5)


def test_total(answered: tuple[training_runs.Case, Run]) -> None:
    case, (value, (terms, _), _) = answered
    expected = case.golden.about["total"]
    assert float(value) == pytest.approx(expected["core_loss"], rel=2e-6)  # measured: 3e-7
    for term, name in zip(terms, TERMS, strict=True):
        assert float(term) == pytest.approx(expected[name], rel=5e-6, abs=4e-6), name


def test_gradients(answered: tuple[training_runs.Case, Run]) -> None:
    case, (_, _, gradients) = answered
    found = training_runs.differences(case, "grad", gradients)
    assert len(found) > 200
    assert max(found.values()) < training_runs.GRADIENT_NOISE[case.golden.about["name"]], found


def test_parameters_that_get_no_gradient(answered: tuple[training_runs.Case, Run]) -> None:
    case, (_, _, gradients) = answered
    first, frames = case.plan.first, len(case.targets)
    unused = without_gradient(frames, first, first[0] is None, bool(case.plan.corrections))
    names = [name for name in gradients if not name.startswith("sam_prompt_encoder.pe_layer.")]
    assert {name for name in names if name.startswith(unused)} == set(case.golden.about["no_grad"])
    assert not any(mx.any(gradients[name]).item() for name in case.golden.about["no_grad"])


def test_groups() -> None:
    about = goldens.read("train_nano_image").about
    for (rate, decay), names in about["adamw"]["groups_at_start"]:
        for name in names:
            base = 6e-5 if name.startswith("image_encoder.") else 1e-4
            assert base * rate_factor(name, 8, 0.9) == pytest.approx(rate, rel=1e-6), name
            assert 0.1 * is_decayed(name) == decay, name


@pytest.mark.slow
def test_five_updates() -> None:
    case = training_runs.read("train_nano_image")
    about = case.golden.about["adamw"]
    start = dict(tree_flatten(case.model.parameters()))
    unused = (*FIXED, *without_gradient(1, {0}, False, True))
    optimizer = AdamW(
        {
            name: Group(
                (6e-5 if name.startswith("image_encoder.") else 1e-4) * rate_factor(name, 8, 0.9),
                0.1 * is_decayed(name),
            )
            for name in start
        }
    )
    weights = start
    for i, expected in enumerate(about["losses"]):
        value, (terms, _), gradients = run(case, weights)
        assert float(value) == pytest.approx(expected["core_loss"], rel=4e-4)  # noise: 4e-5, measured: 1.1e-4
        for term, name in zip(terms, TERMS, strict=True):
            assert float(term) == pytest.approx(expected[name], rel=2e-3, abs=1e-5), (
                i,
                name,
            )  # measured: 6e-4, of scores near 0
        if i == len(about["losses"]) - 1:
            break
        gradients = {name: g for name, g in gradients.items() if not name.startswith(unused)}
        norm = global_norm(gradients)
        assert float(norm) == pytest.approx(about["grad_norms"][i], rel=5e-3)  # measured: 2e-3 at the fifth
        weights = optimizer.step(weights, clipped(gradients, norm, 0.1), i / 5)
        mx.eval(weights)
    _check_changes(case, {name: weights[name] - value for name, value in start.items()})


def _check_changes(case: training_runs.Case, changes: dict[str, mx.array]) -> None:
    found = []
    for i, name in enumerate(case.golden.about["grad_names"]):
        if training_runs.is_noise(name) or name.endswith("qkv.bias"):
            continue
        value = training_runs.official_layout(name, changes[name])
        samples = value[[j * (len(value) - 1) // 7 for j in range(8)]]
        found.append(np.abs(samples - case.golden.tensors["delta.samples"][i]))
    differences = np.concatenate(found)
    assert differences.max() < 5e-5  # noise: 5e-6, and 1e-7 for nine in ten
    assert np.quantile(differences, 0.9) < 1e-6
    assert not any(mx.any(changes[name]).item() for name in case.golden.about["no_grad"])


def test_the_schedule_ends_at_its_share() -> None:
    assert cosine(0, 1, 0.1) == 1
    assert cosine(1, 1, 0.1) == pytest.approx(0.1)
    assert cosine(0.5, 1, 0.1) == pytest.approx(0.55)

"""Losses with settings of all kinds against the official loss functions."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam2.finetune import Arguments
from mlx_sam2.finetune.arguments import LossSettings
from mlx_sam2.finetune.losses import Step, Terms, losses

REASON = "needs the official package (CONTRIBUTING.md, Oracle tests)"
OBJECTS, SIZE = 3, 16
SETTINGS = {
    "official": {},
    "published defaults": {"supervise_all_iou": False, "iou_use_l1_loss": False},
    "weights": {"loss_mask": 1.5, "loss_dice": 4.0, "loss_iou": 0.5, "loss_class": 3.0},
    "focal": {"focal_alpha": 0.6, "focal_gamma": 1.5},
    "cross entropy": {"focal_alpha": -1.0, "focal_gamma": 0.0},
    "presence": {"focal_alpha_obj_score": 0.3, "focal_gamma_obj_score": 2.0},
    "no presence": {"pred_obj_scores": False},
}


def official(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``training.loss_fns`` without the trainer that it imports one word of."""
    pytest.importorskip("torch", reason=REASON)
    pytest.importorskip("training", reason=REASON)
    trainer = types.ModuleType("training.trainer")
    trainer.CORE_LOSS_KEY = "core_loss"
    monkeypatch.setitem(sys.modules, "training.trainer", trainer)
    return importlib.import_module("training.loss_fns")


def answers() -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """A step of three masks and one of one, large logits among them; the last object is absent."""
    random = np.random.default_rng(5)
    steps = []
    for count in (3, 1):
        masks = 4 * random.standard_normal((OBJECTS, count, SIZE, SIZE))
        masks[0, 0, :4] = -1024
        steps.append(
            {
                "masks": masks.astype(np.float32),
                "ious": random.random((OBJECTS, count), np.float32),
                "score": random.standard_normal((OBJECTS, 1)).astype(np.float32),
            }
        )
    targets = random.random((OBJECTS, SIZE, SIZE)) > 0.6
    targets[-1] = False
    return steps, targets


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_losses_and_gradients_are_the_official_ones(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    functions = official(monkeypatch)
    import torch

    steps, targets = answers()
    settings = Arguments.from_dict(changes).losses
    fields = settings._asdict()
    weights = {name: fields.pop(name) for name in ("loss_mask", "loss_dice", "loss_iou", "loss_class")}
    given = [{name: torch.tensor(value, requires_grad=True) for name, value in step.items()} for step in steps]
    outputs = {
        "multistep_pred_multimasks_high_res": [step["masks"] for step in given],
        "multistep_pred_ious": [step["ious"] for step in given],
        "multistep_object_score_logits": [step["score"] for step in given],
    }
    loss = functions.MultiStepMultiMasksAndIous(weights, **fields)
    found = loss._forward(outputs, torch.tensor(targets), float(OBJECTS))
    found["core_loss"].backward()

    def total(steps: list[dict[str, mx.array]]) -> tuple[mx.array, Terms]:
        made = [Step(s["masks"].transpose(0, 2, 3, 1), s["ious"], s["score"]) for s in steps]
        terms = losses([made], mx.array(targets)[None], OBJECTS, settings)
        return terms.total(settings), terms

    ours = [{name: mx.array(value) for name, value in step.items()} for step in steps]
    (value, terms), gradients = mx.value_and_grad(total)(ours)
    assert float(value) == pytest.approx(float(found["core_loss"].detach()), rel=3e-6)  # measured: 3e-7
    for term, name in zip(terms, weights, strict=True):
        assert float(term) == pytest.approx(float(found[name].detach()), rel=3e-6, abs=1e-7), name
    for one, other in zip(gradients, given, strict=True):
        for name, tensor in other.items():
            expected = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
            largest = max(np.abs(expected).max(), 1e-6)
            assert np.abs(np.array(one[name]) - expected).max() < 1e-5 * largest, name  # measured: 1e-6


def test_settings_have_the_defaults_of_the_published_training() -> None:
    assert Arguments().losses == LossSettings()
    assert LossSettings()[:7] == (20, 1, 1, 1, 0.25, 2, True)

"""Which steps are compiled, and what compiling and half precision change."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import goldens
import synthetic
import training_runs
from mlx_sam2.datasets.items import Item
from mlx_sam2.datasets.opening import open_dataset
from mlx_sam2.finetune import Arguments, Trainer
from mlx_sam2.finetune.losses import Terms, losses
from mlx_sam2.finetune.prompts import draw_plan
from mlx_sam2.finetune.rollout import roll_out
from mlx_sam2.finetune.steps import Shape, generator
from mlx_sam2.finetune.weights import Weights
from mlx_sam2.model import compiled
from mlx_sam2.model.sam2 import SAM2


@pytest.fixture(scope="module")
def model() -> SAM2:
    return training_runs.small_model()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    return list(open_dataset(training_runs.write_clip(tmp_path_factory.mktemp("clips") / "data", 3)))


def test_graphs_that_come_often() -> None:
    """Of 500 clips that are drawn by the official settings."""
    targets = np.zeros((8, 3, 16, 16), bool)
    targets[..., 4:8, 4:8] = True
    graphs: Counter[tuple[Shape, Any]] = Counter()
    for i in range(500):
        plan = draw_plan(targets, Arguments(preset="memory"), generator(0, i))
        first = tuple((t, points is not None) for t, points in plan.first.items())
        corrected = tuple((t, tuple(map(type, clicks))) for t, clicks in plan.corrections.items())
        sizes = tuple(None if points is None else points.labels.shape for points in plan.first.values())
        graphs[Shape(8, 1, False, first, corrected), sizes] += 1
    frequent = [count for (shape, _), count in graphs.items() if shape.is_frequent]
    others = [count for (shape, _), count in graphs.items() if not shape.is_frequent]
    assert (len(frequent), sum(frequent)) == (3, 182)
    assert (len(others), sum(others)) == (49, 318)
    assert Shape(1, 1, False, ((0, True),), ((0, ()),)).is_frequent  # a photo


@pytest.mark.parametrize("preset", ["memory", "lora", "full"])
def test_a_step_of_a_clip_can_be_compiled(
    preset: str, model: SAM2, clips: list[Item], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as on a GPU, not run (test_trainer.test_a_step_can_be_compiled).

    Run once with the CPU compiler, 1000 s for preset memory: loss and gradients equal in every bit.
    """
    settings = Arguments(preset=preset, num_frames=2, first_frames=1, corrected_frames=1, corrections=1, augment=False)
    trainer = Trainer(model, clips, (), dataclasses.replace(settings, point_share=float(preset == "memory")))
    batch = trainer._batch(0)
    plain = trainer._gradient(batch, 0)
    monkeypatch.setattr(compiled, "compiles", lambda: True)
    traced = trainer._gradient(batch, 0)
    assert len(trainer._gradients._compiled) == 1
    assert traced.gradients.keys() == plain.gradients.keys()
    assert all(traced.gradients[name].shape == value.shape for name, value in plain.gradients.items())


# ---- half precision


def test_the_loss_falls_in_bfloat16(model: SAM2, tmp_path: Path) -> None:
    """Weights stay float32: a step of 1e-4 would be lost in bfloat16."""
    items = training_runs.small_items(tmp_path / "cells", 1)
    settings = Arguments(
        steps=10, corrections=0, box_share=0.0, max_objects=1, rate=1e-3, clip=0.0, compute="bfloat16", dropout=0.0
    )
    trainer = Trainer(model, items, (), settings)
    assert trainer.model.sam_mask_decoder.iou_token.weight.dtype == mx.bfloat16
    found: list[float] = []
    trainer.run(lambda event: found.append(event.values.get("loss", 0.0)))
    assert np.mean(found[6:10]) < 0.4 * np.mean(found[:4])  # 1.3 of 8.1
    assert {value.dtype for value in trainer.result.values()} == {mx.float32}
    assert {value.dtype for value in trainer.optimizer.second.values()} == {mx.float32}


@pytest.mark.slow
@goldens.needs_goldens
def test_losses_and_gradients_in_bfloat16() -> None:
    """Near those of the official code in float32.

    ``train_nano_video`` is no measure: a presence score of .07 changes its sign there, and the mask goes with it.
    """
    case = training_runs.read("train_nano_image")
    about, tensors = case.golden.about, case.golden.tensors
    weights = Weights(case.model, Arguments(preset="full", augment=False, compute="bfloat16"), video=False)
    weights.put_all(case.model)

    def total(masters: dict[str, mx.array]) -> tuple[mx.array, Terms]:
        weights.put(case.model, masters)
        features = case.model.encode_image(case.pixels)
        assert features.image(0).embedding.dtype == mx.bfloat16
        terms = losses(
            roll_out(case.model, [features.image(0)], case.targets, case.plan), case.targets, case.targets.shape[1]
        )
        return terms.total(), terms

    (value, terms), gradients = mx.value_and_grad(total)(weights.masters)
    assert {value.dtype, *(gradient.dtype for gradient in gradients.values())} == {mx.float32}
    assert float(value) == pytest.approx(about["total"]["core_loss"], rel=0.03)  # measured: .011
    for term, name in zip(terms, ("loss_mask", "loss_dice", "loss_iou", "loss_class"), strict=True):
        # measured: focal .012, dice .0002, IoU .0033, presence .037
        assert float(term) == pytest.approx(about["total"][name], rel=0.08), name

    found, wanted, norms = [], [], []
    for i, name in enumerate(about["grad_names"]):
        if name in gradients and not training_runs.is_noise(name):
            flat = training_runs.official_layout(name, gradients[name])
            found += [flat[j * (len(flat) - 1) // 7] for j in range(8)]
            wanted += tensors["grad.samples"][i].tolist()
            norms.append((np.linalg.norm(flat), tensors["grad.norm"][i]))
    assert len(norms) > 240
    assert _cosine(found, wanted) > 0.85  # measured: .956
    assert _cosine(*zip(*norms, strict=True)) > 0.995  # of the norms of all parameters; measured: .9993


def _cosine(one: Any, other: Any) -> float:
    return float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))


# ---- other sizes


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["decoder", "lora"])
def test_a_model_of_half_the_size_is_trained(preset: str, tmp_path: Path) -> None:
    """As MedSAM2, which is tiny at 512 pixels: its configuration says so, the photos are larger."""
    config = synthetic.nano_config()
    half = dataclasses.replace(config, image_size=config.image_size // 2)
    model = synthetic.build_model(half, synthetic.nano_state())
    items = training_runs.small_items(tmp_path / "cells", 2, side=config.image_size)
    settings = Arguments(preset=preset, steps=1, corrections=1, max_objects=1, dropout=0.0, clip=0.0)
    trainer = Trainer(model, items[:1], items[1:], settings)
    start = dict(trainer.weights.masters)
    seen: list[float] = []
    trainer.run(lambda event: seen.append(event.values["loss"]) if event.kind == "step" else None)
    assert len(seen) == 1 and np.isfinite(seen).all()
    assert trainer._batch(0).targets.shape[-2:] == (half.image_size, half.image_size)
    moved = {n for n, value in trainer.weights.masters.items() if not mx.array_equal(value, start[n]).item()}
    assert any(name.startswith("sam_mask_decoder.") for name in moved)
    assert any("lora" in name for name in moved) == (preset == "lora")

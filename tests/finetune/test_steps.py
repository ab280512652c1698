"""Which steps are compiled, and what compiling and half precision change."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import training_runs
from mlx_sam2.datasets.items import Item
from mlx_sam2.datasets.opening import open_dataset
from mlx_sam2.finetune import Arguments, Trainer
from mlx_sam2.finetune.prompts import draw_plan
from mlx_sam2.finetune.steps import Shape, generator
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

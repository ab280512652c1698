"""The memory of a run, counted before it begins."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import training_runs
from mlx_sam2 import machine
from mlx_sam2.datasets.items import Item
from mlx_sam2.datasets.opening import open_dataset
from mlx_sam2.finetune import Arguments, Trainer
from mlx_sam2.finetune import run as command
from mlx_sam2.finetune.memory import count, peak_of
from mlx_sam2.kernels.dispatch import references_only

KIB = 1024


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    return training_runs.small_items(tmp_path_factory.mktemp("cells") / "data", 2)


def listed(function: object, *args: mx.array) -> list[dict]:
    records: list[dict] = []
    mx.export_function(records.append, function, *args)
    return records


def test_buffers_of_a_graph_are_counted_while_they_are_needed() -> None:
    x = mx.zeros((16, 16))  # 1 KiB
    assert peak_of(listed(lambda x: x + 1, x)) == KIB
    assert peak_of(listed(lambda x: mx.sin(mx.cos(x)), x)) == KIB  # the buffer of the cosine is taken over
    assert peak_of(listed(lambda x: mx.cos(x) @ x, x)) == 2 * KIB
    assert peak_of(listed(lambda x: mx.sin(x).reshape(4, 64), x)) == KIB  # a view
    assert peak_of(listed(lambda x: mx.sin(x).T.reshape(4, 64), x)) == 2 * KIB  # a copy
    kept = listed(mx.grad(lambda x: mx.exp(mx.exp(mx.exp(x))).sum()), x)
    assert peak_of(kept) == 3 * KIB  # three exponentials, and gradients that take their buffers over


def trainer(items: list[Item], **changes: object) -> Trainer:
    model = training_runs.small_model()
    mx.eval(model.parameters())
    settings = {"preset": "lora", "steps": 2, "corrections": 1, "box_share": 0.0, "max_objects": 2, "augment": False}
    return Trainer(model, items, (), Arguments(**(settings | changes)))


def test_more_of_everything_takes_more(items: list[Item]) -> None:
    plain = count(trainer(items))
    assert count(trainer(items, corrections=3)).step > 1.1 * plain.step
    assert count(trainer(items, batch=2, ema=0.9)).step > 1.5 * plain.step
    assert count(trainer(items, checkpoint=True)).step < 0.95 * plain.step
    counted = trainer(items)
    before = dict(tree_flatten(counted.model.parameters()))
    count(counted)
    after = dict(tree_flatten(counted.model.parameters()))
    assert all(mx.array_equal(value, before[name]).item() for name, value in after.items())  # none is traced


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["decoder", "lora", "full", "memory"])
def test_the_count_is_what_mlx_counts(preset: str, items: list[Item], tmp_path: Path) -> None:
    data = list(open_dataset(training_runs.write_clip(tmp_path / "clips"))) if preset == "memory" else items
    run = trainer(data, preset=preset, augment=None, corrections=3, num_frames=3, point_share=1.0)
    for item in data if run.features is not None else ():
        run.features.get(item, 0)
    counted = count(run).peak
    mx.clear_cache()
    before = mx.get_active_memory()
    weights = sum(value.nbytes for value in run.weights.start.values())
    mx.reset_peak_memory()
    with references_only():  # whose graph is counted
        run.run()
    measured = mx.get_peak_memory() - before + weights  # other tests' arrays may live
    # tests/measure/finetune_memory.py --measure: up to 10 % more
    assert 0.95 * measured < counted < 1.15 * measured


def test_a_machine_with_less_is_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 16 << 30)
    assert command._memory(3 << 29) == "memory: about 1.5 GiB"
    line = command._memory(40 << 30)
    assert line.startswith("memory: about 40.0 GiB, but this machine has 16.0")
    assert "\n" not in line

"""The loop: the same bits for a seed and after a break, averages, early stopping, adapters, losses that are NaN."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import synthetic_edgetam
import training_runs
from mlx_sam2.checkpoint.adapter import FILE, LORA_A, read_adapter
from mlx_sam2.datasets.items import Item
from mlx_sam2.datasets.opening import open_dataset
from mlx_sam2.finetune import ArgumentError, Arguments, Event, Trainer, TrainingError
from mlx_sam2.finetune import trainer as loop
from mlx_sam2.finetune.parameters import PRESETS
from mlx_sam2.model import compiled
from mlx_sam2.model.sam2 import SAM2

QUICK = Arguments(steps=4, corrections=2, evaluate_every=2, save_every=2, evaluated=4, dropout=0.1)


@pytest.fixture(scope="module")
def model() -> SAM2:
    return training_runs.small_model()


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    return training_runs.small_items(tmp_path_factory.mktemp("cells") / "data")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    return list(open_dataset(training_runs.write_clip(tmp_path_factory.mktemp("clips") / "data")))


def trained(model: SAM2, items: list[Item], folder: Path | None = None, **changes: Any) -> Trainer:
    trainer = Trainer(model, items[:-1], items[-1:], dataclasses.replace(QUICK, **changes), folder)
    trainer.run()
    return trainer


def same(one: dict[str, mx.array], other: dict[str, mx.array]) -> bool:
    return one.keys() == other.keys() and all(mx.array_equal(one[name], other[name]).item() for name in one)


class Killed(Exception):
    pass


def kill_at(step: int) -> Any:
    def callback(event: Event) -> None:
        if event.kind == "step" and event.step == step:
            raise Killed

    return callback


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["decoder", "lora"])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    preset: str, model: SAM2, items: list[Item], tmp_path: Path
) -> None:
    whole = trained(model, items, preset=preset, ema=0.5)
    settings = whole.arguments
    for broken_at in (2, 4):  # before the first state, and after it
        trainer = Trainer(model, items[:-1], items[-1:], settings, tmp_path / str(broken_at))
        (tmp_path / str(broken_at)).mkdir()
        with pytest.raises(Killed):
            trainer.run(kill_at(broken_at))
        again = Trainer(model, items[:-1], items[-1:], settings, tmp_path / str(broken_at))
        assert again.resume() == (broken_at == 4)
        again.run()
        assert same(again.weights.masters, whole.weights.masters)
        assert same(again.average, whole.average)
        assert again.progress == whole.progress
        written = read_adapter(tmp_path / str(broken_at))
        assert written.about["step"] == str(whole.progress.best_step)


@pytest.mark.slow
def test_clips_are_trained_and_resumed(model: SAM2, clips: list[Item], tmp_path: Path) -> None:
    changes = {"preset": "memory", "num_frames": 3, "steps": 2, "save_every": 1, "corrections": 1}
    whole = trained(model, clips, **changes)
    assert whole.video
    moved = [n for n, v in whole.weights.masters.items() if not mx.array_equal(v, whole.weights.start[n]).item()]
    assert any(name.startswith("memory_attention.") for name in moved)
    trainer = Trainer(model, clips[:-1], clips[-1:], whole.arguments, tmp_path)
    with pytest.raises(Killed):
        trainer.run(kill_at(2))
    again = Trainer(model, clips[:-1], clips[-1:], whole.arguments, tmp_path)
    assert again.resume()
    again.run()
    assert same(again.weights.masters, whole.weights.masters)
    assert {"j", "f", "jf", "objects"} == set(again.evaluate())


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_train_what_they_say(preset: str, model: SAM2, items: list[Item], clips: list[Item]) -> None:
    data = clips if preset == "memory" else items
    names = set(Trainer(model, data, (), Arguments(preset=preset)).weights.masters)
    parts = {name.split(".")[0] for name in names if not name.endswith((".lora_a", ".lora_b"))}
    decoder = {"sam_prompt_encoder", "sam_mask_decoder"}
    if preset == "full":
        assert {"image_encoder", "memory_attention", "no_mem_embed"} < parts
    elif preset == "memory":
        assert parts == decoder | {
            "memory_attention", "memory_encoder", "maskmem_tpos_enc", "no_obj_ptr", "no_obj_embed_spatial",
            "obj_ptr_proj", "obj_ptr_tpos_proj", "mask_downsample",
        }  # fmt: skip
    else:
        assert parts == decoder
    adapters = [name for name in names if name.endswith(LORA_A)]
    assert len(adapters) == (16 if preset == "lora" else 0)  # qkv and proj of 8 blocks
    assert not any("positional_encoding_gaussian_matrix" in name for name in names)


def test_the_decoder_of_edgetam_is_trained(items: list[Item]) -> None:
    model = synthetic_edgetam.nano_model()
    trainer = trained(model, items, steps=1, corrections=1, evaluated=1, dropout=0.0)
    before = dict(tree_flatten(model.parameters()))
    assert any(not mx.array_equal(value, before[name]).item() for name, value in trainer.result.items())


def test_the_rest_of_the_model_stays(model: SAM2, items: list[Item]) -> None:
    before = dict(tree_flatten(model.parameters()))
    trainer = trained(model, items)
    assert same(before, dict(tree_flatten(model.parameters())))
    tuned = model.with_config(model.config)
    trainer.use(tuned)
    for name, value in tree_flatten(tuned.parameters()):
        assert mx.array_equal(value, before[name]).item() or name in trainer.weights.masters


def test_without_clipping_gradients_are_taken_as_they_are(model: SAM2, items: list[Item]) -> None:
    settings = {"steps": 1, "corrections": 1, "evaluated": 1}
    free, wide = (trained(model, items, clip=clip, **settings) for clip in (0.0, 1e9))
    assert same(free.weights.masters, wide.weights.masters)


def test_accumulated_batches_are_one_step(model: SAM2, items: list[Item]) -> None:
    trainer = Trainer(model, items, (), dataclasses.replace(QUICK, accumulate=2))
    events: list[Event] = []
    trainer.arguments = dataclasses.replace(trainer.arguments, steps=1)
    trainer.run(events.append)
    assert [event.kind for event in events] == ["step", "end"]
    single = Trainer(model, items, (), dataclasses.replace(QUICK, steps=1))
    first: list[Event] = []
    single.run(first.append)
    assert events[0].values["loss"] > first[0].values["loss"]  # the sum of two


def test_photos_that_are_computed_together(model: SAM2, items: list[Item]) -> None:
    events: list[Event] = []
    trainer = Trainer(model, items, (), dataclasses.replace(QUICK, steps=1, batch=3, preset="lora"))
    trainer.run(events.append)
    assert np.isfinite(events[0].values["loss"])


def test_held_out_photos_may_have_the_names_of_others(model: SAM2, items: list[Item]) -> None:
    """Each is scored on its own features."""
    named = dataclasses.replace(items[-1], name=items[0].name)
    one, other = (Trainer(model, items[:1], [held], QUICK) for held in (items[-1], named))
    other.features.get(items[0], items[0].keyframes[0])  # as a step does
    assert other.evaluate() == one.evaluate()


def test_photos_of_one_name_are_refused_where_features_are_kept(model: SAM2, items: list[Item]) -> None:
    twice = [items[0], dataclasses.replace(items[1], name=items[0].name)]
    with pytest.raises(ArgumentError, match=f"several photos have the name {items[0].name}"):
        Trainer(model, twice, (), QUICK)
    Trainer(model, twice, (), dataclasses.replace(QUICK, preset="lora"))


def test_early_stopping(model: SAM2, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    monkeypatch.setattr(Trainer, "evaluate", lambda self: {"iou_1": next(scores)})
    trainer = Trainer(model, items[:-1], items[-1:], dataclasses.replace(QUICK, steps=9, evaluate_every=1, patience=2))
    progress = trainer.run()
    assert (progress.step, progress.best_step, progress.best) == (3, 1, 0.5)


def test_a_callback_ends_the_run(model: SAM2, items: list[Item], tmp_path: Path) -> None:
    trainer = Trainer(model, items, (), QUICK, tmp_path)
    assert trainer.run(lambda event: event.step < 3).step == 3
    assert (tmp_path / FILE).is_file()


def test_a_loss_that_is_not_finite_names_its_sample(model: SAM2, items: list[Item]) -> None:
    trainer = Trainer(model, items, (), QUICK)
    name = "sam_mask_decoder.iou_token.weight"
    trainer.weights.masters[name] = trainer.weights.masters[name] * mx.array(float("nan"))
    with pytest.raises(TrainingError, match=r"step 1: the loss of cells_00\d is nan"):
        trainer.run()


def test_what_cannot_be_trained(model: SAM2, items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="nothing to train on"):
        Trainer(model, [])
    with pytest.raises(ArgumentError, match="photos"):
        Trainer(model, items, (), Arguments(preset="memory"))
    trained(model, items, tmp_path, steps=1, corrections=0)
    settings = dataclasses.replace(QUICK, steps=1, corrections=0)
    named = Trainer(model, items[:-1], items[-1:], settings, tmp_path, base="tiny")
    assert named.resume()  # a run of a model without a name
    named.save()
    with pytest.raises(ArgumentError, match="on the model tiny, this one is on small: give --model tiny"):
        Trainer(model, items[:-1], items[-1:], settings, tmp_path, base="small").resume()
    with pytest.raises(ArgumentError, match="other settings"):
        Trainer(model, items[:-1], items[-1:], dataclasses.replace(QUICK, steps=3), tmp_path).resume()


def test_gradients_of_two_processes_are_averaged_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    world = loop.World()
    assert (world.size, world.rank, world.mean(3)) == (1, 0, 3)
    world.size = 2
    monkeypatch.setattr(mx.distributed, "all_sum", lambda x, group=None: x * 2)  # both have the same
    masters = {"a": mx.zeros((2, 3)), "b": mx.zeros(4), "c": mx.zeros(1)}
    found = world.average({"a": mx.ones((2, 3)), "c": mx.array([5.0])}, masters)
    assert found.keys() == {"a", "c"}
    assert mx.array_equal(found["a"], mx.ones((2, 3))).item()
    assert found["c"].item() == 5


@pytest.mark.parametrize("preset", ["decoder", "lora"])
def test_a_step_can_be_compiled(preset: str, model: SAM2, items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as on a GPU. It is not run: MLX's CPU backend would start a C++ compiler for every chain, for minutes."""
    settings = dataclasses.replace(QUICK, preset=preset, corrections=1, augment=False)
    trainer = Trainer(model, items, (), settings)
    batch = trainer._batch(0)
    plain = trainer._gradient(batch, 0)
    monkeypatch.setattr(compiled, "compiles", lambda: True)
    traced = trainer._gradient(batch, 0)
    assert traced.gradients.keys() == plain.gradients.keys()
    assert all(traced.gradients[name].shape == value.shape for name, value in plain.gradients.items())
    monkeypatch.undo()
    assert mx.array_equal(trainer._gradient(batch, 0).total, plain.total).item()  # no traced array stays in the model

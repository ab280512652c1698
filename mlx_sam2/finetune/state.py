"""The state of a run on disk: everything that the next step depends on, in one file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from ..checkpoint.adapter import write_tensors
from ..formats import safetensors_file
from ..text import some
from .arguments import SOURCE, ArgumentError, Arguments

if TYPE_CHECKING:
    from .trainer import Trainer

FILE = "state.safetensors"


def save(folder: Path, trainer: Trainer) -> None:
    """Write the state; the one before is replaced when this one is complete."""
    tensors = {f"master.{name}": value for name, value in trainer.weights.masters.items()}
    tensors |= {f"average.{name}": value for name, value in trainer.average.items()}
    optimizer, counts = trainer.optimizer, trainer.optimizer.counts
    tensors |= {f"first.{name}": value for name, value in optimizer.first.items()}
    tensors |= {f"second.{name}": value for name, value in optimizer.second.items()}
    progress = trainer.progress
    about = {
        "base": trainer.base,
        "arguments": trainer.arguments.to_yaml(),
        "counts": json.dumps(counts),
        "items": json.dumps([len(trainer.items), len(trainer.held_out)]),
        "best": repr(progress.best),
        "place": json.dumps([progress.step, progress.best_step, progress.waited]),
    }
    write_tensors(folder / FILE, tensors, about)


def load(folder: Path, trainer: Trainer) -> bool:
    """Put a state into a trainer. False if there is none.

    Raises:
        ArgumentError: it is of a run with other settings or data.
        SafetensorsFileError: it is damaged.
    """
    if not (folder / FILE).is_file():
        return False
    tensors, about = safetensors_file.read(folder / FILE)
    try:
        settings = dict(line.split(": ", 1) for line in about["arguments"].splitlines())
        place, best, counts = json.loads(about["place"]), float(about["best"]), json.loads(about["counts"])
        items = json.loads(about["items"])
    except (KeyError, ValueError, IndexError) as error:
        raise ArgumentError(f"{folder / FILE} is damaged ({error}): remove it to start again") from None
    if (base := about.get("base")) and trainer.base and base != trainer.base:
        raise ArgumentError(
            f"{folder} holds a run on the model {base}, this one is on {trainer.base}: give --model {base}"
        )
    ours, defaults = (
        dict(line.split(": ", 1) for line in given.to_yaml().splitlines()) for given in (trainer.arguments, Arguments())
    )
    settings = defaults | settings  # those that are newer than the run
    differing = [
        f"{name} ({settings[name]} there, {ours[name]} here)"
        for name in ours
        if name not in SOURCE and settings[name] != ours[name]
    ]
    if differing:
        raise ArgumentError(
            f"{folder} holds a run with other settings: {some(differing)}; give the same, or another --output"
        )
    if items != [len(trainer.items), len(trainer.held_out)]:
        raise ArgumentError(f"{folder} holds a run on {items[0]} items, this one has {len(trainer.items)}")
    of = {kind: {} for kind in ("master", "average", "first", "second")}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        of[kind][name] = value
    if of["master"].keys() != trainer.weights.masters.keys():
        raise ArgumentError(f"{folder} holds a run on another model")
    mx.eval(of)  # the file may be replaced
    trainer.weights.masters = {name: of["master"][name] for name in trainer.weights.masters}
    trainer.average = {name: of["average"][name] for name in trainer.average}
    trainer.optimizer.first, trainer.optimizer.second = of["first"], of["second"]
    trainer.optimizer.counts = {name: int(count) for name, count in counts.items()}
    trainer.progress.step, trainer.progress.best_step, trainer.progress.waited = place
    trainer.progress.best = best
    for twin in (trainer.model, trainer.scored):
        trainer.weights.put(twin, trainer.weights.masters)
    return True

"""Doing what the command was asked for: check the data, train with progress, say what came of it."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mlx.core as mx

from .. import cli, machine
from ..checkpoint import loading
from ..datasets.checking import check
from ..datasets.items import Dataset, DatasetError, Item
from ..datasets.opening import open_dataset
from ..files import make_folder, write_text
from ..hub import download
from ..hub.download import check_model
from ..images.files import ImageError, check_output
from .arguments import PROG, ArgumentError, Arguments
from .log import Log
from .memory import count
from .preview import draw_preview
from .samples import trainable
from .steps import generator
from .trainer import Event, Trainer

if TYPE_CHECKING:
    from tqdm import tqdm

SETTINGS = "settings.yaml"
GIB = 2**30
# findings of the check that would end a run when it comes to the item
FATAL = ("cannot be read", "missing photo", "mask of another size", "damaged mask")
SPLIT = 9  # what is drawn to hold items out
SHOWN = ("iou_1", "iou_3", "iou_5", "jf", "j", "f")


def run(args: argparse.Namespace, settings: Arguments) -> int:
    """Run the command whose options were checked. Returns the exit code."""
    try:
        if args.preview is not None:
            check_output(args.preview, False, (".png",))
        items, held_out = _data(args, settings)
        if not args.check or args.preview:
            check_model(args.model, args.revision)
    except (cli.UsageError, DatasetError, ArgumentError, ImageError, OSError) as error:
        cli.complain(PROG, error)
        return cli.BAD_INPUT
    except (ValueError, RuntimeError) as error:
        return cli.fail(PROG, error)
    try:
        if args.preview is not None:
            draw_preview(args.preview, items, settings, _image_size(args))
            cli.say(f"{args.preview}: nine samples")
        if args.output is None or args.check:
            return 0
        return _train(args, settings, items, held_out)
    except ArgumentError as error:
        cli.complain(PROG, error)
        return cli.BAD_INPUT
    except (ValueError, RuntimeError, OSError) as error:  # HubError, TrainingError are RuntimeErrors
        return cli.fail(PROG, error)


def _data(args: argparse.Namespace, settings: Arguments) -> tuple[list[Item], list[Item]]:
    """Items to train on and items to evaluate on; what is in the data set is printed."""
    dataset = open_dataset(args.data, args.layout, split=args.split, images=args.images)
    report = check(dataset)
    for line in report.lines() if args.leads else ():
        cli.say(line)
    odd = {what: report.odd[what] for what in FATAL if what in report.odd}
    wrong = [f"{what} ({found.count}): {found.examples[0]}" for what, found in odd.items()]
    if wrong and not args.check:
        raise DatasetError(f"{args.data} cannot be trained on: {'; '.join(wrong)}: repair or remove what is named")
    if args.held_out is not None:
        return list(dataset), list(open_dataset(args.held_out))
    shown = [item for item in dataset if trainable(item, False)] if not wrong else []
    return split(shown or dataset, settings)


def split(dataset: Dataset | Sequence[Item], settings: Arguments) -> tuple[list[Item], list[Item]]:
    """Hold a share of the items out, at least one; the same ones for a seed."""
    items = list(dataset)
    count = max(1, round(settings.held_out * len(items))) if settings.held_out and len(items) > 1 else 0
    chosen = set(generator(settings.seed, SPLIT).permutation(len(items))[:count].tolist())
    return [x for i, x in enumerate(items) if i not in chosen], [x for i, x in enumerate(items) if i in chosen]


def _image_size(args: argparse.Namespace) -> int:
    found = loading.read(download.resolve(args.model, args.revision, None), None, args.weights_key)
    return (found.config or loading.recognise(found)).image_size


def _train(args: argparse.Namespace, settings: Arguments, items: list[Item], held_out: list[Item]) -> int:
    options = {"dtype": "float32", "revision": args.revision, **cli.weights_key(args)}
    model = loading.load(args.model, **options)
    trainer = Trainer(model, items, held_out, settings, args.output, base=args.model)
    first = trainer.world.rank == 0
    if first:
        make_folder(args.output)
    resumed = args.resume and trainer.resume()
    if first and not args.resume:
        write_text(args.output / SETTINGS, settings.to_yaml())
    log = [Log(args.output, trainer.progress.step)] if first else []
    if first:
        cli.say(_summary(trainer, resumed))
        cli.say(_memory(count(trainer).peak))
    progress = trainer.run(*log, _Bar(settings.steps, trainer.progress.step)) if first else trainer.run()
    if not first:
        return 0
    shutil.rmtree(args.output / "features", ignore_errors=True)
    peak = mx.get_peak_memory() / 2**20
    best = f", the best at step {progress.best_step}" if trainer.held_out else ""
    steps = f"{progress.step} step{'s' * (progress.step != 1)}"
    cli.say(f"{args.output}: {steps}{best}; peak memory {peak:,.0f} MiB; use it with --adapter {args.output}")
    return 0


def _summary(trainer: Trainer, resumed: bool) -> str:
    count = sum(value.size for value in trainer.weights.masters.values())
    what = ("clip" if trainer.video else "photo") + "s" * (len(trainer.items) != 1)
    start = f", from step {trainer.progress.step} on" if resumed else ""
    return (
        f"preset {trainer.arguments.preset}: {count / 1e6:,.2f} M weights, {len(trainer.items)} {what}, "
        f"{len(trainer.held_out)} held out{start}"
    )


def _memory(needed: int) -> str:
    """What the run will take, and whether the machine has it."""
    there = machine.memory_bytes()
    line = f"memory: about {needed / GIB:,.1f} GiB"
    if needed <= there:
        return line
    return (
        f"{line}, but this machine has {there / GIB:,.1f}: it may swap or stop; --set checkpoint=true, --set batch=1, "
        "fewer max_objects or num_frames, or --preset decoder take less"
    )


class _Bar:
    """A bar with the loss and the time left on a terminal; evaluations as lines."""

    def __init__(self, steps: int, start: int) -> None:
        from tqdm import tqdm

        self._bar: tqdm = tqdm(total=steps, initial=start, unit="step", disable=None)

    def __call__(self, event: Event) -> None:
        if event.kind == "step":
            self._bar.set_postfix(loss=f"{event.values['loss']:.3f}", refresh=False)
            self._bar.update()
        elif event.kind == "evaluation":
            scores = ", ".join(f"{name} {event.values[name]:.4f}" for name in SHOWN if name in event.values)
            self._bar.clear()
            cli.say(f"step {event.step}: {scores}")
        else:
            self._bar.close()

"""``python -m mlx_sam2.finetune DATA --output tuned``: train a model on masks of your own."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import cli
from ..cli import UsageError
from .arguments import PROG, SOURCE, Arguments

MODEL = "base_plus"
DESCRIPTION = "Fine-tune SAM 2 on photos or videos with masks, by the official recipe."
EPILOG = """\
DATA is a data set that python -m mlx_sam2.datasets reads: a COCO instances JSON, a folder of images and of masks, a
YOLO-seg folder, DAVIS, YouTube-VOS, MOSE or SA-V style videos. It is checked before a model is loaded.

Presets: decoder (mask decoder and prompt encoder; the image is encoded once and its features are kept), lora (adapters
in the image encoder, for videos in memory attention too, and the decoder), memory (for videos: memory attention, memory
encoder and decoder), full (everything; smaller rates towards the first layers).

OUTPUT becomes a folder: adapter.safetensors (what was learned, of the best evaluation), settings.yaml, log.jsonl,
curves.png, and state.safetensors, from which --resume goes on after any interruption, to the same result. Use it with
--adapter OUTPUT of segment, track, app and export, with mlx_sam2.load(..., adapter=OUTPUT), or fold it in:
  python -m mlx_sam2.convert --hf-path MODEL --merge-adapter OUTPUT --to official

--set NAME=VALUE sets what --settings holds; python -m mlx_sam2.finetune --show-settings lists all of them.

Exit code 0: done; 2: bad input; 1: failure; 130, 143: stopped by Ctrl-C, by SIGTERM.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog=PROG, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("data", metavar="DATA", nargs="?", help="the data set: a folder or a file of annotations")
    data = parser.add_argument_group("data")
    data.add_argument("--from", dest="layout", metavar="FORMAT", help="the layout of DATA, where it could be several")
    data.add_argument("--split", help="part of DATA, such as train")
    data.add_argument("--images", metavar="FOLDER", help="the folder of the photos, apart from the annotations")
    data.add_argument("--held-out", metavar="DATA", help="another data set to evaluate on; default: a share of DATA")
    data.add_argument("--preview", type=Path, metavar="PNG", help="a new picture: nine samples with their prompts")
    data.add_argument("--check", action="store_true", help="say what is in DATA and what is odd, and stop")
    model = parser.add_argument_group("model")
    model.add_argument("--model", help=f"as for the other commands; default: {MODEL}, with --resume that of the run")
    model.add_argument("--revision", help="branch, tag or commit of the Hub repository")
    cli.add_weights_key(model)
    run = parser.add_argument_group("run")
    run.add_argument("--output", type=Path, metavar="FOLDER", help="what to write; it must not exist")
    run.add_argument("--resume", action="store_true", help="go on with the run in --output, with its settings")
    run.add_argument("--preset", help="decoder, lora, memory or full; default: decoder")
    run.add_argument("--steps", type=cli.number(int, 1), metavar="N", help="updates of the weights; default: 500")
    run.add_argument("--settings", type=Path, metavar="YAML", help="a file of settings")
    run.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one setting (repeatable)")
    run.add_argument("--show-settings", action="store_true", help="print the settings as YAML, and stop")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    return cli.execute(build_parser(), argv, run)


def run(args: argparse.Namespace) -> int:
    args.leads = os.environ.get("MLX_RANK", "0") == "0"  # of several processes the first one writes and speaks
    try:
        if not args.show_settings:
            _check(args)
        settings = read_settings(args)
    except (UsageError, ValueError) as error:
        cli.complain(PROG, error)
        return cli.BAD_INPUT
    if args.show_settings:
        cli.say(settings.to_yaml().rstrip())
        return 0
    from . import run as work

    return work.run(args, settings)


def read_settings(args: argparse.Namespace) -> Arguments:
    """The settings of --settings (with --resume those of the run), changed by --set and the other options.

    Raises:
        ArgumentError: one is unknown or cannot be met.
    """
    file = args.settings
    if args.resume and args.output is not None and file is None:
        file = args.output / "settings.yaml"
    settings = Arguments() if file is None else Arguments.from_yaml(file)
    values: dict[str, Any] = dataclasses.asdict(settings) | _source(args, settings)
    for name, value in (("preset", args.preset), ("steps", args.steps)):
        values |= {} if value is None else {name: value}
    for text in args.set:
        name, found, value = text.partition("=")
        if not found:
            raise UsageError(f"--set {text}: give NAME=VALUE")
        values[name.strip().replace("-", "_")] = _value(value.strip())
    settings = Arguments.from_dict(values)
    for name in SOURCE:
        setattr(args, name, getattr(settings, name))
    return settings


def _source(args: argparse.Namespace, settings: Arguments) -> dict[str, str | None]:
    """What the run starts from: options before settings. A run that goes on does so with its own model only."""
    given = {name: getattr(args, name) for name in SOURCE if getattr(args, name) is not None}
    held = {name: getattr(settings, name) for name in SOURCE}
    other = [name for name, value in given.items() if value != held[name]]
    if args.resume and held["model"] is not None and other:
        name = other[0].replace("_", "-")
        raise UsageError(
            f"{args.output} holds a run of --{name} {held[other[0]]}, not {given[other[0]]}: leave out --{name}"
        )
    return {"model": MODEL} | {name: value for name, value in (held | given).items() if value is not None}


def _value(text: str) -> Any:
    """A number, true, false, none, or the text itself."""
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check(args: argparse.Namespace) -> None:
    """Refuse options that do not fit together, before anything is read."""
    if args.data is None:
        raise UsageError("give DATA, the data set to train on")
    if args.output is None:
        if not (args.check or args.preview):
            raise UsageError("give --output, a folder for what is learned")
        if args.resume:
            raise UsageError("--resume needs --output, the folder of the run")
        return
    if args.resume and not args.output.is_dir():
        raise UsageError(f"there is no run in {args.output} to go on with: leave out --resume")
    if args.leads and not args.resume and os.path.lexists(args.output):
        raise UsageError(f"{args.output} exists already: name another --output, or go on with --resume")


if __name__ == "__main__":
    sys.exit(main())

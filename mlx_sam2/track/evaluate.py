"""Semi-supervised evaluation on DAVIS: every sequence tracked from the masks of its first frame, and scored.

Settings are those of the official ``tools/vos_inference.py``: no post-processing (no hole filling), and every pixel
given to one object only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from .. import cli
from ..cli import UsageError
from ..datasets.davis import DavisSequence, SequenceScore, find_sequences, mean_scores, score_sequence
from ..files import write_text
from ..frames.sinks import PngSink
from ..frames.source import FolderSource
from .options import approximations
from .prompts import Item, gather
from .run import Plan, Progress, StopOnSignal, load_predictor, track_session, write_frames

RECORD = "results.json"  # in the output folder: the model, and J and F of the objects of each finished sequence


def run_davis(args: argparse.Namespace) -> int:
    """Track and score; returns the exit code.

    Raises:
        UsageError, VideoError: one line.
    """
    foreign = ("video", "point", "negative", "box", "mask", "prompts", "reference", "save_reference", "everything")
    foreign += ("every_nth", "fill", "start", "frames", "reverse", "overlay", "format")
    for name in foreign:
        value = getattr(args, name)
        if not (value is None or value is False or value == []):
            what = "VIDEO" if name == "video" else f"--{name}"
            raise UsageError(f"--davis takes frames and prompts from the data set: leave out {what}")
    if len(args.output) > 1:
        raise UsageError("--davis has one --output, the folder of all sequences")
    sequences = find_sequences(args.davis, args.sequences)
    out = Path(args.output[0] if args.output else f"{args.davis.resolve()}_masks")
    record = _open_record(args, out, [sequence.name for sequence in sequences])
    plans = {}
    names = {}
    for sequence in sequences:
        with FolderSource(sequence.frames) as source:
            names[sequence.name] = [source.frame_name(i) for i in range(source.num_frames)]
            if sequence.name not in record["sequences"] or not _is_complete(out / sequence.name, names[sequence.name]):
                plans[sequence.name] = _plan(sequence, source)
    predictor = load_predictor(args, apply_postprocessing=False, non_overlap_masks=True) if plans else None
    out.mkdir(parents=True, exist_ok=True)
    _write_record(out, record)
    scores: list[SequenceScore] = []
    for i, sequence in enumerate(sequences):
        if sequence.name in plans:
            stopped = _track(predictor, sequence, plans[sequence.name], out / sequence.name, args.memory)
            if stopped:
                print(
                    f"stopped in {sequence.name}, with {i} of {len(sequences)} sequences done; the same command goes on"
                    f"{' without --overwrite' if args.overwrite else ''}",
                    file=sys.stderr,
                )
                return 128 + stopped
        score = score_sequence(out / sequence.name, sequence.annotations, names[sequence.name])
        scores += [score] if score else []
        record["sequences"][sequence.name] = score and {obj: {"J": score.j[obj], "F": score.f[obj]} for obj in score.j}
        _write_record(out, record)
        cli.say(f"{sequence.name}: {_describe([score]) if score else 'no annotations to compare with'}")
    tracked = f"{len(plans)} of {len(sequences)} sequences tracked -> {out}"
    cli.say(f"{_describe(scores)}; {tracked}" if scores else tracked)
    return 0


def _plan(sequence: DavisSequence, source: FolderSource) -> Plan:
    first = sequence.annotations / f"{source.frame_name(0)}.png"
    prompts = gather([Item("mask", first, None, 0, str(first))], 0, source.num_frames, (source.height, source.width))
    return Plan(prompts, 0, source.num_frames, reverse=False)


def _is_complete(folder: Path, names: list[str]) -> bool:
    return all((folder / f"{name}.png").is_file() for name in names)


def _track(predictor: Any, sequence: DavisSequence, plan: Plan, folder: Path, memory: str) -> int:
    """Track one sequence from its beginning; returns the signal that stopped it, or 0."""
    with StopOnSignal() as stop, FolderSource(sequence.frames) as source:
        frames = track_session(predictor, source, plan, memory)
        with closing(frames), PngSink(folder, True, frame_name=source.frame_name) as sink:
            write_frames(frames, [sink], plan.count, Progress(), stop, sequence.name)
    return stop.signal


def _describe(scores: list[SequenceScore]) -> str:
    j, f, jf = mean_scores(scores)
    objects = sum(len(score.j) for score in scores)
    return f"J&F {jf:.3f}, J {j:.3f}, F {f:.3f} ({objects} object{'s' * (objects > 1)})"


# ---- the record


def _open_record(args: argparse.Namespace, out: Path, names: list[str]) -> dict[str, Any]:
    """The record in the output folder; with --overwrite, without the sequences `names`.

    Results of two models are not mixed, and a folder that holds other things is refused.
    """
    run = {"model": args.model, "revision": args.revision, "dtype": args.dtype}
    run |= cli.weights_key(args) | approximations(args)
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: results need a folder")
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{out} cannot be written: no permission to write in {place}")
    if not out.exists() or not any(out.iterdir()):
        return {**run, "sequences": {}}
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        before = {key: value for key, value in record.items() if key != "sequences"}
        before = {**{key: record[key] for key in ("model", "revision", "dtype")}, **before}
        finished = dict(record["sequences"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{out} holds something else than results of --davis: name another --output") from None
    if before != run and not args.overwrite:
        raise UsageError(
            f"{out} holds results of --model {before['model']}, --dtype {before['dtype']}: "
            "name another --output, or --overwrite"
        )
    kept = {name: score for name, score in finished.items() if before == run and not (args.overwrite and name in names)}
    return {**run, "sequences": kept}


def _write_record(out: Path, record: dict[str, Any]) -> None:
    write_text(out / RECORD, json.dumps(record, indent=1) + "\n")

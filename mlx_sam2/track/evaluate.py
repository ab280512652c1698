"""Semi-supervised evaluation: every video of a data set tracked from the first mask of each object, and scored.

Settings are those of the official ``tools/vos_inference.py``: no post-processing (no hole filling), and every pixel
given to one object only, but where the data set has a folder for each object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import cli
from ..cli import UsageError
from ..datasets.davis import SequenceScore, mean_scores
from ..files import write_text
from ..frames.sinks import PngSink
from ..frames.source import FrameSource
from ..text import shown
from .evaluation_sets import FORMATS, PER_OBJECT, EvaluationVideo, find_videos
from .options import approximations
from .prompts import ObjectPrompt
from .run import Plan, Progress, StopOnSignal, TrackedFrame, load_predictor, track_session, write_frames

if TYPE_CHECKING:
    from ..sam2_video_predictor import SAM2VideoPredictor

RECORD = "results.json"  # in the output folder: the model, J and F of the objects of each finished sequence, means


def run_evaluation(args: argparse.Namespace) -> int:
    """Track and score; returns the exit code.

    Raises:
        UsageError, VideoError: one line.
    """
    flag, format_name, root = _chosen(args)
    videos = find_videos(format_name, root, args.sequences)
    out = Path(args.output[0] if args.output else f"{root.resolve()}_masks")
    record = _open_record(args, out, flag, [video.name for video in videos])
    plans: dict[str, Plan] = {}
    names: dict[str, list[str]] = {}
    for video in videos:
        with video.open() as source:
            names[video.name] = [source.frame_name(i) for i in range(source.num_frames)]
            prompts = video.prompts(source)
            expected = _expected(out / video.name, names[video.name], prompts, format_name in PER_OBJECT)
            if video.name not in record["sequences"] or not all(path.is_file() for path in expected):
                plans[video.name] = Plan(prompts, 0, source.num_frames, reverse=False)
    options = {"apply_postprocessing": False, "non_overlap_masks": format_name not in PER_OBJECT}
    predictor = load_predictor(args, **options) if plans else None
    out.mkdir(parents=True, exist_ok=True)
    _write_record(out, record)
    scores: list[SequenceScore] = []
    tracked = 0
    for i, video in enumerate(videos):
        if video.name in plans:
            plan = plans.pop(video.name)
            stopped = _track(predictor, video, plan, out / video.name, args.memory, format_name in PER_OBJECT)
            if stopped:
                print(
                    f"stopped in {video.name}, with {i} of {len(videos)} sequences done; the same command goes on"
                    f"{' without --overwrite' if args.overwrite else ''}",
                    file=sys.stderr,
                )
                return 128 + stopped
            tracked += 1
        score = video.score(out / video.name, names[video.name])
        scores += [score] if score else []
        record["sequences"][video.name] = score and {obj: {"J": score.j[obj], "F": score.f[obj]} for obj in score.j}
        record["mean"] = scores and dict(zip(("J", "F", "J&F"), mean_scores(scores), strict=True))
        _write_record(out, record)
        cli.say(f"{video.name}: {_describe([score]) if score else 'no annotations to compare with'}")
    summary = f"{tracked} of {len(videos)} sequences tracked -> {out}"
    cli.say(f"{_describe(scores)}; {summary}" if scores else summary)
    return 0


def _chosen(args: argparse.Namespace) -> tuple[str, str, Path]:
    """The flag that asked for an evaluation, the data set's format, and its folder."""
    flag = "--davis" if args.davis is not None else "--dataset"
    foreign = ("video", "point", "negative", "box", "mask", "prompts", "reference", "save_reference", "everything")
    foreign += ("every_nth", "fill", "start", "frames", "reverse", "overlay", "format", "levels")
    for name in foreign:
        value = getattr(args, name)
        if not (value is None or value is False or value == []):
            what = "VIDEO" if name == "video" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} takes frames and prompts from the data set: leave out {what}")
    if args.davis is not None and args.dataset is not None:
        raise UsageError("--davis ROOT is --dataset davis ROOT: give one of the two")
    if len(args.output) > 1:
        raise UsageError(f"{flag} has one --output, the folder of all sequences")
    if args.davis is not None:
        return flag, "davis", args.davis
    format_name, root = args.dataset
    if format_name not in FORMATS:
        raise UsageError(f"--dataset {format_name}: the data set must be one of {', '.join(FORMATS)}")
    return flag, format_name, Path(root)


def _expected(folder: Path, names: list[str], prompts: list[ObjectPrompt], per_object: bool) -> list[Path]:
    """The files of a video that was tracked to its end."""
    folders = [folder / f"{prompt.object:03d}" for prompt in prompts] if per_object else [folder]
    return [place / f"{name}.png" for place in folders for name in names]


def _track(
    predictor: SAM2VideoPredictor, video: EvaluationVideo, plan: Plan, folder: Path, memory: str, per_object: bool
) -> int:
    """Track one video from its beginning; returns the signal that stopped it, or 0."""
    with StopOnSignal() as stop, video.open() as source:
        if all(prompt.frame == 0 for prompt in plan.prompts):
            frames = track_session(predictor, source, plan, memory)
        else:
            frames = track_as_they_appear(predictor, source, plan)
        names = {"per_object": per_object, "frame_name": source.frame_name}
        sink = PngSink(folder, True, **names, palette=video.palette())
        with closing(frames), sink:
            write_frames(frames, [sink], plan.count, Progress(), stop, video.name)
    return stop.signal


def track_as_they_appear(predictor: SAM2VideoPredictor, source: FrameSource, plan: Plan) -> Iterator[TrackedFrame]:
    """Track all frames; each object from the frame of its prompt on, and with an empty mask before."""
    with predictor.stream(source) as stream:
        for t, ids, logits in stream:
            for prompt in plan.prompts:
                if prompt.frame == t:
                    _, ids, logits = prompt.give(stream.add_new_mask, stream.add_new_points_or_box)
            nothing = np.zeros((source.height, source.width), bool)
            masks = {prompt.object: nothing for prompt in plan.prompts}
            masks |= dict(zip(ids, logits[:, 0] > 0, strict=True))
            yield TrackedFrame(t, stream.frame, masks, stream.state.scores(t), source.time(t))


def _describe(scores: list[SequenceScore]) -> str:
    j, f, jf = mean_scores(scores)
    objects = sum(len(score.j) for score in scores)
    return f"J&F {jf:.3f}, J {j:.3f}, F {f:.3f} ({objects} object{'s' * (objects > 1)})"


# ---- the record


def _open_record(args: argparse.Namespace, out: Path, flag: str, names: list[str]) -> dict[str, Any]:
    """The record in the output folder; with --overwrite, without the sequences `names`.

    Results of two models are not mixed, and a folder that holds other things is refused.
    """
    run = {"model": args.model, "revision": args.revision, "dtype": args.dtype}
    run |= cli.weights_key(args) | approximations(args)
    run |= {} if flag == "--davis" or args.dataset[0] == "davis" else {"dataset": args.dataset[0]}
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: results need a folder")
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    if not os.access(place, os.W_OK | os.X_OK):
        raise UsageError(f"{out} cannot be written: no permission to write in {place}")
    if not out.exists() or not any(out.iterdir()):
        return {**run, "sequences": {}}
    try:
        record = json.loads((out / RECORD).read_text(encoding="utf-8"))
        before = {key: value for key, value in record.items() if key not in ("sequences", "mean")}
        before = {**{key: record[key] for key in ("model", "revision", "dtype")}, **before}
        finished = dict(record["sequences"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{out} holds something else than results of {flag}: name another --output") from None
    if before != run and not args.overwrite:
        raise UsageError(f"{out} holds results {_other_options(before, run)}: name another --output, or --overwrite")
    kept = {name: score for name, score in finished.items() if before == run and not (args.overwrite and name in names)}
    return {**run, "sequences": kept}


def _other_options(before: dict[str, Any], run: dict[str, Any]) -> str:
    """The options of an earlier run that are not those of this one, beside its model."""
    others = [name for name in {**before, **run} if name != "model" and before.get(name) != run.get(name)]
    described = [f"of --model {shown(str(before['model']))}"]
    for name in others:
        option, value = f"--{shown(name, 40).replace('_', '-')}", before.get(name)
        described.append(f"without {option}" if value is None else f"with {option} {shown(str(value))}")
    return ", ".join(described)


def _write_record(out: Path, record: dict[str, Any]) -> None:
    write_text(out / RECORD, json.dumps(record, indent=1) + "\n")

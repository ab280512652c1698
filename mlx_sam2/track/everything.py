"""``track --everything``: running it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .. import cli
from ..cli import UsageError
from ..masks.scores import ObjectScores
from .cutouts import names
from .options import FOLLOW, MAX_OBJECT
from .prompts import ObjectPrompt
from .references import ObjectFile, save_references
from .run import Plan, Progress, TrackedFrame, give_prompts, is_live

if TYPE_CHECKING:
    from ..frames.source import FrameSource
    from ..sam2_video_predictor import SAM2VideoPredictor


def refuse_numbers(args: argparse.Namespace, prompts: Sequence[ObjectPrompt | ObjectFile]) -> None:
    """Refuse prompts for objects with numbers above --max-objects."""
    limit = _limit(args)
    highest = max((prompt.object for prompt in prompts), default=0)
    if args.everything and highest > limit:
        raise UsageError(
            f"object {highest} has a prompt, but objects are numbered up to {limit}: "
            f"give --max-objects from {highest} to {MAX_OBJECT}, or leave out --everything"
        )


def _limit(args: argparse.Namespace) -> int:
    default = next(default for _, name, _, default, _ in FOLLOW if name == "max_objects")
    return default if args.max_objects is None else args.max_objects


def _given(args: argparse.Namespace, options: cli.Options) -> dict[str, Any]:
    return {name: getattr(args, name) for _, name, *_ in options if getattr(args, name) is not None}


def track_all(
    predictor: SAM2VideoPredictor, source: FrameSource, plan: Plan, args: argparse.Namespace, progress: Progress
) -> Iterator[TrackedFrame]:
    """Follow prompted objects and everything else. ``progress.note`` says what the user should know."""
    from ..automatic_mask_generator import SAM2AutomaticMaskGenerator
    from ..track_everything import track_everything

    generator = SAM2AutomaticMaskGenerator(
        predictor.model, output_mode="uncompressed_rle", **_given(args, cli.MASK_OPTIONS)
    )
    follow = {**_given(args, FOLLOW), "count": plan.count}
    with predictor.stream(source) if is_live(source) else predictor.init_state(source, memory=args.memory) as video:
        if not is_live(source):
            give_prompts(predictor, video, plan)
            save_references(predictor, video, plan.to_save, plan.overwrite)
            follow["start"] = plan.start
        progress.note = "; nothing was found: lower --pred-iou or --stability"
        for frame in track_everything(predictor, video, generator, **follow):
            if frame.masks:
                progress.note = progress.note if progress.note.startswith("; more") else ""
            elif args.every == 0 and not progress.count:
                raise UsageError(
                    f"nothing was found on frame {frame.index}: lower --pred-iou or --stability, or begin on another "
                    "frame with --start"
                )
            progress.highest = max([progress.highest, *frame.new])
            if frame.left_out:
                progress.note = f"; more were found than --max-objects {_limit(args)}"
            scores = {n: ObjectScores(score, frame.predicted_ious[n]) for n, score in frame.scores.items()}
            time = source.time(frame.index)
            low_res = (video.state if is_live(source) else video).low_res(frame.index) if names(args) else {}
            yield TrackedFrame(frame.index, frame.pixels, frame.masks, scores, time, logits=low_res)

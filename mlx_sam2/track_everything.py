"""Follow everything in a video: objects from the automatic masks of a frame, and new objects as they appear."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from . import masks
from .automatic_mask_generator import SAM2AutomaticMaskGenerator
from .sam2_video_predictor import SAM2VideoPredictor
from .video.prompts import mask_prompts
from .video.state import Masks, Proposal, VideoState
from .video.stream import VideoStream

EVERY, MAX_OBJECTS, MERGE_IOU = 30, 40, 0.5  # defaults


@dataclass(frozen=True)
class EverythingFrame:
    """The objects on one frame."""

    index: int
    pixels: np.ndarray  # (H, W, 3) uint8
    masks: dict[Any, np.ndarray]  # (H, W) bool by object
    scores: dict[Any, float]  # presence, a logit, above 0 where the object is seen
    new: list[int] = field(default_factory=list)  # objects found on this frame
    merged: dict[int, Any] = field(default_factory=dict)  # objects given up on this frame -> the same earlier object
    left_out: int = 0  # masks of this frame that would be new objects beyond ``max_objects``
    predicted_ious: dict[Any, float] = field(default_factory=dict)  # of the masks with the true ones, 0..1


def track_everything(
    predictor: SAM2VideoPredictor,
    video: Any,
    generator: SAM2AutomaticMaskGenerator | None = None,
    *,
    every: int = EVERY,
    start: int = 0,
    count: int | None = None,
    max_objects: int = MAX_OBJECTS,
    merge_iou: float = MERGE_IOU,
    number_from: int = 1,
) -> Iterator[EverythingFrame]:
    """Find all objects on a frame, follow them, and look for new ones from time to time.

    A *look* is at the first frame, unless the session has objects there already, and at every frame whose number is a
    multiple of ``every``. Its automatic masks become objects, unless their IoU with the mask of an object there, or
    with a better new one, is above ``merge_iou``.
    If two objects found by looks have come to have the same mask, the later one is given up. Objects are numbered in
    the order in which they are found, those of one look from the smallest to the largest. No number is given twice.

    Args:
        predictor: gives the model and the options of tracking.
        video: anything that ``init_state`` takes; a session whose objects are to be followed too; or a ``VideoStream``.
        generator: finds the masks of a look; None makes one of the predictor's model and the default thresholds.
        every: frames from one look to the next; 0 looks at the first frame only, whatever is there.
        start: the first frame of a video or session.
        count: how many frames; None goes on to the end.
        max_objects: the highest number of an object; it bounds time and memory.
        merge_iou: masks of a higher IoU are the same object.
        number_from: number of the first object found, unless an object has this number or a higher one already.

    Yields:
        ``EverythingFrame`` for each frame; without objects where none has been found yet.

    Raises:
        ValueError: for an argument that cannot be used.
    """
    whole = [("every", every, 0), ("start", start, 0), ("max_objects", max_objects, 1), ("number_from", number_from, 1)]
    for name, value, least in whole:
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name}={value!r}: it must be a whole number from {least} up")
    if not 0 < merge_iou <= 1:
        raise ValueError(f"merge_iou={merge_iou!r}: it must be above 0, and 1 at most")
    if isinstance(video, VideoStream) and start:
        raise ValueError("a stream begins with the frame that comes next; leave out start")
    if generator is None:
        generator = SAM2AutomaticMaskGenerator(predictor.model, output_mode="uncompressed_rle")
    return _run(predictor, _Follower(generator, every, max_objects, merge_iou, number_from), video, start, count)


def _run(
    predictor: SAM2VideoPredictor, follower: _Follower, video: Any, start: int, count: int | None
) -> Iterator[EverythingFrame]:
    if isinstance(video, VideoStream):
        yield from follower.run(video.state, islice(video, count))
        return
    state = video if isinstance(video, VideoState) else predictor.init_state(video)
    try:
        state.require_frame(start)
        yield from follower.run(state, _steps(state, start, count))
    finally:
        if state is not video:
            state.close()


def _steps(state: VideoState, start: int, count: int | None) -> Iterator[Masks]:
    """Go frame by frame through a session. Objects may come and go between two frames."""
    stop = state.num_frames if count is None else min(start + count, state.num_frames)
    with state.looking_ahead(range(start, stop)):
        for t in range(start, stop):
            yield state.step(t)


class _Follower:
    """Follows objects, and looks for more."""

    def __init__(
        self,
        generator: SAM2AutomaticMaskGenerator,
        every: int,
        max_objects: int,
        merge_iou: float,
        number_from: int,
    ) -> None:
        self.generator = generator
        self.every = every
        self.max_objects = max_objects
        self.merge_iou = merge_iou
        self.latest = number_from - 1  # the highest number so far
        self.found: set[int] = set()  # by looks; other objects are the user's, and never given up

    def run(self, state: VideoState, steps: Iterator[Masks]) -> Iterator[EverythingFrame]:
        for n, (t, obj_ids, logits) in enumerate(steps):
            seen = dict(zip(obj_ids, logits[:, 0] > 0, strict=True))
            pixels = state.source[t]
            new, merged, left_out = [], {}, 0
            if (t % self.every == 0 or (n == 0 and not seen)) if self.every else n == 0:
                rles = {obj_id: masks.mask_to_rle(mask, compressed=False) for obj_id, mask in seen.items()}
                merged = self._duplicates(rles)
                for obj_id in merged:
                    state.remove(obj_id)
                    del seen[obj_id]
                unknown = self._unknown(pixels, [rles[obj_id] for obj_id in seen])
                started, left_out = self._start(state, t, unknown)
                new, seen = list(started), {**seen, **started}
            found = {obj_id: score for obj_id, score in state.scores(t).items() if obj_id in seen}
            scores = {obj_id: score.object_score for obj_id, score in found.items()}
            ious = {obj_id: score.predicted_iou for obj_id, score in found.items()}
            yield EverythingFrame(t, pixels, seen, scores, new, merged, left_out, ious)

    def _duplicates(self, rles: Mapping[Any, Any]) -> dict[int, Any]:
        """Objects found by looks whose mask has become an earlier object's -> that earlier object."""
        ids = list(rles)
        same = masks.mask_iou(list(rles.values()), list(rles.values())) > self.merge_iou
        merged: dict[int, Any] = {}
        for j, obj_id in enumerate(ids):
            earlier = [other for i, other in enumerate(ids[:j]) if same[i, j] and other not in merged]
            if earlier and obj_id in self.found:
                merged[obj_id] = earlier[0]
        return merged

    def _unknown(self, pixels: np.ndarray, known: list[Any]) -> list[np.ndarray]:
        """The automatic masks of a frame that no known mask equals, nor a better one of them: (H, W) bool."""
        found = [record["segmentation"] for record in self.generator.generate(pixels)]
        same = masks.mask_iou(found, [*known, *found]) > self.merge_iou
        chosen: list[int] = []
        for i in range(len(found)):
            others = [*range(len(known)), *(len(known) + j for j in chosen)]
            if not same[i, others].any():
                chosen.append(i)
        return [m if isinstance(m, np.ndarray) else masks.rle_to_mask(m) for m in (found[i] for i in chosen)]

    def _start(self, state: VideoState, t: int, unknown: list[np.ndarray]) -> tuple[dict[int, np.ndarray], int]:
        """Make objects of masks, best first, while there is room. The tracker must see a mask: tiny ones are dropped.

        Returns:
            The masks as the tracker has them, by object number, and how many masks found no room.
        """
        self.latest = max([self.latest, *(int(i) for i in state.tracks if isinstance(i, (int, np.integer)))])
        room = max(self.max_objects - self.latest, 0)
        started: list[Proposal] = []
        left_out = 0
        for mask in unknown:
            if len(started) == room:
                left_out += 1
                continue
            proposal = state.propose(t, mask_prompts(mask, state.tracker.config.image_size))
            if proposal.mask.any():
                started.append(proposal)
        started.sort(key=lambda proposal: np.count_nonzero(proposal.mask))
        numbered = {self.latest + i: proposal for i, proposal in enumerate(started, start=1)}
        for number, proposal in numbered.items():
            state.adopt(number, proposal)
        self.latest += len(numbered)
        self.found |= numbered.keys()
        return {number: proposal.mask for number, proposal in numbered.items()}, left_out

"""One frame of tracking: answer a prompt, find objects from their memories, encode memories.

Official ``SAM2Base.track_step`` and ``SAM2VideoPredictor._run_single_frame_inference``, for several objects at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from .. import masks
from ..config.sam2 import SAM2Config
from ..images.preprocess import preprocess_frame
from ..model import compiled
from ..model.results import ImageFeatures, ObjectPrediction
from ..model.sam2 import SAM2
from .approximations import Approximations
from .memory_bank import ObjectTrack, Recall
from .policies import decoding, memory_policy
from .policies.decoding import Decision, Place
from .policies.official import BACKWARD, EITHER, FORWARD, Choice, Official, Review
from .prompts import Prompts
from .result_store import FrameResult

PREVIOUS_CLAMP = 32.0  # of logits fed back as a mask prompt
HOLE_LOGIT = 0.1  # what a filled hole becomes
MAX_SCORES = 1 << 28  # attention scores of one batch of objects: more would need gigabytes
CPU_SHARE = 4  # on a CPU so many times fewer: a batch beyond its caches is slower than its objects one by one


class Recalled(NamedTuple):
    """The memories of B objects as ``SAM2.attend_memory`` takes them, padded to equal counts."""

    memories: mx.array  # (B, T, *config.memory_shape)
    times: mx.array  # (B, T) int, rows of maskmem_tpos_enc
    pointers: mx.array | None  # (B, P, C)
    pointer_times: mx.array | None  # (B, P) float32
    present: mx.array | None  # (B, T + P) bool, False for padding; None if there is none


class Tracked(NamedTuple):
    """What was found of an object on a frame."""

    result: FrameResult
    anchor: FrameResult | None = None  # if the memory policy keeps the frame for good: encoded as if prompted


class Tracker:
    """Runs the model on single frames. It holds no state of a video.

    Args:
        model: the model; its configuration says how memories are recalled.
        fill_hole_area: holes of at most this many low-resolution pixels are filled in every mask; 0 for none.
        options: approximations; None for none.
        policy: which mask is taken, what is remembered and recalled.

    Raises:
        ValueError: for options or a policy that do not fit the model.
    """

    def __init__(
        self,
        model: SAM2,
        fill_hole_area: int,
        options: Approximations | None = None,
        policy: str | Official = "official",
    ) -> None:
        self.fill_hole_area = fill_hole_area
        self.options = Approximations() if options is None else options
        self.policy = memory_policy(policy, model.config)
        self.use(model)

    def use(self, model: SAM2) -> None:
        """Take a model, also in the place of another one, with other options. ValueError as the constructor."""
        self.options.check(model.config)
        self.model = model
        self.config = model.config

    def encode(self, frame: np.ndarray) -> ImageFeatures:
        """Features of a frame, (H, W, 3) uint8."""
        features = self.queue(self.preprocess(frame))
        mx.eval(features.arrays())
        return features

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """The model's input for a frame, (1, S, S, 3) float32."""
        return preprocess_frame(frame, self.config.image_size)

    def queue(self, pixels: np.ndarray) -> ImageFeatures:
        """Features of a preprocessed frame; their computation is under way when this returns."""
        features = self.model.encode_image(mx.array(pixels))
        mx.async_eval(features.arrays())
        return features

    # ---- prompted frames

    def prompt(
        self,
        features: ImageFeatures,
        track: ObjectTrack,
        prompt: Prompts,
        frame_idx: int,
        *,
        reverse: bool | None,
        num_frames: int | None,
        previous: np.ndarray | None = None,
    ) -> FrameResult:
        """Answer a prompt. The result holds no memory yet: ``commit`` encodes it when the user is done.

        Args:
            reverse: direction of the propagation that has passed this frame; None for a first look at it, which
                runs without memory.
            previous: (4h, 4w) logits of the object on this frame so far, refined by points.
        """
        edited = track.pending.get(frame_idx) or track.pending_tracked.get(frame_idx)
        unchanged = None if edited is None or edited.notes is None else Choice(0, edited.notes)
        if prompt.mask is not None and self.config.use_mask_input_as_output_without_sam:
            mask = mx.array(prompt.mask[None, :, :, None], mx.float32)
            prediction = self.model.predict_from_mask(features, mask, self.policy.presence)
            return self._started(prediction, [None], [unchanged])()[0]
        if reverse is None and self.config.num_maskmem > 0:
            embedding = self.model.add_no_memory(features.embedding)
        else:
            embedding = self._attend(features, [self._recall(track, frame_idx, bool(reverse), num_frames)])
        points = labels = mask = None
        if prompt.mask is not None:
            mask = self.model.fit_mask_prompt(mx.array(prompt.mask[None, :, :, None], mx.float32))
        else:
            points, labels = mx.array(prompt.points[None]), mx.array(prompt.labels[None])
            if previous is not None:
                mask = mx.clip(mx.array(previous), -PREVIOUS_CLAMP, PREVIOUS_CLAMP)[None, :, :, None]
        num_points = 0 if prompt.labels is None else len(prompt.labels)
        multimask = self._use_multimask(reverse is None, num_points)
        found = self.model.candidates(embedding, features.high_res, points, labels, mask, multimask)
        if not (multimask and self.policy.chooses):
            return self._started(self.model.choose(found, self.policy.presence), [None], [unchanged])()[0]
        before = track.notes_before(frame_idx, bool(reverse)) if unchanged is None else unchanged.notes
        direction = BACKWARD if reverse else EITHER if reverse is None and before is None else FORWARD
        decision = decoding.decide(self.policy, found, [before], direction, self.config.image_size)
        prediction, _ = decision.carried_out(self.model, features.embedding, self.policy.presence, remember=False)
        return self._started(prediction, [None], decision.choices)()[0]

    def commit(self, features: ImageFeatures, result: FrameResult) -> FrameResult:
        """Encode the mask of a prompted frame as a memory."""
        mask = mx.array(result.low_res_mask)[None, :, :, None]
        score = mx.array([[result.object_score]], mx.float32)
        memory = None
        if self.config.num_maskmem > 0:
            binarize = self.config.binarize_mask_from_pts_for_mem_enc
            memory = self.model.remember(features.embedding, mask, score, binarize)[0]
            mx.eval(memory)
        return replace(result, features=memory)

    def _use_multimask(self, first_look: bool, num_points: int) -> bool:
        config = self.config
        allowed = config.multimask_output_in_sam and (first_look or config.multimask_output_for_tracking)
        most = self.policy.multimask_max_points or config.multimask_max_pt_num
        return allowed and config.multimask_min_pt_num <= num_points <= most

    # ---- tracked frames

    def track(
        self,
        features: ImageFeatures,
        tracks: Sequence[ObjectTrack],
        frame_idx: int,
        *,
        reverse: bool,
        num_frames: int | None,
        memories: Sequence[mx.array] | None = None,
        meanwhile: Callable[[], None] | None = None,
        video_size: tuple[int, int] | None = None,
    ) -> list[Tracked]:
        """Find objects on a frame from their memories, and encode what was found.

        Objects whose memories have equal shapes go through memory attention, decoder and memory encoder as one batch.

        Args:
            memories: ``config.memory_shape`` of each object; if given, they are kept here and none is encoded.
            meanwhile: called once, after the last batch is queued and before its results are read.
            video_size: (height, width) of the video; policies that review results need it.
        """
        place = Place(frame_idx, BACKWARD if reverse else FORWARD)
        recalls = [self._recall(track, frame_idx, reverse, num_frames) for track in tracks]
        remember = memories is None and self.config.num_maskmem > 0
        results: dict[int, Tracked] = {}
        batches = self._batches(recalls)
        for batch in batches:
            recalled = [recalls[i] for i in batch]
            prediction, memory, decision = self._run(features, recalled, [tracks[i] for i in batch], place, remember)
            rows = list(memory) if memory is not None else [None if memories is None else memories[i] for i in batch]
            ready = self._started(prediction, rows, None if decision is None else decision.choices)
            if meanwhile is not None and batch is batches[-1]:
                meanwhile()
            made = ready()
            if decision is not None and self.policy.reviews:
                reviews = decision.reviews(self.policy, made, place, video_size)
                results.update(zip(batch, map(partial(self._reviewed, features), made, reviews), strict=True))
            else:
                results.update(zip(batch, map(Tracked, made), strict=True))
        return [results[i] for i in range(len(tracks))]

    def _reviewed(self, features: ImageFeatures, result: FrameResult, review: Review) -> Tracked:
        result = replace(result, notes=review.notes)
        return Tracked(result, self.commit(features, result) if review.keep else None)

    def _recall(self, track: ObjectTrack, frame_idx: int, reverse: bool, num_frames: int | None) -> Recall:
        return self.policy.recall(track, frame_idx, reverse, num_frames, self.config, self.options.max_memories)

    def _batches(self, recalls: Sequence[Recall]) -> list[list[int]]:
        """Indices of recalls that can share one batch."""

        def shape(i: int) -> tuple[int, int]:
            return _padded(recalls[i], self.config)

        most = MAX_SCORES // (CPU_SHARE if mx.default_device().type == mx.cpu else 1)
        batches = []
        for (num_memories, _), group in groupby(sorted(range(len(recalls)), key=shape), key=shape):
            cells, tokens = self.config.embedding_size**2, math.prod(self.config.memory_shape[:-1])
            size = max(most // (cells * tokens * max(num_memories, 1)), 1)
            members = list(group)
            batches += [members[i : i + size] for i in range(0, len(members), size)]
        return batches

    def _run(
        self,
        features: ImageFeatures,
        recalls: Sequence[Recall],
        tracks: Sequence[ObjectTrack],
        place: Place,
        remember: bool,
    ) -> tuple[ObjectPrediction, mx.array | None, Decision | None]:
        multimask = self._use_multimask(False, 0)
        if self.config.num_maskmem == 0:
            embedding = mx.repeat(features.embedding, len(recalls), axis=0)
            return self.model.predict_object(embedding, features.high_res, multimask=multimask), None, None
        recalled = self._recalled(recalls)
        if not self.policy.chooses:
            return *self.model.track(features, *recalled, multimask, self.options.memory_pooling, remember), None
        found = decoding.find(self.model, features, (*recalled, self.options.memory_pooling), multimask)
        before = [track.notes_before(place.frame_idx, place.direction == BACKWARD) for track in tracks]
        decision = decoding.decide(self.policy, found, before, place.direction, self.config.image_size)
        return *decision.carried_out(self.model, features.embedding, self.policy.presence, remember), decision

    def _attend(self, features: ImageFeatures, recalls: Sequence[Recall]) -> mx.array:
        """Features conditioned on the memories of B objects, (B, h, w, C)."""
        if self.config.num_maskmem == 0:
            return mx.repeat(features.embedding, len(recalls), axis=0)
        return self.model.attend_memory(features.embedding, *self._recalled(recalls), self.options.memory_pooling)

    def _recalled(self, recalls: Sequence[Recall]) -> Recalled:
        """Stack the memories of B objects, with padding where one has fewer than another."""
        count, num_pointers = max(_padded(recall, self.config) for recall in recalls)
        nothing = mx.zeros_like(recalls[0].memories[0].features)
        memories = [m for r in recalls for m in _filled([m.features for m in r.memories], count, nothing)]
        times = mx.array([_filled(r.time_indices, count, 0) for r in recalls])
        present = [
            [i < len(r.memories) for i in range(count)] + [i < len(r.pointers) for i in range(num_pointers)]
            for r in recalls
        ]
        pointers = pointer_times = None
        if num_pointers:
            blank = mx.zeros_like(recalls[0].memories[0].pointer)
            pointers = mx.stack(
                [p for r in recalls for p in _filled([p.pointer for p in r.pointers], num_pointers, blank)]
            )
            pointers = pointers.reshape(len(recalls), num_pointers, -1)
            pointer_times = mx.array([_filled(r.pointer_times, num_pointers, 0.0) for r in recalls], mx.float32)
        memories = mx.stack(memories).reshape(len(recalls), count, *nothing.shape)
        return Recalled(memories, times, pointers, pointer_times, None if all(map(all, present)) else mx.array(present))

    def _started(
        self,
        prediction: ObjectPrediction,
        memories: Sequence[mx.array | None],
        choices: Sequence[Choice | None] | None = None,
    ) -> Callable[[], list[FrameResult]]:
        """Start computing the results of B objects; returns a function that waits for them."""
        low_res, score, pointers = prediction.low_res_mask[..., 0], prediction.object_score, list(prediction.pointer)
        iou = prediction.ious.max(axis=1)  # of several the mask with the highest one was chosen
        # the rows now, or each would wait for what is queued later, and keep the graph of its frame alive
        mx.async_eval(low_res, score, iou, pointers, [m for m in memories if m is not None])

        def wait() -> list[FrameResult]:
            masks_, scores, ious = np.array(low_res), np.array(score)[:, 0].tolist(), np.array(iou).tolist()
            if self.policy.fills_holes and self.fill_hole_area > 0:
                masks_ = masks.fill_holes(masks_, self.fill_hole_area, HOLE_LOGIT)
            made = [Choice(0) if choice is None else choice for choice in choices or [None] * len(scores)]
            fit = map(self.policy.may_recall, masks_, ious, scores, [choice.motion for choice in made])
            notes = [choice.notes for choice in made]
            rows = zip(masks_, pointers, scores, memories, ious, fit, notes, strict=True)
            return [FrameResult(*row) for row in rows]

        return wait


def _padded(recall: Recall, config: SAM2Config) -> tuple[int, int]:
    """Counts of memories and pointers in a batch.

    MLX keeps a compiled graph for each shape, so compiled models use only a few counts; attention skips the padding.
    """
    counts = len(recall.memories), len(recall.pointers)
    if not compiled.compiles():
        return counts
    return _rounded(counts[0], config.num_maskmem), _rounded(counts[1], config.max_obj_ptrs_in_encoder)


def _rounded(count: int, full: int) -> int:
    """The next of 0, 1, 2, 4, ... up to ``full``; beyond, the next in steps of a third of that."""
    if count > full:
        step = max(full // 3, 1)
        return full + -(-(count - full) // step) * step
    return min(1 << (count - 1).bit_length(), full) if count else 0


def _filled(values: Sequence[Any], count: int, filling: Any) -> list[Any]:
    return [*values, *[filling] * (count - len(values))]

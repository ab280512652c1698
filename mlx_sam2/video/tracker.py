"""One frame of tracking: answer a prompt, find objects from their memories, encode memories.

Official ``SAM2Base.track_step`` and ``SAM2VideoPredictor._run_single_frame_inference``, for several objects at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from .. import masks
from ..config.sam2 import SAM2Config
from ..images.preprocess import preprocess_frame
from ..model import compiled
from ..model.resize import resize_bilinear
from ..model.results import ImageFeatures, ObjectPrediction
from ..model.sam2 import NO_OBJECT_LOGIT, SAM2
from .approximations import Approximations
from .memory_bank import FrameResult, ObjectTrack, Recall
from .prompts import Prompts

PREVIOUS_CLAMP = 32.0  # of logits fed back as a mask prompt
HOLE_LOGIT = 0.1  # what a filled hole becomes
NON_OVERLAP_LOGIT = -10.0  # upper bound of an object's logits where another one wins
MAX_SCORES = 1 << 28  # attention scores of one batch of objects: more would need gigabytes
CPU_SHARE = 4  # on a CPU so many times fewer: a batch beyond its caches is slower than its objects one by one


class Recalled(NamedTuple):
    """The memories of B objects as ``SAM2.attend_memory`` takes them, padded to equal counts."""

    memories: mx.array  # (B, T, *config.memory_shape)
    times: mx.array  # (B, T) int, rows of maskmem_tpos_enc
    pointers: mx.array | None  # (B, P, C)
    pointer_times: mx.array | None  # (B, P) float32
    present: mx.array | None  # (B, T + P) bool, False for padding; None if there is none


class Tracker:
    """Runs the model on single frames. It holds no state of a video.

    Args:
        model: the model; its configuration says how memories are recalled.
        fill_hole_area: holes of at most this many low-resolution pixels are filled in every mask; 0 for none.
        options: approximations; None for none.

    Raises:
        ValueError: for options that do not fit the model.
    """

    def __init__(self, model: SAM2, fill_hole_area: int, options: Approximations | None = None) -> None:
        self.fill_hole_area = fill_hole_area
        self.options = Approximations() if options is None else options
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
        if prompt.mask is not None and self.config.use_mask_input_as_output_without_sam:
            prediction = self.model.predict_from_mask(features, mx.array(prompt.mask[None, :, :, None], mx.float32))
            return self._started(prediction, [None])()[0]
        if reverse is None and self.config.num_maskmem > 0:
            embedding = self.model.add_no_memory(features.embedding)
        else:
            limit = self.options.max_memories
            recall = track.recall(frame_idx, bool(reverse), num_frames, self.config, limit)
            embedding = self._attend(features, [recall])
        points = labels = mask = None
        if prompt.mask is not None:
            mask = self.model.fit_mask_prompt(mx.array(prompt.mask[None, :, :, None], mx.float32))
        else:
            points, labels = mx.array(prompt.points[None]), mx.array(prompt.labels[None])
            if previous is not None:
                mask = mx.clip(mx.array(previous), -PREVIOUS_CLAMP, PREVIOUS_CLAMP)[None, :, :, None]
        num_points = 0 if prompt.labels is None else len(prompt.labels)
        multimask = self._use_multimask(reverse is None, num_points)
        prediction = self.model.predict_object(embedding, features.high_res, points, labels, mask, multimask)
        return self._started(prediction, [None])()[0]

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
        return allowed and config.multimask_min_pt_num <= num_points <= config.multimask_max_pt_num

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
    ) -> list[FrameResult]:
        """Find objects on a frame from their memories, and encode what was found.

        Objects whose memories have equal shapes go through memory attention, decoder and memory encoder as one batch.

        Args:
            memories: ``config.memory_shape`` of each object; if given, they are kept here and none is encoded.
            meanwhile: called once, after the last batch is queued and before its results are read.
        """
        recalls = [
            track.recall(frame_idx, reverse, num_frames, self.config, self.options.max_memories) for track in tracks
        ]
        results: dict[int, FrameResult] = {}
        batches = self._batches(recalls)
        for batch in batches:
            remember = memories is None and self.config.num_maskmem > 0
            prediction, memory = self._run(features, [recalls[i] for i in batch], remember)
            rows = list(memory) if memory is not None else [None if memories is None else memories[i] for i in batch]
            ready = self._started(prediction, rows)
            if meanwhile is not None and batch is batches[-1]:
                meanwhile()
            results.update(zip(batch, ready(), strict=True))
        return [results[i] for i in range(len(tracks))]

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
        self, features: ImageFeatures, recalls: Sequence[Recall], remember: bool
    ) -> tuple[ObjectPrediction, mx.array | None]:
        multimask = self._use_multimask(False, 0)
        if self.config.num_maskmem == 0:
            embedding = mx.repeat(features.embedding, len(recalls), axis=0)
            return self.model.predict_object(embedding, features.high_res, multimask=multimask), None
        recalled = self._recalled(recalls)
        return self.model.track(features, *recalled, multimask, self.options.memory_pooling, remember)

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
        self, prediction: ObjectPrediction, memories: Sequence[mx.array | None]
    ) -> Callable[[], list[FrameResult]]:
        """Start computing the results of B objects; returns a function that waits for them."""
        low_res, score, pointers = prediction.low_res_mask[..., 0], prediction.object_score, list(prediction.pointer)
        iou = prediction.ious.max(axis=1)  # the mask with the highest one was chosen
        # the rows now, or each would wait for what is queued later, and keep the graph of its frame alive
        mx.async_eval(low_res, score, iou, pointers, [m for m in memories if m is not None])

        def wait() -> list[FrameResult]:
            masks_, scores, ious = np.array(low_res), np.array(score)[:, 0].tolist(), np.array(iou).tolist()
            if self.fill_hole_area > 0:
                masks_ = masks.fill_holes(masks_, self.fill_hole_area, HOLE_LOGIT)
            return [FrameResult(*row) for row in zip(masks_, pointers, scores, memories, ious, strict=True)]

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


def video_masks(low_res: Sequence[np.ndarray | None], size: tuple[int, int], non_overlap: bool) -> np.ndarray:
    """Masks of N objects at the size of the video, (N, 1, *size) float32 logits; None means -1024 everywhere.

    With ``non_overlap`` the highest logit takes a pixel and the others fall to -10 or below; ties go to the first.
    """
    out = np.full((len(low_res), 1, *size), NO_OBJECT_LOGIT, np.float32)
    present = [i for i, mask in enumerate(low_res) if mask is not None]
    if present:
        stacked = mx.array(np.stack([low_res[i] for i in present]))[..., None]  # (N', 4h, 4w, 1)
        with mx.stream(_beside(mx.default_device().type)):
            out[present, 0] = np.array(resize_bilinear(stacked, size)[..., 0])
    return without_overlap(out) if non_overlap else out


def without_overlap(masks: np.ndarray) -> np.ndarray:
    """(N, 1, H, W) logits: the highest takes a pixel, the others fall to -10 or below; ties go to the first."""
    if len(masks) < 2:
        return masks
    winner = masks.argmax(axis=0, keepdims=True) == np.arange(len(masks))[:, None, None, None]
    return np.where(winner, masks, np.minimum(masks, NON_OVERLAP_LOGIT))


@lru_cache(maxsize=4)
def _beside(device: mx.DeviceType) -> mx.ThreadLocalStream:
    """A stream for results that users wait for: on the default one they would come after the next frame's encoding."""
    return mx.new_thread_local_stream(mx.Device(device))

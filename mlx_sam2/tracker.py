"""One frame of tracking: prompted, recalled from memory, committed to memory. Shared by sessions and streams.

Official ``SAM2Base.track_step`` and ``SAM2VideoPredictor._run_single_frame_inference``, for several objects at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import mlx.core as mx
import numpy as np

from . import masks
from .memory_bank import FrameResult, ObjectTrack, Prompt, Recall
from .model.layers import resize_bilinear
from .model.sam2 import NO_OBJECT_LOGIT, SAM2, ImageFeatures, ObjectPrediction
from .video import preprocess_frame

PREVIOUS_CLAMP = 32.0  # of logits fed back as a mask prompt
HOLE_LOGIT = 0.1  # what a filled hole becomes
NON_OVERLAP_LOGIT = -10.0  # upper bound of an object's logits where another one wins
MAX_SCORES = 1 << 28  # attention scores of one batch of objects, so that no batch needs gigabytes


class Tracker:
    """Runs the model on single frames. Holds no state of a video.

    Args:
        model: the model; its configuration says how memories are recalled.
        fill_hole_area: holes of at most this many low-resolution pixels are filled in every mask; 0 for none.
    """

    def __init__(self, model: SAM2, fill_hole_area: int) -> None:
        self.model = model
        self.config = model.config
        self.fill_hole_area = fill_hole_area

    def encode(self, frame: np.ndarray) -> ImageFeatures:
        """Features of a frame, (H, W, 3) uint8."""
        features = self.model.encode_image(mx.array(preprocess_frame(frame, self.config.image_size)))
        mx.eval(features.arrays())
        return features

    # ---- prompted frames

    def prompt(
        self,
        features: ImageFeatures,
        track: ObjectTrack,
        prompt: Prompt,
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
            return self._results(prediction, None)[0]
        if reverse is None and self.config.num_maskmem > 0:
            embedding = self.model.add_no_memory(features.embedding)
        else:
            embedding = self._attend(features, [track.recall(frame_idx, bool(reverse), num_frames, self.config)])
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
        return self._results(prediction, None)[0]

    def commit(self, features: ImageFeatures, result: FrameResult) -> FrameResult:
        """Encode the mask of a prompted frame as a memory."""
        mask = mx.array(result.low_res_mask)[None, :, :, None]
        score = mx.array([[result.object_score]], mx.float32)
        memory = self._encode_memory(features, mask, score, self.config.binarize_mask_from_pts_for_mem_enc)
        mx.eval(memory)
        return FrameResult(
            result.low_res_mask, result.pointer, result.object_score, None if memory is None else memory[0]
        )

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
    ) -> list[FrameResult]:
        """Find objects on a frame from their memories, and encode what was found.

        Objects whose memories have equal shapes go through memory attention, decoder and memory encoder as one batch.
        """
        recalls = [track.recall(frame_idx, reverse, num_frames, self.config) for track in tracks]
        results: dict[int, FrameResult] = {}
        for batch in self._batches(recalls):
            embedding = self._attend(features, [recalls[i] for i in batch])
            multimask = self._use_multimask(False, 0)
            prediction = self.model.predict_object(embedding, features.high_res, multimask=multimask)
            # from the mask before its holes are filled
            memory = self._encode_memory(features, prediction.low_res_mask, prediction.object_score, binarize=False)
            results.update(zip(batch, self._results(prediction, memory), strict=True))
        return [results[i] for i in range(len(tracks))]

    def _batches(self, recalls: Sequence[Recall]) -> list[list[int]]:
        """Indices of recalls that can share one batch."""

        def shape(i: int) -> tuple[int, int]:
            return len(recalls[i].memories), len(recalls[i].pointers)

        batches = []
        for (num_memories, _), group in groupby(sorted(range(len(recalls)), key=shape), key=shape):
            cells = self.config.embedding_size**2
            size = max(MAX_SCORES // (cells * cells * max(num_memories, 1)), 1)
            members = list(group)
            batches += [members[i : i + size] for i in range(0, len(members), size)]
        return batches

    def _attend(self, features: ImageFeatures, recalls: Sequence[Recall]) -> mx.array:
        """Features conditioned on the memories of B objects, (B, h, w, C)."""
        if self.config.num_maskmem == 0:
            return mx.repeat(features.embedding, len(recalls), axis=0)
        memories = mx.stack([mx.stack([m.features for m in r.memories]) for r in recalls])  # (B, T, h, w, M)
        time_indices = mx.array([r.time_indices for r in recalls])
        pointers = pointer_times = None
        if recalls[0].pointers:
            pointers = mx.stack([mx.stack([m.pointer for m in r.pointers]) for r in recalls])  # (B, P, C)
            pointer_times = mx.array([r.pointer_times for r in recalls], mx.float32)
        return self.model.attend_memory(features.embedding, memories, time_indices, pointers, pointer_times)

    def _encode_memory(
        self, features: ImageFeatures, low_res_mask: mx.array, object_score: mx.array, binarize: bool
    ) -> mx.array | None:
        """(B, 4h, 4w, 1) logits -> (B, h, w, M) bfloat16; the rounding is part of the official result."""
        if self.config.num_maskmem == 0:
            return None
        mask = resize_bilinear(low_res_mask, (self.config.image_size, self.config.image_size))
        return self.model.encode_memory(features.embedding, mask, object_score, binarize).astype(mx.bfloat16)

    def _results(self, prediction: ObjectPrediction, memory: mx.array | None) -> list[FrameResult]:
        low_res, pointer, score = prediction.low_res_mask[..., 0], prediction.pointer, prediction.object_score
        mx.eval(low_res, pointer, score, *([] if memory is None else [memory]))
        low_res, score = np.array(low_res), np.array(score)[:, 0]
        if self.fill_hole_area > 0:
            low_res = masks.fill_holes(low_res, self.fill_hole_area, HOLE_LOGIT)
        memories = [None] * len(low_res) if memory is None else list(memory)
        rows = list(pointer)
        mx.eval(rows, memories)  # now, or each would keep the graph of its frame alive
        return [FrameResult(*row) for row in zip(low_res, rows, score.tolist(), memories, strict=True)]


def fit_mask(mask: np.ndarray, image_size: int) -> np.ndarray:
    """A bool mask (H, W) at the model's input size, (S, S) bool: antialiased and thresholded at one half.

    At simple ratios (3 to 2, 15 to 8) many pixels are one half up to rounding. So that these fall as in PyTorch's
    ``F.interpolate(antialias=True)``, sums go tap by tap in its order, fused, and not through a matrix product.
    """
    if mask.shape == (image_size, image_size):
        return mask
    rows = _resize_rows(mask.T.astype(np.float32), image_size)  # (S, H): the width first
    return _resize_rows(rows.T, image_size) >= 0.5


def _resize_rows(x: np.ndarray, size: int) -> np.ndarray:
    """(N, M) -> (size, M) with a triangle filter that widens with the reduction, float32."""
    one, half = np.float32(1), np.float32(0.5)
    scale = np.float32(len(x)) / np.float32(size)
    support = max(scale, one)
    centre = scale * (np.arange(size, dtype=np.float32) + half)
    first = np.maximum((centre - support + half).astype(np.int64), 0)
    last = np.minimum((centre + support + half).astype(np.int64), len(x))
    index = first[:, None] + np.arange((last - first).max())  # (size, taps)
    offset = (index.astype(np.float32) - centre[:, None] + half) * (one / support)
    weights = np.where(index < last[:, None], np.maximum(one - np.abs(offset), 0), 0).astype(np.float32)
    weights /= weights.cumsum(axis=1)[:, -1:]  # cumsum adds one after the other
    out = np.zeros((size, x.shape[1]), np.float32)
    for tap in range(index.shape[1]):
        taken = x[np.minimum(index[:, tap], len(x) - 1)].astype(np.float64)
        out = (out + taken * weights[:, tap, None]).astype(np.float32)  # rounded once, as a fused multiply-add
    return out


def video_masks(low_res: Sequence[np.ndarray | None], size: tuple[int, int], non_overlap: bool) -> np.ndarray:
    """Masks of N objects at the size of the video, (N, 1, *size) float32 logits; None means -1024 everywhere.

    With ``non_overlap`` the highest logit takes a pixel and the others fall to -10 or below; ties go to the first.
    """
    out = np.full((len(low_res), 1, *size), NO_OBJECT_LOGIT, np.float32)
    present = [i for i, mask in enumerate(low_res) if mask is not None]
    if present:
        stacked = mx.array(np.stack([low_res[i] for i in present]))[..., None]  # (N', 4h, 4w, 1)
        out[present, 0] = np.array(resize_bilinear(stacked, size)[..., 0])
    if non_overlap and len(out) > 1:
        winner = out.argmax(axis=0, keepdims=True) == np.arange(len(out))[:, None, None, None]
        out = np.where(winner, out, np.minimum(out, NON_OVERLAP_LOGIT))
    return out

"""Follow objects through a video: a drop-in for the official ``SAM2VideoPredictor``.

Signatures are the official ones; the work is done by ``video.state.VideoState``.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from .checkpoint.build import build_model, split_video_options, warn_of_unknown
from .frames.opening import open_source
from .frames.source import VideoError
from .masks.scores import ObjectScores
from .model.sam2 import SAM2
from .processes import OneProcess
from .utils.arrays import as_result, check_return_tensors
from .utils.module import as_official
from .utils.session import InferenceState
from .utils.video import OfficialVideoAttributes
from .video import tracked_mask
from .video.approximations import Approximations
from .video.feature_cache import FeatureCache
from .video.policies.official import Official
from .video.reference import Reference, add, learn
from .video.result_store import ResultStore
from .video.state import Masks, SessionOptions, VideoState
from .video.stream import VideoStream
from .video.tracker import Tracker


def _session_option(name: str) -> property:
    """An option of open and future sessions, under its official name on the predictor."""
    return property(
        lambda predictor: getattr(predictor.options, name),
        lambda predictor, value: setattr(predictor.options, name, value),
    )


class SAM2VideoPredictor(OfficialVideoAttributes, OneProcess):
    """Segment and track objects in a video (official ``sam2_video_predictor.py``).

    Args:
        sam_model: the model.
        fill_hole_area: fill holes of at most this many low-resolution pixels in every mask; 0 for none. The memory
            policy "dam4sam" fills none.
        non_overlap_masks: give every pixel of the returned masks to one object only.
        clear_non_cond_mem_around_input: forget the tracked frames around a prompted one. The official option of this
            name raises an AttributeError; this does what it says.
        add_all_frames_to_correct_as_cond: keep corrections of tracked frames as conditioning frames. Without it a later
            propagation over a corrected frame computes it again, as in the official code, and the correction is lost.
        memory_policy: which masks are taken, and which frames are remembered: "official", "samurai", "dam4sam", or a
            policy with settings of its own (``mlx_sam2.video.policies``).
        memory_pooling, max_memories, static_threshold: approximations, see ``Approximations``; by default none.
        return_tensors: "np" gives masks as numpy arrays that also answer calls of a tensor (``.cpu()``, ``.numpy()``,
            ...: ``utils/arrays.py``), "torch" as tensors of PyTorch.
        feature_cache, feature_cache_dtype: where the features of encoded frames are kept, for a second pass or a
            correction: a number of bytes, "disk", "off", or None for an eighth of the machine's memory; see
            ``FeatureCache``. All open sessions share it.
        unknown: ignored with a warning, as the official class ignores it.

    Raises:
        ValueError: for a model without memory modules, or approximations that do not fit it.
    """

    def __init__(
        self,
        sam_model: SAM2,
        fill_hole_area: int = 0,
        non_overlap_masks: bool = False,
        clear_non_cond_mem_around_input: bool = False,
        add_all_frames_to_correct_as_cond: bool = False,
        memory_pooling: int = 1,
        max_memories: int | None = None,
        static_threshold: float = 0.0,
        return_tensors: str = "np",
        feature_cache: int | str | None = None,
        feature_cache_dtype: str | None = None,
        memory_policy: str | Official = "official",
        **unknown: Any,
    ) -> None:
        warn_of_unknown(unknown, "SAM2VideoPredictor")
        self.return_tensors = check_return_tensors(return_tensors)
        if "memory_attention" not in sam_model:
            raise ValueError(
                "this checkpoint holds the image half of SAM 2 only; tracking needs the memory modules too"
            )
        self.model = as_official(sam_model)
        self.options = SessionOptions(
            non_overlap_masks, clear_non_cond_mem_around_input, add_all_frames_to_correct_as_cond
        )
        approximations = Approximations(memory_pooling, max_memories, static_threshold)
        self.tracker = Tracker(self.model, fill_hole_area, approximations, memory_policy)
        self.feature_cache = FeatureCache(feature_cache, feature_cache_dtype)

    non_overlap_masks = _session_option("non_overlap_masks")
    clear_non_cond_mem_around_input = _session_option("clear_non_cond_mem_around_input")
    add_all_frames_to_correct_as_cond = _session_option("add_all_frames_to_correct_as_cond")

    @property
    def fill_hole_area(self) -> int:
        return self.tracker.fill_hole_area

    @fill_hole_area.setter
    def fill_hole_area(self, value: int) -> None:
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
            raise ValueError(f"fill_hole_area={value!r}: it must be a number of pixels, 0 for none")
        self.tracker.fill_hole_area = value

    @property
    def image_size(self) -> int:
        """Side of the model's square input, in pixels."""
        return self.model.config.image_size

    @classmethod
    def from_pretrained(cls, model_id: str, **options: Any) -> SAM2VideoPredictor:
        """Load a predictor from a Hub id, a short name ("tiny"), a folder or a file.

        ``options`` are the constructor's, those of ``mlx_sam2.checkpoint.build.build_model`` (``apply_postprocessing``,
        ``device``, ``hydra_overrides_extra``, ``config``, ``dtype``, ``revision``, ``token``) and those of the official
        ``SAM2Base`` (``max_cond_frames_in_attn``, ``memory_temporal_stride_for_eval``, ...), all by their names.
        """
        model_options, predictor_options = split_video_options(options)
        return cls(build_model(model_id, **model_options), **predictor_options)

    # ---- sessions

    def init_state(
        self,
        video_path: Any,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = False,
        memory: str = "disk",
    ) -> InferenceState:
        """Open a video.

        Args:
            video_path: a folder of frames, a video file or its bytes, a sequence of frames, or a ``FrameSource``.
            offload_video_to_cpu, offload_state_to_cpu, async_loading_frames: accepted for compatibility, without
                effect: memory is unified here, and frames are read shortly before they are needed.
            memory: "disk" moves the results of older frames to a temporary file (in TMPDIR) and reads them back if
                they are recalled; "ram" keeps all in RAM, as the official code does. Results are the same.

        Raises:
            VideoError: for a source that cannot be read or has no random access (use ``stream`` for that one).
            ValueError: for another ``memory``.
        """
        if memory not in ("disk", "ram"):
            raise ValueError(f"memory={memory!r} is not known; use 'disk' or 'ram'")
        source = open_source(video_path)
        if not source.random_access or source.num_frames is None:
            raise VideoError(f"{source.name} can only be read once, in order; use predictor.stream(source) for it")
        store, encoded = ResultStore(memory == "disk"), self.feature_cache.session()
        return InferenceState(source, source.num_frames, store, self.tracker, self.options, encoded=encoded)

    def stream(self, source: Any = None) -> VideoStream:
        """Track frame by frame, without a known end: see ``VideoStream``."""
        return VideoStream(self.tracker, self.options, source)

    def reset_state(self, inference_state: VideoState) -> None:
        """Remove all prompts, results and objects."""
        inference_state.reset()

    # ---- prompts

    def add_new_points_or_box(
        self,
        inference_state: VideoState,
        frame_idx: int,
        obj_id: Any,
        points: Sequence[Any] | np.ndarray | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Sequence[float] | np.ndarray | None = None,
    ) -> Masks:
        """Prompt an object on a frame; a new id makes a new object.

        Args:
            points: (N, 2) as (x, y) in pixels of the video.
            labels: (N,): 1 foreground, 0 background.
            clear_old_points: forget the points given before on this frame. The mask they led to is still refined.
            normalize_coords: False when coordinates are already in 0..1.
            box: (4,) as x0, y0, x1, y1; needs ``clear_old_points``.

        Returns:
            ``frame_idx``, the ids of all objects, and their masks on this frame, (N, 1, H, W) float32 logits;
            -1024 for an object without a result there.

        Raises:
            ValueError: for a frame that does not exist, or prompts that do not fit.
        """
        given = (points, labels, clear_old_points, normalize_coords, box)
        return self._handed_out(inference_state.prompt_points(frame_idx, obj_id, *given))

    def add_new_points(self, *args: Any, **kwargs: Any) -> Masks:
        """The older name of ``add_new_points_or_box``."""
        return self.add_new_points_or_box(*args, **kwargs)

    def add_new_mask(
        self, inference_state: VideoState, frame_idx: int, obj_id: Any, mask: np.ndarray | Sequence[Any]
    ) -> Masks:
        """Give the mask of an object on a frame; a new id makes a new object.

        Args:
            mask: (H, W), non-zero where the object is; of any size, resized to the model's input.

        Returns and raises as ``add_new_points_or_box``.
        """
        return self._handed_out(inference_state.prompt_mask(frame_idx, obj_id, mask))

    def clear_all_prompts_in_frame(
        self, inference_state: VideoState, frame_idx: int, obj_id: Any, need_output: bool = True
    ) -> Masks | None:
        """Remove the prompts of an object on a frame; what was committed there stays as a tracked result.

        Returns what ``add_new_points_or_box`` returns, or None without ``need_output``.

        Raises:
            ValueError: for an unknown object or frame (the official code makes a new object of an unknown id).
        """
        state = inference_state
        state.clear_prompts(frame_idx, obj_id)
        if not need_output:
            return None
        return self._handed_out(state.edited_masks(frame_idx, state.has_pending(frame_idx)))

    def remove_object(
        self, inference_state: VideoState, obj_id: Any, strict: bool = False, need_output: bool = True
    ) -> tuple[list[Any], list[tuple[int, np.ndarray]]]:
        """Remove an object.

        Returns:
            The ids that remain, and ``(frame_idx, masks)`` of the frames on which the object was prompted.

        Raises:
            RuntimeError: for an unknown id with ``strict``; without it nothing happens.
        """
        state = inference_state
        frames = state.remove(obj_id, strict)
        if not need_output or not state.tracks:
            return state.obj_ids, []
        outputs = [self._handed_out(state.edited_masks(t, state.has_pending(t))) for t in frames]
        return state.obj_ids, [(t, masks) for t, _, masks in outputs]

    def lock(self, inference_state: VideoState, frame_idx: int, obj_id: Any = None) -> None:
        """Keep what is on a frame: later propagations yield it as it is, and go on from it.

        So a correction stays without becoming a conditioning frame, and a good stretch survives a second pass. A new
        prompt on a locked frame replaces its result. No official method.

        Args:
            obj_id: None locks the results of all objects there.

        Raises:
            ValueError: for a frame or an object that does not exist, or without a result there.
        """
        inference_state.lock(frame_idx, obj_id)

    def unlock(self, inference_state: VideoState, frame_idx: int, obj_id: Any = None) -> None:
        """Undo ``lock``; nothing happens where nothing is locked. ValueError as there."""
        inference_state.unlock(frame_idx, obj_id)

    # ---- objects from elsewhere

    def add_tracked_mask(
        self,
        inference_state: VideoState,
        frame_idx: int,
        obj_id: Any,
        mask: np.ndarray | Sequence[Any],
        scores: ObjectScores | None = None,
        reverse: bool = False,
    ) -> None:
        """Give back what tracking had found on a frame, in an earlier session perhaps: no prompt, but remembered.

        Give the ``video.memory_bank.recall_distance`` frames before the one where tracking is to go on, the earliest
        first. The frame is encoded, and its memory and pointer are made from the mask; they are near those that
        tracking had made, not equal to them. A memory policy starts again with motion and sizes. No official method.

        Args:
            mask: (H, W), non-zero where the object is; of any size, and empty where it was not seen.
            scores: as ``state.scores`` gave them; None: those of a mask that a user gives.
            reverse: the direction in which the frame was passed.

        Raises:
            ValueError: for a frame that does not exist or has a prompt of this object, or a mask that is none.
        """
        tracked_mask.add(inference_state, frame_idx, obj_id, mask, scores, reverse)

    def reference(self, inference_state: VideoState, obj_id: Any) -> Reference:
        """What was learned of an object from the frames on which it was prompted, to find it elsewhere.

        ``Reference.save`` keeps it in a file. No official method.

        Raises:
            ValueError: for an object that does not exist, or has no prompt.
        """
        return learn(inference_state, obj_id)

    def add_reference(
        self, inference_state: VideoState, obj_id: Any, reference: Reference | str | os.PathLike[str]
    ) -> list[Any]:
        """Look for an object that was learned elsewhere; further references of one object add up.

        Args:
            obj_id: a new id makes a new object.
            reference: from ``reference``, or the path of a file of ``Reference.save``, a stranger's perhaps.

        Returns:
            The ids of all objects.

        Raises:
            ValueError: one line, for a reference of another model or size, or a file that holds none.
        """
        return add(inference_state, obj_id, reference)

    # ---- propagation

    def propagate_in_video_preflight(self, inference_state: VideoState) -> None:
        """Commit all edits to memory.

        Raises:
            RuntimeError: when there is no object, or one without any prompt; nothing has changed then.
        """
        inference_state.prepare()

    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        obj_ids: Collection[Any] | None = None,
    ) -> Iterator[Masks]:
        """Track all objects through the video.

        Args:
            start_frame_idx: None starts at the earliest frame with a prompt.
            max_frame_num_to_track: how many frames to go beyond the first; None goes to the end.
            reverse: go towards the first frame. From frame 0 this yields nothing, as in the official code.
            obj_ids: follow only these, and leave the others as they are. No official argument.

        Yields:
            ``(frame_idx, obj_ids, masks)``, masks (N, 1, H, W) float32 logits at the size of the video.

        Raises:
            RuntimeError: as ``propagate_in_video_preflight``.
            ValueError: for a start or an object that does not exist, or no object at all.
        """
        if obj_ids is not None and not obj_ids:
            raise ValueError("obj_ids is empty: name the objects to follow, or leave it out for all")
        found_frames = inference_state.propagate(start_frame_idx, max_frame_num_to_track, reverse, obj_ids)
        with closing(found_frames) as frames:
            for found in frames:
                yield self._handed_out(found)

    def _handed_out(self, found: Masks) -> Masks:
        frame_idx, obj_ids, masks = found
        return frame_idx, obj_ids, as_result(masks, self.return_tensors)


class SAM2VideoPredictorVOS(SAM2VideoPredictor):
    """The official class that PyTorch compiles for speed: here the same as ``SAM2VideoPredictor``."""

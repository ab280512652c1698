"""Follow objects through a video: a drop-in for the official ``SAM2VideoPredictor``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from .checkpoint.build import build_model, split_video_options
from .frames.opening import open_source
from .frames.source import VideoError
from .model.resize import fit_mask
from .model.results import ImageFeatures
from .model.sam2 import SAM2
from .video.approximations import Approximations
from .video.memory_bank import FrameResult, ObjectTrack, Prompt, ResultStore, recall_distance
from .video.state import VideoState, point_prompt
from .video.tracker import Tracker, video_masks

if TYPE_CHECKING:
    from .video.stream import VideoStream

Masks = tuple[int, list[Any], np.ndarray]  # frame number, object ids, (N, 1, H, W) float32 logits


class SAM2VideoPredictor:
    """Segment and track objects in a video (official ``sam2_video_predictor.py``).

    Args:
        sam_model: the model.
        fill_hole_area: holes of at most this many low-resolution pixels are filled in every mask; 0 for none.
        non_overlap_masks: give every pixel of the returned masks to one object only.
        clear_non_cond_mem_around_input: forget the tracked frames around a prompted one. The official option of this
            name raises an AttributeError; this does what it says.
        add_all_frames_to_correct_as_cond: keep corrections of tracked frames as conditioning frames. Without it a later
            propagation over a corrected frame computes it anew, as in the official code, and the correction is lost.
        memory_pooling, max_memories, static_threshold: approximations, see ``Approximations``; by default none.

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
    ) -> None:
        if "memory_attention" not in sam_model:
            raise ValueError(
                "this checkpoint holds the image half of SAM 2 only; tracking needs the memory modules too"
            )
        self.model = sam_model
        self.non_overlap_masks = non_overlap_masks
        self.clear_non_cond_mem_around_input = clear_non_cond_mem_around_input
        self.add_all_frames_to_correct_as_cond = add_all_frames_to_correct_as_cond
        approximations = Approximations(memory_pooling, max_memories, static_threshold)
        self.tracker = Tracker(sam_model, fill_hole_area, approximations)

    @property
    def device(self) -> mx.Device:
        """MLX's default device, on which everything runs."""
        return mx.default_device()

    @property
    def fill_hole_area(self) -> int:
        return self.tracker.fill_hole_area

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
    ) -> VideoState:
        """Open a video.

        Args:
            video_path: a folder of frames, a video file or its bytes, a sequence of frames, or a ``FrameSource``.
            offload_video_to_cpu, offload_state_to_cpu, async_loading_frames: taken for compatibility; memory is
                unified here and frames are read shortly before they are needed, so there is nothing to choose.
            memory: "disk" moves the results of older frames to a temporary file (in TMPDIR) and reads them back when
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
        return VideoState(source, source.num_frames, ResultStore(on_disk=memory == "disk"))

    def stream(self, source: Any = None) -> VideoStream:
        """Track frame by frame, without a known end: see ``VideoStream``."""
        from .video.stream import VideoStream  # builds on this class

        return VideoStream(self, source)

    def reset_state(self, inference_state: VideoState) -> None:
        """Remove all prompts, results and objects."""
        for track in inference_state.tracks.values():
            track.clear()
        inference_state.tracks.clear()

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
        inference_state.require_frame(frame_idx)
        size = inference_state.video_size if normalize_coords else None
        new_points, new_labels = point_prompt(points, labels, box, clear_old_points, size)
        new_points = new_points * np.float32(self.image_size)
        track = inference_state.tracks.get(obj_id) or ObjectTrack.empty(inference_state.store)
        old = Prompt() if clear_old_points else track.prompts.get(frame_idx, Prompt())
        return self._run_prompt(inference_state, track, frame_idx, obj_id, old.extended(new_points, new_labels))

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
        inference_state.require_frame(frame_idx)
        array = np.asarray(mask)
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"mask has shape {array.shape}; it must be (height, width)")
        track = inference_state.tracks.get(obj_id) or ObjectTrack.empty(inference_state.store)
        prompt = Prompt(mask=fit_mask(array.astype(bool), self.image_size))
        return self._run_prompt(inference_state, track, frame_idx, obj_id, prompt)

    def _run_prompt(self, state: VideoState, track: ObjectTrack, frame_idx: int, obj_id: Any, prompt: Prompt) -> Masks:
        # without any conditioning frame left there is nothing to attend to: as on a first look
        first_look = frame_idx not in track.directions or not track.conditioning
        pending = track.pending if first_look or self.add_all_frames_to_correct_as_cond else track.pending_tracked
        previous = None
        if prompt.points is not None:
            result = pending.get(frame_idx) or track.result(frame_idx)
            previous = None if result is None else result.low_res_mask
        result = self.tracker.prompt(
            self._features(state, frame_idx),
            track,
            prompt,
            frame_idx,
            reverse=None if first_look else track.directions[frame_idx],
            num_frames=state.num_frames,
            previous=previous,
        )
        # nothing of the state has changed up to here
        pending[frame_idx] = result
        track.prompts[frame_idx] = prompt
        state.tracks[obj_id] = track
        return self._interactive_masks(state, frame_idx, pending is track.pending)

    def clear_all_prompts_in_frame(
        self, inference_state: VideoState, frame_idx: int, obj_id: Any, need_output: bool = True
    ) -> Masks | None:
        """Remove the prompts of an object on a frame; what was committed there stays as a tracked result.

        Returns what ``add_new_points_or_box`` returns, or None without ``need_output``.

        Raises:
            ValueError: for an unknown object or frame (the official code makes a new object of an unknown id).
        """
        inference_state.require_frame(frame_idx)
        track = inference_state.tracks.get(obj_id)
        if track is None:
            raise ValueError(f"object {obj_id!r} does not exist; the objects are {inference_state.obj_ids}")
        track.prompts.pop(frame_idx, None)
        track.pending.pop(frame_idx, None)
        track.pending_tracked.pop(frame_idx, None)
        result = track.conditioning.pop(frame_idx, None)
        if result is not None:
            track.tracked[frame_idx] = result
            track.directions.pop(frame_idx, None)
        if not need_output:
            return None
        return self._interactive_masks(inference_state, frame_idx, inference_state.has_pending(frame_idx))

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
        if obj_id not in state.tracks:
            if strict:
                raise RuntimeError(
                    f"cannot remove object {obj_id!r}: it does not exist; the objects are {state.obj_ids}"
                )
            return state.obj_ids, []
        track = state.tracks.pop(obj_id)
        frames = sorted(track.prompts)
        track.clear()
        if not need_output or not state.tracks:
            return state.obj_ids, []
        outputs = [self._interactive_masks(state, t, state.has_pending(t)) for t in frames]
        return state.obj_ids, [(t, masks) for t, _, masks in outputs]

    # ---- propagation

    def propagate_in_video_preflight(self, inference_state: VideoState) -> None:
        """Commit all edits to memory.

        Raises:
            RuntimeError: when there is no object, or one without any prompt; nothing has changed then.
        """
        state = inference_state
        if not state.tracks:
            raise RuntimeError("no input points or masks are provided for any object; please add inputs first")
        for obj_id, track in state.tracks.items():
            if not track.conditioning and not track.pending:
                raise RuntimeError(
                    f"no input points or masks are provided for object {obj_id!r}; please add inputs first"
                )
        self.commit_edits(state)

    def commit_edits(self, state: VideoState) -> None:
        """Encode the prompted frames of all objects as memories."""
        for track in state.tracks.values():
            for pending, committed in (
                (track.pending_tracked, track.tracked),
                (track.pending, track.conditioning),
            ):
                for t in list(pending):
                    state.still = None
                    committed[t] = self.tracker.commit(self._features(state, t), pending[t])
                    del pending[t]
                    self._clear_around(track, t)
            for t in track.conditioning:
                track.tracked.pop(t, None)
        window = recall_distance(self.model.config) * len(state.tracks)
        state.store.capacity = window + sum(len(track.conditioning) for track in state.tracks.values())

    def _clear_around(self, track: ObjectTrack, frame_idx: int) -> None:
        if not self.clear_non_cond_mem_around_input:
            return
        config = self.model.config
        reach = config.memory_temporal_stride_for_eval * config.num_maskmem
        for t in range(frame_idx - reach, frame_idx + reach + 1):
            if t != frame_idx:
                track.tracked.pop(t, None)

    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Masks]:
        """Track all objects through the video.

        Args:
            start_frame_idx: None starts at the earliest frame with a prompt.
            max_frame_num_to_track: how many frames to go beyond the first; None goes to the end.
            reverse: go towards the first frame. From frame 0 this yields nothing, as in the official code.

        Yields:
            ``(frame_idx, obj_ids, masks)``, masks (N, 1, H, W) float32 logits at the size of the video.

        Raises:
            RuntimeError: as ``propagate_in_video_preflight``.
            ValueError: for a start that does not exist.
        """
        state = inference_state
        if start_frame_idx is not None:
            state.require_frame(start_frame_idx)
        self.propagate_in_video_preflight(state)
        followed = dict(state.tracks)  # an object that comes, or comes again, between two frames is for the next run
        if start_frame_idx is None:
            start_frame_idx = min(t for track in state.tracks.values() for t in track.conditioning)
        count = state.num_frames if max_frame_num_to_track is None else max_frame_num_to_track
        if reverse:
            first = max(start_frame_idx - count, 0)
            frames = range(start_frame_idx, first - 1, -1) if start_frame_idx > 0 else range(0)
        else:
            frames = range(start_frame_idx, min(start_frame_idx + count, state.num_frames - 1) + 1)
        with state.looking_ahead(self.tracker, frames):
            for frame_idx in frames:
                present = {obj_id: track for obj_id, track in followed.items() if state.tracks.get(obj_id) is track}
                low_res = self.advance(state, list(present.values()), frame_idx, reverse)
                yield frame_idx, list(present), video_masks(low_res, state.video_size, self.non_overlap_masks)

    def advance(
        self, state: VideoState, tracks: Sequence[ObjectTrack], frame_idx: int, reverse: bool
    ) -> list[np.ndarray]:
        """Track objects on one frame and commit it; returns their low-resolution logits, (4h, 4w) each."""
        moving = [track for track in tracks if frame_idx not in track.conditioning]
        look_ahead = partial(state.queue, frame_idx - 1 if reverse else frame_idx + 1, tracks)
        found: list[FrameResult] = []
        if moving:
            features, same = self._features(state, frame_idx), state.still_memories(self.tracker, frame_idx, moving)
            known = {"reverse": reverse, "num_frames": state.num_frames, "memories": same, "meanwhile": look_ahead}
            found = self.tracker.track(features, moving, frame_idx, **known)
        else:
            look_ahead()
        for track, result in zip(moving, found, strict=True):
            track.tracked[frame_idx] = result
        low_res = []
        for track in tracks:
            if frame_idx in track.conditioning:
                self._clear_around(track, frame_idx)
            track.directions[frame_idx] = reverse
            low_res.append(track.result(frame_idx).low_res_mask)
        return low_res

    # ---- helpers

    def _features(self, state: VideoState, frame_idx: int) -> ImageFeatures:
        return state.features(self.tracker, frame_idx)

    def _interactive_masks(self, state: VideoState, frame_idx: int, conditioning: bool) -> Masks:
        """Masks of all objects on a frame, an edit in progress of the given kind before what is committed."""
        low_res = []
        for track in state.tracks.values():
            pending = track.pending if conditioning else track.pending_tracked
            result = pending.get(frame_idx) or track.result(frame_idx)
            low_res.append(None if result is None else result.low_res_mask)
        return frame_idx, state.obj_ids, video_masks(low_res, state.video_size, self.non_overlap_masks)

"""The model: loaded in the background, shared by all sessions, used on one thread."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..automatic_mask_generator import SAM2AutomaticMaskGenerator
from ..checkpoint.build import build_model
from ..hub.client import HubError
from ..sam2_image_predictor import SAM2ImagePredictor
from ..sam2_video_predictor import SAM2VideoPredictor
from ..text import dtype_name, one_line
from ..worker import Worker
from .edits import Asked, Edits
from .faults import FAILURES, describe, report
from .image_work import ImageWork, as_given
from .job import Job, Steps
from .prompts import put_found
from .schemas import ApiError, EverythingAsk, Mask, ModelState, Rle
from .session import Session
from .video_work import VideoWork

if TYPE_CHECKING:
    from ..model.sam2 import SAM2


CACHE_BYTES = 512 << 20  # of freed buffers that MLX may keep; without a limit it keeps all


class Engine:
    """Loads a model and opens sessions with it. All but ``start`` runs on the worker's thread.

    Args:
        name: as for ``mlx_sam2.load``; dtype and revision too.
        memory_policy: of videos, as for ``SAM2VideoPredictor``.
    """

    def __init__(
        self, name: str, worker: Worker, edits: Edits, memory_policy: str = "official", **options: Any
    ) -> None:
        self.state = ModelState(name=name, status="loading", message="", image_size=None, dtype=None)
        self.worker = worker
        self.edits = edits
        self.sessions = edits.sessions
        self._options, self._memory_policy = options, memory_policy
        self._model: SAM2 | None = None
        self._video_model: SAM2 | None = None
        self._videos: dict[str, SAM2VideoPredictor] = {}  # by memory policy, on one model

    def start(self) -> None:
        """Start loading. Calls that come meanwhile wait behind it."""
        self.worker.submit_always(self._load).add_done_callback(report)

    def _load(self) -> None:
        mx.set_cache_limit(CACHE_BYTES)
        try:
            self._model = build_model(self.state.name, **self._options)
            if "memory_attention" in self._model:
                config = self._model.config.with_postprocessing(True, video=True)
                self._video_model = self._model.with_config(config)
                self._video(self._memory_policy)
        except (*FAILURES, HubError, LookupError) as error:
            text = one_line(error) or type(error).__name__
            self.state = self.state.model_copy(update={"status": "failed", "message": text})
            logging.getLogger("mlx_sam2.app").error("mlx_sam2.app: error: %s", text)
        else:
            dtypes = [
                dtype_name(value.dtype)
                for _, value in tree_flatten(self._model.parameters())
                if value.dtype != mx.uint32
            ]
            dtype = max(set(dtypes), key=dtypes.count)
            size = self._model.config.image_size
            self.state = self.state.model_copy(update={"status": "ready", "image_size": size, "dtype": dtype})
        for session in self.sessions.all():
            session.hub.publish("model", self.state.model_dump())

    def encode(self, session: Session) -> None:
        """Make a session ready for clicks."""
        try:
            with self.sessions.loaded(session) as source:
                work = self.work_of(session)
                if isinstance(work, VideoWork):
                    work.encode(0)
                del source
        except FAILURES as error:
            session.status, session.message = "failed", one_line(describe(error))
        else:
            session.status, session.message = "ready", ""
        session.hub.publish("status", {"status": session.status, "message": session.message})

    def _video(self, policy: str) -> SAM2VideoPredictor:
        """The predictor with a memory policy."""
        if policy not in self._videos:
            # corrections stay when objects are tracked again, as users of a page expect
            options = {"fill_hole_area": 8, "add_all_frames_to_correct_as_cond": True, "memory_policy": policy}
            self._videos[policy] = SAM2VideoPredictor(self._video_model, **options)
        return self._videos[policy]

    def work_of(self, session: Session, policy: str | None = None) -> ImageWork | VideoWork:
        """The encoded picture, or the video's state; made if there is none. Call it inside ``Sessions.loaded``.

        Args:
            policy: of memory; a state that has another one is made again. None: whichever it has.

        Raises:
            ApiError: there is no model, or none that can follow objects.
        """
        if self._model is None:
            raise ApiError(503, "model_failed", self.state.message or "the model is not loaded")
        if policy and isinstance(session.work, VideoWork) and session.work.predictor is not self._video(policy):
            session.work.close()
            session.work = None
        if session.work is None and session.source is not None:
            if session.kind == "image":
                session.work = ImageWork(SAM2ImagePredictor(self._model), session.source[0])
            elif self._video_model is None:
                raise ApiError(503, "model_failed", "this model holds the image half of SAM 2 only: no videos")
            else:
                video = self._video(policy or self._memory_policy)
                session.work = VideoWork(video, session.source, session.prompts(), session.masks)
        if session.work is None:
            raise ApiError(404, "not_found", "this session was closed")
        return session.work

    # ---- everything in a picture

    def everything_steps(self, ask: EverythingAsk, asked: Asked) -> Any:
        """Steps that find all masks of a frame and make objects of them, the best scores first."""

        def steps(job: Job) -> Steps:
            session = job.session
            if self._model is None or session.source is None:
                raise ApiError(503, "model_failed", self.state.message or "the model is not loaded")
            options = ask.model_dump(exclude={"frame", "as_objects"})
            generator = _watched_generator(self._model, job, **options)
            records = generator.generate(session.source[ask.frame])
            yield
            found = [_as_mask(record) for record in sorted(records, key=lambda r: -r["predicted_iou"])]
            if ask.as_objects:
                job.revision = put_found(self.edits, session, self.work_of(session), asked, ask.frame, found)
            masks = [mask.model_dump() for mask in found]
            session.hub.publish("everything", {"job": job.id, "frame": ask.frame, "masks": masks})
            session.hub.publish("state", session.state().model_dump())

        return steps


def _watched_generator(model: SAM2, job: Job, **options: Any) -> Any:
    """A generator of automatic masks that reports its progress to a job and stops with it."""

    class Watched(SAM2AutomaticMaskGenerator):
        def _search_batch(self, points: Any, crop: Any, size: tuple[int, int]) -> list[Any]:
            job.check()
            found = super()._search_batch(points, crop, size)
            job.progress(job.done + len(points), options["points_per_side"] ** 2)
            return found

    return Watched(model, output_mode="coco_rle", **options)


def _as_mask(record: dict[str, Any]) -> Mask:
    segmentation = record["segmentation"]
    rle = Rle(size=tuple(segmentation["size"]), counts=segmentation["counts"])
    return as_given(rle, record["predicted_iou"])

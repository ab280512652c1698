"""The model: loaded in the background, shared by all sessions, used on one thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..automatic_mask_generator import SAM2AutomaticMaskGenerator
from ..checkpoint.build import build_model
from ..hub.client import HubError
from ..hub.progress import watched
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
        self.state = _loading(name)
        self.first = name  # of the command line, whose options are its own
        self.worker = worker
        self.edits = edits
        self.sessions = edits.sessions
        self._options, self._memory_policy = options, memory_policy
        self._model: SAM2 | None = None
        self._video_model: SAM2 | None = None
        self._videos: dict[str, SAM2VideoPredictor] = {}  # by memory policy, on one model
        self._changing = threading.Lock()
        self.before_change: Callable[[], None] = lambda: None  # lets go of the model, on the worker's thread

    def start(self) -> None:
        """Start loading. Calls that come meanwhile wait behind it."""
        self.worker.submit_always(self._load).add_done_callback(report)

    def change(self, name: str) -> ModelState:
        """Start loading another model, for all sessions; any thread may call it. The one before serves if it fails.

        Raises:
            ApiError: a job is at work, or a model is being loaded.
        """
        with self._changing:
            if self.state.status == "loading":
                raise ApiError(409, "busy", f"{self.state.name} is being loaded: wait until that is done")
            if any(session.running for session in self.sessions.all()):
                raise ApiError(409, "busy", "a job is at work: wait for it, or cancel it")
            before, state = self.state, _loading(name)
            self._say(state)
        self.worker.submit_always(self._load, before).add_done_callback(report)
        return state

    def _say(self, state: ModelState) -> None:
        self.state = state
        for session in self.sessions.all():
            session.hub.publish("model", state.model_dump())

    def _load(self, before: ModelState | None = None) -> None:
        mx.set_cache_limit(CACHE_BYTES)
        name = self.state.name
        try:
            with watched(self._downloaded):
                model = build_model(name, **self._options_of(name))
            follower = _follower(model)
            videos = {} if follower is None else {self._memory_policy: _video(follower, self._memory_policy)}
            if any(job.status == "running" for session in self.sessions.all() for job in session.running):
                raise ApiError(409, "busy", "a job has begun meanwhile: choose the model again after it")
        except (*FAILURES, HubError, LookupError) as error:
            text = one_line(error) or type(error).__name__
            logging.getLogger("mlx_sam2.app").error("mlx_sam2.app: error: %s", text)
            if before is not None and before.status == "ready":
                self._say(before.model_copy(update={"message": text, "refused": name}))
            else:
                self._say(self.state.model_copy(update={"status": "failed", "message": text, "done": 0, "total": 0}))
        else:
            self.before_change()
            self._model, self._video_model, self._videos = model, follower, videos
            self._say(_loaded(name, model))
            if before is not None:
                self._encode_again()

    def _options_of(self, name: str) -> dict[str, Any]:
        """What the command line said of its own model; of another one only the number type."""
        return self._options if name == self.first else {"dtype": self._options.get("dtype")}

    def _downloaded(self, done: int, total: int) -> None:
        """Tell pages of each hundredth of a download."""
        if total != self.state.total or done == total or done - self.state.done >= total / 100:
            self._say(self.state.model_copy(update={"done": done, "total": total}))

    def _encode_again(self) -> None:
        """Have what is in use encoded by the new model. Prompts and masks stay."""
        for session in self.sessions.all():
            work, session.work = session.work, None
            if work is not None:
                work.close()
            if work is not None or session.status == "failed":
                session.status, session.message = "encoding", ""
                session.hub.publish("status", {"status": "encoding", "message": ""})
                self.worker.submit_always(self.encode, session).add_done_callback(report)

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

    def video(self) -> SAM2VideoPredictor:
        """The predictor of videos, with the memory that the app was started with.

        Raises:
            ApiError: there is none.
        """
        if self._video_model is None:
            text = self.state.message or "this model holds the image half of SAM 2 only: no videos"
            raise ApiError(503, "model_failed", text)
        return self._video(self._memory_policy)

    def _video(self, policy: str) -> SAM2VideoPredictor:
        """The predictor with a memory policy."""
        if policy not in self._videos:
            self._videos[policy] = _video(self._video_model, policy)
        return self._videos[policy]

    def work_of(self, session: Session, policy: str | None = None) -> ImageWork | VideoWork:
        """The encoded picture, or the video's state; made if there is none. Call it inside ``Sessions.loaded``.

        Args:
            policy: of memory; a state that has another one is made again. None: whichever the session has had.

        Raises:
            ApiError: there is no model, or none that can follow objects.
        """
        if self._model is None:
            raise ApiError(503, "model_failed", self.state.message or "the model is not loaded")
        session.memory_policy = policy or session.memory_policy
        if policy and isinstance(session.work, VideoWork) and session.work.predictor is not self._video(policy):
            session.work.close()
            session.work = None
        if session.work is None and session.source is not None:
            if session.kind == "image":
                session.work = ImageWork(SAM2ImagePredictor(self._model), session.source[0])
            elif self._video_model is None:
                raise ApiError(503, "model_failed", "this model holds the image half of SAM 2 only: no videos")
            else:
                video = self._video(session.memory_policy or self._memory_policy)
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


def _loading(name: str) -> ModelState:
    return ModelState(name=name, status="loading", message="", image_size=None, dtype=None)


def _loaded(name: str, model: SAM2) -> ModelState:
    dtypes = [dtype_name(value.dtype) for _, value in tree_flatten(model.parameters()) if value.dtype != mx.uint32]
    dtype, size = max(set(dtypes), key=dtypes.count), model.config.image_size
    return ModelState(name=name, status="ready", message="", image_size=size, dtype=dtype)


def _follower(model: SAM2) -> SAM2 | None:
    """The model with the options of videos; None if it holds the image half only."""
    if "memory_attention" not in model:
        return None
    return model.with_config(model.config.with_postprocessing(True, video=True))


def _video(model: SAM2, policy: str) -> SAM2VideoPredictor:
    # corrections stay when objects are tracked again, as users of a page expect
    options = {"fill_hole_area": 8, "add_all_frames_to_correct_as_cond": True, "memory_policy": policy}
    return SAM2VideoPredictor(model, **options)


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

"""The predictors for asyncio: ``await`` calls that take time, while the event loop goes on.

::

    from mlx_sam2 import aio

    predictor = await aio.AsyncImagePredictor.from_pretrained("tiny")
    await predictor.set_image(image)
    masks, scores, low_res_logits = await predictor.predict(point_coords=[[290, 150]], point_labels=[1])

Names, arguments, results and errors are those of the classes without Async, which do the work on the thread of a
``Worker``. A task that is cancelled gives up its place in the queue; what runs already is finished, and its result
dropped. For Qt, and whatever has callbacks rather than an event loop, use the worker itself: ``mlx_sam2.worker``.
"""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import mlx.core as mx
import numpy as np

from .automatic_mask_generator import SAM2AutomaticMaskGenerator
from .sam2_image_predictor import SAM2ImagePredictor
from .sam2_video_predictor import SAM2VideoPredictor
from .track_everything import EverythingFrame, track_everything
from .video.state import Masks, VideoState
from .video.stream import VideoStream
from .worker import BusyError, Latest, Steps, Worker

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "AsyncImagePredictor",
    "AsyncLatest",
    "AsyncMaskGenerator",
    "AsyncVideoPredictor",
    "AsyncVideoStream",
    "BusyError",
    "Worker",
    "iterate",
    "run",
]

T = TypeVar("T")
Predictor = TypeVar("Predictor", SAM2ImagePredictor, SAM2VideoPredictor, SAM2AutomaticMaskGenerator)


async def run(worker: Worker, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Await a call on the worker. Raises what the call raises, and as ``Worker.submit``."""
    return await asyncio.wrap_future(worker.submit(function, *args, **kwargs))


async def iterate(steps: Steps[T]) -> AsyncIterator[T]:
    """The items of ``Worker.steps``. To leave early cancel the task or, after a ``break``, ``aclose()`` it."""
    try:
        while (item := await asyncio.wrap_future(steps.next())) is not steps.END:
            yield item
    finally:
        steps.close()


class AsyncLatest:
    """For calls that come faster than they are answered, as previews under a moving pointer: only the newest waits."""

    def __init__(self, worker: Worker) -> None:
        self._latest = Latest(worker)

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T | None:
        """Await a call on the worker; None, at once, when a newer one has taken its place."""
        call = self._latest.submit(function, *args, **kwargs)
        waiter = asyncio.wrap_future(call)
        try:
            await asyncio.wait({waiter})  # raises when this task is cancelled, not when the call is
        except asyncio.CancelledError:
            call.cancel()
            raise
        return None if waiter.cancelled() else waiter.result()


def _awaited(method: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """A method of the wrapped object as a coroutine: same name, arguments and docstring, but on the worker."""

    @functools.wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> T:
        return await run(self.worker, getattr(self._wrapped, method.__name__), *args, **kwargs)

    return call


class _Front(Generic[Predictor]):
    """Shared by the asynchronous predictors: the worker, and loading on it.

    Args:
        predictor: does the work; leave it to the worker from now on.
        worker: None makes a new one. Give predictors of one program the same.
    """

    _kind: type[Any]

    def __init__(self, predictor: Predictor, worker: Worker | None = None) -> None:
        mx.eval(_model(predictor).parameters())  # what is lazy can only be evaluated on this thread
        self._wrapped = predictor
        self.worker = Worker() if worker is None else worker

    @classmethod
    async def from_pretrained(cls, model_id: str, *, worker: Worker | None = None, **options: Any) -> Any:
        """Load, on the worker, as ``from_pretrained`` of the class without Async does."""
        worker = Worker() if worker is None else worker
        return cls(await run(worker, cls._kind.from_pretrained, model_id, **options), worker)


def _model(predictor: Predictor) -> Any:
    return predictor.predictor.model if isinstance(predictor, SAM2AutomaticMaskGenerator) else predictor.model


class AsyncImagePredictor(_Front[SAM2ImagePredictor]):
    """``SAM2ImagePredictor`` for asyncio. It holds one image at a time: make one for each image, on one worker."""

    _kind = SAM2ImagePredictor

    @property
    def predictor(self) -> SAM2ImagePredictor:
        """The one that does the work, to read its settings."""
        return self._wrapped

    set_image = _awaited(SAM2ImagePredictor.set_image)
    set_image_batch = _awaited(SAM2ImagePredictor.set_image_batch)
    predict = _awaited(SAM2ImagePredictor.predict)
    predict_low_res = _awaited(SAM2ImagePredictor.predict_low_res)
    predict_batch = _awaited(SAM2ImagePredictor.predict_batch)
    get_image_embedding = _awaited(SAM2ImagePredictor.get_image_embedding)
    get_features = _awaited(SAM2ImagePredictor.get_features)
    set_features = _awaited(SAM2ImagePredictor.set_features)
    reset_predictor = _awaited(SAM2ImagePredictor.reset_predictor)


class AsyncMaskGenerator(_Front[SAM2AutomaticMaskGenerator]):
    """``SAM2AutomaticMaskGenerator`` for asyncio."""

    _kind = SAM2AutomaticMaskGenerator

    @property
    def generator(self) -> SAM2AutomaticMaskGenerator:
        """The one that does the work, to read its settings."""
        return self._wrapped

    async def generate(
        self, image: np.ndarray | Image, progress: Callable[[int, int], object] | None = None
    ) -> list[dict[str, Any]]:
        """``SAM2AutomaticMaskGenerator.generate``, batch by batch: what else the worker has to do comes in between.

        Args:
            image: as there.
            progress: called with the batches that are done and how many there are.
        """
        records: list[dict[str, Any]] = []
        async with aclosing(iterate(self.worker.steps(self._stages, image, records))) as stages:
            async for done, total in stages:
                if progress is not None:
                    progress(done, total)
        return records

    def _stages(self, image: np.ndarray | Image, records: list[dict[str, Any]]) -> Iterator[tuple[int, int]]:
        one = copy.copy(self.generator)  # other images may come between two stages
        one.predictor = copy.copy(one.predictor)
        records += yield from one.generate_in_stages(image)


class AsyncVideoPredictor(_Front[SAM2VideoPredictor]):
    """``SAM2VideoPredictor`` for asyncio.

    ::

        async with predictor.session("clip.mp4") as state:
            await predictor.add_new_points_or_box(state, 0, 1, points=[[210, 350]], labels=[1])
            async for frame_idx, obj_ids, logits in predictor.propagate_in_video(state):
                ...  # prompts of this and other sessions are answered between two frames
    """

    _kind = SAM2VideoPredictor

    @property
    def predictor(self) -> SAM2VideoPredictor:
        """The one that does the work, to read its settings."""
        return self._wrapped

    init_state = _awaited(SAM2VideoPredictor.init_state)
    reset_state = _awaited(SAM2VideoPredictor.reset_state)
    add_new_points_or_box = _awaited(SAM2VideoPredictor.add_new_points_or_box)
    add_new_points = _awaited(SAM2VideoPredictor.add_new_points)
    add_new_mask = _awaited(SAM2VideoPredictor.add_new_mask)
    clear_all_prompts_in_frame = _awaited(SAM2VideoPredictor.clear_all_prompts_in_frame)
    remove_object = _awaited(SAM2VideoPredictor.remove_object)
    lock = _awaited(SAM2VideoPredictor.lock)
    unlock = _awaited(SAM2VideoPredictor.unlock)
    add_tracked_mask = _awaited(SAM2VideoPredictor.add_tracked_mask)
    reference = _awaited(SAM2VideoPredictor.reference)
    add_reference = _awaited(SAM2VideoPredictor.add_reference)
    propagate_in_video_preflight = _awaited(SAM2VideoPredictor.propagate_in_video_preflight)

    async def close(self, inference_state: VideoState) -> None:
        """Close a session, after what runs on it: ``inference_state.close()`` of another thread would not wait."""
        await asyncio.wrap_future(self.worker.submit_always(inference_state.close))

    @asynccontextmanager
    async def session(self, video_path: Any, **options: Any) -> AsyncIterator[VideoState]:
        """``init_state``, and ``close`` at the end of the block."""
        opening = self.worker.submit(self.predictor.init_state, video_path, **options)
        try:
            state = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            self.worker.submit_always(_close_opened, opening)
            raise
        try:
            yield state
        finally:
            await self.close(state)

    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        obj_ids: Collection[Any] | None = None,
    ) -> AsyncIterator[Masks]:
        """``SAM2VideoPredictor.propagate_in_video``, one frame each time that one is awaited.

        Cancelling the task, or ``aclose()``, ends it after the frame in work, whose result is kept in the session.
        """
        limits = (start_frame_idx, max_frame_num_to_track, reverse, obj_ids)
        return iterate(self.worker.steps(self.predictor.propagate_in_video, inference_state, *limits))

    def track_everything(self, video: Any, *args: Any, **options: Any) -> AsyncIterator[EverythingFrame]:
        """``mlx_sam2.track_everything.track_everything``, one frame each time that one is awaited."""
        return iterate(self.worker.steps(track_everything, self.predictor, video, *args, **options))

    def stream(self, source: Any = None) -> AsyncVideoStream:
        """Track frame by frame: ``async with predictor.stream("camera:0") as stream``."""
        return AsyncVideoStream(self, source)


def _close_opened(opening: Any) -> None:
    """Close a session or stream that was opened after its task had been cancelled."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()


class AsyncVideoStream:
    """``VideoStream`` for asyncio; made by ``AsyncVideoPredictor.stream``.

    ::

        async with predictor.stream("camera:0") as stream:
            async for frame_idx, obj_ids, logits in stream:
                if frame_idx == 0:
                    frame_idx, obj_ids, logits = await stream.add_new_points_or_box(1, points=[[320, 240]], labels=[1])

    The source is read on a thread of its own, so that a slow camera holds nothing else up.
    """

    def __init__(self, predictor: AsyncVideoPredictor, source: Any = None) -> None:
        self.worker = predictor.worker
        self._predictor, self._source = predictor.predictor, source
        self._reader = ThreadPoolExecutor(1, "mlx_sam2 frames")
        self._opened: VideoStream | None = None

    @property
    def stream(self) -> VideoStream:
        """The one that does the work: read ``frame``, ``frame_idx``, ``obj_ids`` and ``object_scores`` from it."""
        if self._opened is None:
            raise RuntimeError("this stream is not open: use it as `async with predictor.stream(...) as stream`")
        return self._opened

    _wrapped = stream

    async def __aenter__(self) -> AsyncVideoStream:
        opening = self._reader.submit(self._predictor.stream, self._source)
        try:
            self._opened = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            self._reader.submit(_close_opened, opening)
            raise
        finally:
            if self._opened is None:
                self._reader.shutdown(wait=False)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        stream, self._opened = self.stream, None
        # first the frame that is being read, then the call that works on one, then the end
        reading = self._reader.submit(lambda: self.worker.submit_always(stream.close).result())
        self._reader.shutdown(wait=False)
        await asyncio.wrap_future(reading)

    async def __aiter__(self) -> AsyncIterator[Masks]:
        frames = self.stream.unread_frames()
        while (frame := await asyncio.wrap_future(self._reader.submit(next, frames, None))) is not None:
            yield await self.push(frame)

    push = _awaited(VideoStream.push)
    add_new_points_or_box = _awaited(VideoStream.add_new_points_or_box)
    add_new_mask = _awaited(VideoStream.add_new_mask)
    add_reference = _awaited(VideoStream.add_reference)
    clear_all_prompts = _awaited(VideoStream.clear_all_prompts)
    remove_object = _awaited(VideoStream.remove_object)
    reset = _awaited(VideoStream.reset)

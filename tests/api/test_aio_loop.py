"""The asynchronous predictors leave the event loop free, raise the same errors, and can be cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import synthetic
from async_runs import CLICK, EVERYTHING, WAIT, assert_same, clip, wait_for
from mlx_sam2 import aio
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.frames.source import SequenceSource, StreamSource, VideoError
from mlx_sam2.images.files import ImageError
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_image_predictor import SAM2ImagePredictor
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.worker import Worker


async def ticks_during(work: Coroutine[Any, Any, Any]) -> tuple[Any, int]:
    """The result, and how often the loop came round before it was there."""
    task, ticks = asyncio.ensure_future(work), 0
    while not task.done():
        await asyncio.sleep(0.001)
        ticks += 1
    return task.result(), ticks


def test_the_loop_goes_on_while_the_model_works(
    images: aio.AsyncImagePredictor, videos: aio.AsyncVideoPredictor
) -> None:
    """One that is held up comes round once or twice for each of these; measured: 49 to 240 times."""

    async def track() -> int:
        async with videos.session(clip(3)) as state:
            await videos.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
            return len([None async for _ in videos.propagate_in_video(state)])

    async def click() -> None:
        for _ in range(10):
            await images.predict(**CLICK)

    async def main() -> list[int]:
        _, encoding = await ticks_during(images.set_image(synthetic.picture()))
        _, clicking = await ticks_during(click())
        frames, tracking = await ticks_during(track())
        assert frames == 3
        return [encoding, clicking, tracking]

    assert min(wait_for(main())) > 5


def test_errors_are_those_of_the_synchronous_predictor(
    images: aio.AsyncImagePredictor, videos: aio.AsyncVideoPredictor, worker: Worker
) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="no image is set"):
            await images.predict(**CLICK)
        with pytest.raises(ImageError):
            await images.set_image(np.zeros((3, 3)))
        with pytest.raises(VideoError, match=r"use predictor\.stream"):
            async with videos.session(iter(clip())):
                raise AssertionError("opened")
        async with videos.session(clip()) as state:
            with pytest.raises(RuntimeError, match="no input points or masks"):
                await anext_of(videos.propagate_in_video(state))
        stream = videos.stream()
        with pytest.raises(RuntimeError, match="this stream is not open: use it as `async with"):
            await stream.push(clip()[0])
        async with stream:
            with pytest.raises(VideoError, match="no source to iterate over"):
                await anext_of(stream)
        with pytest.raises(VideoError):
            await videos.stream("./no/such/clip.mp4").__aenter__()
        assert worker.waiting == 0

    wait_for(main())


async def anext_of(items: Any) -> Any:
    async for item in items:
        return item
    return None


class Held:
    """Keeps a worker busy until it is let go."""

    def __init__(self, worker: Worker) -> None:
        entered, self._open = threading.Event(), threading.Event()
        self.call = worker.submit(lambda: (entered.set(), self._open.wait(WAIT)))
        assert entered.wait(WAIT)

    def let_go(self) -> None:
        self._open.set()


def test_a_cancelled_task_gives_up_its_place(images: aio.AsyncImagePredictor, worker: Worker) -> None:
    async def main() -> None:
        await images.set_image(synthetic.picture(60, 80))
        held = Held(worker)
        tasks = [asyncio.ensure_future(images.predict(**CLICK)) for _ in range(3)]
        await asyncio.sleep(0)
        assert worker.waiting == 3
        tasks[1].cancel()
        await asyncio.wait({tasks[1]})
        assert tasks[1].cancelled() and worker.waiting == 2
        held.let_go()
        first, last = await asyncio.gather(tasks[0], tasks[2])
        assert_same(first, last)

    wait_for(main())


class Slow(Sequence[np.ndarray]):
    """A clip whose frames can be counted, and that stops at one until it is let go."""

    def __init__(self, stop: int) -> None:
        self.stop, self.asked = stop, []
        self.entered, self.open = threading.Event(), threading.Event()

    def __len__(self) -> int:
        return 5

    def __getitem__(self, i: int) -> np.ndarray:
        self.asked.append(i)
        if i == self.stop:
            self.entered.set()
            assert self.open.wait(WAIT)
        return clip()[i]


def test_a_cancelled_propagation_ends_after_the_frame_in_work(
    videos: aio.AsyncVideoPredictor, video_model: SAM2, worker: Worker
) -> None:
    """The session stays whole: going on from there gives the bits of an undisturbed run."""
    slow, seen = Slow(stop=2), []

    async def main() -> list[Any]:
        async with videos.session(slow) as state:
            await videos.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])

            async def track() -> None:
                async for frame_idx, _, _ in videos.propagate_in_video(state):
                    seen.append(frame_idx)

            task = asyncio.ensure_future(track())
            await asyncio.to_thread(slow.entered.wait, WAIT)  # frame 2 is in work
            task.cancel()
            await asyncio.wait({task})  # and nobody waits for it
            assert task.cancelled() and seen == [0, 1]
            slow.open.set()
            await aio.run(worker, int)
            assert slow.asked[-1] == 2 and sorted(state.tracks[1].tracked) == [1, 2]
            return [o async for o in videos.propagate_in_video(state, 3)]

    sync = SAM2VideoPredictor(video_model)
    with sync.init_state(clip()) as state:
        sync.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        expected = list(sync.propagate_in_video(state))[3:]
    assert_same([o[2] for o in wait_for(main())], [o[2] for o in expected])


def test_what_is_left_early_is_closed_on_the_worker(worker: Worker) -> None:
    """A generator of the predictors must not end on the thread of the event loop, while a call of it may run."""
    closed_on: list[str] = []

    def items() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            closed_on.append(threading.current_thread().name)

    async def main() -> None:
        kept = items()
        async with contextlib.aclosing(aio.iterate(worker.steps(lambda: kept))) as seen:
            async for _ in seen:
                break
        await aio.run(worker, int)
        assert closed_on == ["mlx_sam2"]

    wait_for(main())


def test_clicks_are_answered_between_two_frames(
    videos: aio.AsyncVideoPredictor, images: aio.AsyncImagePredictor
) -> None:
    async def main() -> list[str]:
        order: list[str] = []
        await images.set_image(synthetic.picture(60, 80))

        async def click() -> None:
            await images.predict(**CLICK)
            order.append("click")

        async with videos.session(clip()) as state:
            await videos.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
            clicks = []
            async for frame_idx, _, _ in videos.propagate_in_video(state):
                order.append(f"frame {frame_idx}")
                if frame_idx == 1:
                    clicks.append(asyncio.ensure_future(click()))
                    await asyncio.sleep(0)
            await asyncio.gather(*clicks)
        return order

    assert wait_for(main()) == ["frame 0", "frame 1", "click", "frame 2", "frame 3", "frame 4"]


def test_a_cancelled_search_for_everything_ends_after_the_batch_in_work(nano_model: SAM2, worker: Worker) -> None:
    generator = aio.AsyncMaskGenerator(SAM2AutomaticMaskGenerator(nano_model, **EVERYTHING), worker)
    progress: list[int] = []

    async def main() -> None:
        def stop(done: int, total: int) -> None:
            progress.append(done)
            if done == 1:
                task.cancel()

        task = asyncio.ensure_future(generator.generate(synthetic.picture(60, 80), stop))
        await asyncio.wait({task})
        assert task.cancelled()
        await aio.run(worker, int)

    wait_for(main())
    assert progress == [0, 1]


def test_an_opening_that_is_cancelled_leaves_nothing_open(videos: aio.AsyncVideoPredictor, worker: Worker) -> None:
    closed = threading.Event()
    slow = Slow(stop=0)
    opened = []

    class Source(SequenceSource):
        def __init__(self) -> None:
            super().__init__(clip())
            opened.append(self)

        def close(self) -> None:
            closed.set()

    async def main() -> None:
        async def use() -> None:
            async with videos.session(source):
                raise AssertionError("nobody waits for it any more")

        held = Held(worker)
        source = Source()
        init, started = videos.predictor.init_state, threading.Event()

        def slowly(*args: Any, **kwargs: Any) -> Any:
            started.set()
            assert slow.open.wait(WAIT)
            return init(*args, **kwargs)

        videos.predictor.init_state = slowly
        task = asyncio.ensure_future(use())
        await asyncio.sleep(0)
        held.let_go()
        await asyncio.to_thread(started.wait, WAIT)
        task.cancel()
        await asyncio.wait({task})
        assert not closed.is_set()
        slow.open.set()
        await aio.run(worker, int)
        assert closed.is_set()

    wait_for(main())


def test_a_stream_is_closed_after_the_frame_that_is_being_read(videos: aio.AsyncVideoPredictor) -> None:
    """A camera that is closed under the thread that reads it crashes."""
    slow, order = Slow(stop=1), []

    def frames() -> Iterator[np.ndarray]:
        for i in range(5):
            yield slow[i]
            order.append(f"read {i}")

    source = StreamSource(frames(), on_close=lambda: order.append("closed"))

    async def main() -> None:
        async def follow() -> None:
            async with videos.stream(source) as stream:
                async for frame_idx, _, _ in stream:
                    order.append(f"frame {frame_idx}")

        task = asyncio.ensure_future(follow())
        await asyncio.to_thread(slow.entered.wait, WAIT)
        task.cancel()
        await asyncio.sleep(0.01)
        order.append("let go")
        slow.open.set()
        await asyncio.wait({task})
        assert task.cancelled()

    wait_for(main())
    assert order == ["frame 0", "read 0", "let go", "closed"]


def test_only_the_latest_preview_waits(images: aio.AsyncImagePredictor, worker: Worker) -> None:
    async def main() -> None:
        await images.set_image(synthetic.picture(60, 80))
        hover = aio.AsyncLatest(worker)
        held = Held(worker)
        previews = [
            asyncio.ensure_future(
                hover.run(images.predictor.predict, point_coords=[[x, 30]], point_labels=[1], multimask_output=False)
            )
            for x in range(20)
        ]
        await asyncio.sleep(0)
        assert worker.waiting == 1
        superseded = await asyncio.gather(*previews[:-1])  # at once, while the worker is still held
        assert superseded == [None] * 19
        held.let_go()
        last = await previews[-1]
        assert_same(last, await images.predict(point_coords=[[19, 30]], point_labels=[1], multimask_output=False))
        held = Held(worker)
        left = asyncio.ensure_future(hover.run(images.predictor.predict, **CLICK))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait({left})
        assert left.cancelled() and worker.waiting == 0
        held.let_go()
        with pytest.raises(ValueError, match="point_labels are given without"):
            await hover.run(images.predictor.predict, point_labels=[1])

    wait_for(main())


def test_a_full_queue_is_an_error_not_a_wait(nano_model: SAM2) -> None:
    async def main() -> None:
        with Worker(max_waiting=1) as worker:
            predictor = aio.AsyncImagePredictor(SAM2ImagePredictor(nano_model), worker)
            held = Held(worker)
            first = asyncio.ensure_future(predictor.reset_predictor())
            await asyncio.sleep(0)
            with pytest.raises(aio.BusyError, match="1 calls wait for the model already"):
                await predictor.reset_predictor()
            held.let_go()
            await first

    wait_for(main())

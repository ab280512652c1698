"""Tracking while the next frames are read, the next one is encoded and the last ones are written."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import synthetic
from mlx_sam2.frames.source import SequenceSource, VideoError
from mlx_sam2.model import compiled as compiling
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.track.run import Progress, TrackedFrame, Writer
from mlx_sam2.video.look_ahead import DEPTH, LookAhead
from short_videos import FLIP_TOL, assert_equal_outputs, clip, three_objects

FRAMES, WRITER = "mlx_sam2-frames", "mlx_sam2-writer"


@pytest.fixture(scope="module")
def model(nano_model: SAM2) -> SAM2:
    config = nano_model.config.with_postprocessing(True, video=True)
    return nano_model.with_config(dataclasses.replace(config, image_size=128))


@pytest.fixture(scope="module")
def predictor(model: SAM2) -> SAM2VideoPredictor:
    return SAM2VideoPredictor(model, fill_hole_area=8)


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(name)]


def source_of(frames: list[np.ndarray], ahead: bool = True) -> SequenceSource:
    source = SequenceSource(frames)
    source.reads_ahead = ahead
    return source


class Recorded(SequenceSource):
    """Knows which frames were read, and fails at one."""

    def __init__(self, length: int, broken: int | None = None) -> None:
        super().__init__(clip(length))
        self.broken, self.read, self.on = broken, [], set()

    def _read(self, i: int) -> np.ndarray:
        if i == self.broken:
            raise VideoError(f"frame {i} is broken")
        self.read.append(i)
        self.on.add(threading.current_thread().name)
        return super()._read(i)


# ---- reading ahead


def test_results_are_the_same_bits(predictor: SAM2VideoPredictor) -> None:
    outputs = []
    for ahead in (True, False):
        with predictor.init_state(source_of(clip(), ahead)) as state:
            outputs.append(three_objects(predictor, state))
    assert_equal_outputs(*outputs)
    assert not threads(FRAMES)


def test_backwards(predictor: SAM2VideoPredictor) -> None:
    outputs = []
    for ahead in (True, False):
        with predictor.init_state(source_of(clip(6), ahead)) as state:
            predictor.add_new_points_or_box(state, 5, 1, points=[[30, 20]], labels=[1])
            outputs.append(list(predictor.propagate_in_video(state, reverse=True)))
    assert [t for t, *_ in outputs[0]] == [5, 4, 3, 2, 1, 0]
    assert_equal_outputs(*outputs)


def test_frames_are_read_on_a_thread_and_only_a_few_ahead(predictor: SAM2VideoPredictor) -> None:
    source = Recorded(12)
    with predictor.init_state(source) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        source.on.clear()
        for t, _, _ in predictor.propagate_in_video(state):
            assert max(source.read) <= t + 1 + DEPTH + 1  # in work, waiting, being read
            assert len(threads(FRAMES)) == 1
    assert source.read == [*range(12)]  # frame 0 for the prompt: its features are there, and it is not read again
    assert source.on == {f"{FRAMES}_0"}


def test_a_frame_that_cannot_be_read_is_told_in_its_turn(predictor: SAM2VideoPredictor) -> None:
    seen = []
    with predictor.init_state(Recorded(8, broken=5)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        run = predictor.propagate_in_video(state)
        with pytest.raises(VideoError, match="frame 5 is broken"):
            seen.extend(t for t, _, _ in run)
    assert seen == [0, 1, 2, 3, 4]
    assert not threads(FRAMES)


@pytest.mark.parametrize("end", ["close", "session", "forget"])
def test_leaving_early_ends_the_thread(predictor: SAM2VideoPredictor, end: str) -> None:
    state = predictor.init_state(Recorded(50))
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    run = predictor.propagate_in_video(state)
    next(run), next(run)
    assert threads(FRAMES)
    if end == "close":
        run.close()
    elif end == "session":
        state.close()
    else:
        del run
    assert not threads(FRAMES)
    state.close()


@pytest.mark.slow
def test_prompts_between_two_frames(predictor: SAM2VideoPredictor) -> None:
    """Other frames are encoded meanwhile; what was encoded ahead is not lost, nor taken for them."""
    outputs = []
    for ahead in (True, False):
        with predictor.init_state(source_of(clip(6), ahead)) as state:
            predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
            found = []
            for t, ids, masks in predictor.propagate_in_video(state):
                found.append((t, ids, masks))
                if t == 2:
                    found.append(predictor.add_new_points_or_box(state, 5, 1, points=[[60, 30]], labels=[1]))
                    found.append(predictor.add_new_points_or_box(state, 3, 1, points=[[40, 20]], labels=[1]))
            outputs.append(found)
    assert_equal_outputs(*outputs)


def test_the_next_frame_is_queued_before_results_are_read(
    predictor: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    tracker, queue, started = predictor.tracker, LookAhead.queue, predictor.tracker._started

    def read_by_now(self: LookAhead, t: int) -> None:
        if t in dict(self._waiting):
            dict(self._waiting)[t].result()
        queue(self, t)
        events.append(("queued", t))

    def watched(*args: Any) -> Any:
        wait = started(*args)
        return lambda: (events.append("reads"), wait())[1]

    monkeypatch.setattr(LookAhead, "queue", read_by_now)
    monkeypatch.setattr(tracker, "_started", watched)
    with predictor.init_state(Recorded(4)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        events.clear()
        for t, _, _ in predictor.propagate_in_video(state):
            events.append(("given", t))
    assert events[:7] == [("queued", 1), ("given", 0), ("queued", 2), "reads", ("given", 1), ("queued", 3), "reads"]


def test_sources_of_users_are_read_when_a_frame_is_needed(predictor: SAM2VideoPredictor) -> None:
    """Their frames may not exist before, or belong to a thread."""

    class Frames(Sequence):
        def __len__(self) -> int:
            return 5

        def __getitem__(self, i: int) -> np.ndarray:
            read.append((i, threading.current_thread() is threading.main_thread()))
            return clip(5)[i]

    read: list[tuple[int, bool]] = []
    with predictor.init_state(Frames()) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        for t, _, _ in predictor.propagate_in_video(state):
            assert read[-1] == (t, True)


def test_a_file_read_by_two_threads(tmp_path: Path) -> None:
    """Frames in order on one, jumps on the other: the same frames as alone."""
    from mlx_sam2.frames.films import OverlaySink
    from mlx_sam2.frames.opening import open_source

    frames = clip(30)
    with OverlaySink(tmp_path / "clip.mp4", fps=10) as sink:
        for i, frame in enumerate(frames):
            sink.write(i, frame, {})
    with open_source(tmp_path / "clip.mp4") as source:
        source._cache.capacity = 2
        expected = [source[i].copy() for i in range(30)]
        wrong: list[int] = []

        def jump() -> None:
            order = np.random.default_rng(0).permutation(30)
            wrong.extend(i for i in order if not np.array_equal(source[int(i)], expected[i]))

        other = threading.Thread(target=jump)
        other.start()
        assert all(np.array_equal(source[i], expected[i]) for i in range(30))
        other.join()
    assert not wrong


# ---- writing


class Sink:
    refines = False

    def __init__(self, broken: int | None = None, slow: float = 0.0) -> None:
        self.written: list[int] = []
        self.broken, self.slow = broken, slow

    def write(self, i: int, *args: Any, **kwargs: Any) -> None:
        time.sleep(self.slow)
        if i == self.broken:
            raise VideoError(f"frame {i} cannot be written")
        self.written.append(i)


def tracked(i: int) -> TrackedFrame:
    return TrackedFrame(i, np.zeros((4, 4, 3), np.uint8), {1: np.zeros((4, 4), bool)}, {1: 1.0}, None)


def write(count: int, sink: Sink, progress: Progress, end: type[BaseException] | None = None) -> None:
    with Writer([sink], progress) as writer:
        for i in range(count):
            writer.put(tracked(i))
        if end is not None:
            raise end


def test_writer_keeps_the_order_and_writes_all() -> None:
    sink, progress = Sink(slow=0.002), Progress()
    with Writer([sink], progress) as writer:
        for i in range(20):
            writer.put(tracked(i))
            assert i - len(sink.written) <= 4
    assert sink.written == list(range(20))
    assert (progress.count, progress.first, progress.last.index) == (20, 0, 19)
    assert not threads(WRITER)


@pytest.mark.parametrize("broken", [2, 9])
def test_writer_stops_at_an_error(broken: int) -> None:
    """Also at one of the last frame; nothing behind it is written."""
    sink, progress = Sink(broken), Progress()
    with pytest.raises(VideoError, match=f"frame {broken} cannot"):
        write(10, sink, progress)
    assert sink.written == list(range(broken)) and progress.count == broken
    assert not threads(WRITER)


def test_writer_finishes_when_the_tracking_fails() -> None:
    sink, progress = Sink(slow=0.01), Progress()
    with pytest.raises(RuntimeError):
        write(3, sink, progress, RuntimeError)
    assert sink.written == [0, 1, 2] and progress.count == 3


def test_writer_ends_at_ctrl_c() -> None:
    sink, progress = Sink(slow=0.2), Progress()
    with pytest.raises(KeyboardInterrupt):
        write(3, sink, progress, KeyboardInterrupt)
    assert sink.written in ([], [0]) and progress.count == len(sink.written)
    assert not threads(WRITER)


# ---- shapes of compiled graphs


def signature(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple((n, (tuple(x.shape), str(x.dtype)) if isinstance(x, mx.array) else x) for n, x in tree_flatten(args))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[Any]]:
    """What would be compiled, by stage: one graph for each signature. Nothing is, it only runs as if."""
    found: dict[str, set[Any]] = {}

    def run(method: Any, module: Any, args: tuple[Any, ...]) -> Any:
        found.setdefault(method.__qualname__, set()).add(signature(args))
        return method(module, *args)

    monkeypatch.setattr(compiling, "compiles", lambda: True)
    monkeypatch.setattr(compiling, "run", run)
    return found


def long_run(predictor: SAM2VideoPredictor, frames: list[np.ndarray]) -> list[Any]:
    """A bank that fills, an object that comes later, a second prompted frame, one object gone."""
    with predictor.init_state(frames) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        found = list(predictor.propagate_in_video(state, max_frame_num_to_track=9))
        predictor.add_new_points_or_box(state, 10, 2, points=[[60, 30]], labels=[1])
        predictor.add_new_points_or_box(state, 10, 1, points=[[40, 20]], labels=[1])
        return found + list(predictor.propagate_in_video(state, start_frame_idx=10))


@pytest.mark.slow
def test_graphs_do_not_grow_with_the_video(predictor: SAM2VideoPredictor, graphs: dict[str, set[Any]]) -> None:
    counts = []
    for length in (36, 60):
        long_run(predictor, [clip(8)[i % 8] for i in range(length)])
        counts.append({stage: len(signatures) for stage, signatures in graphs.items()})
    assert counts[0] == counts[1]
    assert counts[0]["SAM2._track"] <= 12  # 1, 2, 4, 7 memories; 1, 2, ... 16 pointers; two memories more; two objects


@pytest.mark.slow
def test_padding_changes_no_result(
    predictor: SAM2VideoPredictor, graphs: dict[str, set[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = long_run(predictor, clip(16))
    monkeypatch.undo()
    assert_equal_outputs(long_run(predictor, clip(16)), padded, FLIP_TOL)


def test_padding_counts_for_nothing(model: SAM2) -> None:
    """Whatever it holds."""
    c, m, side = model.config.neck.d_model, model.config.memory_encoder.out_dim, model.config.embedding_size
    shapes = {"x": (1, side, side, c), "memories": (2, 7, side, side, m), "pointers": (2, 8, c)}
    x, memories, pointers = (mx.array(synthetic.normal(key, shape, 0)) for key, shape in shapes.items())
    times, ages = mx.array([[6, 0, 1, 2, 3, 4, 5]] * 2), mx.array([[0.1 * i for i in range(8)]] * 2)
    for count, num_pointers in ((3, 2), (7, 5), (4, 8)):
        exact = model.attend_memory(
            x, memories[:, :count], times[:, :count], pointers[:, :num_pointers], ages[:, :num_pointers]
        )
        present = mx.array([[i < count for i in range(7)] + [i < num_pointers for i in range(8)]] * 2)
        padded = model.attend_memory(x, memories, times, pointers, ages, present)
        without = model.attend_memory(x, memories, times, pointers, ages)
        assert np.abs(np.array(without - exact)).max() > 0.1
        np.testing.assert_allclose(np.array(padded), np.array(exact), rtol=0, atol=1e-6)  # measured: 0


@pytest.mark.slow
def test_a_compiled_tracker_gives_the_same(predictor: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = []
    for compiles in (False, True):
        monkeypatch.setattr(compiling, "compiles", lambda compiles=compiles: compiles)
        with predictor.init_state(clip(2)) as state:
            predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
            outputs.append(list(predictor.propagate_in_video(state)))
    assert_equal_outputs(*outputs, FLIP_TOL)

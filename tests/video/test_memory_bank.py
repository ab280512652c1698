"""What is recalled on a frame, and where results are kept."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.video.memory_bank import ObjectTrack, select_conditioning
from mlx_sam2.video.result_store import FrameResult, ResultStore

CONFIG = SAM2Config()


def result(t: int) -> FrameResult:
    """A result that carries its frame number in every part."""
    features = (mx.arange(12, dtype=mx.float32).reshape(2, 2, 3) + t).astype(mx.bfloat16)
    return FrameResult(np.full((8, 8), t + 0.125, np.float32), mx.full((4,), t, mx.float32), t - 0.5, features)


def track(conditioning: list[int], tracked: list[int], on_disk: bool = False, capacity: int = 99) -> ObjectTrack:
    store = ResultStore(on_disk)
    store.capacity = capacity
    made = ObjectTrack.empty(store)
    for frames, numbers in ((made.conditioning, conditioning), (made.tracked, tracked)):
        for t in numbers:
            frames[t] = result(t)
    return made


def frames_of(memories: list) -> list[int]:
    return [int(m.pointer[0].item()) for m in memories]


def recall(made: ObjectTrack, t: int, reverse: bool = False, num_frames: int | None = 100, **options):
    config = dataclasses.replace(CONFIG, **options)
    found = made.recall(t, reverse, num_frames, config)
    scale = max(min(num_frames or 16, 16) - 1, 1)
    distances = [round(time * scale) for time in found.pointer_times]
    return frames_of(found.memories), found.time_indices, frames_of(found.pointers), distances


def test_conditioning_frames_first_then_the_oldest() -> None:
    memories, indices, pointers, distances = recall(track([3, 0], list(range(4, 20))), 20)
    assert memories == [3, 0, 14, 15, 16, 17, 18, 19]  # conditioning in the order of insertion
    assert indices == [6, 6, 5, 4, 3, 2, 1, 0]
    assert pointers == [3, 0, *range(19, 4, -1)]
    assert distances == [17, 20, *range(1, 16)]


def test_missing_frames_are_skipped() -> None:
    memories, indices, *_ = recall(track([0], [5, 8]), 10)
    assert (memories, indices) == ([0, 5, 8], [6, 4, 1])


def test_reverse_looks_at_later_frames() -> None:
    memories, indices, pointers, distances = recall(track([20, 2], [11, 12, 13]), 10, reverse=True)
    assert (memories, indices) == ([20, 2, 13, 12, 11], [6, 6, 2, 1, 0])
    assert pointers == [20, 11, 12, 13]  # frame 2 lies ahead
    assert distances == [10, 1, 2, 3]


def test_a_conditioning_frame_ahead_gives_its_memory_but_no_pointer() -> None:
    memories, _, pointers, _ = recall(track([0, 30], [9]), 10)
    assert (memories, pointers) == ([0, 30, 9], [0, 9])


def test_unsigned_distances_of_sam_2_0() -> None:
    made = track([2, 30], [])
    options = {"only_obj_ptrs_in_the_past_for_eval": False}
    assert recall(made, 10, **options)[3] == [8, -20]
    assert recall(made, 10, use_signed_tpos_enc_to_obj_ptrs=False, **options)[3] == [8, 20]


@pytest.mark.parametrize(
    ("t", "reverse", "expected"),
    [
        (11, False, [0, 2, 4, 6, 8, 10]),
        (10, False, [0, 2, 4, 6, 8, 9]),
        (10, True, [20, 18, 16, 14, 12, 11]),
    ],
)
def test_temporal_stride(t: int, reverse: bool, expected: list[int]) -> None:
    memories, indices, *_ = recall(track([99], list(range(40))), t, reverse, memory_temporal_stride_for_eval=2)
    assert memories == [99, *expected]
    assert indices == [6, 5, 4, 3, 2, 1, 0]


def test_unselected_conditioning_frames_serve_as_tracked_ones() -> None:
    made = track([0, 8, 9, 30], [7])
    memories, indices, pointers, distances = recall(made, 10, max_cond_frames_in_attn=2)
    assert (memories, indices) == ([9, 30, 7, 8], [6, 6, 2, 1])  # 9 was chosen, so it does not come twice
    assert (pointers, distances) == ([9, 8, 7, 0], [1, 2, 3, 10])


def test_pointers_stop_where_the_video_does() -> None:
    made = track([0], [1, 2, 3])
    assert recall(made, 3, num_frames=4)[3] == [3, 1, 2]
    times = made.recall(3, False, 4, CONFIG).pointer_times
    assert times == [1.0, 1 / 3, 2 / 3]  # a short video divides by its own length
    assert made.recall(3, False, None, CONFIG).pointer_times == [3 / 15, 1 / 15, 2 / 15]


def test_a_video_of_one_frame_does_not_divide_by_zero() -> None:
    assert track([0], []).recall(0, False, 1, CONFIG).pointer_times == [0.0]


@pytest.mark.parametrize(
    ("t", "limit", "chosen"),
    [(10, -1, [5, 20, 1, 12]), (10, 4, [5, 20, 1, 12]), (10, 2, [5, 12]), (10, 3, [5, 12, 1]), (30, 2, [20, 12])],
)
def test_select_conditioning(t: int, limit: int, chosen: list[int]) -> None:
    frames = [5, 20, 1, 12]
    assert select_conditioning(t, frames, limit) == (chosen, [f for f in frames if f not in chosen])


def test_forgetting_changes_no_later_recall() -> None:
    for options in ({}, {"max_cond_frames_in_attn": 2}, {"memory_temporal_stride_for_eval": 3}):
        config = dataclasses.replace(CONFIG, **options)
        kept, forgetful = (track([0, 5, 6, 40], [t for t in range(80) if t not in (0, 5, 6, 40)]) for _ in range(2))
        for t in range(41, 80):
            assert recall(kept, t, **options) == recall(forgetful, t, **options)
            forgetful.forget_before(t + 1, config)
        assert len(forgetful.tracked) < 30 < len(kept.tracked)


def test_results_come_back_from_the_file_with_the_same_bits() -> None:
    made = track([], list(range(50)), on_disk=True, capacity=3)
    assert len(made.tracked._store._recent) == 3
    for t in (0, 49, 17, 17, 3, 48):
        ours, expected = made.tracked[t], result(t)
        np.testing.assert_array_equal(ours.low_res_mask, expected.low_res_mask)
        assert ours.object_score == expected.object_score
        assert mx.array_equal(ours.pointer, expected.pointer) and mx.array_equal(ours.features, expected.features)


def test_overwritten_and_deleted_results_give_their_place_back() -> None:
    made = track([], list(range(10)), on_disk=True, capacity=2)
    for _ in range(5):
        for t in range(10):
            made.tracked[t] = result(t + 100)
        del made.tracked[3]
        made.tracked[3] = result(103)
    assert made.tracked._store._next <= 11
    assert [made.tracked[t].object_score for t in range(10)] == [t + 99.5 for t in range(10)]
    assert list(made.tracked) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 3]  # an overwritten frame keeps its place


def test_a_full_disk_loses_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    made = track([], [0, 1, 2], on_disk=True, capacity=2)
    write, room = os.pwrite, 10  # bytes that still fit, of a record of hundreds
    monkeypatch.setattr(os, "pwrite", lambda file, data, offset: write(file, data[:room], offset))
    for _ in range(2):
        with pytest.raises(OSError, match="No space left on device; set TMPDIR to a folder with room, or use memory="):
            made.tracked[3] = result(3)
    assert list(made.tracked) == [0, 1, 2]
    monkeypatch.undo()
    made.tracked[3] = result(3)
    for t in range(4):
        assert made.tracked[t].object_score == t - 0.5
        assert mx.array_equal(made.tracked[t].features, result(t).features)


def test_a_store_that_nobody_closes_gives_its_file_back() -> None:
    store = ResultStore(on_disk=True)
    file = store._file._file
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del store
        assert file.closed
        del file
    assert caught == []


def open_temporary_files(pid: int) -> list[str]:
    found = []
    for link in list(Path(f"/proc/{pid}/fd").iterdir()):
        target = os.readlink(link) if link.is_symlink() else ""  # gone: the one that listed the folder
        if "mlx_sam2-" in target or "/#" in target:
            found.append(target)
    return found


FILLS_A_STORE = """
import sys, time
sys.path[:0] = ["tests/support", "tests/video"]
import mlx_sam2
from test_memory_bank import track
made = track([], list(range(50)), on_disk=True, capacity=3)
print("ready", flush=True)
if sys.argv[1] == "raise":
    raise RuntimeError("an exception")
if sys.argv[1] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize("end", ["normal", "raise", "wait"])
def test_the_temporary_file_is_gone_however_the_process_ends(end: str, tmp_path: Path) -> None:
    if not Path("/proc").is_dir():
        pytest.skip("looks at open files under /proc, which this system has not")
    process = subprocess.Popen(
        [sys.executable, "-c", FILLS_A_STORE, end],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout.readline() == b"ready\n"
    if end == "wait":
        assert len(open_temporary_files(process.pid)) == 1
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == {"normal": 0, "raise": 1, "wait": -signal.SIGTERM}[end]
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reason", ["gone", "none"])
def test_a_temporary_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    """Gone since the program began, or none that can be used."""
    if reason == "gone":
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    else:
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: [str(tmp_path / "gone")])
    with pytest.raises(OSError, match=r"no temporary file can be made: .*; set TMPDIR to a folder with room, or use"):
        ResultStore(on_disk=True)
    ResultStore(on_disk=False)


def test_a_temporary_folder_that_goes_while_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has no name, so it stays."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    store = ResultStore(on_disk=True)
    (tmp_path / "tmp").rmdir()
    slots = [store.add(result(t)) for t in range(3)]
    for t, slot in enumerate(slots):
        np.testing.assert_array_equal(store.get(slot).low_res_mask, result(t).low_res_mask)

"""examples/webcam.py on a clip in place of a camera, with and without its window, on the demo model."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from example_programs import COFFEE, WAIT, example, run_example
from mlx_sam2 import SAM2VideoPredictor, images
from mlx_sam2.frames.films import OverlaySink
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import VideoError
from mlx_sam2.images.drawing import draw_masks


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames that pan over the photo of coffee."""
    photo = images.read(COFFEE)
    path = tmp_path_factory.mktemp("clip") / "pan.mp4"
    with OverlaySink(path, fps=12) as sink:
        for t in range(12):
            sink.write(t, np.ascontiguousarray(photo[40:360, 4 * t : 4 * t + 480]), {})
    return path


def expected_pictures(clip: Path, clicks: dict[int, list[tuple[int, list[float], int]]]) -> list[np.ndarray]:
    """What webcam.py shows, from the stream itself; `clicks` by frame, as object, point and label."""
    predictor, pictures = SAM2VideoPredictor.from_pretrained("demo"), []
    with open_source(str(clip)) as source, predictor.stream() as stream:
        for t, frame in enumerate(source):
            _, ids, logits = stream.push(frame)
            for obj_id, point, label in clicks.get(t, []):
                _, ids, logits = stream.add_new_points_or_box(obj_id, [point], [label], clear_old_points=False)
            masks = {obj_id: mask[0] > 0 for obj_id, mask in zip(ids, logits, strict=True)}
            pictures.append(draw_masks(frame, masks))
    return pictures


@pytest.mark.slow
def test_the_webcam_follows_a_click_without_a_window(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "tracked.mp4"
    args = ["--source", clip, "--point", "270,110", "--no-window", "--output", target]
    done = run_example("webcam.py", *args)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"12 frames -> {re.escape(str(target))} \(\d+\.\d frames a second\)\n", done.stdout)
    expected = expected_pictures(clip, {0: [(1, [270, 110], 1)]})
    with open_source(str(target)) as video, open_source(str(clip)) as plain:
        assert video.num_frames == 12 and video.fps == pytest.approx(12)
        for shown, picture, frame in zip(video, expected, plain, strict=True):
            drawn = (picture != frame).any(axis=2)
            far = np.abs(frame[drawn].astype(int) - picture[drawn]).mean()
            assert drawn.sum() > 500 and np.abs(shown[drawn].astype(int) - picture[drawn]).mean() < far / 4  # H.264
    before = target.read_bytes()
    again = run_example("webcam.py", *args)
    assert again.returncode == 1 and again.stderr.startswith(f"webcam: {target} exists")
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("args", "code", "stderr"),
    [
        (["--source", "no.mp4", "--no-window", "--output", "x.mp4"], 1, "webcam: no.mp4 does not exist"),
        (["--source", "no.mp4", "--no-window"], 2, "add --output VIDEO.mp4"),
        (["--point", "here"], 2, "argument --point: invalid click value: 'here'"),
    ],
)
def test_the_webcam_complains_in_one_line(args: list[str], code: int, stderr: str) -> None:
    done = run_example("webcam.py", *args)
    assert done.returncode == code and stderr in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_a_camera_that_is_faster_than_the_model_loses_frames_not_time(monkeypatch: pytest.MonkeyPatch) -> None:
    webcam = example("webcam", monkeypatch)
    read = [threading.Event() for _ in range(6)]

    def camera() -> Iterator[np.ndarray]:
        for i, event in enumerate(read):
            yield np.full((2, 2, 3), i, np.uint8)
            event.set()  # when the next one is asked for

    rate = webcam.Rate()
    with contextlib.closing(webcam.Newest(camera(), rate)) as newest:
        assert read[-1].wait(WAIT)  # all came before the first was worked on
        assert [int(frame[0, 0, 0]) for frame in newest] == [5]
    assert rate.skipped == 5

    def broken() -> Iterator[np.ndarray]:
        yield np.zeros((2, 2, 3), np.uint8)
        raise VideoError("the camera has stopped")

    with (
        contextlib.closing(webcam.Newest(broken())) as newest,
        pytest.raises(VideoError, match="the camera has stopped"),
    ):
        list(newest)


def test_the_rate_of_the_last_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    webcam = example("webcam", monkeypatch)
    times = iter([*[0.0] * 10, *(t / 20 for t in range(31))])
    monkeypatch.setattr(webcam.time, "monotonic", lambda: next(times))
    rate = webcam.Rate()
    assert str(rate) == "0.0 frames a second"
    for _ in range(41):
        rate.tick()
    rate.skipped = 3
    assert str(rate) == "20.0 frames a second, 3 skipped"


@pytest.mark.slow
def test_objects_are_clicked_corrected_and_forgotten_in_the_window(
    qt: Any, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A click once the first frame is seen, an Alt-click, Backspace, Escape before the clip has ended."""
    from PySide6.QtCore import QPoint, Qt, QTimer
    from PySide6.QtTest import QTest

    webcam = example("webcam", monkeypatch)
    shown: list[np.ndarray] = []
    go = threading.Event()
    follow = webcam.follow

    def held(*args: Any) -> Iterator[np.ndarray]:
        """So that every click falls between two known frames."""
        for picture in follow(*args):
            yield picture
            assert go.wait(WAIT)
            go.clear()

    def drive() -> None:
        cameras = [widget for widget in qt.topLevelWidgets() if type(widget).__name__ == "Camera"]
        if not cameras or cameras[-1].frames == len(shown):
            return
        camera, button, none = cameras[-1], Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        shown.append(camera.picture)
        if len(shown) == 1:
            QTest.mouseClick(camera, button, none, QPoint(270, 110))
        elif len(shown) == 4:
            QTest.mouseClick(camera, button, Qt.KeyboardModifier.AltModifier, QPoint(450, 20))
        elif len(shown) == 7:
            camera.grab().save(str(tmp_path / "webcam.png"))
            QTest.keyClick(camera, Qt.Key.Key_Backspace)
        elif len(shown) == 9:
            QTest.keyClick(camera, Qt.Key.Key_Escape)
        go.set()

    monkeypatch.setattr(webcam, "follow", held)
    timer = QTimer()
    timer.timeout.connect(drive)
    timer.start(2)
    target = tmp_path / "seen.mp4"
    try:
        assert webcam.main(["--source", str(clip), "--output", str(target)]) == 0
    finally:
        timer.stop()
    clicks = {1: [(1, [270, 110], 1)], 4: [(1, [450, 20], 0)]}
    expected = expected_pictures(clip, clicks)[:7]
    with open_source(str(clip)) as source:
        expected += [source[7], source[8]]  # nothing is followed any more
    assert len(shown) == 9
    for t, (ours, theirs) in enumerate(zip(shown, expected, strict=True)):
        np.testing.assert_array_equal(ours, theirs, err_msg=f"frame {t}")
    assert not np.array_equal(expected[1], expected_pictures(clip, {})[1])  # something was followed
    with open_source(str(target)) as video:
        assert video.num_frames in (9, 10)  # the frame that was in work when the window was closed is written, too

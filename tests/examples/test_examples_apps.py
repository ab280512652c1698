"""The examples for app authors, each run on the demo model as its user would run it."""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mlx_sam2 import SAM2ImagePredictor, SAM2VideoPredictor, images
from mlx_sam2.frames.films import OverlaySink
from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import VideoError
from mlx_sam2.images.drawing import draw_masks

EXAMPLES = Path(__file__).parents[2] / "examples"
COFFEE = EXAMPLES / "coffee.jpg"
WAIT = 60  # seconds after which a test that hangs fails

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # for every Qt of these tests


@pytest.fixture(scope="module")
def demo() -> SAM2ImagePredictor:
    return SAM2ImagePredictor.from_pretrained("demo", dtype="float32")


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop(name, None)
    return importlib.import_module(name)


# ---- click_to_mask_qt.py


@pytest.fixture
def qt() -> Any:
    """The QApplication of this process."""
    widgets = pytest.importorskip("PySide6.QtWidgets", reason="PySide6 is not installed: pip install -e '.[examples]'")
    return widgets.QApplication.instance() or widgets.QApplication([])


@pytest.fixture
def window(qt: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    from PySide6.QtTest import QTest

    window = example("click_to_mask_qt", monkeypatch).Window("demo")
    window.resize(960, 720)
    window.show()
    assert QTest.qWaitForWindowActive(window)
    yield window
    window.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Let Qt work until something has happened."""
    from PySide6.QtTest import QTest

    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        QTest.qWait(5)


def says(window: Any) -> str:
    return window.statusBar().currentMessage()


def opened(window: Any, path: Path = COFFEE) -> None:
    window.open(path)
    until(lambda: window.canvas.photo is not None and window.canvas.photo.path == path, "the photo")


class Mouse:
    """A pointer over the window, in pixels of the photo."""

    def __init__(self, window: Any) -> None:
        from PySide6.QtCore import Qt
        from PySide6.QtTest import QTest

        self.canvas, self.qt, self.test = window.canvas, Qt, QTest

    def at(self, x: float, y: float) -> Any:
        return self.canvas.to_window(x, y).toPoint()

    def move(self, x: float, y: float) -> None:
        self.test.mouseMove(self.canvas, self.at(x, y))

    def click(self, x: float, y: float, alt: bool = False, right: bool = False) -> None:
        button = self.qt.MouseButton.RightButton if right else self.qt.MouseButton.LeftButton
        modifier = self.qt.KeyboardModifier.AltModifier if alt else self.qt.KeyboardModifier.NoModifier
        self.test.mouseClick(self.canvas, button, modifier, self.at(x, y))

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        button, none = self.qt.MouseButton.LeftButton, self.qt.KeyboardModifier.NoModifier
        self.test.mousePress(self.canvas, button, none, self.at(x0, y0))
        self.test.mouseMove(self.canvas, self.at((x0 + x1) / 2, (y0 + y1) / 2))
        self.test.mouseMove(self.canvas, self.at(x1, y1))
        self.test.mouseRelease(self.canvas, button, none, self.at(x1, y1))


def key(window: Any, standard: str) -> None:
    from PySide6.QtGui import QKeySequence
    from PySide6.QtTest import QTest

    QTest.keySequence(window, QKeySequence(getattr(QKeySequence.StandardKey, standard)))


def expected_mask(demo: SAM2ImagePredictor, prompts: Any) -> np.ndarray:
    """Of the predictor itself, for the prompts that the window holds."""
    masks, scores, _ = demo.predict(
        [point[:2] for point in prompts.points] or None,
        [point[2] for point in prompts.points] or None,
        box=prompts.box,
        multimask_output=prompts.box is None and len(prompts.points) == 1,
    )
    return masks[scores.argmax()]


def test_clicks_boxes_and_undo_in_the_window(window: Any, demo: SAM2ImagePredictor, tmp_path: Path) -> None:
    demo.set_image(images.read(COFFEE))
    opened(window)
    mouse, answers = Mouse(window), []

    def answered() -> Any:
        prompts = window.history[-1]
        before = answers[-1] if answers else None
        until(lambda: window.answer is not before and window.answer is not None, "an answer")
        answers.append(window.answer)
        np.testing.assert_array_equal(window.answer.mask, expected_mask(demo, prompts))
        return prompts

    mouse.click(290, 150)
    assert answered().points == ((pytest.approx(290, abs=0.7), pytest.approx(150, abs=0.7), 1),)  # a window pixel off
    mouse.click(500, 100, alt=True)
    assert [label for _, _, label in answered().points] == [1, 0]
    mouse.click(60, 360, right=True)
    assert [label for _, _, label in answered().points] == [1, 0, 0]
    mouse.drag(170, 60, 460, 340)
    prompts = answered()
    assert prompts.points == () and prompts.box == pytest.approx((170, 60, 460, 340), abs=1)
    assert says(window) == f"Score {answers[3].score:.2f}, {int(answers[3].mask.sum()):,} pixels"
    for i in (2, 1, 0):
        key(window, "Undo")
        answered()
        np.testing.assert_array_equal(answers[-1].mask, answers[i].mask)
    key(window, "Undo")
    assert window.answer is None and window.canvas.tints == {} and says(window).startswith("Click on an object")
    key(window, "Undo")
    key(window, "Redo")
    answered()
    np.testing.assert_array_equal(answers[-1].mask, answers[0].mask)
    assert window.grab().save(str(tmp_path / "window.png"))
    picture = np.array(Image.open(tmp_path / "window.png").convert("RGB")).astype(int)
    at = window.canvas.mapTo(window, mouse.at(290, 150))
    assert picture[at.y(), at.x()].tolist() == [40, 167, 69]  # the green of the click
    y, x = np.argwhere(window.answer.mask)[0]
    inside = window.canvas.mapTo(window, mouse.at(x + 0.5, y + 0.5))
    photo = images.read(COFFEE)[y, x].astype(int)
    assert picture[inside.y(), inside.x()][2] - photo[2] > 20  # tinted blue


def test_a_preview_follows_the_pointer(window: Any) -> None:
    opened(window)
    mouse = Mouse(window)
    mouse.move(290, 150)
    until(lambda: "preview" in window.canvas.tints, "a preview")
    assert window.answer is None
    window.canvas.leaveEvent(None)
    assert "preview" not in window.canvas.tints
    mouse.click(290, 150)
    until(lambda: window.answer is not None, "an answer")
    mouse.move(100, 100)
    assert window.worker.waiting == 0 and "preview" not in window.canvas.tints  # none once something is prompted


def test_the_window_goes_on_while_the_model_works(window: Any) -> None:
    """The worker is held up; the window must answer all the same, and only the newest preview may wait."""
    from PySide6.QtTest import QTest

    opened(window)
    entered, let_go = threading.Event(), threading.Event()
    window.worker.submit(lambda: (entered.set(), let_go.wait(WAIT)))
    assert entered.wait(WAIT)
    mouse = Mouse(window)
    for x in range(200, 240):
        mouse.move(x, 150)
        QTest.qWait(1)
    assert window.worker.waiting == 1
    mouse.click(290, 150)
    mouse.click(300, 150)
    assert len(window.history) == 3 and window.answer is None and window.worker.waiting == 2
    assert len(window.canvas.prompts.points) == 2  # they are drawn at once
    window.resize(640, 480)
    QTest.qWait(10)
    assert window.canvas.width() == 640
    said, say = [], window.say
    window.say = lambda text: (said.append(text), say(text))
    let_go.set()
    reached: list[int] = []
    window._then(window.worker.submit(int), reached.append)
    until(lambda: bool(reached), "the end of the queue")
    assert window.answer is not None and len(window.history[-1].points) == 2
    assert [text.split()[0] for text in said] == ["Score"]  # that to the first click alone came too late to be shown


def test_the_window_saves_and_drops_and_complains(
    window: Any, qt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PySide6.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
    from PySide6.QtGui import QDragEnterEvent, QDropEvent
    from PySide6.QtWidgets import QFileDialog

    def drop(path: Path) -> None:
        data = QMimeData()
        data.setUrls([QUrl.fromLocalFile(str(path))])
        rest = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
        entered = QDragEnterEvent(QPoint(9, 9), *rest)
        qt.sendEvent(window, entered)
        assert entered.isAccepted()
        qt.sendEvent(window, QDropEvent(QPointF(9, 9), *rest))

    key(window, "Save")
    assert says(window) == "There is no mask to save: click on an object first"
    drop(COFFEE)
    until(lambda: window.canvas.photo is not None, "the photo")
    Mouse(window).click(290, 150)
    until(lambda: window.answer is not None, "an answer")

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(COFFEE.read_bytes()[:3000])
    drop(broken)
    assert not window.canvas.isEnabled()
    until(lambda: "broken.jpg is damaged or cut short" in says(window), "a complaint")
    assert window.canvas.photo.path == COFFEE and window.canvas.isEnabled()  # the photo before is still there

    target = tmp_path / "mask.png"
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(target), ""))
    key(window, "Save")
    assert says(window) == f"Saved {target}"
    np.testing.assert_array_equal(np.array(Image.open(target)), 255 * window.answer.mask)
    monkeypatch.setattr(QFileDialog, "getSaveFileName", lambda *args: (str(tmp_path / "no" / "mask.png"), ""))
    key(window, "Save")
    assert "there is no folder" in says(window)


def test_a_model_that_cannot_be_loaded_is_told_in_the_window(qt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    window = example("click_to_mask_qt", monkeypatch).Window("./no/such/model")
    until(lambda: "no such file or folder: ./no/such/model" in says(window), "a complaint")
    window.open(COFFEE)
    until(lambda: window.canvas.isEnabled() and "./no/such/model" in says(window), "the same again")
    assert window.canvas.photo is None
    window.close()


# ---- droplet.py


def run_example(name: str, *args: Any, stdin: str = "", path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PYTHONPATH=str(EXAMPLES.parent))
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, args)],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * WAIT,
        check=False,
    )


def stand_in(folder: Path, name: str) -> Path:
    """A command that writes down what it was called with, one argument on each line."""
    folder.mkdir(exist_ok=True)
    log = folder / f"{name}.log"
    (folder / name).write_text(f'#!/bin/sh\nfor one in "$@"; do printf "%s\\n" "$one"; done > "{log}"\n')
    (folder / name).chmod(0o755)
    return log


def test_the_droplet_cuts_out_what_it_is_given(demo: SAM2ImagePredictor, tmp_path: Path) -> None:
    folder = tmp_path / "my photos"
    folder.mkdir()
    image = images.read(COFFEE)
    Image.fromarray(image).save(folder / "one.png")
    (folder / "notes.txt").write_text("no photo")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo either")
    note = stand_in(tmp_path / "bin", "osascript")

    done = run_example("droplet.py", folder, broken, path=tmp_path / "bin")
    target = folder / "one_cutout.png"
    assert (done.returncode, done.stdout) == (1, f"{target}\n"), done.stderr
    assert done.stderr == f"droplet: {broken} is not an image that can be read (JPEG, PNG, WebP, TIFF, ...)\n"
    assert note.read_text().splitlines()[-1] == "1 done, 1 failed"

    demo.set_image(image)
    masks, scores, _ = demo.predict([[300, 200]], [1])  # the middle of 600 x 400
    mask = masks[scores.argmax()].astype(bool)
    np.testing.assert_array_equal(np.array(Image.open(target)), np.dstack([image * mask[..., None], mask * 255]))

    before = target.read_bytes()
    again = run_example("droplet.py", stdin=f"{folder}\n")
    assert (again.returncode, again.stdout) == (1, "") and f"{target} exists: give another name" in again.stderr
    assert target.read_bytes() == before
    elsewhere = run_example("droplet.py", "--overwrite", "--at", "0.1,0.9", stdin=f"{folder}\n")
    assert (elsewhere.returncode, elsewhere.stdout) == (0, f"{target}\n"), elsewhere.stderr
    assert target.read_bytes() != before


def test_the_droplet_can_be_made_into_an_app(tmp_path: Path) -> None:
    app = tmp_path / "Cut out.app"
    nowhere = run_example("droplet.py", "--make", app)
    if shutil.which("osacompile") is None:
        assert nowhere.returncode == 1 and nowhere.stderr.startswith("droplet: --make needs osacompile")
    log = stand_in(tmp_path / "bin", "osacompile")
    done = run_example("droplet.py", "--make", app, "--model", 'a "b" model', path=tmp_path / "bin")
    assert (done.returncode, done.stdout) == (0, f"{app}\n"), done.stderr
    script = log.read_text()
    assert script.startswith(f"-o\n{app}\n-e\non open theFiles\n")
    # unescape what AppleScript would hand to the shell, and let the shell split it
    literal = script.partition("do shell script ")[2].partition(" & thePaths")[0]
    command = literal[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    words = shlex.split(command)
    assert words == [sys.executable, str(EXAMPLES / "droplet.py"), "--model", 'a "b" model', "--at", "0.5,0.5"]
    app.mkdir()
    again = run_example("droplet.py", "--make", app, path=tmp_path / "bin")
    assert again.returncode == 1 and again.stderr == (
        f"droplet: {app} exists: give another name, or --overwrite to replace it\n"
    )


@pytest.mark.parametrize(
    ("args", "stderr"),
    [
        ([], "no photo was given"),
        (["--model", "./nowhere", "x.jpg"], "droplet: no such file or folder: ./nowhere"),
        (["--at", "2,0.5", "x.jpg"], "argument --at: invalid position value: '2,0.5'"),
        (["--make", "x"], "osacompile" if shutil.which("osacompile") is None else "must end in .app"),
    ],
)
def test_the_droplet_complains_in_one_line(args: list[str], stderr: str) -> None:
    done = run_example("droplet.py", *args)
    assert done.returncode in (1, 2) and stderr in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


# ---- webcam.py


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
    assert (done.returncode, done.stdout) == (0, f"12 frames -> {target}\n"), done.stderr
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

    with contextlib.closing(webcam.Newest(camera())) as newest:
        assert read[-1].wait(WAIT)  # all came before the first was worked on
        assert [int(frame[0, 0, 0]) for frame in newest] == [5]

    def broken() -> Iterator[np.ndarray]:
        yield np.zeros((2, 2, 3), np.uint8)
        raise VideoError("the camera has stopped")

    with (
        contextlib.closing(webcam.Newest(broken())) as newest,
        pytest.raises(VideoError, match="the camera has stopped"),
    ):
        list(newest)


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


# ---- notebook.ipynb


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """Cell by cell in a real kernel. It is kept without outputs, so that a change of it can be read."""
    reason = "nbclient or ipykernel is not installed: pip install -e '.[examples]'"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    import nbformat

    path = EXAMPLES / "notebook.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert path.stat().st_size < 20_000
    resources = {"metadata": {"path": str(EXAMPLES)}}
    environment = dict(os.environ, PYTHONPATH=str(EXAMPLES.parent), IPYTHONDIR=str(tmp_path))
    client = nbclient.NotebookClient(notebook, timeout=5 * WAIT, kernel_name="python3", resources=resources)
    with client.setup_kernel(env=environment):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
    shown = [output for cell in code for output in cell.outputs]
    text = "".join(output.text for output in shown if output.output_type == "stream")
    assert text.startswith("scores [") and text.endswith("the same masks: True\n")
    pictures = [output.data for output in shown if output.output_type == "execute_result"]
    assert len(pictures) == 6 and all("image/png" in picture for picture in pictures)

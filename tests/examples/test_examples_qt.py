"""examples/click_to_mask_qt.py: a real window without a screen, on the demo model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from example_programs import COFFEE, WAIT, example
from mlx_sam2 import SAM2ImagePredictor, images


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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

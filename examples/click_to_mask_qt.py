"""A window to click masks in, with PySide6 (pip install 'mlx-sam2[examples]'):

    python examples/click_to_mask_qt.py [PHOTO] [--model demo]

Drop a photo on it or press Ctrl-O. A click is on the object, an Alt-click (on a Mac: Option) or right click off it, and
dragging draws a box around it. Ctrl-Z and Ctrl-Shift-Z undo and redo, Ctrl-S saves the mask. The model works on the
thread of a `mlx_sam2.worker.Worker`, and its answers come back as signals, so the window never waits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PySide6.QtCore import QPointF, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QAction, QColor, QImage, QKeySequence, QPainter, QPen
from PySide6.QtWidgets import QApplication, QFileDialog, QMainWindow, QWidget

from mlx_sam2 import SAM2ImagePredictor, images
from mlx_sam2.worker import BusyError, Latest, Worker

SHOWN_SIDE = 2048  # photos are drawn at this size at most
COLOUR, PREVIEW = (30, 136, 255, 140), (255, 255, 255, 90)  # RGBA
HINT = "Click on an object; Alt-click what is not part of it; drag a box"


class Prompts(NamedTuple):
    points: tuple[tuple[float, float, int], ...] = ()  # x, y in pixels of the photo, 1 on the object or 0 off it
    box: tuple[float, float, float, float] | None = None


class Photo(NamedTuple):
    path: Path
    size: tuple[int, int]  # height, width
    shown: np.ndarray  # (h, w, 3), small enough to be drawn quickly


class Answer(NamedTuple):
    mask: np.ndarray  # (H, W), 0 or 1
    score: float
    tint: np.ndarray  # (h, w, 4): the mask in colour, as large as Photo.shown


# ---- what runs on the worker


def read_photo(loading: Future[SAM2ImagePredictor], path: Path) -> Photo:
    image = images.read(path)
    loading.result().set_image(image)
    shown = Image.fromarray(image)
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    return Photo(path, image.shape[:2], np.array(shown))


def decode(loading: Future[SAM2ImagePredictor], photo: Photo, prompts: Prompts, colour: tuple[int, ...]) -> Answer:
    masks, scores, _ = loading.result().predict(
        point_coords=[(x, y) for x, y, _ in prompts.points] or None,
        point_labels=[label for _, _, label in prompts.points] or None,
        box=prompts.box,
        multimask_output=prompts.box is None and len(prompts.points) == 1,  # one click may mean several things
    )
    best = int(scores.argmax())
    height, width = photo.shown.shape[:2]
    inside = np.array(Image.fromarray(masks[best].astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))
    return Answer(masks[best], float(scores[best]), inside[..., None] * np.array(colour, np.uint8))


# ---- the photo


class Canvas(QWidget):
    """Draws the photo, masks and prompts, and tells where the pointer is, in pixels of the photo."""

    clicked = Signal(float, float, int)
    boxed = Signal(float, float, float, float)
    hovered = Signal(float, float)
    left = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.photo: Photo | None = None
        self.tints: dict[str, np.ndarray] = {}  # "mask" and "preview"
        self.prompts = Prompts()
        self._pressed: QPointF | None = None
        self._drag: QRectF | None = None
        self.setMouseTracking(True)
        self.setMinimumSize(320, 240)

    def sizeHint(self) -> QSize:
        return QSize(960, 720)

    def area(self) -> QRectF:
        """Where the photo is drawn."""
        height, width = self.photo.size
        scale = min(self.width() / width, self.height() / height)
        return QRectF(
            (self.width() - width * scale) / 2, (self.height() - height * scale) / 2, width * scale, height * scale
        )

    def to_photo(self, at: QPointF) -> tuple[float, float]:
        area, (height, width) = self.area(), self.photo.size
        x, y = (at.x() - area.x()) * width / area.width(), (at.y() - area.y()) * height / area.height()
        return min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)

    def to_window(self, x: float, y: float) -> QPointF:
        area, (height, width) = self.area(), self.photo.size
        return QPointF(area.x() + x * area.width() / width, area.y() + y * area.height() / height)

    def mousePressEvent(self, event: Any) -> None:
        if self.photo is not None and self.area().contains(event.position()):
            self._pressed = event.position()

    def mouseMoveEvent(self, event: Any) -> None:
        if self.photo is None:
            return
        if self._pressed is None:
            if self.area().contains(event.position()):
                self.hovered.emit(*self.to_photo(event.position()))
            else:
                self.left.emit()
        elif (event.position() - self._pressed).manhattanLength() >= QApplication.startDragDistance():
            self._drag = QRectF(self._pressed, event.position()).normalized() & self.area()
            self.update()

    def mouseReleaseEvent(self, event: Any) -> None:
        pressed, drag, self._pressed, self._drag = self._pressed, self._drag, None, None
        if drag is not None:
            self.boxed.emit(*self.to_photo(drag.topLeft()), *self.to_photo(drag.bottomRight()))
        elif pressed is not None:
            off = event.button() == Qt.MouseButton.RightButton or event.modifiers() & Qt.KeyboardModifier.AltModifier
            self.clicked.emit(*self.to_photo(pressed), 0 if off else 1)
        self.update()

    def leaveEvent(self, event: Any) -> None:
        self.left.emit()

    def paintEvent(self, event: Any) -> None:
        painter = QPainter(self)
        painter.fillRect(self.rect(), QColor(32, 32, 34))
        if self.photo is None:
            painter.setPen(QColor(200, 200, 200))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, "Drop a photo here, or press Ctrl-O")
            return
        painter.setRenderHints(QPainter.RenderHint.Antialiasing | QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(self.area(), _image(self.photo.shown))
        for tint in self.tints.values():
            painter.drawImage(self.area(), _image(tint))
        painter.setPen(QPen(QColor(255, 214, 10), 2))
        if self._drag is not None:
            painter.drawRect(self._drag)
        if self.prompts.box is not None:
            x0, y0, x1, y1 = self.prompts.box
            painter.drawRect(QRectF(self.to_window(x0, y0), self.to_window(x1, y1)))
        painter.setPen(QPen(QColor("white"), 2))
        for x, y, label in self.prompts.points:
            painter.setBrush(QColor(40, 167, 69) if label else QColor(220, 53, 69))
            painter.drawEllipse(self.to_window(x, y), 6, 6)


def _image(pixels: np.ndarray) -> QImage:
    """A view of (h, w, 3) or (h, w, 4) uint8."""
    kind = QImage.Format.Format_RGB888 if pixels.shape[2] == 3 else QImage.Format.Format_RGBA8888
    return QImage(pixels.data, pixels.shape[1], pixels.shape[0], pixels.strides[0], kind)


# ---- the window


class Window(QMainWindow):
    answered = Signal(object, object)  # a future, and what takes its result: from the worker's thread to this one

    def __init__(self, model: str = "demo") -> None:
        super().__init__()
        self.worker = Worker()
        self.hover = Latest(self.worker)
        self.history, self.undone = [Prompts()], []  # the last one is shown
        self.answer: Answer | None = None
        self.canvas = Canvas()
        self.setCentralWidget(self.canvas)
        self.setAcceptDrops(True)
        self.setWindowTitle("Click to mask")
        self._add_actions()
        self.canvas.clicked.connect(self.add_point)
        self.canvas.boxed.connect(lambda *box: self.prompt(Prompts(box=box)))
        self.canvas.hovered.connect(self.preview)
        self.canvas.left.connect(self.end_preview)
        self.answered.connect(self._take)
        self.say(f"Loading {model} ...")
        self.loading = self.worker.submit(SAM2ImagePredictor.from_pretrained, model)
        self._then(self.loading, lambda _: self.say("Open a photo, or drop one here"))

    def _add_actions(self) -> None:
        bar = self.addToolBar("Tools")
        bar.setMovable(False)
        keys = QKeySequence.StandardKey
        for name, key, action in (
            ("Open", keys.Open, self.ask_for_photo),
            ("Undo", keys.Undo, self.undo),
            ("Redo", keys.Redo, self.redo),
            ("Save mask", keys.Save, self.ask_where_to_save),
        ):
            entry = QAction(name, self, shortcut=QKeySequence(key))
            entry.triggered.connect(action)
            bar.addAction(entry)

    def say(self, text: str) -> None:
        self.statusBar().showMessage(text)

    def _then(self, future: Future[Any], take: Callable[[Any], None]) -> None:
        future.add_done_callback(lambda done: self.answered.emit(done, take))

    def _take(self, future: Future[Any], take: Callable[[Any], None]) -> None:
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            self.canvas.setEnabled(True)
            self.say(str(error))
        else:
            take(future.result())

    # ---- photos

    def ask_for_photo(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a photo")
        if path:
            self.open(path)

    def open(self, path: str | Path) -> None:
        """Read and encode a photo. Until it is there the window shows the one before, and takes no clicks."""
        self.end_preview()
        self.canvas.setEnabled(False)
        self.say(f"Encoding {Path(path).name} ...")
        self._submit(self.worker, self._opened, read_photo, Path(path))

    def _opened(self, photo: Photo) -> None:
        self.canvas.photo = photo
        self.canvas.setEnabled(True)
        self.setWindowTitle(photo.path.name)
        self.undone.clear()
        self.history = [Prompts()]
        self._show_prompts()

    def dragEnterEvent(self, event: Any) -> None:
        if event.mimeData().hasUrls():
            event.acceptProposedAction()

    def dropEvent(self, event: Any) -> None:
        self.open(event.mimeData().urls()[0].toLocalFile())

    # ---- prompts

    def add_point(self, x: float, y: float, label: int) -> None:
        points, box = self.history[-1]
        self.prompt(Prompts((*points, (x, y, label)), box))

    def prompt(self, prompts: Prompts) -> None:
        self.undone.clear()
        self.history.append(prompts)
        self._show_prompts()

    def undo(self) -> None:
        if len(self.history) > 1:
            self.undone.append(self.history.pop())
            self._show_prompts()

    def redo(self) -> None:
        if self.undone:
            self.history.append(self.undone.pop())
            self._show_prompts()

    def _show_prompts(self) -> None:
        self.end_preview()
        prompts = self.canvas.prompts = self.history[-1]
        self.canvas.update()
        if prompts == Prompts():
            self._show(prompts, None)
        else:
            photo = self.canvas.photo
            self._submit(self.worker, lambda answer: self._show(prompts, answer), decode, photo, prompts, COLOUR)

    def _show(self, prompts: Prompts, answer: Answer | None) -> None:
        if prompts is not self.history[-1]:
            return  # undone, or added to, in the meantime
        self.answer = answer
        self.canvas.tints.clear()
        if answer is not None:
            self.canvas.tints["mask"] = answer.tint
        self.say(HINT if answer is None else f"Score {answer.score:.2f}, {int(answer.mask.sum()):,} pixels")
        self.canvas.update()

    def preview(self, x: float, y: float) -> None:
        """What a click here would give; only where nothing is prompted yet."""
        if self.history[-1] != Prompts() or not self.canvas.isEnabled():
            return
        prompts = Prompts(((x, y, 1),))
        photo, before = self.canvas.photo, self.history[-1]

        def show(answer: Answer) -> None:
            if photo is self.canvas.photo and before is self.history[-1] and self.canvas.underMouse():
                self.canvas.tints["preview"] = answer.tint
                self.canvas.update()

        self._submit(self.hover, show, decode, photo, prompts, PREVIEW)

    def end_preview(self) -> None:
        self.hover.cancel()
        if self.canvas.tints.pop("preview", None) is not None:
            self.canvas.update()

    def _submit(
        self, queue: Worker | Latest, take: Callable[[Any], None], function: Callable[..., Any], *args: Any
    ) -> None:
        try:
            self._then(queue.submit(function, self.loading, *args), take)
        except BusyError as error:
            self.say(str(error))

    # ---- the mask

    def ask_where_to_save(self) -> None:
        if self.answer is None:
            self.say("There is no mask to save: click on an object first")
            return
        name = self.canvas.photo.path.with_name(f"{self.canvas.photo.path.stem}_mask.png")
        path, _ = QFileDialog.getSaveFileName(self, "Save the mask", str(name), "PNG (*.png)")
        if path:
            self.save(path)

    def save(self, path: str | Path) -> None:
        """Write the mask, 255 inside and 0 outside. The dialog has asked before it gives a name that exists."""
        try:
            images.write(path, np.uint8(255) * self.answer.mask.astype(np.uint8), overwrite=True)
        except (images.ImageError, OSError) as error:
            self.say(str(error))
        else:
            self.say(f"Saved {path}")

    def closeEvent(self, event: Any) -> None:
        self.worker.shutdown(wait=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A window to click masks in.")
    parser.add_argument("photo", nargs="?", help="a photo to open")
    parser.add_argument("--model", default="demo", help="a published name, a Hub id, a folder or a file")
    args = parser.parse_args(argv)
    app = QApplication(sys.argv[:1])
    window = Window(args.model)
    if args.photo:
        window.open(args.photo)
    window.show()
    return app.exec()


if __name__ == "__main__":
    sys.exit(main())

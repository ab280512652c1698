"""The panel in napari: it keeps layers and prompts in step, and leaves the work to a `mlx_sam2.worker.Worker`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QLabel, QLineEdit, QPushButton, QSpinBox, QWidget

from mlx_sam2.worker import BusyError, Steps, Worker

from .session import Clicks, Frames, Session, open_session, prompt, track

COLOURS = {1: "limegreen", 0: "red"}  # of clicks on and off an object


class Panel(QWidget):
    answered = Signal(object, object)  # a future and what takes its result: from the worker's thread to this one

    def __init__(self, napari_viewer: ViewerModel) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.worker = Worker()
        self.session: Session | None = None
        self.points: Any = None
        self.masks: Any = None
        self.sent: dict[tuple[int, int], Clicks] = {}  # by object and frame: what the worker was told
        self.steps: Steps[Any] | None = None
        self.answered.connect(self._take)
        self._build()
        self.viewer.layers.events.removed.connect(self._forget)

    def _build(self) -> None:
        self.image = QComboBox()
        self.model = QLineEdit("demo")
        self.segment = QPushButton("Segment", clicked=self.start)
        self.object = QSpinBox(minimum=1, maximum=10_000, value=1)
        self.sign = QComboBox()
        self.sign.addItem("on the object", 1)
        self.sign.addItem("off it", 0)
        self.track = QPushButton("Track", clicked=self.start_tracking, enabled=False)
        self.cancel = QPushButton("Cancel", clicked=self.stop_tracking, enabled=False)
        self.status = QLabel("Choose an image and press Segment", wordWrap=True)
        form = QFormLayout(self)
        for name, widget in (
            ("image", self.image),
            ("model", self.model),
            ("", self.segment),
            ("object", self.object),
            ("clicks are", self.sign),
            ("", self.track),
            ("", self.cancel),
            ("", self.status),
        ):
            form.addRow(name, widget)
        self.object.valueChanged.connect(self._next_click)
        self.sign.currentIndexChanged.connect(self._next_click)
        self.viewer.layers.events.inserted.connect(self._list_images)
        self.viewer.layers.events.removed.connect(self._list_images)
        self._list_images()

    def _list_images(self) -> None:
        chosen = self.image.currentText()
        self.image.clear()
        self.image.addItems([layer.name for layer in self.viewer.layers if isinstance(layer, Image)])
        self.image.setCurrentText(chosen)

    # ---- the worker

    def _submit(self, take: Callable[[Any], None], function: Callable[..., Any], *args: Any) -> None:
        try:
            self._then(self.worker.submit(function, *args), take)
        except BusyError as error:
            self.status.setText(str(error))

    def _then(self, future: Future[Any], take: Callable[[Any], None]) -> None:
        future.add_done_callback(lambda done: self.answered.emit(done, take))

    def _take(self, future: Future[Any], take: Callable[[Any], None]) -> None:
        if future.cancelled():
            return
        if (error := future.exception()) is not None:
            self.segment.setEnabled(True)
            self.stop_tracking()
            self.status.setText(str(error))
        else:
            take(future.result())

    # ---- a session

    def start(self) -> None:
        """Begin anew with the image that is chosen."""
        if not self.image.currentText():
            self.status.setText("There is no image: open one first")
            return
        image = self.viewer.layers[self.image.currentText()]
        try:
            frames = Frames(image.data, image.rgb, tuple(image.contrast_limits))
        except ValueError as error:
            self.status.setText(str(error))
            return
        self._end_session()
        self.segment.setEnabled(False)
        self.status.setText(f"Loading {self.model.text()} ...")
        self._submit(lambda session: self._opened(session, image), open_session, self.model.text(), frames)

    def _opened(self, session: Session, image: Any) -> None:
        self.session = session
        self.segment.setEnabled(True)
        place = {"scale": image.scale[-image.ndim :], "translate": image.translate[-image.ndim :]}
        shape = image.data.shape[: image.ndim]  # without the colours
        self.masks = self.viewer.add_labels(np.zeros(shape, np.int32), name="SAM 2 masks", **place)
        self.points = self.viewer.add_points(
            ndim=image.ndim,
            name="SAM 2 clicks",
            features={"object": np.zeros(0, int), "label": np.zeros(0, int)},
            **place,
        )
        self.points.current_size = max(2, round(max(shape[-2:]) / 80))
        self.points.mode = "add"
        self.points.events.data.connect(self._clicked)
        self._next_click()
        self.track.setEnabled(len(session.state.source) > 1)
        self.status.setText("Click on an object")

    def _forget(self, event: Any) -> None:
        if event.value is self.points or event.value is self.masks:
            self._end_session()
            self.status.setText("Choose an image and press Segment")

    def _end_session(self) -> None:
        self.stop_tracking()
        if self.session is not None:
            self.worker.submit_always(self.session.state.close)
            self.points.events.data.disconnect(self._clicked)
        self.session, self.points, self.masks, self.sent = None, None, None, {}
        self.track.setEnabled(False)

    # ---- clicks

    def _next_click(self) -> None:
        """Give the clicks to come their object and their sign."""
        if self.points is None:
            return
        self.points.selected_data = set()  # or napari would recolour them
        self.points.feature_defaults = {"object": self.object.value(), "label": self.sign.currentData()}
        self.points.current_face_color = COLOURS[self.sign.currentData()]

    def _prompts(self) -> dict[tuple[int, int], Clicks]:
        prompts: dict[tuple[int, int], Clicks] = {}
        features = self.points.features
        for place, obj_id, label in zip(self.points.data, features["object"], features["label"], strict=True):
            t = round(place[0]) if self.points.ndim == 3 else 0
            key = (int(obj_id), int(t))
            prompts[key] = (*prompts.get(key, ()), (float(place[-1]), float(place[-2]), int(label)))
        return prompts

    def _clicked(self, event: Any) -> None:
        """Points came, went or moved: ask for the masks of what has changed."""
        prompts = self._prompts()
        masks = self.masks
        for obj_id, t in sorted(prompts.keys() | self.sent.keys()):
            clicks = prompts.get((obj_id, t), ())
            if clicks != self.sent.get((obj_id, t), ()):
                self.status.setText("Working ...")

                def show(answer: tuple[int, np.ndarray | None], gone: int = obj_id) -> None:
                    self._draw(masks, *answer, gone)

                self._submit(show, prompt, self.session, obj_id, t, clicks)
        self.sent = prompts

    def _draw(self, masks: Any, t: int, labels: np.ndarray | None, gone: int) -> None:
        frame = masks.data[t] if masks.ndim == 3 else masks.data
        if labels is None:
            frame[frame == gone] = 0
        else:
            frame[...] = labels
        masks.refresh()
        self.status.setText(f"{len(np.unique(frame[frame > 0]))} object(s) here")

    # ---- tracking

    def start_tracking(self) -> None:
        self.stop_tracking()
        self.steps = self.worker.steps(track, self.session)
        self.cancel.setEnabled(True)
        self.track.setEnabled(False)
        self._ask(self.steps, self.masks)

    def _ask(self, steps: Steps[Any], masks: Any) -> None:
        def show(answer: Any) -> None:
            if steps is not self.steps:
                return  # cancelled
            if answer is Steps.END:
                self.stop_tracking()
                self.status.setText("Tracked")
                return
            self._draw(masks, *answer, 0)
            self.status.setText(f"Tracked frame {answer[0] + 1} of {len(masks.data)}")
            self._ask(steps, masks)

        try:
            self._then(steps.next(), show)
        except BusyError as error:
            self.stop_tracking()
            self.status.setText(str(error))

    def stop_tracking(self) -> None:
        """End after the frame in work; what was tracked stays."""
        if self.steps is not None:
            self.steps.close()
            self.steps = None
            self.status.setText("Cancelled")
        self.cancel.setEnabled(False)
        self.track.setEnabled(self.session is not None and len(self.session.state.source) > 1)

"""Follow objects in front of a camera: click on one, and its mask stays on it.

    python examples/webcam.py [--source camera:0|clip.mp4] [--model edgetam] [--output tracked.mp4]

A click follows one more object, an Alt-click (on a Mac: Option) says what is not part of the newest one, Backspace
forgets all, Escape ends. The window needs PySide6 (pip install 'mlx-sam2[examples]'). Without a window:

    python examples/webcam.py --source clip.mp4 --point 320,240 --no-window --output tracked.mp4

Frames of a camera that come while the model works are skipped, so what is seen is never late; of a file none is. The
title of the window shows the rate of the last frames and the number of those that were skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from mlx_sam2.frames.opening import open_source
from mlx_sam2.frames.source import FrameSource, VideoError
from mlx_sam2.hub import HubError
from mlx_sam2.worker import Steps, Worker


class Click(NamedTuple):
    x: float  # pixels of the frame
    y: float
    label: int  # 1: one more object; 0: off the newest one


class Rate:
    """The rate of the last frames, and how many were skipped."""

    def __init__(self) -> None:
        self.skipped = 0
        self._times: deque[float] = deque(maxlen=31)

    def tick(self) -> None:
        """One more frame has been shown."""
        self._times.append(time.monotonic())

    def __str__(self) -> str:
        passed = self._times[-1] - self._times[0] if self._times else 0.0
        rate = (len(self._times) - 1) / passed if passed > 0 else 0.0
        return f"{rate:.1f} frames a second" + (f", {self.skipped} skipped" if self.skipped else "")


class Newest:
    """Iterates over the newest frame of a source each time; a thread of its own reads them all."""

    def __init__(self, frames: Iterable[np.ndarray], rate: Rate | None = None) -> None:
        self._frames = frames
        self._rate = Rate() if rate is None else rate
        self._changed = threading.Condition()
        self._frame: np.ndarray | None = None
        self._over = False
        self._error: VideoError | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for frame in self._frames:
                with self._changed:
                    if self._over:
                        return
                    self._rate.skipped += self._frame is not None
                    self._frame = frame
                    self._changed.notify()
        except VideoError as error:
            self._error = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify()

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frame is not None or self._over)
                frame, self._frame = self._frame, None
            if frame is not None:
                yield frame
            elif self._error is not None:
                raise self._error
            else:
                return

    def close(self) -> None:
        """Stop after the frame that is being read; only then may the source be closed."""
        with self._changed:
            self._over = True
        self._thread.join()


def follow(
    source: FrameSource,
    model: str,
    clicks: deque[Click | None],
    output: str | None = None,
    overwrite: bool = False,
    rate: Rate | None = None,
) -> Iterator[np.ndarray]:
    """Frames with the masks of what was clicked, (H, W, 3) uint8; a None among the clicks forgets all objects."""
    from mlx_sam2 import SAM2VideoPredictor, images
    from mlx_sam2.frames.films import OverlaySink

    with contextlib.ExitStack() as stack:
        stack.enter_context(source)
        sink = (
            stack.enter_context(OverlaySink(output, overwrite, fps=source.fps, display=source.display))
            if output
            else None
        )
        predictor = SAM2VideoPredictor.from_pretrained(model)
        stream = stack.enter_context(predictor.stream())
        is_live = not source.random_access
        frames = stack.enter_context(contextlib.closing(Newest(source, rate))) if is_live else source
        newest = 0
        for frame in frames:
            t, obj_ids, logits = stream.push(frame)
            while clicks:
                one = clicks.popleft()
                if one is None:
                    stream.reset()
                    obj_ids, logits = [], logits[:0]
                    continue
                newest = newest + 1 if one.label == 1 or not obj_ids else newest
                points, labels = [[one.x, one.y]], [one.label]
                t, obj_ids, logits = stream.add_new_points_or_box(newest, points, labels, clear_old_points=False)
            masks = {obj_id: mask[0] > 0 for obj_id, mask in zip(obj_ids, logits, strict=True)}
            if sink is not None:
                sink.write(t, frame, masks, time=None if is_live else source.time(t))
            yield images.draw_masks(frame, masks)


def watch(steps: Steps[np.ndarray], clicks: deque[Click | None], size: tuple[int, int], rate: Rate) -> Any:
    """A window that shows the steps as they come; made here, so that no window needs no PySide6."""
    from PySide6.QtCore import Qt, Signal
    from PySide6.QtGui import QImage, QPainter
    from PySide6.QtWidgets import QApplication, QWidget

    class Camera(QWidget):
        answered = Signal(object)  # the future of a frame, from the worker's thread

        def __init__(self) -> None:
            super().__init__()
            self.picture: np.ndarray | None = None
            self.frames, self.error = 0, ""
            self.answered.connect(self.show_frame)
            self.setWindowTitle("Loading the model ...")
            self.resize(size[1], size[0])
            self.ask()

        def ask(self) -> None:
            steps.next().add_done_callback(self.answered.emit)

        def show_frame(self, future: Any) -> None:
            if future.cancelled():
                return
            if (error := future.exception()) is not None:
                self.error = str(error)
                self.close()
                return
            picture = future.result()
            if picture is steps.END:
                self.close()
                return
            self.picture, self.frames = picture, self.frames + 1
            rate.tick()
            self.setWindowTitle(str(rate))
            self.update()
            self.ask()  # the next one, now that this one can be seen

        def paintEvent(self, event: Any) -> None:
            if self.picture is not None:
                height, width = self.picture.shape[:2]
                image = QImage(self.picture.data, width, height, 3 * width, QImage.Format.Format_RGB888)
                QPainter(self).drawImage(self.rect(), image)

        def mousePressEvent(self, event: Any) -> None:
            at = event.position()
            x, y = at.x() * size[1] / self.width(), at.y() * size[0] / self.height()
            clicks.append(Click(x, y, 0 if event.modifiers() & Qt.KeyboardModifier.AltModifier else 1))

        def keyPressEvent(self, event: Any) -> None:
            if event.key() == Qt.Key.Key_Backspace:
                clicks.append(None)
            elif event.key() == Qt.Key.Key_Escape:
                self.close()

        def closeEvent(self, event: Any) -> None:
            steps.close()

    app = QApplication.instance() or QApplication(sys.argv[:1])
    camera = Camera()
    camera.show()
    app.exec()
    return camera


def click(text: str) -> Click:
    x, y = map(float, text.split(","))
    return Click(x, y, 1)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="webcam", description="Follow objects in front of a camera.")
    parser.add_argument("--source", default="camera:0", help="a camera, a video file or a folder of frames (camera:0)")
    parser.add_argument("--point", type=click, action="append", default=[], metavar="X,Y", help="a click to begin with")
    parser.add_argument("--model", default="demo", help="a published name, a Hub id, a folder or a file (demo)")
    parser.add_argument("--output", help="write what is seen to this video, once it is over")
    parser.add_argument("--overwrite", action="store_true", help="replace a video that exists")
    parser.add_argument("--no-window", action="store_true", help="only write the video")
    args = parser.parse_args(argv)
    if args.no_window and not args.output:
        parser.error("without a window there is nothing to see: add --output VIDEO.mp4, or leave out --no-window")
    clicks: deque[Click | None] = deque(args.point)
    rate = Rate()
    try:
        source = open_source(args.source)
        with Worker() as worker:
            steps = worker.steps(follow, source, args.model, clicks, args.output, args.overwrite, rate)
            if args.no_window:
                frames = sum(1 for _ in (rate.tick() for _ in steps))
                print(f"{frames} frames -> {args.output} ({rate})")
            elif error := watch(steps, clicks, (source.height, source.width), rate).error:
                raise VideoError(error)
    except (ValueError, HubError, OSError) as error:  # ValueError: of videos, checkpoints and configurations
        print(f"webcam: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

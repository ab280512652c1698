"""The masks of a video as a data set: a sink that keeps run lengths and writes the data set when it is closed."""

from __future__ import annotations

import math
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

from ..frames.sinks import FrameSink, Masks, Scores
from ..masks.rle import mask_to_rle
from ..masks.scores import ObjectScores
from .formats import check_output, open_writer
from .frames import FileFrames, Frames, NoFrames
from .items import CLASS, DatasetObject, Item
from .masks import Mask, RleMask
from .writing import WriteOptions, Writer, save

WAITING = ".frames"  # where frames without files wait, within the provisional folder


class DatasetSink(FrameSink):
    """Writes one video as a data set in any format that is written.

    Masks are held as run lengths until the sink is closed; frames that have no file of their own go to disk as they
    come, as JPEG. The data set appears when the sink is closed, with the frames that it got. Without one, nothing does.

    Args:
        path: a folder, or a file for annotations alone.
        format_name: one of ``names.WRITTEN``.
        overwrite: replace what is there.
        name: of the video in the data set.
        classes: object id -> class name.
        others: the class of objects that have none there.
        frame_name: gives a frame's name for its index; else five digits.
        frame_path: gives a frame's file, which is copied as it is.

    Attributes:
        lost: what the format could not hold, when the sink has been closed.

    Raises:
        DatasetError: as ``check_output``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        format_name: str,
        overwrite: bool = False,
        *,
        name: str = "video",
        classes: Mapping[int, str] | None = None,
        others: str = CLASS,
        frame_name: Callable[[int], str] | None = None,
        frame_path: Callable[[int], Path] | None = None,
        options: WriteOptions | None = None,
    ) -> None:
        self._is_file = check_output(path, format_name, overwrite)
        super().__init__(path, overwrite)
        self.format_name, self._name = format_name, name
        self._classes, self._others = classes or {}, others
        self._options = options or WriteOptions(predictions=True)
        self._frame_name, self._frame_path = frame_name or "{:05d}".format, frame_path
        self._stack = ExitStack()
        self._writer: Writer | None = None
        self._size: tuple[int, int] | None = None
        self._indices: list[int] = []
        self._masks: dict[int, dict[int, Mask]] = defaultdict(dict)
        self._scores: dict[int, dict[int, float]] = defaultdict(dict)
        self.lost: Counter[str] = Counter()

    def _write(self, i: int, frame: np.ndarray, masks: Masks, scores: Scores, time: float | None) -> None:
        if self._writer is None:
            self._size = (frame.shape[0], frame.shape[1])
            opened = open_writer(self.path, self.format_name, options=self._options, overwrite=self._overwrite)
            self._writer = self._stack.enter_context(opened)
        if self._keeps_pixels:
            folder = self._writer.out / WAITING
            folder.mkdir(exist_ok=True)
            save(folder / f"{i:08d}.jpg", Image.fromarray(frame))
        self._indices.append(i)
        for obj, mask in masks.items():
            # An object that is never seen is an object, too.
            self._masks[obj].update({i: RleMask(mask_to_rle(mask))} if mask.any() else {})
            score = scores.get(obj)
            score = score.predicted_iou if isinstance(score, ObjectScores) else score
            if score is not None and math.isfinite(score):
                self._scores[obj][i] = float(score)

    @property
    def _keeps_pixels(self) -> bool:
        return not self._is_file and self._options.photos and self._frame_path is None

    def close(self) -> None:
        """Write the data set. DatasetError or OSError if it cannot be written."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        with self._stack.pop_all():
            writer.add(self._item(writer.out / WAITING))
            shutil.rmtree(writer.out / WAITING, ignore_errors=True)
        self.lost = writer.lost

    def _item(self, waiting: Path) -> Item:
        indices = sorted(self._indices)
        place = {i: k for k, i in enumerate(indices)}
        names = [self._frame_name(i) for i in indices]
        frames: Frames = NoFrames(len(indices), self._size or (0, 0), names)
        if self._frame_path is not None:
            frames = FileFrames([self._frame_path(i) for i in indices], self._size, names=names)
        elif self._keeps_pixels:
            frames = FileFrames([waiting / f"{i:08d}.jpg" for i in indices], self._size, names=names)
        objects = [
            DatasetObject(
                obj,
                self._classes.get(obj, self._others),
                {place[i]: mask for i, mask in sorted(masks.items())},
                {place[i]: score for i, score in sorted(self._scores[obj].items())},
            )
            for obj, masks in self._masks.items()
        ]
        return Item(self._name, frames, True, tuple(range(len(indices))), lambda: objects)

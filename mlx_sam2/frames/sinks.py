"""Sinks: the masks of a video as PNG files or JSON lines, frame by frame.

A sink writes each frame as it comes, so that a killed program leaves the frames it had finished: mask images and JSON
lines up to the last frame, an overlay video up to the last but one. A sink refuses an existing output when it is made,
unless `overwrite` is given; it makes or replaces its output when the first frame arrives.
"""

from __future__ import annotations

import fcntl
import json
import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..files import beside
from ..masks.boxes import mask_to_bbox
from ..masks.rle import mask_to_rle
from ..masks.scores import ObjectScores
from .source import VideoError

Masks = Mapping[Any, np.ndarray]  # object id -> bool (H, W)
Scores = Mapping[Any, float | ObjectScores]


def davis_palette() -> list[int]:
    """The 256 colours of DAVIS and PASCAL VOC masks, [r, g, b, r, g, ...] as `Image.putpalette` takes them.

    The bits of the index, lowest first, go to red, green and blue in turn, from their highest bit down.
    """
    colours = []
    for index in range(256):
        for channel in range(3):
            bits = (index >> (3 * level + channel) & 1 for level in range(3))
            colours.append(sum(bit << (7 - level) for level, bit in enumerate(bits)))
    return colours


def is_filled(folder: Path) -> bool:
    """Whether a folder's name is taken: by a file, or by a folder that holds something."""
    return os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))


def hold(path: Path, owner: object) -> Callable[[], object]:
    """Lock a file or a folder against other runs, until `owner` goes or the function that is returned is called.

    Raises:
        VideoError: another run holds it.
    """
    lock = os.open(path, os.O_RDONLY)
    unlock = weakref.finalize(owner, os.close, lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        unlock()
        raise VideoError(f"{path} is being written by another run: give another name") from None
    except OSError:  # a network drive without locks
        pass
    return unlock


class FrameSink:
    """One output for the masks of a video.

    `write` takes one frame: its index, its pixels (H, W, 3) uint8, and a bool mask (H, W) for each object id;
    if known also each object's score and the frame's time in seconds. `close` finishes the output; as a
    context manager, a sink is closed whether or not an error ends the block.

    Args:
        path: the output's place; its folder must exist.
        overwrite: replace an output that exists.

    Raises:
        VideoError: the output exists, or cannot be there.
    """

    refines = False  # whether it makes its own edges, of masks as the model gives them

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.path = Path(path)
        self._overwrite = overwrite
        self._refuse_taken()
        if not self.path.absolute().parent.is_dir():
            raise VideoError(f"{self.path} cannot be written: there is no folder {self.path.absolute().parent}")
        if self.path.exists() and not self.path.is_file() and not self.path.is_dir():
            raise VideoError(f"{self.path} is a pipe or a device: an output is a file or a folder")

    def write(
        self,
        frame_idx: int,
        frame: np.ndarray,
        masks: Masks,
        *,
        scores: Scores | None = None,
        time: float | None = None,
        filled: bool = False,
        logits: Masks | None = None,
    ) -> None:
        """Write one frame. VideoError if it does not fit the output; what was written before stays.

        ``filled`` says that the frame was not tracked; outputs note it. ``logits`` are low-resolution logits (h, w) by
        object, for outputs with soft edges.
        """
        self._check(frame_idx, frame, masks)
        self._filled = filled
        self._write(frame_idx, frame, masks, scores or {}, time)

    def _check(self, frame_idx: int, frame: np.ndarray, masks: Masks) -> None:
        for obj_id, mask in masks.items():
            if mask.dtype != bool or mask.shape != frame.shape[:2]:
                raise VideoError(
                    f"the mask of object {obj_id} on frame {frame_idx} is {mask.dtype} {mask.shape}: "
                    f"bool {frame.shape[:2]} is needed, the size of the frame"
                )

    def close(self) -> None:
        """Finish the output."""

    def __enter__(self) -> FrameSink:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _refuse_taken(self) -> None:
        if not self._overwrite and self._taken():
            raise VideoError(f"{self.path} exists already: give another name, or overwrite it (--overwrite)")

    def _taken(self) -> bool:
        return os.path.lexists(self.path)

    def _make_file(self) -> None:
        """Make the output's file, unless another program has made it since the sink was made."""
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | (0 if self._overwrite else os.O_EXCL), 0o666))
        except FileExistsError:
            self._refuse_taken()
            raise

    def _write(self, i: int, frame: np.ndarray, masks: Masks, scores: Scores, time: float | None) -> None:
        raise NotImplementedError


FILLED = PngInfo()  # of a mask between those of tracked frames
FILLED.add_text("Comment", "filled")


class PngSink(FrameSink):
    """A folder of indexed PNG files in the DAVIS layout: `00000.png`, object ids as pixel values, 0 for none.

    Where objects overlap, the lowest id is on top, as in the official `tools/vos_inference.py`. With
    `per_object` each object has a folder of its own, `001/00000.png`, with 1 where it is (the SA-V layout
    there). With `overwrite` the files of the same frames are replaced and others stay.

    Args:
        frame_name: gives a frame's name for its index, e.g. the source's `frame_name`; else five digits.
        palette: 768 values, default `davis_palette()`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = False,
        *,
        per_object: bool = False,
        frame_name: Callable[[int], str] | None = None,
        palette: list[int] | None = None,
    ) -> None:
        super().__init__(path, overwrite)
        if self.path.exists() and not self.path.is_dir():
            raise VideoError(f"{self.path} is a file: masks as PNG need a folder")
        self._per_object = per_object
        self._frame_name = frame_name or "{:05d}".format
        self._palette = palette or davis_palette()
        self._unlock: Callable[[], object] | None = None  # while frames are written

    def _taken(self) -> bool:
        return is_filled(self.path)

    def _make_folder(self) -> None:
        """Make the folder, and hold it against another run that would write into it at the same time."""
        self.path.mkdir(exist_ok=True)
        self._unlock = hold(self.path, self)
        try:
            self._refuse_taken()
        except VideoError:
            self.close()
            raise

    def close(self) -> None:
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def _write(self, i: int, frame: np.ndarray, masks: Masks, scores: Scores, time: float | None) -> None:
        lowest, highest, remedy = (0, None, "") if self._per_object else (1, 255, "; or use a folder per object")
        for obj_id in masks:
            if not isinstance(obj_id, (int, np.integer)) or obj_id < lowest or (highest and obj_id > highest):
                span = f"{lowest} to {highest}" if highest else f"{lowest} upwards"
                raise VideoError(f"object id {obj_id!r} cannot be written as PNG: ids go from {span}{remedy}")
        name = f"{self._frame_name(i)}.png"
        if self._unlock is None:
            self._make_folder()
        if self._per_object:
            for obj_id, mask in masks.items():
                folder = self.path / f"{obj_id:03d}"
                folder.mkdir(exist_ok=True)
                self._save(folder / name, mask.astype(np.uint8))
            return
        indices = np.zeros(frame.shape[:2], dtype=np.uint8)
        for obj_id in sorted(masks, reverse=True):
            indices[masks[obj_id]] = obj_id
        self._save(self.path / name, indices)

    def _save(self, path: Path, indices: np.ndarray) -> None:
        image = Image.fromarray(indices)
        image.putpalette(self._palette)
        with beside(path, replace=True) as part:
            image.save(part, format="PNG", pnginfo=FILLED if self._filled else None)


class RleSink(FrameSink):
    """COCO run-length encodings as JSON lines (`.jsonl`), one frame a line.

        {"frame": 3, "time": 0.1, "size": [H, W], "objects": [
            {"id": 1, "rle": {"size": [H, W], "counts": "..."}, "area": 812, "bbox": [x, y, w, h], "score":
            4.2, "predicted_iou": 0.93}]}

    `counts` is COCO's compressed string (`pycocotools.mask.decode` reads it); w and h of `bbox` count both
    end pixels; `score` is a logit, above 0 where the object is seen. `time` and scores are left out if they are not
    known. A frame that was not tracked has `"filled": true`.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        super().__init__(path, overwrite)
        self._file: Any = None

    def _write(self, i: int, frame: np.ndarray, masks: Masks, scores: Scores, time: float | None) -> None:
        line: dict[str, Any] = {"frame": int(i)}
        if time is not None:
            line["time"] = round(float(time), 6)
        if self._filled:
            line["filled"] = True
        line["size"] = [int(n) for n in frame.shape[:2]]
        line["objects"] = []
        for obj_id, mask in masks.items():
            entry = {
                "id": int(obj_id) if isinstance(obj_id, np.integer) else obj_id,
                "rle": mask_to_rle(mask),
            }
            entry["area"] = int(np.count_nonzero(mask))
            entry["bbox"] = mask_to_bbox(mask)
            score = scores.get(obj_id)
            if isinstance(score, ObjectScores):
                entry |= {"score": float(score.object_score), "predicted_iou": float(score.predicted_iou)}
            elif score is not None:
                entry["score"] = float(score)
            line["objects"].append(entry)
        text = json.dumps(line, separators=(",", ":")) + "\n"
        if self._file is None:
            self._make_file()
            self._file = self.path.open("w", encoding="utf-8")
        self._file.write(text)
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

"""A camera that a page shows: frames are tracked one by one as they come, and kept up to a number of them."""

from __future__ import annotations

import io
import secrets
import shutil
import threading
import warnings
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .history import mask_bytes, object_bytes
from .image_work import as_mask
from .media import frame_suffix
from .schemas import ApiError, LiveAsk, LiveFrame, Mask, Object, Prompt
from .session_store import Sessions

if TYPE_CHECKING:
    from pathlib import Path

    from ..sam2_video_predictor import SAM2VideoPredictor
    from ..video.stream import VideoStream
    from .session import Session

RECORDED = 600  # frames that are kept
OBJECTS = 8
PIXELS = 1920 * 1440


class Live:
    """One camera. `push` and `close` belong on the worker's thread, `record` on a reader's."""

    def __init__(self, predictor: SAM2VideoPredictor, sessions: Sessions) -> None:
        self.id = secrets.token_urlsafe(12)
        self.sessions = sessions
        self.folder = sessions.new_folder()
        self.disk = 0
        self.recorded = 0
        self.ended = False
        self._stream: VideoStream | None = predictor.stream()
        self._size: tuple[int, ...] | None = None
        self._clicks: dict[int, dict[int, Prompt]] = {}  # object -> frame
        self._masks: dict[int, dict[int, Mask]] = {}

    @property
    def frames(self) -> Path:
        return self.folder / "frames"

    def push(self, data: bytes, picture: np.ndarray, ask: LiveAsk) -> LiveFrame:
        """Track a frame, after a click on it if there is one.

        Raises:
            ApiError: the camera was ended, a frame has another size, or there are too many objects.
        """
        if self.ended:
            raise ApiError(404, "not_found", "this camera has ended")
        if self._stream is None:
            text = "another model was chosen: keep what was recorded, or begin again"
            raise ApiError(409, "changed", text)
        self._size = self._size or picture.shape
        if picture.shape != self._size:
            raise ApiError(422, "bad_request", "all frames of a camera must have one size: begin again")
        click = ask.click(picture.shape[1], picture.shape[0])
        if click is not None and ask.object not in self._stream.obj_ids and len(self._stream.obj_ids) >= OBJECTS:
            raise ApiError(409, "full", f"a camera has {OBJECTS} objects at most")
        frame, ids, logits = self._stream.push(picture)
        if click is not None:
            x, y, label = click
            frame, ids, logits = self._stream.add_new_points_or_box(ask.object, points=[[x, y]], labels=[label])
        scores = self._stream.object_scores
        masks = {obj_id: as_mask(logits[i, 0] > 0, scores[obj_id]) for i, obj_id in enumerate(ids)}
        if self.recorded < RECORDED:
            kept = self.recorded  # not `frame`: one that found no room on the disk leaves no gap
            self._record(kept, data)
            for obj_id, mask in masks.items():
                self._masks.setdefault(obj_id, {})[kept] = mask
            if click is not None:
                self._clicks.setdefault(ask.object, {})[kept] = Prompt(points=[click])
        return LiveFrame(frame=frame, recorded=self.recorded, masks={str(n): mask for n, mask in masks.items()})

    def _record(self, frame: int, data: bytes) -> None:
        self.sessions.take_disk(len(data))
        self.disk += len(data)
        self.frames.mkdir(exist_ok=True)
        with open(self.frames / f"{frame:05d}.jpg", "wb") as file:
            file.write(data)
        self.recorded += 1

    def fill(self, session: Session) -> None:
        """Give the session of the kept frames what was clicked and tracked."""
        for obj_id in sorted(self._clicks):
            known = session.object_or_new(obj_id, self.sessions.limits)
            frames = {str(t): prompt for t, prompt in self._clicks[obj_id].items()}
            obj = Object(**{**known.model_dump(), "frames": frames})
            self.sessions.take_masks(session, object_bytes(obj))
            session.objects[obj_id] = obj
            for t, mask in self._masks.get(obj_id, {}).items():
                self.sessions.take_masks(session, mask_bytes(mask))
                session.set_mask(obj_id, t, mask)

    def close(self, keep: bool = False) -> None:
        """End tracking; without `keep` the frames are removed."""
        if self.ended:
            return
        self.ended = True
        self.stop()
        if not keep:
            self.discard()

    def stop(self) -> None:
        """Track no more, and let go of the model; what was recorded can still be kept."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.sessions.give_disk(None, self.disk)
        self.disk = 0


class Lives:
    """The camera that is on: a new one ends the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: Live | None = None

    def swap(self, live: Live | None) -> Live | None:
        """Put a camera in place of the one that is on, which is returned."""
        with self._lock:
            before, self._live = self._live, live
        return before

    def get(self, live_id: str) -> Live:
        with self._lock:
            return self._found(live_id)

    def _found(self, live_id: str) -> Live:
        if self._live is None or self._live.id != live_id:
            raise ApiError(404, "not_found", "there is no such camera: it has ended, or another page has begun one")
        return self._live

    def take(self, live_id: str) -> Live:
        """The camera, which nobody else finds any more."""
        with self._lock:
            live = self._found(live_id)
            self._live = None
        return live

    def stop(self) -> None:
        """Have the camera that is on track no more. Call it on the worker's thread."""
        with self._lock:
            live = self._live
        if live is not None:
            live.stop()


def decoded(data: bytes) -> np.ndarray:
    """A frame of a camera, JPEG, as (H, W, 3) uint8.

    Raises:
        ApiError: it is none, is damaged, or too large.
    """
    if frame_suffix(data[:16]) != ".jpg":
        raise ApiError(415, "unsupported", "the frames of a camera must be JPEG")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                if image.width * image.height > PIXELS:
                    text = f"{image.width} x {image.height} pixels: frames of a camera may have {PIXELS:,}"
                    raise ApiError(413, "too_large", text)
                return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError):
        raise ApiError(415, "unsupported", "this frame of a camera is damaged") from None

"""One session: an open picture or video with its objects, prompts and masks."""

from __future__ import annotations

import secrets
import threading
import time
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ..images.drawing import object_colour
from ..masks.rle import rle_area
from .events import Hub
from .history import History
from .media import NAME_LENGTH, Limits, SharedSource, shown_name
from .schemas import (
    MAX_OBJECT,
    ApiError,
    Brief,
    Kind,
    Mask,
    Object,
    ObjectScores,
    Prompt,
    Rle,
    Saving,
    Scores,
    SessionState,
    Status,
    Timeline,
)

if TYPE_CHECKING:
    from .image_work import ImageWork
    from .job import Job
    from .saves import Save
    from .video_work import VideoWork


class Session:
    """One picture or video. Its objects and masks are changed under `lock`.

    `folder` holds uploads and exports, and is removed with the session. `work` is the encoded picture or video; only
    the worker thread uses it. `source` and `work` are dropped while other sessions are in use, and made again.
    """

    def __init__(self, kind: Kind, name: str, path: Path, folder: Path, source: SharedSource, hub: Hub) -> None:
        self.id = secrets.token_urlsafe(12)  # one that is opened again gets its old one
        self.kind, self.name, self.path, self.folder = kind, name, path, folder
        self.width, self.height, self.num_frames = source.width, source.height, source.num_frames or 1
        self.fps = source.fps
        self.status: Status = "encoding"
        self.message = ""
        self.objects: dict[int, Object] = {}  # replaced, never changed: earlier edits hold them too
        self.masks: dict[int, dict[int, Mask]] = {}
        self.mask_bytes = 0  # of its masks, and of those that its edits have replaced
        self.history = History()
        self.saving: Saving = "off"
        self.save: Save | None = None
        self.jobs: dict[str, Job] = {}
        self.lock = threading.RLock()
        self.turn = threading.RLock()  # held from the check of an edit's revision until it is made; before `lock`
        self.hub = hub
        self.source: SharedSource | None = source
        self.strip: SharedSource | None = None  # a decoder of the timeline's own: its leaps do not disturb playing
        self.work: ImageWork | VideoWork | None = None
        self.memory_policy: str | None = None  # that it was tracked with; None: that of the app
        self.pins = 0
        self.disk = 0
        self.closed = False
        self.stays = False  # the one of the command line is not closed because nobody looks
        self.used = time.monotonic()

    def rename(self, name: str) -> None:
        """Change the name, not the ending: exports are named after it. OSError where it cannot be saved."""
        ending = Path(self.name).suffix
        stem = shown_name((name[: -len(ending)] if ending and name.endswith(ending) else name).strip())
        with self.lock:
            if self.closed:
                raise ApiError(404, "not_found", "this session was closed")
            name = stem[: NAME_LENGTH - len(ending)] + ending
            if self.save is not None:
                self.save.rename(name)
            self.name = name

    # ---- its state

    def brief(self) -> Brief:
        return Brief(
            id=self.id,
            kind=self.kind,
            name=self.name,
            width=self.width,
            height=self.height,
            frames=self.num_frames,
            fps=self.fps,
            status=self.status,
            message=self.message,
        )

    def state(self) -> SessionState:
        with self.lock:
            return SessionState(
                **self.brief().model_dump(),
                objects=[self.objects[obj_id] for obj_id in sorted(self.objects)],
                timeline=self._timeline(),
                jobs=[job.state() for job in self.running],
                revision=self.history.revision,
                oldest=self.history.oldest,
                saving=self.saving,
                clients=dict(self.history.clients),
            )

    def _timeline(self) -> Timeline:
        seen: dict[str, list[tuple[int, int]]] = {}
        empty: dict[str, list[tuple[int, int]]] = {}
        for obj_id, masks in self.masks.items():
            seen[str(obj_id)] = _ranges([t for t, mask in masks.items() if mask.area])
            empty[str(obj_id)] = _ranges([t for t, mask in masks.items() if not mask.area])
        prompted = {str(obj_id): sorted(map(int, obj.frames)) for obj_id, obj in self.objects.items()}
        return Timeline(frames=self.num_frames, prompted=prompted, tracked=seen, empty=empty)

    def require_frame(self, frame: int) -> None:
        if not 0 <= frame < self.num_frames:
            raise ApiError(404, "not_found", f"there is no frame {frame}: frames are 0 to {self.num_frames - 1}")

    def require_prompt(self, prompt: Prompt) -> None:
        """Refuse a prompt that lies outside the picture."""
        width, height = self.width, self.height
        for x, y, _ in prompt.points:
            if x > width or y > height:
                raise ApiError(422, "bad_request", f"the point {x:g},{y:g} lies outside {width} x {height} pixels")
        if prompt.box is not None:
            x0, y0, x1, y1 = prompt.box
            if not (x0 < x1 <= width and y0 < y1 <= height):
                raise ApiError(
                    422, "bad_request", "a box is x0,y0,x1,y1 with x0 < x1 and y0 < y1, inside the picture"
                )  # fmt: skip
        if prompt.mask is not None:
            self.require_rle(prompt.mask)

    def require_rle(self, rle: Rle) -> None:
        """Refuse a mask that is damaged or has another size than the picture."""
        if rle.size != (self.height, self.width):
            raise ApiError(422, "bad_request", f"a mask must have the picture's size, [{self.height}, {self.width}]")
        try:
            rle_area({"size": rle.size, "counts": rle.counts})
        except ValueError as error:
            raise ApiError(422, "bad_request", str(error)) from None

    @property
    def num_prompts(self) -> int:
        return sum(len(obj.frames) for obj in self.objects.values())

    def prompts(self) -> dict[int, dict[int, Prompt]]:
        """Every prompt, by object and frame."""
        with self.lock:
            return {n: {int(t): p for t, p in obj.frames.items()} for n, obj in self.objects.items() if obj.frames}

    def locks(self) -> dict[int, list[int]]:
        """The locked frames of each object that has some."""
        with self.lock:
            return {n: obj.locked for n, obj in self.objects.items() if obj.locked}

    def scores(self) -> Scores:
        """The scores of every mask."""
        with self.lock:
            masks = {n: sorted(found.items()) for n, found in sorted(self.masks.items())}
        return Scores(
            objects={
                str(n): ObjectScores(
                    frames=[t for t, _ in found],
                    score=[mask.score for _, mask in found],
                    predicted_iou=[mask.predicted_iou for _, mask in found],
                )
                for n, found in masks.items()
            }
        )

    # ---- objects

    def object(self, obj_id: int) -> Object:
        if obj_id not in self.objects:
            raise ApiError(404, "not_found", f"there is no object {obj_id}")
        return self.objects[obj_id]

    def object_or_new(self, obj_id: int, limits: Limits) -> Object:
        """The object of a number, or what it would be; ApiError where there are as many as there may be."""
        if obj_id in self.objects:
            return self.objects[obj_id]
        most = limits.objects if self.kind == "video" else MAX_OBJECT
        if len(self.objects) >= most:
            raise ApiError(409, "full", f"this {self.kind} has {most} objects already; remove one")
        colour = "#" + "".join(f"{part:02x}" for part in object_colour(obj_id))
        return Object(id=obj_id, name=f"Object {obj_id}", color=colour)

    def set_mask(self, obj_id: int, frame: int, mask: Mask | None) -> None:
        """Replace the mask of an object on a frame. It counts no bytes: ``Edits.put_mask`` does."""
        frames = self.masks.setdefault(obj_id, {})
        if mask is None:
            frames.pop(frame, None)
        else:
            frames[frame] = mask
        if not frames:
            del self.masks[obj_id]

    def mask_before_prompt(self, obj_id: int, frame: int) -> Mask | None:
        """What tracking had found on a frame before it was prompted."""
        with self.lock:
            is_prompted = obj_id in self.objects and str(frame) in self.objects[obj_id].frames
            return self.history.mask_before_prompt(obj_id, frame) if is_prompted else None

    # ---- pages and jobs

    @property
    def has_listeners(self) -> bool:
        return len(self.hub) > 0

    @property
    def can_rest(self) -> bool:
        """Whether it can be closed and opened again as it is: saved, and nobody is at work on it."""
        return self.saving == "on" and not (self.has_listeners or self.running or self.pins or self.stays)

    @property
    def running(self) -> list[Job]:
        return [job for job in list(self.jobs.values()) if job.is_live]


def _ranges(frames: list[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, first and last."""
    runs = []
    for _, run in groupby(enumerate(sorted(frames)), key=lambda pair: pair[1] - pair[0]):
        numbers = [t for _, t in run]
        runs.append((numbers[0], numbers[-1]))
    return runs

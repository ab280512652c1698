"""The objects and masks of a session as they were when an export began."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..masks.rle import rle_to_mask
from .export_asks import ExportAsk
from .image_work import ImageWork
from .job import Job
from .logits import logits_of
from .media import Limits, SharedSource
from .schemas import Mask
from .video_work import VideoWork


class Snapshot:
    """A copy of them, and what an export writes them with.

    Hidden objects are left out, but not of a project, which holds everything. `range`: the frames of a film.
    """

    def __init__(self, job: Job, source: SharedSource, ask: ExportAsk, limits: Limits) -> None:
        session, with_hidden = job.session, ask.format == "project"
        self.job, self.session, self.source, self.limits = job, session, source, limits
        self.stem = re.sub(r"[^\w.\- ]", "_", Path(session.name).stem)[:80] or session.kind
        last = session.num_frames - 1 if ask.last is None else min(ask.last, session.num_frames - 1)
        self.range = range(ask.first, last + 1)
        self.work: ImageWork | VideoWork | None = None  # of soft edges
        self.without_logits = 0  # masks whose edges should be soft
        with session.lock:
            self.objects = {n: obj for n, obj in sorted(session.objects.items()) if obj.visible or with_hidden}
            self.masks: dict[int, dict[int, Mask]] = {}
            for obj_id, masks in session.masks.items():
                for t, mask in masks.items():
                    if obj_id in self.objects and ask.frame in (None, t) and t in self.range:
                        self.masks.setdefault(t, {})[obj_id] = mask

    @property
    def frames(self) -> list[int]:
        """Frames that have a mask."""
        return sorted(self.masks)

    def seen(self, frame: int) -> dict[int, np.ndarray]:
        """The masks of a frame that are not empty, (H, W) bool by object."""
        masks = sorted(self.masks.get(frame, {}).items())
        return {obj_id: rle_to_mask(mask.rle) for obj_id, mask in masks if mask.area}

    def fields(self, frame: int) -> dict[int, np.ndarray]:
        """What mattes are made of, by object: ``seen``, or low-resolution logits where soft edges need them."""
        found: dict[int, np.ndarray] = dict(self.seen(frame))
        for obj_id in found if self.work is not None else ():
            logits = logits_of(self.session, self.work, obj_id, frame, self.masks[frame][obj_id])
            self.without_logits += logits is None
            found[obj_id] = found[obj_id] if logits is None else logits
        return found

    def label(self, obj_id: int) -> str:
        """A name of an object for a file."""
        return f"{obj_id:03d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', self.objects[obj_id].name)[:40]}"

"""The objects and masks of a session as they were when an export began."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..masks.rle import rle_to_mask
from .job import Job
from .media import Limits, SharedSource
from .schemas import Mask


class Snapshot:
    """A copy of them, and what an export writes them with.

    Hidden objects are left out, unless `with_hidden`: a project holds everything.
    """

    def __init__(
        self, job: Job, source: SharedSource, frame: int | None, limits: Limits, with_hidden: bool = False
    ) -> None:
        session = job.session
        self.job, self.session, self.source, self.limits = job, session, source, limits
        self.stem = re.sub(r"[^\w.\- ]", "_", Path(session.name).stem)[:80] or session.kind
        with session.lock:
            self.objects = {n: obj for n, obj in sorted(session.objects.items()) if obj.visible or with_hidden}
            self.masks: dict[int, dict[int, Mask]] = {}
            for obj_id, masks in session.masks.items():
                for t, mask in masks.items():
                    if obj_id in self.objects and frame in (None, t):
                        self.masks.setdefault(t, {})[obj_id] = mask

    @property
    def frames(self) -> list[int]:
        """Frames that have a mask."""
        return sorted(self.masks)

    def seen(self, frame: int) -> dict[int, np.ndarray]:
        """The masks of a frame that are not empty, (H, W) bool by object."""
        masks = sorted(self.masks.get(frame, {}).items())
        return {obj_id: rle_to_mask(mask.rle) for obj_id, mask in masks if mask.area}

    def label(self, obj_id: int) -> str:
        """A name of an object for a file."""
        return f"{obj_id:03d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', self.objects[obj_id].name)[:40]}"

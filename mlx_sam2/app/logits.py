"""The model's logits of masks that are shown: soft edges are made of them. All of it runs on the worker's thread.

Nothing is kept for it: a picture's prompts are decoded again where they are not remembered, and the tracker has the
logits of its frames on disk anyway (256 x 256 float32, a quarter of a megabyte, for each object and frame).
"""

from __future__ import annotations

import numpy as np

from .image_work import ImageWork
from .schemas import Mask
from .session import Session
from .video_work import VideoWork


def logits_of(session: Session, work: ImageWork | VideoWork, obj_id: int, frame: int, mask: Mask) -> np.ndarray | None:
    """Low-resolution logits (h, w) float32 of a mask.

    None where the model did not give it: it was drawn or imported, or tracked before the app was started again.
    """
    if isinstance(work, VideoWork):
        return work.logits(obj_id, frame, mask)
    obj = session.objects.get(obj_id)
    prompt = None if obj is None else obj.frames.get(str(frame))
    return None if prompt is None else work.logits(prompt, mask)

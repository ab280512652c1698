"""A prompt on an object: answered, and kept with its mask. On the worker's thread, in ``Sessions.loaded``."""

from __future__ import annotations

from .image_work import ImageWork
from .schemas import MAX_OBJECT, ApiError, Mask, Object, Prompt, Rle
from .session import Session
from .session_store import Sessions
from .video_work import VideoWork


def put(
    sessions: Sessions, session: Session, work: ImageWork | VideoWork, obj_id: int, frame: int, prompt: Prompt
) -> tuple[list[Mask], int | None, Object | None]:
    """Make `prompt` what an object has on a frame; an empty one takes away what it had.

    Returns:
        The masks, the number of the chosen one, and the object.

    Raises:
        ApiError: there are as many objects or masks as there may be.
    """
    with session.lock:
        if prompt.is_empty and obj_id not in session.objects:
            return [], None, None
        obj = session.make_object(obj_id, sessions.limits)
        is_new = not prompt.is_empty and str(frame) not in obj.frames
        if is_new and session.kind == "video" and session.num_prompts >= sessions.limits.prompts:
            raise ApiError(409, "full", f"this video has {sessions.limits.prompts} prompts already; remove one")
    if isinstance(work, VideoWork):
        mask = work.answer(obj_id, frame, prompt)
        found, chosen = ([], None) if mask is None else ([mask], 0)
    elif prompt.is_empty:
        found, chosen = [], None
    else:
        found, chosen = work.answer(prompt)
    with session.lock:
        obj = session.make_object(obj_id, sessions.limits)
        sessions.store(session, obj_id, frame, None if chosen is None else found[chosen])
        if chosen is None:
            obj.frames.pop(str(frame), None)
        else:
            obj.frames[str(frame)] = prompt
        return found, chosen, obj.model_copy(deep=True)


def put_mask(
    sessions: Sessions, session: Session, work: ImageWork | VideoWork, obj_id: int, frame: int, mask: Mask
) -> None:
    """Make an object of a mask that was found, with its score."""
    if obj_id > MAX_OBJECT:
        raise ApiError(409, "full", f"objects are numbered up to {MAX_OBJECT}")
    given = Prompt(mask=Rle(size=mask.size, counts=mask.counts), score=mask.score)
    put(sessions, session, work, obj_id, frame, given)


def remove(sessions: Sessions, session: Session, obj_id: int) -> None:
    """Remove an object, its prompts and its masks."""
    with session.lock:
        session.object(obj_id)
    if isinstance(session.work, VideoWork):
        session.work.remove(obj_id)
    sessions.forget_object(session, obj_id)

"""Prompts answered, and noted with their masks. All of it runs on the worker's thread."""

from __future__ import annotations

from .edits import Asked, Edits
from .faults import FAILURES
from .image_work import ImageWork
from .schemas import MAX_OBJECT, Answer, ApiError, Mask, Object, Prompt, Rle
from .session import Session
from .video_work import VideoWork

Work = ImageWork | VideoWork


def put(edits: Edits, session: Session, work: Work, asked: Asked, obj_id: int, frame: int, prompt: Prompt) -> Answer:
    """Make `prompt` what an object has on a frame; an empty one takes away what it had.

    Raises:
        ApiError: the client knows another revision, or there are as many objects, prompts or masks as there may be.
    """
    with session.turn:
        return _put(edits, session, work, asked, obj_id, frame, prompt)


def _put(edits: Edits, session: Session, work: Work, asked: Asked, obj_id: int, frame: int, prompt: Prompt) -> Answer:
    with session.lock:
        edits.require(session, asked)
        if prompt.is_empty and obj_id not in session.objects:
            return Answer(masks=[], chosen=None, object=None, revision=session.history.revision, seconds=0)
        obj = session.object_or_new(obj_id, edits.sessions.limits)
        if prompt.is_empty and str(frame) not in obj.frames:
            return Answer(masks=[], chosen=None, object=obj, revision=session.history.revision, seconds=0)
        if not prompt.is_empty and str(frame) not in obj.frames:
            _require_room(edits, session)
    try:
        if isinstance(work, VideoWork):
            mask = work.answer(obj_id, frame, prompt)
            mask = session.mask_before_prompt(obj_id, frame) if prompt.is_empty else mask
            found, chosen = ([], None) if mask is None else ([mask], 0)
        else:
            found, chosen = ([], None) if prompt.is_empty else work.answer(prompt)
        kept = None if chosen is None else found[chosen]
        if (same := _unchanged(session, obj_id, frame, prompt, kept)) is not None:
            return Answer(masks=found, chosen=chosen, object=same, revision=session.history.revision, seconds=0)
        obj, revision = edits.put_prompt(session, asked, obj_id, frame, prompt, kept)
    except FAILURES:
        _follow(session, work)
        raise
    return Answer(masks=found, chosen=chosen, object=obj, revision=revision, seconds=0)


def _unchanged(session: Session, obj_id: int, frame: int, prompt: Prompt, mask: Mask | None) -> Object | None:
    """The object, if it has this prompt and this mask already: a page asks again for what it could choose from."""
    with session.lock:
        obj = session.objects.get(obj_id)
        has_both = obj is not None and obj.frames.get(str(frame)) == prompt
        return obj if has_both and session.masks.get(obj_id, {}).get(frame) == mask else None


def _require_room(edits: Edits, session: Session) -> None:
    """Refuse one more prompt where a video has as many as it may have."""
    most = edits.sessions.limits.prompts
    if session.kind == "video" and session.num_prompts >= most:
        raise ApiError(409, "full", f"this video has {most} prompts already; remove one")


def _follow(session: Session, work: Work | None) -> None:
    """Make the predictor's prompts those of the session, which were restored, or stayed although the work went on."""
    if not isinstance(work, VideoWork):
        return
    try:
        work.restore(session.prompts(), session.masks)
    except BaseException:
        session.work = None  # it is made again from the prompts
        work.close()
        raise


def put_found(edits: Edits, session: Session, work: Work, asked: Asked, frame: int, found: list[Mask]) -> int | None:
    """Make objects of masks that were found, as many as there may be, as one edit. Its revision; None without any."""
    with session.lock:
        first = max(session.objects, default=0) + 1
    room = (edits.sessions.limits.objects if session.kind == "video" else MAX_OBJECT) - len(session.objects)
    if session.kind == "video":
        room = min(room, edits.sessions.limits.prompts - session.num_prompts)
    found = found[: max(min(room, MAX_OBJECT + 1 - first), 0)]
    if not found:
        return None
    prompts = [Prompt(mask=Rle(size=mask.size, counts=mask.counts), score=mask.score) for mask in found]
    if isinstance(work, VideoWork):
        for obj_id, prompt in enumerate(prompts, first):
            work.answer(obj_id, frame, prompt)
    with edits.edit(session, "everything", asked.anyway()) as edit:
        for obj_id, (mask, prompt) in enumerate(zip(found, prompts, strict=True), first):
            try:
                edits.set_prompt(session, edit, obj_id, frame, prompt, mask)
            except ApiError as error:
                if error.code != "full":
                    raise
                break
        revision = edit.revision
    _follow(session, work)
    return revision


def remove(edits: Edits, session: Session, asked: Asked, obj_id: int) -> int:
    """Remove an object, its prompts and its masks; the revision."""
    with session.turn:
        with session.lock:
            edits.require(session, asked)
            session.object(obj_id)
        if isinstance(session.work, VideoWork):
            session.work.remove(obj_id)
        return edits.remove_object(session, asked, obj_id)


def restore(edits: Edits, session: Session, asked: Asked, revision: int) -> None:
    """Make objects, prompts and masks what they were at a revision."""
    with session.lock:
        edits.require(session, asked)
        if any(job.kind != "export" for job in session.running):
            raise ApiError(409, "busy", "a job is at work on the masks: wait for it, or cancel it")
        edits.restore(session, asked, revision)
    follow(edits, session)


def follow(edits: Edits, session: Session) -> None:
    """Make the predictor's prompts those of the session, if it is encoded."""
    if session.work is not None:
        with edits.sessions.loaded(session):
            _follow(session, session.work)

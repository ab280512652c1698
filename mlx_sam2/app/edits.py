"""Edits: every change of a session raises its revision, notes what it replaced, is saved, and is told to all pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import NamedTuple

from .faults import describe
from .history import Edit, History, mask_bytes, object_bytes
from .lines import Line, all_lines, line_of
from .media import size_of
from .saves import About, Save, Saves
from .schemas import (
    MAX_LOCKS,
    ApiError,
    EditKind,
    LockAnswer,
    LockAsk,
    Mask,
    Object,
    ObjectAnswer,
    ObjectLook,
    Prompt,
    Saving,
)
from .session import Session
from .session_store import Sessions


class Asked(NamedTuple):
    """What the client of an edit says: the revision that it knows, its name, and the number of the edit among its own.

    An edit that is sent again, because its answer was lost, has the same number. None where the client says nothing.
    """

    revision: int | None = None
    client: str | None = None
    number: int | None = None

    @property
    def numbers(self) -> dict[str, int]:
        """The number by client, as sessions note it."""
        return {} if self.client is None or self.number is None else {self.client: self.number}

    def anyway(self) -> Asked:
        """The same, whatever the revision: that was checked before."""
        return self._replace(revision=None)


ANYBODY = Asked()


class Edits:
    """Changes sessions. Any thread may call it; each change holds the session's lock."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions

    def require(self, session: Session, asked: Asked) -> None:
        """Refuse an edit that was made already, or whose client knows another revision than the session's.

        Raises:
            ApiError: ``repeated`` or ``stale``, with the session as it is.
        """
        with session.lock:
            if session.closed:
                raise ApiError(404, "not_found", "this session was closed")
            if session.history.has_made(asked.numbers):
                raise ApiError(409, "repeated", "this edit was made already", session=session.state())
            if asked.revision is not None and asked.revision != session.history.revision:
                text = f"the session is at revision {session.history.revision}, not {asked.revision}: load it again"
                raise ApiError(409, "stale", text, session=session.state())

    @contextmanager
    def edit(self, session: Session, what: EditKind, asked: Asked = ANYBODY) -> Iterator[Edit]:
        """Make one edit of the changes in a block (``put_object``, ``put_mask``); none if the block raises."""
        with session.lock:
            self.require(session, asked)
            edit = session.history.begin(what)
            self._forget_many(session)
            try:
                yield edit
            except BaseException:
                self._undo(session, edit)
                raise
            session.history.note_clients(asked.numbers)
            self._save(session, line_of(session, edit, asked.numbers))
            session.hub.publish("edit", {"revision": edit.revision, "client": asked.client, "what": what})

    def _undo(self, session: Session, edit: Edit) -> None:
        """Put back what a failed edit has replaced."""
        before = Edit(0, edit.what)  # notes nothing
        session.history.take_back(edit)
        self.sessions.take_masks(session, -edit.size)
        for obj_id, obj in edit.objects.items():
            self.put_object(session, before, obj_id, obj)
        for (obj_id, frame), mask in edit.masks.items():
            self.put_mask(session, before, obj_id, frame, mask)

    def put_object(self, session: Session, edit: Edit, obj_id: int, obj: Object | None) -> None:
        """Replace an object; None removes it, but not its masks."""
        old = session.objects.get(obj_id)
        notes = session.history.notes_object(edit, obj_id)
        self._take(session, edit, object_bytes(obj) - (0 if notes else object_bytes(old)))
        if notes:
            edit.objects[obj_id] = old
        if obj is None:
            session.objects.pop(obj_id, None)
        else:
            session.objects[obj_id] = obj

    def put_mask(self, session: Session, edit: Edit, obj_id: int, frame: int, mask: Mask | None) -> None:
        """Replace the mask of an object on a frame; None removes it.

        Raises:
            ApiError: all masks together would exceed their limit.
        """
        old = session.masks.get(obj_id, {}).get(frame)
        notes = session.history.notes_mask(edit, (obj_id, frame))
        self._take(session, edit, mask_bytes(mask) - (0 if notes else mask_bytes(old)))
        if notes:
            edit.masks[obj_id, frame] = old
        session.set_mask(obj_id, frame, mask)

    def _take(self, session: Session, edit: Edit, count: int) -> None:
        """Count bytes of masks; forget the oldest edits if there is no room."""
        edits = session.history.edits
        while True:
            try:
                self.sessions.take_masks(session, count)
            except ApiError:
                if not edits or edits[0] is edit:
                    raise
                self._forget_oldest(session)
            else:
                return

    def _forget_many(self, session: Session) -> None:
        if session.history.is_full:
            self._forget_oldest(session)

    def _forget_oldest(self, session: Session) -> None:
        self.sessions.take_masks(session, -session.history.edits.popleft().size)

    # ---- single edits

    def look(self, session: Session, asked: Asked, obj_id: int, look: ObjectLook) -> ObjectAnswer:
        """Change how an object is called and shown; it is made where there is none."""
        with session.turn, self.edit(session, "object", asked) as edit:
            obj = session.object_or_new(obj_id, self.sessions.limits)
            obj = obj.model_copy(update=look.model_dump(exclude_none=True))
            self.put_object(session, edit, obj_id, obj)
            return ObjectAnswer(object=obj, revision=edit.revision)

    def lock(self, session: Session, asked: Asked, frame: int, ask: LockAsk) -> LockAnswer:
        """Keep the masks of a frame whatever is tracked, or let tracking replace them; no edit if nothing changes.

        Raises:
            ApiError: there is no such object, it has no mask there, or as many locked frames as it may have.
        """
        with session.turn, session.lock:
            self.require(session, asked)
            changed = {}
            for obj_id in session.objects if ask.objects is None else ask.objects:
                obj = session.object(obj_id)
                if ask.locked and frame not in session.masks.get(obj_id, {}):
                    if ask.objects is not None:
                        raise ApiError(404, "not_found", f"object {obj_id} has no mask on frame {frame} to keep")
                    continue
                if ask.locked != (frame in obj.locked):
                    frames = {*obj.locked, frame} if ask.locked else {*obj.locked} - {frame}
                    changed[obj_id] = obj.model_copy(update={"locked": sorted(frames)})
            if any(len(obj.locked) > MAX_LOCKS for obj in changed.values()):
                raise ApiError(409, "full", f"an object has {MAX_LOCKS:,} locked frames at most")
            if not changed:
                return LockAnswer(objects=[], revision=session.history.revision)
            with self.edit(session, "lock", asked) as edit:
                for obj_id, obj in changed.items():
                    self.put_object(session, edit, obj_id, obj)
                return LockAnswer(objects=list(changed.values()), revision=edit.revision)

    def put_prompt(
        self, session: Session, asked: Asked, obj_id: int, frame: int, prompt: Prompt, mask: Mask | None
    ) -> tuple[Object, int]:
        """Note an answered prompt and its mask (None: it has none). Returns the object and the revision."""
        with self.edit(session, "prompt", asked.anyway()) as edit:
            self.set_prompt(session, edit, obj_id, frame, prompt, mask)
            return session.objects[obj_id], edit.revision

    def set_prompt(
        self, session: Session, edit: Edit, obj_id: int, frame: int, prompt: Prompt, mask: Mask | None
    ) -> None:
        """``put_prompt`` as a part of an edit."""
        obj = session.object_or_new(obj_id, self.sessions.limits)
        frames = {t: kept for t, kept in obj.frames.items() if t != str(frame)}
        if not prompt.is_empty:
            frames[str(frame)] = prompt
        self.put_mask(session, edit, obj_id, frame, mask)
        self.put_object(session, edit, obj_id, obj.model_copy(update={"frames": frames}))

    def remove_object(self, session: Session, asked: Asked, obj_id: int) -> int:
        """Remove an object, its prompts and its masks. Returns the revision."""
        with self.edit(session, "delete", asked.anyway()) as edit:
            for frame in list(session.masks.get(obj_id, ())):
                self.put_mask(session, edit, obj_id, frame, None)
            self.put_object(session, edit, obj_id, None)
            return edit.revision

    def restore(self, session: Session, asked: Asked, revision: int) -> None:
        """Make objects, prompts and masks what they were at a revision.

        Raises:
            ApiError: that revision is not remembered.
        """
        with session.lock:
            history = session.history
            if not history.oldest <= revision <= history.revision:
                text = f"revision {revision} is not remembered: {history.oldest} to {history.revision} are"
                raise ApiError(404, "not_found", text)
            objects, masks = history.replaced_since(revision)  # before the oldest edit is forgotten for a new one
            with self.edit(session, "restore", asked.anyway()) as edit:
                for (obj_id, frame), mask in masks.items():
                    self.put_mask(session, edit, obj_id, frame, mask)
                for obj_id, obj in objects.items():
                    self.put_object(session, edit, obj_id, obj)

    def add_tracked(self, session: Session, edit: Edit, frame: int, masks: dict[int, Mask]) -> dict[int, Mask]:
        """Note the masks of a tracked frame. Returns those of objects that still exist and are not locked there."""
        with session.lock:
            self.require(session, ANYBODY)
            objects = session.objects
            live = {n: mask for n, mask in masks.items() if n in objects and frame not in objects[n].locked}
            for obj_id, mask in live.items():
                self.put_mask(session, edit, obj_id, frame, mask)
            changed = {(obj_id, frame): mask for obj_id, mask in live.items()}
            self._save(session, Line(edit.revision, edit.what, {}, changed, {}))
            return live

    # ---- on disk

    def begin_saving(self, session: Session, saves: Saves, thumbnail: bytes) -> None:
        """Save a session from now on."""
        is_own = session.folder in session.path.parents
        about = About(
            **session.brief().model_dump(include={"id", "kind", "name", "width", "height", "frames"}),
            objects=len(session.objects),
            media=session.path.name if is_own else "",
            bytes=size_of(session.path) if is_own else 0,
        )
        try:
            session.save = saves.create(about, session.path, thumbnail, lambda: all_lines(session))
        except OSError as error:
            self._say_saving(session, "failed", describe(error))
        else:
            self._say_saving(session, "on")

    def replay(self, session: Session, save: Save) -> None:
        """Fill a session with what was saved of it, and go on saving it there.

        Raises:
            ApiError: there is nothing, or not as much room for masks.
        """
        lines = save.lines()
        first = next(lines, None)
        if first is None or first.what is not None:
            raise ApiError(415, "unsupported", "this saved session is damaged")
        session.history = History(first.revision)
        edit = Edit(first.revision, "restore")  # notes nothing
        for line in chain([first], lines):
            session.history.note_clients(line.clients)
            if line.what is not None:
                edit = session.history.again(line.revision, line.what)
                self._forget_many(session)
            for obj_id, obj in line.objects.items():
                self.put_object(session, edit, obj_id, obj)
            for (obj_id, frame), mask in line.masks.items():
                self.put_mask(session, edit, obj_id, frame, mask)
        session.save, session.saving = save, "on"

    def _save(self, session: Session, line: Line) -> None:
        if session.save is None:
            return
        try:
            session.save.add(line, lambda: all_lines(session))
            session.save.note(len(session.objects))
        except OSError as error:
            self._say_saving(session, "failed", describe(error))
        else:
            self._say_saving(session, "on")

    def _say_saving(self, session: Session, saving: Saving, why: str = "") -> None:
        """Tell pages once when saving begins to fail, and once when it works again."""
        if saving == session.saving:
            return
        session.saving = saving
        text = f"edits are not saved: {why}. What was saved before is safe" if why else ""
        session.hub.publish("saving", {"saving": saving, "message": text})

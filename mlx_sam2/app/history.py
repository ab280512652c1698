"""The last edits of a session, and what each replaced, so that earlier revisions can be restored."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from .schemas import EditKind, Mask, Object

KEPT = 200  # edits of a session
CLIENTS = 64  # of which the last edit's number is noted
MASK_OVERHEAD = 600  # bytes of a mask beside its counts

Place = tuple[int, int]  # object and frame
Objects = dict[int, Object | None]  # None: there is none
Masks = dict[Place, Mask | None]


@dataclass(eq=False)
class Edit:
    """One edit, with the old value of every object and mask that it changed."""

    revision: int
    what: EditKind
    objects: Objects = field(default_factory=dict)
    masks: Masks = field(default_factory=dict)

    @property
    def size(self) -> int:
        """About how many bytes of memory it holds."""
        return sum(map(object_bytes, self.objects.values())) + sum(map(mask_bytes, self.masks.values()))


class History:
    """Edits, newest last; the session's lock guards them.

    What an object or a mask was at revision r is what the first later edit that changed it has replaced. Where none
    did, it is what it is now.
    """

    def __init__(self, revision: int = 0) -> None:
        self.revision = revision
        self.edits: deque[Edit] = deque()
        self.clients: OrderedDict[str, int] = OrderedDict()  # the number of each one's last edit, newest last

    @property
    def oldest(self) -> int:
        """The first revision that can be restored."""
        return self.edits[0].revision - 1 if self.edits else self.revision

    def begin(self, what: EditKind) -> Edit:
        """Add an edit with the next revision."""
        self.revision += 1
        edit = Edit(self.revision, what)
        self.edits.append(edit)
        return edit

    @property
    def is_full(self) -> bool:
        """Whether the oldest edit is to be forgotten."""
        return len(self.edits) > KEPT

    def again(self, revision: int, what: EditKind) -> Edit:
        """The edit of a saved revision: added where it is new; where it is forgotten, one that notes nothing."""
        for edit in reversed(self.edits):
            if edit.revision == revision:
                return edit
        if revision <= self.revision:
            return Edit(revision, what)
        self.revision = revision - 1
        return self.begin(what)

    def take_back(self, edit: Edit) -> None:
        """Remove the newest edit, as if it had not been made."""
        assert self.edits[-1] is edit
        self.edits.pop()
        self.revision = edit.revision - 1

    def has_made(self, numbers: dict[str, int]) -> bool:
        """Whether an edit with this number of its client was made already."""
        return any(number <= self.clients.get(client, -1) for client, number in numbers.items())

    def note_clients(self, numbers: dict[str, int]) -> None:
        """Note the numbers of edits that were made."""
        for client, number in numbers.items():
            self.clients[client] = max(number, self.clients.get(client, -1))
            self.clients.move_to_end(client)
            if len(self.clients) > CLIENTS:
                self.clients.popitem(last=False)

    def notes_object(self, edit: Edit, obj_id: int) -> bool:
        """Whether an edit that changes an object now must note what it was."""
        since = self._since(edit)
        return bool(since) and not any(obj_id in later.objects for later in since)

    def notes_mask(self, edit: Edit, place: Place) -> bool:
        """As ``notes_object``. A job's edit goes on while others are made, which may have noted the mask already."""
        since = self._since(edit)
        return bool(since) and not any(place in later.masks for later in since)

    def _since(self, edit: Edit) -> list[Edit]:
        """Edits from this one on; none where it was forgotten."""
        since = []
        for later in reversed(self.edits):
            since.append(later)
            if later is edit:
                return since
        return []

    def mask_before_prompt(self, obj_id: int, frame: int) -> Mask | None:
        """The mask of a frame when the prompt that an object has there came; None if that is forgotten."""
        for edit in reversed(self.edits):
            old = edit.objects.get(obj_id)
            if obj_id in edit.objects and (old is None or str(frame) not in old.frames):
                return edit.masks.get((obj_id, frame))
        return None

    def replaced_since(self, revision: int) -> tuple[Objects, Masks]:
        """The values that objects and masks had at a revision, for all that have changed since."""
        objects: Objects = {}
        masks: Masks = {}
        for edit in reversed(self.edits):
            if edit.revision <= revision:
                break
            objects.update(edit.objects)
            masks.update(edit.masks)
        return objects, masks


def mask_bytes(mask: Mask | None) -> int:
    """About how many bytes of memory a mask holds."""
    return 0 if mask is None else len(mask.counts) + MASK_OVERHEAD


def object_bytes(obj: Object | None) -> int:
    """About how many bytes of memory the masks among an object's prompts hold."""
    prompts = () if obj is None else obj.frames.values()
    return sum(len(prompt.mask.counts) for prompt in prompts if prompt.mask is not None)

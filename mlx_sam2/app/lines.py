"""Lines of a saved session: what an edit made of objects and masks, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from .history import Edit, Masks, Objects, Place
from .schemas import EditKind, Mask, Object
from .session import Session

PIECE = 1000  # masks in a line of a whole session


class Line(NamedTuple):
    """What an edit changed: None took it away. The first lines of a session (`what` is None) are all of it.

    `clients`: numbers of edits by client, as ``History.clients``.
    """

    revision: int
    what: EditKind | None
    objects: Objects
    masks: Masks
    clients: dict[str, int]

    def to_json(self) -> bytes:
        objects = {str(n): None if obj is None else obj.model_dump(mode="json") for n, obj in self.objects.items()}
        masks = [[*place, *_packed(mask)] for place, mask in self.masks.items()]
        line = {
            "revision": self.revision,
            "what": self.what,
            "objects": objects,
            "masks": masks,
            "clients": self.clients,
        }
        return json.dumps(line, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, size: tuple[int, int]) -> Line:
        """Read a line of a session whose frames have a size (height, width). ValueError where it is damaged."""
        if not data.endswith(b"\n"):
            raise ValueError("the line is cut off")
        try:
            line = json.loads(data)
            objects = {int(n): obj and Object.model_validate(obj) for n, obj in line["objects"].items()}
            masks: Masks = {}
            for obj_id, frame, *packed in line["masks"]:
                masks[obj_id, frame] = _unpacked(packed, size) if packed else None
            clients = {str(client): int(number) for client, number in line.get("clients", {}).items()}
            return cls(line["revision"], line["what"], objects, masks, clients)
        except (LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from None


def _packed(mask: Mask | None) -> list[Any]:
    if mask is None:
        return []
    iou = [] if mask.predicted_iou is None else [mask.predicted_iou]
    return [mask.counts, mask.area, mask.bbox, mask.score, *iou]


def _unpacked(packed: list[Any], size: tuple[int, int]) -> Mask:
    counts, area, bbox, score, *iou = packed
    return Mask(size=size, counts=counts, area=area, bbox=bbox, score=score, predicted_iou=iou[0] if iou else None)


def line_of(session: Session, edit: Edit, clients: dict[str, int]) -> Line:
    """What the newest edit of a session has changed, and whose it was."""
    masks = {place: mask_at(session, place) for place in edit.masks}
    return Line(edit.revision, edit.what, {n: session.objects.get(n) for n in edit.objects}, masks, clients)


def all_lines(session: Session) -> Iterator[Line]:
    """The session as it was at the oldest revision that it remembers, then each of its edits."""
    objects, masks = session.history.replaced_since(session.history.oldest)
    whole = {(n, t): mask for n, frames in session.masks.items() for t, mask in frames.items()} | masks
    kept = [(place, mask) for place, mask in whole.items() if mask is not None]
    oldest = session.history.oldest
    known = {n: obj for n, obj in (session.objects | objects).items() if obj is not None}
    yield Line(oldest, None, known, {}, dict(session.history.clients))
    for begin in range(0, len(kept), PIECE):
        yield Line(oldest, None, {}, dict(kept[begin : begin + PIECE]), {})
    lines = []
    later_objects: Objects = {}  # what the next edit that changed an object has replaced
    later_masks: Masks = {}
    for edit in reversed(session.history.edits):
        made = {n: later_objects[n] if n in later_objects else session.objects.get(n) for n in edit.objects}
        masks = {p: later_masks[p] if p in later_masks else mask_at(session, p) for p in edit.masks}
        lines.append(Line(edit.revision, edit.what, made, masks, {}))
        later_objects.update(edit.objects)
        later_masks.update(edit.masks)
    yield from reversed(lines)


def mask_at(session: Session, place: Place) -> Mask | None:
    return session.masks.get(place[0], {}).get(place[1])

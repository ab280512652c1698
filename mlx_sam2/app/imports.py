"""Masks that come in: a file of annotations (COCO and its relatives, Label Studio, SA-V) or a mask picture.

Files come from strangers: what would take long to read is refused before it is read.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..datasets import Dataset, DatasetError, DatasetObject, Item, open_dataset
from ..datasets.items import CLASS
from ..datasets.masks import PictureMask, read_picture
from ..datasets.pictures import VOID, picture_size, values_of
from .edits import Asked, Edits
from .image_work import as_given
from .prompts import follow
from .schemas import MAX_OBJECT, ApiError, Mask, Prompt, Rle
from .session import Session

JSON_BYTES = 64 << 20
SIGNS = {b"{": 200_000, b"[": 250_000, b",": 4_000_000}  # in it
PICTURES = (b"\x89PNG", b"II*\x00", b"MM\x00*", b"BM")  # PNG, TIFF, BMP: without loss


class Found(NamedTuple):
    """An object of the file, and its masks by frame."""

    name: str
    masks: dict[int, Mask]


def read_masks(path: Path, session: Session, frame: int) -> list[Found]:
    """The objects of a file that belong to a session.

    Args:
        path: the file, without a suffix that could be trusted.
        frame: which one a mask picture is of.

    Raises:
        ApiError: it cannot be read, is too large, is of other pictures, or holds too many objects.
    """
    with open(path, "rb") as file:
        head = file.read(64)
    try:
        is_picture = head.startswith(PICTURES)
        objects, frames = _of_picture(path, session) if is_picture else _of_annotations(path, session)
        if not objects:
            raise ApiError(409, "empty", "the file holds no mask of this " + _word(session))
        most = _room(session)
        if len(objects) > most:
            raise ApiError(409, "full", f"the file holds {len(objects)} objects, and there is room for {most} more")
        found = [_found(obj, frames or {0: frame}) for obj in objects]
        return [obj for obj in found if obj.masks]
    except DatasetError as error:
        raise ApiError(415, "unsupported", str(error).replace(str(path), "the file")) from None


def _word(session: Session) -> str:
    return "picture" if session.kind == "image" else "video"


def _room(session: Session) -> int:
    return MAX_OBJECT - max(session.objects, default=0)


def _found(obj: DatasetObject, frames: dict[int, int]) -> Found:
    masks = {}
    for t, mask in obj.masks.items():
        given = as_given(Rle(**mask.rle()), obj.scores.get(t))
        if given.area:
            masks[frames.get(t, t)] = given
    name = "".join(c if c.isprintable() else "_" for c in obj.class_name)[:100]
    return Found(name or CLASS, masks)


def _of_picture(path: Path, session: Session) -> tuple[list[DatasetObject], None]:
    """Black and white is one object; other values are object numbers."""
    _check_size(picture_size(path), session)
    values = [value for value in values_of(read_picture(path)) if value]
    if set(values) <= {VOID}:
        return [DatasetObject(1, CLASS, {0: PictureMask(path, None)})] if values else [], None
    return [DatasetObject(n, CLASS, {0: PictureMask(path, n)}) for n in values if n != VOID], None


def _of_annotations(path: Path, session: Session) -> tuple[list[DatasetObject], dict[int, int]]:
    data = _opened(path)
    items = [item for item in data if item.is_video == (session.kind == "video")]
    if not items:
        kinds = "a video's" if session.kind == "video" else "a picture's"
        raise ApiError(409, "empty", f"the file holds no annotations of {kinds} masks ({data.format})")
    item = _own(items, session)
    _check_size(item.size, session)
    if item.num_frames > session.num_frames:
        text = f"the file has masks of {item.num_frames} frames, and this video has {session.num_frames}"
        raise ApiError(409, "changed", text)
    return list(item.objects), {t: t for t in range(session.num_frames)}


def _opened(path: Path) -> Dataset:
    size = path.stat().st_size
    if size > JSON_BYTES:
        raise ApiError(413, "too_large", f"annotations may have {JSON_BYTES:,} bytes")
    data = path.read_bytes()
    if data.lstrip()[:1] not in (b"{", b"["):
        raise ApiError(415, "unsupported", "this is neither a mask picture (PNG, TIFF) nor JSON (COCO, ...)")
    for sign, most in SIGNS.items():
        if data.count(sign) > most:
            raise ApiError(413, "too_large", f"annotations may have {most:,} {sign.decode()!r}")
    return open_dataset(path)


def _own(items: list[Item], session: Session) -> Item:
    """The picture or video of the file that the session shows: of its name, or the only one."""
    stem = PurePosixPath(session.name).stem.casefold()
    for item in items:
        name = PurePosixPath(item.name).name.casefold()  # without a suffix
        if stem in (name, PurePosixPath(item.name).as_posix().casefold()):
            return item
    if len(items) == 1:
        return items[0]
    raise ApiError(409, "empty", f"the file is of {len(items)} {_word(session)}s, and none is called {stem}")


def _check_size(size: tuple[int, int], session: Session) -> None:
    if size != (session.height, session.width):
        text = f"the masks are {size[1]} x {size[0]}, and this {_word(session)} is {session.width} x {session.height}"
        raise ApiError(409, "changed", text)


def put_masks(edits: Edits, session: Session, asked: Asked, found: list[Found]) -> int:
    """Make objects of masks, as one edit. Its revision. Call it on the worker's thread.

    The first mask of each is a prompt; the others of a video stand as tracked ones do.

    Raises:
        ApiError: the client knows another revision, or there is no room.
    """
    with session.turn:
        first = max(session.objects, default=0) + 1
        limits = edits.sessions.limits
        if session.running:
            raise ApiError(409, "busy", "a job is at work on this session: wait for it, or cancel it")
        if session.kind == "video" and session.num_prompts + len(found) > limits.prompts:
            raise ApiError(409, "full", f"this video may have {limits.prompts} prompts")
        with edits.edit(session, "import", asked) as edit:
            for obj_id, obj in enumerate(found, first):
                for n, (t, mask) in enumerate(sorted(obj.masks.items())):
                    if n:
                        edits.put_mask(session, edit, obj_id, t, mask)
                        continue
                    prompt = Prompt(mask=Rle(size=mask.size, counts=mask.counts), score=mask.score)
                    edits.set_prompt(session, edit, obj_id, t, prompt, mask)
                if obj.name != CLASS:
                    named = session.objects[obj_id].model_copy(update={"name": obj.name})
                    edits.put_object(session, edit, obj_id, named)
            revision = edit.revision
        follow(edits, session)
        return revision

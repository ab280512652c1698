"""Pictures and videos as one data set, in a ZIP archive: a format of ``datasets``, or plain masks."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from PIL import Image

from ..datasets import DatasetError, DatasetObject, Item, RleMask, open_writer
from ..datasets.frames import FileFrames, Frames
from ..datasets.items import CLASS
from ..frames.source import VideoError
from ..images.drawing import mask_picture
from ..masks.rle import rle_to_mask
from .media import frame_suffix
from .saves import link_or_copy
from .schemas import ApiError, Object
from .session import Session
from .session_store import Sessions

OF_VIDEOS = ("coco-video", "davis", "sav")
_UNNAMED = re.compile(r"Object \d+")  # what an object is called until somebody names it


def class_of(obj: Object) -> str:
    """The class of an object in a data set: its name, unless nobody gave it one."""
    return CLASS if _UNNAMED.fullmatch(obj.name) else obj.name


@contextmanager
def collection(sessions: Sessions, chosen: list[Session], format_name: str, classes: list[str]) -> Iterator[Path]:
    """A ZIP archive of pictures and videos with the masks of their visible objects. It is removed when the block ends.

    Args:
        classes: names whose numbers are fixed beforehand.

    Raises:
        ApiError: a video has no mask, the format does not take it, or there is no room.
    """
    for session in chosen:
        if session.kind == "video" and format_name == "masks":
            raise ApiError(409, "bad_request", f"{session.name} is no picture: its own export gives its masks")
        if session.kind == "image" and format_name in OF_VIDEOS:
            raise ApiError(409, "bad_request", f"{session.name} is a picture: {format_name} is for videos")
        if session.kind == "video" and not session.masks:
            raise ApiError(409, "empty", f"{session.name} has no mask to export yet")
    folder = Path(mkdtemp(dir=sessions.folder, prefix="collection-"))
    size = sum(_bytes(session) for session in chosen)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sessions.take_disk(2 * size)
        stack.callback(sessions.give_disk, None, 2 * size)
        items = [
            _item(session, folder, n) if session.kind == "image" else _video(sessions, session)
            for n, session in enumerate(chosen)
        ]
        try:
            if format_name == "masks":
                _write_masks(items, folder / "out")
            else:
                with open_writer(folder / "out", format_name, classes=classes) as writer:
                    for item in items:
                        writer.add(item)
        except DatasetError as error:
            raise ApiError(409, "failed", str(error)) from None
        yield _zipped(folder)


def _item(session: Session, folder: Path, number: int) -> Item:
    """A picture as the writers of data sets take it."""
    stem = _stem(session)
    path = folder / f"{number:05d}{_suffix(session.path)}"
    link_or_copy(session.path, path)
    with session.lock:
        masks = {n: masks[0] for n, masks in session.masks.items() if 0 in masks and masks[0].area}
        objects = [obj for n, obj in sorted(session.objects.items()) if obj.visible and n in masks]
    found = [DatasetObject(o.id, class_of(o), {0: RleMask(masks[o.id].rle)}, {0: masks[o.id].score}) for o in objects]
    frames = FileFrames([path], (session.height, session.width), names=[stem])
    return Item(stem, frames, False, (0,), lambda: found)


class _VideoFrames(Frames):
    """The frames of an open video."""

    def __init__(self, sessions: Sessions, session: Session) -> None:
        self._sessions, self._session = sessions, session
        self.count = session.num_frames

    @property
    def size(self) -> tuple[int, int]:
        return self._session.height, self._session.width

    def read(self, i: int) -> np.ndarray:
        with self._sessions.loaded(self._session) as source:
            try:
                return source[i]
            except VideoError as error:
                raise DatasetError(str(error)) from None


def _video(sessions: Sessions, session: Session) -> Item:
    """A video as the writers take it. Of frames where no object has a mask, empty or not, nothing is known."""
    with session.lock:
        objects = [obj for n, obj in sorted(session.objects.items()) if obj.visible and n in session.masks]
        masks = {obj.id: dict(session.masks[obj.id]) for obj in objects}
    keyframes = tuple(sorted({t for of_one in masks.values() for t in of_one}))
    found = []
    for obj in objects:
        seen = {t: mask for t, mask in sorted(masks[obj.id].items()) if mask.area}
        parts = {t: RleMask(mask.rle) for t, mask in seen.items()}
        found.append(DatasetObject(obj.id, class_of(obj), parts, {t: mask.score for t, mask in seen.items()}))
    return Item(_stem(session), _VideoFrames(sessions, session), True, keyframes, lambda: found)


def _bytes(session: Session) -> int:
    """How much of a session's pixels goes into a data set, about: the file, or frames as JPEG."""
    if session.kind == "image":
        return session.path.stat().st_size
    frames = {t for masks in session.masks.values() for t in masks}
    return len(frames) * session.height * session.width // 2


def _stem(session: Session) -> str:
    return re.sub(r"[^\w.\- ]", "_", Path(session.name).stem)[:80] or session.kind


def _suffix(path: Path) -> str:
    """What the file is, for writers that copy it; nothing where they have to convert it."""
    with open(path, "rb") as file:
        head = file.read(16)
    try:
        return frame_suffix(head)
    except ApiError:
        return ""


def _write_masks(items: list[Item], out: Path) -> None:
    """A folder for each picture, in it a PNG for each object."""
    names: set[str] = set()
    for item in items:
        name, n = item.name, 1
        while name.casefold() in names:
            name, n = f"{item.name}-{n}", n + 1
        names.add(name.casefold())
        (out / name).mkdir(parents=True)
        for found in item.objects:
            label = re.sub(r"[^A-Za-z0-9_-]+", "_", found.class_name)[:40]
            mask: np.ndarray = rle_to_mask(found.masks[0].rle())
            Image.fromarray(mask_picture(mask)).save(out / name / f"{found.id:03d}_{label}.png", compress_level=3)


def _zipped(folder: Path) -> Path:
    """The folder ``out`` as an archive beside it."""
    path = folder / "out.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for part in sorted((folder / "out").rglob("*")):
            if part.is_file():
                small = part.suffix in (".json", ".txt", ".xml", ".yaml")
                kind = zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED
                archive.write(part, part.relative_to(folder / "out"), compress_type=kind)
    return path

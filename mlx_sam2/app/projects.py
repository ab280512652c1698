"""Project files: a session in a ZIP archive. They are read as if a stranger had made them.

``project.json`` holds objects and prompts, ``masks.jsonl`` every mask, ``media`` the file as it was opened, or
``frames/00000.jpg`` and so on the frames. Other names are refused, no name becomes a path, and no more is unpacked than
an upload may have, whatever the headers say.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import Field, ValidationError

from ..frames.source import FolderSource
from ..text import message_of
from .history import mask_bytes, object_bytes
from .image_work import as_given
from .job import Steps
from .media import Limits, frame_suffix, kind_of
from .schemas import MAX_OBJECT, ApiError, Kind, Mask, Object, Wire
from .session import Session
from .session_store import Sessions
from .snapshot import Snapshot

FORMAT = 1
JSON_BYTES = 64 << 20  # of project.json
SIGNS = {b"{": 20_000, b"[": 250_000, b",": 1_000_000}  # in it: what would take long to read is not read
LINE_BYTES = 8 << 20  # of a line of masks.jsonl
LINE_MORE = 200  # bytes of a line beside its counts, at most
DIRECTORY_BYTES = 16 << 20  # of the archive's list of files
BLOCK = 4 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError, KeyError)


class Project(Wire):
    """``project.json``."""

    format: Literal[1]
    kind: Kind
    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f/\\]*$")]
    width: int
    height: int
    frames: int
    objects: Annotated[list[Object], Field(max_length=MAX_OBJECT)]


class MaskLine(Mask):
    """A line of ``masks.jsonl``."""

    object: Annotated[int, Field(ge=1, le=MAX_OBJECT)]
    frame: Annotated[int, Field(ge=0)]


# ---- writing


def write_project(export: Snapshot, path: Path) -> Steps:
    """Write the session, with what it was opened from. ApiError where it could not be opened again."""
    session = export.session
    most = export.limits.upload_bytes
    project = Project(
        format=FORMAT,
        kind=session.kind,
        name=session.name,
        width=session.width,
        height=session.height,
        frames=session.num_frames,
        objects=list(export.objects.values()),
    ).model_dump_json()
    if len(project) > JSON_BYTES:
        text = f"the prompts of {session.name} have {len(project):,} bytes: at most {JSON_BYTES:,} are taken"
        raise ApiError(413, "too_large", text)
    size = len(project) + sum(path.stat().st_size for _, path in _media_of(session))
    size += sum(len(mask.counts) + LINE_MORE for masks in export.masks.values() for mask in masks.values())
    if size > most:
        raise ApiError(
            413, "too_large", f"{session.name} and its masks have {size:,} bytes: at most {most:,} are taken"
        )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("project.json", project)
        with archive.open("masks.jsonl", "w") as file:
            for t in export.frames:
                for obj_id, mask in sorted(export.masks[t].items()):
                    line = MaskLine(object=obj_id, frame=t, **mask.model_dump())
                    file.write(line.model_dump_json().encode() + b"\n")
        yield
        for name, source in _media_of(session):
            yield from _copy_in(archive, name, source)


def _media_of(session: Session) -> Iterator[tuple[str, Path]]:
    """Names in the archive, and the files."""
    if not session.path.is_dir():
        yield "media", session.path
        return
    for i, path in enumerate(FolderSource(session.path).paths):
        yield f"frames/{i:05d}{'.png' if path.suffix.lower() == '.png' else '.jpg'}", path


def _copy_in(archive: zipfile.ZipFile, name: str, path: Path) -> Steps:
    info = zipfile.ZipInfo(name)  # stored: pictures and videos do not shrink
    info.file_size = path.stat().st_size
    with open(path, "rb") as source, archive.open(info, "w") as file:
        while block := source.read(BLOCK):
            file.write(block)
            yield


# ---- reading


def read_project(sessions: Sessions, open_file: Callable[..., Session], path: Path, folder: Path) -> Session:
    """Unpack a project into a folder of the app and open it with `open_file` (``App.open``).

    Raises:
        ApiError: it is no project, damaged, too large, or does not fit together.
    """
    limits, taken = sessions.limits, 0
    try:
        _require_sane_archive(path, limits)
        with zipfile.ZipFile(path) as archive:
            entries = _entries(archive, limits)
            project = _read_json(archive, entries)
            size = sum(info.file_size for name, info in entries.items() if not name.endswith((".json", ".jsonl")))
            sessions.take_disk(size)
            taken = size
            media = _unpack_media(archive, entries, project.kind, folder)

            def fill(session: Session) -> None:
                _restore(sessions, session, project, _lines(archive, entries))

            return open_file(kind_of(media), project.name, media, folder, disk=taken, fill=fill)
    except BaseException as error:
        sessions.give_disk(None, taken)
        if isinstance(error, ApiError) or not isinstance(error, _DAMAGE):
            raise
        raise ApiError(415, "unsupported", f"the project is damaged: {_brief(error)}") from None


def _brief(error: BaseException) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg'][:120]}"
    return message_of(error, 160)


def _require_sane_archive(path: Path, limits: Limits) -> None:
    """Look at the end of the archive before zipfile does: it would read a list of any length into memory."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(size - 42, 0))
        tail = file.read()
    end = tail[-22:]
    if size < 22 or not end.startswith(b"PK\x05\x06") or end[20:] != b"\0\0" or tail[:-22][-20:-16] == b"PK\x06\x07":
        raise ApiError(415, "unsupported", "this is no project file: a .sam2.zip that this app wrote is needed")
    count, length = int.from_bytes(end[10:12], "little"), int.from_bytes(end[12:16], "little")
    if count > limits.frames + 3 or length > DIRECTORY_BYTES:
        raise ApiError(413, "too_large", f"the project lists {count:,} files: at most {limits.frames + 3:,} are taken")


def _entries(archive: zipfile.ZipFile, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """The files of the archive by name, once their number, kinds and sizes are known to be fit."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        known = info.filename in ("project.json", "masks.jsonl", "media") or _is_frame(info.filename)
        if not known or info.filename in entries:
            raise ApiError(415, "unsupported", f"the project holds something else: {info.filename!r:.80}")
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ApiError(
                415, "unsupported", f"{info.filename!r:.80} in the project is encrypted or packed in a way not taken"
            )
        entries[info.filename] = info
    total = sum(info.file_size for info in entries.values())
    if total > limits.upload_bytes:
        raise ApiError(413, "too_large", f"the project unpacks to {total:,} bytes: at most {limits.upload_bytes:,}")
    missing = {"project.json", "masks.jsonl"} - set(entries)
    if missing:
        raise ApiError(415, "unsupported", f"this is no project file: it has no {min(missing)}")
    return entries


def _is_frame(name: str) -> bool:
    number = name[7:-4]
    is_one = name.startswith("frames/") and name.endswith((".jpg", ".png")) and len(number) == 5
    return is_one and number.isascii() and number.isdecimal()


def _read_json(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> Project:
    if entries["project.json"].file_size > JSON_BYTES:
        raise ApiError(413, "too_large", f"project.json may have {JSON_BYTES:,} bytes")
    with archive.open(entries["project.json"]) as file:
        data = file.read(JSON_BYTES)
    for sign, most in SIGNS.items():
        if data.count(sign) > most:
            raise ApiError(413, "too_large", f"project.json may have {most:,} {sign.decode()!r}")
    return Project.model_validate_json(data)


def _unpack_media(
    archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], kind: Kind, folder: Path
) -> Path:  # fmt: skip
    """The file, or the folder of frames, under names of our own."""
    frames = sorted(name for name in entries if _is_frame(name))
    if bool(frames) == ("media" in entries) or (frames and kind == "image"):
        raise ApiError(415, "unsupported", "the project must hold one picture, one video, or the frames of a video")
    if not frames:
        _copy_out(archive, entries["media"], folder / "opened")
        return folder / "opened"
    place = folder / "opened_frames"
    place.mkdir()
    for i, name in enumerate(frames):
        path = place / f"{i}.part"
        _copy_out(archive, entries[name], path)
        with open(path, "rb") as file:
            suffix = frame_suffix(file.read(16))
        os.replace(path, place / f"{i:05d}{suffix}")
    return place


def _copy_out(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> None:
    left = info.file_size  # zipfile reads no more than this, and compares it and a checksum
    with archive.open(info) as source, open(path, "wb") as file:
        while left > 0 and (block := source.read(min(BLOCK, left))):
            file.write(block)
            left -= len(block)


def _lines(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> Iterator[MaskLine]:
    file: IO[bytes]
    with archive.open(entries["masks.jsonl"]) as file:
        while line := file.readline(LINE_BYTES):
            yield MaskLine.model_validate_json(line)


def _restore(sessions: Sessions, session: Session, project: Project, lines: Iterator[MaskLine]) -> None:
    """Give a session the objects and masks of a project."""
    expected = (project.kind, project.width, project.height, project.frames)
    if expected != (session.kind, session.width, session.height, session.num_frames):
        raise ApiError(415, "unsupported", "the project does not fit its picture or video")
    for obj in project.objects:
        if obj.id in session.objects:
            raise ApiError(415, "unsupported", f"the project has object {obj.id} twice")
        session.object_or_new(obj.id, sessions.limits)
        for frame, prompt in obj.frames.items():
            session.require_frame(int(frame))
            session.require_prompt(prompt)
        sessions.take_masks(session, object_bytes(obj))
        session.objects[obj.id] = obj
    if session.kind == "video" and session.num_prompts > sessions.limits.prompts:
        raise ApiError(413, "too_large", f"the project has more than {sessions.limits.prompts} prompts")
    seen = set()
    for line in lines:
        place = (line.object, line.frame)
        session.object(line.object)
        session.require_frame(line.frame)
        if place in seen:
            raise ApiError(415, "unsupported", f"the project has a mask of object {place[0]} on frame {place[1]} twice")
        seen.add(place)
        session.require_rle(line)
        mask = as_given(line, line.score)  # area and box are what the mask has, whatever the line says
        mask = mask.model_copy(update={"predicted_iou": line.predicted_iou})
        sessions.take_masks(session, mask_bytes(mask))
        session.set_mask(*place, mask)

"""Uploads: written to a temporary file piece by piece, and cut off when they become too large."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from .media import frame_order, frame_suffix
from .schemas import ApiError
from .session_store import Sessions

LEFT_FREE = 256 << 20  # bytes of the disk that uploads leave free
LOOKED = 32 << 20  # bytes between two checks of that


class Upload:
    """A file, or the frames of a video, received into a folder of its own.

    Use it in ``async with``: unless ``keep`` was called, the block's end removes the folder.
    """

    def __init__(self, request: Request, sessions: Sessions) -> None:
        self.request = request
        self.sessions = sessions
        self.size = 0
        self._kept = False
        length = request.headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 15 or int(length) > sessions.limits.upload_bytes):
            raise self._too_large()
        self.folder = sessions.new_folder()

    async def __aenter__(self) -> Upload:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.sessions.give_disk(None, self.size)

    def keep(self) -> None:
        """Leave the folder, and the bytes counted for it, to a session."""
        self._kept = True

    def _too_large(self) -> ApiError:
        most = self.sessions.limits.upload_bytes
        return ApiError(
            413, "too_large", f"an upload may have {most:,} bytes; give the file on the command line instead"
        )

    async def _pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self.request.stream():
                looks = self.size == 0 or self.size // LOOKED != (self.size + len(piece)) // LOOKED
                if looks and shutil.disk_usage(self.folder).free < LEFT_FREE:
                    raise ApiError(409, "full", "the disk is nearly full")
                if self.size + len(piece) > self.sessions.limits.upload_bytes:
                    raise self._too_large()
                self.sessions.take_disk(len(piece))
                self.size += len(piece)
                yield piece
        except ClientDisconnect:
            raise ApiError(400, "bad_request", "the upload was broken off") from None

    async def receive(self) -> Path:
        """The path of the file, or of the folder of frames, that the body holds.

        Raises:
            ApiError: it is too large, empty, or frames that are not.
        """
        kind, options = parse_options_header(self.request.headers.get("content-type", ""))
        if kind == b"multipart/form-data":
            return await self._receive_frames(options.get(b"boundary", b""))
        path = self.folder / "media"
        with open(path, "wb") as file:
            async for piece in self._pieces():
                file.write(piece)
        if self.size == 0:
            raise ApiError(415, "unsupported", "the file is empty")
        return path

    async def _receive_frames(self, boundary: bytes) -> Path:
        frames = _Frames(self.folder / "frames", self.sessions.limits.frames)
        try:
            parser = MultipartParser(boundary, frames.callbacks())
            async for piece in self._pieces():
                parser.write(piece)
            parser.finalize()
        except FormParserError:
            raise ApiError(400, "bad_request", "the form is damaged: multipart/form-data is needed") from None
        finally:
            frames.end_part()
        return frames.in_order()


class _Frames:
    """Parts of a form, each written to a file as it comes."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        self.names: list[str] = []
        self._header: list[bytes] = [b"", b""]
        self._file: IO[bytes] | None = None
        folder.mkdir()

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self.begin_part,
            "on_header_field": lambda data, start, end: self._more(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._more(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": self._write,
            "on_part_end": self.end_part,
        }

    def begin_part(self) -> None:
        if len(self.names) >= self.most:
            raise ApiError(413, "too_large", f"the app takes {self.most:,} frames; cut the video into parts")
        self._file = open(self.folder / f"{len(self.names)}", "wb")  # noqa: SIM115  closed in end_part
        self.names.append("")

    def _more(self, which: int, data: bytes) -> None:
        self._header[which] += data
        if len(self._header[which]) > 4096:
            raise ApiError(400, "bad_request", "the form is damaged: a header is too long")

    def _end_header(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            _, options = parse_options_header(self._header[1])
            self.names[-1] = options.get(b"filename", b"").decode("utf-8", "replace")
        self._header = [b"", b""]

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])

    def end_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def in_order(self) -> Path:
        """The folder, its files renamed to 00000.jpg and so on."""
        if not self.names:
            raise ApiError(415, "unsupported", "the form holds no files")
        order = frame_order(self.names)
        suffixes = set()
        for number, i in enumerate(order):
            path = self.folder / f"{i}"
            with open(path, "rb") as file:
                suffix = frame_suffix(file.read(16))
            suffixes.add(suffix)
            path.rename(self.folder / f"{number:05d}{suffix}")
        if len(suffixes) > 1:
            raise ApiError(415, "unsupported", "frames must all be JPEG, or all be PNG")
        return self.folder

"""A stand-in for the Hugging Face Hub on 127.0.0.1, for the real client: it serves, receives, and fails on request.

    with HubStandIn({"facebook/sam2.1-hiera-tiny": folder}) as endpoint:
        ...  # HF_ENDPOINT=endpoint HF_HUB_DISABLE_XET=1

Repositories are held in memory, commit by commit. As on the Hub, weights are LFS objects named by their sha256,
other files are named as git does, and an upload is preupload, LFS batch, PUT (in parts when it is long), commit.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hub_protocol import Request
from hub_repository import COMMIT, Repository, files_of

__all__ = ["COMMIT", "Fault", "HubStandIn", "Repository"]


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests whose "METHOD /path" matches ``what`` (a regex).

    ``status`` with ``headers`` and ``body`` answers that. ``cut`` ends the connection after so many bytes: of the
    answer, or of what the client sends. ``wrong`` changes the last byte of the answer. ``more`` bytes follow it, in an
    answer that does not say how long it is. ``hold`` waits for that event in the middle of what the client sends;
    ``reached`` is set when a request meets the fault.
    """

    what: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    wrong: bool = False
    more: int = 0
    hold: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)


class HubStandIn:
    """Serves local folders as repositories, and takes new ones from those who hold a token of ``writers``.

    Repositories named in ``tokens`` ask for that token (401 without it), those in ``gated`` are gated, every
    other name is unknown. ``writers`` maps a token to the user who may write to "user/...". ``requests`` lists
    what was asked, as "METHOD path"; ``ranges`` the Range headers; ``received`` the bytes of each PUT.
    """

    def __init__(
        self,
        repositories: Mapping[str, Path] | None = None,
        tokens: Mapping[str, str] | None = None,
        gated: tuple[str, ...] = (),
        writers: Mapping[str, str] | None = None,
        part_size: int = 1 << 30,
        faults: tuple[Fault, ...] = (),
    ) -> None:
        self.repositories = {name: Repository(files_of(folder)) for name, folder in (repositories or {}).items()}
        self.tokens, self.gated, self.writers = dict(tokens or {}), gated, dict(writers or {})
        self.part_size, self.faults = part_size, list(faults)
        self.objects: dict[str, bytes] = {}  # LFS contents by sha256, committed or not
        self.parts: dict[tuple[str, int], bytes] = {}
        self.collections: dict[str, list[str]] = {}  # names of repositories by slug
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.received: list[int] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self._server.handle_error = lambda *_: None  # clients that were killed
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self.endpoint

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo]
        return repository.commits[repository.commit_of(revision) or ""]

    def fault_of(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.what, request):
                    fault.times -= 1
                    fault.reached.set()
                    return fault
        return None


class _Broken(Exception):
    """The connection ends here."""


class _Handler(BaseHTTPRequestHandler):
    """The connection: reads requests, sends answers, and has the faults that are due."""

    protocol_version = "HTTP/1.1"
    fault: Fault | None = None

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        hub = self.server.hub
        self.path = unquote(urlsplit(self.path).path)
        request = f"{self.command} {self.path}"
        hub.requests.append(request)
        self.fault = hub.fault_of(request)
        try:
            body = self.body()
            if self.fault and self.fault.status:
                self.answer(self.fault.status, dict(self.fault.headers), self.fault.body)
            else:
                self.answer(*Request(hub, self.command, self.path, self.headers).reply(body))
        except _Broken:
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_GET

    def chunks(self) -> Iterator[bytes]:
        """What the client sends, as it comes."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            part = self.rfile.read(min(left, 1 << 16))
            if not part:
                raise _Broken
            left -= len(part)
            yield part

    def body(self) -> bytes:
        body = bytearray()
        sends = self.command in ("PUT", "POST") and self.fault is not None
        for part in self.chunks():
            body += part
            if sends and self.fault.hold:
                self.fault.hold.wait(60)
                raise _Broken
            if sends and self.fault.cut is not None and len(body) >= self.fault.cut:
                raise _Broken
        return bytes(body)

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.fault and self.fault.more and self.command == "GET":
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body + bytes(self.fault.more))
            raise _Broken
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.wrong:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if self.fault and self.fault.cut is not None and self.command == "GET":
            self.wfile.write(body[: self.fault.cut])
            raise _Broken
        self.wfile.write(body)

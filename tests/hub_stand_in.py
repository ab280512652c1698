"""A stand-in for the Hugging Face Hub on 127.0.0.1: enough of it for the downloads of huggingface_hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubStandIn:
    """Serves local folders as repositories, at revision ``main`` and at one commit.

        with HubStandIn({"facebook/sam2.1-hiera-tiny": folder}) as endpoint:
            ...  # HF_ENDPOINT=endpoint

    Repositories named in ``tokens`` ask for that token (401 without it), those in ``gated`` are gated, every
    other name is unknown. ``requests`` lists what was asked, as "METHOD path".
    """

    def __init__(
        self,
        repositories: Mapping[str, Path],
        tokens: Mapping[str, str] | None = None,
        gated: tuple[str, ...] = (),
    ) -> None:
        self.repositories, self.tokens, self.gated = dict(repositories), dict(tokens or {}), gated
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_of(hub: HubStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            status, headers, body = self.reply(path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def reply(self, path: str) -> tuple[int, dict[str, str], bytes]:
            api = path.startswith("/api/models/")
            parts = path.removeprefix("/api/models").strip("/").split("/")
            repo, rest = "/".join(parts[:2]), parts[2:]
            if repo in hub.gated:
                return 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."}, b""
            if repo in hub.tokens and self.headers.get("Authorization") != f"Bearer {hub.tokens[repo]}":
                return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
            if repo not in hub.repositories:
                return 404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, b""
            revision = rest[1] if len(rest) > 1 else "main"
            if revision not in ("main", COMMIT):
                return 404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}, b""
            return self.listing(repo) if api else self.file(repo, "/".join(rest[2:]))

        def listing(self, repo: str) -> tuple[int, dict[str, str], bytes]:
            """Both /api/models/<repo>[/revision/<rev>] and /api/models/<repo>/tree/<rev>."""
            files = sorted(p for p in hub.repositories[repo].rglob("*") if p.is_file())
            names = [p.relative_to(hub.repositories[repo]).as_posix() for p in files]
            answer: object = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            if "/tree/" in self.path:
                answer = [
                    {"type": "file", "path": name, "size": p.stat().st_size, "oid": _etag(p)}
                    for name, p in zip(names, files, strict=True)
                ]
            return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()

        def file(self, repo: str, name: str) -> tuple[int, dict[str, str], bytes]:
            file = hub.repositories[repo] / name
            if not file.is_file():
                headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
                return 404, {**headers, "X-Repo-Commit": COMMIT}, b""
            return 200, {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT}, file.read_bytes()

    return Handler


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()

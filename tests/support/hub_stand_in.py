"""A stand-in for the Hugging Face Hub on 127.0.0.1, for the real client: it serves, receives, and fails on request.

    with HubStandIn({"facebook/sam2.1-hiera-tiny": folder}) as endpoint:
        ...  # HF_ENDPOINT=endpoint HF_HUB_DISABLE_XET=1

Repositories are held in memory, commit by commit. As on the Hub, weights are LFS objects named by their sha256,
other files are named as git does, and an upload is preupload, LFS batch, PUT (in parts when it is long), commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # of the folders that a stand-in begins with
LFS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests whose "METHOD /path" matches ``what`` (a regex).

    ``status`` with ``headers`` and ``body`` answers that. ``cut`` ends the connection after so many bytes: of the
    answer, or of what the client sends. ``wrong`` changes the last byte of the answer. ``hold`` waits for that
    event in the middle of what the client sends; ``reached`` is set when a request meets the fault.
    """

    what: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    wrong: bool = False
    hold: threading.Event | None = None
    reached: threading.Event = field(default_factory=threading.Event)


class Repository:
    """Branches and commits: {branch: commit}, {commit: {path: content}}."""

    def __init__(self, files: Mapping[str, bytes], private: bool = False) -> None:
        self.commits = {COMMIT: dict(files)}
        self.branches = {"main": COMMIT}
        self.private = private

    def commit_of(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    def commit(self, branch: str, files: Mapping[str, bytes]) -> str:
        content = json.dumps([self.branches[branch], *((p, oid_of(p, b)) for p, b in sorted(files.items()))])
        name = hashlib.sha1(content.encode()).hexdigest()
        self.commits[name], self.branches[branch] = dict(files), name
        return name


def oid_of(path: str, content: bytes) -> str:
    if path.endswith(LFS_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


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
        self.repositories = {name: Repository(_files(folder)) for name, folder in (repositories or {}).items()}
        self.tokens, self.gated, self.writers = dict(tokens or {}), gated, dict(writers or {})
        self.part_size, self.faults = part_size, list(faults)
        self.objects: dict[str, bytes] = {}  # LFS contents by sha256, committed or not
        self.parts: dict[tuple[str, int], bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.received: list[int] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
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


def _files(folder: Path) -> dict[str, bytes]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def _json(value: object, status: int = 200) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _refusal(status: int, message: str, code: str = "") -> Reply:
    return status, {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}, b""


class _Broken(Exception):
    """The connection ends here."""


def _handler_of(hub: HubStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        fault: Fault | None = None

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            self.path, query = unquote(urlsplit(self.path).path), urlsplit(self.path).query
            request = f"{self.command} {self.path}"
            hub.requests.append(request)
            self.fault = hub.fault_of(request)
            try:
                body = self.body()
                if self.fault and self.fault.status:
                    self.answer(self.fault.status, dict(self.fault.headers), self.fault.body)
                else:
                    self.answer(*self.reply(body, query))
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

        def user(self) -> str | None:
            return hub.writers.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

        # ---- what there is to ask

        def reply(self, body: bytes, query: str) -> Reply:
            if self.path.startswith("/lfs/"):
                return self.lfs_object(body)
            if self.path == "/api/validate-yaml":
                return _json({"errors": [], "warnings": []})
            if self.path == "/api/whoami-v2":
                return _json({"type": "user", "name": self.user(), "orgs": []}) if self.user() else self.unknown()
            if self.path == "/api/repos/create":
                return self.create(json.loads(body))
            api = self.path.startswith("/api/models/")
            parts = self.path.removeprefix("/api/models").strip("/").split("/")
            repo, rest = "/".join(parts[:2]).removesuffix(".git"), parts[2:]
            if refusal := self.closed(repo):
                return refusal
            if self.command == "POST":
                return self.write(repo, rest, body)
            commit = hub.repositories[repo].commit_of(rest[1] if len(rest) > 1 else "main")
            if commit is None:
                return _refusal(404, "Invalid rev id", "RevisionNotFound")
            return self.listing(repo, commit) if api else self.file(repo, commit, "/".join(rest[2:]))

        def unknown(self) -> Reply:
            return _refusal(401, "Invalid credentials in Authorization header")

        def closed(self, repo: str) -> Reply | None:
            if repo in hub.gated:
                return _refusal(403, "Access is restricted.", "GatedRepo")
            if repo in hub.tokens and self.headers.get("Authorization") != f"Bearer {hub.tokens[repo]}":
                return self.unknown()
            known = hub.repositories.get(repo)
            if known is None or (known.private and self.user() != repo.split("/")[0]):
                return _refusal(404, "Repository not found", "RepoNotFound")
            return None

        def listing(self, repo: str, commit: str) -> Reply:
            """/api/models/<repo>[/revision/<rev>] and /api/models/<repo>/tree/<rev>"""
            files = hub.files(repo, commit)
            if "/tree/" in self.path:
                return _json(
                    [{"type": "file", "path": p, "size": len(b), "oid": oid_of(p, b)} for p, b in files.items()]
                )
            private = hub.repositories[repo].private
            siblings = [{"rfilename": name} for name in files]
            return _json({"id": repo, "sha": commit, "private": private, "siblings": siblings})

        def file(self, repo: str, commit: str, name: str) -> Reply:
            content = hub.files(repo, commit).get(name)
            if content is None:
                status, headers, body = _refusal(404, "Entry not found", "EntryNotFound")
                return status, {**headers, "X-Repo-Commit": commit}, body
            headers = {"ETag": f'"{oid_of(name, content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
            if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
                hub.ranges.append(asked[0])
                start, total = int(asked[1]), len(content)
                return 206, {**headers, "Content-Range": f"bytes {start}-{total - 1}/{total}"}, content[start:]
            return 200, headers, content

        # ---- what there is to send

        def create(self, asked: dict[str, str]) -> Reply:
            user = self.user()
            if user is None:
                return self.unknown()
            owner = asked.get("organization") or user
            name = f"{owner}/{asked['name']}"
            if owner != user:
                return _refusal(403, f"You don't have the rights to create a model under the namespace {owner}")
            if name in hub.repositories:
                taken = {"error": "You already created this model repo", "url": f"{hub.endpoint}/{name}"}
                return _json(taken, 409)
            private = asked.get("visibility") == "private" or asked.get("private") is True
            hub.repositories[name] = Repository({".gitattributes": b"*.safetensors filter=lfs\n"}, private)
            return _json({"url": f"{hub.endpoint}/{name}", "name": name, "id": name})

        def write(self, repo: str, rest: list[str], body: bytes) -> Reply:
            if self.user() is None:
                return self.unknown()
            if self.user() != repo.split("/")[0]:
                return _refusal(403, "You need write access")
            if rest[:2] == ["info", "lfs"]:
                return self.batch(json.loads(body))
            repository, branch = hub.repositories[repo], rest[1]
            if rest[0] == "branch":
                if branch in repository.branches:
                    return _refusal(409, "Reference already exists")
                repository.branches[branch] = repository.branches["main"]
                return _json({})
            if branch not in repository.branches:
                return _refusal(404, "Invalid rev id", "RevisionNotFound")
            files = hub.files(repo, branch)
            if rest[0] == "preupload":
                return self.preupload(files, json.loads(body))
            with hub.lock:
                commit = repository.commit(branch, _after(files, body, hub.objects))
            return _json({"commitUrl": f"{hub.endpoint}/{repo}/commit/{commit}", "commitOid": commit})

        def preupload(self, files: Mapping[str, bytes], asked: dict[str, list[dict]]) -> Reply:
            answer = []
            for path in (file["path"] for file in asked["files"]):
                mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
                oid = oid_of(path, files[path]) if path in files else None
                answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            return _json({"files": answer})

        def batch(self, asked: dict[str, list[dict]]) -> Reply:
            answer = []
            for entry in asked["objects"]:
                oid, size = entry["oid"], entry["size"]
                actions = {"verify": {"href": f"{hub.endpoint}/lfs/verify/{oid}"}}
                if size > hub.part_size:
                    count = -(-size // hub.part_size)
                    urls = {f"{n:05d}": f"{hub.endpoint}/lfs/part/{oid}/{n}" for n in range(1, count + 1)}
                    header = {"chunk_size": str(hub.part_size), **urls}
                    actions["upload"] = {"href": f"{hub.endpoint}/lfs/complete/{oid}", "header": header}
                else:
                    actions["upload"] = {"href": f"{hub.endpoint}/lfs/put/{oid}"}
                answer.append({"oid": oid, "size": size, **({} if oid in hub.objects else {"actions": actions})})
            return _json({"transfer": "multipart", "objects": answer})

        def lfs_object(self, body: bytes) -> Reply:
            _, _, verb, oid, *part = self.path.split("/")
            if verb == "part":
                hub.received.append(len(body))
                hub.parts[oid, int(part[0])] = body
                return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
            if verb == "put":
                hub.received.append(len(body))
            if verb == "complete":
                body = b"".join(hub.parts[key] for key in sorted(hub.parts) if key[0] == oid)
            if verb != "verify":
                if hashlib.sha256(body).hexdigest() != oid:
                    return _refusal(400, "Checksum mismatch")
                hub.objects[oid] = body
            return _json({}) if oid in hub.objects else _refusal(404, "no such object")

    return Handler


def _after(files: Mapping[str, bytes], ndjson: bytes, objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files after a commit."""
    files = dict(files)
    for item in map(json.loads, ndjson.splitlines()):
        value = item["value"]
        if item["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif item["key"] == "lfsFile":
            files[value["path"]] = objects[value["oid"]]
        elif item["key"] == "deletedFile":
            del files[value["path"]]
    return files

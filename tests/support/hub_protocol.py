"""What the Hub answers: listings and files, and uploads by preupload, LFS batch, PUT and commit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hub_repository import LFS_SUFFIXES, Repository, after, oid_of

if TYPE_CHECKING:
    from hub_stand_in import HubStandIn

Reply = tuple[int, dict[str, str], bytes]


def _json(value: object, status: int = 200) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _refusal(status: int, message: str, code: str = "") -> Reply:
    return status, {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}, b""


@dataclass
class Request:
    """A request to the stand-in, and its answer."""

    hub: HubStandIn
    command: str
    path: str
    headers: Mapping[str, str]

    def reply(self, body: bytes) -> Reply:
        if self.path.startswith("/lfs/"):
            return self.lfs_object(body)
        if self.path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if self.path == "/api/whoami-v2":
            return _json({"type": "user", "name": self.user(), "orgs": []}) if self.user() else self.unknown()
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path.startswith("/api/collections"):
            return self.collection(json.loads(body))
        api = self.path.startswith("/api/models/")
        parts = self.path.removeprefix("/api/models").strip("/").split("/")
        repo, rest = "/".join(parts[:2]).removesuffix(".git"), parts[2:]
        if refusal := self.closed(repo):
            return refusal
        if self.command == "POST":
            return self.write(repo, rest, body)
        commit = self.hub.repositories[repo].commit_of(rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return _refusal(404, "Invalid rev id", "RevisionNotFound")
        return self.listing(repo, commit) if api else self.file(repo, commit, "/".join(rest[2:]))

    def unknown(self) -> Reply:
        return _refusal(401, "Invalid credentials in Authorization header")

    def closed(self, repo: str) -> Reply | None:
        if repo in self.hub.gated:
            return _refusal(403, "Access is restricted.", "GatedRepo")
        if repo in self.hub.tokens and self.headers.get("Authorization") != f"Bearer {self.hub.tokens[repo]}":
            return self.unknown()
        known = self.hub.repositories.get(repo)
        if known is None or (known.private and self.user() != repo.split("/")[0]):
            return _refusal(404, "Repository not found", "RepoNotFound")
        return None

    def listing(self, repo: str, commit: str) -> Reply:
        """/api/models/<repo>[/revision/<rev>] and /api/models/<repo>/tree/<rev>"""
        files = self.hub.files(repo, commit)
        if "/tree/" in self.path:
            return _json([{"type": "file", "path": p, "size": len(b), "oid": oid_of(p, b)} for p, b in files.items()])
        private = self.hub.repositories[repo].private
        siblings = [{"rfilename": name} for name in files]
        return _json({"id": repo, "sha": commit, "private": private, "siblings": siblings})

    def file(self, repo: str, commit: str, name: str) -> Reply:
        content = self.hub.files(repo, commit).get(name)
        if content is None:
            status, headers, body = _refusal(404, "Entry not found", "EntryNotFound")
            return status, {**headers, "X-Repo-Commit": commit}, body
        headers = {"ETag": f'"{oid_of(name, content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            self.hub.ranges.append(asked[0])
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
        if name in self.hub.repositories:
            taken = {"error": "You already created this model repo", "url": f"{self.hub.endpoint}/{name}"}
            return _json(taken, 409)
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories[name] = Repository({".gitattributes": b"*.safetensors filter=lfs\n"}, private)
        return _json({"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name})

    def collection(self, asked: dict) -> Reply:
        """POST /api/collections, and /api/collections/<owner>/<title>/items"""
        if self.user() is None:
            return self.unknown()
        slug = self.path.removeprefix("/api/collections").strip("/").removesuffix("/items")
        if not slug:
            slug = f"{asked['namespace']}/{asked['title'].lower().replace(' ', '-')}"
            self.hub.collections.setdefault(slug, [])
        else:
            self.hub.collections[slug].append(asked["item"]["id"])
        items = [
            {"_id": str(i), "id": name, "type": "model", "position": i}
            for i, name in enumerate(self.hub.collections[slug])
        ]
        about = {"slug": slug, "title": slug, "owner": {}, "items": items, "lastUpdated": "2026-01-01T00:00:00.000Z"}
        return _json({**about, "position": 0, "private": False, "theme": "green", "upvotes": 0})

    def write(self, repo: str, rest: list[str], body: bytes) -> Reply:
        if self.user() is None:
            return self.unknown()
        if self.user() != repo.split("/")[0]:
            return _refusal(403, "You need write access")
        if rest[:2] == ["info", "lfs"]:
            return self.batch(json.loads(body))
        repository, branch = self.hub.repositories[repo], rest[1]
        if rest[0] == "branch":
            if branch in repository.branches:
                return _refusal(409, "Reference already exists")
            repository.branches[branch] = repository.branches["main"]
            return _json({})
        if branch not in repository.branches:
            return _refusal(404, "Invalid rev id", "RevisionNotFound")
        files = self.hub.files(repo, branch)
        if rest[0] == "preupload":
            return self.preupload(files, json.loads(body))
        with self.hub.lock:
            commit = repository.commit(branch, after(files, body, self.hub.objects))
        return _json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}", "commitOid": commit})

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
            actions = {"verify": {"href": f"{self.hub.endpoint}/lfs/verify/{oid}"}}
            if size > self.hub.part_size:
                count = -(-size // self.hub.part_size)
                urls = {f"{n:05d}": f"{self.hub.endpoint}/lfs/part/{oid}/{n}" for n in range(1, count + 1)}
                header = {"chunk_size": str(self.hub.part_size), **urls}
                actions["upload"] = {"href": f"{self.hub.endpoint}/lfs/complete/{oid}", "header": header}
            else:
                actions["upload"] = {"href": f"{self.hub.endpoint}/lfs/put/{oid}"}
            answer.append({"oid": oid, "size": size, **({} if oid in self.hub.objects else {"actions": actions})})
        return _json({"transfer": "multipart", "objects": answer})

    def lfs_object(self, body: bytes) -> Reply:
        _, _, verb, oid, *part = self.path.split("/")
        if verb == "part":
            self.hub.received.append(len(body))
            self.hub.parts[oid, int(part[0])] = body
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        if verb == "put":
            self.hub.received.append(len(body))
        if verb == "complete":
            body = b"".join(self.hub.parts[key] for key in sorted(self.hub.parts) if key[0] == oid)
        if verb != "verify":
            if hashlib.sha256(body).hexdigest() != oid:
                return _refusal(400, "Checksum mismatch")
            self.hub.objects[oid] = body
        return _json({}) if oid in self.hub.objects else _refusal(404, "no such object")

    def user(self) -> str | None:
        return self.hub.writers.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

"""Repositories of the stand-in for the Hub: branches, commits, and how the Hub names contents."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"  # of the folders that a stand-in begins with
LFS_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


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


def files_of(folder: Path) -> dict[str, bytes]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in found}


def after(files: Mapping[str, bytes], ndjson: bytes, objects: Mapping[str, bytes]) -> dict[str, bytes]:
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

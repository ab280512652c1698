"""Project files of the app: opened again, and rebuilt with changes that a stranger could make."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

from app_machine import Machine


def unzip(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def reopened(machine: Machine, data: bytes) -> str:
    answer = machine.client.post("/api/projects", content=data)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def rebuilt(data: bytes, change: Callable[[dict[str, bytes]], Any], pack: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A project with some of its files changed."""
    files = unzip(data)
    change(files)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", pack) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, bytes]], None]:
    def edit(files: dict[str, bytes]) -> None:
        project = json.loads(files["project.json"])
        change(project)
        files["project.json"] = json.dumps(project).encode()

    return edit

"""Edits that come twice, because an answer was lost, or at the same time."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import Machine, code, form, frames_of_clip, photo, png, running
from mlx_sam2.app.history import CLIENTS, History
from mlx_sam2.app.image_work import ImageWork
from mlx_sam2.app.lines import all_lines

A, B = [30.0, 40.0, 1], [60.0, 20.0, 1]


def send(machine: Machine, session: str, edit: int | None, revision: int | None, *points: Any) -> httpx.Response:
    """A prompt of object 1, as the edit of a number of the client "tab"."""
    query = {"client": "tab", "edit": edit, "revision": revision}
    known = {key: value for key, value in query.items() if value is not None}
    return machine.client.put(f"/api/sessions/{session}/objects/1/frames/0", json={"points": points}, params=known)


def test_an_edit_that_is_sent_again_is_recognised(machine: Machine) -> None:
    session = machine.open(png(photo()))
    assert machine.session(session)["clients"] == {}
    assert send(machine, session, 1, 0, A).json()["revision"] == 1
    before = machine.session(session)
    assert before["clients"] == {"tab": 1}
    for revision in (0, 1, None):  # whatever the client knows meanwhile
        again = send(machine, session, 1, revision, A, A)
        assert code(again) == (409, "repeated") and again.json()["session"] == before
    base = f"/api/sessions/{session}"
    query = {"client": "tab", "edit": 1}
    others = [
        machine.client.put(f"{base}/objects/1", json={"name": "x"}, params=query),
        machine.client.delete(f"{base}/objects/1", params=query),
        machine.client.post(f"{base}/restore", json={"revision": 0}, params=query),
        machine.client.post(f"{base}/everything", json={"points_per_side": 1}, params=query),
    ]
    assert {code(answer) for answer in others} == {(409, "repeated")}
    assert machine.session(session) == before
    assert send(machine, session, 2, 1, A, B).json()["revision"] == 2
    assert send(machine, session, None, 2, A).json()["revision"] == 3, "a client that counts nothing may say all"


def test_tracking_that_is_asked_for_again_is_recognised(machine: Machine) -> None:
    video = machine.client.post("/api/sessions", files=form(frames_of_clip(3))).json()["id"]
    send(machine, video, 1, 0, A)
    ask = {"json": {"frame": 0}, "params": {"client": "tab", "edit": 2}}
    job = machine.client.post(f"/api/sessions/{video}/propagate", **ask).json()
    assert code(machine.client.post(f"/api/sessions/{video}/propagate", **ask)) == (409, "repeated")
    machine.finish(video, job["id"])
    assert machine.session(video)["revision"] == job["revision"] == 2


def test_an_edit_that_was_refused_may_be_sent_again(machine: Machine) -> None:
    session = machine.open(png(photo()))
    assert code(send(machine, session, 1, 7, A)) == (409, "stale")
    assert send(machine, session, 1, 0, A).status_code == 200


def test_an_edit_is_recognised_after_a_restart(model: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(model, tmp_path / "one", data=data) as machine:
        session = machine.open(png(photo()))
        for edit in range(3):
            send(machine, session, edit, None, A, *[B] * edit)
    for folder in ("two", "three"):
        with running(model, tmp_path / folder, data=data) as machine:
            assert machine.client.post(f"/api/recent/{session}").status_code == 201
            assert machine.session(session)["clients"] == {"tab": 2}
            assert code(send(machine, session, 2, 3, A, B, B, B)) == (409, "repeated")
            opened = machine.app.sessions.get(session)
            assert opened.save is not None
            opened.save.rewrite(all_lines(opened))  # as where the file has become long


def test_numbers_of_the_last_clients_are_kept() -> None:
    history = History()
    for client in range(CLIENTS + 5):
        history.note_clients({f"c{client}": client})
    assert len(history.clients) == CLIENTS and "c4" not in history.clients and "c5" in history.clients
    history.note_clients({"c9": 3})
    assert history.clients["c9"] == 9, "a smaller number does not take back a larger one"
    assert history.has_made({"c9": 9}) and not history.has_made({"c9": 10}) and not history.has_made({"new": 0})


def test_no_edit_comes_between_the_check_of_another_and_that(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that knows revision N and is answered with N + 1 knows all that was done."""
    session = machine.open(png(photo()))
    send(machine, session, None, None, A)
    rename: list[Future[httpx.Response]] = []
    decode = ImageWork.answer
    with ThreadPoolExecutor(1) as pool:

        def answer(work: ImageWork, prompt: Any) -> Any:
            place = f"{machine.url}/api/sessions/{session}/objects/1"
            rename.append(pool.submit(httpx.put, place, json={"name": "cup"}, params={"revision": 1}, timeout=60))
            with contextlib.suppress(NotYet):
                rename[0].result(0.3)  # it would be done by then
            return decode(work, prompt)

        monkeypatch.setattr(ImageWork, "answer", answer)
        assert send(machine, session, None, 1, A, B).json()["revision"] == 2
        assert code(rename[0].result()) == (409, "stale")
    assert machine.session(session)["revision"] == 2

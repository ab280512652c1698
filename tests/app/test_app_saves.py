"""Sessions on disk: what is there after a restart, a kill and a full disk, and what goes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")


from app_command import command
from app_machine import (
    SLOW,
    Listener,
    Machine,
    all_of,
    clip,
    code,
    form,
    frames_of_clip,
    photo,
    png,
    restore,
    running,
    wait_for,
)
from mlx_sam2.app import folders, saves

A, B = (30.0, 40.0, 1), (60.0, 20.0, 1)


@pytest.fixture
def machine(model: str, tmp_path: Path) -> Iterator[Machine]:
    with running(model, tmp_path / "files", data=tmp_path / "data") as machine:
        yield machine


def reopen(machine: Machine, session: str) -> httpx.Response:
    return machine.client.post(f"/api/recent/{session}")


def recent(machine: Machine) -> list[dict[str, Any]]:
    return machine.client.get("/api/state").json()["recent"]


@pytest.mark.slow
def test_a_restart_brings_everything_back_under_its_id(model: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(model, tmp_path / "one", data=data) as machine:
        video = machine.client.post("/api/sessions", params={"name": "walk"}, files=form(frames_of_clip(4))).json()
        assert (video["revision"], video["saving"]) == (0, "on")
        video = video["id"]
        machine.prompt(video, 1, 0, points=[A])
        machine.prompt(video, 2, 0, points=[B])
        machine.run(video, "propagate", frame=0)
        machine.client.put(f"/api/sessions/{video}/objects/2", json={"name": "cup", "color": "#00ff00"})
        before, state = all_of(machine, video), machine.session(video)
        machine.client.delete(f"/api/sessions/{video}/objects/1")
        photo_session = machine.open(png(photo()), "photo.png")
    with running(model, tmp_path / "two", data=data) as machine:
        assert code(machine.client.get(f"/api/sessions/{video}")) == (404, "not_found")
        assert [(entry["id"], entry["open"]) for entry in recent(machine)] == [(photo_session, False), (video, False)]
        answer = reopen(machine, video)
        assert answer.status_code == 201 and answer.json()["id"] == video
        assert [obj["id"] for obj in machine.session(video)["objects"]] == [2]
        assert restore(machine, video, state["revision"]).status_code == 200, "undo ends at the restart"
        assert all_of(machine, video) == before
        machine.run(video, "propagate", frame=0)
        assert all_of(machine, video) == before
        assert machine.client.get(f"/api/sessions/{video}/frames/3").status_code == 200
        assert machine.export(video, "project").status_code == 200
        again = reopen(machine, video)  # another tab
        assert again.status_code == 201 and again.json()["revision"] == machine.session(video)["revision"]
        assert len(machine.app.sessions) == 1


def test_a_closed_session_is_listed_with_its_picture(machine: Machine) -> None:
    session = machine.open(clip(3), "clip.mp4")
    machine.prompt(session, 1, points=[A])
    (entry,) = recent(machine)
    assert entry["open"] and entry["objects"] == 1 and entry["bytes"] > len(clip(3))
    assert {key: entry[key] for key in ("kind", "name", "width", "height", "frames")} == {
        "kind": "video", "name": "clip.mp4", "width": 96, "height": 72, "frames": 3,
    }  # fmt: skip
    assert code(machine.client.delete(f"/api/recent/{session}")) == (409, "busy")
    machine.client.delete(f"/api/sessions/{session}")
    assert not recent(machine)[0]["open"]
    picture = machine.client.get(f"/api/recent/{session}/thumbnail")
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == (96, 72)
    assert reopen(machine, session).json()["objects"][0]["frames"]["0"]["points"] == [list(A)]
    machine.client.delete(f"/api/sessions/{session}")
    assert machine.client.delete(f"/api/recent/{session}").status_code == 204
    assert recent(machine) == []
    for answer in (reopen(machine, session), machine.client.get(f"/api/recent/{session}/thumbnail")):
        assert code(answer) == (404, "not_found")
    assert code(reopen(machine, "..")) in {(404, "not_found"), (422, "bad_request"), (405, "bad_request")}


def test_two_tabs_that_open_a_session_again_get_the_same(machine: Machine) -> None:
    session = machine.open(png(photo()))
    machine.client.delete(f"/api/sessions/{session}")
    answers: list[int] = []
    threads = [threading.Thread(target=lambda: answers.append(reopen(machine, session).status_code)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SLOW)
    assert answers == [201] * 4 and len(machine.app.sessions) == 1


def test_two_apps_do_not_write_one_session(machine: Machine, model: str, tmp_path: Path) -> None:
    session = machine.open(png(photo()))
    with running(model, tmp_path / "other", data=tmp_path / "data") as other:
        assert code(reopen(other, session)) == (409, "busy")
        machine.client.delete(f"/api/sessions/{session}")
        assert reopen(other, session).status_code == 201


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_answered(model: str, tmp_path: Path) -> None:
    with command(model, tmp_path / "run") as app:
        client = httpx.Client(base_url=app.url, timeout=SLOW)
        session = client.post("api/sessions?name=a.png", content=png(photo())).json()["id"]
        for n in range(1, 6):
            answer = client.put(f"api/sessions/{session}/objects/{n}/frames/0", json={"points": [A]}).json()
        masks = client.get(f"api/sessions/{session}/masks/0").json()
        app.end(signal.SIGKILL)
        assert list(app.temporary.iterdir()), "it was not killed"
    (left,) = (tmp_path / "run" / "temporary").glob(f"{folders.PREFIX}*")
    with command(model, tmp_path / "run") as app:
        assert not left.exists(), "the temporary folder of the killed app is still there"
        assert len(list(app.temporary.glob(f"{folders.PREFIX}*"))) == 1
        client = httpx.Client(base_url=app.url, timeout=SLOW)
        state = client.post(f"api/recent/{session}").json()
        assert state["revision"] == answer["revision"] == 5
        assert client.get(f"api/sessions/{session}/masks/0").json() == masks
        assert app.end(signal.SIGINT) == 130


def test_folders_of_living_apps_are_not_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders.tempfile, "tempdir", str(tmp_path))
    (tmp_path / f"{folders.PREFIX}strange").mkdir()  # not made by an app that locks
    with folders.temporary() as one, folders.temporary() as two:
        assert one.exists() and two.exists()
    assert [path.name for path in tmp_path.iterdir()] == [f"{folders.PREFIX}strange"]


@pytest.mark.slow
def test_a_file_cut_anywhere_opens_as_it_was_once(machine: Machine) -> None:
    """As after a kill between two bytes: whatever is left is a state that the session had."""
    session = machine.client.post("/api/sessions", files=form(frames_of_clip(3))).json()["id"]
    states = {0: all_of(machine, session)}
    draw = np.random.default_rng(1)
    for _ in range(12):
        obj, frame = int(draw.integers(1, 4)), int(draw.integers(0, 3))
        if draw.random() < 0.2 and machine.session(session)["objects"]:
            restore(machine, session, int(draw.integers(0, machine.session(session)["revision"])))
        else:
            machine.prompt(session, obj, frame, points=[(int(draw.integers(0, 96)), int(draw.integers(0, 72)), 1)])
        states[machine.session(session)["revision"]] = all_of(machine, session)
    machine.client.delete(f"/api/sessions/{session}")
    file = machine.app.saves.folder / session / saves.EDITS
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in [len(whole), *sorted(draw.integers(first, len(whole), 8), reverse=True)]:
        file.write_bytes(whole[:cut])
        state = reopen(machine, session).json()
        assert all_of(machine, session) == states[state["revision"]]
        machine.client.delete(f"/api/sessions/{session}")
    file.write_bytes(whole[: first // 2])
    assert code(reopen(machine, session)) == (415, "unsupported")


@pytest.mark.slow
def test_a_file_of_many_edits_is_written_anew(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saves, "SLACK", 2000)
    session = machine.open(png(photo()))
    file = machine.app.saves.folder / session / saves.EDITS
    sizes, states = [], {}
    for n in range(30):
        answer = machine.prompt(session, 1 + n % 3, points=[(20 + n, 40, 1)])
        sizes.append(file.stat().st_size)
        states[answer["revision"]] = all_of(machine, session)
    restored = 20
    machine.client.delete(f"/api/sessions/{session}")
    reopen(machine, session)
    assert all_of(machine, session) == states[30]
    restore(machine, session, restored)
    assert all_of(machine, session) == states[restored]


def test_a_full_disk_is_one_notice_and_loses_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    session = machine.open(png(photo()))
    machine.prompt(session, 1, points=[A])
    file = machine.app.saves.folder / session / saves.EDITS
    before = file.read_bytes()
    listener = Listener(machine, session)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        """Takes half of it, then nothing."""
        if len(data) > 40:
            return write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saves.os, "write", full)
    for n in range(2, 5):
        machine.prompt(session, n, points=[B])
    monkeypatch.undo()
    assert file.read_bytes() == before, "what was saved before is damaged"
    assert machine.session(session)["saving"] == "failed" and len(machine.masks(session)) == 4

    def tries() -> bool:
        machine.prompt(session, 5, points=[A, (draw.randrange(96), 5, 1)])  # there is room again
        return machine.session(session)["saving"] == "on"

    draw = random.Random(0)
    wait_for(tries)
    wait_for(lambda: listener.names().count("saving") == 2)
    told = [data for name, data in listener.events if name == "saving"]
    assert [data["saving"] for data in told] == ["failed", "on"]
    assert "No space left" in told[0]["message"] and str(machine.app.saves.folder) not in told[0]["message"]
    listener.close()
    state = all_of(machine, session)
    machine.client.delete(f"/api/sessions/{session}")
    reopen(machine, session)
    assert all_of(machine, session) == state


def test_a_session_that_found_no_room_leaves_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place in ("link_or_copy", "write"):
        monkeypatch.setattr(saves, place, full)
        session = machine.open(png(photo()))
        assert machine.session(session)["saving"] == "failed" and recent(machine) == []
        assert not list(machine.app.saves.folder.iterdir()) and machine.app.saves._size == 0
        monkeypatch.undo()
    machine.prompt(session, 1, points=[A])


@pytest.mark.slow
def test_the_oldest_sessions_make_room(model: str, tmp_path: Path) -> None:
    size = len(png(photo()))
    with running(model, tmp_path / "files", data=tmp_path / "data", most=3 * size + 3000) as machine:
        held = machine.open(png(photo(0)))  # it stays open
        closed = []
        for seed in range(1, 4):
            closed.append(machine.open(png(photo(seed))))
            machine.client.delete(f"/api/sessions/{closed[-1]}")
        left = {entry["id"] for entry in recent(machine)}
        assert held in left and closed[-1] in left and closed[0] not in left
        assert machine.app.saves._size <= machine.app.saves.most
        for seed in range(4, 8):  # all open: nothing can go
            last = machine.open(png(photo(seed)))
        assert machine.session(last)["saving"] == "failed" and machine.session(held)["saving"] == "on"
        assert machine.prompt(last, 1, points=[A])["masks"], "a session that is not saved must work"


def test_what_a_killed_app_left_half_made_is_removed(model: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(model, tmp_path / "one", data=data) as machine:
        whole, removed = (machine.open(png(photo(seed))) for seed in (0, 1))
        for session in (whole, removed):
            machine.client.delete(f"/api/sessions/{session}")
    (data / removed / saves.EDITS).unlink()
    (data / "begun").mkdir()
    (data / "begun" / "lock").touch()
    (data / "begun" / "media").write_bytes(b"half of it")
    (data / "strange").mkdir()  # not ours
    held = folders.lock(data / "begun" / "lock")
    saves.Saves(data, 1 << 30)
    assert (data / "begun").exists(), "another app is making it"
    os.close(held)
    assert saves.Saves(data, 1 << 30)._size == len(png(photo(0))) + (data / whole / saves.EDITS).stat().st_size
    assert sorted(path.name for path in data.iterdir()) == sorted([whole, "strange"])


@pytest.mark.slow
def test_twenty_kills_at_random_moments(model: str, tmp_path: Path) -> None:
    """Whatever was answered is there after ``kill -9``; what was not is there whole, or not at all."""
    draw = np.random.default_rng(0)
    session, answered = "", {"revision": 0, "objects": {}}
    for round_ in range(20):
        with command(model, tmp_path / "run") as app, httpx.Client(base_url=app.url, timeout=SLOW) as client:
            if session:
                state = client.post(f"api/recent/{session}").json()
                assert answered["revision"] <= state["revision"] <= answered["revision"] + 1
                if state["revision"] == answered["revision"]:
                    assert {str(obj["id"]): obj for obj in state["objects"]} == answered["objects"]
                answered = {
                    "revision": state["revision"],
                    "objects": {str(obj["id"]): obj for obj in state["objects"]},
                }
            else:
                session = client.post("api/sessions?name=a.png", content=png(photo())).json()["id"]
            killer = threading.Timer(float(draw.uniform(0.05, 0.6)), app.process.kill)
            with contextlib.suppress(httpx.HTTPError):
                for n in range(1_000):
                    if n == 1:  # the model is loaded
                        killer.start()
                    obj = 1 + n % 5
                    body = {"points": [[int(draw.integers(0, 96)), int(draw.integers(0, 72)), 1]], "refine": False}
                    answer = client.put(f"api/sessions/{session}/objects/{obj}/frames/0", json=body).json()
                    answered["revision"] = answer["revision"]
                    answered["objects"][str(obj)] = answer["object"]
            killer.join()
        assert answered["objects"], f"round {round_} made no edit"


@pytest.mark.slow
def test_a_file_of_the_command_line_stays_where_it_is(model: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(png(photo()))
    with command(model, tmp_path / "run", str(path)) as app:
        session = app.state()["open"]
        assert app.end(signal.SIGINT) == 130
    with running(model, tmp_path / "files", data=tmp_path / "run" / "data" / "sessions") as machine:
        assert reopen(machine, session).status_code == 201
        machine.client.delete(f"/api/sessions/{session}")
        assert path.exists()
        path.write_bytes(png(photo()[:40]))
        assert code(reopen(machine, session)) == (409, "changed")
        path.unlink()
        assert code(reopen(machine, session)) == (404, "not_found")
        assert machine.client.delete(f"/api/recent/{session}").status_code == 204


def test_nothing_is_saved_unless_it_is_wanted(model: str, tmp_path: Path) -> None:
    with command(model, tmp_path / "run", "--no-autosave") as app:
        session = httpx.post(app.url + "api/sessions?name=a.png", content=png(photo()), timeout=SLOW).json()
        assert session["saving"] == "off" and app.state()["recent"] == []
        assert not (tmp_path / "run" / "data").exists()
        assert httpx.post(app.url + f"api/recent/{session['id']}x", timeout=SLOW).status_code == 404


def test_saved_sessions_make_room_for_new_ones(model: str, tmp_path: Path) -> None:
    """The one that was used longest ago is put away, none that a page listens to or that is not saved."""
    with running(model, tmp_path / "files", data=tmp_path / "data", sessions=3) as machine:
        first, second, third = (machine.open(png(photo(seed))) for seed in range(3))
        machine.prompt(second, 1, points=[A])
        before = all_of(machine, second)
        listener = Listener(machine, first)
        machine.session(third)
        machine.open(png(photo(3)))
        opened = {item["id"]: item["open"] for item in recent(machine)}
        assert not opened[second] and opened[first] and opened[third]
        assert reopen(machine, second).status_code == 201, "for which the third one goes"
        assert all_of(machine, second) == before
        listener.close()
    with running(model, tmp_path / "unsaved", sessions=1) as machine:
        machine.open(png(photo()))
        assert code(machine.client.post("/api/sessions?name=x.png", content=png(photo()))) == (409, "full")

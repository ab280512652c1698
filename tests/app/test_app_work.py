"""Sessions, jobs and events: what is bounded, what ends, and what is given back."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")


from app_machine import (
    SLOW,
    WIDTH,
    Brake,
    Listener,
    Machine,
    code,
    form,
    frames_of_clip,
    photo,
    png,
    rss,
    running,
    wait_for,
)
from mlx_sam2.app.schemas import Mask
from mlx_sam2.app.video_work import VideoWork

POINT = (30.0, 40.0, 1)


@pytest.fixture
def machine(model: str, tmp_path: Path) -> Iterator[Machine]:
    with running(model, tmp_path / "files", grace_seconds=0.2, sessions=4) as machine:
        yield machine


def long_video(machine: Machine) -> str:
    """A video that takes a while to follow, with an object on it."""
    frames = [*frames_of_clip(4)] * 15
    session = machine.client.post("/api/sessions", params={"name": "long"}, files=form(frames)).json()["id"]
    machine.prompt(session, 1, points=[POINT])
    return session


def frames_done(machine: Machine, session: str, job: str) -> int:
    return machine.job(session, job)["done"]


# ---- jobs


def test_a_job_is_followed_live_and_can_be_cancelled(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    Brake(monkeypatch, 3)
    session = long_video(machine)
    listener = Listener(machine, session)
    assert listener.events[0][0] == "state" and listener.events[0][1] == machine.session(session)
    job = machine.start(session, "propagate", frame=0)
    assert code(machine.client.post(f"/api/sessions/{session}/propagate", json={"frame": 0})) == (409, "busy")
    wait_for(lambda: listener.names().count("frame") >= 2)
    machine.prompt(session, 2, points=[(60, 20, 1)])  # a click is answered in between
    assert machine.job(session, job)["status"] == "running"
    machine.client.delete(f"/api/sessions/{session}/jobs/{job}")
    state = machine.finish(session, job)
    assert state["status"] == "cancelled" and 2 <= state["done"] < 60
    wait_for(lambda: listener.events[-1][0] == "job" and listener.events[-1][1]["status"] == "cancelled")
    live = {data["frame"]: data["masks"] for name, data in listener.events if name == "frame"}
    assert sorted(live) == list(range(state["done"]))
    assert live[1] == machine.masks(session, 1), "what was shown live is not what was kept"
    assert machine.session(session)["timeline"]["tracked"]["1"] or machine.session(session)["timeline"]["empty"]["1"]
    assert machine.app.sessions.get(session).pins == 0
    listener.close()


def test_a_browser_that_is_killed_frees_its_work(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    Brake(monkeypatch, 3)
    session = long_video(machine)
    listener = Listener(machine, session)
    job = machine.start(session, "propagate", frame=0)
    wait_for(lambda: frames_done(machine, session, job) >= 1)
    listener.close()
    kept = machine.app.sessions.get(session)
    wait_for(lambda: kept.jobs[job].status == "cancelled")
    assert kept.jobs[job].done < 60 and kept.pins == 0 and not kept.has_listeners
    assert machine.prompt(session, 1, points=[POINT, POINT])["masks"], "the session was not usable afterwards"


@pytest.mark.slow
def test_a_page_that_is_reloaded_keeps_its_work(model: str, tmp_path: Path) -> None:
    with running(model, tmp_path / "files", grace_seconds=3.0) as machine:
        session = long_video(machine)
        listener = Listener(machine, session)
        job = machine.start(session, "propagate", frame=50)
        listener.close()
        again = Listener(machine, session)
        assert machine.finish(session, job)["status"] == "done"
        assert again.events[0][0] == "state"
        again.close()


@pytest.mark.slow
def test_a_job_without_a_page_runs_on(machine: Machine) -> None:
    session = long_video(machine)
    assert machine.run(session, "propagate", frame=57)["done"] == 3


def test_a_closed_session_ends_its_job_and_gives_its_files_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    Brake(monkeypatch, 3)
    session = long_video(machine)
    listener = Listener(machine, session)
    machine.start(session, "propagate", frame=0)
    wait_for(lambda: "frame" in listener.names())
    kept = machine.app.sessions.get(session)
    folder = kept.folder
    assert folder.is_dir()
    assert machine.client.delete(f"/api/sessions/{session}").status_code == 204
    wait_for(lambda: not folder.exists() and machine.app.sessions._disk == 0)
    assert listener.names()[-1] == "closed" and kept.source is None and kept.work is None
    assert machine.app.sessions._mask_bytes == 0
    assert code(machine.client.get(f"/api/sessions/{session}")) == (404, "not_found")
    listener.close()


@pytest.mark.slow
def test_what_cannot_be_started_says_why(machine: Machine) -> None:
    image = machine.open(png(photo()))
    assert code(machine.client.post(f"/api/sessions/{image}/propagate", json={"frame": 0})) == (409, "bad_request")
    video = machine.client.post("/api/sessions", files=form(frames_of_clip(2))).json()["id"]
    assert code(machine.client.post(f"/api/sessions/{video}/propagate", json={"frame": 0})) == (409, "empty")
    assert code(machine.client.post(f"/api/sessions/{video}/propagate", json={"frame": 2})) == (404, "not_found")
    ask = {"format": "coco"}
    assert machine.finish(video, machine.start(video, "export", **ask))["status"] == "failed"
    assert code(machine.client.get(f"/api/sessions/{video}/exports/none")) == (404, "not_found")
    outside = {"points": [[WIDTH + 1, 5, 1]]}
    assert code(machine.client.put(f"/api/sessions/{image}/objects/1/frames/0", json=outside)) == (422, "bad_request")
    assert code(machine.client.put(f"/api/sessions/{image}/objects/1/frames/1", json={})) == (404, "not_found")
    assert machine.session(image)["objects"] == []


def test_superseded_previews_never_run(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_sam2.app.image_work import ImageWork

    session = machine.open(png(photo()))
    hold, ran = threading.Event(), []
    preview = ImageWork.preview
    monkeypatch.setattr(ImageWork, "preview", lambda self, ask: ran.append(ask.serial) or preview(self, ask))
    machine.app.worker.submit(hold.wait, 30)
    answers: dict[int, Any] = {}

    def ask(serial: int) -> None:
        with httpx.Client(timeout=60) as client:
            body = {"frame": 0, "x": 10, "y": 10, "serial": serial}
            answers[serial] = client.post(f"{machine.url}/api/sessions/{session}/preview", json=body)

    threads = []
    for serial in range(1, 6):
        threads.append(threading.Thread(target=ask, args=(serial,)))
        threads[-1].start()
        wait_for(lambda n=serial: len(answers) == n - 1)  # each one is there before the next is sent
    hold.set()
    for thread in threads:
        thread.join(60)
    assert ran == [5] and answers[5].status_code == 200
    assert all(code(answers[n]) == (409, "superseded") for n in range(1, 5))


def test_clicks_that_come_while_a_session_is_encoded_are_answered_after_it(machine: Machine) -> None:
    machine.open(png(photo(1)))  # the model is loaded
    hold = threading.Event()
    machine.app.worker.submit(hold.wait, SLOW)
    session = machine.client.post("/api/sessions?name=a.png", content=png(photo())).json()["id"]

    def click(obj: int) -> int:
        place = f"{machine.url}/api/sessions/{session}/objects/{obj}/frames/0"
        return httpx.put(place, json={"points": [POINT]}, timeout=SLOW).status_code

    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(click, obj) for obj in range(1, 6)]
        assert machine.session(session)["status"] == "encoding" and not any(answer.done() for answer in answers)
        hold.set()
        assert [answer.result() for answer in answers] == [200] * 5
    assert len(machine.session(session)["objects"]) == 5


# ---- sessions


def test_there_are_no_more_sessions_than_there_may_be(machine: Machine) -> None:
    sessions = [machine.open(png(photo(seed))) for seed in range(4)]
    answer = machine.client.post("/api/sessions?name=x.png", content=png(photo()))
    assert code(answer) == (409, "full") and "close" in answer.json()["error"]["message"]
    machine.client.delete(f"/api/sessions/{sessions[0]}")
    assert machine.open(png(photo()))
    assert sum(1 for path in machine.app.sessions.folder.iterdir()) == 4


def test_sessions_expire_unless_a_page_listens(machine: Machine) -> None:
    limits = machine.app.sessions.limits
    watched, left = (machine.app.sessions.get(machine.open(png(photo(seed)))) for seed in (0, 1))
    listener = Listener(machine, watched.id)
    for session in (watched, left):
        session.used -= limits.rest_seconds + 1
    machine.app.sessions.expire()
    assert left.work is None and left.source is None and not left.closed  # what is encoded goes first
    assert watched.work is not None
    for session in (watched, left):
        session.used -= limits.idle_seconds
    machine.app.sessions.expire()
    assert left.closed and not left.folder.exists() and machine.app.sessions._disk == watched.disk
    assert code(machine.client.get(f"/api/sessions/{left.id}")) == (404, "not_found")
    assert not watched.closed and watched.folder.exists()
    listener.close()
    wait_for(lambda: not watched.has_listeners)
    machine.app.sessions.expire()
    assert not watched.closed  # its time begins when the page goes
    watched.used -= limits.idle_seconds + 1
    watched.stays = True  # the file of the command line
    machine.app.sessions.expire()
    assert not watched.closed and watched.work is None
    watched.stays = False
    machine.app.sessions.expire()
    assert watched.closed


def test_expiry_needs_nobody_to_ask(model: str, tmp_path: Path) -> None:
    with running(model, tmp_path / "files", idle_seconds=0.5) as machine:
        answer = machine.client.post("/api/sessions?name=a.png", content=png(photo()))
        assert answer.status_code == 201
        wait_for(lambda: len(machine.app.sessions) == 0 and not list(machine.app.sessions.folder.iterdir()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["still", "moving"])
def test_examples_can_be_opened(machine: Machine, name: str) -> None:
    examples = {example["name"]: example for example in machine.client.get("/api/state").json()["examples"]}
    answer = machine.client.post(f"/api/examples/{name}")
    assert answer.status_code == 201 and answer.json()["kind"] == examples[name]["kind"]
    session = answer.json()["id"]
    wait_for(lambda: machine.session(session)["status"] == "ready")
    assert code(machine.client.post("/api/examples/none")) == (404, "not_found")


def test_no_more_than_three_sessions_are_held_encoded(machine: Machine) -> None:
    sessions = [machine.open(png(photo(seed))) for seed in range(4)]
    assert sum(machine.app.sessions.get(s).work is not None for s in sessions) == 3
    answer = machine.prompt(sessions[0], 1, points=[POINT])  # the one that cooled is encoded again
    assert answer["masks"] and sum(machine.app.sessions.get(s).work is not None for s in sessions) == 3


def test_all_masks_together_are_bounded(model: str, tmp_path: Path) -> None:
    with running(model, tmp_path / "files", mask_bytes=6000) as machine:
        session = machine.open(png(photo()))
        answers = [
            machine.client.put(f"/api/sessions/{session}/objects/{n}/frames/0", json={"points": [POINT]})
            for n in range(1, 6)
        ]  # fmt: skip
        assert answers[0].status_code == 200 and code(answers[-1]) == (409, "full")
        assert machine.app.sessions._mask_bytes <= 6000


def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with running(str(broken), tmp_path / "files") as machine:
        wait_for(lambda: machine.client.get("/api/state").json()["model"]["status"] == "failed")
        state = machine.client.get("/api/state").json()
        assert state["model"]["message"] and "\n" not in state["model"]["message"]
        session = machine.client.post("/api/sessions?name=a.png", content=png(photo())).json()["id"]
        wait_for(lambda: machine.session(session)["status"] == "failed")
        answer = machine.client.put(f"/api/sessions/{session}/objects/1/frames/0", json={"points": [POINT]})
        assert code(answer) == (503, "model_failed")


# ---- memory


@pytest.mark.slow
def test_fifty_sessions_stay_within_their_memory(model: str, tmp_path: Path) -> None:
    """Photos of 1.5 megapixels, 4.7 MB decoded, all clicked at once: the last 25 need no more than the first.

    Held, they would be 117 MB; 1 to 34 MB were measured, most of them buffers that MLX and the allocator keep.
    """
    tall = np.tile(photo(), (15, 15, 1))  # 1080 x 1440
    with running(model, tmp_path / "files") as machine:
        machine.open(png(tall))
        grown, before = [], rss()  # this process is the client, too
        for half in (range(1, 26), range(26, 50)):
            sessions = [machine.open(png(np.roll(tall, seed, 0))) for seed in half]
            click_all(machine, sessions)
            grown.append(rss() - before)
        assert len(machine.app.sessions) == 50
        assert sum(session.source is not None for session in machine.app.sessions.all()) <= 3
    print(f"25 sessions: {grown[0] / 1e6:.0f} MB more than one; 50: {grown[1] / 1e6:.0f} MB")
    assert grown[1] - grown[0] < 80e6


def click_all(machine: Machine, sessions: list[str]) -> None:
    """A click in every session, all at once.

    The last one waits until all others were encoded and answered: a busy machine may take minutes, and no time is
    measured here.
    """

    def click(session: str) -> int:
        place = f"{machine.url}/api/sessions/{session}/objects/1/frames/0"
        return httpx.put(place, json={"points": [POINT]}, timeout=20 * SLOW).status_code

    with ThreadPoolExecutor(len(sessions)) as pool:
        assert list(pool.map(click, sessions)) == [200] * len(sessions)


def test_a_page_that_does_not_read_is_sent_away(machine: Machine) -> None:
    """And what waits for it does not pile up."""
    from mlx_sam2.app import events

    session = machine.open(png(photo()))
    hub = machine.app.sessions.get(session).hub
    with socket.create_connection(("127.0.0.1", machine.app.access.port)) as client:
        host = f"127.0.0.1:{machine.app.access.port}"
        client.sendall(f"GET /api/sessions/{session}/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        wait_for(lambda: len(hub) == 1)
        (listener,) = hub._listeners
        most = 0
        for _ in range(60):
            hub.publish("frame", {"text": "x" * (1 << 20)})
            time.sleep(0.005)
            most = max(most, sum(len(event or b"") for event in list(listener.queue._queue)))
        assert most <= events.WAITING_BYTES
    wait_for(lambda: len(hub) == 0)


def test_prompts_of_a_video_are_bounded(model: str, tmp_path: Path) -> None:
    with running(model, tmp_path / "files", prompts=2) as machine:
        session = machine.client.post("/api/sessions", files=form(frames_of_clip(3))).json()["id"]
        machine.prompt(session, 1, 0, points=[POINT])
        machine.prompt(session, 2, 0, points=[POINT])
        place = f"/api/sessions/{session}/objects/1/frames/1"
        assert code(machine.client.put(place, json={"points": [POINT]})) == (409, "full")
        machine.prompt(session, 1, 0, points=[POINT, POINT])  # one that is there may change
        machine.prompt(session, 2, 0)
        machine.prompt(session, 1, 1, points=[POINT])


def test_an_object_may_go_while_memories_are_made() -> None:
    mask = Mask(size=(2, 2), counts="4", area=0, bbox=(0, 0, 0, 0), score=1.0)
    tracker = SimpleNamespace(policy=SimpleNamespace(reach=lambda config: 2), config=None)
    track = SimpleNamespace(latest=lambda t: None)
    work = VideoWork.__new__(VideoWork)
    work.state = SimpleNamespace(tracker=tracker, obj_ids=[1, 2], tracks={1: track, 2: track})
    work.predictor = SimpleNamespace(add_tracked_mask=lambda *args: None)
    work._given, work._found, work._kept = {1: {1}, 2: {1}}, {}, {}
    steps = work.recollect(3, False, {1: {1: mask}, 2: {1: mask}}, None)
    assert next(steps) == 1
    del work.state.tracks[2]
    assert list(steps) == []

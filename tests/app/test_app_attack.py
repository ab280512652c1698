"""What an attack on the server found: names, project files that cost too much or lie, races, and ends in the middle."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")


from app_command import command
from app_machine import (
    HEIGHT,
    SLOW,
    WIDTH,
    Listener,
    Machine,
    code,
    form,
    frames_of_clip,
    photo,
    png,
    running,
    wait_for,
)
from app_projects import edited, rebuilt, reopened, unzip
from mlx_sam2.app import projects
from mlx_sam2.app.media import shown_name
from mlx_sam2.masks import mask_to_rle, rle_to_mask

A = (30.0, 40.0, 1)


@pytest.fixture
def machine(model: str, tmp_path: Path) -> Iterator[Machine]:
    with running(model, tmp_path / "files", data=tmp_path / "data") as machine:
        yield machine


# ---- names

NAMES = [
    "two\nlines.png",
    "back\\slash.png",
    "x" * 400 + ".png",
    "%5Ca%0Ab.png",
    "a/b.png",
    "\x7f\x85.png",
    "\u202egnp.png",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_session_of_any_name_can_be_saved_and_opened(machine: Machine, name: str) -> None:
    session = machine.open(png(photo()), name)
    shown = machine.session(session)["name"]
    assert shown.isprintable() and not set(shown) & set("/\\") and 0 < len(shown) <= 200
    machine.prompt(session, 1, points=[A])
    assert machine.session(reopened(machine, machine.export(session, "project").content))["name"] == shown
    assert machine.export(session, "coco").status_code == 200
    assert machine.session(machine.open(png(photo()), shown))["name"] == shown, "the name changes each time"


def test_a_percent_sign_in_a_name_is_one(machine: Machine) -> None:
    assert machine.session(machine.open(png(photo()), "100%25 a%2fb.png"))["name"] == "100%25 a%2fb.png"


@pytest.mark.slow
def test_a_name_that_is_not_utf_8(model: str, tmp_path: Path) -> None:
    assert shown_name("caf\udce9.png") == "caf?.png" and shown_name("") == "untitled"
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    try:
        path.write_bytes(png(photo()))
    except OSError:
        pytest.skip("this file system takes no names that are not UTF-8")
    with command(model, tmp_path / "run", str(path)) as app:
        answer = httpx.get(app.url + "api/state", timeout=SLOW)
        assert answer.status_code == 200 and answer.json()["sessions"][0]["name"] == "caf?.png"
    with running(model, tmp_path / "files") as machine:
        for query in ("name=%ff%fe.png", "name=%ed%b3%a9.png"):
            answer = machine.client.post(f"/api/sessions?{query}", content=png(photo()))
            assert answer.status_code == 201, answer.text
            assert machine.client.get("/api/state").status_code == 200


# ---- projects


def picture_project(machine: Machine) -> bytes:
    session = machine.open(png(photo()))
    machine.prompt(session, 1, points=[A])
    return machine.export(session, "project").content


def test_areas_and_boxes_are_computed(machine: Machine) -> None:
    def lie(files: dict[str, bytes]) -> None:
        line = json.loads(files["masks.jsonl"])
        files["masks.jsonl"] = json.dumps({**line, "area": 5, "bbox": [1, 2, 3, 4]}).encode() + b"\n"

    session = reopened(machine, rebuilt(picture_project(machine), lie))
    mask = machine.masks(session)["1"]
    decoded = rle_to_mask(mask)
    assert mask["area"] == decoded.sum() > 5
    assert json.loads(machine.export(session, "coco").content)["annotations"][0]["area"] == decoded.sum()
    y, x = np.nonzero(decoded)
    assert mask["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]


def test_many_lines_about_one_mask_are_refused_at_the_second(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 of them took 13 seconds, from 70 kB."""
    session = machine.open(png(photo()))
    machine.prompt(session, 1, mask=mask_to_rle(np.zeros((HEIGHT, WIDTH), bool)))
    project = machine.export(session, "project").content
    data = rebuilt(project, lambda f: f.update({"masks.jsonl": 100_000 * f["masks.jsonl"]}))
    assert len(data) < 200_000
    looked = []
    given = projects.as_given
    monkeypatch.setattr(projects, "as_given", lambda *a: looked.append(1) or given(*a))
    answer = machine.client.post("/api/projects", content=data)
    assert code(answer) == (415, "unsupported") and "twice" in answer.json()["error"]["message"]
    assert len(looked) == 1, "more masks were decoded than there may be"


def many_prompts(project: dict[str, Any]) -> None:
    project["objects"][0]["frames"] = {str(n): {} for n in range(300_000)}


def many_points(project: dict[str, Any]) -> None:
    project["objects"][0]["frames"]["0"]["points"] = [[1, 1, 1]] * 600_000


def many_numbers(project: dict[str, Any]) -> None:
    project["width"] = [1] * 1_500_000


@pytest.mark.parametrize("change", [many_prompts, many_points, many_numbers])
def test_a_long_project_is_not_parsed(machine: Machine, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """3 MB held a thread for 25 seconds and 1 GB."""
    data = rebuilt(picture_project(machine), edited(change))
    assert len(data) < 3_000_000
    parsed = []
    monkeypatch.setattr(projects.Project, "model_validate_json", lambda data: parsed.append(len(data)))
    assert code(machine.client.post("/api/projects", content=data)) == (413, "too_large")
    assert not parsed


def test_a_project_that_could_not_be_opened_is_not_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    session = machine.open(png(photo()))
    noise = mask_to_rle(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5)
    for n in range(1, 4):
        machine.prompt(session, n, mask=noise, points=[A])
    data = machine.export(session, "project").content
    size = len(unzip(data)["project.json"])
    assert size > 3 * len(noise["counts"])
    monkeypatch.setattr(projects, "JSON_BYTES", size - 1)
    state = machine.finish(session, machine.start(session, "export", format="project"))
    assert state["status"] == "failed" and "bytes" in state["message"]
    assert code(machine.client.post("/api/projects", content=data)) == (413, "too_large")
    monkeypatch.setattr(projects, "JSON_BYTES", size)
    assert machine.session(reopened(machine, machine.export(session, "project").content))["objects"]


def test_the_size_of_a_project_counts_all_of_it(model: str, tmp_path: Path) -> None:
    noise = mask_to_rle(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5)
    picture = png(photo())
    with running(model, tmp_path / "files", upload_bytes=len(picture) + 3 * len(noise["counts"])) as machine:
        session = machine.open(picture)
        for n in (1, 2):  # project.json and masks.jsonl hold two of them each
            machine.prompt(session, n, mask=noise)
        state = machine.finish(session, machine.start(session, "export", format="project"))
        assert state["status"] == "failed", "it was written, but would not be opened"


def test_what_a_project_unpacks_to_is_counted(machine: Machine) -> None:
    data = rebuilt(picture_project(machine), lambda f: f.update(media=f["media"] + bytes(2_000_000)))
    assert len(data) < 500_000
    before = machine.app.sessions._disk
    session = reopened(machine, data)
    assert machine.app.sessions._disk - before == 2_000_000 + len(png(photo()))
    machine.client.delete(f"/api/sessions/{session}")
    wait_for(lambda: machine.app.sessions._disk == before)  # at once, or when it has been encoded


def test_looking_does_not_wait_for_files_that_are_opened(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    session = machine.open(png(photo()))
    project = picture_project(machine)
    hold = threading.Event()
    monkeypatch.setattr(projects, "_lines", lambda *a: hold.wait(SLOW) and iter(()))
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(httpx.post, f"{machine.url}/api/projects", content=project, timeout=60) for _ in "1234"]
        try:
            assert machine.client.get(f"/api/sessions/{session}/frames/0").status_code == 200
            assert not any(answer.done() for answer in answers)
        finally:
            hold.set()
        assert [answer.result().status_code for answer in answers] == [201] * 4


# ---- races


def test_a_session_closed_while_it_is_opened_gives_its_disk_back(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed by another page, which saw it in the list, before its upload was handed over."""
    sessions = machine.app.sessions
    add = type(sessions).add

    def add_and_close(self: Any, *args: Any, **options: Any) -> Any:
        session = add(self, *args, **options)
        self.close(session.id)
        return session

    monkeypatch.setattr(type(sessions), "add", add_and_close)
    assert machine.client.post("/api/sessions?name=a.png", content=png(photo())).status_code in (201, 404)
    assert machine.client.post("/api/examples/still").status_code in (201, 404)
    assert len(sessions) == 0 and sessions._disk == 0 and not list(sessions.folder.iterdir())


def test_streams_that_come_at_once_are_counted(model: str, tmp_path: Path) -> None:
    with running(model, tmp_path / "files", listeners=4) as machine:
        session = machine.open(png(photo()))
        address = f"{machine.url}/api/sessions/{session}/events"
        begin, statuses = threading.Barrier(12), []
        over = threading.Event()

        def listen() -> None:
            begin.wait(SLOW)
            with httpx.stream("GET", address, timeout=SLOW) as stream:
                statuses.append(stream.status_code)
                over.wait(SLOW)

        threads = [threading.Thread(target=listen) for _ in range(12)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(statuses) == 12)
        over.set()
        for thread in threads:
            thread.join(SLOW)
        assert sorted(statuses) == [200] * 4 + [409] * 8
        hub = machine.app.sessions.get(session).hub
        wait_for(lambda: len(hub) == 0)
        Listener(machine, session).close()


def test_the_limit_of_streams_holds_before_anybody_reads(machine: Machine) -> None:
    """Many requests are let in before the first stream is read: each counts from its answer on."""
    hub = machine.app.sessions.get(machine.open(png(photo()))).hub
    most = machine.app.sessions.limits.listeners
    listeners = [hub.join() for _ in range(most)]
    with pytest.raises(Exception, match="listen to this session already"):
        hub.join()
    for listener in listeners:
        hub.leave(listener)
    assert len(hub) == 0


# ---- ends


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.2])
def test_ctrl_c_during_a_job_prints_nothing(model: str, tmp_path: Path, delay: float) -> None:
    with command(model, tmp_path / "run") as app:
        client = httpx.Client(base_url=app.url, timeout=SLOW)
        frames = [*frames_of_clip(4)] * 15
        session = client.post("api/sessions?name=long", files=form(frames)).json()["id"]
        place = f"api/sessions/{session}"
        client.put(f"{place}/objects/1/frames/0", json={"points": [A]}).raise_for_status()
        client.post(f"{place}/propagate", json={"frame": 0}).raise_for_status()
        with ThreadPoolExecutor(6) as pool:  # clicks that wait behind the job's steps
            for n in range(2, 8):
                body = {"points": [[20 + n, 30, 1]]}
                pool.submit(httpx.put, f"{app.url}{place}/objects/{n}/frames/0", json=body, timeout=SLOW)
            time.sleep(delay)  # somewhere in the job
            assert app.end(signal.SIGINT) == 130
        assert app.process.communicate() == ("", "")
        assert not list(app.temporary.glob("mlx_sam2-app-*"))


def test_a_step_that_outlives_the_worker_is_no_fault(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """As when Ctrl-C comes while a step takes long: it printed a traceback."""
    session = machine.open(png(photo()))
    machine.prompt(session, 1, points=[A])
    began, goes_on = threading.Event(), threading.Event()

    def steps(job: Any) -> Iterator[None]:
        began.set()
        goes_on.wait(SLOW)
        yield
        raise AssertionError("a step was taken after the end")

    job = machine.app.jobs.start(machine.app.sessions.get(session), "export", steps)
    assert began.wait(SLOW)
    machine.app.sessions.close(session)
    machine.app.worker.shutdown(wait=False, cancel_futures=False)
    goes_on.set()
    wait_for(lambda: job.status == "cancelled")
    wait_for(lambda: machine.app.sessions._disk == 0)
    assert not [record for record in caplog.records if record.name.startswith("mlx_sam2")]


def test_zip_files_hold_what_they_say(machine: Machine) -> None:
    """The helpers of these tests: an archive rebuilt without a change opens as before."""
    data = picture_project(machine)
    again = rebuilt(data, lambda files: None)
    assert zipfile.ZipFile(io.BytesIO(again)).testzip() is None
    assert machine.session(reopened(machine, again))["objects"]

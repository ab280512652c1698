"""Revisions: edits of several tabs, and what can be restored."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")


from app_machine import (
    HEIGHT,
    SLOW,
    WIDTH,
    Brake,
    Listener,
    Machine,
    all_of,
    code,
    form,
    frames_of_clip,
    photo,
    png,
    restore,
    running,
    wait_for,
)
from mlx_sam2.app.history import History
from mlx_sam2.app.schemas import Object
from mlx_sam2.masks import mask_to_rle

A, B = (30.0, 40.0, 1), (60.0, 20.0, 1)
FRAMES = 6


def open_video(machine: Machine) -> str:
    return machine.client.post("/api/sessions", files=form(frames_of_clip(FRAMES))).json()["id"]


def test_every_edit_raises_the_revision_and_says_so(machine: Machine) -> None:
    session = machine.open(png(photo()))
    assert machine.session(session)["revision"] == 0
    assert machine.prompt(session, 1, points=[A])["revision"] == 1
    place = f"/api/sessions/{session}/objects/1"
    answer = machine.client.put(place, json={"name": "cup"}).json()
    assert (answer["revision"], answer["object"]["name"]) == (2, "cup")
    assert machine.client.delete(place).json() == {"revision": 3}
    assert restore(machine, session, 2).json()["revision"] == 4
    state = machine.session(session)
    assert (state["revision"], state["oldest"], state["objects"][0]["name"]) == (4, 0, "cup")
    machine.client.post(f"/api/sessions/{session}/preview", json={"frame": 0, "x": 5, "y": 5})
    assert machine.session(session)["revision"] == 4, "a preview is no edit"


def test_a_tab_that_missed_an_edit_gets_the_session_instead(machine: Machine) -> None:
    session = machine.open(png(photo()))
    machine.prompt(session, 1, points=[A])
    before = machine.session(session)
    base = f"/api/sessions/{session}"
    stale = {"revision": 0, "client": "late"}
    answers = [
        machine.client.put(f"{base}/objects/1/frames/0", json={"points": [B]}, params=stale),
        machine.client.put(f"{base}/objects/1", json={"name": "x"}, params=stale),
        machine.client.delete(f"{base}/objects/1", params=stale),
        machine.client.post(f"{base}/restore", json={"revision": 0}, params=stale),
        machine.client.post(f"{base}/everything", json={"points_per_side": 1}, params=stale),
    ]
    for answer in answers:
        assert code(answer) == (409, "stale") and answer.json()["session"] == before
    assert machine.session(session) == before
    right = machine.client.put(f"{base}/objects/1/frames/0", json={"points": [A, B]}, params={"revision": 1})
    assert right.json()["revision"] == 2
    video = open_video(machine)
    machine.prompt(video, 1, points=[A])
    follow = machine.client.post(f"/api/sessions/{video}/propagate", json={"frame": 0}, params=stale)
    assert code(follow) == (409, "stale") and not machine.session(video)["jobs"]


def test_every_tab_hears_of_edits_and_jobs(machine: Machine) -> None:
    session = open_video(machine)
    listeners = [Listener(machine, session) for _ in range(2)]
    base = f"/api/sessions/{session}"
    machine.client.put(f"{base}/objects/1/frames/0", json={"points": [A]}, params={"client": "one"})
    machine.client.put(f"{base}/objects/1", json={"name": "cup"}, params={"client": "two"})
    job = machine.client.post(f"{base}/propagate", json={"frame": 0}, params={"client": "one"}).json()
    assert job["revision"] == 3
    machine.finish(session, job["id"])
    restore(machine, session, 1)
    expected = [(1, "one", "prompt"), (2, "two", "object"), (3, "one", "propagate"), (4, None, "restore")]
    for listener in listeners:
        wait_for(lambda heard=listener: heard.names().count("edit") == 4)
        edits = [data for name, data in listener.events if name == "edit"]
        assert [(edit["revision"], edit["client"], edit["what"]) for edit in edits] == expected
        jobs = [data for name, data in listener.events if name == "job"]
        assert [(data["id"], data["status"]) for data in jobs] == [(job["id"], "running"), (job["id"], "done")]
        assert listener.names().count("frame") == FRAMES
        listener.close()


@pytest.mark.slow
def test_two_clients_at_once_end_with_what_is_saved(model: str, tmp_path: Path) -> None:
    """200 random edits of two clients that each name the revision they know, and take the session where it is stale."""
    with running(model, tmp_path / "files", data=tmp_path / "data") as machine:
        session = machine.client.post("/api/sessions", files=form(frames_of_clip(3))).json()["id"]
        base = f"{machine.url}/api/sessions/{session}"

        def work(seed: int) -> tuple[int, int]:
            draw, known, taken, stale = np.random.default_rng(seed), 0, 0, 0
            with httpx.Client(timeout=SLOW, params={"client": f"tab{seed}"}) as client:
                while taken + stale < 100:
                    obj, frame, kind = int(draw.integers(1, 5)), int(draw.integers(0, 3)), draw.random()
                    query = {"revision": known}
                    if kind < 0.5:
                        points = {"points": [[int(draw.integers(0, WIDTH)), int(draw.integers(0, HEIGHT)), 1]]}
                        answer = client.put(f"{base}/objects/{obj}/frames/{frame}", json=points, params=query)
                    elif kind < 0.7:
                        name = {"name": f"name {draw.integers(0, 1000)}"}
                        answer = client.put(f"{base}/objects/{obj}", json=name, params=query)
                    elif kind < 0.8:
                        answer = client.delete(f"{base}/objects/{obj}", params=query)
                    else:
                        answer = client.post(f"{base}/restore", json={"revision": int(known * 0.8)}, params=query)
                    if answer.status_code == 409:
                        known, stale = answer.json()["session"]["revision"], stale + 1
                    elif answer.status_code == 200:
                        known, taken = answer.json()["revision"], taken + 1
                    else:
                        assert code(answer) == (404, "not_found"), answer.text
            return taken, stale

        with ThreadPoolExecutor(2) as pool:
            counts = list(pool.map(work, (1, 2)))
        assert all(taken > 10 for taken, _ in counts) and any(stale for _, stale in counts), counts
        assert machine.session(session)["revision"] == sum(taken for taken, _ in counts)
        kept, tracks = machine.app.sessions.get(session), all_of(machine, session)
        prompted = {obj["id"] for obj in tracks[0] if obj["frames"]}
        assert set(kept.work.state.obj_ids) == prompted, "the tracker and the session know different objects"
        machine.client.delete(f"/api/sessions/{session}")
        assert machine.client.post(f"/api/recent/{session}").status_code == 201
        assert all_of(machine, session) == tracks


# ---- undo


@pytest.fixture
def tracked(machine: Machine) -> str:
    """A video with two objects, followed."""
    session = open_video(machine)
    machine.prompt(session, 1, 0, points=[A])
    machine.prompt(session, 2, 0, points=[B])
    machine.run(session, "propagate", frame=0)
    return session


@pytest.mark.slow
def test_undo_of_a_deleted_object_brings_its_tracking_back(machine: Machine, tracked: str) -> None:
    before, revision = all_of(machine, tracked), machine.session(tracked)["revision"]
    assert before[1]["tracked"]["1"] or before[1]["empty"]["1"]
    machine.client.delete(f"/api/sessions/{tracked}/objects/1")
    gone = all_of(machine, tracked)
    assert restore(machine, tracked, revision).status_code == 200
    assert all_of(machine, tracked) == before
    assert restore(machine, tracked, revision + 1).status_code == 200, "redo"
    assert all_of(machine, tracked) == gone
    restore(machine, tracked, revision)
    machine.run(tracked, "propagate", frame=0)
    assert all_of(machine, tracked) == before, "the tracker does not know the object any more"


@pytest.mark.slow
def test_undo_of_a_correction_brings_the_tracked_mask_back(machine: Machine, tracked: str) -> None:
    before, revision = all_of(machine, tracked), machine.session(tracked)["revision"]
    machine.prompt(tracked, 1, 3, points=[B])
    machine.prompt(tracked, 1, 3, points=[B, A])
    assert all_of(machine, tracked)[2][3] != before[2][3], "the correction changed nothing: the test shows nothing"
    restore(machine, tracked, revision)
    assert all_of(machine, tracked) == before
    machine.prompt(tracked, 1, 3, points=[A])
    assert machine.session(tracked)["timeline"]["prompted"]["1"] == [0, 3]


def test_tracking_itself_can_be_undone(machine: Machine, tracked: str) -> None:
    after = all_of(machine, tracked)
    revision = machine.session(tracked)["revision"]
    restore(machine, tracked, revision - 1)
    assert [len(masks) for masks in all_of(machine, tracked)[2]] == [2, 0, 0, 0, 0, 0]
    restore(machine, tracked, revision)
    assert all_of(machine, tracked) == after


@pytest.mark.slow
def test_a_click_while_objects_are_followed_is_undone_alone(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    brake = Brake(monkeypatch, 3)
    frames = [*frames_of_clip(4)] * 10
    session = machine.client.post("/api/sessions", files=form(frames)).json()["id"]
    machine.prompt(session, 1, 0, points=[A])
    job = machine.start(session, "propagate", frame=0)
    wait_for(lambda: machine.job(session, job)["done"] >= 2)
    machine.prompt(session, 2, 0, points=[B])  # frame 0 has been tracked already
    assert machine.job(session, job)["status"] == "running", "the job was over before the click"
    assert code(restore(machine, session, 1)) == (409, "busy")
    brake.let_go()
    assert machine.finish(session, job)["status"] == "done"
    assert restore(machine, session, 2).status_code == 200  # before the click: the tracking stays, whole
    state = machine.session(session)
    assert [obj["id"] for obj in state["objects"]] == [1]
    ranges = sorted(state["timeline"]["tracked"]["1"] + state["timeline"]["empty"]["1"])
    assert sum(last - first + 1 for first, last in ranges) == 40
    restore(machine, session, 1)  # before the tracking
    assert [len(machine.masks(session, t)) for t in range(40)] == [1] + [0] * 39


@pytest.mark.slow
def test_everything_is_one_edit(model: str, tmp_path: Path) -> None:
    with running("demo", tmp_path) as machine:
        session = machine.open(png(photo()))
        machine.prompt(session, 1, points=[A])
        before = all_of(machine, session)
        options = {"points_per_side": 6, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}
        job = machine.run(session, "everything", **options)
        assert job["revision"] == 2 == machine.session(session)["revision"]
        assert len(machine.session(session)["objects"]) > 2
        restore(machine, session, 1)
        assert all_of(machine, session) == before


def test_only_so_many_edits_are_remembered(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlx_sam2.app import history

    monkeypatch.setattr(history, "KEPT", 5)
    session = machine.open(png(photo()))
    for n in range(8):
        machine.client.put(f"/api/sessions/{session}/objects/1", json={"name": f"name {n}"})
    state = machine.session(session)
    assert (state["revision"], state["oldest"]) == (8, 3)
    assert code(restore(machine, session, 2)) == (404, "not_found")
    assert code(restore(machine, session, 9)) == (404, "not_found")
    assert restore(machine, session, 3).json()["objects"][0]["name"] == "name 2"


@pytest.mark.slow
def test_edits_are_forgotten_before_masks_are_refused(model: str, tmp_path: Path) -> None:
    with running(model, tmp_path / "files", mask_bytes=9000) as machine:
        session = machine.open(png(photo()))
        for n in range(60):
            machine.prompt(session, 1, points=[(30 + n % 20, 40, 1)])
        state = machine.session(session)
        assert 0 < state["oldest"] < state["revision"] == 60
        kept = machine.app.sessions.get(session)
        assert machine.app.sessions._mask_bytes == kept.mask_bytes <= 9000
        machine.client.delete(f"/api/sessions/{session}")
        assert machine.app.sessions._mask_bytes == 0


def test_an_edit_that_is_refused_changes_nothing(model: str, tmp_path: Path) -> None:
    with running(model, tmp_path / "files", mask_bytes=3000) as machine:
        session = machine.client.post("/api/sessions", files=form(frames_of_clip(2))).json()["id"]
        machine.prompt(session, 1, points=[A])
        before, kept = all_of(machine, session), machine.app.sessions.get(session)
        size = kept.mask_bytes
        noise = mask_to_rle(np.random.default_rng(0).random((HEIGHT, WIDTH)) > 0.5)
        assert len(noise["counts"]) > 2000
        answer = machine.client.put(f"/api/sessions/{session}/objects/2/frames/1", json={"mask": noise})
        assert code(answer) == (409, "full")
        assert all_of(machine, session) == before and kept.mask_bytes == size
        assert kept.work.state.obj_ids == [1], "the tracker knows a prompt that was refused"


def test_what_was_is_found_in_edits_that_overlap() -> None:
    """A job's edit goes on while others are made."""
    history = History()
    old = Object(id=1, name="old", color="#000000")
    job = history.begin("propagate")
    click = history.begin("prompt")
    assert history.notes_mask(click, (1, 9))
    click.masks[1, 9] = None
    assert not history.notes_mask(job, (1, 9)), "the job would note what the click has made"
    assert history.notes_mask(job, (1, 10))
    job.masks[1, 10] = None
    job.objects[1] = old
    assert history.replaced_since(1) == ({}, {(1, 9): None})
    assert history.replaced_since(0) == ({1: old}, {(1, 9): None, (1, 10): None})
    history.edits.popleft()
    assert not history.notes_mask(job, (1, 11)), "a forgotten edit notes nothing"


def test_removing_what_another_page_has_removed_is_too_late_not_unknown(machine: Machine) -> None:
    session = machine.open(png(photo()))
    known = machine.prompt(session, 1, points=[A])["revision"]
    machine.client.delete(f"/api/sessions/{session}/objects/1")
    answer = machine.client.delete(f"/api/sessions/{session}/objects/1", params={"revision": known})
    assert code(answer) == (409, "stale") and answer.json()["session"]["objects"] == []


def test_a_prompt_that_is_there_already_is_no_edit(machine: Machine) -> None:
    session = machine.open(png(photo()))
    first, again = (machine.prompt(session, 1, points=[A]) for _ in range(2))
    assert again["revision"] == first["revision"] == machine.session(session)["revision"]
    assert again["masks"] == first["masks"] and again["chosen"] == first["chosen"]

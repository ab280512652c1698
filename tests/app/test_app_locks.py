"""Locked frames, which no tracking replaces, and the scores of every mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import Machine, code, form, frames_of_clip, restore, running

A, B = (30.0, 40.0, 1), (60.0, 20.0, 1)
FRAMES = 6


def tracked(machine: Machine) -> str:
    session = machine.client.post("/api/sessions", files=form(frames_of_clip(FRAMES))).json()["id"]
    machine.prompt(session, 1, 0, points=[A])
    machine.prompt(session, 2, 0, points=[B])
    machine.run(session, "propagate", frame=0)
    return session


def lock(machine: Machine, session: str, frame: int, **ask: Any) -> Any:
    return machine.client.put(f"/api/sessions/{session}/frames/{frame}/lock", json=ask)


def locked(machine: Machine, session: str) -> list[list[int]]:
    return [obj["locked"] for obj in machine.session(session)["objects"]]


def corrected(machine: Machine, session: str) -> list[Any]:
    """Masks of every frame after a correction of both objects on frame 1 and another tracking from there."""
    machine.prompt(session, 1, 1, points=[B])
    machine.prompt(session, 2, 1, points=[A])
    machine.run(session, "propagate", frame=1)
    return [machine.masks(session, t) for t in range(FRAMES)]


def test_a_locked_frame_stays_and_the_others_do_not(machine: Machine) -> None:
    session = tracked(machine)
    before = [machine.masks(session, t) for t in range(FRAMES)]
    answer = lock(machine, session, 3, objects=[2]).raise_for_status().json()
    assert [obj["id"] for obj in answer["objects"]] == [2]
    assert answer["revision"] == machine.session(session)["revision"]
    assert locked(machine, session) == [[], [3]]
    after = corrected(machine, session)
    assert after[3]["2"] == before[3]["2"]
    assert all(after[t][n] != before[t][n] for t, n in ((2, "1"), (2, "2"), (3, "1"), (4, "2")))


def test_all_objects_of_a_frame_and_unlocking(machine: Machine) -> None:
    session = tracked(machine)
    before = machine.masks(session, 3)
    lock(machine, session, 3).raise_for_status()
    revision = machine.session(session)["revision"]
    assert lock(machine, session, 3).json() == {"objects": [], "revision": revision}, "no edit where nothing changes"
    assert corrected(machine, session)[3] == before
    lock(machine, session, 3, locked=False, objects=[1]).raise_for_status()
    assert locked(machine, session) == [[], [3]]
    machine.run(session, "propagate", frame=1)
    after = machine.masks(session, 3)
    assert after["1"] != before["1"] and after["2"] == before["2"]


def test_a_lock_is_undone(machine: Machine) -> None:
    session = tracked(machine)
    lock(machine, session, 3).raise_for_status()
    revision = machine.session(session)["revision"]
    restore(machine, session, revision - 1)
    assert locked(machine, session) == [[], []]
    restore(machine, session, revision)
    assert locked(machine, session) == [[3], [3]]


def test_what_cannot_be_locked(machine: Machine) -> None:
    session = tracked(machine)
    assert code(lock(machine, session, FRAMES)) == (404, "not_found")
    assert code(lock(machine, session, 1, objects=[9])) == (404, "not_found")
    machine.client.delete(f"/api/sessions/{session}/objects/2")
    machine.prompt(session, 3, 5, points=[B])
    refused = lock(machine, session, 1, objects=[1, 3])
    assert code(refused) == (404, "not_found")
    assert refused.json()["error"]["message"] == "object 3 has no mask on frame 1 to keep"
    assert locked(machine, session) == [[], []]


def test_locks_survive_a_restart(model: str, tmp_path: Path) -> None:
    """The tracker has forgotten the frame by then; its mask stays all the same."""
    options = {"data": tmp_path / "data"}
    with running(model, tmp_path / "a", **options) as machine:
        session = tracked(machine)
        before = machine.masks(session, 3)
        lock(machine, session, 3).raise_for_status()
    with running(model, tmp_path / "b", **options) as machine:
        machine.client.post(f"/api/recent/{session}").raise_for_status()
        assert locked(machine, session) == [[3], [3]]
        assert corrected(machine, session)[3] == before


def test_scores_of_every_mask(machine: Machine) -> None:
    session = tracked(machine)
    scores = machine.client.get(f"/api/sessions/{session}/scores").json()["objects"]
    assert set(scores) == {"1", "2"}
    for n, found in scores.items():
        assert found["frames"] == list(range(FRAMES))
        masks = [machine.masks(session, t)[n] for t in range(FRAMES)]
        assert found["score"] == [mask["score"] for mask in masks]
        assert found["predicted_iou"] == [mask["predicted_iou"] for mask in masks]
        assert all(0 <= iou <= 1 for iou in found["predicted_iou"][1:])

"""What the tracker remembers after undo: tracking goes on as if nothing had happened in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import Listener, Machine, all_of, form, frames_of_clip, restore, running, wait_for
from mlx_sam2.model.sam2 import SAM2

A, B, C = (30.0, 40.0, 1), (60.0, 20.0, 1), (50.0, 50.0, 0)
FRAMES, LATER = 6, 3


def tracked(machine: Machine) -> str:
    session = machine.client.post("/api/sessions", files=form(frames_of_clip(FRAMES))).json()["id"]
    machine.prompt(session, 1, 0, points=[A])
    machine.prompt(session, 2, 0, points=[B])
    machine.run(session, "propagate", frame=0)
    return session


def revision(machine: Machine, session: str) -> int:
    return machine.session(session)["revision"]


def remembered(machine: Machine, session: str) -> list[set[int]]:
    tracks = machine.app.sessions.get(session).work.state.tracks
    return [set(tracks[obj_id].tracked) for obj_id in sorted(tracks)]


@pytest.fixture(scope="module")
def expected(machine: Machine) -> list[Any]:
    """The masks of a clip that was tracked, and tracked on from a later frame with a correction there."""
    return track_on(machine, tracked(machine))


def track_on(machine: Machine, session: str) -> list[Any]:
    machine.prompt(session, 1, LATER, points=[C, A])
    machine.run(session, "propagate", frame=LATER)
    return all_of(machine, session)[2]


@pytest.mark.slow
def test_a_deleted_object_comes_back_with_its_memory(machine: Machine, expected: list[Any]) -> None:
    session = tracked(machine)
    before, known = all_of(machine, session), remembered(machine, session)
    for obj_id in (1, 2):
        machine.client.delete(f"/api/sessions/{session}/objects/{obj_id}")
    restore(machine, session, revision(machine, session) - 2)
    assert all_of(machine, session) == before and remembered(machine, session) == known
    assert track_on(machine, session) == expected


def test_an_undone_correction_leaves_the_memory_alone(machine: Machine, expected: list[Any]) -> None:
    session = tracked(machine)
    before, known = all_of(machine, session), remembered(machine, session)
    machine.prompt(session, 1, 2, points=[B])
    machine.prompt(session, 2, 4, points=[A])
    restore(machine, session, revision(machine, session) - 2)
    assert all_of(machine, session) == before and remembered(machine, session) == known
    assert track_on(machine, session) == expected


def test_what_was_undone_is_not_remembered(machine: Machine) -> None:
    """Nor is what a correction has led to: the masks of tracking before it come back, and the tracker goes by those."""
    session = tracked(machine)
    before = revision(machine, session)
    machine.prompt(session, 1, LATER, points=[C, B])
    machine.run(session, "propagate", frame=LATER)
    restore(machine, session, before)
    first, second = remembered(machine, session)
    assert first == set(range(1, LATER)), "the corrected frames are forgotten, those before them are not"
    assert second >= first
    restore(machine, session, before - 1)  # before the first tracking
    assert remembered(machine, session) == [set(), set()]
    machine.run(session, "propagate", frame=0)
    assert all_of(machine, session)[2] == all_of(machine, tracked(machine))[2]


@pytest.mark.parametrize("is_tracked_on", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_prompt_that_is_emptied_leaves_no_hole(machine: Machine, is_tracked_on: bool) -> None:
    session = tracked(machine)
    before = machine.masks(session, LATER)
    machine.prompt(session, 1, LATER, points=[B])
    machine.prompt(session, 1, LATER, points=[B, C])
    if is_tracked_on:
        machine.run(session, "propagate", frame=LATER)
    assert machine.masks(session, LATER)["1"] != before["1"]
    answer = machine.prompt(session, 1, LATER)
    assert machine.masks(session, LATER)["1"] == before["1"] == answer["masks"][0]
    assert list(machine.session(session)["objects"][0]["frames"]) == ["0"]
    again = machine.prompt(session, 1, LATER)  # nothing is there to be taken away
    assert again["revision"] == answer["revision"] and machine.masks(session, LATER)["1"] == before["1"]


def test_a_frame_that_was_never_tracked_is_empty_again(machine: Machine) -> None:
    session = machine.client.post("/api/sessions", files=form(frames_of_clip(FRAMES))).json()["id"]
    machine.prompt(session, 1, 2, points=[A])
    assert machine.prompt(session, 1, 2)["masks"] == [] and machine.masks(session, 2) == {}


def test_no_frame_is_encoded_twice(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither for a correction, nor for tracking on, back, or once more, nor after undo."""
    encoded: list[int] = []
    encode = SAM2.encode_image
    monkeypatch.setattr(SAM2, "encode_image", lambda model, pixels: encoded.append(1) or encode(model, pixels))
    session = tracked(machine)
    assert len(encoded) == FRAMES
    track_on(machine, session)
    machine.run(session, "propagate", frame=FRAMES - 1, direction="backward")
    machine.run(session, "propagate", frame=2, direction="both")
    restore(machine, session, revision(machine, session) - 2)
    machine.run(session, "propagate", frame=0)
    assert len(encoded) == FRAMES


def messages(machine: Machine, session: str, frame: int) -> list[str]:
    """What a job says that tracks from a frame on."""
    listener = Listener(machine, session)
    machine.run(session, "propagate", frame=frame)
    wait_for(lambda: listener.events[-1][1].get("status") == "done")
    said = [data["message"] for name, data in listener.events if name == "job" and data["message"]]
    listener.close()
    return said


def test_a_user_hears_where_tracking_begins_without_memory(machine: Machine) -> None:
    session = tracked(machine)
    assert messages(machine, session, LATER) == []
    machine.prompt(session, 1, 0, points=[C, A])
    machine.prompt(session, 1, 0, points=[A, B])  # one click taken back: what it led to is not remembered
    said = messages(machine, session, LATER)
    assert said and "goes on from the prompts" in said[0]


@pytest.mark.slow
def test_tracking_is_remembered_after_a_restart(model: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(model, tmp_path / "one", data=data) as machine:
        session = tracked(machine)
        machine.prompt(session, 1, LATER, points=[C])  # answered from memory: alone it says nothing of the object
        machine.client.put(f"/api/sessions/{session}/frames/{LATER + 1}/lock", json={"objects": [2]})
        before, known = all_of(machine, session)[2], remembered(machine, session)
    with running(model, tmp_path / "two", data=data) as machine:
        machine.client.post(f"/api/recent/{session}")
        assert messages(machine, session, LATER) == []
        after = all_of(machine, session)[2]
        assert after[:LATER] == before[:LATER]
        assert after[LATER]["1"] == before[LATER]["1"], "the correction is what it was"
        locked = machine.app.sessions.get(session).work.state.tracks[2].tracked[LATER + 1]
        assert after[LATER + 1]["2"] == before[LATER + 1]["2"]
        assert locked.object_score == before[LATER + 1]["2"]["score"], "tracking does not go on from the locked mask"
        assert [len(track) for track in remembered(machine, session)] == [len(known[0]) - 1, len(known[1])]

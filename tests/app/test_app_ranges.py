"""Tracking of some frames, of some objects, and with a memory policy, as the page asks for it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import Machine, code, form, frames_of_clip

A, B = (30.0, 40.0, 1), (60.0, 20.0, 1)
FRAMES = 8


def prompted(machine: Machine, frame: int = 0) -> str:
    session = machine.client.post("/api/sessions", files=form(frames_of_clip(FRAMES))).json()["id"]
    machine.prompt(session, 1, frame, points=[A])
    machine.prompt(session, 2, frame, points=[B])
    return session


def masks(machine: Machine, session: str) -> list[dict[str, Any]]:
    return [machine.masks(session, t) for t in range(FRAMES)]


def frames_of(machine: Machine, session: str, obj_id: int) -> list[int]:
    return [t for t, found in enumerate(masks(machine, session)) if str(obj_id) in found]


def test_between_two_points(machine: Machine) -> None:
    session = prompted(machine, 3)
    job = machine.run(session, "propagate", frame=3, direction="both", first=2, last=5)
    assert (job["status"], job["done"], job["total"]) == ("done", 5, 5)  # 3, 4, 5 and 3, 2
    assert frames_of(machine, session, 1) == frames_of(machine, session, 2) == [2, 3, 4, 5]
    whole = prompted(machine, 3)
    machine.run(whole, "propagate", frame=3)
    assert masks(machine, session)[3:6] == masks(machine, whole)[3:6], "bounds change the masks between them"


def test_one_object_alone(machine: Machine) -> None:
    session = prompted(machine)
    machine.run(session, "propagate", frame=0, objects=[2], last=4)
    assert frames_of(machine, session, 1) == [0] and frames_of(machine, session, 2) == [0, 1, 2, 3, 4]
    machine.run(session, "propagate", frame=0, objects=[1])
    assert frames_of(machine, session, 1) == list(range(FRAMES)) and frames_of(machine, session, 2) == [0, 1, 2, 3, 4]


def test_a_policy_outlasts_a_rest(machine: Machine) -> None:
    opened = prompted(machine)
    machine.run(opened, "propagate", frame=0, last=1, memory_policy="samurai")
    session = machine.app.sessions.get(opened)
    work, session.work = session.work, None
    machine.app.worker.submit(work.close).result()
    machine.run(opened, "propagate", frame=0, last=1)
    assert session.work.predictor.tracker.policy.name == "samurai"


def test_a_policy_of_its_own(machine: Machine) -> None:
    """A session takes the policy that it is tracked with, keeps it, and can have another one later."""
    session = prompted(machine)
    machine.run(session, "propagate", frame=0, memory_policy="samurai")
    work = machine.app.sessions.get(session).work
    assert work.predictor.tracker.policy.name == "samurai"
    samurai = masks(machine, session)
    machine.run(session, "propagate", frame=0)
    assert machine.app.sessions.get(session).work is work and masks(machine, session) == samurai
    machine.run(session, "propagate", frame=0, memory_policy="official")
    official = masks(machine, session)
    assert machine.app.sessions.get(session).work.predictor.tracker.policy.name == "official"
    plain = prompted(machine)
    machine.run(plain, "propagate", frame=0)
    assert official == masks(machine, plain), "the policy before has left something behind"


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        ({"frame": 1, "first": 2}, 422),
        ({"frame": 5, "last": 4}, 422),
        ({"frame": 2, "first": 2, "direction": "backward"}, 422),
        ({"frame": 0, "objects": [3]}, 409),
        ({"frame": 0, "objects": []}, 422),
        ({"frame": 0, "memory_policy": "elephant"}, 422),
    ],
)
def test_what_is_refused(machine: Machine, ask: dict[str, Any], status: int) -> None:
    session = prompted(machine)
    assert code(machine.client.post(f"/api/sessions/{session}/propagate", json=ask))[0] == status
    assert machine.session(session)["jobs"] == []


def test_a_refusal_is_a_sentence_of_its_own(machine: Machine) -> None:
    answer = machine.client.post("/api/sessions/none/propagate", json={"frame": 5, "last": 4})
    assert answer.json()["error"]["message"] == "tracking begins on frame 5, outside of first and last"

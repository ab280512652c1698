"""A camera over the API: each frame is tracked when it comes, kept up to a number, and becomes a session."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import HEIGHT, WIDTH, Machine, photo, png, wait_for
from mlx_sam2.app import live


def jpeg(value: int = 100, width: int = WIDTH) -> bytes:
    file = io.BytesIO()
    picture = Image.new("RGB", (width, HEIGHT), (value, 120, 90))
    picture.paste((220, 30, 30), (30, 20, 60, 50))
    picture.save(file, format="JPEG", quality=90)
    return file.getvalue()


def begin(machine: Machine) -> str:
    answer = machine.client.post("/api/live")
    assert answer.status_code == 201, answer.text
    return f"/api/live/{answer.json()['id']}"


def send(machine: Machine, place: str, data: bytes, **click: Any) -> dict[str, Any]:
    answer = machine.client.post(f"{place}/frames", content=data, params=click)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_camera_is_tracked_and_becomes_a_session(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RECORDED", 4)
    place = begin(machine)
    assert send(machine, place, jpeg()) == {"frame": 0, "recorded": 1, "masks": {}}
    first = send(machine, place, jpeg(), x=45, y=35, object=1)
    assert first["frame"] == 1 and list(first["masks"]) == ["1"]
    seen = {1: first["masks"]["1"]} | {t: send(machine, place, jpeg(100 + t))["masks"]["1"] for t in (2, 3, 4)}
    assert send(machine, place, jpeg())["recorded"] == 4

    answer = machine.client.post(f"{place}/session")
    assert answer.status_code == 201, answer.text
    session = answer.json()["id"]
    wait_for(lambda: machine.session(session)["status"] == "ready")
    state = machine.session(session)
    assert (state["kind"], state["name"], state["frames"], state["width"]) == ("video", "Camera", 4, WIDTH)
    assert state["objects"][0]["frames"]["1"]["points"] == [[45, 35, 1]]
    assert all(machine.masks(session, t)["1"]["counts"] == seen[t]["counts"] for t in (1, 2, 3))
    assert machine.client.post(f"{place}/frames", content=jpeg()).status_code == 404
    machine.run(session, "propagate", frame=1)
    machine.client.delete(f"/api/sessions/{session}")


def test_one_camera_at_a_time_leaves_nothing(machine: Machine) -> None:
    folders, disk = list(machine.app.sessions.folder.iterdir()), machine.app.sessions._disk
    first = begin(machine)
    send(machine, first, jpeg())
    second = begin(machine)
    assert machine.client.post(f"{first}/frames", content=jpeg()).status_code == 404
    assert machine.client.post(f"{second}/session").status_code == 409
    send(machine, second, jpeg())
    assert machine.client.delete(second).status_code == 204
    assert list(machine.app.sessions.folder.iterdir()) == folders and machine.app.sessions._disk == disk


def test_bad_frames_and_clicks_are_refused(machine: Machine) -> None:
    place = begin(machine)
    send(machine, place, jpeg())
    whole = jpeg()
    for status, data, click in (
        (415, b"", {}),
        (415, whole[:300], {}),
        (415, png(photo()), {}),
        (422, jpeg(width=WIDTH + 8), {}),
        (422, whole, {"x": WIDTH + 1, "y": 2}),
        (422, whole, {"x": 2}),
        (422, whole, {"x": 2, "y": 2, "object": 0}),
        (422, whole, {"z": 2}),
    ):
        answer = machine.client.post(f"{place}/frames", content=data, params=click)
        assert answer.status_code == status, (answer.status_code, answer.text)
    for item in range(1, live.OBJECTS + 1):
        send(machine, place, whole, x=10 * item, y=20, object=item)
    full = machine.client.post(f"{place}/frames", content=whole, params={"x": 5, "y": 5, "object": 99})
    assert full.status_code == 409
    refused = machine.client.post(f"{place}/frames", content=whole, headers={"Origin": "http://evil.example"})
    assert refused.status_code == 403
    assert machine.client.delete(place).status_code == 204


def test_a_frame_that_finds_no_room_leaves_no_gap(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    place = begin(machine)
    send(machine, place, jpeg())
    with monkeypatch.context() as full:
        full.setattr(machine.app.sessions, "take_disk", _full)
        assert machine.client.post(f"{place}/frames", content=jpeg()).status_code == 409
    last = send(machine, place, jpeg(), x=45, y=35)
    assert (last["frame"], last["recorded"]) == (2, 2)
    session = machine.client.post(f"{place}/session").json()
    assert session["frames"] == 2 and list(session["objects"][0]["frames"]) == ["1"]
    assert machine.masks(session["id"], 1)["1"]["counts"] == last["masks"]["1"]["counts"]
    machine.client.delete(f"/api/sessions/{session['id']}")


def _full(count: int) -> None:
    raise live.ApiError(409, "full", "no room")


def test_another_model_stops_the_camera_and_leaves_what_was_recorded(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = machine.app.engine
    monkeypatch.setattr("mlx_sam2.app.engine.build_model", lambda name, **_: engine._model)
    place = begin(machine)
    send(machine, place, jpeg())
    assert machine.client.post("/api/model", json={"name": engine.state.name}).status_code == 202
    wait_for(lambda: engine.state.status == "ready")
    refused = machine.client.post(f"{place}/frames", content=jpeg())
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "changed")
    session = machine.client.post(f"{place}/session").json()
    assert session["frames"] == 1
    machine.client.delete(f"/api/sessions/{session['id']}")

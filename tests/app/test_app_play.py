"""The file of a video for the browser's own player: ranges of its bytes, and whether times tell the frames."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import Machine, clip, code, form, frames_of_clip, photo, png


def test_the_file_of_a_film(machine: Machine) -> None:
    data = clip(4)
    place = f"/api/sessions/{machine.open(data, 'clip.mp4')}"
    answer = machine.client.get(place + "/media")
    assert answer.content == data and answer.headers["content-type"] == "video/mp4"
    part = machine.client.get(place + "/media", headers={"Range": "bytes=10-19"})
    assert part.status_code == 206 and part.content == data[10:20]
    assert part.headers["x-content-type-options"] == "nosniff" and part.headers["cache-control"] == "no-store"
    beyond = machine.client.get(place + "/media", headers={"Range": f"bytes={len(data) + 1}-"})
    assert beyond.status_code == 416
    assert machine.client.get(place + "/play").json() == {"fps": machine.client.get(place).json()["fps"]}
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert code(machine.client.get(place + "/media", headers=headers)) == (403, "forbidden")


def test_what_is_no_file_of_a_film_is_not_given(machine: Machine) -> None:
    folder = machine.client.post("/api/sessions", files=form(frames_of_clip(2))).json()["id"]
    for session in (machine.open(png(photo())), folder):
        assert code(machine.client.get(f"/api/sessions/{session}/media")) == (404, "not_found")
        assert machine.client.get(f"/api/sessions/{session}/play").json() == {"fps": None}
    assert code(machine.client.get("/api/sessions/nothing/media")) == (404, "not_found")

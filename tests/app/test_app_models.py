"""Another model while the app runs, and another name for what is open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import Brake, Listener, Machine, clip, code, photo, png, running, wait_for
from mlx_sam2.app.models import COSTS


@pytest.fixture
def machine(model: str, tmp_path: Path) -> Iterator[Machine]:
    with running(model, tmp_path / "files", data=tmp_path / "data") as machine:
        yield machine


def choose(machine: Machine, name: str) -> dict:
    answer = machine.client.post("/api/model", json={"name": name})
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"] == "loading"
    wait_for(lambda: machine.client.get("/api/state").json()["model"]["status"] != "loading")
    return machine.client.get("/api/state").json()["model"]


def test_costs_are_those_of_the_models() -> None:
    from mlx.utils import tree_flatten

    from mlx_sam2.config.published import PUBLISHED
    from mlx_sam2.model.sam2 import SAM2

    for model in PUBLISHED.values():
        if model.short_name in COSTS:
            count = sum(value.size for _, value in tree_flatten(SAM2(model.config).parameters()))
            assert COSTS[model.short_name].parameters == count


def test_the_models_that_can_be_chosen(machine: Machine, model: str) -> None:
    found = machine.client.get("/api/models").json()
    assert [choice["name"] for choice in found] == [model, "demo", *COSTS]
    assert found[-1]["download_bytes"] == 4 * found[-1]["parameters"]
    assert code(machine.client.post("/api/model", json={"name": "../elsewhere"})) == (404, "not_found")


@pytest.mark.slow
def test_another_model_takes_over_open_sessions(machine: Machine, model: str) -> None:
    session = machine.open(png(photo()))
    machine.prompt(session, 1, points=[(30, 40, 1)])
    before = machine.masks(session)
    assert choose(machine, "demo")["image_size"] == 256
    wait_for(lambda: machine.session(session)["status"] == "ready")
    assert machine.masks(session) == before, "masks went with the model"
    demo = machine.prompt(session, 1, points=[(30, 40, 1)])["masks"]
    assert choose(machine, model)["name"] == model
    wait_for(lambda: machine.session(session)["status"] == "ready")
    nano = machine.prompt(session, 1, points=[(30, 40, 1)])["masks"]
    assert [mask["counts"] for mask in nano] != [mask["counts"] for mask in demo]


def test_a_model_that_cannot_be_loaded_changes_nothing(
    machine: Machine, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_sam2.app.engine.build_model", _refuse)
    session = machine.open(png(photo()))
    state = choose(machine, "large")
    assert (state["status"], state["name"], state["refused"]) == ("ready", model, "large")
    assert state["message"] == "it is not there"
    assert machine.prompt(session, 1, points=[(30, 40, 1)])["masks"]


def _refuse(name: str, **_: object) -> None:
    raise ValueError("it is not there")


@pytest.mark.slow
def test_no_other_model_during_a_job(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    brake = Brake(monkeypatch, 2)
    session = machine.open(clip(8), "clip.mp4")
    machine.prompt(session, 1, points=[(30, 40, 1)])
    job = machine.start(session, "propagate", frame=0)
    assert code(machine.client.post("/api/model", json={"name": "demo"})) == (409, "busy")
    brake.let_go()
    assert machine.finish(session, job)["status"] == "done"
    choose(machine, "demo")


def test_a_session_is_renamed(machine: Machine) -> None:
    session = machine.open(png(photo()), "photo.png")
    events = Listener(machine, session)
    answer = machine.client.put(f"/api/sessions/{session}/name", json={"name": "My mug/2.png"})
    assert answer.json()["name"] == "My mug_2.png"
    wait_for(lambda: events.names().count("state") == 2)
    events.close()
    machine.prompt(session, 1, points=[(30, 40, 1)])
    coco = json.loads(machine.export(session, "coco").content)
    assert [image["file_name"] for image in coco["images"]] == ["My mug_2.png"]
    machine.client.delete(f"/api/sessions/{session}")
    assert machine.client.get("/api/state").json()["recent"][0]["name"] == "My mug_2.png"
    assert machine.client.post(f"/api/recent/{session}").json()["name"] == "My mug_2.png"
    for name, shown in (("  ", "untitled.png"), (".png", "untitled.png"), ("x" * 1000, "x" * 196 + ".png")):
        answer = machine.client.put(f"/api/sessions/{session}/name", json={"name": name})
        assert answer.json()["name"] == shown
    assert code(machine.client.put("/api/sessions/none/name", json={"name": "x"})) == (404, "not_found")

"""The app's API under schema-driven fuzzing: whatever is sent, no answer is a fault of the server.

``MLX_SAM2_FUZZ=500`` tries so many requests for each address, and other ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install schemathesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis import checks  # noqa: E402

from app_machine import Machine, form, frames_of_clip, model_folder, photo, png, running  # noqa: E402

COUNT = int(os.environ.get("MLX_SAM2_FUZZ", "0"))
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    model = model_folder(tmp_path_factory.mktemp("app") / "nano")
    with running(model, tmp_path_factory.mktemp("files"), upload_bytes=1 << 20) as machine:
        yield machine


@pytest.fixture(scope="module")
def api(machine: Machine) -> Any:
    return schemathesis.openapi.from_url(f"{machine.url}/api/openapi.json")


@pytest.fixture(scope="module")
def known(machine: Machine) -> dict[str, list[str]]:
    """Sessions and jobs that exist."""
    image = machine.open(png(photo()))
    video = machine.client.post("/api/sessions", files=form(frames_of_clip(2))).json()["id"]
    for session in (image, video):
        machine.prompt(session, 1, points=[(30, 40, 1)])
    job = machine.run(image, "export", format="coco")["id"]
    return {"session_id": [image, video], "job_id": [job]}


@pytest.mark.slow
def test_no_request_is_a_fault_of_the_server(api: Any, machine: Machine, known: dict[str, list[str]]) -> None:
    """Not with schemathesis's own pytest fixture: that one does not work with every pytest."""
    operations = [found.ok() for found in api.get_all_operations()]
    operations = [operation for operation in operations if not operation.path.endswith("/events")]  # they never end
    assert len(operations) >= 18
    tried = {operation.label: 0 for operation in operations}
    for operation in operations:

        @settings(
            max_examples=COUNT or 6,
            derandomize=not COUNT,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def try_one(case: Any) -> None:
            tried[case.operation.label] += 1
            send(case, machine, known)

        try_one()
    assert min(tried.values()) >= 1, tried


def send(case: Any, machine: Machine, known: dict[str, list[str]]) -> None:
    """Send a request, mostly one about something that exists, and check the answer."""
    for name, values in known.items():
        if name in (case.path_parameters or {}) and case.method != "DELETE":
            case.path_parameters[name] = values[len(str(case.body)) % len(values)]
    if isinstance(case.body, dict) and "points_per_side" in case.body:
        case.body["points_per_side"] = 1  # or it takes minutes
    case.call_and_validate(checks=CHECKS, timeout=60)
    for session in machine.app.sessions.all():  # of requests that opened or began something
        for job in session.running:
            job.cancel()
        if session.id not in known["session_id"]:
            machine.app.sessions.close(session.id)


def test_every_address_is_described(machine: Machine) -> None:
    described = machine.client.get("/api/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    methods = {(method, path) for path, item in described["paths"].items() for method in item}
    assert len(methods) >= 19
    for path, item in described["paths"].items():
        for method, about in item.items():
            assert about.get("description") or about.get("summary"), f"{method} {path} has no description"
            assert {"403", "404", "409", "422"} <= set(about["responses"]), f"{method} {path} hides its errors"

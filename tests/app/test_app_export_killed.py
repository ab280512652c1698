"""An export of the app that is killed: nothing half-written bears a final name, and a new start serves none of it."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_command import command
from app_machine import SLOW, clip, wait_for
from mlx_sam2.app import folders

FRAMES = 1500  # far more than are written while one answer comes


@pytest.mark.slow
@pytest.mark.parametrize("form", ["film", "overlay"])
def test_a_killed_export_leaves_no_file(model: str, tmp_path: Path, form: str) -> None:
    with command(model, tmp_path) as app, httpx.Client(base_url=app.url, timeout=SLOW) as client:
        session = client.post("api/sessions?name=a.mp4", content=clip(FRAMES)).json()["id"]
        place = f"api/sessions/{session}"
        wait_for(lambda: client.get(place).json()["status"] == "ready")
        client.put(f"{place}/objects/1/frames/0", json={"points": [[20, 36, 1]]}).raise_for_status()
        job = client.post(f"{place}/export", json={"format": form}).json()["id"]
        wait_for(lambda: client.get(f"{place}/jobs/{job}").json()["done"] >= 5)
        assert client.get(f"{place}/exports/{job}").status_code == 404, "a file that is being written is served"
        app.end(signal.SIGKILL)
        left = [path.name for path in app.temporary.rglob(f"{job}*")]
        assert left and all(".part" in name for name in left), left
    with command(model, tmp_path) as app, httpx.Client(base_url=app.url, timeout=SLOW) as client:
        assert len(list(app.temporary.glob(f"{folders.PREFIX}*"))) == 1
        assert not list(tmp_path.rglob(f"{job}*")), "half an export is still there"
        client.post(f"api/recent/{session}").raise_for_status()
        for path in (f"{place}/jobs/{job}", f"{place}/exports/{job}"):
            assert client.get(path).status_code == 404

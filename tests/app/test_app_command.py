"""``python -m mlx_sam2.app`` as a user runs it: what it prints, how it ends, what it refuses."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_command import command
from app_machine import SLOW, clip, photo, png, running, wait_for
from light import WATCH
from mlx_sam2.app.command import main


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """Runs the command in this process; the one line with which it ends with 2."""

    def run(*args: str) -> str:
        try:
            status = main(["--no-browser", *args])
        except SystemExit as end:
            status = end.code
        out, err = capfd.readouterr()
        assert (status, out) == (2, "")
        assert err.startswith("mlx_sam2.app: error: ") and err.count("\n") == 1, err
        return err

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("signum", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_it_serves_a_file_and_ends_cleanly(model: str, tmp_path: Path, signum: int) -> None:
    photo_path = tmp_path / "photo.png"
    photo_path.write_bytes(png(photo()))
    with command(model, tmp_path / "run", str(photo_path)) as app:
        assert app.url.startswith("http://127.0.0.1:") and not app.fragment
        state = app.state()
        assert [s["name"] for s in state["sessions"]] == ["photo.png"] and state["open"] == state["sessions"][0]["id"]
        wait_for(lambda: app.state()["sessions"][0]["status"] == "ready")
        uploaded = httpx.post(app.url + "api/sessions?name=clip.mp4", content=clip(), timeout=SLOW).json()["id"]
        assert list(app.temporary.rglob("media"))
        events = threading.Thread(target=lambda: list_events(app.url, uploaded), daemon=True)  # an open page
        events.start()
        wait_for(lambda: OPEN)
        assert app.end(signum) == (130 if signum == signal.SIGINT else 143)
        out, err = app.process.communicate()
        assert (out, err) == ("", "")
        assert not list(app.temporary.iterdir()), "temporary files were left behind"
        events.join(SLOW)
    assert photo_path.exists()


OPEN: list[str] = []


def list_events(url: str, session: str) -> None:
    OPEN.clear()
    with httpx.stream("GET", f"{url}api/sessions/{session}/events", timeout=SLOW) as stream:
        for line in stream.iter_lines():
            OPEN.append(line)


def test_a_port_in_use_is_one_line(model: str) -> None:
    """In a process of its own: no traceback of a thread follows."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        call = [sys.executable, "-m", "mlx_sam2.app", "--no-browser", "--model", model, "--port", str(port)]
        done = subprocess.run(call, capture_output=True, text=True, timeout=SLOW)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"mlx_sam2.app: error: port {port} is in use")


def test_bad_input_is_one_line(model: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(png(photo())[:200])
    assert "damaged" in refused("--model", model, "--port", "0", str(broken))
    assert "does not exist" in refused("--model", model, str(tmp_path / "none.png"))
    assert "--host" in refused("--model", model, "--host", "no such host")
    assert "no-such-model" in refused("--model", "no-such-model")
    assert "--port" in refused("--port", "99999")
    (tmp_path / "empty").mkdir()
    assert "no frames" in refused("--model", model, "--port", "0", str(tmp_path / "empty"))


def test_beyond_this_machine_it_asks_for_a_token(model: str, tmp_path: Path) -> None:
    with command(model, tmp_path / "run", "--host", "0.0.0.0") as app:
        assert app.fragment.startswith("token=") and len(app.fragment) > 30
        port = int(re.search(r":(\d+)/", app.url)[1])
        local = f"http://127.0.0.1:{port}/api/state"
        assert httpx.get(local).status_code == 401
        token = app.fragment.removeprefix("token=")
        assert httpx.get(local, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        assert httpx.get(local, headers={"Host": f"evil.example:{port}"}).status_code == 403


def test_a_folder_of_frames_is_a_video(model: str, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for i in range(3):
        (frames / f"{i:05d}.png").write_bytes(png(photo(i)))
    with command(model, tmp_path / "run", str(frames)) as app:
        about = app.state()["sessions"][0]
        assert (about["kind"], about["frames"], about["name"]) == ("video", 3, "frames")
        assert app.end(signal.SIGINT) == 130
    assert len(list(frames.iterdir())) == 3, "files of the user are gone"


@pytest.mark.slow
def test_a_project_is_opened_and_stays(model: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    kept = tmp_path / "kept.sam2.zip"
    with running(model, tmp_path / "first") as machine:
        session = machine.open(png(photo()))
        machine.prompt(session, 1, points=[[30, 40, 1]])
        kept.write_bytes(machine.export(session, "project").content)
    with command(model, tmp_path / "run", str(kept)) as app:
        about = httpx.get(f"{app.url}api/sessions/{app.state()['open']}", timeout=SLOW).json()
        assert about["objects"][0]["frames"]["0"]["points"] == [[30, 40, 1]]
    assert kept.exists()
    kept.write_bytes(kept.read_bytes()[:-100])
    assert "project" in refused("--model", model, "--port", "0", str(kept))


def test_help_is_light() -> None:
    run = "import runpy; sys.argv[1:] = ['--help']; runpy.run_module('mlx_sam2.app', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", WATCH + run], capture_output=True, text=True, timeout=SLOW)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m mlx_sam2.app")
    assert done.stderr.split() == ["LOADED"]


def test_without_the_extra_it_says_how_to_get_it(model: str) -> None:
    run = "import sys; sys.modules['uvicorn'] = None; from mlx_sam2.app.command import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=SLOW)
    assert (
        done.returncode == 2
        and done.stderr == "mlx_sam2.app: error: the app needs uvicorn: pip install 'mlx-sam2[app]'\n"
    )

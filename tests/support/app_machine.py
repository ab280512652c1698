"""The app's server in a thread of the test process, with the nano model, and clients for it."""

from __future__ import annotations

import gc
import io
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

import synthetic
from mlx_sam2.app import job_routes
from mlx_sam2.app.app import App
from mlx_sam2.app.job import Job, Steps
from mlx_sam2.app.media import Limits
from mlx_sam2.app.saves import Saves
from mlx_sam2.app.security import Access
from mlx_sam2.app.server import make_config

HEIGHT, WIDTH = 72, 96
SLOW = 60.0  # seconds that a busy machine may take


def model_folder(folder: Path) -> str:
    """The nano model as a folder that can be loaded."""
    from mlx_sam2.checkpoint.loading import save

    save(synthetic.nano_model(), folder)
    return str(folder)


class Machine:
    """A running app: its parts (`app`), its address, and a client of its own origin."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.url = f"http://127.0.0.1:{app.access.port}"
        self.client = httpx.Client(base_url=self.url, timeout=SLOW, headers={"Origin": self.url})

    def open(self, data: bytes, name: str = "photo.png") -> str:
        """The id of a new session, once it is ready."""
        answer = self.client.post("/api/sessions", params={"name": name}, content=data)
        assert answer.status_code == 201, answer.text
        session = answer.json()["id"]
        wait_for(lambda: self.session(session)["status"] != "encoding")
        assert self.session(session)["status"] == "ready", self.session(session)
        return session

    def session(self, session: str) -> dict[str, Any]:
        answer = self.client.get(f"/api/sessions/{session}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def prompt(self, session: str, obj: int, frame: int = 0, **prompt: Any) -> dict[str, Any]:
        answer = self.client.put(f"/api/sessions/{session}/objects/{obj}/frames/{frame}", json=prompt)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def start(self, session: str, kind: str, **ask: Any) -> str:
        answer = self.client.post(f"/api/sessions/{session}/{kind}", json=ask)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job(self, session: str, job: str) -> dict[str, Any]:
        return self.client.get(f"/api/sessions/{session}/jobs/{job}").json()

    def finish(self, session: str, job: str) -> dict[str, Any]:
        """The job's state once it is over."""
        wait_for(lambda: self.job(session, job)["status"] not in ("queued", "running"))
        return self.job(session, job)

    def run(self, session: str, kind: str, **ask: Any) -> dict[str, Any]:
        state = self.finish(session, self.start(session, kind, **ask))
        assert state["status"] == "done", state
        return state

    def masks(self, session: str, frame: int = 0) -> dict[str, Any]:
        return self.client.get(f"/api/sessions/{session}/masks/{frame}").json()["masks"]

    def export(self, session: str, kind: str, frame: int | None = None) -> httpx.Response:
        job = self.run(session, "export", format=kind, frame=frame)
        return self.client.get(f"/api/sessions/{session}/exports/{job['id']}")


@contextmanager
def running(
    model: str, folder: Path, token: str | None = None, data: Path | None = None, most: int = 1 << 30, **limits: Any
) -> Iterator[Machine]:
    """An app that listens on 127.0.0.1 and saves sessions in `data`, `most` bytes; `limits` change those of the app."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        access = Access("127.0.0.1", listener.getsockname()[1], token)
        app = App.make(access, folder, model, Limits(**limits), None if data is None else Saves(data, most))
        app.engine.start()
        server = uvicorn.Server(make_config(app, 2))
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        machine = Machine(app)
        try:
            yield machine
        finally:
            machine.client.close()
            app.end_streams()
            server.should_exit = True
            thread.join(SLOW)
            app.worker.shutdown()


class Brake:
    """Tracking stands still after `frames` frames until it is let go; other calls are answered meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, frames: int) -> None:
        self._free = threading.Event()
        make = job_routes.propagate_steps

        def slow(*args: Any) -> Any:
            steps = make(*args)

            def braked(job: Job) -> Steps:
                for done, _ in enumerate(steps(job), start=1):
                    while done == frames and not self._free.wait(0.005):
                        yield
                    yield

            return braked

        monkeypatch.setattr(job_routes, "propagate_steps", slow)

    def let_go(self) -> None:
        self._free.set()


def code(answer: httpx.Response) -> tuple[int, str]:
    problem = answer.json()["error"]
    assert set(problem) == {"code", "message"} and "\n" not in problem["message"] and problem["message"]
    return answer.status_code, problem["code"]


def all_of(machine: Machine, session: str) -> tuple[Any, ...]:
    """What a user sees: objects, timeline, every mask."""
    state = machine.session(session)
    return state["objects"], state["timeline"], [machine.masks(session, t) for t in range(state["frames"])]


def restore(machine: Machine, session: str, revision: int, **query: Any) -> httpx.Response:
    return machine.client.post(f"/api/sessions/{session}/restore", json={"revision": revision}, params=query)


def wait_for(happens: Any, seconds: float = SLOW) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "what the test waits for does not happen"
        time.sleep(0.02)


class Listener:
    """Reads the events of a session in a thread; `close` breaks the connection, as a killed browser does."""

    def __init__(self, machine: Machine, session: str) -> None:
        self.events: list[tuple[str, Any]] = []
        self._socket = socket.create_connection(("127.0.0.1", machine.app.access.port))
        host = f"127.0.0.1:{machine.app.access.port}"
        self._socket.sendall(f"GET /api/sessions/{session}/events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_for(lambda: self.events)

    def _read(self) -> None:
        name = ""
        with self._socket.makefile("rb") as file:
            try:
                for line in file:
                    if line.startswith(b"event: "):
                        name = line[7:].decode().strip()
                    elif line.startswith(b"data: "):
                        self.events.append((name, json.loads(line[6:])))
            except (OSError, ValueError):
                return

    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(SLOW)


def rss() -> int:
    """Bytes of this process that are in memory."""
    gc.collect()
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("how much memory is in use is read from /proc")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def photo(seed: int = 0) -> np.ndarray:
    return synthetic.picture(HEIGHT, WIDTH, seed)


def frames_of_clip(count: int = 8, seed: int = 5) -> list[np.ndarray]:
    picture = synthetic.picture(HEIGHT + 40, WIDTH + 80, seed)
    return [picture[i % 40 :][:HEIGHT, 2 * (i % 40) :][:, :WIDTH] for i in range(count)]


def form(frames: list[np.ndarray]) -> list[tuple[str, tuple[str, bytes, str]]]:
    """Frames as a form, the last one first."""
    parts = [("files", (f"frame_{i:03d}.png", png(frame), "image/png")) for i, frame in enumerate(frames)]
    return parts[::-1]


def clip(count: int = 8, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """A video file with a disc that moves."""
    import av

    file = io.BytesIO()
    y, x = np.mgrid[:height, :width]
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(count):
            frame = np.full((height, width, 3), 60, np.uint8)
            frame[(y - height // 2) ** 2 + (x - 20 - 4 * (i % 12)) ** 2 < 144] = (220, 40, 40)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return file.getvalue()

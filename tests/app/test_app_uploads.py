"""Uploads: cut off where they are too large, and nothing is left of one that fails."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")


from app_machine import SLOW, Machine, code, form, frames_of_clip, photo, png, rss, running, wait_for
from mlx_sam2.app import moving
from mlx_sam2.app.media import Limits


@pytest.fixture
def machine(model: str, tmp_path: Path) -> Iterator[Machine]:
    with running(model, tmp_path / "files", grace_seconds=0.2, sessions=4) as machine:
        yield machine


@pytest.mark.parametrize("most", [32 << 20, pytest.param(Limits().upload_bytes, marks=pytest.mark.slow)])
def test_two_gigabytes_are_cut_off(model: str, tmp_path: Path, most: int) -> None:
    """Without a length that would tell: the app reads what it takes, no more, into no memory."""
    with running(model, tmp_path / "files", upload_bytes=most) as machine:
        send_zeros(machine, 2 << 30, most)


def send_zeros(machine: Machine, size: int, most: int) -> None:
    before = rss()
    sent = 0
    with socket.create_connection(("127.0.0.1", machine.app.access.port)) as client:
        host = f"127.0.0.1:{machine.app.access.port}"
        client.sendall(
            f"POST /api/sessions?name=zeros HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        try:
            while sent < min(size, most + (128 << 20)):  # no need to go on when it was not cut off
                client.sendall(piece)
                sent += 1 << 20
        except OSError:
            pass  # cut off
        client.settimeout(2)
        try:
            head = client.recv(4096)
        except OSError:
            head = b""  # the reset came before the answer was read
    assert most <= sent < most + (64 << 20), f"{sent:,} of {size:,} bytes were taken"
    assert not head or head.startswith(b"HTTP/1.1 413")
    wait_for(lambda: not list(machine.app.sessions.folder.iterdir()))
    assert machine.app.sessions._disk == 0
    assert rss() - before < 100 << 20


def test_an_upload_that_says_too_much_is_refused_at_once(machine: Machine) -> None:
    with socket.create_connection(("127.0.0.1", machine.app.access.port)) as client:
        host = f"127.0.0.1:{machine.app.access.port}"
        client.sendall(f"POST /api/sessions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {2 << 30}\r\n\r\n".encode())
        client.settimeout(SLOW / 2)
        assert client.recv(4096).startswith(b"HTTP/1.1 413")


def test_an_upload_that_breaks_off_leaves_nothing(machine: Machine) -> None:
    with socket.create_connection(("127.0.0.1", machine.app.access.port)) as client:
        host = f"127.0.0.1:{machine.app.access.port}"
        client.sendall(
            f"POST /api/sessions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 500000\r\n\r\n".encode() + bytes(300_000)
        )
        wait_for(lambda: machine.app.sessions._disk > 0)
    wait_for(lambda: machine.app.sessions._disk == 0)
    assert not list(machine.app.sessions.folder.iterdir()) and len(machine.app.sessions) == 0


@pytest.mark.parametrize(
    ("files", "status"),
    [
        (form(frames_of_clip(2))[:1] * 2, 415),  # the same number twice
        ([("files", ("one.png", png(photo()), "image/png")), ("files", ("two.png", png(photo()), "image/png"))], 415),
        ([*form(frames_of_clip(1)), ("files", ("frame_9.png", png(photo()[:50]), "image/png"))], 415),  # another size
        ([("files", ("frame_1.gif", b"GIF89a", "image/gif"))], 415),
        ([("files", ("frame_1.png", b"", "image/png"))], 415),
    ],
)
def test_frames_that_make_no_video_are_refused(machine: Machine, files: Any, status: int) -> None:
    answer = machine.client.post("/api/sessions", files=files)
    assert code(answer) == (status, "unsupported")
    assert not list(machine.app.sessions.folder.iterdir())


def test_heic_is_opened_or_named(machine: Machine) -> None:
    """By its contents, whatever its name; one line says what it needs where nothing reads it."""
    data = (Path(__file__).parents[1] / "data" / "reports" / "iphone.heic").read_bytes()
    answer = machine.client.post("/api/sessions", params={"name": "photo.jpg"}, content=data)
    if answer.status_code == 415:
        message = answer.json()["error"]["message"]
        assert message.startswith("photo.jpg is a HEIC photo") and "export it as JPEG" in message
    else:
        assert (answer.json()["width"], answer.json()["height"]) == (1024, 768)


def test_more_frames_than_may_be(model: str, tmp_path: Path) -> None:
    with running(model, tmp_path / "files", frames=3) as machine:
        assert machine.client.post("/api/sessions", files=form(frames_of_clip(3))).status_code == 201
        assert code(machine.client.post("/api/sessions", files=form(frames_of_clip(4)))) == (413, "too_large")


def animated(kind: str, count: int) -> bytes:
    first, *rest = (Image.fromarray(frame) for frame in frames_of_clip(count))
    file = io.BytesIO()
    first.save(
        file, format=kind, save_all=bool(rest), append_images=rest, duration=[40, *[80] * (count - 1)] if rest else 40
    )
    return file.getvalue()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_films_and_single_pictures_are_not(machine: Machine, kind: str) -> None:
    session = machine.session(machine.open(animated(kind, 4), f"ball.{kind.lower()}"))
    assert (session["kind"], session["frames"]) == ("video", 4)
    assert session["fps"] == pytest.approx(1000 * 4 / 280)
    still = machine.session(machine.open(animated(kind, 1), f"ball.{kind.lower()}"))
    assert (still["kind"], still["frames"]) == ("image", 1)
    machine.prompt(session["id"], 1, points=[(30, 40, 1)])
    assert machine.masks(session["id"])["1"]["size"] == [session["height"], session["width"]]


def test_an_animation_is_within_the_limits_of_films(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(model, tmp_path / "files", frames=3) as machine:
        assert code(machine.client.post("/api/sessions", content=animated("GIF", 4))) == (413, "too_large")
        assert not list(machine.app.sessions.folder.iterdir())
        monkeypatch.setattr(moving, "DECODED", 100)
        assert code(machine.client.post("/api/sessions", content=animated("WEBP", 3))) == (413, "too_large")
        cut = animated("GIF", 3)
        assert machine.client.post("/api/sessions", content=cut[: len(cut) // 5]).status_code in (413, 415)

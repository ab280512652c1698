"""Who is let in: Host, Origin, token; what never happens: paths, files of others, answers that are kept."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import zipfile
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the app's extra is not installed: pip install 'mlx-sam2[app]'")

from app_machine import Machine, clip, code, photo, png, running
from mlx_sam2.app import security
from mlx_sam2.app.security import Access, is_loopback, split_host

# ---- Host and Origin


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:{port}", "127.0.0.1:1", "127.0.0.1", "192.168.1.7:{port}", ""]
)
def test_another_host_is_refused(machine: Machine, name: str) -> None:
    host = name.format(port=machine.app.access.port)
    for method, path in (("GET", "/"), ("GET", "/api/state"), ("POST", "/api/sessions"), ("GET", "/static/app.js")):
        assert code(httpx.request(method, machine.url + path, headers={"Host": host})) == (403, "forbidden")
        rebound = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}  # as the browser sees it
        assert code(httpx.request(method, machine.url + path, headers=rebound)) == (403, "forbidden")


@pytest.mark.parametrize("name", ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "LOCALHOST:{port}"])
def test_our_own_hosts_are_known(machine: Machine, name: str) -> None:
    host = name.format(port=machine.app.access.port)
    answer = httpx.get(machine.url + "/api/state", headers={"Host": host, "Origin": f"http://{host}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
def test_another_origin_is_refused(machine: Machine, origin: str) -> None:
    before = len(machine.app.sessions)
    for method, path in (("GET", "/api/state"), ("POST", "/api/sessions?name=x.png"), ("DELETE", "/api/sessions/x")):
        answer = machine.client.request(method, path, headers={"Origin": origin}, content=png(photo()))
        assert code(answer) == (403, "forbidden")
    assert len(machine.app.sessions) == before


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_site_makes_the_browser_fetch_is_refused(machine: Machine, site: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": "image"}
    for path in ("/api/state", "/static/app.js", "/"):
        assert code(httpx.get(machine.url + path, headers=headers)) == (403, "forbidden")
    visit = {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}
    assert httpx.get(machine.url + "/", headers=visit).status_code in (200, 404)  # a link to the app may be followed


def test_split_host() -> None:
    assert split_host("localhost:80") == ("localhost", 80)
    assert split_host("[::1]:8765") == ("::1", 8765)
    assert split_host("[::1]") == ("::1", 80)
    assert split_host("name") == ("name", 80)
    assert split_host("name:") == ("name", None)
    assert split_host("name:²")[1] is None


def test_names_that_may_be_used_when_bound_elsewhere() -> None:
    open_to_all = Access("0.0.0.0", 8765, "secret")
    assert open_to_all.knows_host("192.168.1.7:8765") and open_to_all.knows_host("[fe80::1]:8765")
    assert open_to_all.knows_host(f"{socket.gethostname()}:8765")
    assert not open_to_all.knows_host("evil.example:8765")
    assert not open_to_all.knows_host("192.168.1.7:80")
    assert Access("studio.lan", 8765, "secret").knows_host("studio.lan:8765")


def test_what_counts_as_this_machine() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1", "127.0.0.2")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.7", "localhost.evil.example", "")))


# ---- token


def test_without_the_token_nothing_is_answered(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = security.hmac.compare_digest
    monkeypatch.setattr(security.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    with running(model, tmp_path, token="a-secret") as machine:
        for path in ("/api/state", "/api/openapi.json", "/api/sessions/x", "/api/sessions/x/events"):
            assert code(machine.client.get(path)) == (401, "unauthorized")
        assert code(machine.client.post("/api/sessions", content=png(photo()))) == (401, "unauthorized")
        assert machine.client.get("/").status_code in (200, 404)  # the page itself: it asks for the token
        for wrong in ("", "a-secre", "a-secret ", "ä"):
            assert code(machine.client.post("/api/login", json={"token": wrong})) == (401, "unauthorized")
            assert code(machine.client.get("/api/state", headers={"Authorization": "Bearer x"})) == (
                401,
                "unauthorized",
            )
        right = machine.client.post("/api/login", json={"token": "a-secret"})
        assert right.status_code == 204
        cookie = right.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert machine.client.get("/api/state").status_code == 200  # with the cookie now
        alone = httpx.Client(base_url=machine.url)
        assert alone.get("/api/state").status_code == 401
        assert alone.get("/api/state", headers={"Authorization": "Bearer a-secret"}).status_code == 200
    assert compared, "the token was not compared in constant time"


# ---- headers


def test_every_answer_says_how_it_may_be_used(machine: Machine) -> None:
    session = machine.open(png(photo()))
    paths = [
        "/",
        "/api/state",
        f"/api/sessions/{session}",
        f"/api/sessions/{session}/frames/0",
        f"/api/sessions/{session}/media",
        f"/api/sessions/{session}/play",
        "/nothing",
        "/static/x",
    ]
    for path in paths:
        headers = machine.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers and "server" not in headers
        if path.startswith("/api"):
            assert headers["cache-control"] == "no-store"
    refused = machine.client.get("/", headers={"Host": "evil.example"})
    assert "default-src 'self'" in refused.headers["content-security-policy"]


# ---- paths


@pytest.mark.parametrize(
    "path",
    ["/static/../server.py", "/static/%2e%2e/server.py", "/static//etc/passwd", "/static/..%2fserver.py", "/static/"],
)
def test_no_path_leads_out_of_the_page(machine: Machine, path: str) -> None:
    with socket.create_connection(("127.0.0.1", machine.app.access.port)) as client:  # httpx would tidy the path
        client.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{machine.app.access.port}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]


@pytest.mark.parametrize("name", ["../../../tmp/evil.png", "/etc/passwd", "..\\..\\evil.png", "a%2f..%2fb.png"])
def test_the_name_of_a_file_is_only_shown(machine: Machine, name: str, tmp_path: Path) -> None:
    answer = machine.client.post("/api/sessions", params={"name": name}, content=png(photo()))
    assert answer.status_code == 201
    session = machine.app.sessions.get(answer.json()["id"])
    assert session.path.parent.parent == machine.app.sessions.folder and session.path.name == "media"
    assert "/" not in session.name and "\\" not in session.name
    machine.prompt(session.id, 1, points=[[20, 20, 1]])
    machine.prompt(session.id, 2, points=[[30, 30, 1]])
    for obj, label in ((1, "../../x"), (2, "/y")):
        machine.client.put(f"/api/sessions/{session.id}/objects/{obj}", json={"name": label})
    names = zipfile.ZipFile(io.BytesIO(machine.export(session.id, "masks").content)).namelist()
    assert names == ["001__x.png", "002__y.png"]


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '/etc/passwd'\n",
        "<?xml version='1.0'?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>",
        "%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file\n",
        "<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    ],
)
def test_files_that_name_other_files_are_never_followed(machine: Machine, text: str) -> None:
    answer = machine.client.post("/api/sessions?name=clip.mp4", content=text.encode())
    assert code(answer) == (415, "unsupported")
    assert str(machine.app.sessions.folder) not in answer.text


# ---- hostile pictures


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels in a few kilobytes."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(side // 8 + 1)) for _ in range(side)) + rows.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8000, 30_000])
def test_a_decompression_bomb_is_refused(machine: Machine, side: int) -> None:
    data = bomb(side)
    assert len(data) < 200_000
    answer = machine.client.post("/api/sessions?name=bomb.png", content=data)
    assert code(answer) == (413, "too_large") and "pixels" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "data", [b"", b"hello", png(photo())[:300], b"\x89PNG\r\n\x1a\n" + bytes(50), clip()[:700], b"RIFF0000AVI "]
)
def test_what_cannot_be_read_gets_one_line(machine: Machine, data: bytes) -> None:
    before, files = len(machine.app.sessions), len(list(machine.app.sessions.folder.iterdir()))
    answer = machine.client.post("/api/sessions?name=some.png", content=data)
    assert code(answer) == (415, "unsupported")
    assert str(machine.app.sessions.folder) not in answer.text
    assert len(machine.app.sessions) == before and len(list(machine.app.sessions.folder.iterdir())) == files


def test_a_video_of_an_unknown_kind_is_refused(machine: Machine) -> None:
    answer = machine.client.post("/api/sessions?name=odd.mp4", content=clip().replace(b"avc1", b"zzz1"))
    assert code(answer) == (415, "unsupported") and "H.264" in answer.json()["error"]["message"]


@pytest.mark.parametrize("data", [clip(3), png(photo())], ids=["video", "picture"])
def test_damage_anywhere_in_a_file_is_one_line(machine: Machine, data: bytes) -> None:
    draw = np.random.default_rng(int(os.environ.get("MLX_SAM2_SEED", "0")))
    for _ in range(int(os.environ.get("MLX_SAM2_FUZZ", "25"))):
        damaged = bytearray(data)
        for place in draw.integers(0, len(data), 4):
            damaged[place] = draw.integers(0, 256)
        answer = machine.client.post("/api/sessions", content=bytes(damaged))
        if answer.status_code == 201:  # what was damaged does not matter, or only when it is looked at
            session = answer.json()["id"]
            look = machine.client.get(f"/api/sessions/{session}/frames/{answer.json()['frames'] - 1}")
            assert look.status_code == 200 or code(look)[0] == 415, look.text
            machine.client.delete(f"/api/sessions/{session}")
        else:
            assert code(answer)[0] in (413, 415), answer.text


def test_a_body_of_json_has_a_limit(machine: Machine) -> None:
    session = machine.open(png(photo()))
    place = f"/api/sessions/{session}/objects/1/frames/0"
    points = json.dumps({"points": [[1, 1, 1]] * 2_000_000}).encode()
    kind = {"Content-Type": "application/json"}
    assert code(machine.client.put(place, content=points, headers=kind)) == (413, "too_large")
    pieces = (points[i : i + 65536] for i in range(0, len(points), 65536))  # without saying its length
    assert code(machine.client.put(place, content=pieces, headers=kind)) == (413, "too_large")


def test_a_form_of_another_site_is_no_json(machine: Machine) -> None:
    session = machine.open(png(photo()))
    answer = machine.client.post(
        f"/api/sessions/{session}/propagate", content=b'{"frame": 0}', headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 422

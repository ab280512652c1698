"""A server that lies: whatever it states, nothing is written outside the cache, and no body grows without end."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from hub_machine import Machine
from hub_stand_in import COMMIT, Fault, HubStandIn
from mlx_sam2.hub import HubError, guards

REPO = "someone/tuned"
WEIGHTS = "resolve/.*/model.safetensors$"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "home", hurry=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub")
    save_file({"x": np.arange(1000, dtype=np.float32)}, path / "model.safetensors")
    (path / "config.json").write_text("{}")
    return path


def outside(tmp_path: Path) -> list[str]:
    """What lies beside the cache, and above the repository within it."""
    hub = tmp_path / "home" / "hub"
    expected = {
        tmp_path / "home",
        hub,
        hub / ".locks",
        hub / "CACHEDIR.TAG",
        *hub.glob("models--*"),
        hub / "version.txt",
    }
    found = [p for folder in (tmp_path, tmp_path / "home", hub) if folder.is_dir() for p in folder.iterdir()]
    return sorted(str(p.relative_to(tmp_path)) for p in found if p not in expected)


NAMES = ["../../../../evil", "..", "../evil", "a/b", "/tmp/mlx_sam2_evil", "", "a\\b", ".hidden"]


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
@pytest.mark.parametrize("name", NAMES)
def test_an_etag_that_is_a_path(machine: Machine, small: Path, tmp_path: Path, header: str, name: str) -> None:
    """It becomes the name of a file of the cache, in huggingface_hub up to 2.4."""
    headers = {"ETag": '"abc"', "X-Repo-Commit": COMMIT, "X-Linked-Size": "9", header: f'"{name}"'}
    fault = Fault(f"HEAD .*{WEIGHTS}", 99, 200, headers)
    with HubStandIn({REPO: small}, faults=(fault,)) as endpoint:
        said = machine.resolve(endpoint, REPO)
    assert "as the name of a file's contents" in said
    assert "nothing was written" in said
    assert outside(tmp_path) == []
    assert not os.path.exists("/tmp/mlx_sam2_evil")
    assert [p for p in machine.home.rglob("model.safetensors") if p.is_file()] == []


def test_a_commit_of_what_is_absent(machine: Machine, small: Path, tmp_path: Path) -> None:
    """The client keeps an empty file that says so, below the commit."""
    fault = Fault(
        "HEAD .*model.safetensors", 99, 404, {"X-Repo-Commit": "../../../../evil", "X-Error-Code": "EntryNotFound"}
    )
    with HubStandIn({REPO: small}, faults=(fault,)) as endpoint:
        said = machine.resolve(endpoint, REPO)
    assert "or of a commit" in said
    assert outside(tmp_path) == []


def test_a_body_without_end(machine: Machine, small: Path) -> None:
    """50 MB after the 4 kB that were stated: they are not written first and measured afterwards."""
    patch = """
import huggingface_hub.file_download as download
plain = download.http_get
def watched(url, temp_file, **options):
    class Watched:
        def write(self, data):
            written = temp_file.write(data)
            assert temp_file.tell() < 10_000, "MORE WAS WRITTEN"
            return written
        def __getattr__(self, name):
            return getattr(temp_file, name)
    plain(url, Watched(), **options)
download.http_get = watched
"""
    stand_in = HubStandIn({REPO: small}, faults=(Fault(f"GET .*{WEIGHTS}", more=50 << 20),))
    machine.patch = patch
    with stand_in as endpoint:
        said, again = machine.ask(endpoint, ("resolve", REPO), ("resolve", REPO))
    size = (small / "model.safetensors").stat().st_size
    assert f"sends more than the {size} bytes that it stated" in said
    assert (Path(again) / "model.safetensors").read_bytes() == (small / "model.safetensors").read_bytes()
    assert machine.partial_downloads() == []


def test_a_body_whose_size_is_not_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    def endless(url: str, temp_file: Any, **options: Any) -> None:
        while True:
            temp_file.write(b"x" * 1000)

    monkeypatch.setattr(file_download, "http_get", endless)
    monkeypatch.setattr(guards, "UNSTATED", 10_000)
    body = io.BytesIO()
    with pytest.raises(HubError, match="for one file"), guards.guarded_client():
        file_download.http_get("https://hub.example/model.safetensors", body)
    assert len(body.getvalue()) == 10_000


def test_a_cache_that_leads_out(machine: Machine, small: Path, tmp_path: Path) -> None:
    with HubStandIn({REPO: small}) as endpoint:
        found = Path(machine.resolve(endpoint, REPO))
        blob = (found / "model.safetensors").resolve()
        blob.rename(tmp_path / "elsewhere")
        blob.symlink_to(tmp_path / "elsewhere")
        assert f"leads out of the cache, to {tmp_path / 'elsewhere'}" in machine.resolve(endpoint, REPO)


def test_a_cache_behind_a_link(tmp_path: Path, small: Path) -> None:
    """HF_HOME itself may be a link, as to a larger disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    with HubStandIn({REPO: small}) as endpoint:
        assert Machine(tmp_path / "home").resolve(endpoint, REPO).endswith(COMMIT)

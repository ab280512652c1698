"""Downloads that go wrong: every fault ends in files that are right, or in one line and nothing half-done."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from hub_machine import DEAD, TOKEN, Machine
from hub_stand_in import COMMIT, Fault, HubStandIn

REPO = "someone/tuned"
WEIGHTS = "resolve/.*/model.safetensors$"
CHUNK = 10 << 20  # what huggingface_hub writes at once; a connection that is cut loses what came after the last


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "home", hurry=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of two and a half chunks: the Hub's part of the code does not ask whether they are SAM 2's."""
    path = tmp_path_factory.mktemp("hub")
    save_file({"x": np.arange(25 * CHUNK // 40, dtype=np.float32)}, path / "model.safetensors")
    (path / "config.json").write_text("{}")
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub")
    save_file({"x": np.arange(1000, dtype=np.float32)}, path / "model.safetensors")
    (path / "config.json").write_text('{"model_type": "x"}')
    return path


def is_refused(machine: Machine, said: str) -> None:
    """One line, and nothing left that a later call could take for a model."""
    assert said.startswith("HubError: ")
    assert machine.partial_downloads() == []
    assert [p for p in machine.home.rglob("model.safetensors") if p.is_file()] == []


def same(found: str, folder: Path) -> bool:
    return all((Path(found) / p.name).read_bytes() == p.read_bytes() for p in folder.iterdir())


@pytest.mark.slow
def test_cut_off_half_way_and_resumed(machine: Machine, folder: Path) -> None:
    stand_in = HubStandIn({REPO: folder}, faults=(Fault(f"GET .*{WEIGHTS}", cut=CHUNK + CHUNK // 2),))
    with stand_in as endpoint:
        assert same(machine.resolve(endpoint, REPO), folder)
    assert stand_in.ranges == [f"bytes={CHUNK}-"]


def test_cut_off_every_time(machine: Machine, folder: Path) -> None:
    stand_in = HubStandIn({REPO: folder}, faults=(Fault(f"GET .*{WEIGHTS}", times=99, cut=1000),))
    with stand_in as endpoint:
        said = machine.resolve(endpoint, REPO)
        assert "the download of someone/tuned" in said
        assert "broke off" in said
        is_refused(machine, said)
        stand_in.faults.clear()
        assert same(machine.resolve(endpoint, REPO), folder)


def test_a_wrong_hash(machine: Machine, small: Path) -> None:
    """The right number of wrong bytes, in LFS weights (sha256) and in a small file (git's sha1)."""
    faults = (Fault(f"GET .*{WEIGHTS}", wrong=True), Fault("GET .*/config.json", wrong=True))
    stand_in = HubStandIn({REPO: small}, faults=faults)
    with stand_in as endpoint:
        weights, config, right = machine.ask(endpoint, *[("resolve", REPO)] * 3)
    assert "model.safetensors of someone/tuned arrived damaged" in weights
    assert "config.json of someone/tuned arrived damaged" in config
    assert "run the same again" in weights
    assert same(right, small)


def test_shards_come_whole_or_not_at_all(machine: Machine, tmp_path: Path) -> None:
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    for i, name in enumerate(names):
        save_file({f"x{i}": np.full(1000, i, np.float32)}, tmp_path / name)
    index = {"weight_map": {f"x{i}": name for i, name in enumerate(names)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text("{}")
    stand_in = HubStandIn({REPO: tmp_path}, faults=(Fault("GET .*model-00002", times=9, cut=100),))
    with stand_in as endpoint:
        assert "broke off" in machine.resolve(endpoint, REPO)
        stand_in.faults.clear()
        stand_in.requests.clear()
        found = Path(machine.resolve(endpoint, REPO))
    assert {p.name for p in found.iterdir()} == {*names, "config.json", "model.safetensors.index.json"}
    sent = [request.split("/")[-1] for request in stand_in.requests if request.startswith("GET")]
    assert [name for name in sent if name.endswith(".safetensors")] == names[1:], "what was there came again"


@pytest.mark.parametrize("what", ["HEAD .*/config.json", f"HEAD .*{WEIGHTS}", f"GET .*{WEIGHTS}"])
def test_an_error_that_passes(machine: Machine, small: Path, what: str) -> None:
    with HubStandIn({REPO: small}, faults=(Fault(what, status=500),)) as endpoint:
        assert same(machine.resolve(endpoint, REPO), small)
    assert sum(machine.slept) < 10


@pytest.mark.parametrize("what", ["HEAD .*/config.json", f"GET .*{WEIGHTS}"])
def test_a_limit_of_requests(machine: Machine, small: Path, what: str) -> None:
    """The Hub's own wait is kept to."""
    with HubStandIn({REPO: small}, faults=(Fault(what, status=429, headers={"Retry-After": "7"}),)) as endpoint:
        assert same(machine.resolve(endpoint, REPO), small)
    assert machine.slept in ((7.0,), (8.0,))  # the client adds a second


def test_errors_that_stay(machine: Machine, small: Path) -> None:
    faults = [Fault("/busy/", 99, 429, {"Retry-After": "3600"}), Fault("/down/", 99, 503)]
    with HubStandIn({REPO: small}, faults=tuple(faults)) as endpoint:
        busy, down = machine.ask(endpoint, ("resolve", "busy/model"), ("resolve", "down/model"))
    assert "limits requests (HTTP 429): run it again in 3600 s" in busy
    assert "fails at the moment (HTTP 503)" in down
    assert sum(machine.slept) < 10
    is_refused(machine, down)


def test_the_cache_serves_while_the_hub_fails(machine: Machine, small: Path) -> None:
    stand_in = HubStandIn({REPO: small})
    with stand_in as endpoint:
        found = machine.resolve(endpoint, REPO)
        for status in (401, 429, 500):
            stand_in.faults[:] = [Fault("", 99, status)]
            assert machine.resolve(endpoint, REPO) == found
            assert machine.slept == ()


def test_a_token_in_an_answer(machine: Machine, small: Path) -> None:
    """Machine.run looks for the token in all that is printed."""
    fault = Fault("", 99, 403, {"X-Error-Message": f"no access with Bearer {TOKEN}"})
    with HubStandIn({REPO: small}, faults=(fault,)) as endpoint:
        said = machine.resolve(endpoint, REPO, None, TOKEN)
        assert "refused access to someone/tuned (HTTP 403)" in said
        machine.ask(endpoint, ("resolve", REPO, None, TOKEN), HF_TOKEN=TOKEN)


@pytest.mark.slow
def test_on_a_terminal(machine: Machine, folder: Path) -> None:
    """Bars, and one line on a line of its own for however many retries."""
    fault = Fault(f"GET .*{WEIGHTS}", times=3, cut=1000)
    code = f"import time; time.sleep = abs; from mlx_sam2 import hub; hub.resolve({REPO!r})"
    with HubStandIn({REPO: folder}, faults=(fault,)) as endpoint:
        shown = machine.in_a_terminal(endpoint, code)
    assert shown.count("the connection to the Hub failed: trying again") == 1
    assert "\rthe connection to the Hub failed: trying again\r\n" in shown
    assert "100%|" in shown
    assert "RemoteProtocolError" not in shown


@pytest.mark.slow
def test_xet_storage_that_fails(tmp_path: Path, small: Path) -> None:
    """hf_xet, another protocol than the stand-in speaks, raises Python's own exceptions."""
    patch = """
import huggingface_hub.file_download as download
def fails(*_, **__):
    raise {error}
download.http_get = fails
"""
    with HubStandIn({REPO: small}) as endpoint:
        for error in ("RuntimeError('no route')", "ConnectionError('no route')"):
            machine = Machine(tmp_path / "home", patch=patch.replace("{error}", error))
            said = machine.ask(endpoint, ("resolve", REPO), HF_HUB_DISABLE_XET="0")[0]
            assert "broke off" in said
            assert said.endswith("if it fails again, HF_HUB_DISABLE_XET=1 takes the older way")
            assert "XET" not in machine.resolve(endpoint, REPO)


def test_an_endpoint_that_is_no_hub(machine: Machine, small: Path) -> None:
    with HubStandIn({REPO: small}, faults=(Fault("", 99, 200),)) as endpoint:
        assert f"{endpoint} does not answer as the Hub does: check HF_ENDPOINT" in machine.resolve(endpoint, REPO)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("HF_ENDPOINT", "http://localhost:99999", "cannot start (Port out of range"),
        pytest.param("HF_HUB_ETAG_TIMEOUT", "soon", "cannot start (invalid literal", marks=pytest.mark.slow),
        ("HF_TOKEN", "hf_ab\u00e9", "the Hub token holds characters that no token has"),
        pytest.param(
            *("HTTP_PROXY", "socks5://127.0.0.1:9", "cannot reach the Hub: Using SOCKS proxy"), marks=pytest.mark.slow
        ),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, variable: str, value: str, said: str) -> None:
    """A fresh process: the client reads them when it is imported."""
    if variable == "HTTP_PROXY":
        pytest.importorskip("httpx2", reason="which packages a proxy needs is a matter of the HTTP library")
    code = f"from mlx_sam2 import hub\ntry: hub.resolve({REPO!r})\nexcept hub.HubError as error: print(error)"
    done = Machine(tmp_path).run(DEAD, "-c", code, **{variable: value})
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert said in done.stdout


ODD_ANSWERS = {
    "a commit that leaves the cache": {"X-Repo-Commit": "../../../../evil", "ETag": '"abc"'},
    "a size of 10 PB": {"X-Repo-Commit": COMMIT, "ETag": '"abc"', "X-Linked-Size": "10000000000000000"},
}


@pytest.mark.parametrize("answer", ODD_ANSWERS)
def test_answers_that_make_no_sense(machine: Machine, small: Path, answer: str) -> None:
    fault = Fault(f"HEAD .*{WEIGHTS}", 99, 200, ODD_ANSWERS[answer])
    with HubStandIn({REPO: small}, faults=(fault,)) as endpoint:
        said = machine.resolve(endpoint, REPO)
    assert "broke off (" in said
    is_refused(machine, said)


def test_names_of_files_that_are_none(machine: Machine, small: Path, tmp_path: Path) -> None:
    """They are not looked at, and not shown on a terminal."""
    for name in ("\x1b[2J.safetensors", "..safetensors", "a.pt", "\n.pt"):
        (tmp_path / name).write_bytes(b"x")
    with HubStandIn({REPO: tmp_path}) as endpoint:
        assert machine.resolve(endpoint, REPO).endswith("/a.pt")


# ---- the disk


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs needs root; the stub's test covers the message")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk(tiny_disk: Path, folder: Path) -> None:
    machine = Machine(tiny_disk)
    with HubStandIn({REPO: folder}) as endpoint:
        said = machine.resolve(endpoint, REPO)
    assert "cannot download someone/tuned: no space left for " in said
    assert "HF_HOME" in said
    is_refused(machine, said)


STUB = """
import builtins, errno
import huggingface_hub.file_download as download
def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")
download.http_get = full
"""


def test_a_full_disk_by_a_stub(tmp_path: Path, small: Path) -> None:
    machine = Machine(tmp_path, patch=STUB)
    with HubStandIn({REPO: small}) as endpoint:
        said = machine.resolve(endpoint, REPO)
    assert "no space left for " in said
    is_refused(machine, said)


def test_a_cache_that_cannot_be_written(tmp_path: Path, small: Path) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    machine = Machine(tmp_path / "home")
    with HubStandIn({REPO: small}) as endpoint:
        said = machine.ask(endpoint, ("resolve", REPO), HF_HUB_CACHE=str(tmp_path / "file" / "hub"))[0]
        assert said.startswith("HubError: cannot download someone/tuned: Not a directory (")
        assert str(tmp_path / "file") in said
        said = Machine(tmp_path / "file").resolve(endpoint, REPO)
        assert said.startswith("HubError: cannot read the stored Hub token: Not a directory (")


# ---- what was damaged later


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "weights.pt"])
def test_a_file_of_the_cache_that_was_cut_off(tmp_path: Path, small: Path, name: str) -> None:
    """The line holds a command that repairs it."""
    folder = tmp_path / "repo"
    shutil.copytree(small, folder)
    if name == "weights.pt":
        shutil.rmtree(folder)
        folder.mkdir()
        shutil.copy(Path(__file__).parents[1] / "data" / "torch_saved.pt", folder / name)
    machine = Machine(tmp_path / "home")
    with HubStandIn({REPO: folder}) as endpoint:
        found = Path(machine.resolve(endpoint, REPO))
        file = found if found.is_file() else found / name
        size, half = file.stat().st_size, file.read_bytes()[: file.stat().st_size // 2]
        for broken in (b"", bytes(size)):  # the latter: after a power cut
            file.write_bytes(broken)
            assert f"is cut off or damaged ({len(broken)} bytes)" in machine.resolve(endpoint, REPO)
        file.write_bytes(half)
        for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
            said = machine.ask(endpoint, ("resolve", REPO), **environment)[0]
            assert f"{file} is cut off or damaged ({file.stat().st_size} bytes)" in said
        if name != "model.safetensors":  # one run of that command is enough
            return
        remedy = shlex.split(said.partition("fetch it again with ")[2])
        assert remedy[0] == "hf"
        hf = Path(sys.executable).with_name("hf")
        done = subprocess.run([hf, *remedy[1:]], env=machine.environment(endpoint), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert machine.resolve(endpoint, REPO) == str(found)
    assert file.read_bytes() == (folder / name).read_bytes()


def test_a_file_that_is_damaged_on_the_hub(machine: Machine, small: Path, tmp_path: Path) -> None:
    """Its hash is right, so fetching it again would not help."""
    (tmp_path / "model.safetensors").write_bytes((small / "model.safetensors").read_bytes()[:-9])
    with HubStandIn({REPO: tmp_path}) as endpoint:
        _, said = machine.ask(endpoint, ("resolve", REPO), ("resolve", REPO))
    assert "model.safetensors of someone/tuned is damaged on the Hub already" in said


def test_weights_under_another_name(machine: Machine, small: Path, tmp_path: Path) -> None:
    """A repository with one safetensors file, whatever it is called, is taken as a folder with one is."""
    (tmp_path / "sam2_tuned.safetensors").write_bytes(save({"x": np.zeros(3, np.float32)}))
    (tmp_path / "config.json").write_text("{}")
    with HubStandIn({REPO: tmp_path}) as endpoint:
        found = machine.resolve(endpoint, REPO)
    assert found.endswith(COMMIT)
    assert sorted(os.listdir(found)) == ["config.json", "sam2_tuned.safetensors"]


@pytest.mark.slow
def test_the_command_says_it_in_one_line(machine: Machine, small: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (20, 20)).save(tmp_path / "photo.png")
    with HubStandIn({REPO: small}, faults=(Fault(f"GET .*{WEIGHTS}", wrong=True),)) as endpoint:
        command = ["-m", "mlx_sam2.segment", "photo.png", "--point", "3,3", "--model", REPO]
        done = machine.run(endpoint, *command, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "arrived damaged" in done.stderr
    assert os.listdir(tmp_path) == ["photo.png"] or sorted(os.listdir(tmp_path)) == ["home", "photo.png"]

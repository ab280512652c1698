"""Folders to the Hub: the real huggingface_hub client sends, a stand-in receives, and what it got loads by name."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from checkpoint_files import write_torch, write_transformers
from hub_machine import DEAD, TOKEN, Machine
from hub_stand_in import COMMIT, Fault, HubStandIn, Repository
from mlx_sam2.checkpoint import loading
from mlx_sam2.hub import client, publish
from mlx_sam2.model.sam2 import SAM2
from synthetic import config_dict, nano_state

REPO = "me/nano"
WRITERS = {TOKEN: "me"}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "home", hurry=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Complete, and small: the upload asks what files say of themselves, not what model they are."""
    path = tmp_path_factory.mktemp("upload") / "nano"
    path.mkdir()
    save_file({"image_encoder.x": np.arange(5000, dtype=np.float32)}, path / "model.safetensors", {"format": "mlx"})
    (path / "config.json").write_text('{"model_type": "mlx_sam2", "trunk": {}}')
    (path / "README.md").write_text("---\nlibrary_name: mlx\n---\n")
    (path / ".DS_Store").write_text("stays here")
    (path / ".env").write_text("HF_TOKEN=secret")
    return path


def sent(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def arrived(stand_in: HubStandIn, repo: str = REPO, revision: str = "main") -> dict[str, bytes]:
    return {k: v for k, v in stand_in.files(repo, revision).items() if k != ".gitattributes"}


def puts(stand_in: HubStandIn) -> int:
    return sum(request.startswith("PUT") for request in stand_in.requests)


@pytest.mark.slow
def test_upload_and_load_by_name(machine: Machine, tmp_path: Path, nano_model: SAM2) -> None:
    """In parts, as files of gigabytes go. Another machine then loads the same numbers by the repository's name."""
    loading.save(nano_model, tmp_path / "nano")
    code = "import sys; from mlx_sam2.checkpoint.loading import load, save; save(load(sys.argv[1]), sys.argv[2])"
    stand_in = HubStandIn(writers=WRITERS, part_size=1 << 20)
    with stand_in as endpoint:
        assert machine.upload(endpoint, tmp_path / "nano", REPO) == f"{endpoint}/me/nano"
        assert arrived(stand_in) == sent(tmp_path / "nano")
        assert len(stand_in.received) > 5
        assert max(stand_in.received) == 1 << 20
        other = Machine(tmp_path / "other")
        done = other.run(endpoint, "-c", code, REPO, str(tmp_path / "again"))
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("nano", "again"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_hidden_files_stay_and_nothing_goes_twice(machine: Machine, folder: Path) -> None:
    stand_in = HubStandIn(writers=WRITERS)
    with stand_in as endpoint:
        again = ("upload", str(folder), REPO, {"token": TOKEN})
        assert machine.ask(endpoint, again, again) == [f"{endpoint}/me/nano"] * 2
        assert arrived(stand_in) == sent(folder)
        assert set(arrived(stand_in)) == {"README.md", "config.json", "model.safetensors"}
        assert puts(stand_in) == 1
        assert len(stand_in.repositories[REPO].commits) == 2, "all in one commit, and none for no change"


@pytest.mark.slow
def test_shards_and_what_was_there_before(machine: Machine, folder: Path, tmp_path: Path) -> None:
    """Weights that would be loaded instead of the new ones go; files that are not ours stay."""
    shards = write_transformers(tmp_path / "shards", nano_state(), config_dict(), shards=2)
    stand_in = HubStandIn(writers=WRITERS)
    stand_in.repositories[REPO] = Repository(
        {"notes.txt": b"mine", "other.safetensors": b"x", "model.safetensors": b"y"}
    )
    with stand_in as endpoint:
        machine.upload(endpoint, shards, REPO)
        assert arrived(stand_in) == {"notes.txt": b"mine", "other.safetensors": b"x", **sent(shards)}
        machine.upload(endpoint, folder, REPO)
        assert arrived(stand_in) == {"notes.txt": b"mine", "other.safetensors": b"x", **sent(folder)}


def test_a_branch(machine: Machine, folder: Path) -> None:
    stand_in = HubStandIn(writers=WRITERS)
    with stand_in as endpoint:
        call = ("upload", str(folder), REPO, {"token": TOKEN, "revision": "try"})
        assert machine.ask(endpoint, call, call)[1] == f"{endpoint}/me/nano/tree/try"
        assert arrived(stand_in, revision="try") == sent(folder)
        assert arrived(stand_in) == {}
        assert machine.resolve(endpoint, REPO, "try").endswith(stand_in.repositories[REPO].branches["try"])


@pytest.mark.slow
def test_private(machine: Machine, folder: Path, tmp_path: Path) -> None:
    stand_in = HubStandIn(writers=WRITERS)
    with stand_in as endpoint:
        assert machine.upload(endpoint, folder, REPO, private=True).startswith("http")
        assert stand_in.repositories[REPO].private
        other = Machine(tmp_path / "other")
        anonymous, owner = other.ask(endpoint, ("resolve", REPO), ("resolve", REPO, None, TOKEN))
        assert "no Hub repository me/nano that you may see" in anonymous
        assert same_files(Path(owner), folder)
        machine.upload(endpoint, folder, "me/open")
        puts_before = puts(stand_in)
        said = machine.upload(endpoint, folder, "me/open", private=True)
        assert "me/open exists and is public" in said
        assert puts(stand_in) == puts_before


def same_files(found: Path, folder: Path) -> bool:
    return all((found / name).read_bytes() == data for name, data in sent(folder).items() if name != "README.md")


def test_the_stored_token_is_used(machine: Machine, folder: Path) -> None:
    with HubStandIn(writers=WRITERS) as endpoint:
        said = machine.ask(endpoint, ("upload", str(folder), REPO))[0]
        assert "needs a Hub token with write access: run hf auth login" in said
        assert machine.ask(endpoint, ("upload", str(folder), REPO), HF_TOKEN=TOKEN) == [f"{endpoint}/me/nano"]


# ---- refusals


def test_refusals_of_the_hub(machine: Machine, folder: Path) -> None:
    faults = [Fault("lost", 99, 404, {"X-Error-Message": f"not for Bearer {TOKEN}\nsecond line"})]
    faults += [Fault("POST .*/batch", 1, 403, {"X-Error-Message": "Private storage limit reached"})]
    stand_in = HubStandIn(writers={TOKEN: "me", "hf_otherotherother": "you"}, faults=tuple(faults))
    up = ("upload", str(folder))
    with stand_in as endpoint:
        wrong, owner, full, _ = machine.ask(
            endpoint,
            (*up, REPO, {"token": "hf_wrongwrongwrong"}),
            (*up, "you/nano", {"token": TOKEN}),
            (*up, REPO, {"token": TOKEN}),
            (*up, REPO, {"token": TOKEN}),
        )
        assert arrived(stand_in) == sent(folder)
    assert "the Hub does not accept the token (HTTP 401): run hf auth login" in wrong
    assert "may not write to you/nano (HTTP 403" in owner
    assert "rights to create a model under the namespace you" in owner
    assert "HTTP 403, Private storage limit reached" in full
    assert "hf_wrong" not in wrong


def test_a_token_in_an_answer(machine: Machine, folder: Path) -> None:
    """Machine.run looks for the token in all that is printed."""
    answers = [
        Fault("create", 1, status, {"X-Error-Message": f"no: Bearer {TOKEN}"}) for status in (400, 403, 404, 418)
    ]
    with HubStandIn(writers=WRITERS, faults=tuple(answers)) as endpoint:
        lines = machine.ask(endpoint, *[("upload", str(folder), REPO, {"token": TOKEN})] * 4)
    for status, said in zip((400, 403, 404, 418), lines, strict=True):
        assert f"HTTP {status}, no: Bearer <token>" in said


def test_a_card_that_the_hub_does_not_take(machine: Machine, folder: Path) -> None:
    answer = b'{"errors": [{"message": "license is no licence"}], "warnings": []}'
    with HubStandIn(writers=WRITERS, faults=(Fault("validate-yaml", status=400, body=answer),)) as endpoint:
        said = machine.upload(endpoint, folder, REPO)
    assert "refused the upload to me/nano (HTTP 400, Invalid metadata in README.md. - license is no licence" in said


def test_a_password_in_the_address_is_not_shown(machine: Machine, folder: Path) -> None:
    address = DEAD.replace("//", "//user:password@")
    for said in machine.ask(address, ("upload", str(folder), REPO, {"token": TOKEN}), ("resolve", "tiny")):
        assert "password" not in said
        assert DEAD in said


def test_tokens_never_stand_in_a_line() -> None:
    line = client.redacted(f"asked with {TOKEN}, plain-secret and\nAuthorization: Bearer abc.def", ("plain-secret",))
    assert line == "asked with <token>, <token> and Authorization: Bearer <token>"
    assert client.redacted("install hf_xet or hf_transfer") == "install hf_xet or hf_transfer"


def test_errors_of_sockets_are_none_of_the_disk() -> None:
    from huggingface_hub.errors import HfHubHTTPError

    error = HfHubHTTPError.__bases__[0]("no address")
    error.__cause__ = socket.gaierror(-2, "Name or service not known")
    assert client.explain_machine(error) is None
    error = RuntimeError("a thread failed")
    error.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert "no space left" in str(client.explain_machine(error))


def test_no_network(machine: Machine, folder: Path) -> None:
    said = machine.upload(DEAD, folder, REPO)
    assert f"the upload to me/nano at {DEAD} broke off (ConnectError)" in said
    said = machine.ask(DEAD, ("upload", str(folder), REPO, {"token": TOKEN}), HF_HUB_OFFLINE="1")[0]
    assert "HF_HUB_OFFLINE keeps the network off" in said


@pytest.mark.parametrize("name", ["nano", "me/nano/x", "me/na no", "", "../nano", "me/", "/nano", "me/--", "me/a..b"])
def test_bad_names(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(client.HubError, match="no name of a Hub repository") as caught:
        publish.upload(folder, name, token=TOKEN)
    assert "\n" not in str(caught.value)


def test_an_incomplete_folder_is_not_sent(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", DEAD)

    def refusal(path: Path) -> str:
        with pytest.raises(client.HubError) as caught:
            publish.upload(path, REPO, token=TOKEN)
        return str(caught.value)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    assert "there is no such folder" in refusal(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "is no model folder" in refusal(tmp_path / "empty")
    (copy("bare") / "config.json").unlink()
    assert "is not complete: it has no config.json" in refusal(tmp_path / "bare")
    os.truncate(copy("cut") / "model.safetensors", 5000)
    assert "is not complete: " in refusal(tmp_path / "cut")
    (copy("half") / "config.json").write_text('{"model_type"')
    assert "is not valid JSON" in refusal(tmp_path / "half")
    (copy("begun") / "model.safetensors").rename(tmp_path / "begun" / "model.safetensors.unfinished")
    assert "is no model folder" in refusal(tmp_path / "begun")
    shards = write_transformers(tmp_path / "shards", nano_state(), config_dict(), shards=3)
    (shards / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors of its index is absent" in refusal(shards)
    write_torch(tmp_path / "empty" / "x.pt", {"a": np.zeros(1000, np.float32)})
    os.truncate(tmp_path / "empty" / "x.pt", 3000)
    assert "is not complete: " in refusal(tmp_path / "empty")


# ---- interruptions


@pytest.mark.parametrize("what", ["POST /api/repos/create", "POST .*/preupload/", "PUT ", "POST .*/commit/"])
def test_an_error_that_passes(machine: Machine, folder: Path, what: str) -> None:
    stand_in = HubStandIn(writers=WRITERS, faults=(Fault(what, status=500),))
    with stand_in as endpoint:
        assert machine.upload(endpoint, folder, REPO) == f"{endpoint}/me/nano"
        assert arrived(stand_in) == sent(folder)
    assert 0 < sum(machine.slept) < 10


def test_limits_of_requests(machine: Machine, folder: Path) -> None:
    faults = [Fault("create", 1, 429, {"Retry-After": "7"})]
    stand_in = HubStandIn(writers=WRITERS, faults=tuple(faults))
    with stand_in as endpoint:
        assert machine.upload(endpoint, folder, REPO) == f"{endpoint}/me/nano"
        assert machine.slept == (7.0,)
        stand_in.faults[:] = [Fault("create", 99, 429, {"Retry-After": "3600"})]
        said = machine.upload(endpoint, folder, REPO)
        assert "limits requests (HTTP 429): run it again in 3600 s" in said
        assert machine.slept == ()
        stand_in.faults[:] = [Fault("", 99, 502)]
        assert "the Hub fails at the moment (HTTP 502)" in machine.upload(endpoint, folder, REPO)


def test_cut_off_and_sent_again(machine: Machine, tmp_path: Path) -> None:
    """Two shards; the connection breaks in the second until the client gives up. What arrived is not sent again."""
    folder = write_transformers(tmp_path / "shards", nano_state(), config_dict(), shards=2)
    hashes = {name: digest(folder / name) for name in sent(folder) if name.endswith(".safetensors")}
    second = hashes["model-00002-of-00002.safetensors"]
    stand_in = HubStandIn(writers=WRITERS, faults=(Fault(f"PUT .*{second}", times=99, cut=100_000),))
    with stand_in as endpoint:
        said = machine.upload(endpoint, folder, REPO)
        assert said.startswith("HubError: the upload to me/nano")
        assert "what arrived is kept" in said
        assert arrived(stand_in) == {}, "half an upload can be loaded"
        stand_in.faults.clear()
        stand_in.requests.clear()
        assert machine.upload(endpoint, folder, REPO) == f"{endpoint}/me/nano"
        assert [r for r in stand_in.requests if r.startswith("PUT")] == [f"PUT /lfs/put/{second}"]
        assert arrived(stand_in) == sent(folder)


def digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_killed_and_sent_again(machine: Machine, folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of a PUT, then the same call."""
    fault = Fault("PUT ", hold=threading.Event())
    stand_in = HubStandIn(writers=WRITERS, faults=(fault,))
    code = "import sys; from mlx_sam2 import hub; hub.upload(sys.argv[1], sys.argv[2])"
    with stand_in as endpoint:
        environment = machine.environment(endpoint, HF_TOKEN=TOKEN)
        process = subprocess.Popen([sys.executable, "-c", code, str(folder), REPO], env=environment)
        assert fault.reached.wait(60)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        fault.hold.set()
        assert arrived(stand_in) == {}
        assert "holds no SAM 2 checkpoint" in machine.resolve(endpoint, REPO)
        assert machine.upload(endpoint, folder, REPO) == f"{endpoint}/me/nano"
        assert arrived(stand_in) == sent(folder)
        assert machine.resolve(endpoint, REPO).endswith(stand_in.repositories[REPO].branches["main"])
        assert stand_in.repositories[REPO].branches["main"] != COMMIT

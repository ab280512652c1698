"""Convert, publish, load by name: the commands as a user runs them, against the stand-in Hub."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from checkpoint_files import transformers_config, write_transformers
from hub_machine import TOKEN, Machine
from hub_stand_in import COMMIT, Fault, HubStandIn
from synthetic import nano_state, picture

SOURCE, REPO = "someone/tuned", "me/tuned-fp16"
CONVERT = ("-m", "mlx_sam2.convert")


@dataclass
class Published:
    """A conversion that arrived."""

    stand_in: HubStandIn
    endpoint: str
    folder: Path
    said: str


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = transformers_config()
    return write_transformers(tmp_path_factory.mktemp("source") / "repo", nano_state(), values)


@pytest.fixture
def hub(source: Path) -> HubStandIn:
    return HubStandIn({SOURCE: source}, writers={TOKEN: "me"})


@pytest.fixture(scope="module")
def published(source: Path, tmp_path_factory: pytest.TempPathFactory):
    """Converted from the Hub and sent back on one machine; the stand-in goes on for others."""
    path = tmp_path_factory.mktemp("maker")
    stand_in = HubStandIn({SOURCE: source}, writers={TOKEN: "me"}, part_size=1 << 20)
    with stand_in as endpoint:
        command = ("--hf-path", SOURCE, "--upload-repo", REPO)
        done = Machine(path / "home").run(endpoint, *CONVERT, *command, cwd=path, HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        yield Published(stand_in, endpoint, path / "tuned-fp16", done.stdout)


def photo(folder: Path) -> Path:
    Image.fromarray(picture(240, 320)).save(folder / "photo.jpg", quality=95)
    return folder / "photo.jpg"


@pytest.mark.slow
def test_what_was_sent_is_what_was_written(published: Published) -> None:
    assert f"sent to {published.endpoint}/{REPO}" in published.said
    arrived = {k: v for k, v in published.stand_in.files(REPO).items() if k != ".gitattributes"}
    assert arrived == {p.name: p.read_bytes() for p in published.folder.iterdir()}
    values = json.loads(arrived["config.json"])
    assert values["mlx_sam2"]["source"]["name"] == SOURCE
    assert values["mlx_sam2"]["source"]["revision"] == COMMIT
    assert len(published.stand_in.repositories[REPO].commits) == 2


@pytest.mark.slow
def test_segment_by_name(published: Published, tmp_path: Path) -> None:
    """Another machine gets the masks of the folder that was sent, bit for bit."""
    photo(tmp_path)
    machine, masks = Machine(tmp_path / "home"), []
    for model in (REPO, str(published.folder)):
        command = ["-m", "mlx_sam2.segment", "photo.jpg", "--point", "160,120", "--model", model, "--output", "m.png"]
        done = machine.run(published.endpoint, *command, "--overwrite", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        masks.append(np.asarray(Image.open(tmp_path / "m.png")))
    np.testing.assert_array_equal(*masks)
    assert 0 < np.mean(masks[0] > 0) < 1


@pytest.mark.slow
def test_the_card_as_it_is_pasted(published: Published, tmp_path: Path) -> None:
    """The snippet and the first command of the model card that the Hub shows."""
    card = published.stand_in.files(REPO)["README.md"].decode()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert REPO in snippet
    machine = Machine(tmp_path / "home")
    done = machine.run(published.endpoint, "-c", snippet, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "mask.png").size == (640, 480)
    Image.open(tmp_path / "mask.png").convert("RGB").save(tmp_path / "photo.jpg")
    command = next(line for line in card.splitlines() if line.startswith("    python -m mlx_sam2.segment"))
    done = machine.run(published.endpoint, *shlex.split(command)[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "photo_mask.png").is_file()


@pytest.mark.slow
def test_the_front_matter_is_true(published: Published) -> None:
    yaml = pytest.importorskip("yaml")
    card = published.stand_in.files(REPO)["README.md"].decode()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "mlx"
    assert front["pipeline_tag"] == "mask-generation"
    assert front["license"] == "apache-2.0"


@pytest.mark.slow
def test_verify_by_name(published: Published, tmp_path: Path) -> None:
    command = (*CONVERT, "--verify", REPO, "--hf-path", SOURCE)
    done = Machine(tmp_path / "home").run(published.endpoint, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "every tensor is what converting" in done.stdout
    weights = published.stand_in.files(REPO)["model.safetensors"]
    broken = dict(published.stand_in.files(REPO), **{"model.safetensors": weights[:-1] + bytes([weights[-1] ^ 1])})
    repository = published.stand_in.repositories[REPO]
    repository.branches["broken"] = repository.branches["main"]
    repository.commit("broken", broken)
    command = (*CONVERT, "--verify", REPO, "--revision", "broken")
    done = Machine(tmp_path / "home").run(published.endpoint, *command, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "model.safetensors is damaged or was changed" in done.stderr


@pytest.mark.slow
def test_a_dry_run_sends_nothing(hub: HubStandIn, tmp_path: Path) -> None:
    command = (*CONVERT, "--hf-path", SOURCE, "--upload-repo", REPO, "--dry-run")
    with hub as endpoint:
        done = Machine(tmp_path / "home").run(endpoint, *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"to the repository {REPO}" in done.stdout
    assert {request.split()[0] for request in hub.requests} <= {"GET", "HEAD"}
    assert [p.name for p in tmp_path.iterdir()] == ["home"]


def again(line: str) -> list[str]:
    """The command that a failed upload proposes."""
    return shlex.split(line.partition("send it again with: ")[2])[1:]


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault("PUT ", 99, cut=100_000), Fault("PUT ", 99, status=403)], ids=["cut", "403"])
def test_an_upload_that_broke_off_is_sent_again(hub: HubStandIn, tmp_path: Path, fault: Fault) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "sitecustomize.py").write_text("import time\ntime.sleep = abs\n")  # between the client's tries
    python_path = os.pathsep.join(filter(None, (str(tmp_path / "lib"), os.environ.get("PYTHONPATH"))))
    settings = {"HF_TOKEN": TOKEN, "PYTHONPATH": python_path}
    hub.faults.append(fault)
    command = (*CONVERT, "--hf-path", SOURCE, "--upload-repo", REPO, "--private")
    with hub as endpoint:
        machine = Machine(tmp_path / "home")
        done = machine.run(endpoint, *command, cwd=tmp_path, **settings)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1, done.stderr
        assert ("broke off" if fault.cut else "HTTP 403") in done.stderr
        assert "model.safetensors" not in hub.files(REPO)
        hub.faults.clear()
        done = machine.run(endpoint, *again(done.stderr), cwd=tmp_path, **settings)
        assert done.returncode == 0, done.stderr
    assert hub.repositories[REPO].private
    assert "model.safetensors" in hub.files(REPO)


@pytest.mark.slow
def test_a_converter_that_was_killed_while_it_sent(hub: HubStandIn, tmp_path: Path) -> None:
    fault = Fault("PUT ", hold=threading.Event())
    hub.faults.append(fault)
    machine = Machine(tmp_path / "home")
    with hub as endpoint:
        environment = machine.environment(endpoint, HF_TOKEN=TOKEN)
        command = [sys.executable, *CONVERT, "--hf-path", SOURCE, "--upload-repo", REPO]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
        assert fault.reached.wait(120)
        process.send_signal(signal.SIGKILL)
        process.wait()
        fault.hold.set()
        assert "model.safetensors" not in hub.files(REPO)
        command = (*CONVERT, "--mlx-path", "tuned-fp16", "--upload-repo", REPO)
        done = machine.run(endpoint, *command, cwd=tmp_path, HF_TOKEN=TOKEN)
        assert done.returncode == 0, done.stderr
        assert "model.safetensors" in hub.files(REPO)


@pytest.mark.slow
def test_a_source_that_does_not_come(hub: HubStandIn, tmp_path: Path) -> None:
    hub.faults.append(Fault("GET .*/model.safetensors", wrong=True))
    with hub as endpoint:
        done = Machine(tmp_path / "home").run(endpoint, *CONVERT, "--hf-path", SOURCE, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "arrived damaged" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["home"]

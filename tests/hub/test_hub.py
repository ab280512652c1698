"""Names to files: the real huggingface_hub client, in its own process, against a stand-in for the Hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoint_files import write_torch, write_transformers
from hub_machine import DEAD, TOKEN, Machine
from hub_stand_in import COMMIT, Fault, HubStandIn
from mlx_sam2.config.published import PUBLISHED, published
from mlx_sam2.hub import download
from synthetic import config_dict, nano_state

TINY = "facebook/sam2.1-hiera-tiny"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "home")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transformers(tmp_path_factory.mktemp("hub") / "repo", nano_state(), config_dict())


@pytest.fixture(scope="module")
def torch_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub")
    write_torch(path / "sam2.1_hiera_tiny.pt", nano_state())
    return path


@pytest.mark.slow
def test_download_then_offline(machine: Machine, folder: Path) -> None:
    """Downloaded once; found again in offline mode, with the server gone, and under the short name."""
    stand_in = HubStandIn({TINY: folder})
    with stand_in as endpoint:
        first = machine.resolve(endpoint, TINY)
        assert first.endswith(f"snapshots/{COMMIT}")
        for name in ("config.json", "model.safetensors"):
            assert (Path(first) / name).read_bytes() == (folder / name).read_bytes()
        asked = len(stand_in.requests)
        assert machine.resolve(endpoint, "tiny", HF_HUB_OFFLINE="1") == first
        assert len(stand_in.requests) == asked, "offline mode asked the Hub"
        fetched = machine.ask(endpoint, ("resolve", TINY, COMMIT), ("fetch", TINY), ("fetch", str(folder)))
        assert fetched[0] == first
        assert fetched[1] == repr(download.Fetched(Path(first), TINY, COMMIT))
        assert fetched[2] == repr(download.Fetched(folder))
    assert machine.resolve(DEAD, TINY) == first
    assert machine.resolve(DEAD, "sam2.1_hiera_tiny", HF_HUB_OFFLINE="1") == first


@pytest.mark.slow
def test_the_official_file_when_there_is_no_other(machine: Machine, torch_folder: Path) -> None:
    with HubStandIn({TINY: torch_folder}) as endpoint:
        first = machine.resolve(endpoint, "tiny")
        assert Path(first).read_bytes() == (torch_folder / "sam2.1_hiera_tiny.pt").read_bytes()
    assert machine.resolve(DEAD, "tiny") == first
    assert machine.resolve(DEAD, "tiny", HF_HUB_OFFLINE="1") == first


def test_shards_of_another_repository(machine: Machine, tmp_path: Path) -> None:
    folder = write_transformers(tmp_path / "repo", nano_state(), config_dict(), shards=3)
    with HubStandIn({"someone/tuned": folder}) as endpoint:
        found = Path(machine.resolve(endpoint, "someone/tuned"))
    assert {p.name for p in found.iterdir()} == {p.name for p in folder.iterdir()}
    assert machine.resolve(DEAD, "someone/tuned") == str(found)


def test_a_single_torch_file_of_another_repository(machine: Machine, torch_folder: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.pt", "b.pth", "notes.txt"):
        (two / name).write_bytes(b"x")
    with HubStandIn({"someone/tuned": torch_folder, "someone/two": two, "someone/data": tmp_path}) as endpoint:
        found, said, nothing = machine.ask(
            endpoint, ("resolve", "someone/tuned"), ("resolve", "someone/two"), ("resolve", "someone/data")
        )
        assert found.endswith("sam2.1_hiera_tiny.pt")
        assert said.startswith("HubError: ")
        assert "a.pt, b.pth" in said
        assert "holds no SAM 2 checkpoint" in nothing
    assert machine.resolve(DEAD, "someone/tuned") == found
    assert machine.resolve(DEAD, "someone/tuned", HF_HUB_OFFLINE="1") == found


def test_a_torch_file_that_is_none(machine: Machine, folder: Path, tmp_path: Path) -> None:
    """What a file is shows when it is read; here only that it is whole."""
    (tmp_path / "x.pt").write_bytes((folder / "model.safetensors").read_bytes())
    with HubStandIn({"someone/tuned": tmp_path}) as endpoint:
        first, second = machine.ask(endpoint, *[("resolve", "someone/tuned")] * 2)
    assert first.endswith("x.pt")
    assert second == first


def test_no_network_and_no_cache(machine: Machine) -> None:
    names = [("resolve", "tiny"), ("resolve", "someone/tuned")]
    for said in machine.ask(DEAD, *names):
        assert "could not be reached" in said
        assert "connect once" in said
        assert "a local folder or file instead" in said
    assert "could not be reached (ConnectError)" in machine.resolve("http://no-such-host.invalid", "tiny")
    for said in machine.ask(DEAD, *names, HF_HUB_OFFLINE="1"):
        assert "HF_HUB_OFFLINE" in said
        assert "a local folder or file instead" in said


def test_without_standard_error(machine: Machine, folder: Path) -> None:
    """As in a program without a console."""
    machine.patch = "sys.stderr = None"
    with HubStandIn({TINY: folder}, faults=(Fault("HEAD .*/config.json", status=500),)) as endpoint:
        assert machine.resolve(endpoint, TINY).endswith(COMMIT)


def test_half_a_download_is_not_used(machine: Machine, folder: Path, tmp_path: Path) -> None:
    """Weights whose config.json never arrived would be taken for something else."""
    with HubStandIn({"someone/tuned": folder}) as endpoint:
        found = Path(machine.resolve(endpoint, "someone/tuned"))
    (found / "config.json").unlink()
    assert "is not in the local cache" in machine.resolve(DEAD, "someone/tuned")


def test_weights_without_a_configuration(machine: Machine, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with HubStandIn({"someone/bare": tmp_path / "bare"}) as endpoint:
        found = machine.resolve(endpoint, "someone/bare")
    assert machine.resolve(DEAD, "someone/bare") == found


def test_refusals(machine: Machine, folder: Path) -> None:
    stand_in = HubStandIn({TINY: folder, "someone/secret": folder}, {"someone/secret": TOKEN}, gated=("someone/gated",))
    with stand_in as endpoint:
        typo, gated, revision, wrong, stored, right = machine.ask(
            endpoint,
            ("resolve", "someone/typo"),
            ("resolve", "someone/gated"),
            ("resolve", TINY, "v9"),
            ("resolve", "someone/secret", None, "hf_wrongwrongwrong"),
            ("resolve", "someone/secret", None, True),
            ("resolve", "someone/secret", None, TOKEN),
        )
        assert "no Hub repository someone/typo" in typo
        assert "someone/gated is gated" in gated
        assert "has no revision 'v9'" in revision
        assert "refused access to someone/secret (HTTP 401)" in wrong
        assert "there is none: run hf auth login" in stored
        assert right.endswith(COMMIT)


def test_a_hostile_index(machine: Machine, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../../../../escape.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with HubStandIn({"someone/tuned": tmp_path}) as endpoint:
        assert "escape.safetensors' is no safetensors file" in machine.resolve(endpoint, "someone/tuned")


# ---- names, without a network


def test_names_of_the_published_models() -> None:
    for name, model in PUBLISHED.items():
        for alias in (name, model.repo_id, model.short_name, model.short_name.replace("_", "-")):
            assert published(alias) is model, alias
    assert published("huge") is None


def test_names_of_ultralytics() -> None:
    for version, prefix in (("sam2.1", "sam2.1_hiera"), ("sam2", "sam2_hiera")):
        for letter, size in (("t", "tiny"), ("s", "small"), ("b", "base_plus"), ("l", "large")):
            for alias in (f"{version}_{letter}.pt", f"{version}_{letter}"):
                assert published(alias) is PUBLISHED[f"{prefix}_{size}"], alias
    for wrong in ("sam_b.pt", "sam2.2_t.pt", "sam2_t.pth", "runs/sam2_t.pt", "mobile_sam.pt"):
        assert published(wrong) is None, wrong


def test_a_missing_file_of_a_published_model() -> None:
    with pytest.raises(
        download.HubError, match=r"no such file or folder: checkpoints/sam2.1_hiera_small.pt; the pub.* small"
    ):
        download.resolve("checkpoints/sam2.1_hiera_small.pt")


def test_a_local_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (TINY, "tiny"):
        Path(name).mkdir(parents=True)
        assert download.resolve(name) == Path(name)
    with pytest.raises(download.HubError, match="local path"):
        download.resolve("tiny", revision="main")


@pytest.mark.parametrize(
    "text",
    [
        "./model",
        "../model",
        "~/no/such",
        "/no/such",
        "a/b/c",
        "weights.pt",
        "runs/weights.safetensors",
        "runs/",
        "~nobody/x",
    ],
)
def test_a_missing_path_is_not_asked_of_the_hub(text: str) -> None:
    with pytest.raises(download.HubError, match="no such file or folder"):
        download.resolve(text)


@pytest.mark.parametrize("text", ["huge", "owner name/x", "a/b?c", "", "x" * 5000, "a\0b"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(download.HubError, match="no model is called"):
        download.resolve(text)


@pytest.mark.slow
def test_a_download_says_how_far_it_is(machine: Machine, folder: Path) -> None:
    code = (
        "from mlx_sam2.hub.progress import watched\nfrom mlx_sam2.hub.download import fetch\nsaid = []\n"
        f"with watched(lambda done, total: said.append((done, total))):\n    fetch({TINY!r})\n"
        "print([total for done, total in said if done == total], all(done <= total for done, total in said))"
    )
    with HubStandIn({TINY: folder}) as endpoint:
        done = machine.run(endpoint, "-c", code)
    sizes = [(folder / name).stat().st_size for name in ("model.safetensors", "config.json")]
    assert done.stdout.strip() == f"{sizes} True"

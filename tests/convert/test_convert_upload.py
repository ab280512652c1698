"""From the Hub to the Hub: the command converts, publishes and verifies against a stand-in, and what it sent loads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from checkpoint_files import write_transformers
from hub_machine import DEAD, TOKEN, Machine
from hub_stand_in import COMMIT, Fault, HubStandIn
from synthetic import config_dict, nano_state

pytestmark = pytest.mark.slow  # many processes
ROOT = Path(__file__).parents[2]


class Desk:
    """A working directory on a machine of its own."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint, self.machine = folder, endpoint, Machine(folder / "home")

    def run(self, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        ours = {"MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT), **environment}
        return self.machine.run(self.endpoint, *map(str, args), cwd=self.folder, **ours)

    def convert(self, *args: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("-m", "mlx_sam2.convert", *args, **environment)

    def done(self, *args: object, **environment: str) -> str:
        ran = self.convert(*args, **environment)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        return ran.stdout


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transformers(tmp_path_factory.mktemp("hub") / "tuned", nano_state(), config_dict())


def test_from_the_hub_to_the_hub(tuned: Path, tmp_path: Path) -> None:
    stand_in = HubStandIn({"someone/tuned": tuned}, writers={TOKEN: "me"})
    with stand_in as endpoint:
        machine = Desk(tmp_path, endpoint)
        said = machine.done("--hf-path", "someone/tuned", "-q", "--upload-repo", "me/tuned-8bit", HF_TOKEN=TOKEN)
        assert f"sent to {endpoint}/me/tuned-8bit" in said
        files = {k: v for k, v in stand_in.files("me/tuned-8bit").items() if k != ".gitattributes"}
        assert files == {p.name: p.read_bytes() for p in (tmp_path / "tuned-8bit").iterdir()}
        card = files["README.md"].decode()
        assert "base_model: someone/tuned\nbase_model_relation: quantized\n" in card
        assert f"revision `{COMMIT}`" in card

        snippet = card.split("```python\n")[1].split("```")[0]  # on another machine, by name
        other = Desk(tmp_path / "other", endpoint)
        other.folder.mkdir()
        ran = other.run("-c", snippet)
        assert ran.returncode == 0, ran.stderr
        assert (other.folder / "mask.png").stat().st_size > 100

        # that machine has the repository in its cache, and not the source; this one has the source
        assert "someone/tuned, is not at hand" in other.done("--verify", "me/tuned-8bit")
        assert "every tensor is what converting" in machine.done("--verify", "tuned-8bit", HF_HUB_OFFLINE="1")
        assert "every tensor is what converting" in other.done(
            "--verify", "me/tuned-8bit", "--hf-path", "someone/tuned"
        )
        again = machine.convert("--hf-path", "me/tuned-8bit", "--mlx-path", "x")
        assert again.returncode == 2
        assert "convert what it was made from, someone/tuned" in again.stderr
        machine.done("--hf-path", "me/tuned-8bit", "--to", "transformers", "--mlx-path", "back")


ALL = """
import sys
from mlx_sam2.config import published
from mlx_sam2.convert import command
from synthetic import nano_config
name = "someone/tuned"
published.PUBLISHED.clear()
published.PUBLISHED["tuned"] = published.PublishedModel("tuned", "tuned", name, nano_config())
sys.exit(command.main(sys.argv[1:]))
"""


def test_all_models_to_the_hub(tuned: Path, tmp_path: Path) -> None:
    """With one model in the place of those that were published: three copies, their cards, one collection."""
    stand_in = HubStandIn({"someone/tuned": tuned}, writers={TOKEN: "me"})
    with stand_in as endpoint:
        machine = Desk(tmp_path, endpoint)
        paths = f"{ROOT}:{ROOT / 'tests' / 'support'}"
        said = machine.run("-c", ALL, "--all", "--upload-org", "me", "--dry-run", PYTHONPATH=paths)
        assert said.returncode == 0, said.stderr
        assert "would send 3 models" in said.stdout and not list(tmp_path.glob("tuned-*"))
        done = machine.run("-c", ALL, "--all", "--upload-org", "me", HF_TOKEN=TOKEN, PYTHONPATH=paths)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        names = [f"me/tuned-{precision}" for precision in ("fp16", "8bit", "mixed")]
        assert stand_in.collections == {"me/sam-2-for-mlx": names}
        assert f"they are gathered in {endpoint}/collections/me/sam-2-for-mlx" in done.stdout
        for name in names:
            files = stand_in.files(name)
            text = files["README.md"].decode()
            assert "library_name: mlx" in text and "base_model: someone/tuned" in text
            assert "Against its source, both computed in float32: smallest IoU of a click's masks" in text
            stated = next(line for line in said.stdout.splitlines() if f"{name}," in line)
            size = int(stated.split(" bytes")[0].replace(",", ""))
            assert abs(len(files["model.safetensors"]) - size) < 100_000  # its header
        again = machine.run("-c", ALL, "--all", "--upload-org", "me", HF_TOKEN=TOKEN, PYTHONPATH=paths)
        assert again.returncode == 0, again.stderr


def test_an_upload_that_fails_goes_on(tuned: Path, tmp_path: Path) -> None:
    """The folder stays; the line that says why also says how to send it, and the card then bears the new name."""
    stand_in = HubStandIn(writers={TOKEN: "me"}, faults=(Fault("/preupload", times=99, status=403),))
    with stand_in as endpoint:
        machine = Desk(tmp_path, endpoint)
        ran = machine.convert("--hf-path", tuned, "--upload-repo", "me/tuned", "--private", HF_TOKEN=TOKEN)
        assert ran.returncode == 1
        assert ran.stderr.count("\n") == 1
        assert "(HTTP 403" in ran.stderr
        command = "--mlx-path tuned-fp16 --upload-repo me/tuned --private"
        assert ran.stderr.endswith(
            f"tuned-fp16 is complete, send it again with: python -m mlx_sam2.convert {command}\n"
        )
        stand_in.faults.clear()
        (tmp_path / "tuned-fp16").rename(tmp_path / "other-fp16")
        ran = machine.convert("--mlx-path", "other-fp16", "--upload-repo", "me/other-8bit", HF_TOKEN=TOKEN)
        assert ran.returncode == 2
        assert "says 8bit" in ran.stderr
        asked = len(stand_in.requests)
        said = machine.done("--mlx-path", "other-fp16", "--upload-repo", "me/other", "--dry-run", HF_TOKEN=TOKEN)
        assert "would send 5 files to me/other" in said
        assert len(stand_in.requests) == asked
        machine.done("--mlx-path", "other-fp16", "--upload-repo", "me/other", "--private", HF_TOKEN=TOKEN)
        card = stand_in.files("me/other")["README.md"].decode()
        assert 'from_pretrained("me/other")' in card
        assert "--model me/other\n" in card
        assert stand_in.repositories["me/other"].private


def test_no_network_and_no_token(tuned: Path, tmp_path: Path) -> None:
    machine = Desk(tmp_path, DEAD)
    ran = machine.convert("--hf-path", "someone/tuned")
    assert ran.returncode == 1
    assert "could not be reached" in ran.stderr
    ran = machine.convert("--hf-path", tuned, "--upload-repo", "me/tuned", "--mlx-path", "my model")
    assert ran.returncode == 1
    assert "uploading needs a Hub token" in ran.stderr
    assert "--mlx-path 'my model' --upload-repo me/tuned\n" in ran.stderr, "to be pasted into a shell"
    assert ran.stderr.count("\n") == 1

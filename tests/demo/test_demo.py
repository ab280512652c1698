"""``demo``, the model in the package: by its name wherever a model is named, without a network, in the wheel."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

import mlx_sam2
from demo_scenarios import iou
from demo_scenes import coins, crossing
from mlx_sam2.build_sam import build_sam2, build_sam2_video_predictor
from mlx_sam2.checkpoint import loading
from mlx_sam2.checkpoint.tensors import CheckpointError
from mlx_sam2.hub import download

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "mlx_sam2" / "demo"
TRY_DEMO = "--model demo"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: whoever opens a connection fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def run(command: str, *args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """As a user runs it, with an empty Hub cache and a Hub that nobody answers for."""
    environment = {
        **os.environ,
        "MLX_SAM2_BLAS": "0",
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(cwd / "home"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        **env,
    }
    return subprocess.run(
        [sys.executable, "-m", f"mlx_sam2.{command}", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(coins()[0]).save(tmp_path / "coins.png")
    return tmp_path / "coins.png"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    (tmp_path / "clip").mkdir()
    for t, frame in enumerate(crossing(front=True)[0][:3]):
        Image.fromarray(frame).save(tmp_path / "clip" / f"{t:05d}.png")
    return tmp_path / "clip"


# ---- loading


@pytest.mark.usefixtures("no_network")
def test_load_without_a_network() -> None:
    model = mlx_sam2.load("demo")
    assert (model.config.image_size, model.config.neck.d_model) == (256, 96)
    assert model.config.no_obj_embed_spatial, "it should be of 2.1"
    assert sum(value.size for _, value in tree_flatten(model.parameters())) < 3_000_000


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
def test_every_way_to_name_it() -> None:
    assert download.fetch("demo") == download.Fetched(FOLDER)
    assert mlx_sam2.SAM2ImagePredictor.from_pretrained("demo").model.config.image_size == 256
    assert mlx_sam2.SAM2VideoPredictor.from_pretrained("demo").model.config.image_size == 256
    assert mlx_sam2.SAM2AutomaticMaskGenerator.from_pretrained("demo").predictor.model.config.image_size == 256
    assert build_sam2("demo", "demo").config.image_size == 256
    assert build_sam2_video_predictor(None, "demo").model.config.image_size == 256
    assert loading.read_config("demo") == mlx_sam2.load("demo").config


def test_a_path_of_that_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    assert download.resolve("demo") == Path("demo")


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        download.HubError, match="revision='v1' belongs to a Hub repository, but demo comes with the package"
    ):
        download.resolve("demo", "v1")
    with pytest.raises(
        download.HubError, match=r"no model is called 'domo': use demo, tiny, small, base_plus, .*sam2-large,"
    ):
        download.resolve("domo")
    monkeypatch.setattr(download, "shipped", lambda name: tmp_path / "demo")
    with pytest.raises(download.HubError, match=r"the model demo is missing from .*: install mlx-sam2 again"):
        download.resolve("demo")


def test_the_default_stays_a_published_model() -> None:
    from mlx_sam2.segment import command as segment
    from mlx_sam2.track import command as track

    assert segment.build_parser().parse_args(["x.jpg"]).model == "base_plus"
    assert track.build_parser().parse_args(["x.mp4"]).model == "base_plus"


@pytest.mark.slow
def test_a_pt_of_it_is_recognised(tmp_path: Path) -> None:
    """demo -> official layout -> load, without saying what it is: the same numbers."""
    done = run("convert", "--hf-path", "demo", "--to", "official", "--mlx-path", "demo.pt", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    ours, theirs = (dict(tree_flatten(mlx_sam2.load(m).parameters())) for m in ("demo", tmp_path / "demo.pt"))
    assert all(np.array_equal(np.array(ours[key]), np.array(theirs[key])) for key in ours)
    # and a file of the same trunk that is something else says so
    with pytest.raises(CheckpointError, match="its tensors are not"):
        mlx_sam2.load(tmp_path / "demo.pt", config="tiny")


# ---- commands


def test_segment(photo: Path) -> None:
    """A click on a coin, as in README, offline: the picture is of that coin."""
    done = run("segment", photo, "--point", "271,119", "--model", "demo", cwd=photo.parent, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{photo}: score 0.")
    assert (photo.parent / "coins_overlay.png").is_file()
    found = np.array(Image.open(photo.parent / "coins_mask.png")) > 0
    truth = next(coin for coin in coins()[1] if coin[119, 271])
    assert iou(found, truth) >= 0.9  # measured 0.96
    assert not (photo.parent / "home").exists(), "the Hub's cache was touched"


@pytest.mark.slow
def test_everything(photo: Path) -> None:
    args = [photo, "--everything", "--points-per-side", 4, "--coco", "out.json", "--model", "demo"]
    done = run("segment", *args, cwd=photo.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((photo.parent / "out.json").read_text())["images"][0]["file_name"].endswith("coins.png")


def test_a_run_over_a_folder_knows_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new version's demo has other weights under the same name: results of the two must not be mixed."""
    from mlx_sam2.segment import command as segment
    from mlx_sam2.segment import everything

    args = segment.build_parser().parse_args(["photos", "--everything", "--coco", "out.json", "--model", "demo"])
    said = everything.run_settings(args)["model"]
    monkeypatch.chdir(FOLDER.parent)  # where the name is a folder
    assert said.startswith("sha256 ")
    assert everything.run_settings(args)["model"] == said


def test_track(clip: Path) -> None:
    done = run("track", clip, "--point", "56,124", "--output", "found.jsonl", "--model", "demo", cwd=clip.parent)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in (clip.parent / "found.jsonl").read_text().splitlines()]
    assert len(lines) == 3


@pytest.mark.slow
def test_convert_and_verify(tmp_path: Path) -> None:
    done = run("convert", "--hf-path", "demo", "-q", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo was trained on synthetic scenes" in done.stdout
    card = (tmp_path / "demo-8bit" / "README.md").read_text()
    assert "`demo of mlx_sam2`" in card
    done = run("convert", "--verify", "demo-8bit", "--hf-path", "demo", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "every tensor is what converting" in done.stdout
    done = run("convert", "--verify", "demo", cwd=tmp_path)
    assert done.returncode == 0, "the package's own folder is not what it says it is"


@pytest.mark.slow
def test_doctor_export_benchmark(tmp_path: Path) -> None:
    done = run("doctor", "--weights", "demo", "--quick", "--no-store", "--dtype", "float32", cwd=tmp_path)
    assert "weights of demo: scores " in done.stdout
    assert "they agree" in done.stdout
    assert done.returncode == 0
    done = run("export", "--model", "demo", "--no-kernels", "--output", "swift", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    done = run("benchmark", "--model", "demo", "--stages", "load", "--repeat", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_doctor_notices_other_weights(tmp_path: Path) -> None:
    from mlx_sam2.doctor import known_answers

    model = mlx_sam2.load("demo", dtype="float32")
    assert known_answers.verify(model, "demo").agrees
    weight = model.sam_mask_decoder.iou_prediction_head.layers[0].weight
    model.sam_mask_decoder.iou_prediction_head.layers[0].weight = weight * 1.3
    assert known_answers.verify(model, "demo").agrees is False


COMMANDS = {
    "segment": lambda photo, clip: [photo, "--point", "9,9"],
    "segment everything": lambda photo, clip: [photo, "--everything"],
    "track": lambda photo, clip: [clip, "--point", "9,9", "--output", "found.jsonl"],
    "track everything": lambda photo, clip: [clip, "--everything", "--output", "found.jsonl"],
    "convert": lambda photo, clip: ["--hf-path", "base_plus"],
    "export": lambda photo, clip: ["--output", "swift", "--model", "base_plus"],
    "doctor": lambda photo, clip: ["--weights", "base_plus", "--quick", "--no-store"],
}


@pytest.mark.slow
@pytest.mark.parametrize("offline", ["0", "1"])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_fetched_names_the_demo(command: str, offline: str, photo: Path, clip: Path) -> None:
    before = sorted(photo.parent.rglob("*"))
    done = run(command.split()[0], *COMMANDS[command](photo, clip), cwd=photo.parent, HF_HUB_OFFLINE=offline)
    assert done.returncode == 1
    text = done.stdout if command == "doctor" else done.stderr
    if command != "doctor":
        assert text.count("\n") == 1
        assert text.startswith(f"mlx_sam2.{command.split()[0]}: error: facebook/sam2.1-hiera-base-plus is not in the")
        assert [p for p in sorted(photo.parent.rglob("*")) if "home" not in p.parts] == before
    assert TRY_DEMO in text
    assert "Traceback" not in done.stdout + done.stderr


def test_a_model_of_ones_own_is_not_replaced_by_the_demo(photo: Path) -> None:
    done = run("segment", photo, "--point", "9,9", "--model", "me/tuned", cwd=photo.parent)
    assert done.returncode == 1
    assert TRY_DEMO not in done.stderr


# ---- what is in the package


def test_its_files() -> None:
    assert {p.name for p in FOLDER.iterdir()} == {"README.md", "config.json", "model.safetensors", "scores.json"}
    assert (FOLDER / "model.safetensors").stat().st_size <= 6_000_000
    card = (FOLDER / "README.md").read_text()
    for words in ("synthetic", "trying out", "tests", "256 x 256"):
        assert words in " ".join(card.split()), f"the model card does not say {words!r}"
    dtypes = {weight.dtype for weight in loading.read(FOLDER).weights.values()}
    assert dtypes <= {"float16", "float32"}
    kept = [key for key, weight in loading.read(FOLDER).weights.items() if weight.dtype == "float32"]
    assert set(kept) <= set(loading.KEPT_FLOAT32)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `pip wheel` builds it; the build needs hatchling, which pip fetches."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no wheel can be built here: {' '.join(done.stderr.split())[-200:]}")
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel(wheel: Path) -> None:
    assert wheel.stat().st_size < 8_000_000
    with zipfile.ZipFile(wheel) as archive:
        for name in ("model.safetensors", "config.json", "scores.json", "README.md"):
            assert archive.read(f"mlx_sam2/demo/{name}") == (FOLDER / name).read_bytes()


@pytest.mark.slow
def test_the_wheel_in_a_fresh_environment(wheel: Path, photo: Path) -> None:
    """Installed without a network, beside the packages that it needs: demo loads and answers."""
    venv = photo.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    where = [str(python), "-c", "import site; print(site.getsitepackages()[0])"]
    site = Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip())
    with zipfile.ZipFile(wheel) as archive:  # as installers do with a wheel of pure Python
        archive.extractall(site)
    import mlx.core

    (site / "needed.pth").write_text(f"{Path(mlx.core.__file__).parents[1]}\n")  # mlx, numpy, pillow, ...
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(photo.parent / "home"), "MLX_SAM2_BLAS": "0"}
    script = "import mlx_sam2.hub as h; print(h.resolve('demo'))"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, env=environment, cwd=photo.parent)
    assert done.stdout.strip() == str(site / "mlx_sam2" / "demo"), done.stderr
    args = [python, "-m", "mlx_sam2.segment", photo, "--point", "271,119", "--model", "demo"]
    done = subprocess.run(args, capture_output=True, text=True, env=environment, cwd=photo.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert (photo.parent / "coins_overlay.png").is_file()


# ---- the examples, on the package's own model


def example(name: str, *args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done


def test_example_photo(tmp_path: Path) -> None:
    example("segment_photo.py", cwd=tmp_path)
    shown = np.array(Image.open(tmp_path / "segment_photo_overlay.png")).astype(int)
    truth = next(coin for coin in coins()[1] if coin[119, 271])
    blue = shown[..., 2] - shown[..., 0] > 30
    assert iou(blue, truth) > 0.8


@pytest.mark.slow
def test_example_clip(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="needs PyAV: pip install 'mlx-sam2[video]'")
    done = example("track_clip.py", cwd=tmp_path)
    assert done.stdout.endswith("30 frames -> track_clip.mp4\n")
    assert (tmp_path / "track_clip.mp4").is_file()


@pytest.mark.slow
def test_example_folder(tmp_path: Path) -> None:
    from demo_scenes import still

    (tmp_path / "photos").mkdir()
    Image.fromarray(still(3)[0]).save(tmp_path / "photos" / "scene.png")
    done = example("segment_folder.py", "photos", cwd=tmp_path)
    labels = np.array(Image.open(tmp_path / "segment_folder" / "scene_labels.png"))
    assert len(np.unique(labels)) - 1 == int(done.stdout.split()[1]) >= 10

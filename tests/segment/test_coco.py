"""The COCO file of a folder: what pycocotools makes of it, runs that are killed, and runs of several processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synthetic
from mlx_sam2 import masks
from mlx_sam2.segment import command as segment
from segment_runs import ENVIRONMENT, FLAGS, files, one_line


@pytest.fixture(scope="module")
def model(nano_of_small_masks: str) -> str:
    return nano_of_small_masks


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(5):
        Image.fromarray(synthetic.picture(50 + 7 * i, 80 - 9 * i, seed=i)).save(folder / f"{i}.png")
    return folder


def command(photos: Path, model: str, coco: Path, *more: object) -> list[str]:
    args = ["-m", "mlx_sam2.segment", photos, "--everything", "--model", model, *FLAGS, "--coco", coco, *more]
    return [sys.executable, *map(str, args)]


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, check=False, env=ENVIRONMENT)


@pytest.fixture(scope="module")
def undisturbed(photos: Path, model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    coco = tmp_path_factory.mktemp("undisturbed") / "out.json"
    more = ["--output", coco.parent / "masks", "--overlay", coco.parent / "drawn"]
    assert run(photos, model, coco, *more).returncode == 0  # a process of its own, as below: with the same BLAS
    return coco


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_reads_it_and_its_masks_are_the_pngs(photos: Path, undisturbed: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        coco = coco_module.COCO(str(undisturbed))
    assert sorted(coco.getImgIds()) == [1, 2, 3, 4, 5]
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["object"]
    assert coco.getAnnIds() == list(range(1, len(coco.anns) + 1))
    assert len(coco.anns) > 15
    for image in coco.loadImgs(coco.getImgIds()):
        photo = Image.open(photos / image["file_name"])
        assert photo.size == (image["width"], image["height"])
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        pictures = sorted((undisturbed.parent / "masks" / Path(image["file_name"]).stem).iterdir())
        assert len(annotations) == len(pictures) > 0
        for annotation, picture in zip(annotations, pictures, strict=True):
            mask = np.asarray(Image.open(picture)) == 255
            np.testing.assert_array_equal(coco.annToMask(annotation), mask)
            assert annotation["area"] == mask.sum()
            x, y, width, height = annotation["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum()
            assert [x, y, x + width - 1, y + height - 1] == masks.mask_to_box(mask)
            assert 0 <= annotation["predicted_iou"] <= 1
            assert annotation["category_id"] == 1
    scores = [annotation["predicted_iou"] for annotation in coco.imgToAnns[1]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_pycocotools_evaluates_it_against_itself(undisturbed: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    evaluation_module = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_module.COCO(str(undisturbed))
        keys = ("image_id", "category_id", "segmentation")
        results = [{**{k: a[k] for k in keys}, "score": a["predicted_iou"]} for a in truth.anns.values()]
        evaluation = evaluation_module.COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


@pytest.mark.slow
def test_killed_five_times_at_random_moments(photos: Path, model: str, undisturbed: Path, tmp_path: Path) -> None:
    seed = int(os.environ.get("MLX_SAM2_SEED", random.randrange(2**32)))
    print(f"MLX_SAM2_SEED={seed}")
    moments = random.Random(seed)
    coco = tmp_path / "out.json"
    more = ["--output", tmp_path / "masks", "--overlay", tmp_path / "drawn"]
    began = time.perf_counter()
    assert run(photos, model, coco, *more).returncode == 0
    duration = time.perf_counter() - began
    for path in (tmp_path / "masks", tmp_path / "drawn", tmp_path / "out.json.parts"):
        shutil.rmtree(path)
    coco.unlink()
    done = 0
    for _ in range(5):
        child = subprocess.Popen(
            command(photos, model, coco, *more), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        time.sleep(moments.uniform(0.2, 1) * duration)
        child.send_signal(signal.SIGKILL)
        finished = [line for line in child.communicate()[0].splitlines() if " masks -> " in line]
        parts = list((tmp_path / "out.json.parts").glob("*.jsonl"))
        assert len(parts) >= done + len(finished)  # what was announced is kept, and the rest lost at most one
        done = len(parts)
        for part in parts:  # whole, whenever it was
            lines = part.read_text().splitlines()
            assert len(lines) == 1 + json.loads(lines[0])["masks"]
    last = run(photos, model, coco, *more)
    assert (last.returncode, last.stderr) == (0, "")
    assert coco.read_bytes() == undisturbed.read_bytes()
    ours, expected = files(tmp_path), files(undisturbed.parent)
    assert ours.keys() == expected.keys()
    assert all(ours[name] == expected[name] for name in ours if "merged" not in name)


# ---- several processes


def launch(processes: int, *args: object) -> subprocess.CompletedProcess[str]:
    """``mlx.launch`` with the ring backend, on ports of this machine that are free."""
    launcher = shutil.which("mlx.launch", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if launcher is None:
        pytest.skip("mlx.launch is not installed")
    with contextlib.ExitStack() as stack:
        while True:
            port = random.randrange(20_000, 60_000)
            with contextlib.suppress(OSError):
                for offset in range(processes):
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", port + offset))
                break
    start = [launcher, "--backend", "ring", "-n", str(processes), "--starting-port", str(port), "--", *args]
    return subprocess.run(
        start, capture_output=True, text=True, check=False, env=ENVIRONMENT, stdin=subprocess.DEVNULL, timeout=300
    )


@pytest.mark.slow
def test_two_processes_make_the_same_file(photos: Path, model: str, undisturbed: Path, tmp_path: Path) -> None:
    coco = tmp_path / "out.json"
    more = ["--output", tmp_path / "masks", "--overlay", tmp_path / "drawn"]
    done = launch(2, *command(photos, model, coco, *more))
    assert "error" not in done.stderr, done.stderr
    ours, expected = files(tmp_path), files(undisturbed.parent)
    assert ours.keys() == expected.keys()
    assert all(ours[name] == expected[name] for name in ours if "merged" not in name)
    assert sorted(line.split(" -> ")[0].split(":")[0] for line in done.stdout.splitlines()) == sorted(
        [*(str(photos / f"{i}.png") for i in range(5)), str(coco)]
    )
    # on with one process, and with mlx.launch of one
    for again in (run(photos, model, coco), launch(1, *command(photos, model, coco))):
        assert again.stdout.splitlines()[0] == "5 of 5 were done before", again.stderr
    assert coco.read_bytes() == undisturbed.read_bytes()


@pytest.mark.slow
def test_one_of_two_processes_is_killed(photos: Path, model: str, undisturbed: Path, tmp_path: Path) -> None:
    """mlx.launch ends the other; the same command goes on, and so does one process alone."""
    coco = tmp_path / "out.json"
    dying = (
        "import os, runpy, sys\nfrom mlx_sam2.segment import parts\nsave = parts.Parts.save\n"
        "def once(self, photo, *rest):\n    save(self, photo, *rest)\n"
        "    if os.environ['MLX_RANK'] == '1': os.kill(os.getpid(), 9)\n"
        "parts.Parts.save = once\nrunpy.run_module('mlx_sam2.segment', run_name='__main__')"
    )
    done = launch(2, sys.executable, "-c", dying, *command(photos, model, coco)[3:])
    assert "rank 1 exited with code -9" in done.stderr
    assert not coco.exists()
    assert not [line for line in done.stderr.splitlines() if "Traceback" in line]
    parts = len(list((tmp_path / "out.json.parts").glob("*.jsonl")))
    assert parts >= 1
    again = run(photos, model, coco)
    assert (again.returncode, again.stdout.splitlines()[-2]) == (0, f"{parts} of 5 were done before")
    assert coco.read_bytes() == undisturbed.read_bytes()


@pytest.mark.slow
def test_machines_that_share_no_files(photos: Path, model: str, undisturbed: Path, tmp_path: Path) -> None:
    """Each process has a folder of its own, as machines have disks."""
    for rank in "01":
        shutil.copytree(photos, tmp_path / rank / "photos", copy_function=shutil.copy)  # with other times
    script = (
        f"import os, runpy, sys\nos.chdir(os.path.join({str(tmp_path)!r}, os.environ['MLX_RANK']))\n"
        "runpy.run_module('mlx_sam2.segment', run_name='__main__')"
    )
    args = command(Path("photos"), model, Path("out.json"))[3:]
    done = launch(2, sys.executable, "-c", script, *args)
    words = "2 of 5 photos have no part in out.json.parts: where other machines keep theirs, bring them together"
    assert words in done.stderr
    assert not (tmp_path / "0" / "out.json").exists()
    for part in (tmp_path / "1" / "out.json.parts").glob("*.jsonl"):
        shutil.copy(part, tmp_path / "0" / "out.json.parts")
    merged = subprocess.run(
        [sys.executable, "-m", "mlx_sam2.segment", "photos", "--everything", "--coco", "out.json", "--merge"],
        capture_output=True, text=True, check=False, env=ENVIRONMENT, cwd=tmp_path / "0",
    )  # fmt: skip
    assert (merged.returncode, merged.stderr) == (0, "")
    assert (tmp_path / "0" / "out.json").read_bytes() == undisturbed.read_bytes()


def test_merge_of_a_part_of_the_photos(photos: Path, model: str, undisturbed: Path, tmp_path: Path) -> None:
    """No model, no thresholds: those of the parts count."""
    coco = tmp_path / "out.json"
    shutil.copytree(undisturbed.with_name("out.json.parts"), tmp_path / "out.json.parts")
    args = [str(photos), "--everything", "--coco", str(coco), "--merge"]
    assert segment.main(args) == 0
    assert coco.read_bytes() == undisturbed.read_bytes()
    next((tmp_path / "out.json.parts").glob("*.jsonl")).unlink()
    done = subprocess.run(
        [sys.executable, "-m", "mlx_sam2.segment", *args], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 1
    assert "1 of 5 photos are not done: " in one_line(done.stderr)
    assert len(json.loads(coco.read_text())["images"]) == 4


def test_alone_mlx_distributed_is_not_asked(
    photos: Path, model: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlx.core as mx

    monkeypatch.setattr(mx.distributed, "init", lambda *_, **__: pytest.fail("initialised"))
    shutil.copytree(undisturbed.with_name("out.json.parts"), tmp_path / "out.json.parts")
    assert segment.main(command(photos, model, tmp_path / "out.json")[3:]) == 0


def test_a_ring_that_cannot_be_joined(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_RANK", "0")
    for hosts in (tmp_path / "absent", tmp_path / "hosts"):
        monkeypatch.setenv("MLX_HOSTFILE", str(hosts))
        if hosts.name == "hosts":
            hosts.write_text("no JSON")
        assert segment.main(command(photos, model, tmp_path / "out.json")[3:]) == 1
        assert "cannot join the processes of mlx.launch (" in one_line(capsys.readouterr().err).replace(": ", " (")
        assert not (tmp_path / "out.json.parts").exists()

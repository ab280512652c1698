"""``segment --everything`` when something fails midway: the disk, a photo, a process that dies."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image, WebPImagePlugin

import synthetic
from mlx_sam2 import images, masks
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.files import sweep_once
from mlx_sam2.segment import everything as run_everything
from mlx_sam2.segment import parts as segment_parts
from segment_runs import ENVIRONMENT, FLAGS, everything, files, one_line, run

pytestmark = pytest.mark.usefixtures("remembered")
GONE = 2**22 + 1  # no process has that number


@pytest.fixture(scope="module")
def model(nano_of_small_masks: str) -> str:
    return nano_of_small_masks


# ---- what goes wrong midway
def test_dying_between_any_two_files(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies before a file gets its name; the temporary file stays, as after kill -9."""
    for name in ("b.png", "c.webp"):
        (photos / name).unlink()
    out = tmp_path / "out"

    class Died(BaseException):
        pass

    def run(moment: int) -> int:
        """How many files got their names."""
        real, count = os.replace, []

        def replace(one: Path, other: Path) -> None:
            if len(count) == moment:
                shutil.copy(one, str(one).replace(f"-{os.getpid()}-", f"-{GONE}-"))
                raise Died
            count.append(1)
            real(one, other)

        args = [photos, "--model", model, *FLAGS, "--points-per-side", 1, "--coco", out / "out.json"]
        sweep_once.cache_clear()  # as in another process
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            assert everything(capsys, *args, "--output", out / "masks", "--overlay", out / "drawn")[0] == 0
        return len(count)

    out.mkdir()
    total = run(-1)
    undisturbed = {name: data for name, data in files(out).items() if "merged" not in name}
    assert total > 10
    for moment in [*range(5), *range(total - 5, total)]:
        shutil.rmtree(out)
        out.mkdir()
        with pytest.raises(Died):
            run(moment)
        capsys.readouterr()
        run(-1)
        assert {name: data for name, data in files(out).items() if "merged" not in name} == undisturbed


def test_a_full_disk_stops_the_run(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = tmp_path / "out.json"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    real = segment_parts.Parts.save

    def save(self: segment_parts.Parts, photo: segment_parts.Photo, *rest: object) -> None:
        if photo.name == "b.png":
            raise OSError(28, "No space left on device", str(self.path(photo)))
        real(self, photo, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(segment_parts.Parts, "save", save)
        code, _, stderr = everything(capsys, *args)
    assert code == 1
    assert "No space left on device" in one_line(stderr)
    code, stdout, _ = everything(capsys, *args)
    assert code == 0
    assert "1 of 4 were done before" in stdout


def test_scores_that_are_no_number_stop_no_other_photo(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SAM2AutomaticMaskGenerator.generate

    def generate(self: SAM2AutomaticMaskGenerator, image: np.ndarray) -> list[dict[str, object]]:
        if image.shape[0] == 60:
            raise ArithmeticError("the model gave a score that is not a finite number")
        if image.shape[0] == 70:
            raise RuntimeError("[malloc] Unable to allocate 99 bytes.")
        return real(self, image)

    monkeypatch.setattr(SAM2AutomaticMaskGenerator, "generate", generate)
    code, stdout, stderr = everything(capsys, photos, "--model", model, *FLAGS, "--coco", tmp_path / "out.json")
    assert code == 1
    assert stdout.splitlines()[-1].startswith(f"{tmp_path / 'out.json'}: 2 of 4 photos")
    lines = stderr.splitlines()
    assert f"{photos / 'a.jpg'}: the model gave a score" in lines[0]
    assert f"{photos / 'd.PNG'}: [malloc] Unable" in lines[1]


def test_the_file_is_json_for_everyone(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python writes NaN, which JSON does not have; names may be bytes that are no text."""
    record = {
        "segmentation": masks.mask_to_rle(np.zeros((50, 80), bool)),
        "area": 0,
        "bbox": [0.0, 0.0, 0.0, 0.0],
        "predicted_iou": 0.5,
        "point_coords": [[1.0, 2.0]],
        "stability_score": float("nan"),
        "crop_box": [0.0, 0.0, 80.0, 50.0],
    }
    monkeypatch.setattr(SAM2AutomaticMaskGenerator, "generate", lambda *_: [record])
    named = photos / ("b.png" if sys.platform == "darwin" else os.fsdecode(b"b\xff\xc3\xa9.png"))
    (photos / "b.png").rename(named)
    for args in (["--coco", tmp_path / "out.json", "--output", tmp_path / "masks"], ["--json"]):
        code, stdout, stderr = everything(capsys, named, "--model", model, *FLAGS, *args)
        assert (code, stderr) == (0, "")
        text = stdout if args == ["--json"] else (tmp_path / "out.json").read_text("ascii")
        data = json.loads(text, parse_constant=lambda name: pytest.fail(name))
        (mask,) = data.get("annotations") or data["masks"]
        assert (mask["stability_score"], mask["bbox"], mask["area"]) == (None, [0, 0, 0, 0], 0)
        assert (data["images"][0]["file_name"] if "images" in data else data["image"]) == named.as_posix()
    assert not np.asarray(Image.open(tmp_path / "masks" / named.stem / "0000.png")).any()


# ---- photos that change, JSON in JSON, signals, folders


def test_a_photo_that_changes_while_the_model_loads(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its masks are kept under the fingerprint of what was read, so the new photo is done next time."""
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    Image.fromarray(synthetic.picture(60, 80, seed=11)).save(first)
    Image.fromarray(synthetic.picture(60, 80, seed=12)).save(second)
    folder = tmp_path / "one"
    folder.mkdir()
    shutil.copy(first, folder / "a.png")
    load = run_everything.load_generator

    def swap(args: argparse.Namespace) -> SAM2AutomaticMaskGenerator:
        os.replace(shutil.copy(second, tmp_path / "new.png"), folder / "a.png")
        return load(args)

    args = [folder, "--model", model, *FLAGS, "--coco", tmp_path / "out.json"]
    with monkeypatch.context() as patch:
        patch.setattr(run_everything, "load_generator", swap)
        everything(capsys, *args)
    code, stdout, _ = everything(capsys, *args)
    assert code == 0
    assert "done before" not in stdout
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(second, other / "a.png")
    assert everything(capsys, other, *args[1:-1], tmp_path / "expected.json")[0] == 0
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "expected.json").read_bytes()


def test_a_photo_that_is_written_to_while_it_is_read(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = images.decode

    def slowly(file: BinaryIO, name: str, levels: images.Levels) -> images.Picture:
        if name.endswith("b.png"):
            os.utime(name, ns=(1, 1))
        return decode(file, name, levels)

    monkeypatch.setattr(images, "decode", slowly)
    code, _, stderr = everything(capsys, photos, "--model", model, *FLAGS, "--coco", tmp_path / "out.json")
    assert code == 1
    assert "b.png was changed while it was read" in stderr
    assert [image["file_name"] for image in json.loads((tmp_path / "out.json").read_text())["images"]] == [
        "a.jpg", "c.webp", "d.PNG",
    ]  # fmt: skip


@pytest.mark.parametrize("error", [AttributeError("'float'"), ZeroDivisionError(), AssertionError(), RecursionError()])
def test_whatever_a_reader_raises_it_is_one_photo(
    photos: Path,
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def odd(self: Image.Image) -> None:
        raise error

    monkeypatch.setattr(WebPImagePlugin.WebPImageFile, "load", odd)
    code, _, stderr = everything(capsys, photos, "--model", model, *FLAGS, "--coco", tmp_path / "out.json")
    assert code == 1
    assert "c.webp is damaged or cut short" in one_line(stderr)
    assert len(json.loads((tmp_path / "out.json").read_text())["images"]) == 3


def test_brackets_in_brackets(photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON of 100,000 levels: Python's reader raises RecursionError."""
    coco = tmp_path / "out.json"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    assert everything(capsys, *args)[0] == 0
    expected, deep = coco.read_bytes(), "[" * 10**5
    parts = coco.with_name("out.json.parts")
    part = next(parts.glob("*.jsonl"))
    part.write_text(deep)
    (parts / "merged.json").write_text(deep)
    (parts / "outputs.json").write_text(deep)
    coco.unlink()
    code, stdout, _ = everything(capsys, *args)
    assert code == 0
    assert "3 of 4 were done before" in stdout
    assert coco.read_bytes() == expected
    (parts / "settings.json").write_text(deep)
    code, _, stderr = everything(capsys, *args)
    assert code == 2
    assert "it is something else: move it away" in one_line(stderr)


def test_sigterm_ends_a_run_as_ctrl_c_does(photos: Path, model: str, tmp_path: Path) -> None:
    """Forced while the second photo is searched: the first is kept, nothing is half-written, and the run goes on."""
    script = (
        "import os, signal, sys\nfrom mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator as G\n"
        "generate, count = G.generate, []\n"
        "def stop(self, image):\n    count.append(1)\n"
        "    if len(count) == 2: os.kill(os.getpid(), signal.SIGTERM)\n    return generate(self, image)\n"
        "G.generate = stop\nfrom mlx_sam2.segment import main\nsys.exit(main(sys.argv[1:]))\n"
    )
    args = [photos, "--everything", "--model", model, *FLAGS, "--coco", tmp_path / "out.json"]
    command = [sys.executable, "-c", script, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 143
    assert done.stderr == "stopped: 1 of 4 photos are done; the same command goes on\n"
    assert not list(tmp_path.rglob("*.part"))


def test_levels_reach_the_photos_and_the_settings(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    Image.fromarray(synthetic.picture(40, 50)[..., 0].astype(np.uint16) * 16).save(folder / "a.tif")
    args = [folder, "--model", model, *FLAGS, "--coco", tmp_path / "out.json", "--overlay", tmp_path / "drawn"]
    code, _, stderr = everything(capsys, *args)
    assert code == 0
    assert stderr.startswith(f"mlx_sam2.segment: note: {folder / 'a.tif'}: its brightest value is ")
    code, _, stderr = everything(capsys, *args, "--levels", "auto")
    assert code == 2
    assert "other settings (levels -, now auto)" in one_line(stderr)
    for levels in ("auto", "0,4095"):
        code, _, stderr = everything(capsys, *args, "--levels", levels, "--overwrite")
        assert (code, stderr) == (0, "")
        code, stdout, _ = everything(capsys, *args, "--levels", levels)
        assert code == 0
        assert "1 of 1 were done before" in stdout
    assert np.asarray(Image.open(tmp_path / "drawn" / "a_overlay.png")).max() > 200


def test_without_a_temporary_folder(photos: Path, model: str, tmp_path: Path) -> None:
    """On a CPU MLX writes the code that it compiles to TMPDIR."""
    where = {"TMPDIR": str(tmp_path / "absent")}
    for more in (["--everything"], ["--point", "40,30"]):
        done = run(photos / "b.png", "--json", "--model", model, *more, **where)
        if done.returncode == 0:
            pytest.skip("MLX compiles nothing on this machine's device")
        assert (done.returncode, done.stdout) == (1, "")
        assert "set TMPDIR to one that can be written to" in one_line(done.stderr)

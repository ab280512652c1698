"""What ``segment`` refuses: exit codes, one line on stderr, and nothing lost or half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sam2 import SAM2ImagePredictor, images
from processes import ROOT
from segment_runs import CLICK, HEIGHT, WIDTH, call, files, one_line, run


@pytest.fixture(scope="module")
def model(nano: str) -> str:
    return nano


# ---- what it refuses


def test_existing_files_are_kept_unless_told(photo: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    overlay = photo.with_name("photo_overlay.png")
    overlay.write_bytes(b"precious")
    before = files(photo.parent)
    code, stdout, stderr = call(capsys, photo, *CLICK, "--model", model)
    assert (code, stdout) == (2, "")
    assert f"{overlay} exists" in one_line(stderr)
    assert "--overwrite" in stderr
    assert files(photo.parent) == before
    code, _, stderr = call(capsys, photo, *CLICK, "--model", model, "--overwrite")
    assert (code, stderr) == (0, "")
    assert Image.open(overlay).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "--point"),
        (["--point", "120,30"], "--point 120,30 lies outside"),
        (["--point", "40,-1"], "--point 40,-1 lies outside"),
        (["--negative", "40,90"], "--negative 40,90 lies outside"),
        (["--point", "nan,3"], "'nan,3' is not x,y in pixels"),
        (["--point", "inf,3"], "'inf,3' is not x,y"),
        (["--point", "3"], "'3' is not x,y"),
        (["--point", "3,4,5"], "'3,4,5' is not x,y"),
        (["--point", "a,b"], "'a,b' is not x,y"),
        (["--box", "1,2,3"], "'1,2,3' is not x0,y0,x1,y1"),
        (["--box", "1,2,3,nan"], "is not x0,y0,x1,y1"),
        (["--box", "10,10,10,50"], "has no area"),
        (["--box", "50,60,10,20"], "reversed: give top left, then bottom right, 10,20,50,60"),
        (["--box", "10,10,121,50"], "reaches outside"),
        (["--box=-1,10,20,50"], "reaches outside"),
        (["--box", "-1,10,20,50"], "--box -1,10,20,50 reaches outside"),
        (["--point", "-5,3"], "--point -5,3 lies outside"),
        (["--negative", "-.5,3"], "--negative -0.5,3 lies outside"),
        (["--mask", "absent.png", *CLICK], "no such image: absent.png"),
        (["--dtype", "int8", *CLICK], "invalid choice"),
        (["--pont", "3,4"], "unrecognized arguments: --pont"),
        (["--output", "m.jpg", *CLICK], "m.jpg: its name must end in .png"),
        (["--cutout", "c.jpg", *CLICK], "c.jpg: its name must end in .png"),
        (["--overlay", "o.gif", *CLICK], "o.gif: its name must end in .png"),
        (["--output", "no/such/m.png", *CLICK], "there is no folder no/such"),
        (["--output", "m.png", "--cutout", "m.png", *CLICK], "would be both the mask of"),
        (["--model", "gigantic", *CLICK], "no model is called 'gigantic'"),
        (["--model", "./absent.pt", *CLICK], "no such file or folder: ./absent.pt"),
        (["--model", f"{300 * 'a'}.pt", *CLICK], "no such file or folder: aaa"),
        (["--model", "~nobody-of-that-name/a.pt", *CLICK], "no such file or folder: ~nobody"),
        (["--mask", f"{300 * 'a'}.png", *CLICK], "cannot be read: file name too long"),
        (["--output", f"{252 * 'a'}.png", *CLICK], "file name too long"),
    ],
)
def test_bad_arguments(
    photo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    words: str,
) -> None:
    """Found before a model is loaded: the default one is not here, and nothing asks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(SAM2ImagePredictor, "from_pretrained", lambda *_, **__: pytest.fail("model loaded"))
    before = files(tmp_path)
    code, stdout, stderr = call(capsys, photo, *args)
    assert (code, stdout) == (2, "")
    assert words in one_line(stderr)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("size", "value", "words"),
    [
        ((HEIGHT, 70), 255, "70 x 90 pixels"),
        ((HEIGHT, WIDTH), 1, "is empty"),
        ((HEIGHT, WIDTH), 255, "is white everywhere"),
    ],
)
def test_bad_mask_prompts(
    photo: Path,
    capsys: pytest.CaptureFixture[str],
    size: tuple[int, int],
    value: int,
    words: str,
) -> None:
    Image.fromarray(np.full(size, value, np.uint8)).save(photo.with_name("rough.png"))
    code, _, stderr = call(capsys, photo, "--mask", photo.with_name("rough.png"))
    assert code == 2
    assert words in one_line(stderr)


def test_several_photos_are_checked_first(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, twin = photo.with_name("small.png"), photo.parent / "twin" / "photo.png"
    Image.new("RGB", (20, 20)).save(small)
    twin.parent.mkdir()
    twin.write_bytes(photo.read_bytes())
    for paths, args, words in [
        ([photo, small], [], f"--point 40,30 lies outside {small} (20 x 20 pixels)"),
        ([photo, photo.with_name("absent.jpg")], [], "no such image"),
        ([photo, twin], ["--output", photo.with_name("m.png")], "is not a folder"),
        ([photo, twin], ["--output", photo.parent], "would be both"),
        ([photo, photo], [], "would be both"),
    ]:
        before = files(photo.parent)
        code, stdout, stderr = call(capsys, *paths, *CLICK, *args)
        assert (code, stdout) == (2, "")
        assert words in one_line(stderr)
        assert files(photo.parent) == before


def test_an_output_never_replaces_a_photo(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, stderr = call(capsys, photo, *CLICK, "--output", photo, "--overwrite")
    assert code == 2
    assert "would be both the photo" in one_line(stderr)


def test_errors_in_a_process_of_its_own(photo: Path, model: str, tmp_path: Path) -> None:
    photo.with_name("cut.png").write_bytes(photo.read_bytes()[:200])
    done = run(photo.with_name("cut.png"), *CLICK, "--model", model)
    assert (done.returncode, done.stdout) == (2, "")
    assert "damaged or cut short" in one_line(done.stderr)

    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 100)
    done = run(photo, *CLICK, "--model", broken)
    assert (done.returncode, done.stdout) == (2, "")
    assert "broken.safetensors" in one_line(done.stderr)
    assert sorted(files(photo.parent)) == ["cut.png", "photo.png"]


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are Unicode there")
def test_names_that_the_terminal_cannot_show(photo: Path, model: str) -> None:
    named = photo.rename(os.fsdecode(os.fsencode(photo.parent) + b"/a\xff\xc3\xa9.png"))
    done = run(named, *CLICK, "--model", model, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a\\udcff\\xe9.png: score" in done.stdout
    assert len(files(photo.parent)) == 3


def test_pillow_adds_no_line_of_its_own(photo: Path, model: str) -> None:
    tiff = photo.with_name("many.tif")
    Image.open(photo).save(tiff)
    data = bytearray(tiff.read_bytes())
    at = data.index(b"\x15\x01\x03\x00\x01\x00\x00\x00")  # SamplesPerPixel, one short
    data[at + 8] = 162
    tiff.write_bytes(data)
    done = run(tiff, *CLICK, "--model", model)
    assert done.returncode == 2
    assert "many.tif" in one_line(done.stderr)


def test_a_full_disk_is_no_bad_input(
    photo: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    code, stdout, stderr = call(capsys, photo, *CLICK, "--model", model)
    assert (code, stdout) == (1, "")
    assert "photo_mask.png: cannot be written: No space left on device" in one_line(stderr)
    assert list(files(photo.parent)) == ["photo.png"]


def test_without_a_stderr(photo: Path, model: str) -> None:
    images.write(photo.with_name("other.png"), images.read(photo))
    command = f"{sys.executable} -m mlx_sam2.segment {photo} {photo.with_name('other.png')} --point 3,4 --json 2>&-"
    environment = {**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        f"{command} --model {model}", shell=True, stdout=subprocess.PIPE, env=environment, check=False
    )
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_on_a_full_disk(photo: Path, model: str) -> None:
    command = [sys.executable, "-m", "mlx_sam2.segment", str(photo), *CLICK, "--model", model, "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT)},
        )
    assert done.returncode == 1
    assert "cannot write to standard output: No space left" in one_line(done.stderr)


def test_bad_photos_load_neither_mlx_nor_the_hub(photo: Path) -> None:
    script = (
        "import sys\nfrom mlx_sam2 import segment\n"
        f"assert segment.main([{str(photo)!r}, '--point', '999,0']) == 2\n"
        "print([m for m in ('mlx', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "[]\n"

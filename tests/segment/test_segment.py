"""The command, run as a user runs it: exit codes, one line on stderr, the files, and nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synthetic
from checkpoint_files import transformers_config, write_transformers
from hub_stand_in import HubStandIn
from mlx_sam2 import SAM2ImagePredictor, images, masks
from mlx_sam2.checkpoint import loading
from mlx_sam2.images.preprocess import mask_prompt
from mlx_sam2.segment import command as segment

ROOT = Path(__file__).parents[2]
HEIGHT, WIDTH = 90, 120
CLICK = ["--point", "40,30"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "nano"
    loading.save(synthetic.nano_model(), folder)
    return str(folder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    Image.fromarray(synthetic.picture(HEIGHT, WIDTH)).save(path)
    return path


def run(*args: object, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own; MLX's advice about a missing BLAS would be another line on stderr."""
    environment = {**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **env}
    return subprocess.run(
        [sys.executable, "-m", "mlx_sam2.segment", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """The same without the start of an interpreter: exit code, stdout, stderr."""
    try:
        code = segment.main([str(a) for a in args])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_line(text: str) -> str:
    assert text.startswith("mlx_sam2.segment: error: ")
    assert text.count("\n") == 1
    assert text.endswith("\n")
    return text


# ---- what it makes


def test_default_outputs(photo: Path, model: str) -> None:
    done = run(photo, *CLICK, "--model", model)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(files(photo.parent)) == ["photo.png", "photo_mask.png", "photo_overlay.png"]
    assert done.stdout.count("\n") == 1

    # the best of three by predicted IoU, as the library gives it
    predictor = SAM2ImagePredictor.from_pretrained(model)
    image = images.read(photo)
    predictor.set_image(image)
    expected, scores, _ = predictor.predict(np.array([[40, 30]]), np.array([1]))
    best = expected[scores.argmax()]
    mask = Image.open(photo.with_name("photo_mask.png"))
    assert mask.mode == "L"
    np.testing.assert_array_equal(np.asarray(mask), 255 * best)
    assert 0 < best.mean() < 1
    overlay = images.read(photo.with_name("photo_overlay.png"))
    np.testing.assert_array_equal(overlay, images.overlay(image, best, [(40, 30)], [1]))
    x, y, w, h = masks.mask_to_bbox(best)
    assert f"score {scores.max():.3f}, {int(best.sum())} pixels" in done.stdout
    assert f"x,y,width,height {x},{y},{w},{h}" in done.stdout


def test_json_is_what_the_files_hold(photo: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = photo.parent / "m.png"
    args = ["--box", "20,10,90,80", "--negative", "100,85", "--model", model, "--json", "--multimask"]
    code, stdout, stderr = call(capsys, photo, *args, "--output", out, "--cutout", photo.parent / "c.png")
    assert (code, stderr) == (0, "")
    result = json.loads(stdout)
    assert (result["image"], result["width"], result["height"]) == (str(photo), WIDTH, HEIGHT)
    scores = [entry["score"] for entry in result["masks"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    for rank, entry in enumerate(result["masks"], start=1):
        assert entry["files"]["mask"] == str(out.with_name(f"m_{rank}.png"))
        written = np.asarray(Image.open(entry["files"]["mask"])) > 0
        np.testing.assert_array_equal(masks.rle_to_mask(entry["rle"]), written)
        assert entry["polygons"] == masks.mask_to_polygons(written)
        assert entry["bbox"] == masks.mask_to_bbox(written)
        assert entry["area"] == written.sum()
        np.testing.assert_array_equal(
            np.asarray(Image.open(entry["files"]["cutout"])), images.cutout(images.read(photo), written)
        )


def test_json_alone_writes_nothing(photo: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, stdout, _ = call(capsys, photo, *CLICK, "--model", model, "--json")
    assert code == 0
    assert json.loads(stdout)["masks"][0]["files"] == {}
    assert sorted(files(photo.parent)) == ["photo.png"]


@pytest.mark.parametrize(
    ("args", "multimask", "prompt"),
    [
        (["--point", "40,30"], True, {"point_coords": [[40, 30]], "point_labels": [1]}),
        (
            ["--point", "40,30", "--negative", "5.5,6", "--point", "50,40"],
            False,
            {"point_coords": [[40, 30], [50, 40], [5.5, 6]], "point_labels": [1, 1, 0]},
        ),
        (["--box", "20,10,120,90"], False, {"box": [20, 10, 120, 90]}),
        (
            ["--box", "20,10,90,80", "--point", "40,30"],
            False,
            {"box": [20, 10, 90, 80], "point_coords": [[40, 30]], "point_labels": [1]},
        ),
    ],
)
def test_prompts_reach_the_model(
    photo: Path,
    model: str,
    capsys: pytest.CaptureFixture[str],
    args: list[str],
    multimask: bool,
    prompt: dict[str, object],
) -> None:
    code, stdout, _ = call(capsys, photo, *args, "--model", model, "--json")
    assert code == 0
    predictor = SAM2ImagePredictor.from_pretrained(model)
    predictor.set_image(images.read(photo))
    expected, scores, _ = predictor.predict(**prompt, multimask_output=multimask)
    (entry,) = json.loads(stdout)["masks"]
    assert entry["score"] == float(scores.max())
    np.testing.assert_array_equal(masks.rle_to_mask(entry["rle"]), expected[scores.argmax()] > 0)


def test_mask_prompt_of_the_photos_size(photo: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    rough = np.zeros((HEIGHT, WIDTH), np.uint8)
    rough[20:60, 30:90] = 255
    Image.fromarray(rough).save(photo.parent / "rough.png")
    args = ["--mask", photo.parent / "rough.png", "--model", model, "--json"]
    code, stdout, _ = call(capsys, photo, *args)
    assert code == 0
    predictor = SAM2ImagePredictor.from_pretrained(model)
    predictor.set_image(images.read(photo))
    logits = mask_prompt(rough > 0, (64, 64))
    expected, scores, _ = predictor.predict(mask_input=logits, multimask_output=False)
    (entry,) = json.loads(stdout)["masks"]
    assert entry["score"] == float(scores[0])
    np.testing.assert_array_equal(masks.rle_to_mask(entry["rle"]), expected[0] > 0)


def test_a_mask_can_be_refined_in_place(photo: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    rough = photo.with_name("photo_mask.png")
    drawn = np.full((HEIGHT, WIDTH), 255, np.uint8)
    drawn[0, 0] = 254  # not what a mask holds that was written here
    drawn[:, 1] = 0
    Image.fromarray(drawn).save(rough)
    args = [photo, "--mask", rough, "--model", model]
    code, _, _ = call(capsys, *args)
    assert code == 2
    assert np.asarray(Image.open(rough))[0, 0] == 254
    code, _, _ = call(capsys, *args, "--overwrite")
    assert code == 0
    assert set(np.unique(np.asarray(Image.open(rough)))) <= {0, 255}


def test_exif_turns_the_coordinates(photo: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A photo stored on its side is prompted, and answered, upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo.parent / "turned.png"
    Image.fromarray(np.rot90(images.read(photo), 1).copy()).save(turned, exif=exif)
    results = []
    for path in (photo, turned):
        code, stdout, _ = call(capsys, path, "--point", f"{WIDTH - 1},30", "--model", model, "--json")
        assert code == 0
        results.append(json.loads(stdout)["masks"])
    assert results[0] == results[1]


@pytest.mark.parametrize("mode", ["CMYK", "I;16", "1", "P", "LA"])
def test_unusual_modes_are_segmented(photo: Path, model: str, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    image = Image.open(photo)
    if mode == "I;16":
        deep = np.asarray(image.convert("L")).astype("<u2") * 257
        image = Image.frombytes("I;16", image.size, deep.tobytes())
    else:
        image = image.convert(mode)
    path = photo.parent / ("odd.jpg" if mode == "CMYK" else "odd.png")
    image.save(path)
    code, _, stderr = call(capsys, path, *CLICK, "--model", model)
    assert (code, stderr) == (0, "")
    assert Image.open(path.with_name("odd_mask.png")).size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("size", [(1, 70), (70, 1), (1, 1)])
def test_thin_photos(photo: Path, model: str, capsys: pytest.CaptureFixture[str], size: tuple[int, int]) -> None:
    Image.new("RGB", size, "green").save(photo)
    code, _, stderr = call(capsys, photo, "--point", "0,0", "--model", model)
    assert (code, stderr) == (0, "")
    assert Image.open(photo.with_name("photo_mask.png")).size == size


def test_several_photos(photo: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    second = photo.with_name("second.png")
    Image.fromarray(synthetic.picture(60, 80, seed=1)).save(second)
    out = photo.parent / "out"
    out.mkdir()
    code, stdout, stderr = call(capsys, photo, second, *CLICK, "--model", model, "--json", "--output", out)
    assert (code, stderr) == (0, "")
    together = [json.loads(line) for line in stdout.splitlines()]
    assert sorted(files(out)) == ["photo_mask.png", "second_mask.png"]
    for path, result in zip((photo, second), together, strict=True):
        _, alone, _ = call(capsys, path, *CLICK, "--model", model, "--json")
        for entry in result["masks"]:
            del entry["files"]
        assert [{**entry, "files": {}} for entry in result["masks"]] == json.loads(alone)["masks"]


def test_a_photo_that_fails_midway_loses_nothing(
    photo: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [photo.with_name(f"{name}.png") for name in "abc"]
    for path in paths:
        path.write_bytes(photo.read_bytes())
    encode = SAM2ImagePredictor.set_image
    calls = []

    def set_image(self: SAM2ImagePredictor, image: np.ndarray) -> None:
        calls.append(1)
        if len(calls) == 1:
            paths[1].unlink()  # vanishes while the first is segmented
        encode(self, image)

    monkeypatch.setattr(SAM2ImagePredictor, "set_image", set_image)
    code, stdout, stderr = call(capsys, *paths, *CLICK, "--model", model)
    assert code == 2
    assert "no such image" in one_line(stderr)
    assert [line.split(":")[0] for line in stdout.splitlines()] == [str(paths[0]), str(paths[2])]
    for name in ("a", "c"):
        assert photo.with_name(f"{name}_mask.png").exists()
    assert not photo.with_name("b_mask.png").exists()


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


# ---- from the Hub


def test_from_the_hub_and_again_offline(photo: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    config = transformers_config()
    write_transformers(repository, synthetic.nano_state(), config)
    hub = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    args = [photo, *CLICK, "--model", "someone/nano", "--json"]
    with HubStandIn({"someone/nano": repository}) as endpoint:
        first = run(*args, HF_ENDPOINT=endpoint, **hub)
        assert (first.returncode, first.stderr) == (0, "")
    for offline in ("1", "0"):  # told to stay offline, or finding nobody there
        again = run(*args, HF_ENDPOINT=endpoint, **{**hub, "HF_HUB_OFFLINE": offline})
        assert (again.returncode, again.stdout) == (0, first.stdout), again.stderr
    other = run(photo, *CLICK, "--model", "someone/other", HF_ENDPOINT=endpoint, **hub)
    assert (other.returncode, other.stdout) == (1, "")
    assert "a local folder or file instead" in one_line(other.stderr)


# ---- the example


def test_the_example(model: str, tmp_path: Path) -> None:
    example = ROOT / "examples" / "segment_photo.py"
    assert len(example.read_text().splitlines()) <= 40
    environment = {**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT)}
    args = [sys.executable, example, ROOT / "examples" / "coffee.jpg", "290", "150", model]
    done = subprocess.run(args, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("score 0.")
    assert Image.open(tmp_path / "segment_photo_overlay.png").size == (600, 400)

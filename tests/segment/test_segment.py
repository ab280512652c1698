"""``segment`` with prompts, run as a user runs it: the files that it makes, and what it prints."""

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
from mlx_sam2.images.preprocess import mask_prompt
from processes import ROOT
from segment_runs import CLICK, HEIGHT, WIDTH, call, files, one_line, run


@pytest.fixture(scope="module")
def model(nano: str) -> str:
    return nano


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


# ---- from the Hub


@pytest.mark.slow
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

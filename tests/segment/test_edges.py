"""``segment`` with edges and backgrounds: files hold what ``images.matte`` makes of the model's logits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sam2 import SAM2ImagePredictor, images, masks
from mlx_sam2.images.backgrounds import blurred, checkerboard, composed, covering, desaturated, pixelated
from mlx_sam2.images.matte import Edges, alpha, decontaminated, refined_mask
from segment_runs import call, one_line

BOX = ["--box", "20,10,90,80"]
FLAGS = ["--edge", "guided", "--edge-width", "4", "--edge-radius", "5", "--feather", "0.5", "--grow", "-1"]
FLAGS += ["--fill-holes", "30", "--min-area", "40", "--decontaminate"]
EDGES = Edges("guided", 4.0, 5, 0.5, -1, 30, 40, True)


def logits_of(photo: Path, model: str) -> np.ndarray:
    predictor = SAM2ImagePredictor.from_pretrained(model)
    predictor.set_image(images.read(photo))
    found, _, _ = predictor.predict(box=np.array([20, 10, 90, 80]), multimask_output=False, return_logits=True)
    return found[0]


def test_files_hold_the_matte(photo: Path, nano: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, cut = photo.with_name("m.png"), photo.with_name("c.png")
    args = [*BOX, *FLAGS, "--model", nano, "--json", "--output", out, "--cutout", cut]
    code, stdout, stderr = call(capsys, photo, *args)
    assert (code, stderr) == (0, "")
    found, pixels = logits_of(photo, nano), images.read(photo)
    cells = SAM2ImagePredictor.from_pretrained(nano).model.sam_prompt_encoder.mask_input_size[0]
    matte = alpha(found, pixels, EDGES, cells)
    written = np.asarray(Image.open(out))
    assert len(np.unique(written)) > 2
    np.testing.assert_array_equal(written, np.rint(255 * matte))
    np.testing.assert_array_equal(np.asarray(Image.open(cut)), images.cutout(decontaminated(pixels, matte), matte))
    entry = json.loads(stdout)["masks"][0]
    np.testing.assert_array_equal(masks.rle_to_mask(entry["rle"]), refined_mask(found > 0, EDGES))


@pytest.mark.parametrize("background", ["blur", "pixelate", "grey", "checker", "#00b140", "red", "behind.png"])
def test_backgrounds_of_cutouts(
    photo: Path, nano: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, background: str
) -> None:
    monkeypatch.chdir(photo.parent)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)).save("behind.png")
    code, _, stderr = call(capsys, photo, *BOX, "--model", nano, "--cutout", "c.tif", "--background", background)
    assert (code, stderr) == (0, "")
    pixels = images.read(photo)
    height, width = pixels.shape[:2]
    grounds = {
        "blur": lambda: blurred(pixels),
        "pixelate": lambda: pixelated(pixels),
        "grey": lambda: desaturated(pixels),
        "checker": lambda: checkerboard(height, width),
        "#00b140": lambda: np.full_like(pixels, (0, 0xB1, 0x40)),
        "red": lambda: np.full_like(pixels, (255, 0, 0)),
        "behind.png": lambda: covering(images.read("behind.png"), height, width),
    }
    wanted = composed(pixels, (logits_of(photo, nano) > 0).astype(np.float32), grounds[background]())
    np.testing.assert_array_equal(np.asarray(Image.open("c.tif")), wanted)


def test_effects_in_place_of_the_object(
    photo: Path, nano: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    words = ["--foreground", "pixelate", "--background", "grey", "--feather", "2"]
    code, _, stderr = call(capsys, photo, *BOX, "--model", nano, "--cutout", "both.tif", *words)
    assert (code, stderr) == (0, "")
    assert call(capsys, photo, *BOX, "--model", nano, "--cutout", "one.tif", "--foreground", "blur")[0] == 0
    pixels, found = images.read(photo), logits_of(photo, nano)
    wanted = composed(pixelated(pixels), alpha(found, pixels, Edges(feather=2)), desaturated(pixels))
    np.testing.assert_array_equal(np.asarray(Image.open("both.tif")), wanted)
    one = np.asarray(Image.open("one.tif"))
    np.testing.assert_array_equal(one, np.where((found > 0)[..., None], blurred(pixels), pixels))


def test_a_pixelated_photo_has_squares_of_their_mean() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (67, 90, 3)).astype(np.uint8)
    found = pixelated(pixels)  # squares of 4 x 4, and what is left at the edges
    assert found.shape == pixels.shape
    for part in (np.s_[4:8, 8:12], np.s_[64:67, 88:90]):
        wanted = np.rint(pixels[part].mean((0, 1)))
        np.testing.assert_array_equal(found[part], np.broadcast_to(wanted, found[part].shape))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--foreground", "blur"], "--foreground stands in place of a cut-out: give --cutout PATH, too"),
        (["--foreground", "no-such", "--cutout", "c.png"], "--foreground no-such is no colour and no file"),
        (["--background", "blur"], "--background stands behind a cut-out: give --cutout PATH, too"),
        (["--background", "no-such", "--cutout", "c.png"], "--background no-such is no colour and no file"),
        (["--background", "clip.mp4", "--cutout", "c.png"], "films stand behind films"),
        (["--background", "broken.png", "--cutout", "c.png"], "broken.png is not an image"),
        (["--edge", "fuzzy"], "invalid choice: 'fuzzy'"),
        (["--grow", "1.5"], "'1.5' is not a whole number from -200 to 200"),
        (["--cutout", "c.jpg"], "its name must end in .png, .tif, .tiff"),
    ],
)
def test_bad_arguments(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(photo.parent)
    for name in ("clip.mp4", "broken.png"):
        Path(name).write_text("nothing")
    code, _, stderr = call(capsys, photo, *BOX, *args)
    assert code == 2
    assert message in one_line(stderr)


def test_a_background_covers_the_photo_and_keeps_its_shape() -> None:
    y, x = np.mgrid[:100, :200]
    picture = np.stack([x, y, y], axis=2).astype(np.uint8)
    fitted = covering(picture, 50, 50)  # the middle 100 x 100, half as large
    assert np.abs(fitted[25, :, 0].astype(int) - (50 + 2 * np.arange(50))).max() <= 2
    assert np.abs(fitted[:, 25, 1].astype(int) - 2 * np.arange(50)).max() <= 2

"""``segment --everything`` of one photo, run as a user runs it: pictures, masks, JSON, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlx_sam2 import images, masks
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from processes import ROOT
from segment_runs import FEW, FLAGS, call, everything, files, one_line

pytestmark = pytest.mark.usefixtures("remembered")
GONE = 2**22 + 1  # no process has that number


@pytest.fixture(scope="module")
def model(nano_of_small_masks: str) -> str:
    return nano_of_small_masks


# ---- one photo


def test_one_photo(photos: Path, model: str) -> None:
    """In a process of its own, with what the library gives beside it."""
    photo = photos / "b.png"
    environment = {**os.environ, "MLX_SAM2_BLAS": "0", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "mlx_sam2.segment", photo, "--everything", "--model", model, *map(str, FLAGS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    pixels = images.read(photo)
    records = SAM2AutomaticMaskGenerator.from_pretrained(model, **FEW).generate(pixels)
    assert len(records) > 3
    assert done.stdout == f"{photo}: {len(records)} masks -> {photos / 'b_overlay.png'}\n"
    expected = images.overlay_labels(pixels, masks.to_label_image(records))
    np.testing.assert_array_equal(images.read(photos / "b_overlay.png"), expected)


def test_json_and_files_of_one_photo(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out, drawn = photos / "b.png", tmp_path / "masks", tmp_path / "drawn.jpg"
    args = [photo, "--model", model, *FLAGS, "--json", "--output", out, "--overlay", drawn]
    code, stdout, stderr = everything(capsys, *args)
    assert (code, stderr) == (0, "")
    result = json.loads(stdout)
    records = SAM2AutomaticMaskGenerator.from_pretrained(model, **FEW).generate(images.read(photo))
    assert (result["image"], result["width"], result["height"]) == (str(photo), 80, 50)
    assert result["files"] == {"overlay": str(drawn)}
    assert Image.open(drawn).size == (80, 50)
    assert sorted(files(out)) == [f"b/{i:04d}.png" for i in range(len(records))]
    for i, (entry, record) in enumerate(zip(result["masks"], records, strict=True)):
        mask = masks.rle_to_mask(entry["rle"])
        np.testing.assert_array_equal(mask, record["segmentation"])
        assert entry["files"] == {"mask": str(out / "b" / f"{i:04d}.png")}
        np.testing.assert_array_equal(np.asarray(Image.open(entry["files"]["mask"])), 255 * mask)
        assert entry["area"] == mask.sum() == record["area"]
        assert entry["bbox"] == masks.mask_to_bbox(mask)
        assert entry["score"] == record["predicted_iou"]
        assert entry["stability_score"] == pytest.approx(record["stability_score"], nan_ok=True)
        assert (entry["point_coords"], entry["crop_box"]) == (record["point_coords"], record["crop_box"])
    # nothing is replaced unasked, and --overwrite leaves no mask of before
    code, _, stderr = everything(capsys, *args)
    assert code == 2
    assert "drawn.jpg exists" in one_line(stderr)
    code, _, stderr = everything(capsys, *args[:-2])
    assert code == 2
    assert f"{out / 'b'} holds masks already" in one_line(stderr)
    code, _, stderr = everything(capsys, *args, "--overwrite", "--nms", 0.3)
    assert (code, stderr) == (0, "")
    assert 0 < len(files(out)) < len(records)


def test_every_option_reaches_the_generator(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    class Generator:
        def generate(self, image: np.ndarray) -> list[object]:
            return []

    def from_pretrained(model: str, **options: object) -> Generator:
        seen.update(model=model, **options)
        return Generator()

    monkeypatch.setattr(SAM2AutomaticMaskGenerator, "from_pretrained", from_pretrained)
    code, stdout, _ = everything(capsys, photos / "b.png", "--model", "tiny", "--json")
    assert (code, json.loads(stdout)["masks"]) == (0, [])
    defaults = {
        "points_per_side": 32,
        "points_per_batch": 64,
        "pred_iou_thresh": 0.8,
        "stability_score_thresh": 0.95,
        "stability_score_offset": 1.0,
        "box_nms_thresh": 0.7,
        "crop_n_layers": 0,
        "crop_nms_thresh": 0.7,
        "crop_overlap_ratio": 512 / 1500,
        "crop_n_points_downscale_factor": 1,
        "min_mask_region_area": 0,
        "use_m2m": False,
    }
    rest = {"model": "tiny", "dtype": None, "revision": None, "output_mode": "coco_rle"}
    assert seen == {**defaults, **rest}
    changed = "--points-per-side 5 --points-per-batch 7 --pred-iou .1 --stability .2 --stability-offset .3 --nms .4"
    changed += " --crop-layers 2 --crop-nms .5 --crop-overlap .6 --crop-downscale 2 --min-area 9 --m2m"
    code, _, _ = everything(
        capsys, photos / "b.png", "--model", "tiny", "--json", "--dtype", "float16", *changed.split()
    )
    assert code == 0
    values = [5, 7, 0.1, 0.2, 0.3, 0.4, 2, 0.5, 0.6, 2, 9, True]
    assert seen == {**dict(zip(defaults, values, strict=True)), **rest, "dtype": "float16"}


def test_options_are_those_of_the_generator() -> None:
    """Defaults, and all arguments that a command can give."""
    import inspect

    from mlx_sam2.segment.options import OPTIONS

    theirs = {n: p.default for n, p in inspect.signature(SAM2AutomaticMaskGenerator).parameters.items()}
    for _, name, _, default, _ in OPTIONS:
        assert theirs.pop(name) == default
    left = {"model", "mask_threshold", "point_grids", "output_mode", "use_m2m", "multimask_output", "unknown"}
    assert set(theirs) == left


# ---- what it refuses


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["b.png", "--everything", "--point", "3,4"], "--point does not go with it"),
        (["b.png", "--everything", "--negative", "3,4"], "--negative does not go with it"),
        (["b.png", "--everything", "--box", "3,4,5,6"], "--box does not go with it"),
        (["b.png", "--everything", "--mask", "m.png"], "--mask does not go with it"),
        (["b.png", "--everything", "--multimask"], "--multimask does not go with it"),
        (["b.png", "--everything", "--cutout", "c.png"], "--cutout does not go with it"),
        (["b.png", "--point", "3,4", "--nms", "0.5"], "--nms belongs to --everything"),
        (["b.png", "--point", "3,4", "--crop-layers", "0"], "--crop-layers belongs to --everything"),
        (["b.png", "--everything", "--edge", "soft"], "--edge needs prompts"),
        (["b.png", "--everything", "--background", "blur"], "--background does not go with it"),
        (["b.png", "--point", "3,4", "--m2m"], "--m2m belongs to --everything"),
        (["b.png", "--point", "3,4", "--coco", "x.json"], "--coco belongs to --everything"),
        (["b.png", "--point", "3,4", "--merge"], "--merge belongs to --everything"),
        (["b.png", "--everything", "--points-per-side", "0"], "'0' is not a whole number from 1 to 1024"),
        (["b.png", "--everything", "--points-per-side", "3.5"], "'3.5' is not a whole number"),
        (["b.png", "--everything", "--points-per-batch", "0"], "'0' is not a whole number from 1 up"),
        (["b.png", "--everything", "--pred-iou", "1.5"], "'1.5' is not a number from 0 to 1"),
        (["b.png", "--everything", "--stability", "nan"], "'nan' is not a number from 0 to 1"),
        (["b.png", "--everything", "--nms", "-1"], "'-1' is not a number from 0 to 1"),
        (["b.png", "--everything", "--crop-layers", "5"], "'5' is not a whole number from 0 to 4"),
        (["b.png", "--everything", "--stability-offset", "inf"], "'inf' is not a number from 0 up"),
        (["absent.png", "--everything"], "no such image: absent.png"),
        (["b.png", "absent.png", "--everything"], "no such image: absent.png"),
        ([".", "absent", "--everything", "--coco", "out.json"], "no such image: absent"),
        (["cut.png", "--everything"], "cut.png is damaged or cut short"),
        (["b.png", "b.png", "--everything"], "b.png is named twice"),
        (["b.png", "twin/b.png", "--everything", "--output", "m"], "m/b would be of both b.png and twin/b.png"),
        (["b.png", "upper/B.png", "--everything", "--output", "m"], "m/B would be of both"),  # one folder on a Mac
        ([".", "--everything"], "where to? for a folder give --coco JSON"),
        (["twin/empty", "--everything", "--json"], "twin/empty holds no photos (.jpg,"),
        (["b.png", "--everything", "--output", "m.png"], "--output m.png must name a folder"),
        (["b.png", "--everything", "--output", "b.png"], "--output b.png must name a folder"),
        (["b.png", "--everything", "--output", "notes.txt"], "--output notes.txt is a file"),
        (["b.png", "--everything", "--output", "no/such"], "there is no folder no"),
        (["b.png", "--everything", "--overlay", "o.gif"], "its name must end in .png"),
        (["b.png", "--everything", "--overlay", "b.png", "--overwrite"], "b.png would be both a photo and a result"),
        (["b.png", "a.jpg", "--everything", "--overlay", "o.png"], "--overlay o.png must name a folder"),
        ([".", "--everything", "--overlay", "."], "is no name for an output"),
        ([".", "--everything", "--coco", "x.json", "--overlay", "."], "--overlay . is the folder of the photos"),
        ([".", "--everything", "--coco", "x.json", "--output", "x.json.parts"], "where the parts of this run are kept"),
        (["b.png", "--everything", "--coco", "x.txt"], "x.txt: its name must end in .json"),
        (["b.png", "--everything", "--coco", "no/x.json"], "there is no folder no"),
        (["b.png", "--everything", "--coco", "there.json"], "there.json exists: give another name, or --overwrite"),
        (["b.png", "--everything", "--merge"], "--merge needs --coco JSON"),
        (["b.png", "--everything", "--merge", "--coco", "x.json", "--json"], "leave out other outputs"),
        (["b.png", "--everything", "--merge", "--coco", "x.json"], "there is no folder x.json.parts"),
        (["b.png", "--everything", "--coco", "taken.json"], "taken.json.parts is needed for the parts of this run"),
        (["b.png", "--everything", "--coco", "taken.json", "--overwrite"], "but it is something else: move it away"),
        (["b.png", "--everything", "--model", "gigantic"], "no model is called 'gigantic'"),
    ],
)
def test_bad_arguments(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_model: None,
    args: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(photos)
    (photos / "cut.png").write_bytes((photos / "b.png").read_bytes()[:200])
    (photos / "there.json").write_text("{}")
    (photos / "taken.json.parts").mkdir()
    (photos / "taken.json.parts" / "thesis.txt").write_text("precious")
    (photos / "twin" / "empty").mkdir(parents=True)
    shutil.copy(photos / "b.png", photos / "twin" / "b.png")
    (photos / "upper").mkdir()
    shutil.copy(photos / "b.png", photos / "upper" / "B.png")
    before = files(tmp_path)
    code, stdout, stderr = call(capsys, *args)
    assert (code, stdout) == (2, "")
    assert words in one_line(stderr)
    assert files(tmp_path) == before

"""``segment --everything``, run as a user runs it: pictures, folders of masks, JSON, what it refuses, going on."""

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

import synthetic
from mlx_sam2 import images, masks
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.checkpoint import loading
from mlx_sam2.files import sweep_once
from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.segment import command as segment
from mlx_sam2.segment import parts as segment_parts

ROOT = Path(__file__).parents[2]
# Random weights are sure of nothing: every mask is kept but for those of one box.
FEW = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.9}
GONE = 2**22 + 1  # no process has that number
FLAGS = ["--points-per-side", 3, "--pred-iou", 0, "--stability", 0, "--nms", 0.9]


def small_masks(seed: int = 7) -> SAM2:
    """The nano model with logits lowered, so that masks are parts of a picture and many differ."""
    overrides = {key: dict(value) for key, value in synthetic.NANO_OVERRIDES.items()}
    for i in range(4):
        overrides.setdefault(f"sam_mask_decoder.output_hypernetworks_mlps.{i}.layers.2.bias", {})["add"] = -2.6
    return synthetic.nano_model(seed, overrides)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "nano"
    loading.save(small_masks(), folder)
    return str(folder)


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most tests are about files: what the model finds in a photo is computed once for all of them."""
    load, generate = SAM2AutomaticMaskGenerator.from_pretrained, SAM2AutomaticMaskGenerator.generate

    def from_pretrained(model: str, **options: object) -> SAM2AutomaticMaskGenerator:
        key = (model, *sorted(options.items()))
        if key not in LOADED:
            LOADED[key] = load(model, **options)
        return LOADED[key]

    def find(self: SAM2AutomaticMaskGenerator, image: np.ndarray) -> list[dict[str, object]]:
        key = (id(self), image.shape, image.tobytes())
        if key not in FOUND:
            FOUND[key] = generate(self, image)
        return FOUND[key]

    monkeypatch.setattr(SAM2AutomaticMaskGenerator, "from_pretrained", from_pretrained)
    monkeypatch.setattr(SAM2AutomaticMaskGenerator, "generate", find)


LOADED: dict[tuple[object, ...], SAM2AutomaticMaskGenerator] = {}
FOUND: dict[tuple[object, ...], list[dict[str, object]]] = {}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of four photos, and things that are none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(["b.png", "a.jpg", "d.PNG", "c.webp"]):
        Image.fromarray(synthetic.picture(50 + 10 * i, 80, seed=i)).save(folder / name)
    (folder / "notes.txt").write_text("no photo")
    (folder / "._a.jpg").write_bytes(b"what macOS leaves on other disks")
    (folder / "old.png").mkdir()
    return folder


def call(capsys: pytest.CaptureFixture[str], *args: object, everything: bool = True) -> tuple[int, str, str]:
    try:
        code = segment.main([*(str(a) for a in args), *(["--everything"] if everything else [])])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_line(text: str) -> str:
    assert text.startswith("mlx_sam2.segment: error: "), text
    assert text.count("\n") == 1, text
    return text


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SAM2AutomaticMaskGenerator, "from_pretrained", lambda *_, **__: pytest.fail("model loaded"))


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
    code, stdout, stderr = call(capsys, *args)
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
    code, _, stderr = call(capsys, *args)
    assert code == 2
    assert "drawn.jpg exists" in one_line(stderr)
    code, _, stderr = call(capsys, *args[:-2])
    assert code == 2
    assert f"{out / 'b'} holds masks already" in one_line(stderr)
    code, _, stderr = call(capsys, *args, "--overwrite", "--nms", 0.3)
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
    code, stdout, _ = call(capsys, photos / "b.png", "--model", "tiny", "--json")
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
    code, _, _ = call(capsys, photos / "b.png", "--model", "tiny", "--json", "--dtype", "float16", *changed.split())
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
    assert set(theirs) == {"model", "mask_threshold", "point_grids", "output_mode", "use_m2m", "multimask_output"}


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
        (["b.png", "--point", "3,4", "--min-area", "0"], "--min-area belongs to --everything"),
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
    code, stdout, stderr = call(capsys, *args, everything=False)
    assert (code, stdout) == (2, "")
    assert words in one_line(stderr)
    assert files(tmp_path) == before


# ---- a folder


def test_a_folder(photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, drawn, coco = tmp_path / "masks", tmp_path / "drawn", tmp_path / "out.json"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    code, stdout, stderr = call(capsys, *args, "--output", out, "--overlay", drawn)
    assert (code, stderr) == (0, "")
    assert [line.split(":")[0] for line in stdout.splitlines()] == [
        *(str(photos / name) for name in ("a.jpg", "b.png", "c.webp", "d.PNG")),
        str(coco),
    ]
    data = json.loads(coco.read_text())
    assert [(image["id"], image["file_name"]) for image in data["images"]] == [
        (1, "a.jpg"), (2, "b.png"), (3, "c.webp"), (4, "d.PNG"),
    ]  # fmt: skip
    assert sorted(path.name for path in drawn.iterdir()) == [f"{stem}_overlay.png" for stem in "abcd"]
    assert len(files(out)) == len(data["annotations"])
    assert data["info"]["settings"]["box_nms_thresh"] == 0.9


def test_again_does_nothing_and_needs_no_model(
    photos: Path,
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    coco = tmp_path / "out.json"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    assert call(capsys, *args)[0] == 0
    expected = coco.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(SAM2AutomaticMaskGenerator, "from_pretrained", lambda *_, **__: pytest.fail("model loaded"))
        code, stdout, _ = call(capsys, *args, "--points-per-batch", 2)  # which changes memory, not results
        assert code == 0
        assert stdout.splitlines()[0] == "4 of 4 were done before"
        # outputs that were not asked for before are made from what is done
        code, stdout, _ = call(capsys, *args, "--output", tmp_path / "masks", "--overlay", tmp_path / "drawn")
        assert code == 0
        assert len(files(tmp_path / "masks")) == len(json.loads(expected)["annotations"])
        (tmp_path / "drawn" / "b_overlay.png").unlink()
        assert call(capsys, *args, "--overlay", tmp_path / "drawn")[0] == 0
        assert len(files(tmp_path / "drawn")) == 4
        code, stdout, _ = call(capsys, *args, "--json")
        assert [Path(json.loads(line)["image"]).name for line in stdout.splitlines()] == [
            "a.jpg", "b.png", "c.webp", "d.PNG",
        ]  # fmt: skip
        coco.unlink()
        assert call(capsys, *args)[0] == 0
        assert coco.read_bytes() == expected
        shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}_moved"))  # with new times
        os.utime(photos / "b.png")
        assert call(capsys, *args)[0] == 0
    assert coco.read_bytes() == expected


def test_new_and_changed_photos_are_done(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco, out = tmp_path / "out.json", tmp_path / "masks"
    args = [photos, "--model", model, *FLAGS, "--coco", coco, "--output", out]
    assert call(capsys, *args)[0] == 0
    before = json.loads(coco.read_text())
    Image.fromarray(synthetic.picture(64, 64, seed=9)).save(photos / "aa.png")
    Image.fromarray(synthetic.picture(33, 44, seed=10)).save(photos / "b.png")
    (photos / "d.PNG").unlink()
    code, stdout, _ = call(capsys, *args)
    assert code == 0
    assert "2 of 4 were done before" in stdout
    after = json.loads(coco.read_text())
    assert [image["file_name"] for image in after["images"]] == ["a.jpg", "aa.png", "b.png", "c.webp"]
    assert after["images"][2]["height"] == 33
    assert after["images"][0] == before["images"][0]
    assert {Image.open(path).size for path in (out / "b").iterdir()} == {(44, 33)}
    # as many bytes as before, other pixels
    bitmap = photos / "b.bmp"
    (photos / "b.png").unlink()
    for seed in (11, 12):
        Image.fromarray(synthetic.picture(32, 32, seed=seed)).save(bitmap)
        code, stdout, _ = call(capsys, *args[:-2])
        assert (code, "3 of 4 were done before" in stdout) == (0, True)


def test_damaged_parts_are_made_again(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = tmp_path / "out.json"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    assert call(capsys, *args)[0] == 0
    expected = coco.read_bytes()
    parts = sorted((tmp_path / "out.json.parts").glob("*.jsonl"))
    whole = parts[0].read_bytes()
    parts[0].write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # a mask is missing
    parts[1].write_bytes(parts[1].read_bytes()[:-20])
    parts[2].write_bytes(b"")  # as after a power failure
    code, stdout, _ = call(capsys, *args)
    assert (code, "1 of 4 were done before" in stdout) == (0, True)
    assert coco.read_bytes() == expected
    assert parts[0].read_bytes() == whole


def test_other_settings_are_not_mixed(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = tmp_path / "out.json"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    assert call(capsys, *args)[0] == 0
    before = files(tmp_path)
    code, stdout, stderr = call(capsys, *args, "--nms", 0.5, "--m2m")
    assert (code, stdout) == (2, "")
    assert "other settings (box_nms_thresh 0.9, now 0.5, use_m2m False, now True): give the same" in one_line(stderr)
    other = tmp_path / "other"
    loading.save(small_masks(seed=2), other)
    code, _, stderr = call(capsys, *args, "--model", other)
    assert code == 2
    assert "was begun with other settings (model sha256" in one_line(stderr)
    shutil.rmtree(other)
    assert files(tmp_path) == before
    shutil.copytree(model, tmp_path / "copy")
    code, stdout, _ = call(capsys, *args, "--model", tmp_path / "copy")  # the same model elsewhere
    assert (code, stdout.splitlines()[0]) == (0, "4 of 4 were done before")
    code, stdout, _ = call(capsys, *args, "--nms", 0.5, "--overwrite")
    assert code == 0
    assert "done before" not in stdout
    assert json.loads(coco.read_text())["info"]["settings"]["box_nms_thresh"] == 0.5
    # parts of two runs in one folder
    (part, *_) = (path for path in before if path.endswith(".jsonl"))
    (tmp_path / part).write_bytes(before[part])
    code, _, stderr = call(capsys, *args, "--nms", 0.5)
    assert code == 2
    assert "holds parts of different settings" in one_line(stderr)


def test_others_files_are_kept(photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, out, drawn = tmp_path / "out.json", tmp_path / "masks", tmp_path / "drawn"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    assert call(capsys, *args)[0] == 0
    coco.write_text("edited by hand")
    code, _, stderr = call(capsys, *args)
    assert code == 2
    assert "out.json exists" in one_line(stderr)
    assert coco.read_text() == "edited by hand"
    coco.unlink()
    for folder, name in ((out, "b/0000.png"), (drawn, "b_overlay.png")):  # of another run, though all is done here
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"precious")
    for options in (["--output", out], ["--overlay", drawn]):
        before = files(tmp_path)
        code, _, stderr = call(capsys, *args, *options)
        assert code == 2
        assert "--overwrite" in one_line(stderr)
        assert files(tmp_path) == before
    # one of the outputs is this run's, the other is not; then a photo that is new
    own = tmp_path / "own"
    assert call(capsys, *args, "--output", own)[0] == 0
    assert call(capsys, *args, "--overlay", own)[0] == 0
    for options in (["--output", own, "--overlay", drawn], ["--output", out, "--overlay", own], ["--overlay", own]):
        if len(options) == 2:
            Image.fromarray(synthetic.picture(40, 40)).save(photos / "e.png")
            (own / "e_overlay.png").write_bytes(b"precious")
        before = files(tmp_path)
        code, _, stderr = call(capsys, *args, *options)
        assert code == 2
        assert "--overwrite" in one_line(stderr)
        assert files(tmp_path) == before


def test_unreadable_photos_are_reported_and_the_others_done(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = tmp_path / "out.json"
    (photos / "bad.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    (photos / "zero.png").write_bytes(b"")
    (photos / "broken.png").symlink_to("nowhere.png")
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    code, stdout, stderr = call(capsys, *args)
    assert code == 1
    assert stdout.splitlines()[-1].startswith(f"{coco}: 4 of 7 photos, ")
    lines = stderr.splitlines()
    assert [line.split(str(photos) + "/")[1].split()[0] for line in lines] == ["bad.jpg", "broken.png", "zero.png"]
    assert all(line.startswith("mlx_sam2.segment: error: ") for line in lines)
    partial = coco.read_bytes()
    for name in ("bad.jpg", "zero.png", "broken.png"):
        (photos / name).unlink()
    assert call(capsys, *args)[0] == 0
    assert coco.read_bytes() == partial  # numbers are those of the photos that could be done
    Image.fromarray(synthetic.picture(40, 40)).save(photos / "bad.jpg")
    code, stdout, _ = call(capsys, *args)
    assert (code, len(json.loads(coco.read_text())["images"])) == (0, 5)


def test_a_folder_without_coco_goes_on_too(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [photos, "--model", model, *FLAGS, "--overlay", tmp_path / "drawn"]
    real, count = SAM2AutomaticMaskGenerator.generate, []

    def generate(self: SAM2AutomaticMaskGenerator, image: np.ndarray) -> list[dict[str, object]]:
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(SAM2AutomaticMaskGenerator, "generate", generate)
    code, _, stderr = call(capsys, *args, "--overwrite")
    assert (code, stderr) == (130, "stopped: 2 of 4 photos are done; the same command without --overwrite goes on\n")
    code, stdout, _ = call(capsys, *args)
    assert code == 0
    assert "2 of 4 were done before" in stdout
    assert len(count) == 5
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [f"{stem}_overlay.png" for stem in "abcd"]
    assert (tmp_path / "drawn.parts").is_dir()


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
            assert call(capsys, *args, "--output", out / "masks", "--overlay", out / "drawn")[0] == 0
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
        code, _, stderr = call(capsys, *args)
    assert code == 1
    assert "No space left on device" in one_line(stderr)
    code, stdout, _ = call(capsys, *args)
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
    code, stdout, stderr = call(capsys, photos, "--model", model, *FLAGS, "--coco", tmp_path / "out.json")
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
        code, stdout, stderr = call(capsys, named, "--model", model, *FLAGS, *args)
        assert (code, stderr) == (0, "")
        text = stdout if args == ["--json"] else (tmp_path / "out.json").read_text("ascii")
        data = json.loads(text, parse_constant=lambda name: pytest.fail(name))
        (mask,) = data.get("annotations") or data["masks"]
        assert (mask["stability_score"], mask["bbox"], mask["area"]) == (None, [0, 0, 0, 0], 0)
        assert (data["images"][0]["file_name"] if "images" in data else data["image"]) == named.as_posix()
    assert not np.asarray(Image.open(tmp_path / "masks" / named.stem / "0000.png")).any()

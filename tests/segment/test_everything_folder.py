"""``segment --everything`` of a folder: what it makes, and how it goes on with what is done."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synthetic
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.checkpoint import loading
from segment_runs import FLAGS, everything, files, one_line, small_masks

pytestmark = pytest.mark.usefixtures("remembered")
GONE = 2**22 + 1  # no process has that number


@pytest.fixture(scope="module")
def model(nano_of_small_masks: str) -> str:
    return nano_of_small_masks


# ---- a folder


def test_a_folder(photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, drawn, coco = tmp_path / "masks", tmp_path / "drawn", tmp_path / "out.json"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    code, stdout, stderr = everything(capsys, *args, "--output", out, "--overlay", drawn)
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
    assert everything(capsys, *args)[0] == 0
    expected = coco.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(SAM2AutomaticMaskGenerator, "from_pretrained", lambda *_, **__: pytest.fail("model loaded"))
        code, stdout, _ = everything(capsys, *args, "--points-per-batch", 2)  # which changes memory, not results
        assert code == 0
        assert stdout.splitlines()[0] == "4 of 4 were done before"
        # outputs that were not asked for before are made from what is done
        code, stdout, _ = everything(capsys, *args, "--output", tmp_path / "masks", "--overlay", tmp_path / "drawn")
        assert code == 0
        assert len(files(tmp_path / "masks")) == len(json.loads(expected)["annotations"])
        (tmp_path / "drawn" / "b_overlay.png").unlink()
        assert everything(capsys, *args, "--overlay", tmp_path / "drawn")[0] == 0
        assert len(files(tmp_path / "drawn")) == 4
        code, stdout, _ = everything(capsys, *args, "--json")
        assert [Path(json.loads(line)["image"]).name for line in stdout.splitlines()] == [
            "a.jpg", "b.png", "c.webp", "d.PNG",
        ]  # fmt: skip
        coco.unlink()
        assert everything(capsys, *args)[0] == 0
        assert coco.read_bytes() == expected
        shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}_moved"))  # with new times
        os.utime(photos / "b.png")
        assert everything(capsys, *args)[0] == 0
    assert coco.read_bytes() == expected


def test_new_and_changed_photos_are_done(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco, out = tmp_path / "out.json", tmp_path / "masks"
    args = [photos, "--model", model, *FLAGS, "--coco", coco, "--output", out]
    assert everything(capsys, *args)[0] == 0
    before = json.loads(coco.read_text())
    Image.fromarray(synthetic.picture(64, 64, seed=9)).save(photos / "aa.png")
    Image.fromarray(synthetic.picture(33, 44, seed=10)).save(photos / "b.png")
    (photos / "d.PNG").unlink()
    code, stdout, _ = everything(capsys, *args)
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
        code, stdout, _ = everything(capsys, *args[:-2])
        assert (code, "3 of 4 were done before" in stdout) == (0, True)


def test_damaged_parts_are_made_again(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = tmp_path / "out.json"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    assert everything(capsys, *args)[0] == 0
    expected = coco.read_bytes()
    parts = sorted((tmp_path / "out.json.parts").glob("*.jsonl"))
    whole = parts[0].read_bytes()
    parts[0].write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # a mask is missing
    parts[1].write_bytes(parts[1].read_bytes()[:-20])
    parts[2].write_bytes(b"")  # as after a power failure
    code, stdout, _ = everything(capsys, *args)
    assert (code, "1 of 4 were done before" in stdout) == (0, True)
    assert coco.read_bytes() == expected
    assert parts[0].read_bytes() == whole


def test_other_settings_are_not_mixed(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    coco = tmp_path / "out.json"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    assert everything(capsys, *args)[0] == 0
    before = files(tmp_path)
    code, stdout, stderr = everything(capsys, *args, "--nms", 0.5, "--m2m")
    assert (code, stdout) == (2, "")
    assert "other settings (box_nms_thresh 0.9, now 0.5, use_m2m False, now True): give the same" in one_line(stderr)
    other = tmp_path / "other"
    loading.save(small_masks(seed=2), other)
    code, _, stderr = everything(capsys, *args, "--model", other)
    assert code == 2
    assert "was begun with other settings (model sha256" in one_line(stderr)
    shutil.rmtree(other)
    assert files(tmp_path) == before
    shutil.copytree(model, tmp_path / "copy")
    code, stdout, _ = everything(capsys, *args, "--model", tmp_path / "copy")  # the same model elsewhere
    assert (code, stdout.splitlines()[0]) == (0, "4 of 4 were done before")
    code, stdout, _ = everything(capsys, *args, "--nms", 0.5, "--overwrite")
    assert code == 0
    assert "done before" not in stdout
    assert json.loads(coco.read_text())["info"]["settings"]["box_nms_thresh"] == 0.5
    # parts of two runs in one folder
    (part, *_) = (path for path in before if path.endswith(".jsonl"))
    (tmp_path / part).write_bytes(before[part])
    code, _, stderr = everything(capsys, *args, "--nms", 0.5)
    assert code == 2
    assert "holds parts of different settings" in one_line(stderr)


def test_others_files_are_kept(photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco, out, drawn = tmp_path / "out.json", tmp_path / "masks", tmp_path / "drawn"
    args = [photos, "--model", model, *FLAGS, "--coco", coco]
    assert everything(capsys, *args)[0] == 0
    coco.write_text("edited by hand")
    code, _, stderr = everything(capsys, *args)
    assert code == 2
    assert "out.json exists" in one_line(stderr)
    assert coco.read_text() == "edited by hand"
    coco.unlink()
    for folder, name in ((out, "b/0000.png"), (drawn, "b_overlay.png")):  # of another run, though all is done here
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"precious")
    for options in (["--output", out], ["--overlay", drawn]):
        before = files(tmp_path)
        code, _, stderr = everything(capsys, *args, *options)
        assert code == 2
        assert "--overwrite" in one_line(stderr)
        assert files(tmp_path) == before
    # one of the outputs is this run's, the other is not; then a photo that is new
    own = tmp_path / "own"
    assert everything(capsys, *args, "--output", own)[0] == 0
    assert everything(capsys, *args, "--overlay", own)[0] == 0
    for options in (["--output", own, "--overlay", drawn], ["--output", out, "--overlay", own], ["--overlay", own]):
        if len(options) == 2:
            Image.fromarray(synthetic.picture(40, 40)).save(photos / "e.png")
            (own / "e_overlay.png").write_bytes(b"precious")
        before = files(tmp_path)
        code, _, stderr = everything(capsys, *args, *options)
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
    code, stdout, stderr = everything(capsys, *args)
    assert code == 1
    assert stdout.splitlines()[-1].startswith(f"{coco}: 4 of 7 photos, ")
    lines = stderr.splitlines()
    assert [line.split(str(photos) + "/")[1].split()[0] for line in lines] == ["bad.jpg", "broken.png", "zero.png"]
    assert all(line.startswith("mlx_sam2.segment: error: ") for line in lines)
    partial = coco.read_bytes()
    for name in ("bad.jpg", "zero.png", "broken.png"):
        (photos / name).unlink()
    assert everything(capsys, *args)[0] == 0
    assert coco.read_bytes() == partial  # numbers are those of the photos that could be done
    Image.fromarray(synthetic.picture(40, 40)).save(photos / "bad.jpg")
    code, stdout, _ = everything(capsys, *args)
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
    code, _, stderr = everything(capsys, *args, "--overwrite")
    assert (code, stderr) == (130, "stopped: 2 of 4 photos are done; the same command without --overwrite goes on\n")
    code, stdout, _ = everything(capsys, *args)
    assert code == 0
    assert "2 of 4 were done before" in stdout
    assert len(count) == 5
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [f"{stem}_overlay.png" for stem in "abcd"]
    assert (tmp_path / "drawn.parts").is_dir()

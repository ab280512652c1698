"""tools/demo_model, in small: scenes, films and the way of the weights into the package."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from mlx.utils import tree_flatten

import mlx_sam2

TOOLS = Path(__file__).parents[2] / "tools" / "demo_model"
UNSEEN = 977_001

pytest.importorskip("skimage", reason="its textures come with scikit-image: pip install -e '.[test]'")


def tool(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module(name)


@pytest.mark.slow
def test_scenes_are_those_of_their_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = tool("pool", monkeypatch)
    first, again = (pool.render_stills(UNSEEN, count) for count in (3, 2))
    assert first.shape == (3, 256, 256, 5)
    assert np.array_equal(first[:2], again)
    assert not np.array_equal(first[0], first[1])
    assert pool.seed_of(UNSEEN, 0).integers(1 << 60) != pool.seed_of(UNSEEN + 1, 0).integers(1 << 60)


@pytest.mark.slow
def test_a_scene_shows_its_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without light, blur and noise the pixels outside all masks are the background's, and only those."""
    scenes, pool = tool("scenes", monkeypatch), tool("pool", monkeypatch)
    textures = tool("textures", monkeypatch)
    canvas = scenes._Canvas(np.full((256, 256, 3), 7.0, np.float32))
    rng, bank = pool.seed_of(UNSEEN, 0), textures.TextureBank(UNSEEN)
    for _ in range(4):
        sprite = scenes.make_sprite(rng, bank, 60)
        x, y = rng.integers(20, 236, 2)
        canvas.put(sprite, int(x), int(y), None)
    touched = (canvas.rgb != 7).any(2)
    assert set(np.unique(canvas.ids)) == {0, 1, 2, 3, 4}
    assert touched[canvas.ids > 0].mean() > 0.99
    assert touched[canvas.ids == 0].mean() < 0.02  # the soft rims
    assert canvas.ids[canvas.parts > 0].min(initial=1) > 0, "a part lies outside its object"


@pytest.mark.slow
def test_the_masks_of_a_clip_follow_its_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is the same object on every frame: its pixels keep their colour and its place changes little by little."""
    pool = tool("pool", monkeypatch)
    clips = pool.render_clips(UNSEEN, 4, 16)
    followed = 0
    for clip in clips:
        pixels, ids = clip[..., :3].astype(np.float32), clip[..., 3]
        for name in np.unique(ids[0])[1:]:
            here, there = ids[0] == name, ids[1] == name
            if min(here.sum(), there.sum()) < 400:
                continue
            followed += 1
            assert np.abs(pixels[0][here].mean(0) - pixels[1][there].mean(0)).max() < 25
            moved = np.argwhere(here).mean(0) - np.argwhere(there).mean(0)
            assert np.hypot(*moved) < 50  # there and back in 16 frames
    assert followed >= 4


def test_training_never_renders_the_seeds_of_evaluation_and_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "data"))
    pool, made = tool("pool", monkeypatch), importlib.import_module("make_demo_scenes")
    evaluated = {pool.EVAL_FIRST + n for n in range(0, 100, 10)}
    assert made.SEED > pool.EVAL_FIRST
    assert made.SEED not in evaluated


def test_figures_of_the_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small cases whose answers are known."""
    evaluate = tool("evaluate", monkeypatch)
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    top = left.T
    assert evaluate.iou(left, top) == pytest.approx(16 / 48)
    assert evaluate.deepest(left) in {(x, y) for x in (1.0, 2.0) for y in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)}
    assert evaluate.box_of(left).tolist() == [0, 0, 3, 7]
    assert evaluate.auc(np.array([3.0, 2.0]), np.array([1.0, 2.5])) == pytest.approx(0.75)
    text = evaluate.table({"box": 0.5, "coins with IoU >= 0.85, of 24": 24})
    assert "| box | 0.500 | 0.9 missed |" in text
    assert "| 24 | 20 reached |" in text


def test_every_bar_must_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    tune = tool("tune", monkeypatch)
    before = {"box": 0.93, "one click, chosen": 0.9, "coins with IoU >= 0.85, of 24": 24, "targets": 6}
    assert tune.not_risen(before, before) == ["box", "one click, chosen"]
    assert tune.not_risen(before, before | {"box": 0.94, "one click, chosen": 0.91}) == []
    fallen = before | {"box": 0.94, "one click, chosen": 0.91, "coins with IoU >= 0.85, of 24": 23}
    assert tune.not_risen(before, fallen) == ["coins with IoU >= 0.85, of 24"]


def test_the_coins(monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels in tests/data are those of the classical segmentation that the evaluation uses."""
    import demo_scenes

    photo, truths = tool("evaluate", monkeypatch).classical_coins()
    stored, labels = demo_scenes.coins()
    assert np.array_equal(photo, stored)
    assert len(labels) == 24
    assert all(np.array_equal(a, b) for a, b in zip(truths, labels, strict=True))


@pytest.mark.slow
def test_the_evaluation_of_the_package(tmp_path: Path) -> None:
    """As it is run, on two scenes and one short clip of the model in the package; the table has every bar."""
    command = [sys.executable, TOOLS / "evaluate.py", "--stills", "2", "--clips", "1", "--length", "3"]
    done = subprocess.run([*command, "--json", tmp_path / "bars.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "bars.json").read_text())
    assert values["box"] > 0.3
    assert values["coins with IoU >= 0.85, of 24"] >= 15
    for name in ("one click, best of three", "clips, J&F above no memory", "object score, AUC"):
        assert f"| {name} | " in done.stdout


# ---- the way of the weights, with the official modules


@pytest.fixture
def torch() -> ModuleType:
    reason = "needs the oracle packages: see Oracle tests in CONTRIBUTING.md"
    pytest.importorskip("sam2", reason=reason)
    return pytest.importorskip("torch", reason=reason)


def test_the_loss_compares_pixels_of_the_picture(torch: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth pixel of the answer at the picture's size, each as likely as the others."""
    losses = tool("losses", monkeypatch)
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 8, 8), torch.rand(2, 32, 32) > 0.5
    full = torch.nn.functional.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)
    seen = set()
    for _ in range(200):
        answer, truth = losses.sampled(logits, targets, 4)
        places = [
            (y, x)
            for y in range(4)
            for x in range(4)
            if torch.allclose(answer, full[..., y::4, x::4], atol=1e-5)  # noise 5e-7
            and torch.equal(truth[:, 0] > 0, targets[:, y::4, x::4])
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 16


def test_from_training_to_mlx(torch: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights as a run leaves them -> export -> load: the official modules and ours give the same masks."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import model as official
    from export import export

    torch.manual_seed(0)
    trained = official.build().eval()
    torch.save({"average": trained.state_dict()}, tmp_path / "memory.pt")
    count = export(tmp_path / "memory.pt", tmp_path / "demo.pt")
    ours = mlx_sam2.load(tmp_path / "demo.pt", config=tmp_path / "demo.yaml", dtype="float32")
    fixed = ours.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.size  # a buffer in PyTorch
    assert count + fixed == sum(value.size for _, value in tree_flatten(ours.parameters()))
    predictor = mlx_sam2.SAM2ImagePredictor(ours)
    image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    predictor.set_image(image)
    _, scores, logits = predictor.predict([(90, 140)], [1])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        maps, _ = official.encode(trained, pixels)
        maps[2] = maps[2] + trained.no_mem_embed.reshape(1, -1, 1, 1)
        click = torch.tensor([[[90.0, 140.0]]]), torch.tensor([[1]], dtype=torch.int32)
        found = official.decode(trained, maps, click, None)
    masks = found.masks[0, 1:].clamp(-32, 32).numpy()  # as the predictor gives them
    assert np.abs(logits - masks).max() < 1e-4 * np.abs(masks).max()
    assert np.abs(scores - found.ious[0, 1:].numpy()).max() < 1e-4


@pytest.mark.slow
def test_mlx_lays_objects_over_one_another_as_numpy_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three objects at their size in the bank: pictures within one step of 255, numbers of objects the same."""
    scenes, render = tool("scenes", monkeypatch), tool("render", monkeypatch)
    bank = render.make_bank(UNSEEN, 24, 6)
    rng = np.random.default_rng(UNSEEN)
    drawn = render._scenes(rng, bank, render._objects(rng, bank, np.full((1, 3), float(render.SPRITE))))
    drawn.finish[0] = scenes.Finish(False, 1.0, 0.0, 0.0, 0.0, False)
    drawn.edge[0, 2], drawn.lit[:] = 1e4, 1
    objects = drawn.objects
    objects.angle[:] = objects.light[:] = objects.shadow[:] = 0
    objects.centre[0] = (100, 90), (150, 140), (4, 200)
    for skins in (drawn.ground, objects.skin, objects.inner):
        skins.place[:], skins.order[:] = np.floor(skins.place), [2, 0, 1]
    picture, ids = (np.array(array)[0] for array in render.render(bank, drawn, 0))

    def skin(skins: object, i: int, side: int) -> np.ndarray:
        x, y = skins.place[i].astype(int)
        tile = np.array(bank.tiles)[skins.tile[i]].astype(np.float32)
        cut, mean = tile[y : y + side, x : x + side][..., skins.order[i]], tile.mean((0, 1))[skins.order[i]]
        strength = skins.strength[i]
        return (cut - mean) * strength + (1 - strength) * skins.colour[i] + strength * mean

    canvas = scenes._Canvas(skin(drawn.ground, 0, 256))
    for i in range(3):
        planes = np.array(bank.sprites)[objects.sprite[0, i]].astype(np.float32)
        outer, inner = (skin(skins, i, render.SPRITE) for skins in (objects.skin, objects.inner))
        rgb = np.where(planes[..., render.PART :] > 0.5, inner, outer)
        x, y = objects.centre[0, i].astype(int)
        sprite = scenes.Sprite(rgb, planes[..., render.ALPHA], np.zeros(rgb.shape[:2], np.uint8))
        canvas.put(sprite, int(x), int(y), None)
    assert np.array_equal(ids, canvas.ids)
    assert np.abs(picture.astype(int) - canvas.rgb.clip(0, 255).astype(np.uint8)).max() <= 1
    assert len(np.unique(ids)) == 4


@pytest.mark.slow
def test_clips_that_mlx_renders_keep_their_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    render = tool("render", monkeypatch)
    bank = render.make_bank(UNSEEN, 24, 6)
    drawn = render.draw_clips(np.random.default_rng(7), bank, 1, 3)
    sprites, still = drawn.objects.sprite, render.draw_stills(np.random.default_rng(7), bank, 4)
    assert (sprites == sprites[:1]).all()
    assert ((still.objects.size > 0).sum(1) >= 2).all()
    frames, ids = (np.array(array) for array in render.render(bank, drawn, 0))
    assert frames.shape == (3, 256, 256, 3)
    pixels = frames.astype(np.float32)
    for name in np.unique(ids[0])[1:]:
        here, there = ids[0] == name, ids[1] == name
        if min(here.sum(), there.sum()) > 400:
            assert np.abs(pixels[0][here].mean(0) - pixels[1][there].mean(0)).max() < 25


@pytest.mark.slow
def test_training_with_our_own_trainer(tmp_path: Path) -> None:
    """tune.py, tiny: a shard of scenes and of clips, two steps of each, an evaluation of two scenes, the verdict."""
    words = ["--shards", "1", "--steps", "2", "--batch", "1", "--jobs", "2", "--stills", "2", "--clips", "0"]
    command = [sys.executable, str(TOOLS / "tune.py"), str(tmp_path), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "stills: step 1, loss" in done.stdout and "clips: step 1, loss" in done.stdout
    assert "ship" in done.stdout.splitlines()[-1]
    assert (tmp_path / "clips-fp32" / "model.safetensors").is_file()

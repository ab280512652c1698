"""Ten ways in which scripts use the official package, here with nothing but the import changed.

Each script of this folder is written for ``sam2``. It runs on the demo model with ``mlx_sam2`` in the imports; and
beside the official package, on the same synthetic weights, where that is installed.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import synthetic
from mlx_sam2.checkpoint.loading import save

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
PATTERNS = sorted(path.stem for path in HERE.glob("*.py") if not path.stem.startswith("test_"))
SAME = 0.995  # IoU of masks; float32 of both sides differs on edges alone, memories are rounded to bfloat16


def run(name: str, package: str, **given: Any) -> dict[str, np.ndarray]:
    """The results of a script with the imports of a package."""
    text = (HERE / f"{name}.py").read_text()
    namespace = {"RESULT": {}, "TENSOR": np.asarray, "DEVICE": "cpu", **given}
    exec(compile(text.replace("from sam2", f"from {package}"), f"{name}.py", "exec"), namespace)
    return {key: np.asarray(value) for key, value in namespace["RESULT"].items()}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A photo of coins, another picture, and six frames that move over the coins."""
    folder = tmp_path_factory.mktemp("inputs")
    coins = Image.open(EXAMPLES / "coins.png").convert("RGB")
    (folder / "frames").mkdir()
    files = []
    for t in range(6):
        files.append(str(folder / "frames" / f"{t:05d}.jpg"))
        coins.crop((150 + 2 * t, 40, 342 + 2 * t, 200)).save(files[-1], quality=95)
    coins.crop((150, 40, 342, 200)).save(folder / "photo.png")
    Image.fromarray(synthetic.picture(30, 40)).save(folder / "other.png")
    return {
        "PHOTO": str(folder / "photo.png"),
        "OTHER": str(folder / "other.png"),
        "FRAMES": str(folder / "frames"),
        "FRAME_FILES": files,
        "SIZE": (160, 192),
        "POINT": [121, 79],
        "BOX": [92, 52, 148, 108],
    }


def test_there_are_ten() -> None:
    assert len(PATTERNS) == 10


@pytest.mark.parametrize("name", PATTERNS)
def test_on_the_demo_model(name: str, inputs: dict[str, Any]) -> None:
    import mlx_sam2

    demo = Path(mlx_sam2.__file__).parent / "demo"
    found = run(name, "mlx_sam2", CONFIG=str(demo / "config.json"), CHECKPOINT=str(demo), **inputs)
    assert found
    for key, value in found.items():
        assert value.dtype == bool or np.isfinite(value).all(), key
    if name in ("image_notebook", "video_notebook"):  # the coin that was clicked on, about 45 pixels wide
        mask = found["click"] if name == "image_notebook" else found["tracked"][0]
        assert 1200 < mask.sum() < 2600 and mask[79, 121]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Synthetic weights as both packages read them: a folder here, a configuration there."""
    folder = tmp_path_factory.mktemp("nano")
    save(synthetic.nano_model(), folder / "model")
    (folder / "nano.json").write_text(json.dumps(synthetic.config_dict()))
    return {"CONFIG": str(folder / "nano.json"), "CHECKPOINT": str(folder / "model")}


@pytest.mark.parametrize("name", PATTERNS)
def test_beside_the_official_package(
    name: str, inputs: dict[str, Any], nano: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import official  # skips with its reason where the official code is missing
    import official_amg
    import official_patterns

    def build_sam2(config: str, checkpoint: str, device: str, apply_postprocessing: bool = True) -> Any:
        return official.official_model(synthetic.config_dict(), synthetic.nano_state(), apply_postprocessing)

    monkeypatch.setattr("sam2.build_sam.build_sam2", build_sam2)
    monkeypatch.setattr("sam2.build_sam.build_sam2_video_predictor", official_patterns.build_video_predictor)
    monkeypatch.setattr("sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator", official_amg.official_generator)
    plain = importlib.import_module("sam2.sam2_image_predictor").SAM2ImagePredictor
    monkeypatch.setattr(plain, "__init__", official_patterns.any_size(plain.__init__))
    with official.torch.inference_mode():
        theirs = run(name, "sam2", TENSOR=official.torch.from_numpy, **nano, **inputs)
    ours = run(name, "mlx_sam2", **nano, **inputs)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert value.shape == theirs[key].shape, key
        if value.dtype == bool:
            union = (value | theirs[key]).sum()
            assert union == 0 or (value & theirs[key]).sum() / union >= SAME, key
        else:
            assert np.allclose(value, theirs[key], atol=2e-3, equal_nan=True), key

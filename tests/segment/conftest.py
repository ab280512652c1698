"""Models, photos and folders of photos for the tests of ``segment``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import synthetic
from mlx_sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from mlx_sam2.checkpoint import loading
from segment_runs import HEIGHT, WIDTH, small_masks

LOADED: dict[tuple[object, ...], SAM2AutomaticMaskGenerator] = {}
FOUND: dict[tuple[object, ...], list[dict[str, object]]] = {}


@pytest.fixture(scope="session")
def nano(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small model."""
    folder = tmp_path_factory.mktemp("model") / "nano"
    loading.save(synthetic.nano_model(), folder)
    return str(folder)


@pytest.fixture(scope="session")
def nano_of_small_masks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a model that finds many masks."""
    folder = tmp_path_factory.mktemp("model") / "nano"
    loading.save(small_masks(), folder)
    return str(folder)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "photo.png"
    path.parent.mkdir()
    Image.fromarray(synthetic.picture(HEIGHT, WIDTH)).save(path)
    return path


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


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SAM2AutomaticMaskGenerator, "from_pretrained", lambda *_, **__: pytest.fail("model loaded"))


@pytest.fixture
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

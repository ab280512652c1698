"""What goes back to PyTorch, read by PyTorch: torch.load, the official model, and transformers' from_pretrained."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import synthetic
from checkpoint_files import (
    parameter_shapes,
    published_widths,
    transformers_config,
    transformers_state,
    write_torch,
    write_transformers,
)
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.convert import conversion
from mlx_sam2.hub import download
from mlx_sam2.model.sam2 import SAM2
from synthetic import nano_state

REASON = "needs the extra `reference`: pip install -e '.[reference]'"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)

LOGIT_TOL, SCORE_TOL = 4e-4, 1e-5  # as in test_transformers.py; measured 6e-5 and 1e-6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our own folder in float32, converted from transformers'."""
    folder = tmp_path_factory.mktemp("source")
    config = transformers_config()
    write_transformers(folder / "hf", nano_state(), config)
    conversion.write(conversion.prepare(download.Fetched(folder / "hf"), dtype="float32"), folder / "ours")
    return folder / "ours"


def write(source: Path, out: Path, layout: str, dtype: str | None = None) -> Path:
    conversion.write(conversion.prepare(download.Fetched(source), layout=layout, dtype=dtype), out)
    return out


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_torch_loads_the_pt(source: Path, tmp_path: Path, dtype: str | None, mmap: bool) -> None:
    path = write(source, tmp_path / "x.pt", "official", dtype)
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert list(loaded) == ["model"]
    state = nano_state()
    assert loaded["model"].keys() == state.keys()
    for key, tensor in loaded["model"].items():
        kept = dtype is None or key.endswith("gaussian_matrix")
        expected = torch.from_numpy(state[key].copy()).to(torch.float32 if kept else getattr(torch, dtype))
        assert tensor.dtype == expected.dtype and tensor.shape == expected.shape, key
        assert tensor.is_contiguous() and torch.equal(tensor, expected), key


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_the_official_model_takes_the_pt(source: Path, tmp_path: Path, dtype: str | None) -> None:
    """As its build function does it: load_state_dict, strict."""
    pytest.importorskip("sam2", reason="needs the official package (CONTRIBUTING.md, Oracle tests)")
    from official import official_model

    path = write(source, tmp_path / "x.pt", "official", dtype)
    state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    model = official_model(synthetic.config_dict(), nano_state(seed=2))
    missing, unexpected = model.load_state_dict(state)
    assert not missing and not unexpected
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key].float()), key


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SAM2Config, dict[str, np.ndarray]]:
    """A .pt of nano with the published widths above its trunk: transformers' video model has some of them built in."""
    config = SAM2Config.from_dict(published_widths(transformers_config()))
    state = synthetic.make_state(parameter_shapes(config), 1)
    return write_torch(tmp_path_factory.mktemp("wide") / "x.pt", state), config, state


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_transformers_video_model(
    wide: tuple[Path, SAM2Config, dict[str, np.ndarray]], tmp_path: Path, dtype: str | None
) -> None:
    """From a .pt there is nothing to keep: config.json is written anew."""
    path, config, state = wide
    folder = tmp_path / "x"
    conversion.write(
        conversion.prepare(download.Fetched(path), layout="transformers", config=config, dtype=dtype), folder
    )
    model, info = transformers.Sam2VideoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.dtype == (torch.float16 if dtype else torch.float32)
    expected = transformers_state(state)
    for key, value in model.state_dict().items():
        wanted = torch.from_numpy(expected[key].copy()).to(model.dtype)
        assert torch.equal(value.to(model.dtype), wanted), key


def test_transformers_image_model(source: Path, tmp_path: Path, nano_model: SAM2) -> None:
    """Sam2Model takes the same folder, and gives our masks."""
    folder = write(source, tmp_path / "x", "transformers")
    theirs, info = transformers.Sam2Model.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    pixels = (synthetic.picture(256, 256)[None] / np.float32(128) - 1).astype(np.float32)
    with torch.no_grad():
        expected = theirs.eval()(
            pixel_values=torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
            input_points=torch.tensor([[[[70.0, 120.0]]]]),
            input_labels=torch.tensor([[[1]]]),
            multimask_output=True,
        )
    low_res, scores = nano_model.predict_masks(
        nano_model.encode_image(mx.array(pixels)), mx.array([[[70.0, 120.0]]]), mx.array([[1]])
    )
    np.testing.assert_allclose(np.array(low_res), expected.pred_masks[0], rtol=0, atol=LOGIT_TOL)
    np.testing.assert_allclose(np.array(scores), expected.iou_scores[0], rtol=0, atol=SCORE_TOL)


def test_transformers_reads_the_configuration(tmp_path: Path) -> None:
    """The computed fields are those that transformers would compute."""
    config = PUBLISHED["sam2_hiera_large"].config
    (tmp_path / "config.json").write_text(json.dumps(config.to_transformers()))
    read = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(read).__name__ == "Sam2VideoConfig"
    assert read.vision_config.backbone_config.embed_dim_per_stage == [144, 288, 576, 1152]
    assert SAM2Config.from_dict(read.to_dict()) == config

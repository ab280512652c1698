"""EdgeTAM's checkpoints in every layout: read, converted, and back with every bit, counters of batch norms too."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file, save_file

import edgetam_files
import synthetic_edgetam
from checkpoint_files import transformers_config
from edgetam_files import in_transformers
from mlx_sam2.checkpoint import key_map, loading
from mlx_sam2.checkpoint.recognition import recognise
from mlx_sam2.checkpoint.tensors import CheckpointError
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.convert import conversion, verify
from mlx_sam2.formats import torch_file
from mlx_sam2.hub.download import Fetched
from mlx_sam2.model.quantization import Scheme
from mlx_sam2.model.sam2 import SAM2
from synthetic import config_dict

FULL = "spatial_perceiver.layers.1.self_attn.to_kv.weight"  # one matrix here, two in transformers


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The small EdgeTAM as the official file and as transformers' folder, beside the configuration of the former."""
    folder, state = tmp_path_factory.mktemp("edgetam"), synthetic_edgetam.nano_state()
    paths = edgetam_files.write(folder, state, transformers_config("edgetam_nano"))
    return SimpleNamespace(official=paths["official"], transformers=paths["transformers"], state=state)


def prepared(path: Path, **options: object) -> conversion.Conversion:
    config = synthetic_edgetam.nano_config() if path.suffix == ".pt" else None
    return conversion.prepare(Fetched(path), config=config, **options)


@pytest.mark.parametrize("layout", ["official", "transformers"])
def test_every_layout_gives_the_same_bits(sources: SimpleNamespace, layout: str) -> None:
    path = getattr(sources, layout)
    config = synthetic_edgetam.nano_config().with_postprocessing(True)
    model = loading.load(path, config=config if layout == "official" else None, dtype="float32")
    assert model.config == config
    expected = dict(tree_flatten(synthetic_edgetam.nano_model().parameters()))
    found = dict(tree_flatten(model.parameters()))
    assert found.keys() == expected.keys()
    assert all(mx.array_equal(found[key], value).item() for key, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("start", ["official", "transformers"])
@pytest.mark.parametrize("end", ["official", "transformers"])
def test_round_trips_are_bit_exact(sources: SimpleNamespace, tmp_path: Path, start: str, end: str) -> None:
    """start -> ours -> end, all tensors of the official file, 1000 steps in each counter."""
    ours = tmp_path / "edgetam-fp32"
    conversion.write(prepared(getattr(sources, start), dtype="float32"), ours)
    back = tmp_path / ("back.pt" if end == "official" else "back")
    conversion.write(prepared(ours, layout=end), back)
    if end == "official":
        expected, found = sources.state, {key: ref.read() for key, ref in torch_file.read(back).items()}
    else:
        expected, found = in_transformers(sources.state), load_file(back / "model.safetensors")
        written = json.loads((back / "config.json").read_text())
        original = json.loads((sources.transformers / "config.json").read_text())
        assert (written["model_type"], written["architectures"]) == ("edgetam_video", ["EdgeTamVideoModel"])
        assert all(written[key] == value for key, value in original.items() if key in written and start == end)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key].dtype, found[key].shape) == (value.dtype, value.shape), key
        assert found[key].tobytes() == value.tobytes(), key


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "scheme"), [("float16", None), ("bfloat16", Scheme(64, 8))])
def test_half_precision_and_packed(sources: SimpleNamespace, tmp_path: Path, dtype: str, scheme: Scheme | None) -> None:
    """Statistics stay float32 in the file, all of the trunk in the model. ``verify`` compares it with its source."""
    out = tmp_path / "small"
    conversion.write(prepared(sources.transformers, dtype=dtype, scheme=scheme), out)
    found = loading.read(out)
    trunk = "image_encoder.trunk.body.stages_2.blocks.3.token_mixer.conv."
    assert found.weights[f"{trunk}bn.running_var"].dtype == "float32"
    assert found.weights[f"{trunk}c.weight"].dtype == dtype
    model = loading.load(out, dtype=dtype)
    values = dict(tree_flatten(model.parameters()))
    assert values[f"{trunk}c.weight"].dtype == mx.float32 and values["no_mem_embed"].dtype == loading.DTYPES[dtype]
    agreement = verify.compare(verify.verify(out), sources.transformers)
    assert agreement.largest_difference > 0
    loading.save(model, tmp_path / "again")
    weights = loading.read(tmp_path / "again").weights
    assert {key: weight.dtype for key, weight in weights.items()} == {k: w.dtype for k, w in found.weights.items()}


@pytest.mark.slow
def test_the_image_half_alone(sources: SimpleNamespace, tmp_path: Path) -> None:
    """EdgeTamModel saves no video weights, and its configuration says nothing of memory."""
    image = {key: value for key, value in sources.state.items() if not key_map.is_video_only(key)}
    values = json.loads((sources.transformers / "config.json").read_text())
    parts = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    config = {"model_type": "edgetam", **{part: values[part] for part in parts}}
    save_file(in_transformers(image), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = loading.load(tmp_path, dtype="float32")
    assert "memory_attention" not in model and "spatial_perceiver" not in model
    assert model.config.memory_attention.num_layers == 2 and not model.config.no_obj_embed_spatial
    whole = loading.load(sources.transformers, dtype="float32")
    pixels = mx.array(np.random.default_rng(0).standard_normal((1, 256, 256, 3), dtype=np.float32))
    assert mx.array_equal(model.encode_image(pixels).embedding, whole.encode_image(pixels).embedding).item()


def test_recognised_by_names_and_shapes(sources: SimpleNamespace, tmp_path: Path) -> None:
    shapes = {key: tuple(v.shape) for key, v in tree_flatten(SAM2(PUBLISHED["edgetam"].config).parameters())}
    weights = {key: SimpleNamespace(mlx_shape=shape) for key, shape in shapes.items()}
    checkpoint = SimpleNamespace(path=Path("x.pt"), weights=weights)
    assert recognise(checkpoint) == PUBLISHED["edgetam"].config
    with pytest.raises(CheckpointError, match=r"RepViT of \[2, 2, 14, 2\] blocks, \[48, 96, 192, 384\] channels"):
        recognise(loading.read(sources.official))


def test_a_half_that_is_missing_is_named(sources: SimpleNamespace, tmp_path: Path) -> None:
    tensors = load_file(sources.transformers / "model.safetensors")
    names = key_map.halves(FULL)
    (tmp_path / "config.json").write_text((sources.transformers / "config.json").read_text())
    save_file({k: v for k, v in tensors.items() if k != names[1]}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"1 missing \({names[0]}\); 1 unexpected \({names[0]}\)"):
        loading.load(tmp_path)
    save_file({**tensors, names[1]: tensors[names[1]][1:]}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="do not fit each other"):
        loading.load(tmp_path)


def test_the_official_configuration_is_that_of_transformers() -> None:
    config = loading.SAM2Config.from_dict(transformers_config("edgetam_nano"))
    assert config == loading.SAM2Config.from_dict(config_dict("edgetam_nano")).with_postprocessing(True)

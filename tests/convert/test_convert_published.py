"""The eight published models through the converter: every key list in both source layouts.

What would be written is compared for every precision; one precision of each model and layout is also written and read
back, bit by bit, in turn. Weights are noise, made when they are asked for.
"""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from checkpoint_files import parameter_shapes
from mlx_sam2.checkpoint import key_map, loading
from mlx_sam2.checkpoint.folder import json_text
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.convert import conversion
from mlx_sam2.formats import safetensors_writer, torch_file, torch_writer
from mlx_sam2.formats.safetensors_writer import Tensor
from mlx_sam2.hub import download
from mlx_sam2.model import quantization
from mlx_sam2.model.quantization import Scheme
from mlx_sam2.model.sam2 import SAM2

FORMATS = {
    "fp32": ("float32", None),
    "fp16": ("float16", None),
    "8bit": ("float16", Scheme(64, 8)),
    "4bit": ("float16", Scheme(128, 4)),
}
HIERA = [name for name in PUBLISHED if "_hiera_" in name]  # the other trunk: test_convert_edgetam.py
CASES = [(name, layout) for name in HIERA for layout in ("official", "transformers")]
NOISE = np.random.RandomState(0).standard_normal((1 << 20) + 997).astype(np.float32)


def noise(key: str, shape: tuple[int, ...]) -> mx.array:
    """An official tensor by its name, in PyTorch's axes."""
    start = zlib.crc32(key.encode()) % 997
    return mx.array(np.resize(NOISE[start:], shape))


def write_source(folder: Path, name: str, layout: str) -> Path:
    """A checkpoint of a published size, tensor by tensor."""
    config = PUBLISHED[name].config
    shapes = parameter_shapes(config)
    if layout == "official":
        tensors = [Tensor(k, s, "float32", lambda k=k, s=s: noise(k, s)) for k, s in shapes.items()]
        torch_writer.write(folder / f"{name}.pt", tensors)
        return folder / f"{name}.pt"
    rows = [shapes.pop(row) for row in key_map.POINT_ROWS]
    tensors = []
    for key, shape in shapes.items():
        renamed = key_map.to_transformers(key)
        copies = key_map.POSITION_COPIES if renamed in key_map.POSITION_COPIES else (renamed,)
        tensors += [Tensor(copy, shape, "float32", lambda k=key, s=shape: noise(k, s)) for copy in copies]
    table = (len(rows), rows[0][1])
    tensors.append(
        Tensor(
            key_map.POINT_TABLE,
            table,
            "float32",
            lambda: mx.concatenate([noise(row, rows[0]) for row in key_map.POINT_ROWS]),
        )
    )
    (folder / "hf").mkdir()
    (folder / "hf" / "config.json").write_text(json_text(config.to_transformers()))
    safetensors_writer.write(folder / "hf" / "model.safetensors", tensors, {"format": "pt"})
    return folder / "hf"


def promised(name: str, precision: str) -> dict[str, tuple[tuple[int, ...], str]]:
    """{key: (shape, dtype)} of the model, quantised by ``nn.quantize``; nothing is computed."""
    dtype, scheme = FORMATS[precision]
    model = SAM2(PUBLISHED[name].config)
    if scheme:
        quantization.quantize(model, quantization.plan(model, scheme)[0])
    found = {}
    for key, value in tree_flatten(model.parameters()):
        kept = "float32" if key in loading.KEPT_FLOAT32 else dtype
        found[key] = (tuple(value.shape), "uint32" if value.dtype == mx.uint32 else kept)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, layout: str) -> None:
    source = write_source(tmp_path, name, layout)
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "sha256_of", lambda files: "0" * 64)
        for precision, (dtype, scheme) in FORMATS.items():
            job = conversion.prepare(download.Fetched(source), dtype=dtype, scheme=scheme)
            assert job.config == PUBLISHED[name].config
            assert {t.name: (t.shape, t.dtype) for t in job.tensors} == promised(name, precision)

    index = CASES.index((name, layout))
    precision = list(FORMATS)[(index + index // 8 + index // 2) % 4]
    dtype, scheme = FORMATS[precision]
    out = tmp_path / f"model-{precision}"
    conversion.write(conversion.prepare(download.Fetched(source), dtype=dtype, scheme=scheme), out)
    assert_weights(out, name, precision)
    if precision == "fp32":
        assert_round_trip(out, tmp_path, name, "transformers" if layout == "official" else "official")
    shutil.rmtree(tmp_path)  # gigabytes


def assert_weights(out: Path, name: str, precision: str) -> None:
    """The folder loads as a model of that configuration, with these bits."""
    dtype, scheme = FORMATS[precision]
    found = loading.read(out)
    model = loading.empty_model(found, found.config)
    schemes = quantization.schemes_of(model)
    assert bool(schemes) == bool(scheme)
    shapes = parameter_shapes(PUBLISHED[name].config)
    for key, shape in shapes.items():
        axes, layer = key_map.mlx_axes(key), key.removesuffix(".weight")
        value = noise(key, shape)
        value = value if axes is None else value.transpose(axes)
        value = value.astype(mx.float32 if key in loading.KEPT_FLOAT32 else loading.DTYPES[dtype])
        parts = {key: value}
        if layer in schemes and key != layer:
            group, bits = schemes[layer]
            packed = mx.quantize(value, group_size=group, bits=bits)
            parts = dict(zip((key, f"{layer}.scales", f"{layer}.biases"), packed, strict=True))
        for each, expected in parts.items():
            assert mx.array_equal(found.weights[each].read(), expected).item(), each


def assert_round_trip(ours: Path, folder: Path, name: str, layout: str) -> None:
    """Back in the other of the two layouts, the bits are those of the beginning."""
    back = folder / ("back.pt" if layout == "official" else "back")
    conversion.write(conversion.prepare(download.Fetched(ours), layout=layout), back)
    shapes = parameter_shapes(PUBLISHED[name].config)
    if layout == "official":
        refs = torch_file.read(back)
        assert refs.keys() == shapes.keys()
        for key, shape in shapes.items():
            assert np.array_equal(refs[key].read(), np.array(noise(key, shape))), key
        return
    found = loading.read(back)
    assert found.config == PUBLISHED[name].config
    assert (found.layout, found.unknown) == ("transformers", ())
    assert found.weights.keys() == shapes.keys()
    for key, shape in shapes.items():
        axes = key_map.mlx_axes(key)
        value = noise(key, shape)
        assert mx.array_equal(found.weights[key].read(), value if axes is None else value.transpose(axes)).item(), key

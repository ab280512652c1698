"""Load a model from any kind of checkpoint (``reader`` lists them), and write ours.

The same weights give the same parameters, bit for bit, whichever kind they come from. Loading is strict:
every tensor is used, or stands in ``key_map.IGNORED``, or is an error.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..config.published import published
from ..config.sam2 import SAM2Config
from ..files import beside, make_folder
from ..formats import safetensors_writer, torch_file
from ..formats.names import CONFIG
from ..hub import download
from ..model.quantization import quantize, schemes_of
from ..model.quantization import recognise as recognise_schemes
from ..model.sam2 import SAM2
from ..processes import before_computing
from ..text import dtype_name, some
from . import folder as converted
from . import key_map
from .adapter import adapted
from .config_file import read_config
from .reader import Checkpoint, Weight, read
from .recognition import recognise
from .tensors import CheckpointError

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Weight",
    "build",
    "load",
    "read",
    "read_config",
    "recognise",
    "save",
]

_FLOATING = {"float64", "float32", "float16", "bfloat16"}
DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(
    id_or_path: str | os.PathLike[str],
    *,
    config: SAM2Config | dict[str, Any] | str | os.PathLike[str] | None = None,
    dtype: str | mx.Dtype | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    weights_key: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
) -> SAM2:
    """Load a SAM 2 or SAM 2.1 model.

    A checkpoint of the image half alone (transformers' ``Sam2Model``) gives a model without the modules that
    only video needs.

    Args:
        id_or_path: a Hub id ("facebook/sam2.1-hiera-tiny"), a short name ("tiny", "small", "base_plus",
            "large" for SAM 2.1; "sam2-tiny" ... for SAM 2; "demo" for the small model in the package, which needs
            no network), a folder, or a ``.pt`` or ``.safetensors`` file.
        config: what to build: a ``SAM2Config``, a dict, a JSON or YAML file in any form that
            ``SAM2Config.from_dict`` reads, or a published name. None takes the checkpoint's ``config.json``,
            or recognises one of the eight published models or the demo, fine-tuned or not, by names and shapes.
        dtype: "float32", "float16", "bfloat16" or the MLX dtype of the weights. None means float16 on an
            Apple GPU and float32 elsewhere.
        revision: branch, tag or commit of a Hub repository.
        token: Hub token; True for the stored one.
        weights_key: which copy of the weights, where a file holds several, such as "ema" beside "model". None takes
            the trained ones rather than their average, with a warning that lists them all.
        adapter: a folder or file that fine-tuning wrote (docs/finetune.md), to be put on the weights.

    Raises:
        CheckpointError: the file is damaged, or its tensors are not those of the model.
        HubError: there is no such file or repository, or it cannot be reached.
        ConfigError: the configuration breaks a rule.
    """
    target = parse_dtype(dtype)
    chosen = config_of(os.fspath(id_or_path)) if config is None else read_config(config)
    checkpoint = read(download.resolve(id_or_path, revision, token), chosen, weights_key)
    checkpoint = checkpoint if adapter is None else adapted(checkpoint, adapter)
    return build(checkpoint, checkpoint.config or recognise(checkpoint), target)


def config_of(name: str) -> SAM2Config | None:
    """The configuration that goes with a name and that its weights do not show; None: they do, or it is no name."""
    model = None if os.path.exists(os.path.expanduser(name)) else published(name)
    return model.config if model is not None and model.file is not None else None


def parse_dtype(dtype: str | mx.Dtype | None) -> mx.Dtype:
    """The dtype of the weights; None: float16 on an Apple GPU, float32 elsewhere.

    Raises:
        ValueError: it is not one of the three that weights may have.
    """
    if dtype is None:
        on_apple_gpu = mx.metal.is_available() and mx.default_device() == mx.gpu
        return mx.float16 if on_apple_gpu else mx.float32
    for name, value in DTYPES.items():
        if dtype == value if isinstance(dtype, mx.Dtype) else dtype == name:
            return value
    raise ValueError(f"dtype={dtype!r} is not one that weights may have: use {', '.join(DTYPES)}")


KEPT_FLOAT32 = (key_map.POSITION_MATRIX,)  # of Hiera models; ``key_map.kept_float32`` knows all


def build(checkpoint: Checkpoint, config: SAM2Config, dtype: mx.Dtype) -> SAM2:
    """A model of this configuration with the checkpoint's weights. Layers that are quantised there are so here.

    Raises:
        CheckpointError: one line with the missing, the unexpected and the wrongly shaped tensors.
    """
    before_computing()
    model = empty_model(checkpoint, config)
    loaded = []
    try:
        for key, weight in checkpoint.weights.items():
            value = weight.read()
            if value.dtype != mx.uint32:  # packed weights stay
                value = value.astype(mx.float32 if key_map.kept_float32(key) else dtype)
            mx.eval(value)  # one by one: the file's copy of a tensor is gone before the next is read
            loaded.append((key, value))
    except torch_file.TorchFileError as error:
        raise CheckpointError(str(error)) from None
    model.load_weights(loaded, strict=True)
    mx.clear_cache()  # on an Apple GPU: what was read and converted is kept there
    return model.eval()


def empty_model(checkpoint: Checkpoint, config: SAM2Config) -> SAM2:
    """An empty model whose parameters match the checkpoint's tensors. Nothing is loaded yet.

    Raises:
        CheckpointError: as ``build``.
    """
    model = SAM2(config)
    video = {key for key, _ in tree_flatten(model.parameters()) if key_map.is_video_only(key)}
    if not video & checkpoint.weights.keys():
        for name in key_map.VIDEO_ONLY:
            model.pop(name.removesuffix("."), None)
    if checkpoint.layout == "mlx":
        try:
            quantize(model, recognise_schemes(model, {key: w.shape for key, w in checkpoint.weights.items()}))
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.path}: {error}") from None
    _compare(checkpoint, {key: (tuple(v.shape), v.dtype == mx.uint32) for key, v in tree_flatten(model.parameters())})
    return model


def _compare(checkpoint: Checkpoint, expected: dict[str, tuple[tuple[int, ...], bool]]) -> None:
    """Check names, shapes and types against the model's; ``expected`` is {key: (shape, whether it is packed)}."""
    weights = checkpoint.weights
    perceives = any(key.startswith("spatial_perceiver.") for key in expected)
    missing = [_file_name(checkpoint.layout, key, perceives) for key in expected if key not in weights]
    unexpected = [*checkpoint.unknown, *(w.name for key, w in weights.items() if key not in expected)]
    misshapen = []
    for key in expected.keys() & weights.keys():
        weight, (shape, packed) = weights[key], expected[key]
        if weight.mlx_shape != shape:
            axes = key_map.torch_axes(key) if weight.axes else None
            needed = [shape[a] for a in axes] if axes else list(shape)
            misshapen.append(f"{weight.name}: {list(weight.shape)} instead of {needed}")
        elif packed and weight.dtype != "uint32":
            misshapen.append(f"{weight.name}: {weight.dtype} instead of uint32")
        elif not packed and weight.dtype not in _FLOATING:
            misshapen.append(f"{weight.name}: {weight.dtype} instead of a floating-point type")
    found = (("missing", missing), ("unexpected", unexpected), ("wrong", misshapen))
    problems = "; ".join(f"{len(names)} {what} ({some(names)})" for what, names in found if names)
    if problems:
        raise CheckpointError(f"{checkpoint.path}: its tensors are not the {len(expected)} of this model: {problems}")


def _file_name(layout: str, key: str, perceives: bool) -> str:
    """The name of an official key in a file of this layout."""
    if layout != "transformers":
        return key
    if key in key_map.POINT_ROWS:
        return key_map.POINT_TABLE
    try:
        return (key_map.halves(key) or (key_map.to_transformers(key, perceives),))[0]
    except KeyError:  # a part that transformers' SAM 2 does not know
        return key


def save(model: SAM2, folder: str | os.PathLike[str]) -> None:
    """Write a model in our layout: ``config.json`` and ``model.safetensors``, in the dtype and packing it has.

    The folder appears when it is complete; an existing one is left alone.

    Raises:
        CheckpointError: the folder exists already, or cannot be written.
    """
    folder = Path(os.path.expanduser(folder))
    if os.path.lexists(folder):
        raise CheckpointError(f"{folder} exists already: name another folder or remove it")
    tensors = [_to_write(key, value, model.dtype) for key, value in tree_flatten(model.parameters())]
    describe = partial(converted.config_json, model.config, dtype=dtype_name(model.dtype), schemes=schemes_of(model))
    metadata = converted.metadata(describe(files={}))
    try:
        make_folder(folder.parent)
        with beside(folder) as part:
            converted.write(part, tensors, metadata, lambda files: {CONFIG: converted.json_text(describe(files=files))})
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}") from None


def _to_write(key: str, value: mx.array, dtype: mx.Dtype) -> safetensors_writer.Tensor:
    if key_map.kept_float32(key) and not key_map.stored_float32(key):
        value = value.astype(dtype)
    return safetensors_writer.Tensor(key, tuple(value.shape), dtype_name(value.dtype), lambda: value)

"""Load a model with the options of the official build functions; ``build_sam.py`` has the functions themselves."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from ..config.official import parse_override_value
from ..config.parts import ConfigError, DecoderConfig
from ..config.sam2 import SAM2Config
from ..model.sam2 import SAM2
from ..text import brief
from .key_map import kept_float32
from .loading import load, parse_dtype
from .reader import read_config

_GPU_NAMES = ("gpu", "mps", "metal", "cuda")


def build_model(
    model_id: str | None,
    *,
    video: bool = False,
    apply_postprocessing: bool = True,
    hydra_overrides_extra: Sequence[str] = (),
    device: str | mx.Device | None = None,
    mode: str = "eval",
    config: SAM2Config | dict[str, Any] | str | None = None,
    dtype: str | mx.Dtype | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    weights_key: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    **model_options: Any,
) -> SAM2:
    """Load a model and apply the options of the official build functions.

    Args:
        model_id: Hub id, short name, folder or file, as for ``mlx_sam2.load``; None for random weights of ``config``.
        video: apply what the official code adds for video (binarised masks on prompted frames).
        apply_postprocessing: choose between single and multiple masks by stability; False never does.
        hydra_overrides_extra: changes of the configuration, e.g. ``["++model.max_cond_frames_in_attn=4"]``.
        device: "cpu" or "gpu" ("mps", "metal" and "cuda" mean the same) sets MLX's default device for the whole
            process; None leaves it.
        mode: only "eval"; these predictors do not train.
        config, dtype, revision, token, weights_key, adapter: as for ``mlx_sam2.load``.
        model_options: options of the official ``SAM2Base`` by their names, e.g. ``max_cond_frames_in_attn=4``; they
            win over all of the above. What is none of them is ignored with a warning.

    Raises:
        ValueError: for an option that cannot be met; ``CheckpointError`` and ``HubError`` as ``load`` raises them.
    """
    if mode != "eval":
        raise ValueError(f"mode={mode!r}: only 'eval' is supported, these predictors do not train")
    set_device(device)
    if model_id is None:
        model = _untrained(config, parse_dtype(dtype))
    else:
        given = {"config": config, "dtype": dtype, "revision": revision, "token": token}
        model = load(model_id, **given, weights_key=weights_key, adapter=adapter)
    options = model.config if apply_postprocessing else model.config.with_postprocessing(False)
    options = options.with_overrides(hydra_overrides_extra) if hydra_overrides_extra else options
    if apply_postprocessing:  # after the overrides, as in the official build functions
        options = options.with_postprocessing(True, video=video)
    options = _replace(options, model_options)
    return model if options == model.config else model.with_config(options)


def _untrained(config: SAM2Config | dict[str, Any] | str | None, dtype: mx.Dtype) -> SAM2:
    if config is None:
        raise ValueError("without a checkpoint a model gets random weights, and needs a configuration: give one")
    model = SAM2(read_config(config))
    values = tree_flatten(model.parameters())
    model.load_weights([(key, value.astype(mx.float32 if kept_float32(key) else dtype)) for key, value in values])
    return model.eval()


def _replace(config: SAM2Config, options: dict[str, Any]) -> SAM2Config:
    options = dict(options)
    extra = options.pop("sam_mask_decoder_extra_args", None) or {}
    if options.pop("compile_image_encoder", False):
        raise ValueError("compile_image_encoder=True belongs to PyTorch; leave it out")
    scalars = [f.name for f in dataclasses.fields(config) if f.type in ("int", "float", "bool")]
    unknown = sorted(set(options) - set(scalars))
    warn_of_unknown({name: options.pop(name) for name in unknown}, "the model", scalars)
    if not isinstance(extra, dict):
        raise ConfigError(f"sam_mask_decoder_extra_args={brief(extra)}: it must be a dict of the decoder's options")
    decoder = DecoderConfig.from_dict({**config.decoder.to_dict(), **extra})
    return dataclasses.replace(config, decoder=decoder, **options)


def warn_of_unknown(options: Mapping[str, Any], where: str, known: Sequence[str] = ()) -> None:
    """Warn of keyword arguments that mean nothing here. The official constructors ignore them without a word."""
    if options:
        names = ", ".join(sorted(options))
        there_are = f"; there are {', '.join(known)}" if known else ""
        warnings.warn(f"{where} has no option {names}: ignored{there_are}", UserWarning, stacklevel=4)


def set_device(device: str | mx.Device | mx.DeviceType | None) -> None:
    """Make "cpu" or "gpu" (or a device of MLX) the default device; None leaves it.

    Raises:
        ValueError: for another name, or a GPU where MLX has none.
    """
    if device is None:
        return
    if isinstance(device, (mx.Device, mx.DeviceType)):
        device = "cpu" if device == mx.cpu else "gpu"
    name = str(device).split(":")[0]
    if name == "cpu":
        mx.set_default_device(mx.cpu)
    elif name in _GPU_NAMES:
        if not mx.is_available(mx.gpu):
            raise ValueError(f"device={device!r}: MLX sees no GPU here; use device='cpu' or leave it out")
        mx.set_default_device(mx.gpu)
    else:
        raise ValueError(f"device={device!r} is not known; use 'cpu' or 'gpu'")


# Options of the official SAM2VideoPredictor that are not the model's, by their names in hydra overrides.
PREDICTOR_OPTIONS = {
    "fill_hole_area": int,
    "non_overlap_masks": bool,
    "clear_non_cond_mem_around_input": bool,
    "add_all_frames_to_correct_as_cond": bool,
}
OWN_OPTIONS = (  # our predictor checks them
    *("memory_pooling", "max_memories", "static_threshold", "return_tensors"),
    *("feature_cache", "feature_cache_dtype", "memory_policy"),
)
POSTPROCESSING_HOLE_AREA = 8


def split_video_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the official video build function -> those of ``build_model``, and those of the predictor.

    ``apply_postprocessing`` fills holes of 8 pixels and binarises the masks of prompted frames. As in the official
    build function it comes after hydra overrides; a keyword of its own wins over both.

    Raises:
        ValueError: for an override whose value is of the wrong kind.
    """
    options = dict(options)
    if options.pop("vos_optimized", False):
        warnings.warn("vos_optimized=True compiles with PyTorch: it changes nothing here", UserWarning, stacklevel=4)
    predictor: dict[str, Any] = {}
    overrides = []
    for override in options.pop("hydra_overrides_extra", ()):
        name, _, text = str(override).lstrip("+").removeprefix("model.").partition("=")
        if name in PREDICTOR_OPTIONS:
            predictor[name] = parse_override_value(text)
        else:
            overrides.append(override)
    if options.get("apply_postprocessing", True):
        predictor["fill_hole_area"] = POSTPROCESSING_HOLE_AREA
    predictor.update({name: options.pop(name) for name in PREDICTOR_OPTIONS if name in options})
    for name, value in predictor.items():
        if type(value) is not PREDICTOR_OPTIONS[name] or value < 0:
            raise ValueError(
                f"{name}={value!r}: it must be {'true or false' if name != 'fill_hole_area' else 'a number'}"
            )
    predictor.update({name: options.pop(name) for name in OWN_OPTIONS if name in options})
    return {**options, "hydra_overrides_extra": overrides, "video": True}, predictor

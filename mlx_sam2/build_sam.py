"""Build a model with the options of the official build functions (official ``build_sam.py``).

``build_sam2`` and ``build_sam2_hf`` keep the official names and arguments, so that a script changes its import only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .checkpoint import load
from .config import PUBLISHED, DecoderConfig, SAM2Config

if TYPE_CHECKING:
    from .model.sam2 import SAM2

# The official YAML files end in t, s, b+ and l.
_YAML_NAMES = {
    f"{name.rsplit('_hiera_')[0]}_hiera_{letter}": name
    for letter, size in (("t", "tiny"), ("s", "small"), ("b+", "base_plus"), ("l", "large"))
    for name in PUBLISHED
    if name.endswith(f"_hiera_{size}")
}
_GPU_NAMES = ("gpu", "mps", "metal", "cuda")


def build_model(
    model_id: str,
    *,
    video: bool = False,
    apply_postprocessing: bool = True,
    hydra_overrides_extra: Sequence[str] = (),
    device: str | None = None,
    mode: str = "eval",
    config: SAM2Config | dict[str, Any] | str | None = None,
    dtype: str | mx.Dtype | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    **model_options: Any,
) -> SAM2:
    """Load a model and apply the options of the official build functions.

    Args:
        model_id: Hub id, short name, folder or file, as for ``mlx_sam2.load``.
        video: apply what the official code adds for video (binarised masks on prompted frames).
        apply_postprocessing: choose between single and multiple masks by stability; False never does.
        hydra_overrides_extra: changes of the configuration, e.g. ``["++model.max_cond_frames_in_attn=4"]``.
        device: "cpu" or "gpu" ("mps", "metal" and "cuda" mean the same) sets MLX's default device for the whole
            process; None leaves it.
        mode: only "eval"; these predictors do not train.
        config, dtype, revision, token: as for ``mlx_sam2.load``.
        model_options: options of the official ``SAM2Base`` by their names, e.g. ``max_cond_frames_in_attn=4``; they
            win over all of the above.

    Raises:
        TypeError: for an option that no official constructor has.
        ValueError: for an option that cannot be met; ``CheckpointError`` and ``HubError`` as ``load`` raises them.
    """
    if mode != "eval":
        raise ValueError(f"mode={mode!r}: only 'eval' is supported, these predictors do not train")
    set_device(device)
    model = load(model_id, config=config, dtype=dtype, revision=revision, token=token)
    options = model.config if apply_postprocessing else model.config.with_postprocessing(False)
    options = options.with_overrides(hydra_overrides_extra) if hydra_overrides_extra else options
    if apply_postprocessing:  # after the overrides, as in the official build functions
        options = options.with_postprocessing(True, video=video)
    options = _replace(options, model_options)
    return model if options == model.config else model.with_config(options)


def _replace(config: SAM2Config, options: dict[str, Any]) -> SAM2Config:
    options = dict(options)
    extra = options.pop("sam_mask_decoder_extra_args", None) or {}
    if options.pop("compile_image_encoder", False):
        raise ValueError("compile_image_encoder=True belongs to PyTorch; leave it out")
    scalars = [f.name for f in dataclasses.fields(config) if f.type in ("int", "float", "bool")]
    unknown = sorted(set(options) - set(scalars))
    if unknown:
        raise TypeError(f"{unknown[0]!r} is not an option of the model; options are {', '.join(scalars)}")
    decoder = DecoderConfig.from_dict({**config.decoder.to_dict(), **extra})
    return dataclasses.replace(config, decoder=decoder, **options)


def set_device(device: str | None) -> None:
    """Make "cpu" or "gpu" MLX's default device; None leaves it.

    Raises:
        ValueError: for another name, or a GPU where MLX has none.
    """
    if device is None:
        return
    name = str(device).split(":")[0]
    if name == "cpu":
        mx.set_default_device(mx.cpu)
    elif name in _GPU_NAMES:
        if not mx.is_available(mx.gpu):
            raise ValueError(f"device={device!r}: MLX sees no GPU here; use device='cpu' or leave it out")
        mx.set_default_device(mx.gpu)
    else:
        raise ValueError(f"device={device!r} is not known; use 'cpu' or 'gpu'")


def build_sam2(
    config_file: str | None,
    ckpt_path: str,
    device: str | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    **options: Any,
) -> SAM2:
    """Official signature: a configuration by name (``configs/sam2.1/sam2.1_hiera_l.yaml``) or file, and a checkpoint.

    A published configuration is known by the last part of its name and needs no file; ``config_file=None`` recognises
    it from the checkpoint. ``options`` are ``dtype``, ``revision`` and ``token`` of ``mlx_sam2.load``.
    """
    return build_model(
        ckpt_path,
        config=published_config(config_file),
        device=device,
        mode=mode,
        hydra_overrides_extra=hydra_overrides_extra,
        apply_postprocessing=apply_postprocessing,
        **options,
    )


def build_sam2_hf(model_id: str, **options: Any) -> SAM2:
    """Official signature: a model from the Hub, with the options of ``build_model`` as keywords."""
    return build_model(model_id, **options)


def published_config(config_file: str | None) -> SAM2Config | str | None:
    """The published configuration that an official YAML name stands for; any other value is passed on as given."""
    if config_file is None:
        return None
    stem = PurePath(config_file).name.removesuffix(".yaml")
    return PUBLISHED[_YAML_NAMES[stem]].config if stem in _YAML_NAMES else config_file

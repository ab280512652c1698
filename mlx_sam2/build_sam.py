"""Build a model with the options of the official build functions (official ``build_sam.py``).

``build_sam2`` and ``build_sam2_hf`` keep the official names and arguments, so that a script changes its import only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from .checkpoint import load
from .config import PUBLISHED, SAM2Config

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

    Raises:
        ValueError: for an option that cannot be met; ``CheckpointError`` and ``HubError`` as ``load`` raises them.
    """
    if mode != "eval":
        raise ValueError(f"mode={mode!r}: only 'eval' is supported, these predictors do not train")
    set_device(device)
    model = load(model_id, config=config, dtype=dtype, revision=revision, token=token)
    options = model.config.with_postprocessing(apply_postprocessing, video=video)
    options = options.with_overrides(hydra_overrides_extra) if hydra_overrides_extra else options
    return model if options == model.config else model.with_config(options)


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

"""The official build functions by their names and arguments (official ``build_sam.py``).

A script changes ``from sam2.build_sam import ...`` to ``from mlx_sam2.build_sam import ...`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from .checkpoint.build import build_model
from .config.published import PUBLISHED
from .config.sam2 import SAM2Config
from .sam2_video_predictor import SAM2VideoPredictor

if TYPE_CHECKING:
    import mlx.core as mx

    from .model.sam2 import SAM2

# The official YAML files end in t, s, b+ and l.
_YAML_NAMES = {
    name.removesuffix(size) + letter: name
    for letter, size in (("t", "tiny"), ("s", "small"), ("b+", "base_plus"), ("l", "large"))
    for name in PUBLISHED
    if name.endswith(f"_{size}")
}


def build_sam2(
    config_file: str | None,
    ckpt_path: str,
    device: str | mx.Device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    **options: Any,
) -> SAM2:
    """A model for ``SAM2ImagePredictor`` from a configuration and a checkpoint.

    Args:
        config_file: the official name of a published configuration (``configs/sam2.1/sam2.1_hiera_l.yaml``; no file
            need exist, but one that does is read), a YAML or JSON file, or None to recognise it from the checkpoint.
        ckpt_path: file, folder or Hub id.
        options: further ones of ``mlx_sam2.checkpoint.build.build_model``, as the other arguments.
    """
    return build_model(
        ckpt_path,
        config=_published_config(config_file),
        device=device,
        mode=mode,
        hydra_overrides_extra=hydra_overrides_extra,
        apply_postprocessing=apply_postprocessing,
        **options,
    )


def build_sam2_hf(model_id: str, **options: Any) -> SAM2:
    """``build_sam2`` for a model on the Hub."""
    return build_model(model_id, **options)


def build_sam2_video_predictor(
    config_file: str | None, ckpt_path: str, device: str | mx.Device | None = None, mode: str = "eval", **options: Any
) -> SAM2VideoPredictor:
    """A video predictor from a configuration and a checkpoint; arguments as for ``build_sam2``."""
    return SAM2VideoPredictor.from_pretrained(
        ckpt_path, config=_published_config(config_file), device=device, mode=mode, **options
    )


def build_sam2_video_predictor_hf(model_id: str, **options: Any) -> SAM2VideoPredictor:
    """``build_sam2_video_predictor`` for a model on the Hub."""
    return SAM2VideoPredictor.from_pretrained(model_id, **options)


def _published_config(config_file: str | None) -> SAM2Config | str | None:
    """The published configuration that an official YAML name stands for; a file that exists, as it is given."""
    if config_file is None or Path(config_file).is_file():
        return config_file
    name = PurePath(config_file).name.removesuffix(".yaml")
    return PUBLISHED[_YAML_NAMES[name]].config if name in _YAML_NAMES else config_file

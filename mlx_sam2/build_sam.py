"""The official build functions by their names and arguments (official ``build_sam.py``).

A script changes ``from sam2.build_sam import ...`` to ``from mlx_sam2.build_sam import ...`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from mlx.utils import tree_flatten

from .checkpoint.build import build_model
from .checkpoint.loading import load
from .config.published import PUBLISHED
from .config.sam2 import SAM2Config
from .hub.download import fetch
from .modeling.sam2_base import SAM2Base
from .sam2_video_predictor import SAM2VideoPredictor
from .utils.module import as_official

if TYPE_CHECKING:
    import mlx.core as mx


# The official YAML files end in t, s, b+ and l.
_YAML_NAMES = {
    name.removesuffix(size) + letter: name
    for letter, size in (("t", "tiny"), ("s", "small"), ("b+", "base_plus"), ("l", "large"))
    for name in PUBLISHED
    if name.endswith(f"_{size}")
}


# Folders that the official YAML files lie in, in the package and in its repository's older states.
_YAML_FOLDERS = ("", ".", "configs", "sam2", "sam2.1", "sam2_configs", "sam2_hiera")

HF_MODEL_ID_TO_FILENAMES = {
    model.repo_id: (f"configs/{letter_name.split('_')[0]}/{letter_name}.yaml", model.filename)
    for letter_name, model in ((letters, PUBLISHED[name]) for letters, name in _YAML_NAMES.items())
}


def build_sam2(
    config_file: str | None,
    ckpt_path: str | None = None,
    device: str | mx.Device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    **options: Any,
) -> SAM2Base:
    """A model for ``SAM2ImagePredictor`` from a configuration and a checkpoint.

    Args:
        config_file: the official name of a published configuration (``configs/sam2.1/sam2.1_hiera_l.yaml``; no file
            need exist, but one that does is read), a YAML or JSON file, or None to recognise it from the checkpoint.
        ckpt_path: file, folder or Hub id; None for random weights.
        options: further ones of ``mlx_sam2.checkpoint.build.build_model``, as the other arguments.

    Raises:
        ValueError: for the name of a configuration that is none of the official ones.
    """
    model = build_model(
        ckpt_path,
        config=_published_config(config_file),
        device=device,
        mode=mode,
        hydra_overrides_extra=hydra_overrides_extra,
        apply_postprocessing=apply_postprocessing,
        **options,
    )
    return as_official(model)


def build_sam2_hf(model_id: str, **options: Any) -> SAM2Base:
    """``build_sam2`` for a model on the Hub."""
    return as_official(build_model(model_id, **options))


def build_sam2_video_predictor(
    config_file: str | None,
    ckpt_path: str | None = None,
    device: str | mx.Device | None = None,
    mode: str = "eval",
    hydra_overrides_extra: Sequence[str] = (),
    apply_postprocessing: bool = True,
    vos_optimized: bool = False,
    **options: Any,
) -> SAM2VideoPredictor:
    """A video predictor from a configuration and a checkpoint; arguments as for ``build_sam2``.

    ``vos_optimized`` compiles with PyTorch in the official code; here it changes nothing, and a warning says so.
    """
    return SAM2VideoPredictor.from_pretrained(
        ckpt_path,
        config=_published_config(config_file),
        device=device,
        mode=mode,
        hydra_overrides_extra=hydra_overrides_extra,
        apply_postprocessing=apply_postprocessing,
        vos_optimized=vos_optimized,
        **options,
    )


def build_sam2_video_predictor_hf(model_id: str, **options: Any) -> SAM2VideoPredictor:
    """``build_sam2_video_predictor`` for a model on the Hub."""
    return SAM2VideoPredictor.from_pretrained(model_id, **options)


def _published_config(config_file: str | None) -> SAM2Config | str | None:
    """The published configuration that an official YAML name stands for; a file that exists, as it is given."""
    if config_file is None or Path(config_file).is_file():
        return config_file
    path = PurePath(config_file)
    name = path.name.removesuffix(".yaml")
    if name in _YAML_NAMES and path.parent.name in _YAML_FOLDERS:
        return PUBLISHED[_YAML_NAMES[name]].config
    if path.parent.name and path.suffix in ("", ".yaml", ".yml"):
        known = ", ".join(config for config, _ in HF_MODEL_ID_TO_FILENAMES.values())
        raise ValueError(f"{config_file!r} is no official configuration, and no such file exists; there are {known}")
    return config_file


def _hf_download(model_id: str) -> tuple[str, str]:
    """The names of the configuration and of the downloaded checkpoint of an official model on the Hub."""
    if model_id not in HF_MODEL_ID_TO_FILENAMES:
        raise ValueError(f"{model_id!r} is no official model; there are {', '.join(HF_MODEL_ID_TO_FILENAMES)}")
    return HF_MODEL_ID_TO_FILENAMES[model_id][0], str(fetch(model_id).path)


def _load_checkpoint(model: SAM2Base, ckpt_path: str | None) -> None:
    """Put the weights of a checkpoint into a model. CheckpointError if they do not fit."""
    if ckpt_path is not None:
        loaded = as_official(load(ckpt_path, config=model.config, dtype=model.dtype))
        model.load_weights(list(tree_flatten(dict(loaded.parameters().items()))))


def __getattr__(name: str) -> Any:
    if name.startswith("build_sam2_camera_predictor"):
        raise ImportError(
            f"{name} is of a fork; live video is built in here: build_sam2_video_predictor(...).stream() takes a frame "
            "at a time (docs/video.md)"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Our configuration as the ``config.json`` of transformers' SAM 2; ``config_formats.py`` reads it."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from .official import TRANSFORMERS_FIXED, TRANSFORMERS_PATHS, from_transformers
from .parts import ConfigError
from .sam2 import BESIDE, SAM2Config

_HIERA = "vision_config.backbone_config"


def to_transformers(
    config: SAM2Config, *, video: bool = True, dtype: str = "float32", kept: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The ``config.json`` of a ``Sam2VideoModel``, or without ``video`` of a ``Sam2Model``.

    Args:
        config: what it has to say.
        dtype: of the weights beside it.
        kept: what transformers' file said of the model that this one comes from; fields that are not ours stay.

    Raises:
        ConfigError: transformers has no words for one of the values.
    """
    kind = "sam2_video" if video else "sam2"
    tree = copy.deepcopy(kept or {})
    ours = config.to_dict()
    for name, path in TRANSFORMERS_PATHS.items():
        part, _, leaf = name.rpartition(".")
        _put(tree, path, ours[part][leaf] if part else ours[name])
    for path, value in {**TRANSFORMERS_FIXED, **_derived(config), **_kinds(kind)}.items():
        _put(tree, path, value)
    tree |= {"architectures": ["Sam2VideoModel" if video else "Sam2Model"], "model_type": kind, "dtype": dtype}
    _check_said(config, from_transformers(tree))
    return tree


def _derived(config: SAM2Config) -> dict[str, Any]:
    """What transformers says again, or says of what we compute."""
    trunk, size, width = config.trunk, config.image_size, config.memory_encoder.in_dim
    stages = range(len(trunk.stages))
    levels = range(len(trunk.stages) - config.scalp)
    grid = config.embedding_size
    return {
        f"{_HIERA}.image_size": [size, size],
        **{f"{_HIERA}.{n}": [getattr(trunk, n)] * 2 for n in ("patch_kernel_size", "patch_stride", "patch_padding")},
        f"{_HIERA}.embed_dim_per_stage": [trunk.embed_dim_at_stage(s) for s in stages],
        f"{_HIERA}.num_attention_heads_per_stage": [trunk.num_heads_at_stage(s) for s in stages],
        "vision_config.backbone_feature_sizes": [[trunk.grid_size_at_stage(s, size)] * 2 for s in levels],
        "prompt_encoder_config.image_size": size,
        "prompt_encoder_config.hidden_size": config.neck.d_model,
        "prompt_encoder_config.scale": 1,
        "mask_decoder_config.hidden_size": config.neck.d_model,
        "mask_downsampler_embed_dim": width,
        "memory_fuser_embed_dim": width,
        "memory_fuser_intermediate_dim": 4 * width,
        "memory_attention_rope_feat_sizes": [grid, grid],
        "rope_parameters.rope_type": "axial",
    }


def _kinds(kind: str) -> dict[str, str]:
    return {
        "vision_config.model_type": "sam2_vision_model",
        "prompt_encoder_config.model_type": f"{kind}_prompt_encoder",
        "mask_decoder_config.model_type": f"{kind}_mask_decoder",
    }


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    tree[leaf] = value


def _check_said(config: SAM2Config, said: SAM2Config) -> None:
    """Refuse to write what would be read as another model."""
    for part in dataclasses.fields(config):
        ours, theirs = getattr(config, part.name), getattr(said, part.name)
        if ours == theirs:
            continue
        name, value = part.name, ours
        if dataclasses.is_dataclass(ours):
            leaf = next(f.name for f in dataclasses.fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name))
            name, value = f"{part.name}.{leaf}", getattr(ours, leaf)
        raise ConfigError(f"transformers' config.json cannot say {name} = {value!r}; write --to official instead")


def kept_fields(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of a ``config.json``, transformers' or that of a converted folder, that are not ours."""
    if "vision_config" not in values:
        return {}
    not_kept = {*BESIDE, *(f.name for f in dataclasses.fields(SAM2Config))}
    return {key: value for key, value in values.items() if key not in not_kept}

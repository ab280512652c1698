"""Recognise a published model by the names and shapes of a checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Mapping

from ..config.edgetam import RepViTConfig
from ..config.published import DEMO, PUBLISHED
from ..config.sam2 import SAM2Config
from . import key_map
from .config_file import read_config
from .reader import Checkpoint
from .tensors import CheckpointError

SAY_WHICH = "pass config= (a SAM2Config, a dict, a JSON or YAML file, or a name: 'tiny')"
_TRUNK = "image_encoder.trunk."
_BLOCK = _TRUNK + "body.stages_{stage}.blocks.{block}.channel_mixer.conv2.c.weight"  # of RepViT
Shapes = Mapping[str, tuple[int, ...]]


def recognise(checkpoint: Checkpoint, remedy: str = SAY_WHICH) -> SAM2Config:
    """Recognise a published model or the demo by the names and shapes of a checkpoint's tensors.

    ``remedy`` is what the error tells the user to do.

    Raises:
        CheckpointError: it is none of these; ``config=`` has to say what it is.
    """
    shapes = {key: weight.mlx_shape for key, weight in checkpoint.weights.items()}
    for config in (*(model.config for model in PUBLISHED.values()), read_config(DEMO)):
        if _fits(config, shapes):
            return config
    raise CheckpointError(f"{checkpoint.path}: cannot tell which model this is ({_described(shapes)}); {remedy}")


def _fits(config: SAM2Config, shapes: Shapes) -> bool:
    trunk, video = config.trunk, any(map(key_map.is_video_only, shapes))
    if isinstance(trunk, RepViTConfig):
        return _repvit(shapes) == (trunk.embed_dims, trunk.depths) and (
            _width(shapes) == config.neck.d_model and (not video or _latents(shapes) == _latents_of(config))
        )
    found = trunk.embed_dim, trunk.total_blocks, trunk.window_pos_embed_bkg_spatial_size
    return _hiera(shapes) == found and (_is_2_1(shapes) if video else True) == config.no_obj_embed_spatial


def _hiera(shapes: Shapes) -> tuple[int, int, tuple[int, ...]]:
    """Width, number of blocks and position grid of the trunk, which differ between all sizes."""
    blocks = {key.split(".")[3] for key in shapes if key.startswith(f"{_TRUNK}blocks.")}
    width = shapes.get(f"{_TRUNK}patch_embed.proj.weight", ())[:1]
    return sum(width), len(blocks), shapes.get(f"{_TRUNK}pos_embed", ())[1:3]


def _repvit(shapes: Shapes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Widths and depths of the stages."""
    widths, depths = [], []
    while first := shapes.get(_BLOCK.format(stage=len(depths), block=0)):
        blocks = 1
        while _BLOCK.format(stage=len(depths), block=blocks) in shapes:
            blocks += 1
        widths.append(first[0])
        depths.append(blocks)
    return tuple(widths), tuple(depths)


def _width(shapes: Shapes) -> int:
    return sum(shapes.get("image_encoder.neck.convs.0.conv.weight", ())[:1])


def _latents(shapes: Shapes) -> tuple[int, ...]:
    names = ("latents", "latents_2d")
    return tuple(sum(shapes.get(f"spatial_perceiver.{name}", ())[:1]) for name in names)


def _latents_of(config: SAM2Config) -> tuple[int, ...]:
    perceiver = config.spatial_perceiver
    return (0, 0) if perceiver is None else (perceiver.num_latents, perceiver.num_latents_2d)


def _is_2_1(shapes: Shapes) -> bool:
    """Whether the two parameters are there that 2.1 added to the memory. Image halves are alike, and count as 2.1."""
    return "no_obj_embed_spatial" in shapes or any(key.startswith("obj_ptr_tpos_proj.") for key in shapes)


def _described(shapes: Shapes) -> str:
    widths, depths = _repvit(shapes)
    if widths:
        return f"RepViT of {list(depths)} blocks, {list(widths)} channels"
    width, blocks, grid = _hiera(shapes)
    return f"trunk of {blocks} blocks, {[width] if width else []} channels, position grid {list(grid)}"

"""Which parameters are trained, and how: presets, rates, weight decay, and what a clip leaves alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

DECODER = ("sam_prompt_encoder.", "sam_mask_decoder.")
PROJECTED = ("sam_mask_decoder.conv_s0.", "sam_mask_decoder.conv_s1.")  # they belong to the cached features
MEMORY = (
    "memory_attention.", "memory_encoder.", "maskmem_tpos_enc", "no_obj_", "obj_ptr_", "mask_downsample.",
)  # fmt: skip
FIXED = ("sam_prompt_encoder.pe_layer.", "no_mem_pos_enc")  # a buffer, and a parameter without a use
TRUNK = "image_encoder.trunk."
ADAPTED = re.compile(
    r"image_encoder\.trunk\.blocks\.\d+\.attn\.(qkv|proj)\.weight"
    r"|memory_attention\.layers\.\d+\.(self_attn|cross_attn_image)\.(q|k|v|out)_proj\.weight"
)
# LayerNorms of torch; the code's own LayerNorm2d (memory encoder, prompt encoder, upscaling) is another class
LAYER_NORMS = re.compile(
    r"image_encoder\.trunk\.blocks\.\d+\.norm\d\."
    r"|memory_attention\.(layers\.\d+\.)?norm\d?\."
    r"|sam_mask_decoder\.transformer\.(layers\.\d+\.)?norm\w*\."
)
PRESETS = ("decoder", "lora", "memory", "full")


def trained_names(names: Iterable[str], preset: str) -> list[str]:
    """The parameters that a preset trains as they are; of ``lora``, beside its adapters."""
    names = [n for n in names if not n.startswith(FIXED)]
    if preset == "full":
        return names
    if preset == "memory":
        return [n for n in names if n.startswith((*DECODER, *MEMORY))]
    if preset == "lora":
        return [n for n in names if n.startswith(DECODER)]
    return [n for n in names if n.startswith(DECODER) and not n.startswith(PROJECTED)]


def adapted_names(names: Iterable[str], video: bool) -> list[str]:
    """The matrices that ``lora`` gives adapters: those of memory attention only with clips."""
    return [n for n in names if ADAPTED.fullmatch(n) and (video or n.startswith(TRUNK))]


def rate_factor(name: str, num_blocks: int, layer_decay: float) -> float:
    """The share of the learning rate that a parameter gets: less towards the first layers of the trunk."""
    if not name.startswith(TRUNK) or fnmatchcase(name, "*pos_embed*"):
        return 1.0
    layer = 0  # patch_embed
    if match := re.match(r"image_encoder\.trunk\.blocks\.(\d+)\.", name):
        layer = int(match[1]) + 1
    return layer_decay ** (num_blocks + 1 - layer)


def is_decayed(name: str) -> bool:
    """Whether weight decay applies: not to biases and LayerNorms."""
    return "bias" not in name and not LAYER_NORMS.match(name)


def without_gradient(num_frames: int, first: Collection[int], masks_given: bool, corrected: bool) -> tuple[str, ...]:
    """Beginnings of the names that a clip gives no gradient at all: they are neither moved nor decayed.

    Parameters that are in use and happen to have a gradient of zeros (embeddings of other labels, hypernetworks of
    masks that were not chosen) are decayed, as in the official code.

    Args:
        first: the initial conditioning frames.
        masks_given: whether these are prompted by masks.
        corrected: whether any frame gets a corrective click.
    """
    unused = ["no_mem_pos_enc"]
    if num_frames == len(first):  # nothing is tracked
        unused += MEMORY
    elif not masks_given:
        unused.append("mask_downsample.")
    if masks_given:
        unused.append("no_mem_embed")
    elif not corrected:
        unused.append("sam_prompt_encoder.mask_downscaling.")
    return tuple(unused)

"""The published models and the geometry of their trunks."""

from __future__ import annotations

import dataclasses

import pytest

from mlx_sam2.checkpoint.loading import config_of
from mlx_sam2.config.parts import HieraConfig
from mlx_sam2.config.published import FINE_TUNED, PUBLISHED
from mlx_sam2.config.published import published as find

SIZES = ("tiny", "small", "base_plus", "large")


def published(size: str) -> HieraConfig:
    return PUBLISHED[f"sam2.1_hiera_{size}"].config.trunk


# ---- the published models


def test_table_of_published_models() -> None:
    short = [*SIZES, *(f"sam2-{size}" for size in SIZES), "edgetam"]
    assert [entry.short_name for entry in PUBLISHED.values()] == short
    for name, entry in PUBLISHED.items():
        assert entry.name == name
        assert entry.filename == f"{name}.pt"
    assert PUBLISHED["sam2.1_hiera_base_plus"].repo_id == "facebook/sam2.1-hiera-base-plus"
    assert PUBLISHED["sam2_hiera_large"].repo_id == "facebook/sam2-hiera-large"


def test_fine_tunes_say_what_is_known_of_them() -> None:
    assert PUBLISHED.keys().isdisjoint(FINE_TUNED)
    assert len({entry.address for entry in FINE_TUNED.values()}) == len(FINE_TUNED)
    tiny = PUBLISHED["sam2.1_hiera_tiny"].config
    for name, entry in FINE_TUNED.items():
        assert entry is find(name) is find(entry.address)
        assert entry.config == dataclasses.replace(tiny, image_size=512)
        assert entry.source.startswith("https://") and entry.licence is None and not entry.verified
        assert config_of(name) == entry.config
    assert config_of("tiny") is config_of("edgetam") is config_of("x/y") is None


@pytest.mark.parametrize("size", SIZES)
def test_sam2_and_sam2_1_differ_in_four_switches(size: str) -> None:
    old, new = PUBLISHED[f"sam2_hiera_{size}"].config, PUBLISHED[f"sam2.1_hiera_{size}"].config
    switches = (
        "no_obj_embed_spatial",
        "add_tpos_enc_to_obj_ptrs",
        "proj_tpos_enc_in_obj_ptrs",
        "use_signed_tpos_enc_to_obj_ptrs",
    )
    assert not any(getattr(old, switch) for switch in switches)
    assert dataclasses.replace(old, **dict.fromkeys(switches, True)) == new


# The table of the paper's official configurations: channels, heads, blocks, global blocks, windows, background size.
TRUNKS = {
    "tiny": ((96, 192, 384, 768), (1, 2, 4, 8), (1, 2, 7, 2), (5, 7, 9), (8, 4, 14, 7), 7),
    "small": ((96, 192, 384, 768), (1, 2, 4, 8), (1, 2, 11, 2), (7, 10, 13), (8, 4, 14, 7), 7),
    "base_plus": ((112, 224, 448, 896), (2, 4, 8, 16), (2, 3, 16, 3), (12, 16, 20), (8, 4, 14, 7), 14),
    "large": ((144, 288, 576, 1152), (2, 4, 8, 16), (2, 6, 36, 4), (23, 33, 43), (8, 4, 16, 8), 7),
}
POOLING = {"tiny": (1, 3, 10), "small": (1, 3, 14), "base_plus": (2, 5, 21), "large": (2, 8, 44)}
HEAD_SIZE = {"tiny": 96, "small": 96, "base_plus": 56, "large": 72}


@pytest.mark.parametrize("size", SIZES)
def test_trunk_by_stage(size: str) -> None:
    trunk = published(size)
    widths, heads, stages, global_blocks, windows, background = TRUNKS[size]
    assert trunk.stages == stages
    assert trunk.total_blocks == sum(stages) == {"tiny": 12, "small": 16, "base_plus": 24, "large": 48}[size]
    assert tuple(trunk.embed_dim_at_stage(s) for s in range(4)) == widths
    assert tuple(trunk.num_heads_at_stage(s) for s in range(4)) == heads
    assert {w // h for w, h in zip(widths, heads, strict=True)} == {HEAD_SIZE[size]}
    assert tuple(trunk.window_size_at_stage(s) for s in range(4)) == windows
    assert trunk.window_pos_embed_bkg_spatial_size == (background, background)
    assert [trunk.grid_size_at_stage(s, 1024) for s in range(4)] == [256, 128, 64, 32]
    assert [trunk.grid_size_at_stage(s, 256) for s in range(4)] == [64, 32, 16, 8]
    assert trunk.q_pool_block_indices == POOLING[size]
    assert tuple(b for b in range(trunk.total_blocks) if trunk.window_size_of_block(b) == 0) == global_blocks


@pytest.mark.parametrize("size", SIZES)
def test_first_block_of_a_stage_keeps_the_window_before(size: str) -> None:
    trunk = published(size)
    windows = [trunk.window_size_of_block(b) for b in range(trunk.total_blocks)]
    assert windows[0] == trunk.window_spec[0]
    for stage, block in enumerate(trunk.q_pool_block_indices, start=1):
        assert trunk.stage_of_block(block - 1) == stage - 1
        assert trunk.stage_of_block(block) == stage
        assert windows[block] == trunk.window_spec[stage - 1]
        assert windows[block + 1] == trunk.window_spec[stage]


def test_windows_of_tiny_spelled_out() -> None:
    trunk = published("tiny")
    assert [trunk.window_size_of_block(b) for b in range(12)] == [8, 8, 4, 4, 14, 0, 14, 0, 14, 0, 14, 7]
    assert [trunk.stage_of_block(b) for b in range(12)] == [0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3]


@pytest.mark.parametrize("block", [-1, 12])
def test_no_such_block(block: int) -> None:
    with pytest.raises(IndexError, match=f"block {block} does not exist; blocks go from 0 to 11"):
        published("tiny").stage_of_block(block)

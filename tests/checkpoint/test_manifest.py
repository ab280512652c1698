"""Every key and shape of the published checkpoints, against the parameters of their configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoint_files import parameter_shapes
from mlx_sam2.checkpoint import key_map
from mlx_sam2.config.published import PUBLISHED
from mlx_sam2.config.sam2 import SAM2Config
from synthetic import config_dict, shapes


def listed(path: Path) -> dict[str, tuple[int, ...]]:
    """Without the counters of batch norms, which are not loaded."""
    keys = json.loads(path.read_text())["keys"].items()
    return {key: tuple(entry["shape"]) for key, entry in keys if not key_map.is_counter(key)}


def test_the_small_edgetam(golden: Path) -> None:
    expected = listed(golden / "manifest" / "official_edgetam_nano.json")
    assert parameter_shapes(SAM2Config.from_dict(config_dict("edgetam_nano"))) == expected


@pytest.mark.parametrize("name", ["nano", "nano20"])
def test_small_configurations(name: str) -> None:
    assert parameter_shapes(SAM2Config.from_dict(config_dict(name))) == shapes(name)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_checkpoints(name: str, golden: Path) -> None:
    assert parameter_shapes(PUBLISHED[name].config) == listed(golden / "manifest" / f"official_{name}.json")


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_transformers_names(name: str, golden: Path) -> None:
    """Each official name has its transformers name there, with the same shape, and none is left over."""
    official = listed(golden / "manifest" / f"official_{name}.json")
    theirs = listed(golden / "manifest" / f"hf_{name}.json")
    for key in theirs.keys() & set(key_map.POSITION_COPIES):
        matrix = theirs.pop(key)
    theirs[key_map.to_transformers(key_map.from_transformers(key_map.POSITION_COPIES[0]))] = matrix
    rows = [official.pop(key) for key in key_map.POINT_ROWS]
    assert theirs.pop(key_map.POINT_TABLE) == (len(rows), rows[0][1])
    for key in [key for key in official if key_map.halves(key)]:
        rows, columns = official.pop(key)
        for i, half in enumerate(key_map.halves(key)):
            assert key_map.half(half) == (key, i)
            assert theirs.pop(half) == (rows // 2, columns)
    perceives = any(key.startswith("spatial_perceiver.") for key in official)
    assert {key_map.to_transformers(key, perceives): shape for key, shape in official.items()} == theirs
    assert {key_map.from_transformers(key) for key in theirs} == set(official)

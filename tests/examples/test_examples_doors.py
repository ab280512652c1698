"""The examples use public doors only: names that stay."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from example_programs import EXAMPLES

DOORS = ("aio", "frames", "hub", "images", "masks", "track_everything", "worker")  # of mlx_sam2; frames with its files
SOURCES = [*sorted(EXAMPLES.glob("*.py")), *sorted(EXAMPLES.glob("napari_plugin/*/*.py"))]


def imported(source: str) -> set[str]:
    """Modules of mlx_sam2 that a program imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name for name in names if name.split(".")[0] == "mlx_sam2"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_examples_use_public_doors(path: Path) -> None:
    for name in imported(path.read_text()):
        room, *inside = name.split(".")[1:] or [""]
        assert not room or room in DOORS, f"{path.name} imports {name}"
        assert not inside or room == "frames", f"{path.name} imports {name}: take it from mlx_sam2.{room}"


def test_imports_are_seen() -> None:
    source = "import mlx_sam2.model\nfrom mlx_sam2 import masks\ndef f():\n    from mlx_sam2.images.drawing import x"
    assert imported(source) == {"mlx_sam2", "mlx_sam2.model", "mlx_sam2.images.drawing"}

"""The package as a whole: which room may import which, and what a bare import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mlx_sam2"

# From the ground up. A room may import what stands below it or beside it, without cycles; nothing imports a
# command. Rooms that do not exist yet have their place already.
FLOORS: list[set[str]] = [
    {"_blas", "config", "kernels", "worker"},
    {"model"},
    {"images", "masks", "video", "memory_bank", "davis"},
    {"key_map", "torch_file", "safetensors_file", "hub"},
    {"checkpoint"},
    {"build"},
    {"image_predictor", "video_predictor", "automatic_mask_generator", "track_everything"},
    {"aio", "build_sam", "cli", "sam2_image_predictor", "sam2_video_predictor"},
    {"segment", "track", "convert", "benchmark", "doctor", "export", "app"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
COMMANDS = FLOORS[-1]
PART_OF = {  # rooms of several files
    **{f"benchmark_{part}": "benchmark" for part in ("bars", "peers", "sides", "stages", "torch")},
    "roofline": "benchmark",
    "roofline_steps": "benchmark",
    "config_formats": "config",
    "config_parts": "config",
    "torch_pickle": "torch_file",
    "config_transformers": "config",
    "checkpoint_reader": "checkpoint",
    "converted": "checkpoint",
    "safetensors_writer": "safetensors_file",
    "torch_writer": "torch_file",
    **{f"convert_{part}": "convert" for part in ("card", "layouts", "run", "verify")},
    **{f"doctor_{part}": "doctor" for part in ("machine", "measure", "weights")},
    "hub_client": "hub",
    "hub_upload": "hub",
    "mask_boxes": "masks",
    "mask_export": "masks",
    "mask_rle": "masks",
    "mask_shapes": "masks",
    "image_drawing": "images",
    "mask_crops": "automatic_mask_generator",
    "mask_upscale": "automatic_mask_generator",
    "camera": "video",
    "video_file": "video",
    "video_sinks": "video",
    "approximations": "video_predictor",
    "tracker": "video_predictor",
    "video_ahead": "video_predictor",
    "video_state": "video_predictor",
    "video_stream": "video_predictor",
    "segment_everything": "segment",
    "segment_parts": "segment",
    "segment_photos": "segment",
    "segment_ranks": "segment",
    "track_davis": "track",
    "track_find": "track",
    "track_prompts": "track",
    "track_run": "track",
}
HEAVY = ["mlx", "torch", "cv2", "av", "huggingface_hub"]


def room_of(path: Path) -> str:
    inside = path.relative_to(PACKAGE)
    name = inside.parts[0] if len(inside.parts) > 1 else inside.stem
    return PART_OF.get(name, name)


def imported_rooms(path: Path, package: Path = PACKAGE) -> set[str]:
    """Rooms of mlx_sam2 that a file imports anywhere, inside functions and `if TYPE_CHECKING` included."""
    tree = ast.parse(path.read_text(), str(path))
    here = ["mlx_sam2", *path.relative_to(package).with_suffix("").parts]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    rooms = {name.split(".")[1] for name in names if name.startswith("mlx_sam2.")}
    return {PART_OF.get(room, room) for room in rooms} - {"__version__"}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # the door: lazy, see test_import_is_light
    assert room in FLOOR, f"{room} has no floor: add it to FLOORS"
    for other in imported_rooms(path) - {room}:
        assert other in FLOOR, f"{room} imports {other}, which has no floor: add it to FLOORS"
        assert FLOOR[other] <= FLOOR[room], f"{room} imports {other}, which stands above it"
        assert other not in COMMANDS, f"{room} imports the command {other}"


def test_no_import_cycles() -> None:
    graph: dict[str, set[str]] = {}
    for path in sources():
        if room_of(path) != "__init__":
            graph.setdefault(room_of(path), set()).update(imported_rooms(path) - {room_of(path)})
    done: set[str] = set()
    while ready := {room for room, needs in graph.items() if needs <= done} - done:
        done |= ready
    assert done == set(graph), f"these rooms import each other: {sorted(set(graph) - done)}"


def test_every_way_of_importing_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "model" / "x.py"
    file.parent.mkdir()
    file.write_text(
        "import mlx_sam2.config\nfrom mlx_sam2 import masks\nfrom mlx_sam2.hub import resolve\n"
        "from ..images import read\nfrom .. import video\nfrom .layers import MLP\nimport numpy\n"
        "def f():\n    from mlx_sam2.segment import main\n"
    )
    rooms = imported_rooms(file, tmp_path)
    assert rooms == {"config", "masks", "hub", "images", "video", "model", "segment"}


def run_python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)


# prints which of the heavy packages are in sys.modules when the interpreter ends
WATCH = f"""
import atexit, sys
atexit.register(lambda: print("LOADED", *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr))
"""


def test_import_is_light() -> None:
    done = run_python("-c", WATCH + "import mlx_sam2; dir(mlx_sam2); mlx_sam2.__version__")
    assert done.returncode == 0
    assert done.stderr.split() == ["LOADED"]


def commands() -> list[str]:
    return sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem in COMMANDS)


@pytest.mark.parametrize("command", commands())
def test_help_is_light(command: str) -> None:
    module = f"mlx_sam2.{command}"
    run = f"import runpy; sys.argv[1:] = ['--help']; runpy.run_module({module!r}, run_name='__main__')"
    done = run_python("-c", WATCH + run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")
    assert done.stderr.split() == ["LOADED"]


def test_public_names_exist() -> None:
    import mlx_sam2

    assert set(mlx_sam2.__all__) <= set(dir(mlx_sam2))
    for name in mlx_sam2.__all__:
        assert getattr(mlx_sam2, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'SAM3'"):
        _ = mlx_sam2.SAM3

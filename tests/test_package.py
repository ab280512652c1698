"""The package as a whole: which folder may import which, no circles, and what a bare import costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from light import WATCH

PACKAGE = Path(__file__).parents[1] / "mlx_sam2"

# From the ground up. A file may import what stands on a lower floor, and on its own; a command is imported by nothing
# outside its folder.
COMMANDS = ["segment", "track", "convert", "doctor", "benchmark", "export", "finetune"]
FLOORS: list[list[str]] = [
    ["_blas", "cli", "files", "text", "machine", "processes", "worker"],
    ["config"],
    ["formats"],
    ["hub"],
    ["kernels"],
    ["model"],
    ["checkpoint"],
    ["masks"],
    ["images"],
    ["frames"],
    ["datasets"],  # it is a command, too
    ["video"],
    ["utils"],
    ["modeling"],
    ["sam2_image_predictor", "sam2_video_predictor", "automatic_mask_generator", "track_everything"],
    ["aio", "build_sam", "image_predictor", "video_predictor"],
    COMMANDS,
    ["app"],
    ["__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def sources(package: Path = PACKAGE) -> dict[str, Path]:
    """Files by the dotted name of their module, doors by that of their folder."""
    return {
        ".".join(["mlx_sam2", *path.relative_to(package).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in sorted(package.rglob("*.py"))
        # the front door is lazy, see test_import_is_light; PyInstaller alone runs its hooks
        if path != package / "__init__.py" and path.parent.name != "_pyinstaller"
    }


def typing_only(tree: ast.AST) -> set[ast.AST]:
    """Nodes under ``if TYPE_CHECKING``, which nothing runs."""
    tests = (node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    return {inner for test in tests for statement in test.body for inner in ast.walk(statement)}


class Import(NamedTuple):
    """A module that a file imports, and where."""

    module: str
    line: int
    late: bool  # inside a function


def statements(name: str, path: Path, modules: set[str], typed: bool = False) -> list[Import]:
    """What a file imports anywhere, by full names; with ``typed``, for types as well."""
    tree = ast.parse(path.read_text(), str(path))
    folder = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    skipped = set() if typed else typing_only(tree)
    functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
    inside = {inner for function in functions for inner in ast.walk(function)}
    found: list[Import] = []
    for node in ast.walk(tree):
        if node in skipped:
            continue
        names: set[str] = set()
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{module}.{a.name}" if f"{module}.{a.name}" in modules else module for a in node.names}
        found += [Import(module, node.lineno, node in inside) for module in sorted(names)]
    return found


def imports_of(name: str, path: Path, modules: set[str], typed: bool = False) -> set[str]:
    """Modules of the package that a file imports anywhere, inside functions too; with ``typed``, for types as well."""
    return ({found.module for found in statements(name, path, modules, typed)} & modules) - {name}


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("name", sources())
def test_imports_point_down(name: str) -> None:
    modules = sources()
    assert room(name) in FLOOR, f"{room(name)} has no floor: add it to FLOORS"
    for other in imports_of(name, modules[name], set(modules), typed=True):
        if room(other) != room(name):
            assert FLOOR[room(other)] <= FLOOR[room(name)], f"{name} imports {other}, which stands above it"
            assert room(other) not in COMMANDS, f"{name} imports the command {other}"


def circles(graph: dict[str, set[str]]) -> set[str]:
    """Modules that reach themselves."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            if (module := ahead.pop()) not in seen:
                seen.add(module)
                ahead += graph.get(module, ())
        reached[start] = seen
    return {module for module, seen in reached.items() if module in seen}


def test_no_file_imports_itself_in_a_circle() -> None:
    graph = whole_graph()
    ring = circles({name: ({i.module for i in found} & {*graph}) - {name} for name, found in graph.items()})
    assert not ring, f"these import each other in a circle: {sorted(ring)}"


@cache
def whole_graph() -> dict[str, list[Import]]:
    modules = sources()
    return {name: statements(name, path, set(modules)) for name, path in modules.items()}


def is_foreign(module: str) -> bool:
    root = module.split(".")[0]
    return root not in sys.stdlib_module_names and root != "mlx_sam2"


def packages_of(name: str, graph: dict[str, list[Import]]) -> set[str]:
    """The packages of others that are loaded with a module, before anything in it is called."""
    seen: set[str] = set()
    ahead, packages = [name], set()
    while ahead:
        if (module := ahead.pop()) in seen:
            continue
        seen.add(module)
        if is_foreign(module):
            packages.add(module.split(".")[0])
        parts = module.split(".")
        doors = (".".join(parts[:end]) for end in range(1, len(parts)))
        ahead += [*(door for door in doors if door in graph), *(i.module for i in graph.get(module, ()) if not i.late)]
    return packages


def late_faults(name: str, graph: dict[str, list[Import]]) -> list[str]:
    """Imports inside functions that belong at the top: see ``test_late_imports_save_something``."""
    faults = []
    at_start = packages_of(name, graph)
    for found in graph[name]:
        root = found.module.split(".")[0]
        saves = packages_of(found.module, graph) - at_start
        may = is_foreign(found.module) or (root == "mlx_sam2" and room(name) in [*COMMANDS, "datasets", "app"])
        if found.late and not (may and saves):
            faults.append(f"{name}, line {found.line}: {found.module}")
    return faults


@pytest.mark.parametrize("name", [n for n in sources() if n != "mlx_sam2._blas"])  # which every import runs
def test_late_imports_save_something(name: str) -> None:
    """An import inside a function is of a package of others that its file does without; in a command or the app also
    of a room that needs such a package.
    """
    assert not late_faults(name, whole_graph()), "these belong at the top of their files"


def test_late_imports_are_seen() -> None:
    graph = {
        "mlx_sam2.track.command": [
            Import("numpy", 1, False),
            Import("mlx_sam2.heavy", 2, True),
            Import("mlx_sam2.light", 3, True),
            Import("json", 4, True),
            Import("numpy", 5, True),
            Import("av", 6, True),
        ],
        "mlx_sam2.heavy": [Import("mlx.core", 1, False)],
        "mlx_sam2.light": [Import("numpy", 1, False), Import("mlx_sam2.heavy", 2, True)],
    }
    lines = [int(fault.split("line ")[1].split(":")[0]) for fault in late_faults("mlx_sam2.track.command", graph)]
    assert lines == [3, 4, 5]
    assert len(late_faults("mlx_sam2.light", graph)) == 1, "a library room imports its rooms at the top"


def test_circles_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {"b", "c"}


def test_every_way_of_importing_is_seen(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config", "masks", "hub", "images", "video", "segment", "model/layers"):
        (tmp_path / f"{name}.py").touch()
    file = tmp_path / "model" / "x.py"
    file.write_text(
        "import mlx_sam2.config\nfrom mlx_sam2 import masks\nfrom mlx_sam2.hub import resolve\n"
        "from ..images import read\nfrom .. import video\nfrom .layers import MLP\nimport numpy\n"
        "def f():\n    from mlx_sam2.segment import main\n"
    )
    found = imports_of("mlx_sam2.model.x", file, set(sources(tmp_path)))
    rooms = {name.removeprefix("mlx_sam2.") for name in found}
    assert rooms == {"config", "masks", "hub", "images", "video", "model.layers", "segment"}


def run_python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)


def test_import_is_light() -> None:
    done = run_python("-c", WATCH + "import mlx_sam2; dir(mlx_sam2); mlx_sam2.__version__")
    assert done.returncode == 0
    assert done.stderr.split() == ["LOADED"]


@pytest.mark.parametrize("command", [*COMMANDS, "datasets", "app", ""])
def test_help_is_light(command: str) -> None:
    module = f"mlx_sam2.{command}".rstrip(".")
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


ROOT = PACKAGE.parent
CODE = [path for folder in ("mlx_sam2", "tools", "examples") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_go(path: Path) -> None:
    """At most 400 lines a file, and 80 a function."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < 80, f"{node.name} is longer than 80 lines"


def test_the_door_is_narrow() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 20

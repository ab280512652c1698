"""The documentation is true: its links, commands, options, files and environment variables exist."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from pathlib import Path

import pytest

import doc_pages
from doc_pages import DOCS, PAGES, ROOT, Command, title
from mlx_sam2.__main__ import COMMANDS as LISTED

PACKAGE = ROOT / "mlx_sam2"
HISTORY = ROOT / "CHANGELOG.md"  # tells what was, too
COMMANDS = {  # the page that has all options of a command
    "segment": "segment",
    "track": "video",
    "convert": "convert",
    "doctor": "doctor",
    "datasets": "datasets",
    "finetune": "finetune",
    "app": "app",
    "benchmark": "performance",
    "export": "apps",
}
FOREIGN = {  # options of other programs
    *("--no-deps", "--target", "--ignore-requires-python", "--no-build-isolation", "--hostfile", "--with"),
}
VARIABLE = re.compile(r"\b(?:(?:MLX|HF|OPENBLAS|OMP|MKL|XDG)_[A-Z0-9]+(?:_[A-Z0-9]+)*|TMPDIR)\b")
NO_VARIABLE = {"MLX_AXES"}  # a name of the code
UNREAD = {  # named in docs, read by the package that they belong to, and nowhere here
    *("MLX_DISABLE_COMPILE", "XDG_CACHE_HOME", "TMPDIR"),
    *("HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_DISABLE_PROGRESS_BARS"),
}
named = pytest.mark.parametrize("page", PAGES, ids=title)


def parser(command: str) -> argparse.ArgumentParser:
    return importlib.import_module(f"mlx_sam2.{command}.command").build_parser()


def options(command: str) -> set[str]:
    return {name for action in parser(command)._actions for name in action.option_strings}


def test_readme_is_a_door() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    for page in DOCS:
        if page.parent == ROOT / "docs" and page.name != "README.md":
            assert f"]({page.name})" in (ROOT / "docs" / "README.md").read_text(), (
                f"docs/README.md leaves out {page.name}"
            )


@named
def test_links_lead_somewhere(page: Path) -> None:
    for link in doc_pages.links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{title(page)}: {link} does not exist"
        assert not anchor or anchor in doc_pages.anchors(target), f"{title(page)}: no heading makes #{anchor}"


def test_every_command_has_its_line_and_its_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert set(COMMANDS) == set(LISTED)
    for command, page in COMMANDS.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| `python -m mlx_sam2.{command}` |"))
        assert f"](docs/{page}.md" in line


def test_the_house_has_every_room() -> None:
    """CONTRIBUTING.md has a line for every folder of the package, and names every file beside them."""
    house = (ROOT / "CONTRIBUTING.md").read_text().partition("## The house")[2].partition("Where to add")[0]
    rooms = [path for path in PACKAGE.iterdir() if not path.name.startswith("__") and path.suffix in ("", ".py")]
    aliases = {"image_predictor.py", "video_predictor.py"}
    names = {f"{path.name}/" if path.is_dir() else path.name for path in rooms} - aliases
    names |= {f"{path.name}/" for path in (ROOT / "tools").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert {name for name in names if f"`{name}`" not in house} == set()


def test_links_and_anchors_are_seen(tmp_path: Path) -> None:
    page = tmp_path / "x.md"
    page.write_text("# A `b`, c!\n# a b c\nsee [x](y.md#z) `[no](no.md)` ![p](q.png) [w](https://w)\n\n    [no](no)\n")
    assert doc_pages.links(page) == ["y.md#z", "q.png"]
    assert doc_pages.anchors(page) == {"a-b-c", "a-b-c-1"}


def found(page: Path) -> list[Command]:
    return [] if page == HISTORY else doc_pages.commands(page)


@pytest.mark.parametrize(
    "command", [c for page in PAGES for c in found(page)], ids=lambda c: f"{title(c.page)}: {c.line[:60]}"
)
def test_command_is_accepted(command: Command) -> None:
    """A command line of the docs passes its parser; a script exists and has the options."""
    if command.program.startswith("mlx_sam2"):
        name = command.program.removeprefix("mlx_sam2").lstrip(".")
        assert not name or (PACKAGE / name / "command.py").is_file(), f"there is no {command.program}"
        if command.args:
            parser(name).parse_args(command.args)  # argparse leaves with 2, and says why
        return
    script = next((p for p in (ROOT / command.program, command.page.parent / command.program) if p.is_file()), None)
    assert script, f"{command.program} does not exist"
    for word in command.args:
        if word.startswith("--"):
            known = doc_pages.options_of(script)
            assert word in known, f"{command.program} has no {word}"


def test_commands_are_seen() -> None:
    line = "python3 -m venv x && .venv/bin/python -m mlx_sam2.segment 'a b.jpg' --everything  # and (so on)"
    assert doc_pages.calls(line) == [("mlx_sam2.segment", ["a b.jpg", "--everything"])]
    assert doc_pages.calls("mlx.launch -n 2 -- python -m mlx_sam2.track x") == [("mlx_sam2.track", ["x"])]
    assert doc_pages.calls("mlx-sam2 doctor --quick") == [("mlx_sam2.doctor", ["--quick"])]
    assert doc_pages.calls("napari --with napari-mlx-sam2") == []
    assert doc_pages.calls("python -m mlx_sam2.segment PHOTO [PHOTO ...]") == []


@pytest.mark.parametrize("command", COMMANDS)
def test_page_has_every_option(command: str) -> None:
    page = ROOT / "docs" / f"{COMMANDS[command]}.md"
    shared = {"-h", "--help"}
    if command != "segment":  # its page explains them, the others refer to it
        shared |= {"--model", "--revision", "--dtype", "--overwrite"}
    if command == "track":
        shared |= {name for name in options("segment") if name not in ("--point", "--box")}
    text = page.read_text()
    absent = {name for name in options(command) - shared if not re.search(re.escape(name) + r"(?![\w-])", text)}
    assert absent - {"--quantize"} == set(), f"{title(page)} leaves out"


@named
def test_option_exists(page: Path) -> None:
    if page == HISTORY or page.parent.name == "demo_model":
        return
    known = FOREIGN.union(*(options(command) for command in COMMANDS))
    scripts = [path for room in ("examples", "tests", "tools") for path in (ROOT / room).rglob("*.py")]
    known |= {option for script in scripts for option in doc_pages.options_of(script)}
    text = page.read_text()
    for option in set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)):
        assert option in known, f"{title(page)}: nothing takes {option}"


@named
def test_file_exists(page: Path) -> None:
    if page == HISTORY:
        return
    sources = [path for room in ("mlx_sam2", "tests", "tools", "examples") for path in (ROOT / room).rglob("*.*")]
    names = {path.name for path in sources}
    for name in doc_pages.files(page):
        if "/" in name:
            places = [ROOT / name, PACKAGE / name, page.parent / name]
            assert any(place.exists() for place in places) or any(ROOT.glob(f"{name}*")), f"{title(page)}: no {name}"
        else:
            assert name in names or (ROOT / name).exists(), f"{title(page)}: no {name}"


def test_code_names_pages_that_exist() -> None:
    sources = [path for room in ("mlx_sam2", "examples", "tests", "tools") for path in (ROOT / room).rglob("*.py")]
    for source in sources:
        for page in re.findall(r"(?<![\w/])(?:docs|tests|tools|examples|mlx_sam2)/[\w/]+\.md\b", source.read_text()):
            assert (ROOT / page).is_file(), f"{title(source)} names {page}"


def strings(files: list[Path]) -> str:
    """All constant strings of sources that name a variable, docstrings among them."""
    sources = (source for path in files if VARIABLE.search(source := path.read_text()))
    trees = (ast.parse(source) for source in sources)
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(node.value for node in nodes if isinstance(node.value, str))


def test_environment_variables() -> None:
    """docs/environment.md names what the package reads, and no page names what nothing reads."""
    read = set(VARIABLE.findall(strings(sorted(PACKAGE.rglob("*.py"))))) - NO_VARIABLE
    assert "MLX_SAM2_KERNELS" in read
    explained = set(VARIABLE.findall((ROOT / "docs" / "environment.md").read_text()))
    assert read - explained == set(), "docs/environment.md leaves out"
    scripts = [path for room in ("examples", "tests", "tools") for path in (ROOT / room).rglob("*.py")]
    tested = set(VARIABLE.findall(strings(scripts)))
    named_in_docs = {name for page in DOCS for name in VARIABLE.findall(page.read_text())}
    assert named_in_docs - read - tested - UNREAD == set(), "nothing reads"
    own = {name for name in tested - {"MLX_SAM2_"} if name.startswith("MLX_SAM2_")}
    assert own - named_in_docs == set(), "CONTRIBUTING.md leaves out variables of the tests"

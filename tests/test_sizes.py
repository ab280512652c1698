"""Sizes that keep the code readable, and no error that is swallowed without a reason."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILE_LINES, FUNCTION_LINES, TOP_FILES = 400, 80, 20
SOURCES = {
    path.relative_to(ROOT).as_posix(): path
    for room in ("mlx_sam2", "tests", "tools", "examples")
    for path in sorted((ROOT / room).rglob("*.py"))
}


def functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names and lengths of all functions of a file, those inside others too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_no_file_is_long() -> None:
    long = {name: lines for name, path in SOURCES.items() if (lines := path.read_text().count("\n")) > FILE_LINES}
    assert long == {}


def test_no_function_is_long() -> None:
    sources = {name: path.read_text() for name, path in SOURCES.items()}
    found = {name: functions(ast.parse(s)) for name, s in sources.items() if s.count("\n") >= FUNCTION_LINES}
    assert [f"{name}: {f}" for name, of_file in found.items() for f, lines in of_file if lines > FUNCTION_LINES] == []


def test_few_files_stand_at_the_top() -> None:
    assert len(list((ROOT / "mlx_sam2").glob("*.py"))) <= TOP_FILES


def test_tests_share_helpers_in_support() -> None:
    borrowed = re.compile(r"^ *(?:from|import) test_\w+", re.M)
    found = {name for name, path in SOURCES.items() if "/test_" in name and borrowed.search(path.read_text())}
    assert found == {"tests/video/test_memory_bank.py"}  # which starts a process with itself


def swallowed(source: str) -> list[int]:
    """Lines that catch everything, do not end by raising, and give no reason in a comment there."""
    lines, found = source.splitlines(), []
    if "except" not in source:
        return found
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            names = {name.id for name in ast.walk(node.type) if isinstance(name, ast.Name)} if node.type else {""}
            reason = re.sub(r"noqa(: ?[A-Z0-9, ]+)?", "", lines[node.lineno - 1].partition("#")[2]).strip(" :")
            last = node.body[-1]
            again = isinstance(last, ast.Raise)
            if node.type is None or (names & {"Exception", "BaseException"} and not reason and not again):
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_caught_has_a_name_or_a_reason(name: str) -> None:
    assert swallowed(SOURCES[name].read_text()) == []


def test_swallowed_errors_are_seen() -> None:
    caught = "try:\n    f()\nexcept{}\n    pass\n"
    assert swallowed(caught.format(":")) == [3]
    assert swallowed(caught.format(" Exception:")) == [3]
    assert swallowed(caught.format(" (OSError, Exception):  # noqa: BLE001")) == [3]
    assert swallowed(caught.format(" Exception:  # noqa: BLE001  a plug-in may raise anything")) == []
    assert swallowed(caught.format(" OSError:")) == []
    assert swallowed(caught.format(" BaseException:\n    tidy()").replace("pass", "raise")) == []


def test_lengths_are_seen() -> None:
    assert dict(functions(ast.parse("def f():\n    def g():\n        pass\n\n    return g\n"))) == {"f": 5, "g": 2}

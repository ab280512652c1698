"""What the documentation says, read for tests: its links, its command lines, its Python, its names."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [
    *DOCS,
    ROOT / "CHANGELOG.md",
    *(page for room in ("examples", "mlx_sam2", "tests", "tools") for page in sorted((ROOT / room).rglob("README.md"))),
]
PROMPT = re.compile(r"(?:\.venv/bin/)?python3? (-m mlx_sam2[.\w]*|[\w./]+\.py)(?= |$)|(?<![\w-])(mlx-sam2)(?= |$)")


def title(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    """Lines that stand apart from the prose: a fenced block, or one that is indented."""

    page: Path
    language: str
    text: str


class Command(NamedTuple):
    page: Path
    line: str  # as it stands in the page
    program: str  # "mlx_sam2.segment", "tools/x.py"
    args: list[str]
    apart: bool  # in a block of its own, rather than inside a sentence


@cache
def blocks(page: Path) -> list[Block]:
    found = []
    text = page.read_text()
    for match in re.finditer(r"^(```|~~~)(\w*)\n(.*?)^\1$", text, re.M | re.S):
        found.append(Block(page, match[2], match[3]))
    for match in re.finditer(r"(?:^ {4,}\S.*\n(?:\s*\n(?= {4}))?)+", without_fences(text), re.M):
        found.append(Block(page, "", match[0]))
    return found


def without_fences(text: str) -> str:
    return re.sub(r"^(```|~~~)\w*\n.*?^\1$", "", text, flags=re.M | re.S)


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^ {4,}\S.*$", "", without_fences(page.read_text()), flags=re.M)


def quoted(page: Path) -> list[str]:
    """What stands between backticks in sentences and tables."""
    return [re.sub(r"\s+", " ", match) for match in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def links(page: Path) -> list[str]:
    """Targets of links and pictures, those of other hosts left out."""
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(page)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", without_fences(page.read_text()), re.M):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = sum(1 for other in found if re.fullmatch(re.escape(slug) + r"(-\d+)?", other))
        found.add(f"{slug}-{count}" if slug in found else slug)
    return found


def commands(page: Path) -> list[Command]:
    """Every line of the page that calls this package or one of its scripts."""
    texts = [block.text.replace("\\\n", " ") for block in blocks(page) if block.language != "python"]
    apart = [line for text in texts for line in text.splitlines()]
    return [
        Command(page, line.strip(), program, args, alone)
        for alone, lines in ((True, apart), (False, quoted(page)))
        for line in lines
        for program, args in calls(line)
    ]


def calls(line: str) -> list[tuple[str, list[str]]]:
    """Programs with their arguments in a line of shell; without comments; usages with [] or ... are left out."""
    found = []
    for part in re.split(r" && | -- | \| ", re.sub(r" +(#|\().*", "", line)):
        if not (match := PROMPT.search(part)) or "[" in part or "..." in part:
            continue
        words = shlex.split(part[match.end() :])
        program = match[1].removeprefix("-m ") if match[1] else "mlx_sam2"
        if program == "mlx_sam2" and words:
            program = f"mlx_sam2.{words.pop(0)}"
        found.append((program, words))
    return found


@cache
def options_of(script: Path) -> set[str]:
    """Options that stand in a script's source, or in that of a file beside it that it imports."""
    source = script.read_text()
    beside = (script.parent / f"{name}.py" for name in re.findall(r"^(?:from|import) (\w+)", source, re.M))
    sources = [source, *(path.read_text() for path in beside if path.is_file())]
    return {option for text in sources for option in re.findall(r"[\"'](--[a-z][\w-]*)[\"']", text)}


def files(page: Path) -> list[str]:
    """Names between backticks that are those of sources or pages, or of something in a folder of this repository."""
    word = re.compile(r"(?<![\w./*-])(?:(?:mlx_sam2|tests|tools|examples|docs)/[\w./-]*|[\w/-]+\.(?:py|md))(?![\w.*])")
    return [name for text in quoted(page) for name in word.findall(text)]

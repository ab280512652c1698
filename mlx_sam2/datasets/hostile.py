"""Strangers' files: JSON and XML of bounded size, without entities; names that stay inside their folder."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..text import brief, message_of, shown
from .items import DatasetError

MAX_JSON = 2 << 30  # bytes: LVIS has 1.2 GB
MAX_XML = 1 << 30
MAX_NAME, MAX_PATH = 255, 1024  # bytes of a file's name, and of a path in a data set
MAX_DEPTH = 64  # of elements within elements
MAX_FRAMES = 1 << 20  # of a video whose frames are counted by a number alone


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """The value of a JSON file. DatasetError: it cannot be read, is no JSON, or has more than `most` bytes."""
    try:
        return json.loads(_bytes(path, most), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is no JSON: {message_of(error)}") from None


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number in JSON")


def read_text(path: Path, most: int) -> str:
    """A text file in UTF-8. DatasetError: it cannot be read, is none, or has more than `most` bytes."""
    try:
        return _bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is no text in UTF-8") from None


def read_xml(path: Path, most: int = MAX_XML) -> Element:
    """The root of an XML file.

    Raises:
        DatasetError: it cannot be read, is no XML, has more than `most` bytes, a document type (which could define
            entities), or elements in more than 64 levels.
    """
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DatasetError(f"{path} has elements in more than {MAX_DEPTH} levels")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> NoReturn:
        raise DatasetError(f"{path} has a document type or an entity, which annotations do without: remove it")

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(_bytes(path, most), True)
        return builder.close()
    except DatasetError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two: an encoding that there is not
        raise DatasetError(f"{path} is no XML: {message_of(error)}") from None


def _bytes(path: Path, most: int) -> bytes:
    try:
        if not path.is_file():  # opening a pipe would wait for its other end
            raise DatasetError(f"{path} is no file")
        with open(path, "rb") as file:
            data = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)  # which is allocated before it is read
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise DatasetError(f"{path} has more than {most:,} bytes: no annotation file that is read is so large")
    return data


def inside(name: Any, where: str) -> str:
    """A relative path from a stranger's file, with "/" between its parts.

    Raises:
        DatasetError: it is no text, is empty or absolute, or leads out of its folder. The error names `where`.
    """
    if not isinstance(name, str):
        raise DatasetError(f"{where}: a file name must be text, got {brief(name)}")
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name or ":" in path.parts[0]:
        raise DatasetError(f"{where}: the file name {shown(name)!r} is empty or leads out of the data set")
    size = len(name.encode("utf-8", "replace"))
    if size > MAX_PATH or any(len(part.encode("utf-8", "replace")) > MAX_NAME for part in path.parts):
        raise DatasetError(f"{where}: a file name of {size} bytes, and no disk has one so long")
    return str(path)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is visible in a folder, by name. DatasetError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read: {error.strerror}") from None


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that a float can hold; true and false are none."""
    return type(value) in (int, float) and abs(value) <= 1e300


def need(value: Any, kind: type | tuple[type, ...], where: str) -> Any:
    """`value`, if it is of a type; bool is no number. The error names `where`."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        names = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise DatasetError(f"{where} must be {names}, got {brief(value)}")
    return value

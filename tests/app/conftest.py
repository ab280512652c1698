"""What most tests of the app start from: the nano model in a folder, and a server on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

# app_machine needs fastapi: files of tests that are collected without it say so, and skip.


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The nano model as a folder."""
    from app_machine import model_folder

    return model_folder(tmp_path_factory.mktemp("app") / "nano")


@pytest.fixture(scope="module")
def machine(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running app; files of tests that need other limits, or a new one each time, have their own."""
    from app_machine import running

    with running(model, tmp_path_factory.mktemp("files")) as machine:
        yield machine

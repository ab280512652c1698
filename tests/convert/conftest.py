"""Sources that every test of the command converts."""

from __future__ import annotations

import pytest

from convert_runs import Sources


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))

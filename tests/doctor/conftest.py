"""A cache of their own for the tests of the doctor, and a model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import synthetic
from mlx_sam2.checkpoint import loading
from mlx_sam2.kernels import choices, dispatch, rules


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv(choices.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(rules.VARIABLE, raising=False)
    choices.forget()
    dispatch.forget_checks()
    yield
    choices.forget()
    dispatch.forget_checks()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "nano"
    loading.save(synthetic.nano_model(), path)
    return str(path)

"""Ops that are made for a test, and a machine that has checked and stored nothing yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_sam2.kernels import choices, dispatch, rules
from mlx_sam2.kernels.dispatch import Op, Tensor


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv(rules.VARIABLE, raising=False)
    monkeypatch.setenv(choices.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(rules, "_complained", set())
    dispatch.forget_checks()
    choices.forget()
    yield
    dispatch.forget_checks()
    choices.forget()


@pytest.fixture
def metal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that believes it has Metal."""
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(mx.gpu, 0))


def make_op(kernel: Callable[..., mx.array] | None = None, **changes: Any) -> Op:
    """Doubles its input. `calls` counts the uses of its kernel on anything but the small case."""

    def right(x: mx.array) -> mx.array:
        if x.size != 3:
            calls.append(tuple(x.shape))
        return x + x

    calls: list[tuple[int, ...]] = []
    op = Op(
        name="double",
        reference=lambda x: 2 * x,
        kernel=kernel or right,
        supports=lambda x: x.ndim > 0,
        variant=lambda x: str(x.dtype),
        size=lambda x: f"n={x.size}",
        check_case=lambda x: (Tensor((3,)),),
        minimum_bytes=lambda x: 2 * x.nbytes,
    )
    op = dataclasses.replace(op, **changes)
    object.__setattr__(op, "calls", calls)
    return op


X = mx.arange(8, dtype=mx.float32)

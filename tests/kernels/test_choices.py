"""Choices that were measured: stored, looked up, and hostile files of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from made_ops import X, make_op, metal, nothing_remembered  # noqa: F401  fixtures
from mlx_sam2.kernels import choices

ROOT = Path(__file__).parents[2]


def write(text: str | bytes) -> Path:
    file = choices.path()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize("faster", [True, False])
def test_a_stored_choice_wins_over_the_built_in_one(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "device_info", lambda device=None: {"device_name": "Apple M9"})
    op = make_op(preferred=lambda x: not faster)
    assert op.uses_kernel(X) is not faster
    choices.store({op.key(X): faster})
    assert op.uses_kernel(X) is faster
    assert op.uses_kernel(X[:4]) is not faster, "nothing was measured for this size"
    for name, value in (("__version__", "9.9"), ("device_info", lambda device=None: {"device_name": "Apple M8"})):
        with monkeypatch.context() as other:
            other.setattr(mx, name, value)
            choices.forget()
            assert op.uses_kernel(X) is not faster
    monkeypatch.setattr(choices, "__version__", "0.0.0")
    choices.forget()
    assert op.uses_kernel(X) is not faster


@pytest.mark.usefixtures("metal")
def test_a_size_that_was_not_measured_takes_the_choice_of_its_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "device_info", lambda device=None: {"device_name": "Apple M9"})
    op = make_op(preferred=lambda x: False)
    choices.store({"double mlx.core.float32": True, op.key(X): False})
    assert not op.uses_kernel(X)
    assert op.uses_kernel(X[:4])
    assert not op.uses_kernel(X[:4].astype(mx.float16))


@pytest.mark.usefixtures("metal")
def test_a_variant_that_was_not_measured_takes_the_choice_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "device_info", lambda device=None: {"device_name": "Apple M9"})
    op = make_op(preferred=lambda x: False)
    choices.store({"double another variant": False, op.kind(X): True})
    assert op.uses_kernel(X)
    assert not op.uses_kernel(X.astype(mx.float16)), "another dtype"
    choices.store({f"double {op.variant(X)}": False})
    assert not op.uses_kernel(X), "its own choice comes first"


def test_choices_are_added_and_replaced() -> None:
    choices.store({"a": True, "b": True})
    file = choices.store({"b": False, "c": True})
    assert [choices.lookup(k) for k in "abcd"] == [True, False, True, None]
    assert os.listdir(file.parent) == ["choices.json"]
    content = json.loads(file.read_text())
    assert content == {"format": 1, "machines": {choices.machine(): {"a": True, "b": False, "c": True}}}
    assert choices.machine().endswith(f"mlx {mx.__version__}, mlx_sam2 {choices.__version__}")


def test_the_file_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(choices.MAX_MACHINES + 3):
        monkeypatch.setattr(choices, "__version__", f"0.{i}")
        choices.store({f"{'x' * 100} {k}": True for k in range(choices.MAX_CHOICES + 7)})
    file = choices.path()
    assert len(json.loads(file.read_text())["machines"]) == choices.MAX_MACHINES
    assert file.stat().st_size < choices.MAX_BYTES
    assert choices.lookup(f"{'x' * 100} {choices.MAX_CHOICES + 6}") is True
    assert choices.lookup(f"{'x' * 100} 6") is None


HOSTILE = {
    "not JSON": b"\x80\x00nonsense",
    "cut off": b'{"format": 1, "machines": {"a": {"b": tr',
    "a list": b"[]",
    "another format": b'{"format": 2, "machines": {}}',
    "no machines": b'{"format": 1, "machines": []}',
    "no choices": b'{"format": 1, "machines": {"a": true}}',
    "numbers": b'{"format": 1, "machines": {"a": {"b": 1}}}',
    "deep": b"[" * 500_000,
    "a long number": b"1" * 100_000,
    "long": b" " * ((1 << 20) + 1),
    "empty": b"",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_file_that_cannot_be_used(content: bytes) -> None:
    file = write(content)
    with pytest.warns(
        RuntimeWarning, match="measured choices between kernels are not used, for .*choices.json"
    ) as told:
        found = [choices.lookup("b"), choices.lookup("b")]
    assert found == [None, None]
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    choices.store({"b": True})
    assert choices.lookup("b") is True
    assert file.is_file()


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "unreadable"])
def test_what_is_no_file(kind: str) -> None:
    file = choices.path()
    file.parent.mkdir(parents=True)
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)  # opening it would wait for ever
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.write_text("{}")
        file.chmod(0)
        if os.access(file, os.R_OK):
            pytest.skip("this user (root) may read everything")
    with pytest.warns(RuntimeWarning, match="choices.json"):
        assert choices.lookup("b") is None


def test_no_file_is_no_warning() -> None:
    assert choices.lookup("a") is None
    choices.path().parent.parent.mkdir(exist_ok=True)
    choices.folder().write_text("a file where the folder should be")
    choices.forget()
    assert choices.lookup("a") is None
    with pytest.raises(OSError, match="exists"):
        choices.store({"a": True})


def test_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(choices.VARIABLE, "~/elsewhere")
    assert choices.folder() == tmp_path / "elsewhere"
    monkeypatch.setenv(choices.VARIABLE, "")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert choices.folder() == tmp_path / "Library" / "Caches" / "mlx_sam2"
    monkeypatch.setattr(sys, "platform", "linux")
    for value, expected in (
        ("/var/x", "/var/x/mlx_sam2"),
        ("x", tmp_path / ".cache/mlx_sam2"),
        ("", tmp_path / ".cache/mlx_sam2"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert choices.folder() == Path(expected)


def test_nothing_is_read_at_import(tmp_path: Path) -> None:
    """Nor written: only a question, on a machine with Metal, opens the file."""
    (tmp_path / "choices.json").write_text("damaged")
    code = (
        "import mlx_sam2.kernels, mlx_sam2.sam2_image_predictor, sys\n"
        "sys.exit(mlx_sam2.kernels.choices._loaded is not None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, choices.VARIABLE: str(tmp_path), "PYTHONPATH": str(ROOT), "MLX_SAM2_BLAS": "0"},
    )
    assert (done.returncode, done.stderr) == (0, "")

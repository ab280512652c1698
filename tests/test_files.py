"""Files appear whole or not at all, and what killed writers leave behind is swept up."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_sam2 import files

# writes half a file (or a folder), says so, and waits to be killed
WRITER = """
import sys
from pathlib import Path
from mlx_sam2 import files
path, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "swap":
    files._exchange, rename = (lambda a, b: False), Path.rename
    def once(self, target):
        rename(self, target)
        print("half", flush=True)
        sys.stdin.read()
    Path.rename = once
with files.beside(path, replace=True) as part:
    if kind == "file":
        part.write_text("ha")
    else:
        part.mkdir()
        (part / "new").write_text("lf")
    if kind != "swap":
        print("half", flush=True)
        sys.stdin.read()
"""


def begin(path: Path, kind: str) -> subprocess.Popen[str]:
    """A process that is in the middle of writing."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None and writer.stdout.readline() == "half\n"
    return writer


def kill(writer: subprocess.Popen[str]) -> None:
    with writer:
        writer.send_signal(signal.SIGKILL)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.beside(path, replace=True) as part:
        part.write_text("new")
        assert path.read_text() == "old" and part.parent == tmp_path and part.name.startswith(".")
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_nothing_is_left_of_what_failed(tmp_path: Path, kind: str) -> None:
    def fail() -> None:
        with files.beside(tmp_path / "a") as part:
            part.mkdir() if kind == "folder" else part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert names(tmp_path) == []


@pytest.mark.parametrize("there", ["file", "folder", "link"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_has_the_name_stays_unless_it_may_be_replaced(tmp_path: Path, kind: str, there: str) -> None:
    path = tmp_path / "a"
    {"file": path.touch, "folder": path.mkdir, "link": lambda: path.symlink_to("nowhere")}[there]()

    def write() -> None:
        with files.beside(path) as part:
            part.mkdir() if kind == "folder" else part.touch()

    with pytest.raises(FileExistsError) as error:
        write()
    assert error.value.filename == str(path)
    assert names(tmp_path) == ["a"] and path.is_symlink() == (there == "link") and path.is_dir() == (there == "folder")


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.mkdir()
    (path / "old").touch()
    with files.beside(path, replace=True) as part:
        part.mkdir()
        (part / "new").touch()
    assert names(tmp_path) == ["a"] and names(path) == ["new"]


def test_folders_change_places_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    if not files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip(f"the file system of {tmp_path} cannot exchange two folders")

    def between(*args: Path) -> None:
        raise AssertionError("here the folder has neither content")

    (tmp_path / "a" / "old").touch()
    monkeypatch.setattr(Path, "rename", between)
    with files.beside(tmp_path / "a", replace=True) as part:
        part.mkdir()
        (part / "new").touch()
    assert names(tmp_path) == ["a", "b"] and names(tmp_path / "a") == ["new"]


def test_a_folder_keeps_its_place_when_the_other_cannot_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, rename = tmp_path / "a", Path.rename
    path.mkdir()
    (path / "old").touch()
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)  # a file system that cannot

    def once(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise KeyboardInterrupt
        return rename(self, target)

    def write() -> None:
        with files.beside(path, replace=True) as part:
            part.mkdir()

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        write()
    assert names(tmp_path) == ["a"] and names(path) == ["old"]


def test_errors_name_the_file_that_was_wanted(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        files.write_text(tmp_path / "none" / "a.txt", "x")
    assert error.value.filename == str(tmp_path / "none" / "a.txt")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        files.make_folder(tmp_path / "file")


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "😇" * 63, "a\udcff" * 127], ids=["a", "u", "smile", "bytes"])
def test_the_longest_names_fit(tmp_path: Path, name: str) -> None:
    files.write_text(tmp_path / name, "x")
    (tmp_path / name).unlink()
    for _ in range(2):
        with files.beside(tmp_path / name, replace=True) as part:
            part.mkdir()
    assert names(tmp_path) == [name]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with files.beside(path, replace=True) as one, files.beside(path, replace=True) as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert path.read_text() == "1"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_sweeps_up_after_a_killed_one(tmp_path: Path, kind: str) -> None:
    writer = begin(tmp_path / "a", kind)
    assert len(names(tmp_path)) == 1
    kill(writer)
    files.write_text(tmp_path / "b.txt", "b")
    assert names(tmp_path) == ["b.txt"]


def test_the_file_of_a_living_writer_stays(tmp_path: Path) -> None:
    writer = begin(tmp_path / "a", "file")
    before = names(tmp_path)
    files.sweep(tmp_path)
    assert names(tmp_path) == before
    kill(writer)
    files.sweep(tmp_path)
    assert names(tmp_path) == []


def test_a_folder_that_was_being_replaced_gets_its_name_back(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    kill(begin(tmp_path / "a", "swap"))
    assert "a" not in names(tmp_path) and len(names(tmp_path)) == 2
    files.sweep(tmp_path)
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["old"]


def test_only_leftovers_of_this_machine_are_swept_up(tmp_path: Path) -> None:
    gone = 2**22 + 1  # no process has that number: Linux stops at 2**22, macOS before
    with files.beside(tmp_path / "b") as part:
        part.touch()
        other = part.name.replace(f"-{os.getpid()}-", f"-{gone}-")
    (tmp_path / "b").unlink()
    machine = other.split(".")[2].split("-")[0]
    kept = [other.replace(machine, "0" * 6), ".a.part", "a.part", f"a.{machine}-{gone}-0.part", f".{machine}.part"]
    for name in [other, *kept]:
        (tmp_path / name).touch()
    files.sweep(tmp_path)
    assert names(tmp_path) == sorted(kept)
    files.sweep(tmp_path / "no folder")


def test_digests(tmp_path: Path) -> None:
    path = tmp_path / "a"
    data = bytes(range(256)) * 8193  # more than is read at once
    path.write_bytes(data)
    assert files.sha256(path) == hashlib.sha256(data).hexdigest()
    assert files.hexdigest(path, hashlib.sha1(b"x")) == hashlib.sha1(b"x" + data).hexdigest()


# what the package writes, into the folder where it runs
WRITERS = {
    "picture": "from mlx_sam2 import images; images.write('m.png', np.zeros((9, 9), np.uint8), overwrite=True)",
    "masks": "from mlx_sam2.frames.sinks import PngSink; "
    "PngSink('m', True).write(0, np.zeros((9, 9, 3), np.uint8), {1: np.ones((9, 9), bool)})",
    "model": "import mlx_sam2; from mlx_sam2.checkpoint.loading import save; save(mlx_sam2.load('demo'), 'model')",
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_run_after_kill_9_leaves_only_what_was_wanted(tmp_path: Path, name: str) -> None:
    def run(prelude: str) -> subprocess.Popen[str]:
        code = f"import os, sys\nimport numpy as np\n{prelude}\n{WRITERS[name]}"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **pipes)

    def hidden() -> list[Path]:
        return list(tmp_path.rglob(".*"))

    killed = run("os.replace = lambda *paths: (print('half', flush=True), sys.stdin.read())")
    assert killed.stdout is not None and killed.stdout.readline() == "half\n"
    kill(killed)
    assert hidden()
    again = run("")
    assert again.wait() == 0
    again.communicate()
    assert not hidden() and len(names(tmp_path)) == 1

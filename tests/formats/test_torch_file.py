"""Reading .pt files without torch: real ones exactly, hostile and broken ones with one line and no harm."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint_files import Raw, Tensor, global_op, pickled, write_archive, write_torch
from mlx_sam2.formats import torch_file, torch_pickle
from mlx_sam2.formats.torch_pickle import TorchFileError

# Written by torch 2.13 (data/make_torch_saved.py): a trainer's checkpoint, {"model", "optimizer", ...}.
SAVED = Path(__file__).parents[1] / "data" / "torch_saved.pt"


def whole() -> np.ndarray:
    return (np.arange(48, dtype=np.float32) / np.float32(7)).reshape(6, 8)


def refusal(path: Path) -> str:
    with pytest.raises(TorchFileError) as caught:
        torch_file.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))  # pytest puts the test's name into it


def test_a_file_of_torch_itself() -> None:
    refs = torch_file.read(SAVED)
    a = whole()
    expected = {
        "whole": a,
        "transposed": a.T,
        "view": a[2:5, 1:7:2],
        "parameter": a[1:],
        "half": a.astype(np.float16),
        "double": a.astype(np.float64),
        "int8": a.astype(np.int8),
        "int16": a.astype(np.int16),
        "int32": a.astype(np.int32),
        "int64": np.array(3, np.int64),
        "uint8": a.astype(np.uint8),
        "bool": a > 3,
        "empty": np.zeros((0, 3), np.float32),
    }
    assert set(refs) == {*expected, "bfloat16"}
    for name, array in expected.items():
        got = refs[name].read()
        assert got.dtype == array.dtype, name
        assert got.shape == refs[name].shape == array.shape, name
        assert got.tobytes() == array.tobytes(), name
    bits = a.view(np.uint32)  # bfloat16 is the upper half of float32, rounded to even
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    assert refs["bfloat16"].dtype == "bfloat16"
    np.testing.assert_array_equal(refs["bfloat16"].read(), rounded)


@pytest.mark.parametrize("wrap", ["model", "state_dict", None])
def test_the_places_of_a_state_dict(tmp_path: Path, wrap: str | None) -> None:
    state = {"a": whole(), "b": np.arange(3, dtype=np.int64)}
    refs = torch_file.read(write_torch(tmp_path / "x.pt", state, wrap))
    assert list(refs) == ["a", "b"]
    for name, array in state.items():
        np.testing.assert_array_equal(refs[name].read(), array)


def test_big_endian(tmp_path: Path) -> None:
    tensor = Tensor(numel=48, shape=(6, 8), strides=(8, 1))
    path = write_archive(tmp_path / "x.pt", {"a": tensor}, {"0": whole().astype(">f4").tobytes()}, order=b"big")
    np.testing.assert_array_equal(torch_file.read(path)["a"].read(), whole())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_against_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed (extra: reference)")
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(4, 5, 6, 7, generator=generator)
    state = {
        "base": base,
        "permuted": base.permute(3, 1, 0, 2),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "sliced": base[1::2, :, 2:5, ::3],
        "bfloat16": base.bfloat16().transpose(0, 2),
        "scalar": base[1, 2, 3, 4],
    }
    for protocol in (2, 3, 4, 5):
        torch.save({"model": state}, tmp_path / "x.pt", pickle_protocol=protocol)
        refs = torch_file.read(tmp_path / "x.pt")
        for name, tensor in state.items():
            bits = tensor.contiguous().view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor.contiguous()
            assert refs[name].shape == tuple(tensor.shape)
            assert refs[name].read().tobytes() == bits.numpy().tobytes(), (name, protocol)


# ---- files that attack

# Each would leave a file called "ran" in the working directory, were the pickle executed.
TOUCH = pickled(("touch ran",))
ATTACKS = {
    "os.system": (global_op("os", "system") + TOUCH + b"R", "os.system"),
    "posix.system": (global_op("posix", "system") + TOUCH + b"R", "posix.system"),
    "stack global": (b"X\x02\0\0\0osX\x06\0\0\0system\x93" + TOUCH + b"R", "os.system"),
    "eval": (global_op("builtins", "eval") + pickled(("open('ran','w')",)) + b"R", "builtins.eval"),
    "getattr": (global_op("builtins", "getattr") + pickled(("a", "b")) + b"R", "builtins.getattr"),
    "dotted name": (
        global_op("torch", "serialization.os.system") + TOUCH + b"R",
        "torch.serialization.os.system",
    ),
    "torch.load": (global_op("torch", "load") + TOUCH + b"R", "torch.load"),
    "inst": (b"(X\x09\0\0\0touch ranios\nsystem\n", "os.system"),
    "obj": (b"(" + global_op("os", "system") + b"X\x09\0\0\0touch rano", "os.system"),
    "newobj": (global_op("subprocess", "Popen") + TOUCH + b"\x81", "subprocess.Popen"),
    "newobj of an allowed class": (global_op("collections", "OrderedDict") + b")\x81", "NEWOBJ"),
    "inst of an allowed class": (b"(icollections\nOrderedDict\n", "INST"),
    "extension registry": (b"\x82\x01", "EXT1"),
    "build on a tensor": (Tensor().opcodes() + b"}X\x01\0\0\0aK\x01sb", "set attributes"),
    "build on a function": (global_op("torch._utils", "_rebuild_tensor_v2") + b"}b", "set attributes"),
    "call of a string": (b"X\x01\0\0\0a)R", "no function"),
    "call of a storage type": (global_op("torch", "FloatStorage") + b")R", "torch.FloatStorage"),
    "items for OrderedDict": (global_op("collections", "OrderedDict") + b"]\x85R", "collections.OrderedDict"),
    "a name of two lines": (global_op("os\tx", "sys\x1b[2Jtem"), "os\\tx.sys\\x1b[2Jtem"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["in the state", "beside it"])
def test_attacks_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, place: str) -> None:
    monkeypatch.chdir(tmp_path)
    opcodes, named = ATTACKS[attack]
    state: dict[str, Any] = {"good": Tensor()}
    top = {"model": {**state, "bad": Raw(opcodes)}} if place == "in the state" else {"model": state, "x": Raw(opcodes)}
    path = write_archive(tmp_path / "x.pt", top, {"0": b"\0" * 4})
    assert named in refusal(path)
    assert os.listdir(tmp_path) == ["x.pt"]


def test_reading_needs_neither_torch_nor_mlx() -> None:
    code = f"import sys; from mlx_sam2.formats import torch_file; torch_file.read({str(SAVED)!r})['whole'].read()"
    code += "; print({'torch', 'mlx.core'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


TEN_TERABYTES = 10 << 40

LIES = {
    "a storage of 10 TB": Tensor(numel=TEN_TERABYTES // 4, shape=(TEN_TERABYTES // 4,)),
    "a view of 10 TB": Tensor(shape=(TEN_TERABYTES // 4,)),
    "10 TB expanded from one element": Tensor(shape=(TEN_TERABYTES // 4,), strides=(0,)),
    "a stride beyond the storage": Tensor(numel=4, shape=(2, 2), strides=(1 << 40, 1)),
    "an offset beyond the storage": Tensor(numel=4, offset=4),
    "an overflowing offset": Tensor(numel=4, offset=(1 << 61)),
    "a negative offset": Tensor(numel=4, offset=-1),
    "a negative stride": Tensor(numel=4, shape=(2,), strides=(-1,)),
    "a negative size": Tensor(numel=4, shape=(-2,)),
    "strides of another length": Tensor(numel=4, shape=(2, 2), strides=(1,)),
    "2000 axes": Tensor(shape=(1,) * 2000, strides=(1,) * 2000),
    "a storage that is not there": Tensor(key="1"),
    "a storage outside of the archive": Tensor(key="../../../etc/passwd"),
    "float64 in the bytes of float32": Tensor("DoubleStorage", numel=4, shape=(4,)),
}


@pytest.mark.parametrize("lie", LIES)
def test_claims_are_compared_with_the_file(tmp_path: Path, lie: str) -> None:
    path = write_archive(tmp_path / "x.pt", {"model": {"a": LIES[lie]}}, {"0": b"\0" * 16})
    refusal(path)


def test_an_unused_lie_is_left_alone(tmp_path: Path) -> None:
    """What stands beside the model is not read, so it may claim what it likes."""
    top = {"model": {"a": Tensor()}, "optimizer": LIES["a storage of 10 TB"]}
    assert torch_file.read(write_archive(tmp_path / "x.pt", top, {"0": b"\0" * 4}))["a"].read() == 0


MALFORMED = {
    "empty": b"",
    "only STOP": b".",
    "mark as result": b"(.",
    "stack underflow": b"t.",
    "unknown memo": b"h\x07.",
    "memo of nothing": b"q\x07.",
    "no end": b"}",
    "unhashable key": b"}]K\x01s.",
    "odd dict": b"(K\x01d.",
    "string that ends early": b"X\xff\xff\xff\x7fab",
    "a list": b"].",
    "a number": b"K\x01.",
    "an empty dict": b"}.",
    "append to a dict": b"}K\x01a.",
    "set item of a list": b"]K\x01K\x02s.",
    "deep nesting": b"]" * 300_000 + b".",
    "self reference": b"}q\0X\x05\0\0\0modelh\0s.",
    "persistent id of a string": b"X\x01\0\0\0aQ.",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_pickles(tmp_path: Path, case: str) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + MALFORMED[case])
    refusal(path)


def test_what_could_take_for_ever() -> None:
    """Hashing a long integer costs its length each time; hashing nested tuples recurses in C."""
    long_integer = b"\x8b" + struct.pack("<i", 1 << 16) + b"\x01" * (1 << 16)
    with pytest.raises(TorchFileError, match="64 bits"):
        torch_pickle.loads(b"}" + long_integer + b"K\x01s.")
    with pytest.raises(TorchFileError, match="dict key of type tuple"):
        torch_pickle.loads(b"})" + b"\x85" * 100_000 + b"K\x01s.")


def test_a_pickle_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * torch_file.MAX_PICKLE_BYTES + b".")
    assert "no SAM 2 checkpoint needs more" in refusal(path)


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    tensor = Tensor(numel=1 << 20, shape=(1 << 20,))
    options = {"compression": zipfile.ZIP_DEFLATED}
    path = write_archive(tmp_path / "x.pt", {"a": tensor}, {"0": b"\0" * (4 << 20)}, **options)
    assert "compressed" in refusal(path)


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    """Two directory entries on the same bytes: the way to make a small file claim a large one."""
    path = write_archive(tmp_path / "x.pt", {"a": Tensor(key="0")}, {"0": b"\0" * 4, "1": b"\0" * 4})
    data = bytearray(path.read_bytes())
    first, second = (data.index(b"PK\x01\x02", at) for at in _directory_of(data, b"archive/data/0", b"archive/data/1"))
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    path.write_bytes(data)
    assert "overlaps" in refusal(path)


def _directory_of(data: bytes, *names: bytes) -> list[int]:
    """Where the central directory's entries begin."""
    return [data.rindex(b"PK\x01\x02", 0, data.rindex(name)) for name in names]


def test_every_truncation_is_one_line(tmp_path: Path) -> None:
    data = SAVED.read_bytes()
    path = tmp_path / "x.pt"
    for length in {*range(0, len(data), 97), len(data) - 1, 3, 4, 30}:
        path.write_bytes(data[:length])
        refusal(path)


def test_a_file_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = write_torch(tmp_path / "x.pt", {"a": whole()})
    ref = torch_file.read(path)["a"]
    start, _ = ref.archive.place("data/0")
    os.truncate(path, start + 40)
    with pytest.raises(TorchFileError, match="shorter"):
        ref.read()


def test_damaged_pickles_never_escape() -> None:
    """Changed bytes of a real pickle, and noise: a result or a ValueError, nothing else."""
    with zipfile.ZipFile(SAVED) as archive:
        good = archive.read("torch_saved/data.pkl")
    draw = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(good)
        for at in draw.integers(0, len(damaged), draw.integers(1, 5)):
            damaged[at] = draw.integers(0, 256)
        for data in (bytes(damaged), draw.bytes(60)):
            with contextlib.suppress(ValueError):
                torch_pickle.loads(data)


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")  # how torch.save began before 1.6
    assert "re-save it" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "no PyTorch checkpoint" in refusal(path)
    path.write_bytes(b"\xff\xd8\xff\xe0 a photo")
    assert "no PyTorch checkpoint" in (told := refusal(path)) and "re-save" not in told
    path.write_bytes(bytes(257) + b"ustar" + bytes(250))  # how PyTorch wrote before its first release
    assert "re-save it" in refusal(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda torch: torch.zeros(3), ": holds a tensor, not a state dict"),
        (lambda torch: {"model": {1: torch.zeros(2)}}, ": a int is the name of an entry"),
        (lambda torch: {"model": {"a": [1]}}, ": entry a is a list, not a tensor"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, content: Any, message: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    torch.save(content(torch), tmp_path / "x.pt")
    assert refusal(tmp_path / "x.pt").startswith(message)

"""Checkpoints from strangers: each is refused with one line, in bounded memory and time, and runs nothing."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save, save_file

from checkpoint_files import Raw, Tensor, global_op, pickled, write_archive
from mlx_sam2.checkpoint import reader
from mlx_sam2.config.official import parse_override_value
from mlx_sam2.config.parts import ConfigError
from mlx_sam2.config.sam2 import SAM2Config
from mlx_sam2.formats import safetensors_file, torch_file
from mlx_sam2.formats.names import INDEX
from mlx_sam2.text import brief
from synthetic import nano_config

MEMORY_MB = 300  # over what a process needs that has loaded MLX and read a good file; none was seen to take 150

# Loads every path in one process that may take 60 s of CPU, and tells what came of it.
LOAD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
import mlx_sam2
from mlx_sam2.checkpoint import loading, reader
from mlx_sam2.hub import HubError
from mlx_sam2.config import ConfigError
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)
for path in sys.argv[1:]:
    before = peak()
    try:
        mlx_sam2.load(path, dtype="float32")
        said = "LOADED"
    except (reader.CheckpointError, ConfigError, HubError) as error:
        said = f"{type(error).__name__}: {error}"
    print(ascii(said)[1:-1], "MB", peak() - before if path != sys.argv[1] else 0, sep="\\t")
"""


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape if shape is not None else [(end - begin) // 4], "data_offsets": [begin, end]}


def safetensors(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


SAFETENSORS: dict[str, bytes] = {
    "empty file": b"",
    "seven bytes": b"\1\0\0\0\0\0\0",
    "a header of 2**63 bytes": safetensors({"image_encoder.x": entry(0, 16)}, length=1 << 63),
    "a header that ends after the file": safetensors({"image_encoder.x": entry(0, 16)}, length=1 << 20),
    "a header of 40 MB": safetensors(b'{"a":"' + b"x" * (40 << 20) + b'"}'),
    "200,000 tensors": safetensors(
        b"{" + b",".join(b'"%x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(200_000)) + b"}"
    ),
    "overlapping tensors": safetensors({"image_encoder.x": entry(0, 12), "image_encoder.y": entry(4, 16)}),
    "the same bytes twice": safetensors({"image_encoder.x": entry(0, 16), "image_encoder.y": entry(0, 16)}),
    "a hole": safetensors({"image_encoder.x": entry(0, 4), "image_encoder.y": entry(8, 16)}),
    "bytes beyond the end": safetensors({"image_encoder.x": entry(0, 1 << 40)}),
    "bytes before the start": safetensors({"image_encoder.x": entry(-16, 0, [4])}),
    "end before begin": safetensors({"image_encoder.x": entry(16, 0, [4])}),
    "a shape of 10 TB": safetensors({"image_encoder.x": entry(0, 16, [10 << 38])}),
    "a shape that overflows": safetensors({"image_encoder.x": entry(0, 16, [1 << 62, 8])}),
    "a negative shape": safetensors({"image_encoder.x": entry(0, 16, [-4])}),
    "an empty shape beyond 32 bits": safetensors({"image_encoder.x": entry(0, 0, [0, 1 << 33])}, b""),
    "an unknown type": safetensors({"image_encoder.x": entry(0, 16, dtype="F31")}),
    "a type that MLX has not": safetensors({"image_encoder.x": entry(0, 16, [2], "F64")}),
    "a name twice": safetensors(
        b'{"image_encoder.x":%s,"image_encoder.x":%s}' % ((json.dumps(entry(0, 16)).encode(),) * 2)
    ),
    "no object": safetensors(b"[]"),
    "nested without end": safetensors(b"[" * 1_000_000),
    "a name that moves the cursor": safetensors({"\x1b[2J\n\u202e": entry(4, 16)}),
    "bytes after the tensors": save({"image_encoder.x": np.zeros(4, np.float32)}) + b"PK",
}


# Refused by a limit of ours before a parser sees them.
LIMITS = {
    "a header of 40 MB": "its header has 41943048 bytes",
    "200,000 tensors": "its header has ",
    "a directory of 300 MB": "its directory has 314572800 bytes",
    "config: three megabytes": "is longer than 1048576 bytes",
    "a zip bomb": "entry data.pkl is compressed",
}

# Read as they are, and then of no model: these promise nothing that could cost memory.
HARMLESS = {"a good file of another model", "an empty shape beyond 32 bits", "a name twice"}


def pt(top: Any, storages: dict[str, bytes] | None = None, **options: Any) -> Callable[[Path], Path]:
    return lambda path: write_archive(path, top, storages or {"0": bytes(16)}, **options)


def bomb(path: Path) -> Path:
    """50 MB of zeros in 50 KB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "archive/data.pkl", b"\x80\x02" + pickled({"model": {"a": Tensor(numel=4, shape=(4,))}}) + b"."
        )
        archive.writestr("archive/data/0", bytes(50 << 20))
    return path


def bomb_in_the_pickle(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + b"]" * (50 << 20) + b".")
    return path


def long_directory(path: Path) -> Path:
    """An archive whose directory would have 300 MB, most of them a hole in a sparse file."""
    write_archive(path, {"model": {}}, {})
    data = path.read_bytes()
    end = bytearray(data[data.rindex(b"PK\x05\x06") :])
    end[12:20] = struct.pack("<II", 300 << 20, 100)
    with path.open("r+b") as file:
        file.seek(300 << 20)
        file.write(bytes(100) + end)
    return path


def renamed(*names: str) -> Callable[[Path], Path]:
    """Entries that would leave the folder, were the archive unpacked."""

    def write(path: Path) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"\x80\x02" + pickled({"model": {"a": Tensor(key="../../evil")}}) + b".")
        return path

    return write


TORCH: dict[str, Callable[[Path], Path]] = {
    "a zip bomb": bomb,
    "a zip bomb as pickle": bomb_in_the_pickle,
    "a directory of 300 MB": long_directory,
    "names that leave the folder": renamed("../../evil/data.pkl", "../../evil/data/0"),
    "an archive called ..": renamed("../data.pkl", "../data/0"),
    "absolute names": renamed("/etc/data.pkl", "/etc/passwd"),
    "a pickle that runs": pt({"model": {"a": Raw(global_op("os", "system") + pickled(("touch ran",)) + b"R")}}),
    "a storage of 10 TB": pt({"model": {"a": Tensor(numel=10 << 38, shape=(10 << 38,))}}),
    "10 TB out of four bytes": pt({"model": {"a": Tensor(numel=4, shape=(10 << 38,), strides=(0,))}}),
    "300,000 entries": pt({"model": {str(i): Raw(b"N") for i in range(300_000)}}),
}

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
CONFIGS: dict[str, bytes] = {
    "deep nesting": DEEP,
    "deep nesting in a field": b'{"model_type": "mlx_sam2", "trunk": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a number of 100,000 digits": b'{"model_type": "mlx_sam2", "trunk": {}, "image_size": ' + b"9" * 100_000 + b"}",
    "three megabytes": b'{"model_type": "' + b"x" * (3 << 20) + b'"}',
    "lists in lists": b'{"model_type": '
    + b"[" * 6
    + b",".join([b"[[1,2,3,4,5,6,7]]"] * 2000)
    + b"]" * 6
    + b', "trunk": {}}',
    "no object": b"[1, 2]",
    "no text": b"\xff\xfe\x00",
    "a field that is not there": b'{"model_type": "mlx_sam2", "trunk": {"__class__": "os.system"}}',
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hostile")
    save_file({"image_encoder.x": np.zeros(4, np.float32)}, folder / "good.safetensors")
    found = {"a good file of another model": folder / "good.safetensors"}
    for i, (name, data) in enumerate(SAFETENSORS.items()):
        found[name] = folder / f"{i}.safetensors"
        found[name].write_bytes(data)
    for i, (name, write) in enumerate(TORCH.items()):
        found[name] = write(folder / f"{i}.pt")
    for i, (name, data) in enumerate(CONFIGS.items()):
        found[f"config: {name}"] = inside = folder / f"folder{i}"
        inside.mkdir()
        save_file({"image_encoder.x": np.zeros(4, np.float32)}, inside / "model.safetensors")
        (inside / "config.json").write_bytes(data)
    return found


@pytest.mark.slow
def test_each_is_refused_with_one_line(hostile: dict[str, Path], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, hostile.values())], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(hostile)
    for (name, path), line in zip(hostile.items(), lines, strict=True):
        said, _, grown = line.split("\t")
        assert said.startswith(("CheckpointError: ", "ConfigError: ")), (name, said)
        assert str(path) in said, (name, said)
        assert len(said) < 800, (name, said)
        assert LIMITS.get(name, "") in said, (name, said)
        assert ("cannot tell which model" in said) == (name in HARMLESS), (name, said)
        assert int(grown) < MEMORY_MB, (name, grown)
    assert os.listdir(tmp_path) == [], "something ran, or was unpacked"


# ---- an index


INDEXES = ["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "x.pt", "", 5, "\0.safetensors"]


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_stays_in_its_folder(tmp_path: Path, name: object) -> None:
    path = tmp_path / INDEX
    path.write_text(json.dumps({"weight_map": {"a": "x.safetensors", "b": name}}))
    with pytest.raises(safetensors_file.SafetensorsFileError, match="beside the index") as caught:
        safetensors_file.read_index(path)
    assert str(caught.value).isprintable()


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    """Which of them is meant would depend on the order of reading."""
    for i, name in enumerate(("a.safetensors", "b.safetensors")):
        save_file({"image_encoder.x": np.full(4, i, np.float32), f"y{i}": np.zeros(1, np.float32)}, tmp_path / name)
    weight_map = {"image_encoder.x": "a.safetensors", "y0": "a.safetensors", "y1": "b.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(reader.CheckpointError, match=r"two of its files hold image_encoder\.x"):
        reader.read(tmp_path)


def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    """Opening it would wait for ever."""
    os.mkfifo(tmp_path / "x.safetensors")
    with pytest.raises(safetensors_file.SafetensorsFileError, match="no regular file"):
        safetensors_file.check(tmp_path / "x.safetensors")


# ---- numbers of a configuration


def fields(values: dict[str, Any], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    out = []
    for key, value in values.items():
        out += fields(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]
    return out


@pytest.mark.parametrize("bad", [1 << 62, 1 << 70, -1, math.nan, math.inf, 1e300, "7", None, [[]], {}, [1 << 40] * 4])
def test_every_field_of_a_configuration_is_checked(bad: object) -> None:
    """A field takes what it may be or raises ConfigError in one line; nothing else, wherever the value stands."""
    good = nano_config().to_dict()
    refused = 0
    for path in fields(good):
        values = json.loads(json.dumps(good))
        node = values
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = bad
        try:
            config = SAM2Config.from_dict(values)
        except ConfigError as error:
            refused += 1
            said = str(error)
        else:
            said = ""
            assert bad == -1 or isinstance(bad, int), (path, bad)
            assert SAM2Config.from_dict(config.to_dict()) == config
        assert "\n" not in said
        assert len(said) < 400
    assert refused >= len(fields(good)) - 12  # a few floats may have any size


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
BOMB += "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
HEAD = "model_type: mlx_sam2\ntrunk: {}\nimage_size: "
YAML = {
    "aliases of aliases": BOMB + "model: {image_encoder: {trunk: {stages: *a11}}}",
    "a value out of aliases": BOMB + "model_type: *a11\ntrunk: {}",
    "itself": "model_type: mlx_sam2\ntrunk: &t {stages: *t}",
    "a tag that runs": "trunk: !!python/object/apply:os.system ['touch ran']",
    "deep nesting": "a: " + "[" * 60_000,
    "megabytes": "# " + "x" * (2 << 20),
    "a base of sixty": HEAD + "1:" * 3000 + "1",
    "a long number": HEAD + "9" * 60_000,
    "a long hexadecimal number": HEAD + "0x" + "f" * 60_000,
    **{f"no {tag}": f"{HEAD}!!{tag} x" for tag in ("int", "float", "bool", "timestamp", "binary", "set", "omap")},
    "an empty number": HEAD + "!!int ''",
    "the 45th of a 13th month": HEAD + "2001-13-45",
    "a list as key": "? [a]\n: b",
    "terminal escapes": 'a: "\\e[2J" b',
}


@pytest.mark.slow
@pytest.mark.parametrize("case", YAML)
def test_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed (extra: test)")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(YAML[case])
    with pytest.raises(ConfigError) as caught:
        reader.read_config(tmp_path / "config.yaml")
    said = str(caught.value).removeprefix(str(tmp_path))
    assert said.isprintable()
    assert len(said) < 1000
    assert ("is longer than 65536 bytes" in said) == (case == "megabytes")
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_values_stay_short_in_messages() -> None:
    assert brief([[[[1]]]]) == "[[[...]]]"
    assert len(brief([["x" * 50] * 9] * 9)) == 160


# ---- what the fuzzer found (tests/measure/fuzz_readers.py)


def torch_refusal(path: Path) -> str:
    with pytest.raises(torch_file.TorchFileError) as caught:
        torch_file.read(path)
    return str(caught.value)


def test_an_entry_that_begins_before_the_file(tmp_path: Path) -> None:
    """zipfile moves all offsets where the directory is not where it should be; then seek() raised an OSError."""
    path = write_archive(tmp_path / "x.pt", {"a": Tensor()}, {"0": bytes(4)})
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<II", data[end + 12 : end + 20])
    data[end + 12 : end + 20] = struct.pack("<II", size, start + 50)
    path.write_bytes(data)
    assert "begins before the file" in torch_refusal(path)


@pytest.mark.parametrize("shape", [(0, 1 << 32), (3, 1 << 53, 0, 4), (0, 1 << 61)])
def test_an_empty_tensor_with_an_endless_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """It has no bytes, so it fits; but neither numpy nor MLX has such a shape."""
    tensor = Tensor(numel=1, shape=shape, strides=(1,) * len(shape))
    assert "does not fit" in torch_refusal(write_archive(tmp_path / "x.pt", {"a": tensor}, {"0": bytes(4)}))


def test_strides_that_are_never_used(tmp_path: Path) -> None:
    """Of an axis of length one, and of an empty tensor, they may be anything; as bytes they exceeded 64 bits."""
    state = {
        "one": Tensor(numel=1, shape=(1, 1), strides=((1 << 62) - 1, 1)),
        "none": Tensor(numel=1, shape=(0, 4), strides=((1 << 62) - 1, 1 << 61)),
    }
    refs = torch_file.read(write_archive(tmp_path / "x.pt", state, {"0": np.float32(7).tobytes()}))
    np.testing.assert_array_equal(refs["one"].read(), np.full((1, 1), 7, np.float32))
    assert refs["none"].read().shape == (0, 4)


def test_a_whole_number_where_a_float_belongs() -> None:
    """JSON may write 1e20 as an integer of 67 bits, which MLX did not take."""
    values = nano_config().to_dict()
    values["memory_encoder"]["fuser_layer_scale_init_value"] = 10**20
    value = SAM2Config.from_dict(values).memory_encoder.fuser_layer_scale_init_value
    assert value == 1e20
    assert isinstance(value, float)


@pytest.mark.parametrize("text", ["1and 2", "0x1for x", "'\\d'"])
def test_no_remarks_of_the_python_parser(text: str) -> None:
    """Words of the official YAML are read as Python literals, and Python warns of some that it takes or refuses."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        parse_override_value(text)
    assert caught == []


def test_names_in_a_message_are_escaped(tmp_path: Path) -> None:
    """The safetensors package quotes tensor names as they are, terminal escapes included."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFETENSORS["a name that moves the cursor"])
    with pytest.raises(safetensors_file.SafetensorsFileError) as caught:
        safetensors_file.check(path)
    assert str(caught.value).isprintable()
    assert "\\x1b[2J" in str(caught.value)


@pytest.mark.slow
def test_a_short_run_of_the_fuzzer(tmp_path: Path) -> None:
    fuzzer = Path(__file__).parents[1] / "measure" / "fuzz_readers.py"
    command = [sys.executable, fuzzer, "--cases", "700", "--minutes", "9", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("700 cases")

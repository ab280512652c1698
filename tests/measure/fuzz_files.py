"""Good checkpoint files, and ways to damage them: what ``fuzz_readers.py`` throws at the readers."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickletools
import random
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from checkpoint_files import Tensor, pickled, transformers_config, write_archive, write_torch

DTYPES = [("F32", 32), ("F16", 16), ("BF16", 16), ("F64", 64), ("I64", 64), ("I32", 32), ("U8", 8), ("BOOL", 8)]
DTYPES += [("F8_E4M3", 8), ("F8_E5M2", 8), ("F4", 4), ("U32", 32), ("U64", 64), ("C64", 64), ("I16", 16), ("X", 8)]
KINDS = ("Float", "Float", "Half", "BFloat16", "Long", "Bool", "Byte", "Double", "QInt8")
STORAGES = [f"{kind}Storage" for kind in KINDS]
DATA = Path(__file__).parents[1] / "reference" / "answers"
NUMBERS = [0, 1, -1, 2, 7, 255, 256, 4095, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53]
NUMBERS += [2**63 - 1, 2**63, 2**64, 10**30]


# ---------------------------------------------------------------------------------------------- good files


def torch_seeds(folder: Path) -> list[bytes]:
    state = {"a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "b": np.arange(5, dtype=np.int64)}
    shared = Tensor(numel=6, shape=(2, 3), strides=(3, 1))
    paths = [
        DATA.parents[1] / "data" / "torch_saved.pt",
        write_torch(folder / "wrapped.pt", state),
        write_torch(folder / "bare.pt", {"image_encoder.x": state["a.weight"]}, wrap=None),
        write_archive(folder / "shared.pt", {"model": {"a": shared, "b": shared}, "epoch": 3}, {"0": bytes(24)}),
    ]
    return [path.read_bytes() for path in paths]


def safetensors_seeds(folder: Path) -> list[bytes]:
    from safetensors.numpy import save

    state = {
        "image_encoder.x": np.ones((2, 3), np.float32),
        "b": np.zeros(4, np.int32),
        "c": np.zeros((0, 2), np.float16),
    }
    return [save(state, metadata={"format": "mlx"}), save({"vision_encoder.y": np.ones(3, np.float32)}), save({})]


def json_seeds(folder: Path) -> list[bytes]:
    from mlx_sam2.config.sam2 import SAM2Config

    configs = [json.loads((DATA / f"config_{name}.json").read_text()) for name in ("nano", "nano20")]
    configs += [SAM2Config().to_dict(), SAM2Config.from_dict(configs[0]).to_dict()]
    configs.append(transformers_config())
    configs[-2]["quantization"] = {"group_size": 64, "bits": 4, "image_encoder.x": False}
    return [json.dumps(config).encode() for config in configs]


def index_seeds(folder: Path) -> list[bytes]:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    return [json.dumps({"metadata": {"total_size": 8}, "weight_map": names}).encode()]


# ---------------------------------------------------------------------------------------------- mutations


def any_number(draw: random.Random) -> int:
    return draw.choice(NUMBERS) if draw.random() < 0.8 else draw.getrandbits(draw.randint(1, 70))


def damage(data: bytes, draw: random.Random) -> bytes:
    """A few changes that know nothing of the format."""
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 3, 8])):
        at, span = draw.randrange(len(out) + 1), draw.choice([1, 1, 2, 4, 8, 16, 100])
        kind = draw.randrange(7)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            out[at : at + 1] = draw.randbytes(1)
        elif kind == 2:
            width = draw.choice([1, 2, 4, 8])
            out[at : at + width] = (any_number(draw) % 256**width).to_bytes(width, draw.choice(["little", "big"]))
        elif kind == 3:
            del out[at : at + span]
        elif kind == 4:
            out[at:at] = draw.randbytes(span)
        elif kind == 5:
            source = draw.randrange(len(out) + 1)
            out[at:at] = out[source : source + span]
        else:
            del out[at:]
    return bytes(out)


def damage_pickle(data: bytes, draw: random.Random) -> bytes:
    """Remove, repeat, exchange or invent opcodes of the pickle in an archive."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        try:
            with zipfile.ZipFile(file) as archive:
                entries = {info.filename: archive.read(info) for info in archive.infolist()}
        except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
            return data
    name = next(name for name in entries if name.endswith("data.pkl"))
    starts = [at for _, _, at in pickletools.genops(entries[name])] + [len(entries[name])]
    ops = [entries[name][a:b] for a, b in itertools.pairwise(starts)]
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(1, len(ops))
        kind = draw.randrange(5)
        if kind == 0:
            del ops[at]
        elif kind == 1:
            ops[at:at] = ops[at : at + draw.randint(1, 12)] * draw.choice([1, 1, 3, 40])
        elif kind == 2:
            ops[at - 1], ops[at] = ops[at], ops[at - 1]
        elif kind == 3:
            ops[at:at] = [draw.choice(pickletools.opcodes).code.encode("latin1") + draw.randbytes(draw.randint(0, 5))]
        else:
            ops[at] = pickled(any_number(draw)) if draw.random() < 0.7 else damage(ops[at] or b"x", draw)
    entries[name] = b"".join(ops)
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w") as archive:
            for key, value in entries.items():
                archive.writestr(key, value)
        file.seek(0)
        return file.read()


def strange(draw: random.Random) -> Any:
    """A JSON value that nobody expects."""
    return draw.choice(
        [None, True, False, "", "a", "../x", "x" * 300, [], {}, [[]], {"a": {}}, -1.5, 1e308, math.nan, math.inf]
        + [any_number(draw) for _ in range(10)]
        + [[any_number(draw)] * draw.choice([1, 2, 4, 500])]
    )


def damage_value(value: Any, draw: random.Random) -> Any:
    """Exchange parts of a JSON value for others."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        node = value
        while isinstance(node, (dict, list)) and node:
            key = draw.choice(sorted(node)) if isinstance(node, dict) else draw.randrange(len(node))
            if not isinstance(node[key], (dict, list)) or not node[key] or draw.random() < 0.25:
                kind = draw.randrange(8)
                if kind == 0:
                    del node[key]
                elif kind == 1 and isinstance(node, dict):
                    node[str(strange(draw))[:300]] = node.pop(key)
                elif kind == 2 and isinstance(node[key], (int, float)):
                    node[key] = node[key] * draw.choice([-1, 0, 2, 10, 1000, 0.5])
                else:
                    node[key] = strange(draw)
                break
            node = node[key]
    return value


def damage_json(data: bytes, draw: random.Random) -> bytes:
    return json.dumps(damage_value(json.loads(data), draw)).encode()


def damage_header(data: bytes, draw: random.Random) -> bytes:
    """Lies in the header of a safetensors file, which keeps its form."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(damage_value(json.loads(data[8 : 8 + length]), draw)).encode()
    if draw.random() < 0.2:  # a name twice
        header = header[:-1] + b", " + header[1:]
    said = len(header) if draw.random() < 0.9 else any_number(draw) % 2**64
    return struct.pack("<Q", said) + header + data[8 + length :] + (draw.randbytes(8) if draw.random() < 0.1 else b"")


def any_name(draw: random.Random) -> str:
    start = draw.choice(["image_encoder.", "vision_encoder.", "module.image_encoder.", "", "sam_mask_decoder."])
    return start + draw.choice(["x", "", "a.weight", "\n\x1b[2J", "\u202e\u00e9", "y" * 2000, "trunk.pos_embed", "é"])


def fresh_safetensors(_: bytes, draw: random.Random) -> bytes:
    """A consistent file of odd names, types and shapes."""
    header: dict[str, Any] = {"__metadata__": {"format": draw.choice(["mlx", "pt", "\n", ""])}}
    end = 0
    for _ in range(draw.randint(0, 6)):
        dtype, bits = draw.choice(DTYPES)
        shape = [draw.choice([0, 1, 1, 2, 3, 4, 8]) for _ in range(draw.choice([0, 1, 2, 2, 4, 5, 9, 33]))]
        size = math.prod(shape) * bits // 8 if math.prod(shape) < 5000 else 0
        header[any_name(draw)] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, ensure_ascii=draw.random() < 0.5).encode()
    text += b" " * (-len(text) % draw.choice([1, 8]))
    return struct.pack("<Q", len(text)) + text + draw.randbytes(end)


def fresh_torch(_: bytes, draw: random.Random) -> bytes:
    """A consistent archive of odd names, storages, shapes and strides."""

    def few() -> int:
        return any_number(draw) if draw.random() < 0.08 else draw.choice([0, 1, 1, 2, 3, 4])

    state: dict[str, Any] = {}
    for _ in range(draw.randint(0, 6)):
        axes = draw.choice([0, 1, 2, 2, 3, 4, 16, 17])
        shape, strides = tuple(few() for _ in range(axes)), tuple(few() for _ in range(axes))
        key = draw.choice(["0", "1", "2", "../x", "0/../1", "\n"])
        state[any_name(draw)] = Tensor(
            draw.choice(STORAGES), key, draw.choice([4, 8, 16, few()]), few(), shape, strides
        )
    if draw.random() < 0.2:
        state[any_name(draw)] = draw.choice(["text", 5, True, {"a": Tensor()}])
    top = {draw.choice(["model", "state_dict"]): state} if draw.random() < 0.7 else state
    with tempfile.TemporaryDirectory() as folder:
        storages = {"0": draw.randbytes(16), "1": draw.randbytes(64), "2": b""}
        order = draw.choice([b"little", b"little", b"big", b"", b"\xff"])
        return write_archive(Path(folder) / "x.pt", top, storages, order).read_bytes()

"""Some hundred damaged files of a reference: each is read, or refused in one line, and nothing is allocated for it."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_sam2.model.sam2 import SAM2
from mlx_sam2.sam2_video_predictor import SAM2VideoPredictor
from mlx_sam2.video.reference import Reference
from short_videos import clip

MUTATIONS = 150  # of each kind
NUMBERS = [-1, 0, 1, 2, 63, 65, 1 << 31, 1 << 32, (1 << 53) + 1, 1 << 63, 1 << 64, 10**30, 1.5, 1e308, True, None, ""]
WORDS = ["", "x" * 5000, "\n", "\u0000", "BF16", "F32", "F64", "I8", "F8_E4M3", "float", "mlx_sam2 reference 1", "[]"]
LEAST = 1 << 20  # bytes of memory that reading a small file may take


@pytest.fixture(scope="module")
def good(nano_model: SAM2, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    predictor = SAM2VideoPredictor(nano_model)
    path = tmp_path_factory.mktemp("good") / "cup.safetensors"
    with predictor.init_state(clip(1)) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        predictor.reference(state, 1).save(path)
    return path.read_bytes()


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, runs overwritten, ends cut or grown; most of it in the header."""
    made, head = bytearray(data), 8 + struct.unpack("<Q", data[:8])[0]
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(head if rng.random() < 0.8 else len(made))
        kind = rng.randrange(4)
        if kind == 0:
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            made[at : at + 4] = rng.randbytes(rng.randrange(8))
        elif kind == 2:
            made[:8] = struct.pack("<Q", rng.choice([0, 1, head - 9, head, len(made), 1 << 40, (1 << 64) - 1]))
        else:
            made = made[: rng.randrange(len(made))] if rng.random() < 0.5 else made + rng.randbytes(9)
            return bytes(made)
    return bytes(made)


def header_changed(data: bytes, rng: random.Random) -> bytes:
    """Valid JSON that lies, before the same data."""
    head = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:head])
    if rng.random() < 0.3:  # as many bytes, of another shape or type
        entry = header[rng.choice([name for name in header if name != "__metadata__"])]
        if rng.random() < 0.5:
            entry["dtype"] = {"BF16": "F16", "F32": "I32"}[entry["dtype"]]
        else:
            entry["shape"] = rng.choice([[*entry["shape"], 1], [1, *entry["shape"]], entry["shape"][::-1], [-1, 1]])
        return with_header(header, data[head:])
    for _ in range(rng.randint(1, 3)):
        spot, name = header, rng.choice([*header])
        while isinstance(spot.get(name) if isinstance(spot, dict) else spot[name], (dict, list)):
            if rng.random() < 0.15 or not (inner := spot[name]):
                break
            spot, name = inner, rng.choice([*inner] if isinstance(inner, dict) else range(len(inner)))
        if rng.random() < 0.15 and isinstance(spot, dict) and len(spot) > 1:
            del spot[name]
        else:
            spot[name] = rng.choice([*NUMBERS, *WORDS, [], {}, [1 << 40] * 5, [0, 1 << 60], [-1, 8], {"a": 1}])
    return with_header(header, data[head:])


def with_header(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def values_changed(data: bytes, rng: random.Random) -> bytes:
    """Numbers overwritten, with ones that are not finite perhaps."""
    made, head = bytearray(data), 8 + struct.unpack("<Q", data[:8])[0]
    at = rng.randrange(head, len(made) - 8)
    special = [b"\x80\x7f", b"\xc0\x7f", b"\x80\xff", b"\xff\xff\x7f\x7f", rng.randbytes(8)]
    made[at : at + 4] = rng.choice(special)[:4]
    return bytes(made[: len(data)])


@pytest.mark.parametrize("mutate", [bytes_changed, header_changed, values_changed])
def test_damaged_references(mutate: Any, good: bytes, nano_model: SAM2, tmp_path: Path) -> None:
    path, read = tmp_path / "stranger.safetensors", 0
    rng = random.Random(mutate.__name__)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for i in range(MUTATIONS):
        path.write_bytes(mutate(good, rng))
        refused = ""
        try:
            reference = Reference.load(path, nano_model)
        except ValueError as error:
            refused = str(error)
        if refused:
            assert "\n" not in refused and len(refused) < 600 and path.name in refused, (i, refused)
            continue
        read += 1
        assert reference.features.shape == (1, *nano_model.config.memory_shape)
        assert reference.features.dtype == mx.bfloat16 and reference.scores.dtype == mx.float32
        assert bool(mx.isfinite(reference.features).all())
        del reference
    assert mx.get_peak_memory() - before < LEAST
    assert (read > 0) == (mutate is not header_changed) or read < MUTATIONS / 2, read

"""OpenEXR pictures: half floats, linear light, colours multiplied by alpha, a layer for each object.

A layer is named after its object's number and keeps its name on every frame: ``object001.A``. The picture's own
channels are R, G, B and A, or A alone for mattes. By hand: the official ``OpenEXR`` package cannot write the frame rate
(it reads these files in the tests). The layout is that of https://openexr.com/en/latest/OpenEXRFileLayout.html.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .cut import Cut, FilmTags

MAGIC, VERSION = 20000630, 2
ZIP, ROWS = 3, 16  # rows that are packed together

# x and y of red, green, blue and white by code point (ISO/IEC 23091-2), for the header
CHROMATICITIES = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, 0.3127, 0.3290),
    6: (0.63, 0.34, 0.31, 0.595, 0.155, 0.07, 0.3127, 0.3290),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, 0.3127, 0.3290),
    12: (0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.3290),
}


def linear(transfer: int) -> np.ndarray:
    """Linear light of the 256 values of a channel, float32. 1 is white; of PQ 100 cd/m2, of HLG the signal's peak.

    Curves are those of ISO/IEC 23091-2: sRGB, BT.1361 and BT.709 by their inverses, gammas 2.2 and 2.8, PQ, HLG.
    """
    v = np.arange(256) / 255
    if transfer == 13:
        light = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    elif transfer in (4, 5):
        light = v ** (2.2 if transfer == 4 else 2.8)
    elif transfer == 8:
        light = v
    elif transfer == 16:  # SMPTE ST 2084
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        power = v ** (1 / m2)
        light = 100 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    elif transfer == 18:  # ARIB STD-B67
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(v <= 0.5, v**2 / 3, (np.exp((v - c) / a) + b) / 12)
    else:
        light = np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45))
    return light.astype(np.float32)


def layer_name(obj_id: Any) -> str:
    name = (
        f"object{obj_id:03d}" if isinstance(obj_id, (int, np.integer)) else re.sub(r"[^A-Za-z0-9_]", "_", str(obj_id))
    )
    return f"{name}.A"


def write_exr(path: Path, cut: Cut, kind: str, tags: FilmTags, timecode: str | None) -> None:
    """Write one frame: colours times alpha and the alpha ("cutout"), the alpha ("matte"), or colours ("composite").

    Args:
        timecode: this frame's; `tags` has the film's.
    """
    display = tags.display
    channels: dict[str, np.ndarray] = {}
    if kind != "matte":
        light = linear(display.transfer)
        for i, name in enumerate("RGB"):
            plane = light[cut.own[..., i]]
            channels[name] = (plane * cut.matte if kind == "cutout" else plane).astype("<f2")
    if kind != "composite":
        channels["A"] = cut.matte.astype("<f2")
    channels |= {layer_name(obj): matte.astype("<f2") for obj, matte in cut.layers.items()}
    channels = dict(sorted(channels.items()))
    with open(path, "wb") as file:
        file.write(struct.pack("<II", MAGIC, VERSION))
        for name, (form, value) in _header(channels, cut.size, tags, timecode).items():
            file.write(name.encode() + b"\0" + form.encode() + b"\0" + struct.pack("<I", len(value)) + value)
        file.write(b"\0")
        tops = range(0, cut.size[0], ROWS)
        table = file.tell()
        file.write(bytes(8 * len(tops)))
        places = []
        for top in tops:
            places.append(file.tell())
            rows = np.concatenate([plane[top : top + ROWS] for plane in channels.values()], axis=1)
            data = _packed(np.ascontiguousarray(rows).tobytes())
            file.write(struct.pack("<iI", top, len(data)) + data)
        file.seek(table)
        file.write(struct.pack(f"<{len(places)}Q", *places))


def _header(
    channels: dict[str, np.ndarray], size: tuple[int, int], tags: FilmTags, timecode: str | None
) -> dict[str, tuple[str, bytes]]:
    """The attributes of a file: name -> type and value."""
    half = struct.pack("<IIII", 1, 0, 1, 1)  # its number, not perceptual, every column, every row
    window = struct.pack("<4i", 0, 0, size[1] - 1, size[0] - 1)
    attributes = {
        "channels": ("chlist", b"".join(name.encode() + b"\0" + half for name in channels) + b"\0"),
        "compression": ("compression", bytes([ZIP])),
        "dataWindow": ("box2i", window),
        "displayWindow": ("box2i", window),
        "framesPerSecond": ("rational", struct.pack("<iI", tags.rate.numerator, tags.rate.denominator)),
        "lineOrder": ("lineOrder", b"\0"),
        "pixelAspectRatio": ("float", struct.pack("<f", tags.display.pixel_aspect)),
        "screenWindowCenter": ("v2f", struct.pack("<2f", 0, 0)),
        "screenWindowWidth": ("float", struct.pack("<f", 1)),
    }
    if tags.display.primaries in CHROMATICITIES:
        attributes["chromaticities"] = (
            "chromaticities",
            struct.pack("<8f", *CHROMATICITIES[tags.display.primaries]),
        )
    if found := re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;.,])(\d\d)", timecode or ""):
        digits = "".join(found[i] for i in (1, 2, 3, 5))
        code = int(digits, 16) | (0 if found[4] == ":" else 1 << 6)  # SMPTE 12M: decimal digits, and drop frame
        attributes["timeCode"] = ("timecode", struct.pack("<II", code, 0))
    return attributes


def _packed(data: bytes) -> bytes:
    """A block as OpenEXR's ZIP packs it: every other byte, then differences; as it is where that is shorter."""
    values = np.frombuffer(data, np.uint8)
    apart = np.concatenate([values[::2], values[1::2]])
    apart[1:] = np.diff(apart) + np.uint8(128)
    packed = zlib.compress(apart.tobytes(), 4)
    return packed if len(packed) < len(data) else data

"""What the structure of a file says about the photo in it: raw photos, HEIC, films, stacks, and which way is up.

EXIF is TIFF: one small reader of TIFF's directories serves both, and reads nothing but whole numbers. Pillow's own
reader of EXIF parses the whole block and raises for odd values of tags that nobody needs.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

ORIENTATION, SUBFILE_TYPE, WIDTH, PHOTOMETRIC, SUB_IFDS, DNG_VERSION = 0x0112, 254, 256, 262, 330, 50706
RAW_COLOURS = (32803, 34892)  # a colour filter array, linear raw
MAX_DIRECTORIES, MAX_ENTRIES, MAX_VALUES = 64, 4096, 16
MAX_BOXES = 1000  # of an ISO media file: photos have three or four
_WHOLE = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of whole numbers: BYTE, SHORT, LONG, IFD, ...

RAW_HEADS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"}
RAW_REFUSED = "is a raw photo, of which only the thumbnail could be read: export it as JPEG or TIFF"
FILM_BRANDS = {b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"3gp4", b"3gp5", b"dash"}

Directory = dict[int, tuple[int, ...]]  # the values of a TIFF directory by tag, whole numbers only


def directories(file: BinaryIO) -> Iterator[Directory]:
    """The directories of a TIFF or BigTIFF file, or of an EXIF block: the chain first, then those below each.

    What is damaged ends the walk, and so do too many directories.
    """
    file.seek(0)
    head = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 8:
        return
    big = struct.unpack(order + "H", head[2:4])[0] == 43
    if big and len(head) < 16:
        return
    ahead = [struct.unpack(order + ("Q" if big else "I"), head[8:16] if big else head[4:8])[0]]
    seen: set[int] = set()
    below: list[int] = []
    while (ahead or below) and len(seen) < MAX_DIRECTORIES:
        place = ahead.pop() if ahead else below.pop(0)
        if place in seen or not place:
            continue
        seen.add(place)
        try:
            directory, following = _directory(file, place, order, big)
        except (struct.error, OSError, ValueError, OverflowError):  # cut short, or an offset that is no place
            continue
        yield directory
        ahead.append(following)
        below += directory.get(SUB_IFDS, ())


def _directory(file: BinaryIO, place: int, order: str, big: bool) -> tuple[Directory, int]:
    """One directory, and where the next one is."""
    size, inline, count_format, offset_format = (20, 8, "Q", "Q") if big else (12, 4, "H", "I")
    file.seek(place)
    (count,) = struct.unpack(order + count_format, file.read(struct.calcsize(count_format)))
    entries = file.read(size * min(count, MAX_ENTRIES))
    rest = file.read(inline)
    following = struct.unpack(order + offset_format, rest)[0] if count <= MAX_ENTRIES and len(rest) == inline else 0
    directory: Directory = {}
    for i in range(0, len(entries) - size + 1, size):
        tag, kind, number = struct.unpack_from(order + "HH" + offset_format, entries, i)
        if kind not in _WHOLE or not 1 <= number <= MAX_VALUES:
            continue
        pattern = order + str(number) + _WHOLE[kind]
        data = entries[i + size - inline : i + size]
        if struct.calcsize(pattern) > inline:
            file.seek(struct.unpack(order + offset_format, data)[0])
            data = file.read(struct.calcsize(pattern))
        if len(data) >= struct.calcsize(pattern):
            directory.setdefault(tag, struct.unpack_from(pattern, data))
    return directory, following


# ---- what is no photo that Pillow could read


def brands(head: bytes) -> set[bytes]:
    """The brands of an ISO media file (HEIC, AVIF, MP4, ...); none for anything else."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(struct.unpack(">I", head[:4])[0], len(head))
    return {head[8:12], *(head[i : i + 4] for i in range(16, end - 3, 4))}


def is_heic(head: bytes) -> bool:
    """Whether a file that begins so is HEIC or HEIF, whatever its name; AVIF, which Pillow reads, is not."""
    found = brands(head)
    return bool(found & HEIC_BRANDS) and not found & {b"avif", b"avis"}


def is_cut_short(file: BinaryIO) -> bool:
    """Whether the last box of an ISO media file ends after the file. libheif fills what is missing with grey."""
    end, place = file.seek(0, io.SEEK_END), 0
    for _ in range(MAX_BOXES):
        if place >= end:
            break
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            return True
        (size,) = struct.unpack(">I", head[:4])
        if size == 1 and len(head) == 16:  # a size of 64 bits follows
            (size,) = struct.unpack(">Q", head[8:])
        if size < 8:  # 0: the last one, to the end of the file
            return size != 0
        place += size
    return place > end


def refusal(file: BinaryIO) -> str | None:
    """Why a file is not read as a photo though Pillow might find a picture in it; None for all others."""
    file.seek(0)
    head = file.read(512)
    if is_raw(file):
        return RAW_REFUSED
    is_film = head.startswith(b"\x1aE\xdf\xa3") or (head[:4], head[8:12]) == (b"RIFF", b"AVI ")  # Matroska, WebM; AVI
    if is_film or (brands(head) & FILM_BRANDS and not is_heic(head)):
        return "is a film, not a photo: python -m mlx_sam2.track reads films"
    return None


def is_raw(file: BinaryIO) -> bool:
    """Whether a file is a raw photo. Readers of pictures and films alike would find its thumbnail."""
    file.seek(0)
    head = file.read(512)
    if head.startswith(RAW_HEADS) or head[8:10] == b"CR" or b"crx " in brands(head):
        return True
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return False
    found = list(directories(file))
    if any(DNG_VERSION in d or d.get(PHOTOMETRIC, (0,))[0] in RAW_COLOURS for d in found):
        return True
    if not found or not found[0].get(SUBFILE_TYPE, (0,))[0] & 1:
        return False
    widths = [max(d.get(WIDTH, (0,))) for d in found]
    return max(widths) > widths[0]  # it begins with a thumbnail


def is_stack(file: BinaryIO) -> bool:
    """Whether a TIFF file holds several pictures, smaller copies of one and masks not counted."""
    return sum(not d.get(SUBFILE_TYPE, (0,))[0] & 5 and WIDTH in d for d in directories(file)) > 1


# ---- which way is up


def orientation(file: BinaryIO, info: dict[Any, Any], kind: str | None) -> int:
    """The EXIF orientation of a picture, 1 to 8; 1 if it has none.

    Args:
        file: the file, for TIFF.
        info: Pillow's ``Image.info``, whose metadata are still bytes.
        kind: Pillow's ``Image.format``.
    """
    values = []
    if kind == "TIFF":
        values.append(_tag(file))
    if isinstance(block := info.get("exif"), bytes):
        values.append(_tag(io.BytesIO(re.sub(rb"^(Exif\0\0){1,2}", b"", block))))
    if isinstance(text := info.get("Raw profile type exif"), str):  # PNG, by ImageMagick
        digits = "".join(text.split("\n")[3:])
        if re.fullmatch(r"([0-9a-fA-F]{2})*", digits):
            values.append(_tag(io.BytesIO(bytes.fromhex(digits).removeprefix(b"Exif\0\0"))))
    for key in ("XML:com.adobe.xmp", "xmp"):
        xmp = info.get(key)
        xmp = xmp.decode("latin-1") if isinstance(xmp, bytes) else xmp
        if isinstance(xmp, str) and (found := re.search(r'tiff:Orientation(="|>)([0-9])', xmp)):
            values.append(int(found[2]))
    return next((value for value in values if 1 <= value <= 8), 1)


def _tag(file: BinaryIO) -> int:
    """The orientation in the first directory; 0 if it has none."""
    return next(directories(file), {}).get(ORIENTATION, (0,))[0]

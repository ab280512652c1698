"""Label Studio's run-length code of brush regions, as ``label_studio_sdk.converter.brush`` reads and writes it.

A list of bytes, read bit by bit: 32 bits for the number of values, 5 for the bits of a value less one, four times 4 for
the bits of a length less one; then blocks: one bit (1: a run of one value, 0: values one by one), two bits for which
length is meant, the length less one, and the value or the values. The values are those of an RGBA picture, row by row;
the mask is its alpha channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHANNELS = 4
_LENGTH_BITS = (3, 4, 8, 16)
_VALUE_BITS = 8
_HEADER_BITS = 32 + 5 + 4 * 4


def encode_brush(mask: np.ndarray) -> list[int]:
    """The code of a mask (H, W) bool: 255 in all channels where it is true."""
    flat = np.asarray(mask, bool).ravel()
    total = flat.size * CHANNELS
    edges = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]])
    lengths, values = np.diff(edges) * CHANNELS, 255 * flat[edges[:-1]].astype(np.int64)
    longest = 1 << _LENGTH_BITS[-1]
    pieces = -(-lengths // longest)
    values = np.repeat(values, pieces)
    last = np.cumsum(pieces) - 1
    rest = lengths - (pieces - 1) * longest
    lengths = np.full(len(values), longest)
    lengths[last] = rest
    kind = np.searchsorted([1 << bits for bits in _LENGTH_BITS], lengths)
    bits = np.array(_LENGTH_BITS)[kind]
    blocks = (((4 + kind) << bits | (lengths - 1)) << _VALUE_BITS) | values
    size = 3 + bits + _VALUE_BITS
    header = total << 5 | (_VALUE_BITS - 1)
    for length in _LENGTH_BITS:
        header = header << 4 | (length - 1)
    return np.packbits(np.concatenate([_bits([header], [_HEADER_BITS]), _bits(blocks, size)])).tolist()


def _bits(numbers: Sequence[int] | np.ndarray, sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    """(n,) uint8 of 0 and 1: each number in as many bits as its size says, the highest first."""
    numbers, sizes = np.asarray(numbers, np.int64), np.asarray(sizes, np.int64)
    end = sizes.cumsum()
    out = np.zeros(int(end[-1]) if len(end) else 0, np.uint8)
    for bit in range(int(sizes.max(initial=0))):
        has = sizes > bit
        out[end[has] - 1 - bit] = numbers[has] >> bit & 1
    return out


def decode_brush(code: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: where the alpha channel is not 0.

    Only the mask is allocated, whatever the code says.

    Raises:
        ValueError: the code is damaged, or of a picture of another size.
    """
    height, width = size
    try:
        data = bytes(code)
    except (TypeError, ValueError):
        raise ValueError("damaged brush: its code must be a list of bytes") from None
    reader = _Reader(data)
    total, value_bits = reader.read(32), reader.read(5) + 1
    length_bits = [reader.read(4) + 1 for _ in range(4)]
    if total != height * width * CHANNELS:
        raise ValueError(f"damaged brush: it has {total} values, {width} x {height} pixels have {CHANNELS} each")
    alpha = np.zeros(height * width, bool)
    i = 0
    while i < total:
        is_run = reader.read(1)
        count = min(reader.read(length_bits[reader.read(2)]) + 1, total - i)
        first, end = -((3 - i) // CHANNELS), -((3 - i - count) // CHANNELS)  # pixels whose alpha is among them
        if is_run:
            alpha[first:end] = reader.read(value_bits) != 0
        else:
            values = reader.read_many(count, value_bits)
            alpha[first:end] = values[first * CHANNELS + 3 - i :: CHANNELS]
        i += count
    return alpha.reshape(height, width)


class _Reader:
    """Numbers of any bits, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._end = data, 0, 8 * len(data)

    def read(self, bits: int) -> int:
        begin, self._at = self._at, self._at + bits
        if self._at > self._end:
            raise ValueError("damaged brush: its code is cut short")
        number = int.from_bytes(self._data[begin // 8 : -(-self._at // 8)], "big")
        return number >> (-self._at % 8) & ((1 << bits) - 1)

    def read_many(self, count: int, bits: int) -> np.ndarray:
        """(count,) bool: which of `count` numbers are not 0."""
        begin, self._at = self._at, self._at + count * bits
        if self._at > self._end:
            raise ValueError("damaged brush: its code is cut short")
        data = np.frombuffer(self._data[begin // 8 : -(-self._at // 8)], np.uint8)
        found = np.unpackbits(data)[begin % 8 :][: count * bits]
        return found.reshape(count, bits).any(axis=1)

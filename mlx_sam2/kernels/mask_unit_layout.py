"""How `mask_unit_attention` maps windows to threads and threadgroup memory."""

from __future__ import annotations

from typing import NamedTuple

BUDGET = 20 << 10  # bytes of keys and values in a threadgroup's memory, of 32 KB


class Layout(NamedTuple):
    """The share of a threadgroup in a window, and its memory."""

    simdgroups: int  # of a unit in one threadgroup: 8 queries each
    splits: int  # threadgroups that share the queries of a unit
    fragments: int  # keys held at once, in eights
    units: int  # in one threadgroup
    memory: int  # bytes of threadgroup memory


def layout(head_dim: int, window: int, q_stride: int, item_size: int) -> Layout:
    """A layout that starts on every Apple GPU, and leaves room for other threadgroups on the same core.

    An M1 core has 208 KB of registers, and a kernel is compiled for what one thread needs: 512 threads start at up to
    104 registers each, which is ample up to a head dim of 128; 384 start at any. So windows of 14x14 and 16x16 are
    shared by two threadgroups that read the keys and values once each: one alone would need 800 or 1024 threads, at
    64 or 52 registers. Bytes are not the limit there: second reading included, half precision does 65 operations for
    each, while the memory of an M1 to M4 feeds a byte in the time of 30 to 40, and the second reading finds the cache
    warm. The number of simdgroups is then even, so that a window of 14x8, at the edge of a 64x64 grid, still fits one
    threadgroup.

    A core holds about two threadgroups of the full 32 KB and wants 500 threads and more: hence the bound on bytes for
    each simdgroup. The keys of a window come in even blocks, of at most 5 eights: 10 registers of scores.
    """
    eights = -(-((window // q_stride) ** 2) // 8)
    splits = -(-eights // (16 if head_dim <= 128 else 12))
    simdgroups = -(-eights // splits)
    if splits > 1:
        simdgroups += simdgroups % 2
    row = head_dim * item_size + (16 if head_dim * item_size % 32 == 0 else 0)
    one = 2 * 8 * row  # eight keys and eight values
    of_window = -(-(window**2) // 8)
    most = max(min(BUDGET, 2048 * item_size * simdgroups) // one, 1)
    fragments = -(-of_window // -(-of_window // min(most, 5)))
    units = max(min(4 // simdgroups, BUDGET // (fragments * one)), 1)
    return Layout(simdgroups, splits, fragments, units, units * fragments * one)

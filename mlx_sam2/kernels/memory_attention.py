"""Attention of a frame to its memories, fused (official ``RoPEAttention``; online softmax: arXiv 2205.14135)."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import mlx.core as mx

from ..text import dtype_name
from . import gpu
from .attention import attend
from .dispatch import Op, Tensor, metal_kernel

SIMDGROUPS = 8  # of a threadgroup; each has 8 queries
QUERIES, THREADS = 8 * SIMDGROUPS, 32 * SIMDGROUPS
KEYS = (32, 16, 8)  # keys of a block: the largest that fits
SCRATCH = 24 << 10  # bytes of threadgroup memory, of 32 KB
REGISTERS = 100  # 32-bit registers of a lane that queries, scores and results may fill, of 128
THREADGROUPS = 256  # fewer leave cores idle at the end, or from the start: then the keys are split
MIN_BLOCKS = 8  # of keys in a split
MAX_ELEMENTS = 1 << 31  # offsets are 32-bit
LEAST_BIAS = -1e30  # what -inf becomes: finite, so that differences of scores are

# Everything is transposed, S' = K Q' and O' = V' P', because then the scores lie in the lanes exactly as the second
# product needs them, and the queries, not the keys, are the operand that is read crosswise: once, from device memory.
#
# A threadgroup has 64 queries and a range of the keys (grid: x lanes, y query blocks, z item * splits + split); a
# simdgroup has 8 of the queries with all their channels. A lane holds two neighbouring elements of each 8x8 matrix, at
# row `row` and columns `col`, `col` + 1, as in MLX's own attention. In registers for the whole run: the queries (D / 8
# pairs of T), the results (DV / 8 pairs of float), the scores of one block (BK / 8 pairs), the largest score and the
# sum of each of the lane's two queries. For D = 256, DV = 64 that is 32 + 16 + 8 registers in half precision and
# 64 + 16 + 4 in float32, of 128. In threadgroup memory: a block of keys, row by row, and of values, transposed, rows
# padded by 16 bytes so that the 8 rows of a matrix start in different banks. The channels of a score may come in any
# order, so a lane reads 4 neighbours of a key at once, for two matrices: it has channels 2 col to 2 col + 3 of 16, and
# row r of the queries' matrices is channel 2r - r % 2, in the second matrix 2 more. D is filled up to WIDTH, a multiple
# of 16, with zeros. Values become float where they are read, so that both factors are of one type.
#
# Each query block reads its keys and values once, so they are read N / 64 times in all; scores never leave the
# registers. A key (D + DV elements) costs 2 (D + DV) operations for each of 64 queries: 64 operations a byte in half
# precision, 32 in float32, whatever the sizes. An M2 Max does 34 a byte (13.6 TFLOP/s, 400 GB/s), so half precision
# needs half of its bandwidth at full speed even if no cache ever helps; with 32 queries it would need all of it.
# float32 needs all of it with 64 queries, unless the caches help.
HEADER = """
// d += a b for 8x8 matrices, of which a lane holds two elements
template <typename T>
inline void multiply_add(thread float2& d, metal::vec<T, 2> a, metal::vec<T, 2> b) {
    metal::simdgroup_matrix<T, 8, 8> A, B;
    metal::simdgroup_matrix<float, 8, 8> C, D;
    reinterpret_cast<thread metal::vec<T, 2>&>(A.thread_elements()) = a;
    reinterpret_cast<thread metal::vec<T, 2>&>(B.thread_elements()) = b;
    reinterpret_cast<thread float2&>(C.thread_elements()) = d;
    metal::simdgroup_multiply_accumulate(D, A, B, C);
    d = reinterpret_cast<thread float2&>(D.thread_elements());
}

// over the rows of a matrix: lanes 2, 4 and 16 apart hold the same columns
inline float rows_max(float x) {
    x = metal::max(x, metal::simd_shuffle_xor(x, ushort(2)));
    x = metal::max(x, metal::simd_shuffle_xor(x, ushort(4)));
    return metal::max(x, metal::simd_shuffle_xor(x, ushort(16)));
}
inline float rows_sum(float x) {
    x += metal::simd_shuffle_xor(x, ushort(2));
    x += metal::simd_shuffle_xor(x, ushort(4));
    return x + metal::simd_shuffle_xor(x, ushort(16));
}
inline float2 exp2_of(float2 x) { return float2(metal::fast::exp2(x.x), metal::fast::exp2(x.y)); }
"""

SOURCE = """
    using T2 = metal::vec<T, 2>;
    using T4 = metal::vec<T, 4>;
    constexpr uint LDK = WIDTH + 16 / sizeof(T), LDV = BK + 16 / sizeof(T);
    threadgroup T4 key_block[BK * LDK / 4];  // in the types of the widest access, for their alignment
    threadgroup T2 value_block[DV * LDV / 2];
    threadgroup T* keys = (threadgroup T*)key_block;
    threadgroup T* values = (threadgroup T*)value_block;

    const uint me = thread_position_in_threadgroup.x, lane = me % 32;
    const uint row = ((lane / 4) & 4) + (lane / 2) % 4, col = ((lane / 4) & 2) * 2 + (lane % 2) * 2;
    const uint N = uint(q_shape[2]), M = uint(k_shape[2]), parts = uint(splits);
    const uint item = threadgroup_position_in_grid.z / parts, part = threadgroup_position_in_grid.z % parts;
    const uint value_item = v_shape[1] == 1 ? item / uint(q_shape[1]) : item;
    const device T* key_rows = k + item * M * D;
    const device T* value_rows = v + value_item * M * DV;
    const uint query = threadgroup_position_in_grid.y * QUERIES + me / 32 * 8 + col;  // and query + 1
    const uint blocks = (M + BK - 1) / BK;

    T2 queries[WIDTH / 8];
    const device T* query_rows = q + (item * N + query) * D;
    #pragma clang loop unroll(full)
    for (short i = 0; i < WIDTH / 8; i++) {
        const uint c = 16 * (i / 2) + 2 * (i % 2) + 2 * row - row % 2;
        queries[i] = T2(T(0));
        if (query < N && c < D) queries[i].x = query_rows[c];
        if (query + 1 < N && c < D) queries[i].y = query_rows[D + c];
    }
    float2 result[DV / 8];
    #pragma clang loop unroll(full)
    for (short d = 0; d < DV / 8; d++) result[d] = float2(0.0f);
    const float lowest = -metal::numeric_limits<float>::max();
    float2 best = float2(lowest), total = float2(0.0f);

    for (uint block = part * blocks / parts; block < (part + 1) * blocks / parts; block++) {
        threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the block before
        for (uint i = me; i < BK * WIDTH / 4; i += THREADS) {
            const uint n = i / (WIDTH / 4), c = 4 * (i % (WIDTH / 4)), key = block * BK + n;
            T4 x = T4(T(0));
            if (key < M && c < D) x = *((const device T4*)(key_rows + key * D + c));
            *((threadgroup T4*)(keys + n * LDK + c)) = x;
        }
        for (uint i = me; i < BK / 2 * DV; i += THREADS) {
            const uint n = 2 * (i / DV), d = i % DV, key = block * BK + n;
            T2 x = T2(T(0));
            if (key < M) x.x = value_rows[key * DV + d];
            if (key + 1 < M) x.y = value_rows[(key + 1) * DV + d];
            *((threadgroup T2*)(values + d * LDV + n)) = x;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        float2 score[BK / 8];
        #pragma clang loop unroll(full)
        for (short j = 0; j < BK / 8; j++) score[j] = float2(0.0f);
        #pragma clang loop unroll(full)
        for (short c = 0; c < WIDTH / 16; c++) {
            T4 a[BK / 8];
            simdgroup_barrier(mem_flags::mem_none);  // keeps the compiler from loading all matrices first
            #pragma clang loop unroll(full)
            for (short j = 0; j < BK / 8; j++)
                a[j] = *((const threadgroup T4*)(keys + (8 * j + row) * LDK + 16 * c + 2 * col));
            simdgroup_barrier(mem_flags::mem_none);
            #pragma clang loop unroll(full)
            for (short j = 0; j < BK / 8; j++) multiply_add<T>(score[j], T2(a[j].x, a[j].y), queries[2 * c]);
            #pragma clang loop unroll(full)
            for (short j = 0; j < BK / 8; j++) multiply_add<T>(score[j], T2(a[j].z, a[j].w), queries[2 * c + 1]);
        }

        float2 top = best;
        #pragma clang loop unroll(full)
        for (short j = 0; j < BK / 8; j++) {
            const uint key = block * BK + 8 * j + row;
            score[j] = key < M ? score[j] * scale BIAS : float2(lowest);
            top = metal::max(top, score[j]);
        }
        top = float2(rows_max(top.x), rows_max(top.y));
        const float2 shrink = exp2_of(best - top);
        best = top;
        total *= shrink;
        #pragma clang loop unroll(full)
        for (short d = 0; d < DV / 8; d++) result[d] *= shrink;
        #pragma clang loop unroll(full)
        for (short j = 0; j < BK / 8; j++) {
            score[j] = exp2_of(score[j] - top);
            total += score[j];  // of this row only; all rows are summed at the end
        }
        #pragma clang loop unroll(full)
        for (short j = 0; j < BK / 8; j++) {
            simdgroup_barrier(mem_flags::mem_none);
            #pragma clang loop unroll(full)
            for (short d = 0; d < DV / 8; d++) {
                const T2 a = *((const threadgroup T2*)(values + (8 * d + row) * LDV + 8 * j + col));
                multiply_add<float>(result[d], float2(float(a.x), float(a.y)), score[j]);
            }
        }
    }

    total = float2(rows_sum(total.x), rows_sum(total.y));
    #pragma clang loop unroll(full)
    for (short e = 0; e < 2; e++) {
        if (query + e < N) {
            const uint place = (part * uint(q_shape[0] * q_shape[1]) + item) * N + query + e;
            #pragma clang loop unroll(full)
            for (short d = 0; d < DV / 8; d++) out[place * DV + 8 * d + row] = U(result[d][e] / total[e]);
            if (row == 0) weight[place] = best[e] + metal::log2(total[e]);
        }
    }
"""


def _width(dim: int) -> int:
    """The channels of queries and keys, filled up to whole pairs of matrices."""
    return -(-dim // 16) * 16


def block_of_keys(dim: int, value_dim: int, itemsize: int) -> int | None:
    """The number of keys in a block; None if not even the smallest block fits threadgroup memory."""
    pad = 16 // itemsize
    fits = (n for n in KEYS if (n * (_width(dim) + pad) + value_dim * (n + pad)) * itemsize <= SCRATCH)
    return next(fits, None)


def registers(dim: int, value_dim: int, itemsize: int) -> int:
    """32-bit registers of a lane that hold queries, results and the scores of a block."""
    pairs_of_floats = value_dim // 8 + (block_of_keys(dim, value_dim, itemsize) or 0) // 8
    return _width(dim) // 8 * itemsize // 2 + 2 * pairs_of_floats


def key_splits(q: mx.array, k: mx.array, v: mx.array) -> int:
    """The number of parts that the keys are split into, so that all cores of the GPU have threadgroups.

    64 threadgroups (one object, N = 4096) keep 38 cores busy for 64 / 76 of the time, 256 for 256 / 266; the parts
    write 1 MB each in float32, beside 1.2 GB of keys and values.
    """
    b, heads, n, d = q.shape
    threadgroups = b * heads * -(-n // QUERIES)
    blocks = -(-k.shape[2] // block_of_keys(d, v.shape[-1], q.itemsize))
    return max(min(-(-THREADGROUPS // threadgroups), blocks // MIN_BLOCKS), 1)


def _kernel(name: str, biased: bool) -> Any:
    if not biased:
        inputs, source = ("q", "k", "v", "scale", "splits"), SOURCE.replace("BIAS", "")
        return metal_kernel(name, inputs, ("out", "weight"), source, HEADER)
    source = SOURCE.replace("BIAS", "+ bias[item / uint(q_shape[1]) * M + key]")
    inputs = ("q", "k", "v", "scale", "splits", "bias")
    return metal_kernel(f"{name}_biased", inputs, ("out", "weight"), source, HEADER)


def memory_attention_kernel(
    q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None = None, name: str = "memory_attention"
) -> mx.array:
    (b, heads, n, d), value_dim = q.shape, v.shape[-1]
    splits = key_splits(q, k, v)
    dtype = q.dtype if splits == 1 else mx.float32
    inputs = [q, k, v, math.log2(math.e) / math.sqrt(d), splits]
    if bias is not None:
        inputs.append(mx.maximum(bias.astype(mx.float32) * math.log2(math.e), LEAST_BIAS))
    kernel = _kernel(name, bias is not None)
    block = block_of_keys(d, value_dim, q.itemsize)
    constants = {"D": d, "WIDTH": _width(d), "DV": value_dim, "BK": block, "QUERIES": QUERIES, "THREADS": THREADS}
    out, weight = kernel(
        inputs=inputs,
        template=[("T", q.dtype), ("U", dtype), *constants.items()],
        grid=(THREADS, -(-n // QUERIES), b * heads * splits),
        threadgroup=(THREADS, 1, 1),
        output_shapes=[(splits, b, heads, n, value_dim), (splits, b, heads, n, 1)],
        output_dtypes=[dtype, mx.float32],
    )
    return merge_parts(out, weight, q.dtype)


def merge_parts(out: mx.array, weight: mx.array, dtype: mx.Dtype) -> mx.array:
    """Join results over parts of the keys, (parts, B, heads, N, Dv) with a weight (..., 1), into (B, heads, N, Dv).

    The weight is the logarithm to base 2 of the sum of a part's exponentials.
    """
    splits = len(out)
    if splits == 1:
        return out.squeeze(0)
    share = mx.softmax(weight * math.log(2), axis=0)  # of each part of the keys, (parts, B, heads, N, 1)
    # not sum(): under mx.compile a chain of elementwise operations on views is one launch
    parts = [a * b for a, b in zip(mx.split(out, splits), mx.split(share, splits), strict=True)]
    return reduce(operator.add, parts).squeeze(0).astype(dtype)


def _supports(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None = None) -> bool:
    d, value_dim = q.shape[-1], v.shape[-1]
    if q.dtype not in (mx.float32, mx.float16, mx.bfloat16) or (k.dtype, v.dtype) != (q.dtype, q.dtype):
        return False
    if d % 8 or value_dim % 8 or not min(q.size, k.size, v.size):
        return False
    # MLX binds inputs of fewer than 8 elements as `constant`; the kernel reads them as `device`
    fits = block_of_keys(d, value_dim, q.itemsize) is not None and registers(d, value_dim, q.itemsize) <= REGISTERS
    return fits and max(q.size, k.size, v.size) < MAX_ELEMENTS


def _preferred(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None = None) -> bool:
    way, _ = gpu.attention_way(gpu.this_gpu(), q.dtype, q.shape[2], q.shape[-1], v.shape[-1])
    return way == gpu.KERNEL


def _variant(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None = None) -> str:
    parts = "keys split" if key_splits(q, k, v) > 1 else "keys whole"
    parts += "" if bias is None else " biased"
    return f"{dtype_name(q.dtype)} D={q.shape[-1]} Dv={v.shape[-1]} {parts}"


def _check_case(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None = None) -> tuple[object, ...]:
    """Split keys are in three parts of 8, 9 and 9 blocks. With biases the first block, the second part and the last
    keys are left out."""
    block = block_of_keys(q.shape[-1], v.shape[-1], q.itemsize)
    split = key_splits(q, k, v) > 1
    keys = (3 * MIN_BLOCKS + 1 if split else 2) * block + 3
    excluded = ((0, block), *(((8 * block, 17 * block),) if split else ()), (keys - 2, keys))
    return (
        Tensor((1, 1, QUERIES + 5, q.shape[-1])),
        Tensor((1, 1, keys, q.shape[-1])),
        Tensor((1, 1, keys, v.shape[-1])),
        *(() if bias is None else (Tensor((1, keys), mx.float32, excluded=excluded),)),
    )


def _minimum_bytes(q: mx.array, k: mx.array, v: mx.array, *bias: mx.array) -> int:
    return sum(x.nbytes for x in (q, k, v, *bias)) + q.nbytes // q.shape[-1] * v.shape[-1]


def _case(b: int, heads: int, n: int, m: int, d: int, value_dim: int, value_heads: int = 1) -> tuple[Tensor, ...]:
    return Tensor((b, heads, n, d)), Tensor((b, heads, m, d)), Tensor((b, value_heads, m, value_dim))


def _bias(b: int, m: int, *excluded: tuple[int, int], offset: float = 0) -> Tensor:
    return Tensor((b, m), mx.float32, offset=offset, excluded=excluded)


def _flops(q: mx.array, k: mx.array, v: mx.array, *bias: mx.array) -> int:
    return 2 * q.size // q.shape[-1] * k.shape[2] * (q.shape[-1] + v.shape[-1])


memory_attention_op = Op(
    name="memory_attention",
    reference=attend,
    kernel=memory_attention_kernel,
    supports=_supports,
    variant=_variant,
    size=lambda q, k, v, *bias: f"heads={q.shape[1]} N={q.shape[2]} M={k.shape[2]}",
    check_case=_check_case,
    minimum_bytes=_minimum_bytes,
    cases=(
        _case(1, 1, 16, 52, 64, 16),
        _case(2, 1, 70, 37, 64, 16),
        _case(1, 2, 9, 5, 16, 8, 2),
        _case(2, 2, 65, 41, 24, 40),
        _case(1, 1, 33, 530, 64, 16),
        _case(1, 1, 72, 75, 256, 64),
        _case(1, 1, 40, 50, 256, 256),
        (*_case(2, 2, 33, 530, 64, 16), Tensor((2, 530), mx.float32)),
        # parts that are not alike, half of the keys left out; then a block and a whole part, the others far below zero
        (*_case(2, 1, 33, 827, 64, 16), _bias(2, 827, (0, 413))),
        (*_case(1, 1, 20, 827, 64, 16), _bias(1, 827, (32, 64), (256, 544), offset=-40)),
        (*_case(1, 1, 9, 5, 16, 8), _bias(1, 5, (0, 2))),  # fewer biases than MLX binds as `device`
        # the other variants of the published models: keys split; padded or pooled memories, split and whole
        _case(1, 1, 20, 827, 256, 64),
        _case(1, 1, 20, 411, 256, 256),
        (*_case(1, 1, 20, 827, 256, 64), _bias(1, 827, (413, 800))),
        (*_case(2, 1, 40, 75, 256, 64), _bias(2, 75, (32, 64), offset=math.log(4))),
        _case(1, 1, 1024, 7 * 1024 + 64, 256, 64),  # at 512 pixels
        _case(1, 1, 4096, 7 * 4096 + 64, 256, 64),
        _case(1, 1, 4096, 4096, 256, 256),
    ),
    preferred=_preferred,
    flops=_flops,
)


# The same kernel for the attention of the trunk to its whole grid, which MLX fuses: an op, so that the doctor compares.
global_attention_op = replace(
    memory_attention_op,
    name="global_attention",
    kernel=partial(memory_attention_kernel, name="global_attention"),
    cases=(
        _case(1, 2, 70, 37, 16, 16, 2),
        *(_case(1, 2, 40, 70, d, d, 2) for d in (96, 56, 72)),  # the published models: T and S; B+; L
        *(_case(1, 2, 20, 827, d, d, 2) for d in (96, 56, 72)),
        _case(1, 4, 4096, 4096, 96, 96, 4),
    ),
)


def global_attention(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """softmax(q k^T / sqrt(D)) v of a whole grid.

    Args:
        q, k, v: (B, heads, N, D).

    Returns:
        (B, heads, N, D), the dtype of ``q``; softmax in float32.
    """
    return global_attention_op(q, k, v)


def memory_attention(q: mx.array, k: mx.array, v: mx.array, bias: mx.array | None = None) -> mx.array:
    """softmax(q k^T / sqrt(D) + bias) v for many keys, with values narrower than the queries (memories of 64 channels).

    Args:
        q: (B, heads, N, D), rotated by ``axial_rope``.
        k: (B, heads, M, D), rotated too.
        v: (B, heads or 1, M, Dv); with 1 the heads share the values.
        bias: (B, M), added to the scores of a key; -inf excludes the key exactly. None adds nothing.

    Returns:
        (B, heads, N, Dv), the dtype of ``q``; softmax in float32.

    Raises:
        ValueError: the shapes do not fit each other.
    """
    fits = q.ndim == k.ndim == v.ndim == 4 and k.shape[:2] == q.shape[:2] and k.shape[3] == q.shape[3]
    fits = fits and (bias is None or bias.shape == (q.shape[0], k.shape[2]))
    if not fits or v.shape[0] != q.shape[0] or v.shape[1] not in (1, q.shape[1]) or v.shape[2] != k.shape[2]:
        raise ValueError(
            f"memory_attention: q {q.shape}, k {k.shape} and v {v.shape}"
            f"{'' if bias is None else f' with bias {bias.shape}'} do not fit: (B, heads, N, D), "
            "(B, heads, M, D), (B, heads or 1, M, Dv) and (B, M) are needed"
        )
    return memory_attention_op(q, k, v) if bias is None else memory_attention_op(q, k, v, bias)

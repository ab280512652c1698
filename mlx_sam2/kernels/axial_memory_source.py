"""The Metal source of ``axial_memory_attention``, and its layout."""

from __future__ import annotations

COLUMNS = 4  # of the grid: a strip, whose A stays in registers
KEYS = 8 * COLUMNS  # of a block: 8 frames of a cell in each column

# Threadgroups, simdgroups, lanes and the transposed products are those of ``memory_attention``: 64 queries, 8 for a
# simdgroup; S' = K G and O' = V' P'. The keys of one cell, one for each frame, are the 8 rows of a matrix; its right
# factor is A[., x] + B[., y] of the simdgroup's queries, whose fragments are added in registers. Rows beyond the last
# frame are zero.
#
# A threadgroup walks down strips of 4 columns. A of these columns is computed here, once for each query and column: 64
# rows of the table (W_x^T R_x^T, made of the weights) and 64 channels of the queries at a time, the same product as the
# scores'. It stays in registers (4 x M / 8 pairs of T). B is a product of MLX; its row y is read for every strip: W / 4
# times in all. Row r of fragment f is channel M / 8 r + f, so a lane reads its part of a row of B as vectors, and 2 M /
# 8 neighbouring channels of a key. Rows of keys are padded by 4 elements and those of values by 16 bytes: then the
# lanes of a read fall on all banks alike. Columns 2 k and 2 k + 1 of a block of values lie beside each other, so that
# one read serves two cells. Pointers come last, as a strip of its own: all its columns are column 0, its row is row 0.
#
# A key (2 M elements) costs 4 M operations for each of 64 queries, and a strip reads M elements of B for 4 times 8 keys
# of each query: 64 x 64, 7 memories, half precision: 38.7 GFLOP and 1.08 GB, 36 operations a byte (an M2 Max: 34). The
# keys and values are the same for all threadgroups and fit a cache (7 MB); B is not (0.5 GB). float32 moves twice as
# much, more than the 256 channels of ``memory_attention`` cost, and so is not chosen unless measured to be faster.
SOURCE = """
    using T2 = metal::vec<T, 2>;
    using T4 = metal::vec<T, 4>;
    constexpr uint F = M / 8, G = CHUNK / 8, BK = 8 * COLUMNS;
    constexpr uint VF = F < 4 ? F : 4, VG = G < 4 ? G : 4;
    using VecF = metal::vec<T, VF>;
    using VecG = metal::vec<T, VG>;
    constexpr uint LDK = M + 4, LDW = CHUNK + 4, LDV = BK + 16 / sizeof(T);
    constexpr uint FOR_KEYS = BK * LDK + M * LDV, FOR_TABLE = M * LDW;
    threadgroup T4 memory[(FOR_KEYS > FOR_TABLE ? FOR_KEYS : FOR_TABLE) / 4];
    threadgroup T* keys_block = (threadgroup T*)memory;  // and the table's rows, before the keys of a strip
    threadgroup T* values_block = keys_block + BK * LDK;

    const uint me = thread_position_in_threadgroup.x, lane = me % 32;
    const uint row = ((lane / 4) & 4) + (lane / 2) % 4, col = ((lane / 4) & 2) * 2 + (lane % 2) * 2;
    const uint N = uint(q_shape[1]), K = uint(keys_shape[1]), W = uint(table_shape[0]), H = uint(rows_shape[2]);
    const uint cells = H * W, used = uint(frames), tail = K - used * cells, parts = uint(splits);
    const uint strips = (W + COLUMNS - 1) / COLUMNS, groups = (used + 7) / 8;
    const uint item = threadgroup_position_in_grid.z / parts, part = threadgroup_position_in_grid.z % parts;
    const uint query = threadgroup_position_in_grid.y * QUERIES + me / 32 * 8 + col;  // and query + 1
    const uint from = q_shape[0] == 1 ? 0 : item * N;
    const uint first = from + metal::min(query, N - 1), second = from + metal::min(query + 1, N - 1);
    const device float* offsets_1 = offsets + first * (W + H);
    const device float* offsets_2 = offsets + second * (W + H);
    const device T* item_keys = keys + item * K * M;
    const device T* item_values = values + item * K * M;

    float2 result[F];
    #pragma clang loop unroll(full)
    for (short d = 0; d < short(F); d++) result[d] = float2(0.0f);
    const float lowest = -metal::numeric_limits<float>::max();
    float2 best = float2(lowest), total = float2(0.0f);

    const uint end = (part + 1) * strips / parts + (part + 1 == parts && tail > 0 ? 1 : 0);
    for (uint strip = part * strips / parts; strip < end; strip++) {
        const bool pointers = strip == strips;
        T2 at_column[COLUMNS][F];
        float2 column_offset[COLUMNS];
        #pragma clang loop unroll(full)
        for (short j = 0; j < COLUMNS; j++) {
            const uint x = pointers ? 0 : metal::min(strip * COLUMNS + j, W - 1);
            float2 sum[F];
            #pragma clang loop unroll(full)
            for (short f = 0; f < short(F); f++) sum[f] = float2(0.0f);
            for (uint chunk = 0; chunk < D / 2; chunk += CHUNK) {
                threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the keys or rows before
                for (uint i = me; i < M * CHUNK / 4; i += THREADS) {
                    const uint c = i / (CHUNK / 4), d = 4 * (i % (CHUNK / 4));
                    *((threadgroup T4*)(keys_block + (c % F * 8 + c / F) * LDW + d)) =
                        *((const device T4*)(table + (x * M + c) * (D / 2) + chunk + d));
                }
                threadgroup_barrier(mem_flags::mem_threadgroup);
                #pragma clang loop unroll(full)
                for (short g = 0; g < short(G / VG); g++) {
                    const VecG l = *((const device VecG*)(q + first * D + chunk + G * row + VG * g));
                    const VecG r = *((const device VecG*)(q + second * D + chunk + G * row + VG * g));
                    #pragma clang loop unroll(full)
                    for (short f = 0; f < short(F); f++) {
                        const threadgroup T* w = keys_block + (8 * f + row) * LDW + VG * g;
                        const VecG a = *((const threadgroup VecG*)(w + G * col));
                        const VecG b = *((const threadgroup VecG*)(w + G * (col + 1)));
                        simdgroup_barrier(mem_flags::mem_none);  // keeps the compiler from loading all rows first
                        #pragma clang loop unroll(full)
                        for (short e = 0; e < short(VG); e++) multiply_add<T>(sum[f], T2(a[e], b[e]), T2(l[e], r[e]));
                    }
                }
            }
            #pragma clang loop unroll(full)
            for (short f = 0; f < short(F); f++) at_column[j][f] = T2(T(sum[f].x), T(sum[f].y));
            column_offset[j] = float2(offsets_1[x], offsets_2[x]);
        }

        const uint blocks = pointers ? (tail + BK - 1) / BK : H * groups;
        for (uint block = 0; block < blocks; block++) {
            const uint y = pointers ? 0 : block / groups, base = pointers ? block * BK : block % groups * 8;
            const uint start = pointers ? used * cells + base : base * cells + y * W + strip * COLUMNS;
            threadgroup_barrier(mem_flags::mem_threadgroup);  // all are done with the block before
            for (uint i = me; i < BK * M / 4; i += THREADS) {
                const uint n = i / (M / 4), c = 4 * (i % (M / 4)), j = n / 8, t = n % 8;
                T4 x = T4(T(0));
                if (pointers ? base + n < tail : base + t < used && strip * COLUMNS + j < W)
                    x = *((const device T4*)(item_keys + (start + (pointers ? n : t * cells + j)) * M + c));
                *((threadgroup T4*)(keys_block + n * LDK + c)) = x;
            }
            for (uint i = me; i < BK / 2 * M / 2; i += THREADS) {
                const uint n = i / (M / 2) * 2, d = i % (M / 2) * 2, j = n / 8, t = n % 8;
                const device T* value = item_values + (start + (pointers ? n : t * cells + j)) * M + d;
                const uint most = pointers ? tail : used, at = base + (pointers ? n : t);
                const bool inside = pointers || strip * COLUMNS + j < W;
                T2 a = T2(T(0)), b = T2(T(0));
                if (inside && at < most) a = *((const device T2*)value);
                if (inside && at + 1 < most) b = *((const device T2*)(value + (pointers ? M : cells * M)));
                threadgroup T* to = values_block + d * LDV + j / 2 * 16 + t / 2 * 4 + j % 2 * 2;
                *((threadgroup T2*)to) = T2(a.x, b.x);
                *((threadgroup T2*)(to + LDV)) = T2(a.y, b.y);
            }
            threadgroup_barrier(mem_flags::mem_threadgroup);

            float2 score[COLUMNS];
            #pragma clang loop unroll(full)
            for (short j = 0; j < COLUMNS; j++) score[j] = float2(0.0f);
            #pragma clang loop unroll(full)
            for (short k = 0; k < short(F / VF); k++) {
                const VecF l = *((const device VecF*)(rows + (first * H + y) * M + F * row + VF * k));
                const VecF r = *((const device VecF*)(rows + (second * H + y) * M + F * row + VF * k));
                #pragma clang loop unroll(full)
                for (short j = 0; j < COLUMNS; j++) {
                    const threadgroup T* w = keys_block + (8 * j + row) * LDK + VF * k;
                    const VecF a = *((const threadgroup VecF*)(w + F * col));
                    const VecF b = *((const threadgroup VecF*)(w + F * (col + 1)));
                    simdgroup_barrier(mem_flags::mem_none);
                    #pragma clang loop unroll(full)
                    for (short e = 0; e < short(VF); e++)
                        multiply_add<T>(score[j], T2(a[e], b[e]), at_column[j][VF * k + e] + T2(l[e], r[e]));
                }
            }

            const float2 row_offset = float2(offsets_1[W + y], offsets_2[W + y]);
            float2 top = best;
            #pragma clang loop unroll(full)
            for (short j = 0; j < COLUMNS; j++) {
                const uint at = base + row + (pointers ? 8 * j : 0);
                const bool there = pointers ? at < tail : at < used && strip * COLUMNS + j < W;
                score[j] = there ? score[j] + column_offset[j] + row_offset BIAS : float2(lowest);
                top = metal::max(top, score[j]);
            }
            top = float2(rows_max(top.x), rows_max(top.y));
            const float2 shrink = exp2_of(best - top);
            best = top;
            total *= shrink;
            #pragma clang loop unroll(full)
            for (short d = 0; d < short(F); d++) result[d] *= shrink;
            #pragma clang loop unroll(full)
            for (short j = 0; j < COLUMNS; j++) {
                score[j] = exp2_of(score[j] - top);
                total += score[j];  // of this row only; all rows are summed at the end
            }
            #pragma clang loop unroll(full)
            for (short j = 0; j < COLUMNS / 2; j++) {
                simdgroup_barrier(mem_flags::mem_none);
                #pragma clang loop unroll(full)
                for (short d = 0; d < short(F); d++) {
                    const T4 a = *((const threadgroup T4*)(values_block + (8 * d + row) * LDV + 16 * j + 2 * col));
                    multiply_add<float>(result[d], float2(float(a.x), float(a.y)), score[2 * j]);
                    multiply_add<float>(result[d], float2(float(a.z), float(a.w)), score[2 * j + 1]);
                }
            }
        }
    }

    total = float2(rows_sum(total.x), rows_sum(total.y));
    #pragma clang loop unroll(full)
    for (short e = 0; e < 2; e++) {
        if (query + e < N) {
            const uint place = (part * uint(keys_shape[0]) + item) * N + query + e;
            #pragma clang loop unroll(full)
            for (short d = 0; d < short(F); d++) out[place * M + 8 * d + row] = U(result[d][e] / total[e]);
            if (row == 0) weight[place] = best[e] + metal::log2(total[e]);
        }
    }
"""

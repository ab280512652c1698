"""Attention inside the windows (mask units) of Hiera (official ``modeling/backbones/``; arXiv 2306.00989)."""

from __future__ import annotations

import mlx.core as mx

from ..text import dtype_name
from .attention import attend
from .dispatch import Op, Tensor, metal_kernel
from .mask_unit_layout import layout
from .windows import max_pool, window_partition, window_unpartition

MAX_ELEMENTS = 1 << 31  # offsets are 32-bit
MAX_HEAD_DIM, MAX_WINDOW = 256, 64

# A unit is one head of one window. Each simdgroup has 8 of its queries and keeps them and their sums in registers: with
# D = 96 that is 24 + 24 a lane in float32 and 12 + 24 in half, as in MLX's own attention. The simdgroups of a unit
# share its keys and values, which pass through threadgroup memory in blocks of 8 * FRAGMENTS tokens, read by
# neighbouring threads in runs of D elements. The softmax is online, in float32, and both products run on 8x8 simdgroup
# matrices. Keys and values have a buffer each, so that two barriers a block suffice: the values arrive while scores are
# computed, the next keys while values are summed. A threadgroup takes several units of a small window: neighbouring
# heads. `layout` chooses the numbers.
#
# Nothing is partitioned, padded or put back: tokens are read where the projection left them and written where the
# output wants them. Places outside the grid are tokens whose key is the bias, all alike: one key stands for all n of
# them, its score raised by log(n). Their queries are never wanted: pooling drops a cell that lies across the edge.
#
# The channels of a dot product may come in any order. Lane (fm, fn) of a matrix holds [fm][fn] and [fm][fn + 1]; two
# matrices together take 16 channels, the first the even ones and the second the odd ones. So a lane reads 4 neighbours
# of a query and 2 of a key, and keys lie as they came, without transposition. A row in threadgroup memory is an odd
# number of 16-byte units, which spreads these reads evenly over the banks. Values and sums go 4 neighbours to a lane.
HEADER = """
#define UNROLL _Pragma("clang loop unroll(full)")

template <typename T, int D, int ROW, int BLOCK, int THREADS>
METAL_FUNC void stage(
    threadgroup T* to, const device T* grid, const device T* outside, uint stride, uint grid_width, uint width,
    uint inside, uint keys, uint first, uint thread_index) {
    using T4 = metal::vec<T, 4>;
    const float per_row = 1.0f / float(width);
    const uint count = first < keys ? metal::min(uint(BLOCK), (keys - first + 7) / 8 * 8) : 0;
    for (uint e = thread_index; e < count * (D / 4); e += THREADS) {
        const uint slot = e / (D / 4), channel = 4 * (e % (D / 4)), key = first + slot;
        T4 value = T4(T(0));  // no key: its score is masked, and its value must be a number
        if (key < inside) {
            const uint y = uint((float(key) + 0.5f) * per_row), x = key - y * width;
            value = *(const device T4*)(grid + (y * grid_width + x) * stride + channel);
        } else if (key < keys) {
            value = *(const device T4*)(outside + channel);
        }
        *(threadgroup T4*)(to + slot * ROW + channel) = value;
    }
}

METAL_FUNC void multiply_add(thread float2& sum, float2 a, float2 b) {
    metal::simdgroup_matrix<float, 8, 8> left, right, total;
    UNROLL for (int i = 0; i < 2; i++) {
        left.thread_elements()[i] = a[i];
        right.thread_elements()[i] = b[i];
        total.thread_elements()[i] = sum[i];
    }
    simdgroup_multiply_accumulate(total, left, right, total);
    sum = float2(total.thread_elements()[0], total.thread_elements()[1]);
}
"""
SOURCE = """
    using T2 = metal::vec<T, 2>;
    using T4 = metal::vec<T, 4>;
    constexpr int ROW = D * sizeof(T) % 32 == 0 ? D + 16 / sizeof(T) : D;
    constexpr int BLOCK = 8 * FRAGMENTS, PAIRS = D / 16, THREADS = 32 * SIMDGROUPS, OUT = WINDOW / STRIDE;
    threadgroup T4 key_memory[UNITS * BLOCK * ROW / 4];
    threadgroup T4 value_memory[UNITS * BLOCK * ROW / 4];

    // which unit, and where it lies
    const uint lane = thread_index_in_simdgroup;
    const uint local = simdgroup_index_in_threadgroup / SIMDGROUPS, mine = simdgroup_index_in_threadgroup % SIMDGROUPS;
    const uint H = uint(qkv_shape[1]), W = uint(qkv_shape[2]), stride = uint(qkv_shape[3]), C = stride / 3;
    const uint heads = C / D, out_h = H / STRIDE, out_w = W / STRIDE;
    const uint rows = (out_h + OUT - 1) / OUT, columns = (out_w + OUT - 1) / OUT;
    const uint unit = threadgroup_position_in_grid.y * UNITS + local;
    const bool exists = unit < uint(qkv_shape[0]) * rows * columns * heads;
    const uint head = unit % heads, window = unit / heads;
    const uint window_x = window % columns, window_y = window / columns % rows, item = window / (columns * rows);
    const uint width = metal::min(uint(WINDOW), W - window_x * WINDOW);
    const uint height = metal::min(uint(WINDOW), H - window_y * WINDOW);
    const uint out_width = metal::min(uint(OUT), out_w - window_x * OUT);
    const uint out_height = metal::min(uint(OUT), out_h - window_y * OUT);
    const uint inside = exists ? width * height : 0, outside = WINDOW * WINDOW - inside;
    const uint keys = exists ? inside + metal::min(outside, 1u) : 0;
    const uint queries = exists ? out_width * out_height : 0;
    const device T* corner = qkv + ((item * H + window_y * WINDOW) * W + window_x * WINDOW) * stride + head * D;
    const device T* k = corner + C;
    const device T* k_outside = bias + C + head * D;
    if (UNITS == 1 && threadgroup_position_in_grid.x * SIMDGROUPS * 8 >= queries) return;

    // lane (fm, fn) of an 8x8 matrix, as in MLX's steel kernels
    const uint quad = lane / 4, fm = (quad & 4) + (lane / 2) % 4, fn = (quad & 2) * 2 + (lane % 2) * 2;
    const uint first_query = (threadgroup_position_in_grid.x * SIMDGROUPS + mine) * 8, query = first_query + fm;
    const bool active = first_query < queries, wanted = query < queries;
    const uint query_y = query / out_width, query_x = query % out_width;

    // a query is the largest of STRIDE x STRIDE tokens, channel by channel
    T4 q[PAIRS > 0 ? PAIRS : 1];
    T2 q_tail = T2(T(0));
    UNROLL for (int p = 0; p < PAIRS; p++) q[p] = T4(T(0));
    if (wanted) {
        for (uint cell = 0; cell < STRIDE * STRIDE; cell++) {
            const device T* token = corner + 2 * fn +
                ((query_y * STRIDE + cell / STRIDE) * W + query_x * STRIDE + cell % STRIDE) * stride;
            UNROLL for (int p = 0; p < PAIRS; p++) {
                const T4 v = *(const device T4*)(token + 16 * p);
                UNROLL for (int i = 0; i < 4; i++)
                    q[p][i] = cell == 0 ? v[i] : T(metal::max(float(q[p][i]), float(v[i])));
            }
            if (D % 16) {
                const T2 v = *(const device T2*)(token - fn + 16 * PAIRS);
                UNROLL for (int i = 0; i < 2; i++)
                    q_tail[i] = cell == 0 ? v[i] : T(metal::max(float(q_tail[i]), float(v[i])));
            }
        }
    }

    threadgroup T* K = (threadgroup T*)key_memory + local * BLOCK * ROW;
    threadgroup T* V = (threadgroup T*)value_memory + local * BLOCK * ROW;
    const uint here = mine * 32 + lane;
    const uint blocks = UNITS == 1 ? (keys + BLOCK - 1) / BLOCK : (WINDOW * WINDOW + BLOCK - 1) / BLOCK;
    const float scale = metal::precise::rsqrt(float(D)) * M_LOG2E_F;
    const float weight = metal::precise::log2(float(metal::max(outside, 1u)));
    float highest = -3.0e38f, total = 0.0f;  // of row fm; the total of this lane's columns only
    float2 s[FRAGMENTS], o[D / 8];
    UNROLL for (int i = 0; i < D / 8; i++) o[i] = float2(0.0f);

    stage<T, D, ROW, BLOCK, THREADS>(K, k, k_outside, stride, W, width, inside, keys, 0, here);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint block = 0; block < blocks; block++) {
        const uint first = block * BLOCK;
        const uint fragments = first < keys ? metal::min(uint(FRAGMENTS), (keys - first + 7) / 8) : 0;
        stage<T, D, ROW, BLOCK, THREADS>(V, k + C, k_outside + C, stride, W, width, inside, keys, first, here);

        if (active && fragments > 0) {
            UNROLL for (int j = 0; j < FRAGMENTS; j++) s[j] = float2(0.0f);
            UNROLL for (int p = 0; p < PAIRS; p++) {
                const float2 even = float2(float(q[p].x), float(q[p].z));
                const float2 odd = float2(float(q[p].y), float(q[p].w));
                simdgroup_barrier(mem_flags::mem_none);  // as in steel: loads stay near their use, registers stay few
                UNROLL for (int j = 0; j < FRAGMENTS; j++) {
                    if (uint(j) >= fragments) continue;
                    threadgroup T* at = K + (8 * j + fn) * ROW + 16 * p + 2 * fm;
                    const T2 a = *(threadgroup T2*)at, b = *(threadgroup T2*)(at + ROW);
                    multiply_add(s[j], even, float2(float(a.x), float(b.x)));
                    multiply_add(s[j], odd, float2(float(a.y), float(b.y)));
                }
            }
            if (D % 16) {
                const float2 tail = float2(float(q_tail.x), float(q_tail.y));
                UNROLL for (int j = 0; j < FRAGMENTS; j++) {
                    if (uint(j) >= fragments) continue;
                    threadgroup T* at = K + (8 * j + fn) * ROW + 16 * PAIRS + fm;
                    multiply_add(s[j], tail, float2(float(at[0]), float(at[ROW])));
                }
            }
            float top = highest;
            UNROLL for (int j = 0; j < FRAGMENTS; j++) {
                UNROLL for (int i = 0; i < 2; i++) {
                    const uint key = first + 8 * j + fn + i;
                    s[j][i] = key < keys ? s[j][i] * scale + (key < inside ? 0.0f : weight) : -3.0e38f;
                    top = metal::max(top, s[j][i]);
                }
            }
            top = metal::max(top, simd_shuffle_xor(top, ushort(1)));
            top = metal::max(top, simd_shuffle_xor(top, ushort(8)));
            const float shrink = metal::fast::exp2(highest - top);
            highest = top;
            total *= shrink;
            UNROLL for (int j = 0; j < FRAGMENTS; j++) {
                s[j] = float2(metal::fast::exp2(s[j].x - top), metal::fast::exp2(s[j].y - top));
                total += s[j].x + s[j].y;
            }
            UNROLL for (int i = 0; i < D / 8; i++) o[i] *= shrink;
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);  // the values are there, and the keys are done with
        stage<T, D, ROW, BLOCK, THREADS>(K, k, k_outside, stride, W, width, inside, keys, first + BLOCK, here);

        if (active && fragments > 0) {
            UNROLL for (int j = 0; j < FRAGMENTS; j++) {
                if (uint(j) >= fragments) continue;
                simdgroup_barrier(mem_flags::mem_none);
                threadgroup T* at = V + (8 * j + fm) * ROW + 2 * fn;
                UNROLL for (int p = 0; p < PAIRS; p++) {
                    const T4 v = *(threadgroup T4*)(at + 16 * p);
                    multiply_add(o[2 * p], s[j], float2(float(v.x), float(v.y)));
                    multiply_add(o[2 * p + 1], s[j], float2(float(v.z), float(v.w)));
                }
                if (D % 16) {
                    const T2 v = *(threadgroup T2*)(at - fn + 16 * PAIRS);
                    multiply_add(o[D / 8 - 1], s[j], float2(float(v.x), float(v.y)));
                }
            }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);  // the next keys are there, and the values are done with
    }

    total += simd_shuffle_xor(total, ushort(1));
    total += simd_shuffle_xor(total, ushort(8));
    if (!wanted) return;
    const float share = 1.0f / total;
    device T* to = out + head * D + 2 * fn +
        ((item * out_h + window_y * OUT + query_y) * out_w + window_x * OUT + query_x) * C;
    UNROLL for (int p = 0; p < PAIRS; p++) {
        const float2 a = o[2 * p] * share, b = o[2 * p + 1] * share;
        *(device T4*)(to + 16 * p) = T4(T(a.x), T(a.y), T(b.x), T(b.y));
    }
    if (D % 16) {
        const float2 a = o[D / 8 - 1] * share;
        *(device T2*)(to - fn + 16 * PAIRS) = T2(T(a.x), T(a.y));
    }
"""


def mask_unit_attention_reference(
    qkv: mx.array, bias: mx.array, num_heads: int, window: int, q_stride: int
) -> mx.array:
    _, h, w, channels = qkv.shape
    units = window_partition(qkv, window, bias)
    q, k, v = mx.split(units, 3, axis=-1)  # each (B * windows, window, window, C)
    if q_stride > 1:
        q = max_pool(q, q_stride)
    n, side = len(units), window // q_stride
    q, k, v = (x.reshape(n, -1, num_heads, channels // 3 // num_heads).swapaxes(1, 2) for x in (q, k, v))
    x = attend(q, k, v).swapaxes(1, 2).reshape(n, side, side, channels // 3)
    return window_unpartition(x, -(-h // window), -(-w // window), h // q_stride, w // q_stride)


def _windows(height: int, width: int, window: int, q_stride: int) -> tuple[int, int]:
    """Rows and columns of windows with queries: all, unless pooling drops the last token at an edge."""
    side = window // q_stride
    return -(-(height // q_stride) // side), -(-(width // q_stride) // side)


def mask_unit_attention_kernel(qkv: mx.array, bias: mx.array, num_heads: int, window: int, q_stride: int) -> mx.array:
    b, h, w, channels = qkv.shape
    head_dim = channels // 3 // num_heads
    simdgroups, splits, fragments, units, _ = layout(head_dim, window, q_stride, qkv.dtype.size)
    rows, columns = _windows(h, w, window, q_stride)
    kernel = metal_kernel("mask_unit_attention", ("qkv", "bias"), ("out",), SOURCE, HEADER)
    threads = 32 * simdgroups * units
    constants = {"D": head_dim, "WINDOW": window, "STRIDE": q_stride, "SIMDGROUPS": simdgroups}
    (out,) = kernel(
        inputs=[qkv, bias],
        template=[("T", qkv.dtype), *constants.items(), ("FRAGMENTS", fragments), ("UNITS", units)],
        grid=(threads * splits, -(-b * rows * columns * num_heads // units), 1),
        threadgroup=(threads, 1, 1),
        output_shapes=[(b, h // q_stride, w // q_stride, channels // 3)],
        output_dtypes=[qkv.dtype],
    )
    return out


def _supports(qkv: mx.array, bias: mx.array, num_heads: int, window: int, q_stride: int) -> bool:
    head_dim = qkv.shape[-1] // 3 // num_heads
    fits = head_dim % 8 == 0 and head_dim <= MAX_HEAD_DIM and window <= MAX_WINDOW
    some = min(qkv.shape[1:3]) >= q_stride and 0 < qkv.size < MAX_ELEMENTS
    return qkv.dtype in (mx.float32, mx.float16, mx.bfloat16) and bias.dtype == qkv.dtype and fits and some


def _preferred(qkv: mx.array, bias: mx.array, num_heads: int, window: int, q_stride: int) -> bool:
    """Whether the kernel moves fewer bytes than MLX's operations.

    In units of B * H * W * C elements the kernel reads 1 of queries and 2 of keys and values for each threadgroup that
    shares a window, and writes 1, in one launch. MLX's way partitions 3 (3 read, 3 written; as much again to fill a
    ragged edge), attends (3 read, 1 written) and puts 1 back (1 read, 1 written): 12 to 24, in 3 to 7 launches. Beyond
    a head dim of 128 the sums no longer fit the registers.
    """
    head_dim = qkv.shape[-1] // 3 // num_heads
    return 2 + 2 * layout(head_dim, window, q_stride, qkv.dtype.size).splits < 12 and head_dim <= 128


def _minimum_bytes(qkv: mx.array, bias: mx.array, num_heads: int, window: int, q_stride: int) -> int:
    b, h, w, channels = qkv.shape
    rows, columns = _windows(h, w, window, q_stride)
    tokens = min(rows * window, h) * min(columns * window, w)  # keys and values
    cells = (h // q_stride) * (w // q_stride)
    beyond = 2 if h % window or w % window else 0
    elements = b * (2 * tokens + q_stride**2 * cells + cells) + beyond
    return elements * channels // 3 * qkv.dtype.size


def _variant(qkv: mx.array, bias: mx.array, num_heads: int, window: int, q_stride: int) -> str:
    dtype, head_dim = dtype_name(qkv.dtype), qkv.shape[-1] // 3 // num_heads
    return f"{dtype} D={head_dim} window={window} q_stride={q_stride}"


def _check_case(qkv: mx.array, bias: mx.array, num_heads: int, window: int, q_stride: int) -> tuple[object, ...]:
    """Two heads, a whole window and one that lies mostly outside the grid."""
    channels = 3 * 2 * (qkv.shape[-1] // 3 // num_heads)
    return Tensor((1, window, window + q_stride, channels)), Tensor((channels,)), 2, window, q_stride


def _case(*shape: int, heads: int, window: int, q_stride: int = 1) -> tuple[object, ...]:
    """(B, H, W, D) as arguments."""
    b, h, w, d = shape
    return Tensor((b, h, w, 3 * heads * d)), Tensor((3 * heads * d,)), heads, window, q_stride


# the blocks of the published models, on a few windows of their grids; at 512 pixels the third stage has 32x32 tokens
PUBLISHED = tuple(
    case
    for head_dim, heads, third, fourth in ((96, 1, 14, 7), (56, 2, 14, 7), (72, 2, 16, 8))  # T and S; B+; L
    for case in (
        _case(1, 16, 24, head_dim, heads=heads, window=8),
        _case(1, 16, 24, head_dim, heads=2 * heads, window=8, q_stride=2),
        _case(1, 16, 16, head_dim, heads=2 * heads, window=4),
        _case(1, 16, 16, head_dim, heads=4 * heads, window=4, q_stride=2),
        _case(1, 64, 64, head_dim, heads=1, window=third),
        _case(1, 32, 32, head_dim, heads=1, window=third),
        _case(1, 22, 22, head_dim, heads=8 * heads, window=third, q_stride=2),
        _case(1, 11, 11, head_dim, heads=8 * heads, window=fourth),
    )
)

mask_unit_attention_op = Op(
    name="mask_unit_attention",
    reference=mask_unit_attention_reference,
    kernel=mask_unit_attention_kernel,
    supports=_supports,
    variant=_variant,
    size=lambda qkv, bias, num_heads, *rest: f"grid={qkv.shape[1]}x{qkv.shape[2]} heads={num_heads}",
    check_case=_check_case,
    minimum_bytes=_minimum_bytes,
    preferred=_preferred,
    flops=lambda qkv, bias, num_heads, window, q_stride: 4 * qkv.size // 3 * (window // q_stride) ** 2,
    cases=(  # of (B, H, W, D), head by head
        _case(2, 9, 6, 8, heads=3, window=4),
        _case(1, 11, 5, 24, heads=2, window=4, q_stride=2),
        _case(1, 3, 10, 16, heads=1, window=7),
        _case(1, 15, 16, 24, heads=1, window=14),
        _case(1, 16, 14, 16, heads=1, window=14, q_stride=2),
        *PUBLISHED,
    ),
)


def mask_unit_attention(qkv: mx.array, bias: mx.array, num_heads: int, window: int, q_stride: int = 1) -> mx.array:
    """Attention within each window of a grid, from the fused projection to its output, grid to grid.

    Args:
        qkv: (B, H, W, 3 * C): queries, keys and values, each of them head by head.
        bias: (3 * C,), the bias of the projection. The last windows of a row or column may reach beyond the grid; the
            places there have this q, k and v (projected zeros) and take part in the attention.
        num_heads: heads; C is a multiple of it.
        window: side of a window in tokens.
        q_stride: side of the cells over which queries are max-pooled; it divides the window. 1 pools nothing.

    Returns:
        (B, H // q_stride, W // q_stride, C), the dtype of ``qkv``; softmax in float32.

    Raises:
        ValueError: the shapes or ``q_stride`` do not fit.
    """
    channels = qkv.shape[-1]
    some = min(num_heads, window, q_stride) >= 1
    if not some or channels % (3 * num_heads) or bias.shape != (channels,) or window % q_stride:
        raise ValueError(
            f"mask_unit_attention: {channels} channels and a bias of {bias.shape} with {num_heads} heads, window "
            f"{window} and q_stride {q_stride} do not fit: channels are q, k and v of every head, the bias has as "
            "many, and q_stride divides the window"
        )
    return mask_unit_attention_op(qkv, bias.astype(qkv.dtype), num_heads, window, q_stride)

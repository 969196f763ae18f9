/* SPDX-License-Identifier: Apache-2.0
 *
 * A head's vector in a warp's registers, element lane + 32 j: its norm, its rotary turn, its number format in
 * the cache. Used where queries, keys and values come from (qkv.cu) and by decode attention, which does it
 * itself where rows are few.
 *
 * FP8: a value's scale brings its largest element to 448; a key's is the best of 32 within an octave by
 * squared error, with 11 bits, which FP16 has too, weighted by the token's own squared queries
 * (docs/notes/kv-fp8.md: only keys matter), and a few of its elements then go to their code on the other
 * side, both as on a CPU (cpu/kvscale.h, ops/kv_fp8.h) but for the 11 bits. A vector below 2^-100 is stored
 * as zeros, one that is not finite gets the scale NaN. Where the checkpoint has scales of its own they stand
 * in their place.
 *
 * What lies in an FP8 or BF16 page is a number but for keys and scales: attention multiplies values that a
 * row does not see by 0. So a BF16 value that is not finite is stored as zeros, and its key as NaN.
 */
#ifndef CUDA_HEADS_CUH
#define CUDA_HEADS_CUH

#include "cuda/gpu/any/kernel.cuh"
#include "ops/kv_fp8.h"

/* Element lane + 32 j of a vector [d] at element AT; zeros past its end. */
template <int E, bool BF16 = false>
__device__ __forceinline__ void load_vector(float (&x)[E], const void *from, size_t at, int d, int lane) {
#pragma unroll
    for (int j = 0; j < E; j++) {
        const size_t i = at + lane + 32 * j;
        x[j] = lane + 32 * j >= d ? 0
               : BF16             ? __bfloat162float(((const __nv_bfloat16 *)from)[i])
                                  : ((const float *)from)[i];
    }
}

template <int E> __device__ __forceinline__ void norm(float (&x)[E], const float (&w)[E], float eps, int d) {
    float squares = 0;
#pragma unroll
    for (int j = 0; j < E; j++)
        squares += x[j] * x[j];
    const float mean = warp_sum(squares) / (float)d + eps;
    float factor = rsqrtf(mean);
    factor *= 1.5f - 0.5f * mean * factor * factor; /* Newton: the last bits */
#pragma unroll
    for (int j = 0; j < E; j++)
        x[j] = x[j] * factor * w[j];
}

/* (a, b) -> (a cos - b sin, b cos + a sin); pairs (2i, 2i+1) or (i, i + n): what a lane's elements need, the
 * same for every vector. */
template <int E> struct turn {
    float own[E], other[E];
    int at[E]; /* of the other one */

    __device__ __forceinline__ void open(const float *cosines, const float *sines, int n, bool interleaved,
                                         int lane) {
#pragma unroll
        for (int j = 0; j < E; j++) {
            const int i = lane + 32 * j;
            const bool turns = i < 2 * n, second = interleaved ? i & 1 : i >= n;
            const int pair = !turns ? 0 : interleaved ? i / 2 : second ? i - n : i;
            at[j] = !turns ? i : interleaved ? i ^ 1 : second ? i - n : i + n;
            own[j] = turns ? cosines[pair] : 1;
            other[j] = !turns ? 0 : second ? sines[pair] : -sines[pair];
        }
    }

    /* ROOM [32 E]: the warp's. */
    __device__ __forceinline__ void apply(float (&x)[E], float *room, int lane) const {
#pragma unroll
        for (int j = 0; j < E; j++)
            room[lane + 32 * j] = x[j];
        __syncwarp();
#pragma unroll
        for (int j = 0; j < E; j++)
            x[j] = x[j] * own[j] + room[at[j]] * other[j];
        __syncwarp();
    }
};

/* What a key's mistakes meet, from its group's queries in their order: the sums of their squares and of
 * themselves, and what brings the former to a mean of 1. Roundings are written out. */
template <int E> struct gauge {
    float squares[E], sum[E], shares;

    __device__ __forceinline__ void add(int j, float q) {
        squares[j] = __fadd_rn(squares[j], __fmul_rn(q, q));
        sum[j] = __fadd_rn(sum[j], q);
    }

    /* When all queries are in. */
    __device__ __forceinline__ void close(int d) {
        float all = 0;
#pragma unroll
        for (int j = 0; j < E; j++)
            all += squares[j];
        shares = __fdividef((float)d, warp_sum(all));
    }
};

/* What the key of KV head HEAD at POSITION is stored less, [head_dim]; NULL: nothing. */
__device__ __forceinline__ const float *key_mean(const attn_view &p, int head, int position) {
    return p.k_mean && position > 0 ? p.k_mean + (size_t)head * p.head_dim : nullptr;
}

/* What queries at POSITION are multiplied by. */
__device__ __forceinline__ float query_growth(const attn_view &p, int position) {
    return p.query_log == 0 ? 1.0f : 1.0f + p.query_log * logf((float)(1 + position / p.query_log_len));
}

/* ---- the scale of a key ----
 *
 * A lane's scale is lane_step(lane) times the one that brings the largest element to 448. Their errors are
 * products of the tensor cores: squared mistakes [32 scales, 32 dimensions] times the dimensions' weights.
 * Mistakes are FP16's, 1 / 64 of one at worst beside the true one, sums FP32: so much decides between scales
 * that are as good as each other. Roundings are written out: whoever looks for a scale finds the same one. */

__device__ __forceinline__ float lane_step(int lane) {
    return 1.0f + (float)lane / 32;
}

/* What the scaled elements are multiplied by in the four rows of a product that a lane has, those of the
 * steps 4 (lane / 4) .. + 3: FP16, twice. */
__device__ __forceinline__ void row_factors(__half2 (&factors)[4], int lane) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        factors[i] = __float2half2_rn(__fdividef(1.0f, lane_step(lane / 4 * 4 + i)));
}

/* Of two elements, |x factor| <= 448: (v^ - v)^2, v^ with 3 bits of fraction: 1.5 * 2^7 times v's power of
 * two pushes out the others. What E4M3 has below 2^-6 is not looked at. */
__device__ __forceinline__ uint32_t squared_mistakes(__half2 x, __half2 factor) {
    const __half2 v = __hmul2_rn(x, factor), push = __float2half2_rn(192);
    const uint32_t bits = *(const uint32_t *)&v & 0x7c007c00u;
    const __half2 power = *(const __half2 *)&bits;
    const __half2 e = __hsub2_rn(__hfma2(power, __hneg2(push), __hfma2(power, push, v)), v);
    const __half2 square = __hmul2_rn(e, e);
    return *(const uint32_t *)&square;
}

/* What a mistake in an element weighs is W, what UNIT makes of it X: both in FP16. SHARES: of a weight. */
__device__ __forceinline__ uint32_t weighed(float x, float unit, float w, float shares) {
    const __half2 both = __floats2half2_rn(__fmul_rn(x, unit), __fmaf_rn(w, shares, KV_FP8_MEAN_SHARE));
    return *(const uint32_t *)&both;
}

/* The error that 32 elements, a lane's MINE as weighed() has it, make under the lane's scale, beside which
 * errors of other scales are in units of their squares. Rolled: where a row is made alone every line of code
 * is new, and comes slower than it runs. */
__device__ __forceinline__ float lane_error(uint32_t mine, const __half2 (&factors)[4], int lane) {
    float sums[2][4] = {};
#pragma unroll 1
    for (int half = 0; half < 32; half += 16) {
        uint32_t from[4], x[2], w[2];
#pragma unroll
        for (int i = 0; i < 4; i++)
            from[i] = __shfl_sync(~0u, mine, half + 4 * (lane & 3) + i);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            x[i] = __byte_perm(from[2 * i], from[2 * i + 1], 0x5410);
            w[i] = __byte_perm(from[2 * i], from[2 * i + 1], 0x7632);
        }
        const __half2 a = *(const __half2 *)&x[0], b = *(const __half2 *)&x[1];
#pragma unroll
        for (int i = 0; i < 2; i++)
            mma_f16(sums[i], squared_mistakes(a, factors[2 * i]), squared_mistakes(a, factors[2 * i + 1]),
                    squared_mistakes(b, factors[2 * i]), squared_mistakes(b, factors[2 * i + 1]), w[0], w[1]);
    }
    const float lower = lane & 1 ? sums[0][2] : sums[0][0], upper = lane & 1 ? sums[1][2] : sums[1][0];
    return lane & 2 ? upper : lower;
}

/* The step of the lane with the smallest ERROR, the same for all lanes; the first one where none is a number.
 */
__device__ __forceinline__ float least_step(float error, int lane) {
    const float step = lane_step(lane);
    const uint32_t bits = __float_as_uint(__fmul_rn(error, __fmul_rn(step, step)));
    return lane_step(__ffs(__ballot_sync(~0u, bits == __reduce_min_sync(~0u, bits))) - 1);
}

/* What brings MOST to 448, but for its last bit; 0 above 2^126, where all steps then are alike. */
__device__ __forceinline__ float unit_of(float most) {
    return __fdividef(448.0f, most);
}

/* The step of the key X, whose largest magnitude is MOST. */
template <int E>
static __device__ float best_step(const float (&x)[E], const gauge<E> &of, float most, int lane) {
    __half2 factors[4];
    row_factors(factors, lane);
    float error = 0;
#pragma unroll
    for (int j = 0; j < E; j++)
        error = __fadd_rn(error,
                          lane_error(weighed(x[j], unit_of(most), of.squares[j], of.shares), factors, lane));
    return least_step(error, lane);
}

/* A vector as the cache stores it: element lane + 32 j; FP8 codes with their scale or BF16. */
template <int E> struct coded {
    uint32_t code[E];
    float scale;
};

/* What taking the code on its other side changes for one element of a key: in the sum of along * e, and in
 * the rest of what is to be small. */
typedef struct other_side {
    uint32_t code;
    float turn, cost;
} other_side;

/* V has CODE, E beside it. */
__device__ __forceinline__ other_side other_side_of(float v, uint32_t code, float weight, float along,
                                                    float *e) {
    const float near = from_e4m3((uint8_t)code);
    const uint32_t beside = (code & 0x7f) + (fabsf(v) >= fabsf(near) ? 1 : -1);
    const float there = from_e4m3((uint8_t)(code & 0x80 | beside)), other = __fsub_rn(there, v);
    *e = __fsub_rn(near, v);
    other_side way = {code & 0x80 | beside, __fmul_rn(along, __fsub_rn(there, near)), INFINITY};
    if (beside < 0x7f) /* else NaN */
        way.cost = __fmaf_rn(weight, __fsub_rn(__fmul_rn(other, other), __fmul_rn(*e, *e)),
                             __fmul_rn(way.turn, way.turn));
    return way;
}

/* KV_FP8_TURNS elements at most of the key X, whose codes are the nearest under 1 / FACTOR, go to their other
 * side, one after the other the one that makes sum w e^2 + KV_FP8_SUM_SHARE / GROUP (sum q e)^2 smallest. */
template <int E>
static __device__ __forceinline__ void steer(coded<E> &to, const float (&x)[E], float factor,
                                             const gauge<E> &of, int group, int lane) {
    const float part = sqrtf(__fdividef(__fmul_rn(KV_FP8_SUM_SHARE, of.shares), (float)group));
    other_side ways[E];
    float s = 0;
#pragma unroll
    for (int j = 0; j < E; j++) {
        float e;
        const float along = __fmul_rn(of.sum[j], part);
        ways[j] = other_side_of(__fmul_rn(x[j], factor), to.code[j],
                                __fmaf_rn(of.squares[j], of.shares, KV_FP8_MEAN_SHARE), along, &e);
        s = __fmaf_rn(along, e, s);
    }
    s = warp_sum(s);
#pragma unroll 1
    for (int i = 0; i < KV_FP8_TURNS; i++) {
        float least = 0, turn = 0;
        int at = -1;
#pragma unroll
        for (int j = 0; j < E; j++) {
            const float change = __fmaf_rn(2 * s, ways[j].turn, ways[j].cost);
            if (change < least)
                least = change, turn = ways[j].turn, at = j;
        }
        const uint32_t gain = __float_as_uint(-least), most = __reduce_max_sync(~0u, at < 0 ? 0 : gain);
        if (most == 0)
            return;
        const int winner = __ffs(__ballot_sync(~0u, at >= 0 && gain == most)) - 1;
        s = __fadd_rn(s, __shfl_sync(~0u, turn, winner));
#pragma unroll
        for (int j = 0; j < E; j++)
            if (lane == winner && j == at)
                to.code[j] = ways[j].code, ways[j].cost = INFINITY;
    }
}

/* The bits of the largest |x|: their order is that of the values, and NaN is the largest. */
template <int E> __device__ __forceinline__ uint32_t largest_bits(const float (&x)[E]) {
    uint32_t bits = 0;
#pragma unroll
    for (int j = 0; j < E; j++)
        bits = max(bits, __float_as_uint(x[j]) & 0x7fffffffu);
    return __reduce_max_sync(~0u, bits);
}

/* X > 0 with 11 bits. */
__device__ __forceinline__ float fp16_bits(float x) {
    return __uint_as_float((__float_as_uint(x) + 0x1000) & 0xffffe000u);
}

/* X in E4M3, and its scale; MOST_BITS: of its largest magnitude. OF a key, and FIT(most), the step that suits
 * it. */
template <int E, class Fit>
static __device__ __forceinline__ coded<E> encode_fp8(const attn_view &p, bool is_k, const float (&x)[E],
                                                      uint32_t most_bits, const gauge<E> &of, const Fit &fit,
                                                      int lane) {
    coded<E> to;
    const float most = __uint_as_float(most_bits), fixed = is_k ? p.k_scale : p.v_scale;
    const bool finite = most_bits < 0x7f800000u, sound = finite && most >= 0x1p-100f;
    float scale = most / 448.0f;
    if (fixed != 0)
        scale = fixed;
    else if (is_k && sound)
        scale = fp16_bits(scale * fit(most));
    const float factor = sound ? 1.0f / scale : 0;
#pragma unroll
    for (int j = 0; j < E; j++)
        to.code[j] = sound ? to_e4m3(x[j] * factor) : 0;
    if (is_k && sound && fixed == 0)
        steer<E>(to, x, factor, of, p.n_heads / p.n_kv_heads, lane);
    to.scale = sound ? scale : finite ? 0.0f : __uint_as_float(0x7fc00000u);
    return to;
}

/* X as FORMAT, FP8 or BF16, has it; the scale is NaN where a value is not finite. OF: a key's. */
template <int E>
static __device__ coded<E> encode(const attn_view &p, kv_format format, bool is_k, const float (&x)[E],
                                  const gauge<E> &of, int lane) {
    if (format == KV_FP8)
        return encode_fp8<E>(
            p, is_k, x, largest_bits<E>(x), of, [&](float most) { return best_step<E>(x, of, most, lane); },
            lane);
    coded<E> to = {};
    bool finite = true;
#pragma unroll
    for (int j = 0; j < E; j++) {
        to.code[j] = __bfloat16_as_ushort(__float2bfloat16_rn(x[j]));
        finite = finite && (to.code[j] & 0x7f80) != 0x7f80;
    }
    if (is_k || __all_sync(~0u, finite))
        return to;
#pragma unroll
    for (int j = 0; j < E; j++)
        to.code[j] = 0;
    to.scale = __uint_as_float(0x7fc00000u);
    return to;
}

/* X's elements at TO, D of them; its scale, of FP8, at SCALE. */
template <int E>
static __device__ void put_coded(const coded<E> &x, kv_format format, void *to, float *scale, int d,
                                 int lane) {
#pragma unroll
    for (int j = 0; j < E; j++) {
        const int i = lane + 32 * j;
        if (i < d && format == KV_FP8)
            ((uint8_t *)to)[i] = (uint8_t)x.code[j];
        else if (i < d)
            ((uint16_t *)to)[i] = (uint16_t)x.code[j];
    }
    if (lane == 0 && format == KV_FP8)
        *scale = x.scale;
}

/* The same into token cell CELL of keys or values. */
template <int E>
static __device__ void put_cell(const coded<E> &x, const kv_view &kv, bool is_k, size_t cell, int d,
                                int lane) {
    const size_t bytes = kv.format == KV_FP8 ? 1 : 2;
    put_coded<E>(x, kv.format, (uint8_t *)(is_k ? kv.k : kv.v) + cell * d * bytes,
                 kv.format == KV_FP8 ? (is_k ? kv.k_scales : kv.v_scales) + cell : nullptr, d, lane);
}

/* X into token cell CELL of keys or values; false where its key has to tell that it is lost. */
template <int E>
static __device__ bool store(const attn_view &p, const kv_view &kv, bool is_k, size_t cell,
                             const float (&x)[E], const gauge<E> &of, int lane) {
    if (kv.format != KV_F32) {
        const coded<E> as = encode<E>(p, kv.format, is_k, x, of, lane);
        put_cell<E>(as, kv, is_k, cell, p.head_dim, lane);
        return kv.format == KV_FP8 || as.scale == as.scale;
    }
#pragma unroll
    for (int j = 0; j < E; j++)
        if (lane + 32 * j < p.head_dim)
            ((float *)(is_k ? kv.k : kv.v))[cell * p.head_dim + lane + 32 * j] = x[j];
    return true;
}

/* The key X of a value that is lost. */
template <int E> __device__ __forceinline__ void tell_lost(float (&x)[E], bool lost) {
#pragma unroll
    for (int j = 0; j < E; j++)
        x[j] = lost ? __uint_as_float(0x7fc00000u) : x[j];
}

#endif

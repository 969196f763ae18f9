/* SPDX-License-Identifier: Apache-2.0
 *
 * A head's vector in a warp's registers, element lane + 32 j: its norm, its rotary turn, its number format in
 * the cache. Used where queries, keys and values come from (qkv.cu) and by decode attention, which does it
 * itself where rows are few.
 *
 * FP8: a value's scale brings its largest element to 448; a key's is the best of STEPS within an octave by
 * squared error, weighted by the token's own squared queries (docs/notes/kv-fp8.md: only keys matter). A
 * vector below 2^-100 is stored as zeros, one that is not finite gets the scale NaN. Where the checkpoint has
 * scales of its own they stand in their place.
 */
#ifndef CUDA_HEADS_CUH
#define CUDA_HEADS_CUH

#include "cuda/gpu/any/kernel.cuh"

enum { STEPS = 8, LANES = 32 / STEPS };
#define MEAN_SHARE 0.3f /* of the queries' mean square in a dimension's weight */

/* 2^(step / 8), |step| < 8: the scales that are tried are this times the one that brings the largest element
 * to 448. Chosen, not computed or looked up: the same to the bit for a constant and for a variable. */
__device__ __forceinline__ float step_factor(int step) {
    const int up = step & 7;
    float f = up == 1   ? 0x1.172b84p0f
              : up == 2 ? 0x1.306fe0p0f
              : up == 3 ? 0x1.4bfdaep0f
              : up == 4 ? 0x1.6a09e6p0f
              : up == 5 ? 0x1.8ace54p0f
              : up == 6 ? 0x1.ae89fap0f
              : up == 7 ? 0x1.d5818ep0f
                        : 1.0f;
    return step < 0 ? 0.5f * f : f;
}

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

/* What the key of KV head HEAD at POSITION is stored less, [head_dim]; NULL: nothing. */
__device__ __forceinline__ const float *key_mean(const attn_view &p, int head, int position) {
    return p.k_mean && position > 0 ? p.k_mean + (size_t)head * p.head_dim : nullptr;
}

/* What queries at POSITION are multiplied by. */
__device__ __forceinline__ float query_growth(const attn_view &p, int position) {
    return p.query_log == 0 ? 1.0f : 1.0f + p.query_log * logf((float)(1 + position / p.query_log_len));
}

/* v, |v| <= 448, rounded to E4M3: adding 1.5 * 2^20 times its power of two leaves 3 bits of fraction. */
__device__ __forceinline__ float round_e4m3(float v) {
    float power = fmaxf(__uint_as_float(__float_as_uint(v) & 0x7f800000u), 0x1p-6f);
    float magic = power * 0x1.8p20f;
    return __fsub_rn(__fadd_rn(v, magic), magic);
}

/* Half of N values go to the lane FAR away, the other half stay and are added up. */
template <int N> __device__ __forceinline__ void fold(float *v, int far, int lane) {
    const bool upper = lane & far;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        float keep = upper ? v[i + N / 2] : v[i], give = upper ? v[i] : v[i + N / 2];
        v[i] = keep + __shfl_xor_sync(~0u, give, far);
    }
}

/* A lane's share of step K's error: the sum of (w + share) (x - x^)^2 over its elements. Its roundings are
 * written out: whoever tries scales finds the same one. */
template <int E>
__device__ __forceinline__ float step_error(const float (&x)[E], const float (&w)[E], float share, float unit,
                                            int k) {
    const float factor = step_factor(k), scale = unit * step_factor(-k);
    float error = 0;
#pragma unroll
    for (int j = 0; j < E; j++) {
        const float v = __fmul_rn(x[j], scale), e = __fsub_rn(round_e4m3(v), v);
        error = __fmaf_rn(__fadd_rn(w[j], share), __fmul_rn(e, e), error);
    }
    return __fmul_rn(error, __fmul_rn(factor, factor));
}

/* What is added to each dimension's weight: a share of their mean. */
template <int E> __device__ __forceinline__ float mean_share(const float (&w)[E], int d) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < E; j++)
        sum += w[j];
    return __fmul_rn(warp_sum(sum), MEAN_SHARE / (float)d);
}

/* The factor of the key X with the smallest sum of w (x - x^)^2; w: the squares of the group's queries and a
 * share of their mean. UNIT brings the largest element to 448. */
template <int E>
static __device__ float best_factor(const float (&x)[E], const float (&w)[E], int d, float unit, int lane) {
    float error[STEPS];
    const float share = mean_share<E>(w, d);
#pragma unroll
    for (int k = 0; k < STEPS; k++)
        error[k] = step_error<E>(x, w, share, unit, k);
    fold<8>(error, 16, lane); /* lanes 4k .. 4k + 3 now have step k's */
    fold<4>(error, 8, lane);
    fold<2>(error, 4, lane);
    float mine = error[0];
    mine += __shfl_xor_sync(~0u, mine, 2); /* in warp_sum's order */
    mine += __shfl_xor_sync(~0u, mine, 1);
    int best = lane / LANES;
#pragma unroll
    for (int i = 16; i >= LANES; i >>= 1) {
        float other = __shfl_xor_sync(~0u, mine, i);
        int at = __shfl_xor_sync(~0u, best, i);
        if (other < mine || (other == mine && at < best)) {
            mine = other;
            best = at;
        }
    }
    return step_factor(__shfl_sync(~0u, best, 0)); /* one for all lanes, also where no error is a number */
}

/* A vector as the cache stores it: element lane + 32 j; FP8 codes (with their scale) or BF16. */
template <int E> struct coded {
    uint32_t code[E];
    float scale;
};

/* The bits of the largest |x|: their order is that of the values, and NaN is the largest. */
template <int E> __device__ __forceinline__ uint32_t largest_bits(const float (&x)[E]) {
    uint32_t bits = 0;
#pragma unroll
    for (int j = 0; j < E; j++)
        bits = max(bits, __float_as_uint(x[j]) & 0x7fffffffu);
    return __reduce_max_sync(~0u, bits);
}

/* X in E4M3, and its scale. FIT(unit): of a key, the factor beside UNIT that suits it. */
template <int E, class Fit>
static __device__ __forceinline__ coded<E> encode_fp8(const attn_view &p, bool is_k, const float (&x)[E],
                                                      const Fit &fit) {
    coded<E> to;
    const uint32_t bits = largest_bits<E>(x);
    const bool finite = bits < 0x7f800000u, sound = finite && __uint_as_float(bits) >= 0x1p-100f;
    const float fixed = is_k ? p.k_scale : p.v_scale;
    float scale = __uint_as_float(bits) / 448.0f;
    if (fixed != 0)
        scale = fixed;
    else if (is_k && sound)
        scale *= fit(448.0f / __uint_as_float(bits));
    const float factor = sound ? 1.0f / scale : 0;
#pragma unroll
    for (int j = 0; j < E; j++)
        to.code[j] = sound ? to_e4m3(x[j] * factor) : 0;
    to.scale = sound ? scale : finite ? 0.0f : __uint_as_float(0x7fc00000u);
    return to;
}

/* X as FORMAT, FP8 or BF16, has it. W: of a key, the squares of its group's queries. */
template <int E>
static __device__ coded<E> encode(const attn_view &p, kv_format format, bool is_k, const float (&x)[E],
                                  const float (&w)[E], int lane) {
    if (format == KV_FP8)
        return encode_fp8<E>(p, is_k, x,
                             [&](float unit) { return best_factor<E>(x, w, p.head_dim, unit, lane); });
    coded<E> to = {};
#pragma unroll
    for (int j = 0; j < E; j++)
        to.code[j] = __bfloat16_as_ushort(__float2bfloat16_rn(x[j]));
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

/* X into token cell CELL of keys or values. */
template <int E>
static __device__ void store(const attn_view &p, const kv_view &kv, bool is_k, size_t cell,
                             const float (&x)[E], const float (&w)[E], int lane) {
    if (kv.format != KV_F32) {
        put_cell<E>(encode<E>(p, kv.format, is_k, x, w, lane), kv, is_k, cell, p.head_dim, lane);
        return;
    }
#pragma unroll
    for (int j = 0; j < E; j++)
        if (lane + 32 * j < p.head_dim)
            ((float *)(is_k ? kv.k : kv.v))[cell * p.head_dim + lane + 32 * j] = x[j];
}

#endif

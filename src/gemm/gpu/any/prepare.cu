/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations in the order of the tensor cores (gemm.h), and E4M3 per token. A block a row; a thread a block of 16 k;
 * four neighbours exchange words, so that each stores 16 bytes at a time.
 *
 * BF16: FP16 and FP32 values become two or three BF16 terms whose sum they are (exactly, within BF16's range); a row is
 * then the terms one after another, and the product runs over the weights once a term.
 * E4M3: scale = amax / 448, q = rn_e4m3(x * (448 / amax)); a row of zeros has scale 1.
 */
#include "gemm/gpu/quant.cuh"

#define THREADS 256

/* The product's flags, zeroed for it by the first block, when the kernels before are done. */
struct flag_words {
    uint32_t *words;
    int n;

    GEMM_DEV void zero() const {
        if (blockIdx.x == 0)
            for (int i = threadIdx.x; i < n; i += blockDim.x)
                words[i] = 0;
    }
};

/* A and B of two threads that are LANES apart: who is SECOND gives its A for the other's B. */
GEMM_DEV void exchange(uint32_t &a, uint32_t &b, bool second, int lanes) {
    const uint32_t v = __shfl_xor_sync(~0u, second ? a : b, lanes);
    a = second ? v : a, b = second ? b : v;
}

/* Word I of thread T goes to thread I as its word T, within each four threads. A whole warp calls it. */
GEMM_DEV void transpose_words(uint32_t *w) {
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    exchange(w[0], w[1], odd, 1), exchange(w[2], w[3], odd, 1);
    exchange(w[0], w[2], high, 2), exchange(w[1], w[3], high, 2);
}

/* The largest magnitude of a block, as bits; a NaN is passed over. */
template <class T> GEMM_DEV uint32_t amax_bits(const uint32_t *w) {
    if constexpr (__is_same(T, __nv_bfloat16)) {
        __nv_bfloat162 most = __floats2bfloat162_rn(0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < 8; i++)
            most = __hmax2(most, __habs2(*(const __nv_bfloat162 *)(w + i)));
        const uint32_t v = *(const uint32_t *)&most;
        return max(v << 16, v & 0xffff0000u);
    }
    float x[16];
    expand_block<T>(w, x);
    return __float_as_uint(block_amax(x));
}

GEMM_DEV uint32_t bf16_pair(float a, float b) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return *(const uint32_t *)&v;
}

GEMM_DEV uint32_t e4m3_four(float a, float b, float c, float d) {
    const uint32_t lo = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
    return lo | (uint32_t)__nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3) << 16;
}

template <class T> GEMM_DEV void load_or_zero(const T *row, int b, int k, uint32_t *w) {
    if (b < k / 16)
        load_words<false>(row + b * 16, w);
    else
        for (int i = 0; i < (int)sizeof(T) * 4; i++)
            w[i] = 0;
}

/* The next BF16 term of 16 values, which are left with what it does not hold. */
GEMM_DEV void take_term(float *v, uint32_t *w) {
#pragma unroll
    for (int p = 0; p < 8; p++) {
        w[p] = bf16_pair(v[2 * p], v[2 * p + 1]);
        v[2 * p] -= __uint_as_float(w[p] << 16);
        v[2 * p + 1] -= __uint_as_float(w[p] & 0xffff0000u);
    }
}

/* A thread's next block is on its way while it stores one. BF16 has one term, as it is. */
template <class T, bool PLAIN>
static __global__ void __launch_bounds__(THREADS, 4)
    prepare_bf16(const T *x, int k, size_t ldx, int groups, int terms, uint16_t *out, flag_words flags) {
    const size_t width = (size_t)groups * GEMM_GROUP_K;
    const T *row = x + blockIdx.x * ldx;
    const int lane = threadIdx.x & 31;
    uint32_t next[sizeof(T) * 4];
    dependents_go();
    dependency_wait();
    flags.zero();
    load_or_zero(row, threadIdx.x, k, next);
    for (int b = threadIdx.x; b - lane < groups * 8; b += THREADS) { /* by whole warps, which exchange words */
        float v[16];
        uint32_t w[8];
        if constexpr (__is_same(T, __nv_bfloat16))
            for (int i = 0; i < 8; i++)
                w[i] = next[i];
        else
            expand_block<T>(next, v);
        load_or_zero(row, b + THREADS, k, next);
        for (int term = 0; term < terms; term++) {
            if constexpr (!__is_same(T, __nv_bfloat16))
                take_term(v, w);
            uint16_t *to = out + ((size_t)blockIdx.x * terms + term) * width;
            if constexpr (!PLAIN) {
                transpose_words(w);
                transpose_words(w + 4);
            }
            if (b >= groups * 8)
                continue;
            uint4 *at = (uint4 *)(to + (PLAIN ? b * 16 : b / 4 * 64 + b % 4 * 8));
            at[0] = make_uint4(w[0], w[1], w[2], w[3]);
            at[PLAIN ? 1 : 4] = make_uint4(w[4], w[5], w[6], w[7]);
        }
    }
}

/* The largest of MOST over the block's threads. */
GEMM_DEV float block_max(uint32_t most) {
    __shared__ uint32_t most_of_warp[THREADS / 32];
    const int lane = threadIdx.x & 31, at = threadIdx.x / 32 + lane * (blockDim.x / 32); /* of fewer warps: zeros for the others */
    most = __reduce_max_sync(~0u, most);
    if (at < THREADS / 32)
        most_of_warp[at] = lane == 0 ? most : 0;
    __syncthreads();
    for (int i = 0; i < THREADS / 32; i++)
        most = max(most, most_of_warp[i]);
    return __uint_as_float(most);
}

/* PLAIN: the natural order, rows of k. KEEP blocks of 16 a thread stay in registers between the search for amax and
 * the conversion, and later ones are read again. */
template <class T, bool PLAIN, int KEEP>
static __global__ void __launch_bounds__(THREADS, 4) /* 64 registers: so many has a multiprocessor beside wgmma's block */
    prepare_e4m3(const T *x, int k, size_t ldx, int groups, uint8_t *out, float *scale, flag_words flags) {
    const T *row = x + blockIdx.x * ldx;
    const int blocks = k / 16, end = PLAIN ? blocks : groups * 8, lane = threadIdx.x & 31;
    uint8_t *to = out + (size_t)blockIdx.x * (PLAIN ? k : groups * GEMM_GROUP_K);
    uint32_t kept[KEEP][sizeof(T) * 4], most = 0;
    dependents_go();
    dependency_wait();
    flags.zero();
#pragma unroll
    for (int j = 0; j < KEEP; j++) {
        const int b = threadIdx.x + j * THREADS;
#pragma unroll
        for (int i = 0; i < (int)sizeof(T); i++) {
            const uint4 v = b < blocks ? load_written((const uint4 *)(row + b * 16) + i) : make_uint4(0, 0, 0, 0);
            kept[j][4 * i] = v.x, kept[j][4 * i + 1] = v.y, kept[j][4 * i + 2] = v.z, kept[j][4 * i + 3] = v.w;
        }
    }
#pragma unroll
    for (int j = 0; j < KEEP; j++)
        most = max(most, amax_bits<T>(kept[j]));
    for (int b = threadIdx.x + KEEP * THREADS; b < blocks; b += THREADS) {
        float v[16];
        load_block<false>(row + b * 16, v);
        most = max(most, __float_as_uint(block_amax(v)));
    }
    const float amax = block_max(most), up = amax > 0.0f ? 448.0f / amax : 1.0f;
    if (threadIdx.x == 0)
        scale[blockIdx.x] = amax > 0.0f ? amax / 448.0f : 1.0f;
    auto convert = [&](const float *v, int b) {
        float u[16];
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 16; i++)
            u[i] = v[i] * up;
        if constexpr (PLAIN) {
#pragma unroll
            for (int i = 0; i < 4; i++)
                w[i] = e4m3_four(u[4 * i], u[4 * i + 1], u[4 * i + 2], u[4 * i + 3]);
        } else {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float *e = u + 8 * h;
                w[2 * h] = e4m3_four(e[6], e[0], e[3], e[5]);
                w[2 * h + 1] = e4m3_four(e[7], e[1], e[2], e[4]);
            }
            transpose_words(w);
        }
        if (b < end)
            *(uint4 *)(to + b * 16) = make_uint4(w[0], w[1], w[2], w[3]);
    };
#pragma unroll
    for (int j = 0; j < KEEP; j++) {
        const int b = threadIdx.x + j * THREADS;
        float v[16];
        if (b - lane < end) { /* by whole warps, which exchange words */
            expand_block<T>(kept[j], v);
            convert(v, b);
        }
    }
    for (int b = threadIdx.x + KEEP * THREADS; b - lane < end; b += THREADS) {
        uint32_t w[sizeof(T) * 4];
        float v[16];
        load_or_zero(row, b, k, w);
        expand_block<T>(w, v);
        convert(v, b);
    }
}

/* E4M3 of the caller's: only the order changes; the scales move to where they may be read past m. */
static __global__ void __launch_bounds__(THREADS)
    reorder_e4m3(const uint8_t *x, int k, size_t ldx, int groups, uint8_t *out, const float *given, float *scale,
                 flag_words flags) {
    dependents_go();
    dependency_wait();
    flags.zero();
    if (threadIdx.x == 0)
        scale[blockIdx.x] = given[blockIdx.x];
    for (int b = threadIdx.x; b - (threadIdx.x & 31) < groups * 8; b += THREADS) {
        uint4 v = make_uint4(0, 0, 0, 0);
        if (b < k / 16)
            v = *(const uint4 *)(x + blockIdx.x * ldx + b * 16);
        /* bytes 6 0 3 5 and 7 1 2 4 of each eight */
        uint32_t w[4] = {__byte_perm(v.x, v.y, 0x5306), __byte_perm(v.x, v.y, 0x4217), __byte_perm(v.z, v.w, 0x5306),
                         __byte_perm(v.z, v.w, 0x4217)};
        transpose_words(w);
        if (b < groups * 8)
            *(uint4 *)(out + (size_t)blockIdx.x * groups * GEMM_GROUP_K + b * 16) = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

static __global__ void __launch_bounds__(THREADS) zero_flags(flag_words flags) {
    dependents_go();
    dependency_wait();
    flags.zero();
}

template <class T, bool PLAIN>
static int launch_e4m3(const gemm_task *t, const T *x, int m, int k, size_t ldx, void *out, float *scale, flag_words flags) {
    const int groups = (int)gemm_groups(k), each = (groups * 8 + THREADS - 1) / THREADS;
    auto kernel = each <= 1 ? prepare_e4m3<T, PLAIN, 1> : each <= 2 ? prepare_e4m3<T, PLAIN, 2> : prepare_e4m3<T, PLAIN, 3>;
    const int threads = each > 1 ? THREADS : (groups * 8 + 31) / 32 * 32;
    return launch_kernel(t, kernel, m, threads, 0, x, k, ldx, groups, (uint8_t *)out, scale, flags);
}

template <class T>
static int prepare_typed(const gemm_task *t, int to, const T *x, int m, int k, size_t ldx, int terms, void *out, float *scale,
                         flag_words flags) {
    const int groups = (int)gemm_groups(k);
    if (to == GEMM_A_BF16_MMA)
        return launch_kernel(t, prepare_bf16<T, false>, m, THREADS, 0, x, k, ldx, groups, terms, (uint16_t *)out, flags);
    if (to == NIB_GEMM_BF16)
        return launch_kernel(t, prepare_bf16<T, true>, m, THREADS, 0, x, k, ldx, groups, terms, (uint16_t *)out, flags);
    return to == GEMM_A_E4M3_MMA ? launch_e4m3<T, false>(t, x, m, k, ldx, out, scale, flags)
                                 : launch_e4m3<T, true>(t, x, m, k, ldx, out, scale, flags);
}

extern "C" int gemm_zero_flags(const gemm_task *t) {
    return launch_kernel(t, zero_flags, 1, THREADS, 0, flag_words{t->flags, t->n_sms});
}

extern "C" int gemm_prepare_launch(int to, const void *x, int x_type, int m, int k, size_t ldx, int terms, void *out,
                                   const float *given, float *scale, uint32_t *flags, int n_flags, bool dependent,
                                   void *stream) {
    const flag_words f = {flags, flags ? n_flags : 0};
    gemm_task t = {};
    t.dependent = dependent;
    t.stream = stream;
    switch (x_type) {
    case NIB_GEMM_BF16:
        return prepare_typed(&t, to, (const __nv_bfloat16 *)x, m, k, ldx, terms, out, scale, f);
    case NIB_GEMM_F16:
        return prepare_typed(&t, to, (const __half *)x, m, k, ldx, terms, out, scale, f);
    case NIB_GEMM_F32:
        return prepare_typed(&t, to, (const float *)x, m, k, ldx, terms, out, scale, f);
    default:
        return launch_kernel(&t, reorder_e4m3, m, THREADS, 0, (const uint8_t *)x, k, ldx, (int)gemm_groups(k), (uint8_t *)out,
                             given, scale, f);
    }
}

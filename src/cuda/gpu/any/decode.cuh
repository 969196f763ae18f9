/* SPDX-License-Identifier: Apache-2.0
 *
 * Parts of decode attention: a tile of 16 keys and values in a warp's registers, its scores and weighted
 * sums, the meeting of warps, and queries, key and value made from a row of qkv. Used by decode.cu, which
 * says how they fit together, and by the persistent kernel.
 */
#ifndef CUDA_DECODE_CUH
#define CUDA_DECODE_CUH

#include "cuda/gpu/any/attn.cuh"
#include "cuda/gpu/any/heads.cuh"

enum { COLUMNS = 8 };

/* Of a split, for each of COLUMNS heads: the sum of weighted values [D], the maximum, the sum of weights. A
 * lane's D / 8 dimensions lie together, and one float further: a warp's stores meet all banks. */
template <int D> struct part_layout {
    static constexpr int slice = D / 8 + 1, max = 8 * slice, sum = max + 1;
    static constexpr int head = D + 12;
    static constexpr int all = COLUMNS * head;
    __device__ static __forceinline__ int at(int i) {
        return i + i / (D / 8);
    }
};

typedef struct span {
    int first, end; /* keys that the query sees */
    int base, each; /* splits begin at BASE, a multiple of 16, and have EACH keys */
    int lo, hi;     /* this one's */
    int used;       /* splits that have keys */
} span;

template <int WORDS> __device__ __forceinline__ void load_words(uint32_t *w, const uint8_t *p) {
    if (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 4; i++)
            asm("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                : "=r"(w[4 * i]), "=r"(w[4 * i + 1]), "=r"(w[4 * i + 2]), "=r"(w[4 * i + 3])
                : "l"(p + 16 * i));
    } else if (WORDS % 2 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS / 2; i++)
            asm("ld.global.L1::no_allocate.L2::128B.v2.u32 {%0,%1}, [%2];"
                : "=r"(w[2 * i]), "=r"(w[2 * i + 1])
                : "l"(p + 8 * i));
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; i++)
            asm("ld.global.L1::no_allocate.L2::128B.u32 %0, [%1];" : "=r"(w[i]) : "l"(p + 4 * i));
    }
}

/* Keys and values of 16 positions as a lane holds them. */
template <int D, kv_format F> struct tile {
    static constexpr int k_words = D / 4 * operand<F>::bytes / 4, v_words = D / 8 * operand<F>::bytes / 4;
    uint32_t k[2][k_words], v[4][v_words];
    float k_scale[2], v_scale[2]; /* of keys g and g + 8 */
};

template <int D, kv_format F>
__device__ __forceinline__ void load_tile(tile<D, F> *x, const kv_view &kv, size_t cell, int g, int t) {
    constexpr int row = D * operand<F>::bytes;
    const uint8_t *k = (const uint8_t *)kv.k + cell * row + t * (row / 4);
    const uint8_t *v = (const uint8_t *)kv.v + cell * row + g * (row / 8);
    load_words<tile<D, F>::k_words>(x->k[0], k + g * row);
    load_words<tile<D, F>::k_words>(x->k[1], k + (g + 8) * row);
#pragma unroll
    for (int i = 0; i < 4; i++)
        load_words<tile<D, F>::v_words>(x->v[i], v + (2 * t + i % 2 + 8 * (i / 2)) * row);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        x->k_scale[i] = F == KV_FP8 ? kv.k_scales[cell + g + 8 * i] : 1.0f;
        x->v_scale[i] = F == KV_FP8 ? kv.v_scales[cell + g + 8 * i] : 1.0f;
    }
}

/* ---- a tile on its way through shared memory ----
 *
 * Keys, values, the scales of both. Of every 128 bytes the eight units of 16 change places by the number of
 * the line, so that eight lanes that read one column of rows of 128 bytes meet all banks. */

template <int D, kv_format F> struct staged {
    static constexpr int vectors = 16 * D * operand<F>::bytes; /* bytes of keys, and of values */
    static constexpr int bytes = 2 * vectors + (F == KV_FP8 ? 128 : 0);
};

__device__ __forceinline__ int unit_place(int unit) {
    return unit ^ (unit >> 3 & 7);
}

/* A hint for copy_unit: what is read once a step leaves L2 first. */
__device__ __forceinline__ uint64_t read_once() {
    uint64_t hint = 0;
#if __CUDA_ARCH__ == 900
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(hint));
#endif
    return hint;
}

/* TO: an address in shared memory. Made of a generic one it became, with a hint, an illegal instruction of
 * every other copy (CUDA 13.0's assembler; tests/tools/check_sass.py looks for them). */
__device__ __forceinline__ void copy_unit(uint32_t to, const void *from, uint64_t hint) {
#if __CUDA_ARCH__ == 900
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                 "l"(hint)
                 : "memory");
#else
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#endif
}

/* Until all have come; the warp meets. */
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncwarp();
}

/* The tile that begins at CELL, to PLACE. */
template <int D, kv_format F>
__device__ __forceinline__ void copy_tile(uint8_t *place, const kv_view &kv, size_t cell, uint64_t hint,
                                          int lane) {
    constexpr int vectors = staged<D, F>::vectors;
    const uint32_t to = (uint32_t)__cvta_generic_to_shared(place);
    const uint8_t *k = (const uint8_t *)kv.k + cell * (vectors / 16) + 16 * lane;
    const uint8_t *v = (const uint8_t *)kv.v + cell * (vectors / 16) + 16 * lane;
#pragma unroll
    for (int i = 0; i < vectors / 512; i++) {
        const uint32_t at = to + 16 * unit_place(lane + 32 * i);
        copy_unit(at, k + 512 * i, hint);
        copy_unit(at + vectors, v + 512 * i, hint);
    }
    if (F == KV_FP8 && lane < 8)
        copy_unit(to + 2 * vectors + 16 * lane,
                  (lane < 4 ? kv.k_scales : kv.v_scales) + cell + 4 * (lane & 3), hint);
}

/* WORDS from byte AT on of keys or values. */
template <int WORDS> __device__ __forceinline__ void take_words(uint32_t *w, const uint8_t *from, int at) {
    constexpr int each = WORDS % 4 == 0 ? 4 : WORDS % 2 == 0 ? 2 : 1;
#pragma unroll
    for (int i = 0; i < WORDS; i += each) {
        const int byte = at + 4 * i;
        const uint8_t *p = from + 16 * unit_place(byte / 16) + byte % 16;
        if (each == 4) {
            const uint4 v = *(const uint4 *)p;
            w[i] = v.x, w[i + 1] = v.y, w[i + 2] = v.z, w[i + 3] = v.w;
        } else if (each == 2) {
            const uint2 v = *(const uint2 *)p;
            w[i] = v.x, w[i + 1] = v.y;
        } else {
            w[i] = *(const uint32_t *)p;
        }
    }
}

template <int D, kv_format F>
__device__ __forceinline__ void read_tile(tile<D, F> *x, const uint8_t *from, int g, int t) {
    constexpr int vectors = staged<D, F>::vectors, row = vectors / 16;
    const float *scales = (const float *)(from + 2 * vectors);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        take_words<tile<D, F>::k_words>(x->k[i], from, (g + 8 * i) * row + t * (row / 4));
        x->k_scale[i] = F == KV_FP8 ? scales[g + 8 * i] : 1.0f;
        x->v_scale[i] = F == KV_FP8 ? scales[16 + g + 8 * i] : 1.0f;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        take_words<tile<D, F>::v_words>(x->v[i], from + vectors,
                                        (2 * t + i % 2 + 8 * (i / 2)) * row + g * (row / 8));
}

/* A tile's keys, values and scales on their way from DRAM. */
template <int D, kv_format F>
__device__ __forceinline__ void prefetch_tile(const kv_view &kv, size_t cell, int lane) {
    constexpr int row = D * operand<F>::bytes;
    for (int i = lane * 128; i < 16 * row; i += 32 * 128) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const uint8_t *)kv.k + cell * row + i));
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const uint8_t *)kv.v + cell * row + i));
    }
    if (F == KV_FP8 && lane < 2)
        asm volatile("prefetch.global.L2 [%0];" ::"l"((lane ? kv.v_scales : kv.k_scales) + cell));
}

/* Pair I of a lane's elements, as an operand. */
template <kv_format F> __device__ __forceinline__ uint32_t pair_of(const uint32_t *w, int i) {
    return F == KV_FP8 ? e4m3x2_to_half2(w[i / 2] >> 16 * (i % 2)) : w[i];
}

/* s[0], s[1]: key g under heads 2t, 2t+1; s[2], s[3]: key g + 8. */
template <int D, kv_format F>
__device__ __forceinline__ void scores(float *s, const tile<D, F> &x, const uint32_t *q) {
    float c[4] = {}, e[4] = {};
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        operand<F>::mma(i % 2 ? e : c, pair_of<F>(x.k[0], 2 * i), pair_of<F>(x.k[1], 2 * i),
                        pair_of<F>(x.k[0], 2 * i + 1), pair_of<F>(x.k[1], 2 * i + 1), q[2 * i], q[2 * i + 1]);
#pragma unroll
    for (int i = 0; i < 4; i++)
        s[i] = (c[i] + e[i]) * x.k_scale[i / 2];
}

/* The value operand of dimension pair J: the same dimension of two keys side by side. */
template <kv_format F>
__device__ __forceinline__ void value_pairs(uint32_t *a, const uint32_t *lo, const uint32_t *hi, int j) {
    if (F == KV_FP8) {
        uint32_t both;
        asm("prmt.b32 %0, %1, %2, %3;"
            : "=r"(both)
            : "r"(lo[j / 2]), "r"(hi[j / 2]), "r"(j % 2 ? 0x7362 : 0x5140));
        a[0] = e4m3x2_to_half2(both);
        a[1] = e4m3x2_to_half2(both >> 16);
    } else {
        asm("prmt.b32 %0, %1, %2, 0x5410;" : "=r"(a[0]) : "r"(lo[j]), "r"(hi[j]));
        asm("prmt.b32 %0, %1, %2, 0x7632;" : "=r"(a[1]) : "r"(lo[j]), "r"(hi[j]));
    }
}

/* What key 0's scores under heads 2t and 2t + 1 lose, for key 0 stands whole and other keys less MEAN [D]:
 * the HEADS queries at Q, EACH floats apart and their quarters PAD more than D / 4, times FACTOR times the
 * mean. In key 0's lanes (0, t); in others 0. */
template <int D>
__device__ __forceinline__ float2 mean_scores(const float *q, int each, int pad, float factor, int heads,
                                              const float *mean, int lane) {
    const int head = lane >> 2, t = lane & 3;
    float sum = 0;
    if (head < heads)
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            const float4 a = ((const float4 *)(q + head * each + t * (D / 4 + pad)))[i];
            const float4 b = ((const float4 *)(mean + t * (D / 4)))[i];
            sum = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
        }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    sum *= factor;
    const float first = __shfl_sync(~0u, sum, 8 * t), second = __shfl_sync(~0u, sum, 8 * t + 4);
    return lane < 4 ? make_float2(first, second) : make_float2(0, 0);
}

template <int D> struct running {
    float o[D / 16][4], max[2],
        sum[2]; /* heads 2t, 2t+1; o: dimension D/8 g + 2j (and + 1), two heads each */
};

/* KEY0: the position of lane (0, t)'s first key plus g. LOST: mean_scores of a tile with key 0, else 0. */
template <int D, kv_format F>
__device__ __forceinline__ void take_tile(running<D> *r, const tile<D, F> &x, const uint32_t *q, int key0,
                                          const span &sp, float cap, const float2 &lost) {
    float s[4];
    scores<D, F>(s, x, q);
    s[0] -= lost.x;
    s[1] -= lost.y;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int key = key0 + 8 * (i / 2);
        if (cap != 0)
            s[i] = capped(s[i], cap);
        s[i] = key >= sp.first && key < sp.hi ? s[i] : NO_SCORE;
    }
    float m0 = fmaxf(s[0], s[2]), m1 = fmaxf(s[1], s[3]);
#pragma unroll
    for (int i = 4; i < 32; i *= 2) {
        m0 = fmaxf(m0, __shfl_xor_sync(~0u, m0, i));
        m1 = fmaxf(m1, __shfl_xor_sync(~0u, m1, i));
    }
    if (__any_sync(~0u, m0 > r->max[0] || m1 > r->max[1])) {
        float n0 = fmaxf(r->max[0], m0), n1 = fmaxf(r->max[1], m1);
        float f0 = exp2_fast(r->max[0] - n0), f1 = exp2_fast(r->max[1] - n1);
        r->max[0] = n0;
        r->max[1] = n1;
        r->sum[0] *= f0;
        r->sum[1] *= f1;
#pragma unroll
        for (int i = 0; i < D / 16; i++) {
            r->o[i][0] *= f0;
            r->o[i][1] *= f1;
            r->o[i][2] *= f0;
            r->o[i][3] *= f1;
        }
    }
    float w[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        w[i] = exp2_fast(s[i] - r->max[i % 2]);
        r->sum[i % 2] += w[i];
        w[i] = w[i] != 0 ? w[i] * (F == KV_FP8 ? x.v_scale[i / 2] * WEIGHT_LIFT : 1.0f)
                         : 0; /* what lies past the end may be anything */
    }
    uint32_t b0 = transpose8x8(operand<F>::pack(w[0], w[1])), b1 = transpose8x8(operand<F>::pack(w[2], w[3]));
#pragma unroll
    for (int j = 0; j < D / 16; j++) {
        uint32_t near[2], far[2];
        value_pairs<F>(near, x.v[0], x.v[1], j);
        value_pairs<F>(far, x.v[2], x.v[3], j);
        operand<F>::mma(r->o[j], near[0], near[1], far[0], far[1], b0, b1);
    }
}

/* The query at FROM, its quarters PAD floats apart, scaled by FACTOR for powers of two, in the order in which
 * lane t holds dimensions. */
template <int D, kv_format F>
__device__ __forceinline__ void load_query(uint32_t *q, const float *from, int pad, float factor, bool there,
                                           int t) {
    from += t * (D / 4 + pad);
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        float4 v = there ? ((const float4 *)from)[i] : make_float4(0, 0, 0, 0);
        q[2 * i] = operand<F>::pack(v.x * factor, v.y * factor);
        q[2 * i + 1] = operand<F>::pack(v.z * factor, v.w * factor);
    }
}

/* What a warp gathered of the first N columns, into shared memory: N heads of a part. */
template <int D>
__device__ __forceinline__ void put_running(float *to, running<D> *r, int g, int t, int n = COLUMNS) {
#pragma unroll
    for (int i = 4; i < 32; i *= 2) {
        r->sum[0] += __shfl_xor_sync(~0u, r->sum[0], i);
        r->sum[1] += __shfl_xor_sync(~0u, r->sum[1], i);
    }
#pragma unroll
    for (int z = 0; z < 2; z++) {
        float *head = to + (2 * t + z) * part_layout<D>::head;
        if (2 * t + z >= n)
            continue;
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            head[g * part_layout<D>::slice + 2 * j] = r->o[j][z];
            head[g * part_layout<D>::slice + 2 * j + 1] = r->o[j][2 + z];
        }
        if (g == 0) {
            head[part_layout<D>::max] = r->max[z];
            head[part_layout<D>::sum] = r->sum[z];
        }
    }
}

/* What parts come to: the sums of N neighbouring dimensions, the maximum, the sum of weights. */
template <int N> struct joined { float acc[N], max, sum; };

/* COUNT parts at P, STEP floats apart, of dimensions I and the next ones, which are one lane's. */
template <int D, int N>
__device__ __forceinline__ joined<N> join_parts(const float *p, size_t step, int count, int i) {
    constexpr int MAX = part_layout<D>::max, SUM = part_layout<D>::sum;
    static_assert(D / 8 % N == 0, "of one slice");
    const int at = part_layout<D>::at(i);
    joined<N> all = {{}, NO_SCORE, 0};
#pragma unroll 4
    for (int k = 0; k < count; k++)
        all.max = fmaxf(all.max, p[k * step + MAX]);
#pragma unroll 4
    for (int k = 0; k < count; k++) {
        const float f = exp2_fast(p[k * step + MAX] - all.max);
#pragma unroll
        for (int j = 0; j < N; j++)
            all.acc[j] += f * p[k * step + at + j];
        all.sum += f * p[k * step + SUM];
    }
    return all;
}

/* What the weighted values of FP8 pages are multiplied by, and those of BF16. */
template <kv_format F> __device__ __forceinline__ float mean_factor(float sum) {
    return 1.0f / (F == KV_FP8 ? sum * WEIGHT_LIFT : sum);
}

/* ---- queries, and the row's own key and value, made here ---- */

/* The row's key and value as they are stored, in shared memory: the warp whose tile has them takes them from
 * here, so that nobody waits for their way through memory. */
template <int D, kv_format F> struct newcomer {
    __align__(16) uint8_t k[D * operand<F>::bytes], v[D * operand<F>::bytes];
    float k_scale, v_scale;
};

/* The newcomer's value is there after the barrier in maker::make; its key when MAKER, the warp that makes it,
 * has met TAKER, the warp that reads it. Both call, MAKER first. */
__device__ __forceinline__ void key_comes(int warp, int maker_warp, int taker_warp) {
    if (maker_warp == taker_warp)
        __syncwarp();
    else if (warp == maker_warp)
        asm volatile("bar.arrive 1, 64;" ::: "memory");
    else
        asm volatile("bar.sync 1, 64;" ::: "memory");
}

/* Key I of the tile, 0 to 15, is the newcomer. */
template <int D, kv_format F>
__device__ __forceinline__ void take_newcomer(tile<D, F> *x, const newcomer<D, F> &from, int i, int g,
                                              int t) {
    constexpr int k_words = tile<D, F>::k_words, v_words = tile<D, F>::v_words;
    const uint32_t *k = (const uint32_t *)from.k + t * k_words, *v = (const uint32_t *)from.v + g * v_words;
#pragma unroll
    for (int j = 0; j < 2; j++)
        if (i == g + 8 * j) {
#pragma unroll
            for (int w = 0; w < k_words; w++)
                x->k[j][w] = k[w];
            x->k_scale[j] = F == KV_FP8 ? from.k_scale : 1.0f;
            x->v_scale[j] = F == KV_FP8 ? from.v_scale : 1.0f;
        }
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (i == 2 * t + j % 2 + 8 * (j / 2)) {
#pragma unroll
            for (int w = 0; w < v_words; w++)
                x->v[j][w] = v[w];
        }
}

/* What a block of WARPS needs to make vectors of one row and KV head. */
template <int D, int WARPS> struct maker {
    static constexpr int E = D / 32;
    /* Floats of a query in shared memory: its quarters stand PAD apart, so that a warp's loads meet all
     * banks. */
    static constexpr int PAD = 4, query = D + 4 * PAD;
    /* Warps enough that each makes one vector at most, the last ones the value and the key. */
    static constexpr bool SPREAD = WARPS >= COLUMNS + 2;
    /* The last warps look for the key's scale, EACH one of them in so many times 32 dimensions. */
    static constexpr int SEARCHERS = WARPS < E ? WARPS : E, EACH = E / SEARCHERS;
    static_assert(E % SEARCHERS == 0, "all dimensions");
    static constexpr int key_warp = WARPS - 1; /* stores the key */
    static_assert(D / 2 <= 32 * WARPS, "a thread an angle");
    turn<E> rope;
    float growth;       /* of queries */
    __half2 factors[4]; /* of the lane's rows of scales */

    __device__ __forceinline__ static int place(int i) {
        return i + i / (D / 4) * PAD;
    }

    /* TRIG: 2 n_freq floats of shared memory, filled here; open() comes after a barrier. FREQUENCY: the
     * thread's, inv_freq[threadIdx.x]. */
    __device__ __forceinline__ static void turn_angles(const attn_view &p, int position, float frequency,
                                                       float *trig) {
        if ((int)threadIdx.x >= p.n_freq)
            return;
        float sine, cosine;
        sincosf((float)position * frequency, &sine, &cosine);
        trig[threadIdx.x] = cosine * p.rope_scale;
        trig[p.n_freq + threadIdx.x] = sine * p.rope_scale;
    }

    __device__ __forceinline__ void open(const attn_view &p, int position, const float *trig, int lane) {
        rope.open(trig, trig + p.n_freq, p.n_freq, p.interleaved, lane);
        growth = query_growth(p, position);
        row_factors(factors, lane);
    }

    /* The head's queries into Q [group + 1, query], for the whole block; STORES: its key and value into CELL
     * and FRESH, where the key comes last: key_comes tells. LOAD(x, i): vector I of the row's queries, keys
     * and values. MEAN [D]: what the key is stored less, there when they are, or NULL. ERRORS [D]: room,
     * from when all queries are there. Vectors turn where their queries will stand, the key behind them. */
    template <kv_format F, class Load>
    __device__ __forceinline__ void make(const attn_view &p, const kv_view &kv, const Load &load, int head,
                                         bool stores, size_t cell, const float *mean, float *q, float *errors,
                                         newcomer<D, F> *fresh, int warp, int lane) {
        const int group = p.n_heads / p.n_kv_heads, n = group + (stores ? 2 : 0);
        float x[E] = {}, w[E] = {}, next[E] = {}, next_w[E] = {};
        auto fetch = [&](float(&to)[E], float(&weights)[E],
                         int v) { /* vector V and the norm's weights */
                                  if (v < group ? p.q_norm : v == group ? p.k_norm : nullptr)
                                      load_vector<E>(weights, v < group ? p.q_norm : p.k_norm, 0, D, lane);
                                  load(to, v < group ? head * group + v
                                                     : p.n_heads + head + (v == group ? 0 : p.n_kv_heads));
        };
        const int first = !SPREAD || warp < group ? warp : group + WARPS - 1 - warp;
        if (first < n)
            fetch(x, w, first);
        if (!SPREAD && first + WARPS < n)
            fetch(next, next_w, first + WARPS);
        bool lost = false; /* of BF16, a value that is not finite */
        for (int v = first; v < n; v += SPREAD ? n : WARPS) {
            lost |= !put_vector<F>(p, kv, x, w, v, group, cell, q, fresh, lane);
            if constexpr (!SPREAD) {
#pragma unroll
                for (int j = 0; j < E; j++)
                    x[j] = next[j], w[j] = next_w[j];
                if (v + 2 * WARPS < n)
                    fetch(next, next_w, v + 2 * WARPS);
            }
        }
        if (F == KV_BF16)
            lost = __syncthreads_or(lost);
        else
            __syncthreads();
        if (stores)
            put_key<F>(p, kv, cell, mean, lost, q, group, errors, fresh, warp, lane);
    }

    /* Vector V, which came as X: a query or the key to its place in Q, the value to CELL and FRESH; false
     * where a value is lost (heads.cuh). */
    template <kv_format F>
    __device__ __forceinline__ bool put_vector(const attn_view &p, const kv_view &kv, float (&x)[E],
                                               const float (&w)[E], int v, int group, size_t cell, float *q,
                                               newcomer<D, F> *fresh, int lane) {
        if (v > group) {
            const coded<E> as = encode<E>(p, F, false, x, gauge<E>{}, lane);
            put_coded<E>(as, F, fresh->v, &fresh->v_scale, D, lane);
            put_cell<E>(as, kv, false, cell, D, lane);
            return F != KV_BF16 || as.scale == as.scale;
        }
        if (v < group ? p.q_norm : p.k_norm)
            norm<E>(x, w, p.norm_eps, D);
        rope.apply(x, q + v * query, lane);
#pragma unroll
        for (int j = 0; j < E; j++)
            q[v * query + place(lane + 32 * j)] = v < group ? x[j] * growth : x[j];
        return true;
    }

    /* The key behind the GROUP queries at Q, less MEAN, into CELL and FRESH: a warp's work, for whose
     * scale others work. */
    template <kv_format F>
    __device__ __forceinline__ void put_key(const attn_view &p, const kv_view &kv, size_t cell,
                                            const float *mean, bool lost, const float *q, int group,
                                            float *errors, newcomer<D, F> *fresh, int warp, int lane) {
        const bool makes = warp == key_warp, searched = F == KV_FP8 && p.k_scale == 0;
        const int first = (warp - (WARPS - SEARCHERS)) * EACH;
        if (!makes && !(searched && first >= 0))
            return;
        float key[E];
#pragma unroll
        for (int j = 0; j < E; j++)
            key[j] = q[group * query + place(lane + 32 * j)];
        if (F == KV_FP8 && mean)
#pragma unroll
            for (int j = 0; j < E; j++)
                key[j] = __fsub_rn(key[j], mean[lane + 32 * j]);
        if (F == KV_BF16)
            tell_lost<E>(key, lost);
        const uint32_t most_bits = largest_bits<E>(key);
        gauge<E> of = {};
        if (searched) {
#pragma unroll 1
            for (int v = 0; v < group; v++)
#pragma unroll
                for (int j = 0; j < E; j++)
                    of.add(j, q[v * query + place(lane + 32 * j)]);
            of.close(D);
            put_errors(key, __uint_as_float(most_bits), of, errors, first, lane);
            if (!makes) {
                asm volatile("bar.arrive 2, %0;" ::"n"(32 * SEARCHERS) : "memory");
                return;
            }
            asm volatile("bar.sync 2, %0;" ::"n"(32 * SEARCHERS) : "memory");
        }
        auto step = [&](float) {
            float error = 0;
#pragma unroll
            for (int j = 0; j < E; j++)
                error = __fadd_rn(error, errors[lane + 32 * j]);
            return least_step(error, lane);
        };
        const coded<E> as = F == KV_FP8 ? encode_fp8<E>(p, true, key, most_bits, of, step, lane)
                                        : encode<E>(p, F, true, key, of, lane);
        put_coded<E>(as, F, fresh->k, &fresh->k_scale, D, lane);
        put_cell<E>(as, kv, true, cell, D, lane);
    }

    /* Each lane's ERRORS[lane + 32 j], j = FIRST and the next EACH, of the key's elements there under the
     * lane's scale, MOST the key's largest magnitude. */
    __device__ __forceinline__ void put_errors(const float (&key)[E], float most, const gauge<E> &of,
                                               float *errors, int first, int lane) const {
        const float unit = unit_of(most);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            float x = key[0], of_x = of.squares[0];
#pragma unroll
            for (int j = 1; j < E; j++)
                x = j == first + i ? key[j] : x, of_x = j == first + i ? of.squares[j] : of_x;
            errors[lane + 32 * (first + i)] = lane_error(weighed(x, unit, of_x, of.shares), factors, lane);
        }
        __syncwarp();
    }
};

#endif

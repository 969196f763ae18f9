/* SPDX-License-Identifier: Apache-2.0
 *
 * From joined q, k and v to rotated queries and stored keys and values: norm per head, rotary position,
 * number format of the cache, append to the page.
 *
 * A block is one row and one KV head with its group of queries; a warp takes a vector of head_dim, up to 10
 * warps. Shared memory: the vectors, cosines and sines. FP8: a value's scale brings its largest element to
 * 448; a key's is the best of 8 within an octave by squared error, weighted by the token's own squared
 * queries (docs/notes/kv-fp8.md: only keys matter). A vector below 2^-100 is stored as zeros, one that is not
 * finite gets the scale NaN. Bytes moved: 4 (H + 2G) D in, 4 H D and the cache's 2 G D elements out, per row.
 */
#include "cuda/gpu/any/device.cuh"

enum { MAX_WARPS = 10, MAX_DIM = 256, STEPS = 8, LANES = 32 / STEPS };
#define MEAN_SHARE 0.3f /* of the queries' mean square in a dimension's weight */

/* The scales that are tried: this times the one that brings the largest element to 448. */
__device__ __forceinline__ float step_factor(int step) {
    return exp2f((float)step * (1.0f / STEPS));
}

typedef struct qkv_job {
    float *q;
    size_t q_stride;
    const float *qkv;
    size_t qkv_stride;
    attn_view p;
    kv_view kv;
    step_view step;
} qkv_job;

/* x [d] times norm factor and weights, into S. */
static __device__ void norm_into(float *s, const float *x, const float *w, float eps, int d, int lane) {
    float squares = 0;
    for (int i = lane; i < d; i += 32) {
        s[i] = x[i];
        squares += s[i] * s[i];
    }
    if (w) {
        float factor = 1.0f / sqrtf(warp_sum(squares) / (float)d + eps);
        for (int i = lane; i < d; i += 32)
            s[i] = s[i] * factor * w[i];
    }
    __syncwarp();
}

/* (a, b) -> (a cos - b sin, b cos + a sin); pairs (2i, 2i+1) or (i, i + n) */
static __device__ void rotate(float *s, const float *cosines, const float *sines, int n, bool interleaved,
                              int lane) {
    for (int i = lane; i < n; i += 32) {
        float *a = interleaved ? s + 2 * i : s + i, *b = interleaved ? a + 1 : a + n;
        float a0 = *a, b0 = *b;
        *a = a0 * cosines[i] - b0 * sines[i];
        *b = b0 * cosines[i] + a0 * sines[i];
    }
    __syncwarp();
}

/* v, |v| <= 448, rounded to E4M3: adding 1.5 * 2^20 times its power of two leaves 3 bits of fraction. */
__device__ __forceinline__ float round_e4m3(float v) {
    float power = fmaxf(__uint_as_float(__float_as_uint(v) & 0x7f800000u), 0x1p-6f);
    float magic = power * 0x1.8p20f;
    return __fsub_rn(__fadd_rn(v, magic), magic);
}

/* The largest |x| of S [d], and whether all are finite: as bits, whose order is that of the values. */
static __device__ uint32_t largest_bits(const float *s, int d, int lane) {
    uint32_t bits = 0;
    for (int i = lane; i < d; i += 32)
        bits = max(bits, __float_as_uint(s[i]) & 0x7fffffffu);
    return __reduce_max_sync(~0u, bits);
}

/* The factor of the key S [d] with the smallest sum of w (x - x^)^2; w [d]: the squares of the group's
 * QUERIES [n_queries, d], rotated, and a share of their mean. Four lanes a factor, each a quarter of the
 * elements. */
static __device__ float best_factor(const float *s, float *w, const float *queries, int n_queries, int d,
                                    float unit, int lane) {
    float sum = 0, along = 0, plain = 0;
    for (int i = lane; i < d; i += 32) {
        float squares = 0;
        for (int h = 0; h < n_queries; h++)
            squares += queries[h * d + i] * queries[h * d + i];
        w[i] = squares;
        sum += squares;
    }
    __syncwarp();
    const float factor = step_factor(lane / LANES), scale = unit / factor;
#pragma unroll 8
    for (int i = lane % LANES; i < d; i += LANES) {
        float v = s[i] * scale, e = round_e4m3(v) - v;
        along += w[i] * (e * e);
        plain += e * e;
    }
    float error = along + plain * (warp_sum(sum) * (MEAN_SHARE / (float)d));
    error += __shfl_xor_sync(~0u, error, 1);
    error += __shfl_xor_sync(~0u, error, 2);
    error *= factor * factor;
    int best = lane / LANES;
#pragma unroll
    for (int i = 16; i >= LANES; i >>= 1) {
        float other = __shfl_xor_sync(~0u, error, i);
        int at = __shfl_xor_sync(~0u, best, i);
        if (other < error || (other == error && at < best)) {
            error = other;
            best = at;
        }
    }
    return step_factor(best);
}

/* S [d] in E4M3, its scale. W: room for the weights [d] of a key, QUERIES [group, d] those of its group. */
static __device__ void store_fp8(const qkv_job &job, bool is_k, size_t cell, const float *s, float *w,
                                 const float *queries, int group, int lane) {
    const int d = job.p.head_dim;
    const uint32_t bits = largest_bits(s, d, lane);
    const bool sound = bits < 0x7f800000u && __uint_as_float(bits) >= 0x1p-100f;
    float scale = __uint_as_float(bits) / 448.0f;
    if (is_k && sound)
        scale *= best_factor(s, w, queries, group, d, 448.0f / __uint_as_float(bits), lane);
    const float factor = sound ? 1.0f / scale : 0;
    uint8_t *to = (uint8_t *)(is_k ? job.kv.k : job.kv.v) + cell * d;
    for (int i = lane; i < d; i += 32)
        to[i] = sound ? to_e4m3(s[i] * factor) : 0;
    if (lane == 0)
        (is_k ? job.kv.k_scales : job.kv.v_scales)[cell] = sound ? scale
                                                           : bits < 0x7f800000u
                                                               ? 0.0f
                                                               : __uint_as_float(0x7fc00000u);
}

/* S [d] into token cell CELL of keys or values, by one warp. */
static __device__ void store(const qkv_job &job, bool is_k, size_t cell, const float *s, float *w,
                             const float *queries, int group, int lane) {
    const int d = job.p.head_dim;
    void *to = is_k ? job.kv.k : job.kv.v;
    if (job.kv.format == KV_FP8)
        store_fp8(job, is_k, cell, s, w, queries, group, lane);
    else
        for (int i = lane; i < d; i += 32) {
            if (job.kv.format == KV_F32)
                ((float *)to)[cell * d + i] = s[i];
            else
                ((__nv_bfloat16 *)to)[cell * d + i] = __float2bfloat16_rn(s[i]);
        }
}

static __global__ void __launch_bounds__(MAX_WARPS * 32) split_rows(qkv_job job) {
    extern __shared__ float vectors[]; /* [group + 2, d], [d] weights, [n_freq] cosines, [n_freq] sines */
    const attn_view &p = job.p;
    const int d = p.head_dim, group = p.n_heads / p.n_kv_heads, n = p.n_freq;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, n_warps = blockDim.x >> 5;
    const size_t row = blockIdx.x, head = blockIdx.y;
    float *weights = vectors + (group + 2) * d, *cosines = weights + d, *sines = cosines + n;
    const int position = job.step.positions[row];
    const int page = job.step.page_table[job.step.first_page[row] + position / KV_PAGE];
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float sine, cosine;
        sincosf((float)position * p.inv_freq[i], &sine, &cosine);
        cosines[i] = cosine * p.rope_scale;
        sines[i] = sine * p.rope_scale;
    }
    __syncthreads();
    pdl_wait();
    pdl_go();
    const float *in = job.qkv + row * job.qkv_stride;
    for (int v = warp; v < group + 2; v += n_warps) { /* queries, key, value */
        size_t at = v < group ? head * group + v : p.n_heads + head + (v == group ? 0 : p.n_kv_heads);
        float *s = vectors + v * d;
        norm_into(s, in + at * d, v < group ? p.q_norm : v == group ? p.k_norm : NULL, p.norm_eps, d, lane);
        if (v <= group)
            rotate(s, cosines, sines, n, p.interleaved, lane);
        if (v < group)
            for (int i = lane; i < d; i += 32)
                job.q[row * job.q_stride + at * d + i] = s[i];
    }
    __syncthreads();
    const size_t cell = ((size_t)page * p.n_kv_heads + head) * KV_PAGE + position % KV_PAGE;
    if (warp < 2)
        store(job, warp == 0, cell, vectors + (group + warp) * d, weights, vectors, group, lane);
}

extern "C" int qkv_launch(const cuda_lane *lane, float *q, size_t q_stride, const float *qkv,
                          size_t qkv_stride, const attn_view *p, const kv_view *kv, const step_view *step,
                          int n_rows) {
    const size_t d = (size_t)p->head_dim, group = (size_t)(p->n_heads / p->n_kv_heads);
    if (p->head_dim < 1 || p->head_dim > MAX_DIM || p->n_heads % p->n_kv_heads != 0 ||
        2 * p->n_freq > p->head_dim || q_stride < p->n_heads * d ||
        qkv_stride < (p->n_heads + 2 * p->n_kv_heads) * d)
        return cudaErrorInvalidValue;
    qkv_job job = {q, q_stride, qkv, qkv_stride, *p, *kv, *step};
    size_t shared = ((group + 3) * d + 2 * (size_t)p->n_freq) * sizeof(float);
    if (shared > 48 << 10)
        return cudaErrorInvalidValue; /* a group of more than 40 heads */
    unsigned warps = group + 2 < MAX_WARPS ? (unsigned)group + 2 : MAX_WARPS;
    dim3 grid((unsigned)n_rows, (unsigned)p->n_kv_heads);
    return launch_kernel(lane, split_rows, grid, 32 * warps, shared, job);
}

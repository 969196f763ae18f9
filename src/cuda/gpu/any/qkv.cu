/* SPDX-License-Identifier: Apache-2.0
 *
 * From joined q, k and v to rotated queries and stored keys and values: norm per head, rotary position,
 * number format of the cache, append to the page.
 *
 * A warp holds a vector of head_dim in registers, element lane + 32 j. A block is one row; a KV head with its
 * group of queries is one warp's where rows are many (vectors come one after another, the next one already on
 * its way), or a warp a vector where they are few and latency counts. Shared memory: cosines and sines of the
 * row, a vector per warp for the exchange of rotation. Bytes moved: 2 or 4 (H + 2G) D in, 4 H D and the
 * cache's 2 G D elements out, per row.
 */
#include "cuda/gpu/any/heads.cuh"

enum { MAX_WARPS = 10, MAX_DIM = 256, MANY_ROWS = 64 };

typedef struct qkv_job {
    float *q;
    size_t q_stride;
    act_view qkv;
    attn_view p;
    kv_view kv;
    step_view step;
    int heads, members; /* of a block: KV heads, and warps of each */
} qkv_job;

/* W: the sum of what the group's warps have, warps in order; ROOM [warps, 32 E]; whether a value is LOST.
 * Every thread of the block, which is one KV head's, calls. */
template <int E>
static __device__ bool gather(float (&w)[E], float *room, bool lost, int members, int warp, int lane) {
    lost = __syncthreads_or(lost);
#pragma unroll
    for (int j = 0; j < E; j++)
        room[warp * 32 * E + lane + 32 * j] = w[j];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < E; j++) {
        float sum = 0;
        for (int m = 0; m < members; m++)
            sum = __fadd_rn(sum, room[m * 32 * E + lane + 32 * j]);
        w[j] = sum;
    }
    return lost;
}

/* Takes the query at Q, which another warp has put there, into OF: where a warp has several queries their
 * order would be another than where one warp has all. */
template <int E>
static __device__ __forceinline__ void regauge(gauge<E> &of, const float *q, int d, int lane) {
#pragma unroll
    for (int j = 0; j < E; j++)
        of.add(j, lane + 32 * j < d ? __ldcg(q + lane + 32 * j) : 0);
}

template <int E, bool BF16, bool MANY> __device__ __forceinline__ void split_row(const qkv_job &job) {
    extern __shared__ float shared[]; /* [n_freq] cosines, [n_freq] sines, [warps, 32 E] */
    const attn_view &p = job.p;
    const int d = p.head_dim, group = p.n_heads / p.n_kv_heads, n = p.n_freq;
    const int members = MANY ? 1 : job.members;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, member = warp % members;
    const int head = blockIdx.y * job.heads + warp / members;
    const size_t row = blockIdx.x;
    float *cosines = shared, *sines = cosines + n, *room = sines + n;
    const int position = job.step.positions[row];
    const int page = job.step.page_table[job.step.first_page[row] + position / KV_PAGE];
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float sine, cosine;
        sincosf((float)position * p.inv_freq[i], &sine, &cosine);
        cosines[i] = cosine * p.rope_scale;
        sines[i] = sine * p.rope_scale;
    }
    const float growth = query_growth(p, position);
    float q_norm[E] = {}, k_norm[E] = {}, next[E], key[E];
    gauge<E> of = {};
    if (p.q_norm)
        load_vector<E>(q_norm, p.q_norm, 0, d, lane);
    if (p.k_norm)
        load_vector<E>(k_norm, p.k_norm, 0, d, lane);
    __syncthreads();
    turn<E> rope;
    rope.open(cosines, sines, n, p.interleaved, lane);
    pdl_wait();
    pdl_go();
    const bool there = head < p.n_kv_heads; /* the last block may have warps too many */
    const void *in = act_row(job.qkv, row);
    const size_t cell = ((size_t)page * p.n_kv_heads + head) * KV_PAGE + position % KV_PAGE;
    /* vector V of the head: its queries, its key, its value */
    auto vector = [&](int v) {
        return (size_t)(v < group ? head * group + v : p.n_heads + head + (v == group ? 0 : p.n_kv_heads)) *
               d;
    };
    if (there && member < group + 2)
        load_vector<E, BF16>(next, in, vector(member), d, lane);
    bool has_key = false, lost = false; /* its value */
    for (int v = member; there && v < group + 2; v += members) {
        float x[E];
#pragma unroll
        for (int j = 0; j < E; j++)
            x[j] = next[j];
        if (v + members < group + 2)
            load_vector<E, BF16>(next, in, vector(v + members), d, lane);
        if (v < group && p.q_norm)
            norm<E>(x, q_norm, p.norm_eps, d);
        if (v == group && p.k_norm)
            norm<E>(x, k_norm, p.norm_eps, d);
        if (v <= group)
            rope.apply(x, room + warp * 32 * E, lane);
        if (v < group) {
            float *q = job.q + row * job.q_stride + vector(v);
#pragma unroll
            for (int j = 0; j < E; j++) {
                x[j] *= growth;
                if (lane + 32 * j < d)
                    q[lane + 32 * j] = x[j];
                of.add(j, x[j]);
            }
        } else if (v == group) {
            const float *mean = key_mean(p, head, position);
            if (mean)
                load_vector<E>(key, mean, 0, d, lane);
#pragma unroll
            for (int j = 0; j < E; j++)
                key[j] = mean ? __fsub_rn(x[j], key[j]) : x[j];
            has_key = true;
        } else {
            lost = !store<E>(p, job.kv, false, cell, x, of, lane);
        }
    }
    if (members > 1 && group <= members) {
        lost = gather<E>(of.squares, room, lost, group, warp, lane);
        gather<E>(of.sum, room, lost, group, warp, lane);
    } else if (members > 1) {
        lost = __syncthreads_or(lost); /* the block's queries are written */
        of = {};
        for (int v = 0; has_key && v < group; v++)
            regauge<E>(of, job.q + row * job.q_stride + vector(v), d, lane);
    }
    if (has_key) {
        tell_lost<E>(key, lost);
        of.close(d);
        store<E>(p, job.kv, true, cell, key, of, lane);
    }
}

template <int E, bool BF16> static __global__ void __launch_bounds__(MAX_WARPS * 32) split_few(qkv_job job) {
    split_row<E, BF16, false>(job);
}

/* Here more warps hide more than more registers spare. */
template <int E, bool BF16>
static __global__ void __launch_bounds__(256, E <= 4 ? 4 : 2) split_many(qkv_job job) {
    split_row<E, BF16, true>(job);
}

/* RMS norms over all heads of a row's q (blockIdx.y 0) or k (1), in place. */
template <bool BF16>
static __global__ void __launch_bounds__(256)
    norm_heads(act_view qkv, const float *q_norm, const float *k_norm, size_t n_q, size_t n_k, float eps) {
    __shared__ float room[33];
    const bool is_k = blockIdx.y > 0;
    const size_t n = is_k ? n_k : n_q;
    const float *w = is_k ? k_norm : q_norm;
    pdl_wait();
    pdl_go();
    void *row = act_row(qkv, blockIdx.x);
    float *wide = (float *)row + (is_k ? n_q : 0), squares = 0;
    __nv_bfloat16 *half = (__nv_bfloat16 *)row + (is_k ? n_q : 0);
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        const float v = BF16 ? __bfloat162float(half[i]) : wide[i];
        squares += v * v;
    }
    const float factor = 1.0f / sqrtf(block_reduce<false>(squares, room) / (float)n + eps);
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        if (BF16)
            half[i] = __float2bfloat16_rn(__bfloat162float(half[i]) * factor * w[i]);
        else
            wide[i] = wide[i] * factor * w[i];
    }
}

extern "C" int qk_norm_launch(const cuda_lane *lane, act_view qkv, const float *q_norm, const float *k_norm,
                              size_t n_q, size_t n_k, float eps, int n_rows) {
    if (qkv.format == ACT_FP8 || qkv.stride < n_q + n_k || n_rows < 0)
        return cudaErrorInvalidValue;
    return launch_kernel(lane, qkv.format == ACT_BF16 ? norm_heads<true> : norm_heads<false>,
                         dim3((unsigned)n_rows, 2), 256, 0, qkv, q_norm, k_norm, n_q, n_k, eps);
}

template <int E> static int run(const cuda_lane *lane, const qkv_job &job, int n_rows) {
    const unsigned warps = (unsigned)(job.heads * job.members);
    const size_t shared = (2 * (size_t)job.p.n_freq + warps * 32 * E) * sizeof(float);
    dim3 grid((unsigned)n_rows, (unsigned)((job.p.n_kv_heads + job.heads - 1) / job.heads));
    const bool bf16 = job.qkv.format == ACT_BF16;
    return launch_kernel(lane,
                         job.members == 1 ? (bf16 ? split_many<E, true> : split_many<E, false>)
                                          : (bf16 ? split_few<E, true> : split_few<E, false>),
                         grid, 32 * warps, shared, job);
}

extern "C" int qkv_launch(const cuda_lane *lane, float *q, size_t q_stride, act_view qkv, const attn_view *p,
                          const kv_view *kv, const step_view *step, int n_rows) {
    const size_t d = (size_t)p->head_dim;
    const int group = p->n_heads / p->n_kv_heads;
    if (p->head_dim < 1 || p->head_dim > MAX_DIM || p->n_heads % p->n_kv_heads != 0 ||
        2 * p->n_freq > p->head_dim || q_stride < p->n_heads * d || qkv.format == ACT_FP8 ||
        qkv.stride < (p->n_heads + 2 * p->n_kv_heads) * d)
        return cudaErrorInvalidValue;
    const bool many = n_rows * p->n_kv_heads > MANY_ROWS * 8;
    qkv_job job = {q,
                   q_stride,
                   qkv,
                   *p,
                   *kv,
                   *step,
                   many ? (p->n_kv_heads < 8 ? p->n_kv_heads : 8) : 1,
                   many ? 1 : (group + 2 < MAX_WARPS ? group + 2 : MAX_WARPS)};
    return d <= 64    ? run<2>(lane, job, n_rows)
           : d <= 128 ? run<4>(lane, job, n_rows)
                      : run<8>(lane, job, n_rows);
}

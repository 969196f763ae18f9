/* SPDX-License-Identifier: Apache-2.0
 *
 * From logits to a token on the device, as nouns/sampling.h says, and as the CPU draws for the same logits.
 *
 *   1  SLICES blocks a row: bias, mask and penalties into ADJUSTED, where there are any; NaN and plus
 * infinity are found, and each slice's largest logit 2  a block of 1,024 threads a row from here on: the
 * largest logit, the lowest id among equals: done, at temperature 0 3  without top-k and top-p: weights in
 * the order of ids, each thread a run of them; the draw falls into one thread's run, which walks it else: a
 * histogram over logits (counts, weights) tells where the head ends; the head is gathered, sorted by (logit,
 * id) in shared memory, cut, and drawn from Weights are fixed-point numbers (2^-40), so that their sums have
 * no order. A head of more than HEAD tokens (nearly equal logits) is sorted by rank instead: slower, and the
 * same result.
 */
#include <math_constants.h>

#include "cuda/gpu/any/kernel.cuh"

enum { THREADS = 1024, BINS = 2048, HEAD = 8192, SLICES = SAMPLE_SLICES, SLICE_THREADS = 256 };
typedef unsigned long long u64;

typedef struct entry {
    float logit;
    int32_t id;
} entry;

/* Shared by the steps below. */
typedef struct scratch {
    u64 weights[BINS];
    int counts[BINS];
    entry head[HEAD];
    u64 sums[THREADS / 32];
    float best[THREADS / 32];
    int ids[THREADS / 32];
    int n, bin;
    u64 total;
} scratch;

typedef struct row {
    const sample_job *job;
    const uint8_t *block;
    const float *logits, *adjusted;
    int vocab;
    entry most; /* of the adjusted logits; id BAD: some logit is no number */
} row;

enum { BAD = -1 };

/* ---- the whole block ---- */

/* The largest of X [n], the lowest id among equals; no id below minus infinity's. All threads get it. */
static __device__ entry block_argmax(const float *x, int n, scratch *s, float below, int after) {
    entry e = {-CUDART_INF_F, n};
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float v = x[i];
        if (v > below || (v == below && i <= after)) /* taken before */
            continue;
        if (v > e.logit || (v == e.logit && i < e.id))
            e = {v, i};
    }
    for (int k = 16; k; k >>= 1) {
        float v = __shfl_xor_sync(~0u, e.logit, k);
        int id = __shfl_xor_sync(~0u, e.id, k);
        if (v > e.logit || (v == e.logit && id < e.id))
            e = {v, id};
    }
    if (threadIdx.x % 32 == 0) {
        s->best[threadIdx.x / 32] = e.logit;
        s->ids[threadIdx.x / 32] = e.id;
    }
    __syncthreads();
    for (int w = 0; w < THREADS / 32; w++)
        if (s->best[w] > e.logit || (s->best[w] == e.logit && s->ids[w] < e.id))
            e = {s->best[w], s->ids[w]};
    __syncthreads();
    return e;
}

/* Sum over the block of V before this thread; *TOTAL of all. */
static __device__ u64 block_before(u64 v, scratch *s, u64 *total) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    u64 upto = v;
    for (int k = 1; k < 32; k <<= 1) {
        u64 other = __shfl_up_sync(~0u, upto, k);
        upto += lane >= k ? other : 0;
    }
    if (lane == 31)
        s->sums[warp] = upto;
    __syncthreads();
    u64 before = 0, all = 0;
    for (int w = 0; w < THREADS / 32; w++) {
        before += w < warp ? s->sums[w] : 0;
        all += s->sums[w];
    }
    __syncthreads();
    *total = all;
    return before + upto - v;
}

/* ---- weights and random numbers, as the CPU has them ---- */

__device__ __forceinline__ u64 weight_of(const sample_job *job, float max, float logit) {
    float z = (float)((double)(logit - max) * job->per_temperature);
    return z >= -60.0f ? (u64)(expf(z) * 0x1p40f) : 0;
}

/* In [0, 1) from (seed, n): splitmix64's finalizer over a Weyl sequence. */
static __device__ double uniform(u64 seed, u64 n) {
    u64 z = seed * 0xD1342543DE82EF95u + (n + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

/* A row's job to shared memory, in one read: it may lie with the host. All threads call. */
static __device__ const sample_job *fetch_job(const uint8_t *block, size_t row) {
    __shared__ sample_job job;
    static_assert(sizeof job % 4 == 0, "copied by words");
    const uint32_t *from = (const uint32_t *)((const sample_job *)block + row);
    for (unsigned i = threadIdx.x; i < sizeof job / 4; i += blockDim.x)
        ((uint32_t *)&job)[i] = from[i];
    __syncthreads();
    return &job;
}

/* ---- 1: bias, mask, penalties ---- */

__device__ __forceinline__ bool is_plain(const sample_job *job) {
    return job->mask_at == 0 && job->n_bias == 0 && job->n_adjust == 0;
}

/* Of two entries the one that comes first; BAD before all. */
__device__ __forceinline__ entry first_of(entry a, entry b) {
    if (a.id == BAD || b.id == BAD)
        return a.id == BAD ? a : b;
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id) ? a : b;
}

__device__ __forceinline__ entry warp_first(entry e) {
    for (int k = 16; k; k >>= 1)
        e = first_of(e, {__shfl_xor_sync(~0u, e.logit, k), __shfl_xor_sync(~0u, e.id, k)});
    return e;
}

/* Tokens [first, end) of a row that biases and penalties touch. */
static __device__ void touch(const sample_job *job, const uint8_t *block, float *x, int first, int end) {
    const token_bias *bias = (const token_bias *)(block + job->bias_at);
    const sample_adjust *list = (const sample_adjust *)(block + job->adjust_at);
    for (uint32_t i = threadIdx.x; i < job->n_bias; i += SLICE_THREADS)
        if (bias[i].token >= first && bias[i].token < end)
            x[bias[i].token] += bias[i].bias;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < job->n_adjust; i += SLICE_THREADS) {
        if (list[i].token < first || list[i].token >= end)
            continue;
        float v = x[list[i].token];
        if (list[i].repeated)
            v = v > 0 ? v / job->repeat_penalty : v * job->repeat_penalty;
        if (list[i].generated > 0)
            v -=
                __fadd_rn(job->presence_penalty, __fmul_rn(job->frequency_penalty, (float)list[i].generated));
        x[list[i].token] = v;
    }
    __syncthreads();
}

static __global__ void __launch_bounds__(SLICE_THREADS)
    survey_rows(const float *logits, size_t stride, int vocab, const uint8_t *block, float *adjusted,
                entry *slices) {
    __shared__ entry warps[SLICE_THREADS / 32];
    const sample_job *job = fetch_job(block, blockIdx.y);
    const int each = (vocab + SLICES - 1) / SLICES, first = blockIdx.x * each, end = min(vocab, first + each);
    const bool plain = is_plain(job);
    const uint32_t *mask = job->mask_at ? (const uint32_t *)(block + job->mask_at) : NULL;
    float *x = adjusted + blockIdx.y * (size_t)vocab;
    pdl_wait();
    pdl_go();
    logits += blockIdx.y * stride;
    entry e = {-CUDART_INF_F, vocab};
    for (int i = first + threadIdx.x; i < end; i += SLICE_THREADS) {
        float v = logits[i];
        if (v != v || v == CUDART_INF_F)
            e = {v, BAD};
        v = mask && !(mask[i / 32] >> i % 32 & 1) ? -CUDART_INF_F : v;
        if (plain)
            e = first_of(e, {v, i});
        else
            x[i] = v;
    }
    if (!plain) {
        __syncthreads();
        touch(job, block, x, first, end);
        for (int i = first + threadIdx.x; i < end; i += SLICE_THREADS)
            e = first_of(e, {x[i], i});
    }
    e = warp_first(e);
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = e;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < SLICE_THREADS / 32; w++)
            e = first_of(e, warps[w]);
        slices[blockIdx.y * SLICES + blockIdx.x] = e;
    }
}

/* ---- 3: without a head ---- */

static __device__ int draw_by_id(const row &r, float max, scratch *s) {
    const int each = (r.vocab + THREADS - 1) / THREADS, first = threadIdx.x * each,
              end = min(r.vocab, first + each);
    const float floor_logit = __fadd_rn(max, r.job->floor_delta);
    u64 mine = 0, total;
    for (int i = first; i < end; i++)
        mine += r.adjusted[i] >= floor_logit ? weight_of(r.job, max, r.adjusted[i]) : 0;
    u64 before = block_before(mine, s, &total);
    const double target = uniform(r.job->seed, r.job->position) * (double)total;
    if (target < (double)(before + mine) && (target >= (double)before || before == 0) && mine > 0) {
        u64 sum = before;
        for (int i = first; i < end; i++) {
            sum += r.adjusted[i] >= floor_logit ? weight_of(r.job, max, r.adjusted[i]) : 0;
            if (target < (double)sum) {
                s->n = i;
                break;
            }
        }
    }
    __syncthreads();
    return s->n;
}

/* ---- 3: a head ---- */

__device__ __forceinline__ int bin_of(float max, float per_logit, float logit) {
    return (int)fminf((max - logit) * per_logit, (float)(BINS - 1));
}

/* The bin in which K tokens or, where top-p alone decides, the probability P are reached. */
static __device__ void find_head(const row &r, float max, float per_logit, scratch *s) {
    for (int i = threadIdx.x; i < BINS; i += THREADS) {
        s->counts[i] = 0;
        s->weights[i] = 0;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < r.vocab; i += THREADS) {
        float v = r.adjusted[i];
        if (v == -CUDART_INF_F)
            continue;
        int b = bin_of(max, per_logit, v);
        atomicAdd(&s->counts[b], 1);
        if (const u64 weight = weight_of(r.job, max, v))
            atomicAdd(&s->weights[b], weight);
    }
    __syncthreads();
    static_assert(BINS == 2 * THREADS, "two bins a thread");
    const int b = 2 * threadIdx.x;
    const u64 weights[2] = {s->weights[b], s->weights[b + 1]};
    const int counts[2] = {s->counts[b], s->counts[b + 1]};
    u64 total, all;
    u64 sum = block_before(weights[0] + weights[1], s, &total);
    u64 n = block_before(counts[0] + counts[1], s, &all);
    if (threadIdx.x == 0) {
        s->bin = BINS - 1;
        s->total = total;
        s->n = 0;
    }
    __syncthreads();
    for (int i = 0; i < 2; i++) {
        sum += weights[i];
        n += counts[i];
        if (r.job->top_k > 0 ? n >= r.job->top_k : (double)sum >= (double)r.job->top_p * (double)total)
            atomicMin(&s->bin, b + i);
    }
    __syncthreads();
}

__device__ __forceinline__ bool comes_first(entry a, entry b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

/* Gathers and sorts the head; returns its size, more than HEAD where it has no room. */
static __device__ int sort_head(const row &r, float max, float per_logit, scratch *s) {
    for (int i = threadIdx.x; i < r.vocab; i += THREADS) {
        float v = r.adjusted[i];
        if (v != -CUDART_INF_F && bin_of(max, per_logit, v) <= s->bin) {
            int at = atomicAdd(&s->n, 1);
            if (at < HEAD)
                s->head[at] = {v, i};
        }
    }
    __syncthreads();
    const int n = s->n;
    int size = 2;
    while (size < n)
        size *= 2;
    if (n > HEAD)
        return n;
    for (int i = n + threadIdx.x; i < size; i += THREADS)
        s->head[i] = {-CUDART_INF_F, 0x7fffffff};
    __syncthreads();
    for (int k = 2; k <= size; k *= 2)
        for (int j = k / 2; j; j /= 2) {
            for (int i = threadIdx.x; i < size; i += THREADS) {
                int other = i ^ j;
                if (other > i && comes_first(s->head[other], s->head[i]) == ((i & k) == 0)) {
                    entry e = s->head[i];
                    s->head[i] = s->head[other];
                    s->head[other] = e;
                }
            }
            __syncthreads();
        }
    return n;
}

/* The head in order, one entry after another, whether it was sorted or has to be searched. */
typedef struct walk {
    const row *r;
    scratch *s;
    bool sorted;
    entry last;
} walk;

static __device__ entry walk_next(walk *w, int i) {
    if (w->sorted)
        return w->s->head[i];
    w->last = block_argmax(w->r->adjusted, w->r->vocab, w->s, w->last.logit, w->last.id);
    return w->last;
}

/* Cut at K, then where the weights reach P of the whole, then at the floor; one draw. All threads walk alike.
 */
static __device__ int draw_from_head(const row &r, float max, int n, scratch *s) {
    const sample_job *job = r.job;
    const float floor_logit = __fadd_rn(max, job->floor_delta);
    const bool sorted = n <= HEAD;
    n = job->top_k > 0 && job->top_k < n ? job->top_k : n;
    u64 all = s->total, kept = 0, sum = 0;
    walk w = {&r, s, sorted, {CUDART_INF_F, -1}};
    if (job->top_k > 0) {
        all = 0;
        for (int i = 0; i < n; i++)
            all += weight_of(job, max, walk_next(&w, i).logit);
    }
    w.last = {CUDART_INF_F, -1};
    int cut = n;
    for (int i = 0; i < n; i++) {
        entry e = walk_next(&w, i);
        if (i > 0 && e.logit < floor_logit) {
            cut = i;
            break;
        }
        kept += weight_of(job, max, e.logit);
        if (job->top_p > 0 && (double)kept >= (double)job->top_p * (double)all) {
            cut = i + 1;
            break;
        }
    }
    w.last = {CUDART_INF_F, -1};
    const double target = uniform(job->seed, job->position) * (double)kept;
    int token = -1;
    for (int i = 0; i < cut; i++) {
        entry e = walk_next(&w, i);
        token = e.id;
        sum += weight_of(job, max, e.logit);
        if (target < (double)sum)
            break;
    }
    return token;
}

/* ---- log-probabilities of the network's own logits ---- */

static __device__ void log_probabilities(const row &r, int token, sampled *out, scratch *s) {
    entry most = block_argmax(r.logits, r.vocab, s, CUDART_INF_F, -1);
    u64 total, mine = 0;
    for (int i = threadIdx.x; i < r.vocab; i += THREADS)
        mine += (u64)(expf(r.logits[i] - most.logit) * 0x1p40f);
    block_before(mine, s, &total);
    const double lse = (double)most.logit + log((double)total * 0x1p-40);
    if (threadIdx.x == 0)
        out->logprob = token >= 0 ? (float)((double)r.logits[token] - lse) : 0.0f;
    entry e = {CUDART_INF_F, -1};
    int n = min(min(r.job->n_top, SAMPLE_MAX_TOP), r.vocab);
    for (int i = 0; i < n; i++) {
        e = block_argmax(r.logits, r.vocab, s, e.logit, e.id);
        if (threadIdx.x == 0)
            out->top[i] = {e.id, (float)((double)e.logit - lse)};
    }
    if (threadIdx.x == 0)
        out->n_top = n;
}

static __device__ int choose(const row &r, scratch *s) {
    const sample_job *job = r.job;
    const entry most = r.most;
    if (most.id == BAD || !(most.logit > -CUDART_INF_F && most.logit < CUDART_INF_F))
        return -1;
    if (job->temperature <= 0)
        return most.id;
    if ((job->top_k <= 0 || job->top_k >= r.vocab) && job->top_p == 0)
        return draw_by_id(r, most.logit, s);
    /* Logits 64 temperatures below the largest weigh nothing: bins are not spent on them. */
    const float per_logit = (float)(BINS - 1) / (64.0f * job->temperature);
    find_head(r, most.logit, per_logit, s);
    int n = sort_head(r, most.logit, per_logit, s);
    return draw_from_head(r, most.logit, n, s);
}

static __global__ void __launch_bounds__(THREADS)
    sample_rows(sampled *results, const float *logits, size_t stride, int vocab, const uint8_t *block,
                const float *adjusted, const entry *slices) {
    extern __shared__ uint4 shared[];
    scratch *s = (scratch *)shared;
    const size_t n = blockIdx.x;
    const sample_job *job = fetch_job(block, n);
    if (threadIdx.x == 0)
        s->n = 0;
    pdl_wait();
    pdl_go();
    static_assert(SLICES == 32, "a slice a lane");
    const float *x = logits + n * stride;
    const row r = {job,   block,
                   x,     is_plain(job) ? x : adjusted + n * vocab,
                   vocab, warp_first(slices[n * SLICES + threadIdx.x % 32])};
    __syncthreads();
    int token = choose(r, s);
    __syncthreads();
    if (threadIdx.x == 0) {
        results[n].token = token;
        results[n].logprob = 0;
        results[n].n_top = 0;
    }
    if (job->n_top >= 0 && r.most.id != BAD)
        log_probabilities(r, token, &results[n], s);
}

extern "C" int sample_launch(const cuda_lane *lane, sampled *results, const float *logits, size_t stride,
                             int vocab, const void *block, int n_rows, float *adjusted) {
    if (vocab < 1 || stride < (size_t)vocab)
        return cudaErrorInvalidValue;
    cudaError_t status =
        cudaFuncSetAttribute(sample_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)sizeof(scratch));
    if (status != cudaSuccess)
        return status;
    entry *slices = (entry *)adjusted;
    float *x = adjusted + (size_t)n_rows * SLICES * (sizeof(entry) / sizeof(float));
    int code = launch_kernel(lane, survey_rows, dim3(SLICES, (unsigned)n_rows), SLICE_THREADS, 0, logits,
                             stride, vocab, (const uint8_t *)block, x, slices);
    if (code != cudaSuccess)
        return code;
    return launch_kernel(lane, sample_rows, dim3((unsigned)n_rows), THREADS, sizeof(scratch), results, logits,
                         stride, vocab, (const uint8_t *)block, x, slices);
}

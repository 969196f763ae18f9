/* SPDX-License-Identifier: Apache-2.0
 *
 * From joined q, k and v to rotated queries and stored keys and values: norm per head, rotary position,
 * number format of the cache, append to the page.
 *
 * A warp holds a vector of head_dim in registers, element lane + 32 j. A block is one row; a KV head with its
 * group of queries is one warp's where rows are many (vectors come one after another, the next one already on
 * its way), or a warp a vector where they are few and latency counts. Shared memory: cosines and sines of the
 * row, a vector per warp for the exchange of rotation. FP8: a value's scale brings its largest element to
 * 448; a key's is the best of 8 within an octave by squared error, weighted by the token's own squared
 * queries (docs/notes/kv-fp8.md: only keys matter). A vector below 2^-100 is stored as zeros, one that is not
 * finite gets the scale NaN. Bytes moved: 2 or 4 (H + 2G) D in, 4 H D and the cache's 2 G D elements out, per
 * row.
 */
#include "cuda/gpu/any/device.cuh"

enum { MAX_WARPS = 10, MAX_DIM = 256, STEPS = 8, LANES = 32 / STEPS, MANY_ROWS = 64 };
#define MEAN_SHARE 0.3f /* of the queries' mean square in a dimension's weight */

typedef struct qkv_job {
    float *q;
    size_t q_stride;
    act_view qkv;
    attn_view p;
    kv_view kv;
    step_view step;
    int heads, members; /* of a block: KV heads, and warps of each */
} qkv_job;

/* The scales that are tried: this times the one that brings the largest element to 448. */
__device__ __forceinline__ float step_factor(int step) {
    return exp2f((float)step * (1.0f / STEPS));
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

/* The factor of the key X with the smallest sum of w (x - x^)^2; w: the squares of the group's queries and a
 * share of their mean. UNIT brings the largest element to 448. */
template <int E>
static __device__ float best_factor(const float (&x)[E], const float (&w)[E], int d, float unit, int lane) {
    float sum = 0, error[STEPS] = {};
#pragma unroll
    for (int j = 0; j < E; j++)
        sum += w[j];
    const float share = warp_sum(sum) * (MEAN_SHARE / (float)d);
#pragma unroll
    for (int k = 0; k < STEPS; k++) {
        const float factor = step_factor(k), scale = unit * step_factor(-k);
#pragma unroll
        for (int j = 0; j < E; j++) {
            float v = x[j] * scale, e = round_e4m3(v) - v;
            error[k] += (w[j] + share) * (e * e);
        }
        error[k] *= factor * factor;
    }
    fold<8>(error, 16, lane); /* lanes 4k .. 4k + 3 now have step k's */
    fold<4>(error, 8, lane);
    fold<2>(error, 4, lane);
    float mine = error[0];
    mine += __shfl_xor_sync(~0u, mine, 1);
    mine += __shfl_xor_sync(~0u, mine, 2);
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
    return step_factor(best);
}

/* X in E4M3, and its scale. W: of a key, the squares of its group's queries. */
template <int E>
static __device__ void store_fp8(const qkv_job &job, bool is_k, size_t cell, const float (&x)[E],
                                 const float (&w)[E], int lane) {
    const int d = job.p.head_dim;
    uint32_t bits = 0; /* of the largest |x|: their order is that of the values, and NaN is the largest */
#pragma unroll
    for (int j = 0; j < E; j++)
        bits = max(bits, __float_as_uint(x[j]) & 0x7fffffffu);
    bits = __reduce_max_sync(~0u, bits);
    const bool finite = bits < 0x7f800000u, sound = finite && __uint_as_float(bits) >= 0x1p-100f;
    float scale = __uint_as_float(bits) / 448.0f;
    if (is_k && sound)
        scale *= best_factor<E>(x, w, d, 448.0f / __uint_as_float(bits), lane);
    const float factor = sound ? 1.0f / scale : 0;
    uint8_t *to = (uint8_t *)(is_k ? job.kv.k : job.kv.v) + cell * d;
#pragma unroll
    for (int j = 0; j < E; j++)
        if (lane + 32 * j < d)
            to[lane + 32 * j] = sound ? to_e4m3(x[j] * factor) : 0;
    if (lane == 0)
        (is_k ? job.kv.k_scales : job.kv.v_scales)[cell] = sound    ? scale
                                                           : finite ? 0.0f
                                                                    : __uint_as_float(0x7fc00000u);
}

/* X into token cell CELL of keys or values. */
template <int E>
static __device__ void store(const qkv_job &job, bool is_k, size_t cell, const float (&x)[E],
                             const float (&w)[E], int lane) {
    const int d = job.p.head_dim;
    void *to = is_k ? job.kv.k : job.kv.v;
    if (job.kv.format == KV_FP8) {
        store_fp8<E>(job, is_k, cell, x, w, lane);
        return;
    }
#pragma unroll
    for (int j = 0; j < E; j++) {
        size_t i = cell * d + lane + 32 * j;
        if (lane + 32 * j < d && job.kv.format == KV_F32)
            ((float *)to)[i] = x[j];
        else if (lane + 32 * j < d)
            ((__nv_bfloat16 *)to)[i] = __float2bfloat16_rn(x[j]);
    }
}

/* W: the sum of what the group's warps have, queries in order; ROOM [warps, 32 E]. Every thread calls. */
template <int E>
static __device__ void gather_squares(float (&w)[E], float *room, int first_warp, int members, int warp,
                                      int lane) {
    __syncthreads();
#pragma unroll
    for (int j = 0; j < E; j++)
        room[warp * 32 * E + lane + 32 * j] = w[j];
    __syncthreads();
#pragma unroll
    for (int j = 0; j < E; j++) {
        float sum = 0;
        for (int m = 0; m < members; m++)
            sum = __fadd_rn(sum, room[(first_warp + m) * 32 * E + lane + 32 * j]);
        w[j] = sum;
    }
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
    float q_norm[E] = {}, k_norm[E] = {}, next[E], key[E], w[E] = {};
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
    bool has_key = false;
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
                if (lane + 32 * j < d)
                    q[lane + 32 * j] = x[j];
                w[j] = __fadd_rn(w[j], __fmul_rn(x[j], x[j]));
            }
        } else if (v == group) {
#pragma unroll
            for (int j = 0; j < E; j++)
                key[j] = x[j];
            has_key = true;
        } else {
            store<E>(job, false, cell, x, w, lane);
        }
    }
    if (members > 1)
        gather_squares<E>(w, room, warp - member, min(members, group), warp, lane);
    if (has_key)
        store<E>(job, true, cell, key, w, lane);
}

template <int E, bool BF16> static __global__ void __launch_bounds__(MAX_WARPS * 32) split_few(qkv_job job) {
    split_row<E, BF16, false>(job);
}

/* Here more warps hide more than more registers spare. */
template <int E, bool BF16>
static __global__ void __launch_bounds__(256, E <= 4 ? 4 : 2) split_many(qkv_job job) {
    split_row<E, BF16, true>(job);
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

/* SPDX-License-Identifier: Apache-2.0
 *
 * The attention of persistent.cu, which is decode's (any/decode.cu): blocks with a KV head and a split of its
 * keys, from the last one down, since those have the fewest tiles. More than BRIEF_KEYS keys are split, and
 * blocks from the first one up merge, a query head each.
 */
#ifndef CUDA_PERSISTENT_ATTENTION_CUH
#define CUDA_PERSISTENT_ATTENTION_CUH

#include "cuda/gpu/sm90/handover.cuh"
#include "cuda/gpu/sm90/persistent_block.cuh"

/* What an attention of the list reads and writes; by value, for a function of its own. */
struct attend_job {
    const uint32_t *qkv;
    uint16_t *heads;
    uint64_t *parts;
    __nv_bfloat16 *plain;
    const float *q_norm, *k_norm, *k_mean;
    float k_scale, v_scale;
    void *k;
    float *k_scales;
    uint32_t from_tag, tag, number;
    bool new_turns;
};

/* The keys of a row at POSITION and their splits, where ROWS rows share the blocks. */
template <int ROWS> __device__ __forceinline__ span cut_keys(const attn_view &p, int position) {
    span sp;
    sp.first = first_key(p, position);
    sp.end = position + 1;
    sp.base = sp.first & ~15;
    const int keys = sp.end - sp.base, most = min((int)gridDim.x / (ROWS * p.n_kv_heads), (int)PASS_SPLITS);
    const int splits = keys <= BRIEF_KEYS ? 1 : min(most, (keys + SPLIT_KEYS - 1) / SPLIT_KEYS);
    sp.each = ((keys + splits - 1) / splits + 63) & ~63;
    sp.used = (keys + sp.each - 1) / sp.each;
    return sp;
}

/* This block's part of view INDEX; one thread's work. */
template <int ROWS>
static __device__ __noinline__ void find_site(site_of<ROWS> *to, const pass_view &v,
                                              const uint32_t *counters) {
    const attn_view p = v.p;
    const int unit = (int)gridDim.x - 1 - (int)blockIdx.x, row = ROWS == 1 ? 0 : unit / p.n_kv_heads % ROWS,
              position = v.step.positions[row];
    span sp = cut_keys<ROWS>(p, position);
    to->kv_head = unit % p.n_kv_heads;
    to->split = unit / (ROWS * p.n_kv_heads);
    sp.lo = sp.base + to->split * sp.each;
    sp.hi = min(sp.end, sp.lo + sp.each);
    to->p = p;
    to->sp = sp;
    to->v = v.v, to->v_scales = v.v_scales;
    to->position = position;
    to->number = counters[1];
    to->pages = v.step.page_table + v.step.first_page[row];
    if constexpr (ROWS > 1) {
        to->row = row;
        for (int r = 0; r < ROWS; r++)
            to->used_of[r] = cut_keys<ROWS>(p, v.step.positions[r]).used;
    }
}

/* JOB of one of several rows. */
template <int D, int ROWS>
__device__ __forceinline__ attend_job job_of(attend_job job, const site_of<ROWS> &at, int row) {
    if constexpr (ROWS > 1) {
        const int heads = at.p.n_heads, kv_heads = at.p.n_kv_heads;
        job.qkv += row * (heads + 2 * kv_heads) * D;
        job.heads += row * heads * D;
        job.parts += (size_t)row * kv_heads * PASS_SPLITS * PASS_COLUMNS * (D + 2);
        if (job.plain)
            job.plain += row * at.plain_stride;
    }
    return job;
}

/* Element I of the heads' results, for the other blocks and maybe later kernels. */
__device__ __forceinline__ void give_head(const attend_job &job, int i, float v) {
    hand_bf16(job.heads + i, v, job.tag);
    if (job.plain)
        job.plain[i] = __float2bfloat16_rn(v);
}

template <int D>
__device__ __forceinline__ uint64_t *part_at(const attend_job &job, int kv_head, int split, int column) {
    return job.parts + (((size_t)kv_head * PASS_SPLITS + split) * PASS_COLUMNS + column) * (D + 2);
}

/* Where a block's attention has what: fields are read where they are used, for registers are short. */
template <int D, kv_format F, int ROWS> struct desk {
    typedef maker<D, WARPS> making;
    const attend_job &job;
    const site &at;
    newcomer<D, F> *fresh;
    float *parts, *own, *means; /* sums of warps; queries and the key; what keys are stored less */
    int group, each;            /* query heads; floats of a warp's part */

    __device__ __forceinline__ desk(const attend_job &job_, const site &at_, uint8_t *shared,
                                    newcomer<D, F> *fresh_)
        : job(job_), at(at_), fresh(fresh_) {
        group = at.p.n_heads / at.p.n_kv_heads, each = group * part_layout<D>::head;
        /* until make's barrier only what lies behind parts and sums is written: a flush may read those */
        parts = (float *)(shared + room<ROWS>::sums);
        own = parts + max(WARPS * each, room<ROWS>::all_sums);
        means = own + (group + 1) * making::query;
    }
    __device__ __forceinline__ kv_view kv() const {
        return {F, job.k, (uint8_t *)job.k + at.v, job.k_scales,
                (float *)((uint8_t *)job.k_scales + at.v_scales)};
    }
    __device__ __forceinline__ size_t cell(int page, int key) const {
        return ((size_t)page * at.p.n_kv_heads + at.kv_head) * KV_PAGE + key % KV_PAGE;
    }
    __device__ __forceinline__ bool has_mean() const {
        return F == KV_FP8 && job.k_mean;
    }
    __device__ __forceinline__ bool stores() const { /* the row's own key and value */
        return at.sp.hi == at.sp.end;
    }
};

/* Queries, and the row's key and value where they belong to this block, as soon as they are there. */
template <int D, kv_format F, int ROWS>
static __device__ __forceinline__ void make_vectors(const desk<D, F, ROWS> &d, float *trig, int warp,
                                                    int lane) {
    constexpr int E = D / 32;
    const attend_job &job = d.job;
    const site &at = d.at;
    attn_view p = at.p;
    p.q_norm = job.q_norm, p.k_norm = job.k_norm;
    p.k_scale = job.k_scale, p.v_scale = job.v_scale;
    const int position = at.position;
    maker<D, WARPS> made;
    const float mean = d.has_mean() && threadIdx.x < D ? job.k_mean[at.kv_head * D + threadIdx.x] : 0;
    if (job.new_turns) {
        made.turn_angles(p, position, (int)threadIdx.x < p.n_freq ? p.inv_freq[threadIdx.x] : 0, trig);
        __syncthreads();
    }
    made.open(p, position, trig, lane);
    if (d.has_mean() && threadIdx.x < D)
        d.means[threadIdx.x] = mean;
    auto load = [&](float(&v)[E], int i) {
        uint32_t bits[E], missing;
        do {
            missing = 0;
#pragma unroll
            for (int j = 0; j < E; j++) {
                bits[j] = ask_word(job.qkv + i * D + lane + 32 * j);
                missing |= bits[j] ^ job.from_tag;
            }
        } while (__any_sync(~0u, missing & 1));
#pragma unroll
        for (int j = 0; j < E; j++)
            v[j] = handed(bits[j]);
    };
    made.make(p, d.kv(), load, at.kv_head, d.stores(), d.cell(at.last_page, position),
              d.has_mean() && position > 0 ? d.means : nullptr, d.own, d.means + D, d.fresh, warp, lane);
}

/* A warp's tiles, of which X is the first, into its part; the number of warps that have some. */
template <int D, kv_format F, int ROWS>
static __device__ __forceinline__ int take_tiles(const desk<D, F, ROWS> &d, tile<D, F> &x, int warp,
                                                 int lane) {
    typedef maker<D, WARPS> making;
    const site &at = d.at;
    const int g = lane >> 2, t = lane & 3, position = at.position;
    const int maker_warp = making::key_warp, taker = (position - at.sp.lo) / 16 % WARPS;
    const bool stores = d.stores();
    if (stores && warp == maker_warp)
        key_comes(warp, maker_warp, taker);
    const int with_keys = min((int)WARPS, (at.sp.hi - at.sp.lo + 15) / 16);
    if (warp >= with_keys)
        return with_keys;
    const span sp = at.sp;
    const float factor = at.p.scale * LOG2E;
    int key = sp.lo + 16 * warp;
    uint32_t q[D / 8];
    load_query<D, F>(q, d.own + g * making::query, making::PAD, factor, g < d.group, t);
    float2 lost = {0, 0};
    if (d.has_mean() && key == 0)
        lost = mean_scores<D>(d.own, making::query, making::PAD, factor, d.group, d.means, lane);
    running<D> r = {{}, {NO_SCORE, NO_SCORE}, {}};
    while (key < sp.hi) {
        if (stores && position - key < 16) {
            if (warp != maker_warp)
                key_comes(warp, maker_warp, taker);
            take_newcomer<D, F>(&x, *d.fresh, position - key, g, t);
        }
        take_tile<D, F>(&r, x, q, key + g, sp, at.p.cap, lost);
        lost = make_float2(0, 0);
        key += 16 * WARPS;
        if (key < sp.hi)
            load_tile<D, F>(&x, d.kv(), d.cell(at.pages[key / KV_PAGE], key), g, t);
    }
    put_running<D>(d.parts + warp * d.each, &r, g, t, d.group);
    return with_keys;
}

/* What one block gathers of one KV head and split, and hands on. */
template <int D, kv_format F, int ROWS>
static __device__ __forceinline__ void attend_split(const attend_job &job, const site &at, uint8_t *shared) {
    __shared__ newcomer<D, F> fresh;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const desk<D, F, ROWS> d(job, at, shared, &fresh);
    const int key = at.sp.lo + 16 * warp;
    if (key < at.sp.hi) /* into L2: registers are short while queries are made */
        prefetch_tile<D, F>(d.kv(), d.cell(at.first_page[warp], key), lane);
    make_vectors(d, (float *)(shared + room<ROWS>::trig), warp, lane);
    asm volatile("" ::: "memory"); /* nothing is kept across: it is read again */
    tile<D, F> x;
    if (key < at.sp.hi)
        load_tile<D, F>(&x, d.kv(), d.cell(at.first_page[warp], key), lane >> 2, lane & 3);
    const int with_keys = take_tiles(d, x, warp, lane);
    __syncthreads();
    for (int i = threadIdx.x; i < d.group * D; i += THREADS) {
        const int head = i / D, dim = i % D;
        const joined<1> all = join_parts<D, 1>(&d.parts[head * part_layout<D>::head], d.each, with_keys, dim);
        if (at.sp.used == 1) {
            give_head(job, (at.kv_head * d.group + head) * D + dim, all.acc[0] * mean_factor<F>(all.sum));
            continue;
        }
        uint64_t *to = part_at<D>(job, at.kv_head, at.split, head);
        hand_numbered(to + dim, all.acc[0], job.number);
        if (dim == 0) {
            hand_numbered(to + D, all.max, job.number);
            hand_numbered(to + D + 1, all.sum, job.number);
        }
    }
    __syncthreads();
}

/* The splits of query head HEAD, added up. */
template <int D, kv_format F, int ROWS>
static __device__ __forceinline__ void merge_head(const attend_job &job, int head, int group, int used,
                                                  uint8_t *shared) {
    constexpr int TEAMS = THREADS / D; /* a team takes every TEAMS-th split */
    const int d = threadIdx.x % D, team = threadIdx.x / D;
    float *teams = (float *)(shared + room<ROWS>::sums); /* TEAMS heads of parts */
    float3 all = make_float3(0, NO_SCORE, 0);
    for (int k = team; k < used; k += TEAMS) {
        const uint64_t *from = part_at<D>(job, head / group, k, head % group);
        uint64_t v, max, sum;
        do {
            v = ask_numbered(from + d);
            max = ask_numbered(from + D);
            sum = ask_numbered(from + D + 1);
        } while ((uint32_t)(v >> 32) != job.number || (uint32_t)(max >> 32) != job.number ||
                 (uint32_t)(sum >> 32) != job.number);
        const float m = __uint_as_float((uint32_t)max), most = fmaxf(all.y, m);
        const float f = exp2_fast(all.y - most), h = exp2_fast(m - most);
        all = make_float3(f * all.x + h * __uint_as_float((uint32_t)v), most,
                          f * all.z + h * __uint_as_float((uint32_t)sum));
    }
    float *mine = teams + team * part_layout<D>::head;
    mine[part_layout<D>::at(d)] = all.x;
    if (d == 0) {
        mine[part_layout<D>::max] = all.y;
        mine[part_layout<D>::sum] = all.z;
    }
    __syncthreads();
    if (team == 0) {
        const joined<1> sums = join_parts<D, 1>(teams, part_layout<D>::head, min(TEAMS, used), d);
        give_head(job, head * D + d, sums.acc[0] * mean_factor<F>(sums.sum));
    }
    __syncthreads();
}

/* A function of its own: its registers are not the products'. */
template <int D, kv_format F, int ROWS> static __device__ __noinline__ void attend(attend_job job) {
    extern __shared__ __align__(128) uint8_t shared[];
    const site_of<ROWS> &at = *(const site_of<ROWS> *)(shared + room<ROWS>::here);
    if constexpr (ROWS == 1) {
        if (at.split < at.sp.used)
            attend_split<D, F, ROWS>(job, at, shared);
        else
            __syncthreads(); /* the last sums are read before a merge writes there */
        for (int head = blockIdx.x; at.sp.used > 1 && head < at.p.n_heads; head += gridDim.x)
            merge_head<D, F, ROWS>(job, head, at.p.n_heads / at.p.n_kv_heads, at.sp.used, shared);
    } else {
        if (at.split < at.sp.used)
            attend_split<D, F, ROWS>(job_of<D, ROWS>(job, at, at.row), at, shared);
        else
            __syncthreads();
        for (int i = blockIdx.x; i < ROWS * at.p.n_heads; i += gridDim.x) {
            const int row = i / at.p.n_heads, used = at.used_of[row];
            if (used > 1)
                merge_head<D, F, ROWS>(job_of<D, ROWS>(job, at, row), i % at.p.n_heads,
                                       at.p.n_heads / at.p.n_kv_heads, used, shared);
        }
    }
}

/* The most splits of a row. */
__device__ __forceinline__ int most_used(const site_of<1> &at) {
    return at.sp.used;
}

template <int ROWS> __device__ __forceinline__ int most_used(const site_of<ROWS> &at) {
    int most = at.used_of[0];
    for (int r = 1; r < ROWS; r++)
        most = max(most, at.used_of[r]);
    return most;
}

/* Attention OP, the list's I-th, where this block has a part in it. */
template <int D, kv_format F, int ROWS>
static __device__ __forceinline__ void attend_here(const pass &a, const pass_op &op, int i, memo *known,
                                                   uint8_t *shared, int lane) {
    const site_of<ROWS> &here = *(const site_of<ROWS> *)(shared + room<ROWS>::here);
    const bool moved = op.view != known->view;
    if (moved) {
        __syncthreads();
        site_of<ROWS> *to = (site_of<ROWS> *)(shared + room<ROWS>::here);
        if (threadIdx.x == 0) {
            find_site<ROWS>(to, a.views[op.view], a.counters);
            if constexpr (ROWS > 1)
                to->plain_stride = a.plain_stride;
        }
        __syncthreads();
        if (threadIdx.x <= WARPS) {
            const int key = threadIdx.x < WARPS ? to->sp.lo + 16 * (int)threadIdx.x : to->position;
            const int page = key < to->sp.end ? to->pages[key / KV_PAGE] : 0;
            (threadIdx.x < WARPS ? to->first_page[threadIdx.x] : to->last_page) = page;
        }
        __syncthreads();
        if (lane == 0)
            known->view = op.view;
    }
    const uint32_t tags = turn_tag(known, PASS_HEADS, lane);
    if (here.split >= here.sp.used && (most_used(here) == 1 || (int)blockIdx.x >= ROWS * here.p.n_heads))
        return;
    attend<D, F, ROWS>({a.places[PASS_QKV], (uint16_t *)a.places[PASS_HEADS], a.parts,
                        (__nv_bfloat16 *)op.plain, op.attention.q_norm, op.attention.k_norm,
                        op.attention.k_mean, op.attention.k_scale, op.attention.v_scale, op.attention.k,
                        op.attention.k_scales, tags >> PASS_QKV & 1, tags >> PASS_HEADS & 1,
                        here.number + 1 + i, moved});
}

#endif

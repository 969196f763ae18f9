/* SPDX-License-Identifier: Apache-2.0
 *
 * The products of persistent.cu, which are the GEMV's (gemm/gpu/any/gemv.cu): each warp owns a slice of K,
 * its x in shared memory and a ring of weights, which it keeps full over all products of the list: it needs
 * nothing of what is computed. Row tiles go round the blocks. The stream's values stay in shared memory, each
 * beside the thread that adds.
 */
#ifndef CUDA_PERSISTENT_PRODUCTS_CUH
#define CUDA_PERSISTENT_PRODUCTS_CUH

#include "cuda/gpu/sm90/handover.cuh"
#include "cuda/gpu/sm90/persistent_block.cuh"

/* ---- weights ---- */

/* Row tiles of this block. */
__device__ __forceinline__ int tiles_of(const pass_op &op) {
    const int n = op.product.rounds + ((int)blockIdx.x < op.product.rest);
    return op.kind == PASS_GATED ? 2 * n : n;
}

/* Row tile I of this block: of the gated unit tiles of the gate and their twins of up in turn. */
__device__ __forceinline__ int tile_of(const pass_op &op, int i) {
    if (op.kind != PASS_GATED)
        return (int)blockIdx.x + i * (int)gridDim.x;
    return (int)blockIdx.x + i / 2 * (int)gridDim.x + i % 2 * op.product.twin;
}

template <bool BRANCHES> __device__ __forceinline__ bool is_output(const pass_op &op) {
    return op.kind == (BRANCHES ? PASS_BRANCH : PASS_ADD);
}

/* The groups of K that a warp owns. */
struct slice {
    int first, n;

    __device__ __forceinline__ slice(int groups, int warp) {
        first = (int)((unsigned)(warp * groups) / WARPS);
        n = (int)((unsigned)((warp + 1) * groups) / WARPS) - first;
    }
};

typedef warp_ring<STAGES, UNIT_BYTES> weights_ring;

/* Weights are read once a step: what else lies in L2 is to stay there. */
__device__ __forceinline__ void copy_once(uint32_t to, const uint8_t *from, int bytes, uint32_t bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar), "l"(0x12f0000000000000) /* evict first */
                 : "memory");
}

/* What a warp's ring is filled with next: the units of its slice, row tile by row tile, op by op. Of one
 * lane; what changes with a tile lies in shared memory, for registers are short. */
struct feed {
    struct __align__(16) plan {
        int to_next, both;         /* from a tile's end to the next one, in turn with what is left of BOTH */
        int all_units, last_bytes; /* units of a tile, and bytes of its last one */
        int op, none;
    };
    const uint8_t *at;
    int units, tiles; /* left of the tile, of the op; units 0: nothing is left at all */

    /* From P's op on, the next that has some for this warp. */
    __device__ __forceinline__ void open(const pass &a, plan *p, int warp) {
        units = 0;
        for (int op = p->op; op < a.n_ops; op++) {
            const pass_op &o = a.ops[op];
            if (o.kind == PASS_ATTEND)
                continue;
            const slice s(o.product.groups, warp);
            tiles = tiles_of(o);
            if (s.n == 0 || tiles <= 0)
                continue;
            const int bytes = s.n * GEMM_GROUP_BYTES, tile = o.product.groups * GEMM_GROUP_BYTES;
            const int round = (int)gridDim.x * tile;
            units = (s.n + 1) / UNIT;
            at = o.product.w + (size_t)blockIdx.x * tile + s.first * GEMM_GROUP_BYTES;
            p->to_next = (o.kind == PASS_GATED ? o.product.twin * tile : round) - bytes;
            p->both = o.kind == PASS_GATED ? round - 2 * bytes : 2 * p->to_next;
            p->all_units = units;
            p->last_bytes = s.n % UNIT ? GEMM_GROUP_BYTES : UNIT_BYTES;
            p->op = op;
            asm volatile("prefetch.global.L2 [%0];" ::"l"(o.product.scale));
            return;
        }
    }

    __device__ __forceinline__ void put(const pass &a, plan *p, uint32_t to, uint32_t bar, int warp) {
        if (units > 1) {
            units--;
            barrier_expect(bar, UNIT_BYTES);
            copy_once(to, at, UNIT_BYTES, bar);
            at += UNIT_BYTES;
            return;
        }
        if (units == 0)
            return;
        const int4 now = *(const int4 *)p; /* to_next, both, all_units, last_bytes */
        barrier_expect(bar, now.w);
        copy_once(to, at, now.w, bar);
        at += now.w + now.x;
        units = now.z;
        p->to_next = now.y - now.x;
        if (--tiles > 0)
            return;
        p->op++;
        open(a, p, warp);
    }
};

/* ---- a warp's slice of x, BF16 * 2^64, into shared memory ---- */

__device__ __forceinline__ uint32_t lifted_pair(float a, float b) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return mul_bf16x2(*(const uint32_t *)&v, 0x5f805f80u);
}

/* Not kept in L1, which is small here and holds what registers do not. */
__device__ __forceinline__ float4 load_once(const float *p) {
    float4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(p));
    return v;
}

/* Whether a lane misses something; then the warp leaves the others some room. */
__device__ __forceinline__ bool again(uint32_t missing) {
    const bool yes = __any_sync(~0u, missing);
    if (yes)
        __nanosleep(20);
    return yes;
}

/* COUNT elements from FIRST of X, tagged or (PLAIN) not, times the norm's weights W; a lane's sum of
 * the squares of x. */
static __device__ __forceinline__ float collect_normed(const float *w, const uint32_t *x, bool plain,
                                                       uint32_t tag, uint8_t *to, int first, int count,
                                                       int k) {
    const int lane = threadIdx.x & 31;
    float squares = 0.0f;
    for (int at = 0; at < count; at += 256) {
        const int i = at + lane * 8;
        const bool there = i < count && first + i < k;
        float4 v[2] = {};
        uint4 u[2] = {};
        if (there) {
            v[0] = load_once(w + first + i);
            v[1] = load_once(w + first + i + 4);
        }
        uint32_t missing = 0;
        do {
            if (there) {
                u[0] = ask(x + first + i);
                u[1] = ask(x + first + i + 4);
                missing = plain ? 0 : (floats_missing(u[0], tag) | floats_missing(u[1], tag)) & 1;
            }
        } while (again(missing));
        uint32_t pairs[4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float a = handed(u[h].x), b = handed(u[h].y), c = handed(u[h].z), d = handed(u[h].w);
            squares = fmaf(a, a, fmaf(b, b, fmaf(c, c, fmaf(d, d, squares))));
            pairs[2 * h] = lifted_pair(a * v[h].x, b * v[h].y);
            pairs[2 * h + 1] = lifted_pair(c * v[h].z, d * v[h].w);
        }
        if (i < count)
            *(uint4 *)(to + 2 * i) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
    return squares;
}

/* The same of BF16 that was handed over; up to four loads of a lane are on their way. */
static __device__ __forceinline__ void collect_pairs(const uint16_t *x, uint32_t tags, uint8_t *to, int first,
                                                     int count, int k) {
    const int lane = threadIdx.x & 31;
    for (int at = 0; at < count; at += 1024) {
        uint4 u[4];
        uint32_t missing;
        do {
            missing = 0;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int i = at + j * 256 + lane * 8;
                if (i < count && first + i < k) {
                    u[j] = ask(x + first + i);
                    missing |= bf16_missing(u[j], tags);
                } else {
                    u[j] = make_uint4(0, 0, 0, 0);
                }
            }
        } while (again(missing));
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int i = at + j * 256 + lane * 8;
            if (i < count)
                *(uint4 *)(to + 2 * i) = make_uint4(handed_pair(u[j].x), handed_pair(u[j].y),
                                                    handed_pair(u[j].z), handed_pair(u[j].w));
        }
    }
}

/* ---- branches ----
 *
 * A branch's norm wants all of the branch, and what reads the stream all of the stream: so every block adds
 * them up for itself, in the same order, and nobody waits once more. */

/* The sum of what each warp left AT. */
__device__ __forceinline__ float all_warps(const uint8_t *at) {
    const float4 *sums = (const float4 *)at;
    float all = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS / 4; w++)
        all += (sums[w].x + sums[w].y) + (sums[w].z + sums[w].w);
    return all;
}

/* One over the root mean square of N elements. */
__device__ __forceinline__ float over_rms(float squares, int n, float eps) {
    const float mean = squares / (float)n + eps;
    const float over = rsqrtf(mean);
    return over * (1.5f - 0.5f * mean * over * over); /* Newton: the last bits */
}

enum { HELD = 2, MOST_STREAM = WARPS * HELD * 256 }; /* lots of 256 elements that a warp holds */

/* Eight elements of a lane: of the branch, of the stream before it, of the branch's norm and of the op's. */
struct joint {
    uint4 y[2], x[2];
    float4 behind[2], before[2];
};

__device__ __forceinline__ float4 handed_four(const uint4 &v) {
    return make_float4(handed(v.x), handed(v.y), handed(v.z), handed(v.w));
}

__device__ __forceinline__ float dot(const float4 &a, const float4 &b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

__device__ __forceinline__ float4 add_normed(const float4 &x, const float4 &y, float factor,
                                             const float4 &w) {
    return make_float4(fmaf(y.x * factor, w.x, x.x), fmaf(y.y * factor, w.y, x.y),
                       fmaf(y.z * factor, w.z, x.z), fmaf(y.w * factor, w.w, x.w));
}

/* The lots of a lane, COUNT elements from FIRST for the warp, as soon as they are there. */
static __device__ __forceinline__ void await_branch(joint (&v)[HELD], const pass &a, int i, uint32_t tags,
                                                    int first, int count) {
    const pass_op &op = a.ops[i];
    const bool plain = i == 3; /* the first op that reads a branch */
    const uint32_t *branch = a.places[op.from],
                   *stream = plain ? (const uint32_t *)a.stream : a.places[op.from ^ 1] + a.hidden;
    const uint32_t tag = tags >> op.from & 1, before = tags >> (op.from ^ 1) & 1;
    uint32_t missing;
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        const int at = h * 256 + (threadIdx.x & 31) * 8;
        v[h] = {};
#pragma unroll
        for (int j = 0; j < 2; j++)
            if (at < count && first + at < a.hidden) {
                v[h].behind[j] = load_once(a.ops[i - 1].product.norm + first + at + 4 * j);
                v[h].before[j] = load_once(op.product.norm + first + at + 4 * j);
            }
    }
    do {
        missing = 0;
#pragma unroll
        for (int h = 0; h < HELD; h++) {
            const int at = h * 256 + (threadIdx.x & 31) * 8;
#pragma unroll
            for (int j = 0; j < 2; j++)
                if (at < count && first + at < a.hidden) {
                    v[h].y[j] = ask(branch + first + at + 4 * j);
                    v[h].x[j] = ask(stream + first + at + 4 * j);
                    missing |= floats_missing(v[h].y[j], tag);
                    missing |= plain ? 0 : floats_missing(v[h].x[j], before);
                }
        }
    } while (again(missing & 1));
}

/* COUNT elements from FIRST of the stream, to which the norm of the branch before op I is added here, times
 * the norm's weights; a lane's sum of the stream's squares. Each element is handed on by one block. */
static __device__ __forceinline__ float collect_joined(const pass &a, int i, uint32_t tags, uint8_t *shared,
                                                       uint8_t *to, int first, int count) {
    const pass_op &op = a.ops[i], &branch = a.ops[i - 1];
    const int lane = threadIdx.x & 31, share = (a.hidden / 8 + (int)gridDim.x - 1) / (int)gridDim.x * 8;
    joint v[HELD];
    await_branch(v, a, i, tags, first, count);
    float squares = 0.0f;
#pragma unroll
    for (int h = 0; h < HELD; h++)
#pragma unroll
        for (int j = 0; j < 2; j++)
            squares = dot(handed_four(v[h].y[j]), handed_four(v[h].y[j]), squares);
    squares = warp_sum(squares);
    if (lane == 0)
        ((float *)(shared + room::branch))[threadIdx.x >> 5] = squares;
    __syncthreads();
    const float factor = over_rms(all_warps(shared + room::branch), a.hidden, branch.product.eps);
    squares = 0.0f;
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        const int at = h * 256 + lane * 8, e = first + at;
        const bool mine =
            at < count && e < a.hidden && (unsigned)(e - (int)blockIdx.x * share) < (unsigned)share;
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float4 s =
                add_normed(handed_four(v[h].x[j]), handed_four(v[h].y[j]), factor, v[h].behind[j]);
            const float4 w = v[h].before[j];
            squares = dot(s, s, squares);
            if (at < count)
                *(uint2 *)(to + 2 * at + 8 * j) =
                    make_uint2(lifted_pair(s.x * w.x, s.y * w.y), lifted_pair(s.z * w.z, s.w * w.w));
            if (mine)
                hand_four(a.places[op.from] + a.hidden + e + 4 * j, s, tags >> op.from & 1);
            if (mine && branch.plain)
                ((float4 *)branch.plain)[e / 4 + j] = s;
        }
    }
    return squares;
}

/* ---- products ---- */

__device__ __forceinline__ feed::plan *plan_of(uint8_t *shared, int warp) {
    return (feed::plan *)(shared + room::feeds + warp * 32);
}

__device__ __forceinline__ void give(const pass &a, const pass_op &op, int row, float v, uint32_t tag) {
    if (op.to == PASS_UNIT) {
        hand_bf16((uint16_t *)a.places[PASS_UNIT] + row, v, tag);
        if (op.plain)
            ((__nv_bfloat16 *)op.plain)[row] = __float2bfloat16_rn(v);
        return;
    }
    if (op.to != PASS_NOWHERE)
        hand_float(a.places[op.to] + row, v, tag);
    if (op.plain)
        ((float *)op.plain)[row] = v;
}

/* Row tiles from TILE on, a thread a row: the sums of all warps, and what becomes of them. FACTOR: the
 * tensor's scale. */
template <bool BRANCHES>
static __device__ __forceinline__ void flush(const pass &a, const pass_op &op, uint8_t *shared, int parity,
                                             int tile, float factor, uint32_t tag) {
    const float4 *p =
        (const float4 *)((float *)(shared + room::sums) + parity * SUMS_SET + threadIdx.x * SUMS_ROW);
    float v = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS / 4; w++) {
        const float4 four = p[w];
        v += (four.x + four.y) + (four.z + four.w);
    }
    if (!is_output<BRANCHES>(op))
        factor *= over_rms(all_warps(shared + room::squares), op.product.k, op.product.eps);
    v *= 0x1p62f * factor;
    const int row = tile_of(op, tile + threadIdx.x / 16) * GEMM_ROW_TILE + threadIdx.x % 16;
    if (op.kind == PASS_GATED) { /* slots come in pairs */
        const float up = __shfl_down_sync(~0u, v, 16);
        if ((threadIdx.x & 31) < 16)
            give(a, op, row, gated_unit(v, up, op.gelu), tag);
        return;
    }
    if (op.product.bias)
        v += op.product.bias[row];
    if (BRANCHES && is_output<true>(op) && op.product.norm) {
        hand_float(a.places[op.to] + row, v, tag);
        return;
    }
    if (!BRANCHES && is_output<false>(op)) {
        float *stream =
            (float *)(shared + room::stream) + threadIdx.x; /* all tiles of PASS_ADD are in one flush */
        v = *stream += v;
    }
    give(a, op, row, v, tag);
}

/* A warp's sums of a row tile to AT, the lane's row: of a row four lanes have a part. */
__device__ __forceinline__ void leave_sums(uint32_t at, const float (&acc)[2], int t) {
    const bool swap = t & 1;
    float keep = swap ? acc[1] : acc[0], send = swap ? acc[0] : acc[1];
    keep += __shfl_xor_sync(~0u, send, 1);
    keep += __shfl_xor_sync(~0u, keep, 2);
    if (t < 2)
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(keep) : "memory");
}

/* The x of a warp's slice S, as OP, the list's I-th, reads it; of a norm a lane's sum of the stream's
 * squares. */
template <bool BRANCHES>
static __device__ __forceinline__ float bring(const pass &a, const pass_op &op, int i, uint32_t tags,
                                              const slice &s, uint8_t *shared) {
    uint8_t *to = shared + room::x + s.first * GEMM_GROUP_K * 2;
    const int first = s.first * GEMM_GROUP_K, count = s.n * GEMM_GROUP_K;
    const uint32_t tag = tags >> op.from & 1;
    if (is_output<BRANCHES>(op)) {
        collect_pairs((const uint16_t *)a.places[op.from], tag ? BF16_TAGS : 0, to, first, count,
                      op.product.k);
        return 0.0f;
    }
    const bool plain = op.from == PASS_NOWHERE;
    if (BRANCHES && !plain)
        return collect_joined(a, i, tags, shared, to, first, count);
    return collect_normed(op.product.norm, plain ? (const uint32_t *)a.stream : a.places[op.from], plain, tag,
                          to, first, count, op.product.k);
}

template <bool BRANCHES>
static __device__ __forceinline__ void multiply(const pass &a, const pass_op &op, int index,
                                                weights_ring &ring, feed &next, uint8_t *shared, int warp,
                                                int lane) {
    const slice s(op.product.groups, warp);
    const int n_tiles = tiles_of(op);
    memo *known = memo_of(shared, warp);
    const uint32_t tags = turn_tag(known, op.to, lane);
    if (n_tiles <= 0 && !BRANCHES)
        return;
    const float squares = bring<BRANCHES>(a, op, index, tags, s, shared);
    if (n_tiles <= 0)
        return;
    __syncwarp();
    const float tensor_scale = load_scale(op.product.scale);
    const int g = lane >> 2, t = lane & 3;
    const bool diagonal = g == 2 * t; /* the others read the zeros, again and again */
    uint32_t step = diagonal ? 256 : 0;
    uint32_t x0 = diagonal ? shared_address(shared) + room::x + s.first * GEMM_GROUP_K * 2 + t * 32
                           : shared_address(shared) + room::zeros;
    int parity = known->parity;
    uint32_t mine_at =
        shared_address(shared) + room::sums + (parity * SUMS_SET + gemm_tile_row(g, t) * SUMS_ROW + warp) * 4;
    asm volatile("" : "+r"(step), "+r"(x0)); /* kept: made again and again they cost more than a register */
    int slot = 0;
    for (int i = 0; i < n_tiles; i++) {
        float acc[2] = {0.0f, 0.0f};
        uint32_t x = x0;
        for (int left = s.n; left > 0; left -= UNIT, x += UNIT * step) {
            const uint32_t stage = ring.wait();
            add_unit<1>(stage + lane * 16, stage + 1024 + lane * 4, x, step, acc);
            if (left > 1)
                add_unit<1>(stage + GEMM_GROUP_BYTES + lane * 16, stage + GEMM_GROUP_BYTES + 1024 + lane * 4,
                            x + step, step, acc);
            const int free = ring.release();
            if (elected())
                next.put(a, plan_of(shared, warp), stage, ring.bars + 8 * free, warp);
        }
        leave_sums(mine_at, acc, t);
        if (i == 0 && !is_output<BRANCHES>(op)) {
            const float all = warp_sum(squares);
            if (lane == 0) /* read after a barrier, and written again after the next output's */
                ((float *)(shared + room::squares))[warp] = all;
        }
        mine_at += 16 * SUMS_ROW * 4;
        if (++slot < FLUSH_TILES && i < n_tiles - 1)
            continue;
        __syncthreads();
        if ((int)threadIdx.x < slot * 16) /* whole warps of GATED */
            flush<BRANCHES>(a, op, shared, parity, i + 1 - slot, tensor_scale, known->tags >> op.to & 1);
        mine_at += (parity ? -SUMS_SET : SUMS_SET) * 4 - slot * 16 * SUMS_ROW * 4;
        slot = 0;
        parity ^= 1;
    }
    __syncwarp();
    if (lane == 0)
        known->parity = parity;
}

#endif

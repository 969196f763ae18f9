/* SPDX-License-Identifier: Apache-2.0
 *
 * The products of persistent.cu, which are the GEMV's (gemm/gpu/any/gemv.cu): each warp owns a slice of K,
 * its x in shared memory and a ring of weights, which it keeps full over all products of the list: it needs
 * nothing of what is computed. Row tiles go round the blocks. The stream's values stay in shared memory, each
 * beside the thread that adds, but where branches join it (persistent_input.cuh).
 */
#ifndef CUDA_PERSISTENT_PRODUCTS_CUH
#define CUDA_PERSISTENT_PRODUCTS_CUH

#include "cuda/gpu/sm90/handover.cuh"
#include "cuda/gpu/sm90/persistent_input.cuh"

/* ---- weights ---- */

/* This block's number among those that the row tiles of OP go round. */
template <bool BRANCHES> __device__ __forceinline__ int turn_of(const pass_op &op) {
    const int turn = (int)blockIdx.x - (BRANCHES ? op.product.first : 0);
    return BRANCHES && turn < 0 ? turn + (int)gridDim.x : turn;
}

/* Row tiles of this block. */
template <bool BRANCHES> __device__ __forceinline__ int tiles_of(const pass_op &op) {
    const int n = op.product.rounds + (turn_of<BRANCHES>(op) < op.product.rest);
    return op.kind == PASS_GATED ? 2 * n : n;
}

/* Row tile I of this block: of the gated unit tiles of the gate and their twins of up in turn. */
template <bool BRANCHES> __device__ __forceinline__ int tile_of(const pass_op &op, int i) {
    if (op.kind != PASS_GATED)
        return turn_of<BRANCHES>(op) + i * (int)gridDim.x;
    return turn_of<BRANCHES>(op) + i / 2 * (int)gridDim.x + i % 2 * op.product.twin;
}

template <bool BRANCHES> __device__ __forceinline__ bool is_output(const pass_op &op) {
    return op.kind == (BRANCHES ? PASS_BRANCH : PASS_ADD);
}

/* The groups of K that a warp owns. Every fourth warp is on the same scheduler, whose instructions bind: so
 * those with one group more are neighbours. */
struct slice {
    int first, n;

    __device__ __forceinline__ slice(int groups, int warp) {
        const int least = (int)((unsigned)groups / WARPS), more = groups % WARPS;
        first = warp * least + min(warp, more);
        n = least + (warp < more);
    }
};

typedef warp_ring<STAGES, UNIT_BYTES> weights_ring;

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
    template <bool BRANCHES> __device__ __forceinline__ void open(const pass &a, plan *p, int warp) {
        units = 0;
        for (int op = p->op; op < a.n_ops; op++) {
            const pass_op &o = a.ops[op];
            if (o.kind == PASS_ATTEND)
                continue;
            const slice s(o.product.groups, warp);
            tiles = tiles_of<BRANCHES>(o);
            if (s.n == 0 || tiles <= 0)
                continue;
            const int bytes = s.n * GEMM_GROUP_BYTES, tile = o.product.groups * GEMM_GROUP_BYTES;
            const int round = (int)gridDim.x * tile;
            units = (s.n + 1) / UNIT;
            at = o.product.w + (size_t)turn_of<BRANCHES>(o) * tile + s.first * GEMM_GROUP_BYTES;
            p->to_next = (o.kind == PASS_GATED ? o.product.twin * tile : round) - bytes;
            p->both = o.kind == PASS_GATED ? round - 2 * bytes : 2 * p->to_next;
            p->all_units = units;
            p->last_bytes = s.n % UNIT ? GEMM_GROUP_BYTES : UNIT_BYTES;
            p->op = op;
            asm volatile("prefetch.global.L2 [%0];" ::"l"(o.product.scale));
            return;
        }
    }

    template <bool BRANCHES>
    __device__ __forceinline__ void put(const pass &a, plan *p, uint32_t to, uint32_t bar, int warp) {
        if (units > 1) {
            units--;
            barrier_expect(bar, UNIT_BYTES);
            bulk_copy_once(to, at, UNIT_BYTES, bar);
            at += UNIT_BYTES;
            return;
        }
        if (units == 0)
            return;
        const int4 now = *(const int4 *)p; /* to_next, both, all_units, last_bytes */
        barrier_expect(bar, now.w);
        bulk_copy_once(to, at, now.w, bar);
        at += now.w + now.x;
        units = now.z;
        p->to_next = now.y - now.x;
        if (--tiles > 0)
            return;
        p->op++;
        open<BRANCHES>(a, p, warp);
    }
};

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
    const int row = tile_of<BRANCHES>(op, tile + threadIdx.x / 16) * GEMM_ROW_TILE + threadIdx.x % 16;
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
        collect_pairs<BRANCHES ? 6 : 4>((const uint16_t *)a.places[op.from], tag ? BF16_TAGS : 0, to, first,
                                        count, op.product.k);
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
    const int n_tiles = tiles_of<BRANCHES>(op);
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
                next.put<BRANCHES>(a, plan_of(shared, warp), stage, ring.bars + 8 * free, warp);
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

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

template <int ROWS> using weights_ring = warp_ring<room<ROWS>::stages, UNIT_BYTES>;

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

template <int ROWS> __device__ __forceinline__ feed::plan *plan_of(uint8_t *shared, int warp) {
    return (feed::plan *)(shared + room<ROWS>::feeds + warp * 32);
}

/* How many values OP hands over of a token. */
__device__ __forceinline__ int width_of(const pass_op &op) {
    return (op.product.rounds * (int)gridDim.x + op.product.rest) * GEMM_ROW_TILE;
}

/* V, row ROW of the token's. */
template <int ROWS>
__device__ __forceinline__ void give(const pass &a, const pass_op &op, int token, int row, float v,
                                     uint32_t tag) {
    const int at = ROWS == 1 ? row : row + token * width_of(op);
    const int plain_at =
        ROWS == 1 ? row : row + token * (op.kind == PASS_ADD ? a.stream_stride : a.plain_stride);
    if (op.to == PASS_UNIT) {
        hand_bf16((uint16_t *)a.places[PASS_UNIT] + at, v, tag);
        if (op.plain)
            ((__nv_bfloat16 *)op.plain)[plain_at] = __float2bfloat16_rn(v);
        return;
    }
    if (op.to != PASS_NOWHERE)
        hand_float(a.places[op.to] + at, v, tag);
    if (op.plain)
        ((float *)op.plain)[plain_at] = v;
}

/* Row tiles from TILE on, a thread a row and token: the sums of all warps, and what becomes of them. FACTOR:
 * the tensor's scale. */
template <bool BRANCHES, int ROWS>
static __device__ __forceinline__ void flush(const pass &a, const pass_op &op, uint8_t *shared, int parity,
                                             int tile, float factor, uint32_t tag) {
    const unsigned token = ROWS == 1 ? 0 : threadIdx.x / FLUSH_ROWS, mine = threadIdx.x - token * FLUSH_ROWS;
    const float4 *p = (const float4 *)((float *)(shared + room<ROWS>::sums) + parity * ROWS * SUMS_SET +
                                       threadIdx.x * SUMS_ROW);
    float v = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS / 4; w++) {
        const float4 four = p[w];
        v += (four.x + four.y) + (four.z + four.w);
    }
    if (!is_output<BRANCHES>(op))
        factor *= over_rms(all_warps(shared + room<ROWS>::squares + token * WARPS * (int)sizeof(float)),
                           op.product.k, op.product.eps);
    v *= 0x1p62f * factor;
    const int row = tile_of<BRANCHES>(op, tile + mine / 16) * GEMM_ROW_TILE + mine % 16;
    if (op.kind == PASS_GATED) { /* slots come in pairs */
        const float up = __shfl_down_sync(~0u, v, 16);
        if ((threadIdx.x & 31) < 16)
            give<ROWS>(a, op, token, row, gated_unit(v, up, op.gelu), tag);
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
            (float *)(shared + room<ROWS>::stream) + threadIdx.x; /* all tiles of PASS_ADD are in one flush */
        v = *stream += v;
    }
    give<ROWS>(a, op, token, row, v, tag);
}

/* A warp's sums of a row tile to AT, the lane's row (and token): of a row four lanes have a part. */
__device__ __forceinline__ void leave_sums(uint32_t at, const float (&acc)[4], int t) {
    const bool swap = t & 1, second = t & 2;
    float a = swap ? acc[1] : acc[0], b = swap ? acc[3] : acc[2];
    a += __shfl_xor_sync(~0u, swap ? acc[0] : acc[1], 1);
    b += __shfl_xor_sync(~0u, swap ? acc[2] : acc[3], 1);
    const float keep = (second ? b : a) + __shfl_xor_sync(~0u, second ? a : b, 2);
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(keep) : "memory");
}

__device__ __forceinline__ void leave_sums(uint32_t at, const float (&acc)[2], int t) {
    const bool swap = t & 1;
    float keep = swap ? acc[1] : acc[0], send = swap ? acc[0] : acc[1];
    keep += __shfl_xor_sync(~0u, send, 1);
    keep += __shfl_xor_sync(~0u, keep, 2);
    if (t < 2)
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(keep) : "memory");
}

/* The x of a warp's slice S, as OP, the list's I-th, reads it; of a norm a lane's sums of the stream's
 * squares. */
template <bool BRANCHES, int ROWS>
static __device__ __forceinline__ void bring(const pass &a, const pass_op &op, int i, uint32_t tags,
                                             const slice &s, uint8_t *shared, float (&squares)[ROWS]) {
    uint8_t *to = shared + room<ROWS>::x + s.first * GEMM_GROUP_K * 2;
    const int first = s.first * GEMM_GROUP_K, count = s.n * GEMM_GROUP_K,
              to_stride = ROWS == 1 ? 0 : room<ROWS>::x_bytes(a.max_k);
    const uint32_t tag = tags >> op.from & 1;
    if (is_output<BRANCHES>(op)) {
        collect_pairs<BRANCHES ? 6 : 4, ROWS>((const uint16_t *)a.places[op.from], tag ? BF16_TAGS : 0, to,
                                              to_stride, first, count, op.product.k);
        return;
    }
    const bool plain = op.from == PASS_NOWHERE;
    if constexpr (BRANCHES) {
        if (!plain) {
            squares[0] = collect_joined(a, i, tags, shared, to, first, count);
            return;
        }
    }
    const int stride = ROWS == 1 ? 0 : plain ? a.stream_stride : op.product.k;
    collect_normed<ROWS>(op.product.norm, plain ? (const uint32_t *)a.stream : a.places[op.from], stride,
                         plain, tag, to, to_stride, first, count, op.product.k, squares);
}

template <bool BRANCHES, int ROWS>
static __device__ __forceinline__ void multiply(const pass &a, const pass_op &op, int index,
                                                weights_ring<ROWS> &ring, feed &next, uint8_t *shared,
                                                int warp, int lane) {
    const slice s(op.product.groups, warp);
    const int n_tiles = tiles_of<BRANCHES>(op);
    memo *known = memo_of<ROWS>(shared, warp);
    const uint32_t tags = turn_tag(known, op.to, lane);
    if (n_tiles <= 0 && !BRANCHES)
        return;
    float squares[ROWS] = {};
    bring<BRANCHES, ROWS>(a, op, index, tags, s, shared, squares);
    if (n_tiles <= 0)
        return;
    __syncwarp();
    const float tensor_scale = load_scale(op.product.scale);
    const int g = lane >> 2, t = lane & 3;
    /* the others read the zeros, again and again; of two tokens odd columns are the second one's */
    const bool diagonal = ROWS == 1 ? g == 2 * t : g / 2 == t;
    uint32_t step = diagonal ? 256 : 0;
    uint32_t x0 = diagonal ? shared_address(shared) + room<ROWS>::x + s.first * GEMM_GROUP_K * 2 + t * 32
                           : shared_address(shared) + room<ROWS>::zeros;
    if (ROWS > 1 && diagonal)
        x0 += (g & 1) * room<ROWS>::x_bytes(a.max_k);
    int parity = known->parity;
    constexpr int set = ROWS * SUMS_SET;
    uint32_t mine_at = shared_address(shared) + room<ROWS>::sums +
                       (parity * set + gemm_tile_row(g, ROWS == 1 ? t : t & 1) * SUMS_ROW + warp) * 4;
    if (ROWS > 1)
        mine_at += t / 2 * SUMS_SET * 4;
    asm volatile("" : "+r"(step), "+r"(x0)); /* kept: made again and again they cost more than a register */
    int slot = 0;
    for (int i = 0; i < n_tiles; i++) {
        float acc[2 * ROWS] = {};
        uint32_t x = x0;
        for (int left = s.n; left > 0; left -= UNIT, x += UNIT * step) {
            const uint32_t stage = ring.wait();
            add_unit<1, ROWS>(stage + lane * 16, stage + 1024 + lane * 4, x, step, acc);
            if (left > 1)
                add_unit<1, ROWS>(stage + GEMM_GROUP_BYTES + lane * 16,
                                  stage + GEMM_GROUP_BYTES + 1024 + lane * 4, x + step, step, acc);
            const int free = ring.release();
            if (elected())
                next.put<BRANCHES>(a, plan_of<ROWS>(shared, warp), stage, ring.bars + 8 * free, warp);
        }
        leave_sums(mine_at, acc, t);
        if (i == 0 && !is_output<BRANCHES>(op)) {
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                const float all = warp_sum(squares[r]);
                if (lane == 0) /* read after a barrier, and written again after the next output's */
                    ((float *)(shared + room<ROWS>::squares))[r * WARPS + warp] = all;
            }
        }
        mine_at += 16 * SUMS_ROW * 4;
        if (++slot < FLUSH_TILES && i < n_tiles - 1)
            continue;
        __syncthreads();
        if (ROWS == 1 ? (int)threadIdx.x < slot * 16
                      : (int)threadIdx.x < ROWS * FLUSH_ROWS &&
                            (int)threadIdx.x % FLUSH_ROWS < slot * 16) /* whole warps of GATED */
            flush<BRANCHES, ROWS>(a, op, shared, parity, i + 1 - slot, tensor_scale,
                                  known->tags >> op.to & 1);
        mine_at += (parity ? -set : set) * 4 - slot * 16 * SUMS_ROW * 4;
        slot = 0;
        parity ^= 1;
    }
    __syncwarp();
    if (lane == 0)
        known->parity = parity;
}

#endif

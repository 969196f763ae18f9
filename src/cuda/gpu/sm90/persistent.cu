/* SPDX-License-Identifier: Apache-2.0
 *
 * One token through all layers in one launch: a block of 16 warps on every multiprocessor walks a list of
 * products and attentions (cuda/pass.h) and hands its results to the other blocks through memory that tells
 * by itself whether a value is there (handover.cuh). There is no barrier between blocks. What stands between
 * kernels costs some 2 us each; a hand-over costs 0.9, and weights are on their way across it.
 *
 * Here are the walk and its launch; a block's memory, products and attention lie in persistent_*.cuh.
 *
 * All blocks must run at once (a cooperative launch), and each must have a tile of every PASS_ADD.
 * Bytes moved: weights, keys and values once; what is handed over once a block, from L2.
 */
#include "cuda/gpu/sm90/persistent_attention.cuh"
#include "cuda/gpu/sm90/persistent_products.cuh"

/* What a warp's products keep in registers, in shared memory while attention has need of them. */
struct parked {
    feed next; /* the elected lane's */
    uint32_t phase;
    int at; /* of the ring */
};

template <int ROWS> __device__ __forceinline__ parked *parked_of(uint8_t *shared, int warp) {
    return (parked *)(shared + room<ROWS>::parked + warp * 32);
}

template <int D, kv_format F, bool BRANCHES, int ROWS>
static __global__ void __launch_bounds__(THREADS, 1) persistent(const __grid_constant__ pass a) {
    typedef room<ROWS> room;
    extern __shared__ __align__(128) uint8_t shared[];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    asm volatile("" : "+r"(warp), "+r"(lane)); /* kept: made again and again they cost more than a register */
    weights_ring<ROWS> ring;
    feed next;
    memo *known = memo_of<ROWS>(shared, warp);
    auto find_ring = [&] {
        ring.data = shared_address(shared) + warp * room::stages * UNIT_BYTES;
        ring.bars = shared_address(shared) + room::bars + warp * room::stages * 8;
        asm volatile("" : "+r"(ring.data), "+r"(ring.bars));
    };
    ring.open(shared_address(shared) + warp * room::stages * UNIT_BYTES,
              shared_address(shared) + room::bars + warp * room::stages * 8);
    find_ring();
    if (elected()) {
        feed::plan *plan = plan_of<ROWS>(shared, warp);
        plan->op = 0;
        next.open<BRANCHES>(a, plan, warp);
        for (int s = 0; s < room::stages; s++)
            next.put<BRANCHES>(a, plan, ring.data + s * UNIT_BYTES, ring.bars + 8 * s, warp);
    }
    if (threadIdx.x < 16)
        *(uint4 *)(shared + room::zeros + threadIdx.x * 16) = make_uint4(0, 0, 0, 0);
    const int token = ROWS == 1 ? 0 : threadIdx.x / FLUSH_ROWS, mine = (int)threadIdx.x - token * FLUSH_ROWS;
    const int row = ((int)blockIdx.x + mine / 16 * (int)gridDim.x) * GEMM_ROW_TILE + mine % 16;
    if (row < a.hidden && threadIdx.x < ROWS * FLUSH_ROWS)
        ((float *)(shared + room::stream))[threadIdx.x] =
            __ldcg(a.stream + row + (ROWS == 1 ? 0 : token * a.stream_stride));
    if (lane == 0)
        *known = {a.counters[0], 0, -1, 0};
    __syncthreads(); /* zeros and stream are there */
    for (int i = 0; i < a.n_ops; i = known->op) {
        const pass_op &op = a.ops[i];
        __syncwarp();
        if (lane == 0)
            known->op = i + 1;
        if (op.kind == PASS_ATTEND) {
            if (elected())
                *parked_of<ROWS>(shared, warp) = {next, ring.phase, ring.at};
            attend_here<D, F, ROWS>(a, op, i, known, shared, lane);
            __syncwarp();
            asm volatile("mov.u32 %0, %%tid.x;" : "=r"(warp)::"memory");
            lane = warp & 31, warp >>= 5;
            asm volatile("" : "+r"(warp), "+r"(lane));
            const parked was = *parked_of<ROWS>(shared, warp);
            next = was.next;
            ring.phase = was.phase, ring.at = was.at;
            known = memo_of<ROWS>(shared, warp);
            find_ring();
        } else {
            multiply<BRANCHES, ROWS>(a, op, i, ring, next, shared, warp, lane);
            __syncwarp();
        }
    }
    if (threadIdx.x == 0) {
        __threadfence(); /* this block has read the counters before it says so */
        if (atomicAdd(&a.counters[2], 1u) == gridDim.x - 1) {
            a.counters[0] = known->tags;
            a.counters[1] += a.n_ops;
            a.counters[2] = 0;
        }
    }
}

/* ---- launching ---- */

enum { MOST_SHARED = 226 * 1024 }; /* of a block; what is left of 227 KB is static */

static_assert(sizeof(pass) <= 32764, "a kernel's parameters");
static_assert(sizeof(feed::plan) <= 32 && sizeof(memo) == 16 && sizeof(parked) <= 32,
              "room has so much for each warp");
static_assert(PASS_COLUMNS == COLUMNS, "query heads of a KV head, here and in decode.cuh");
static_assert(FLUSH_TILES % 2 == 0 && PASS_ROWS * FLUSH_ROWS <= THREADS,
              "gate and up in pairs; a thread a row and token");
static_assert(room<1>::sums +
                      (WARPS * PASS_COLUMNS * (128 + 12) + (PASS_COLUMNS + 1) * (128 + 16) + 128) * 4 <=
                  MOST_SHARED,
              "attention's shared memory with the most heads");

extern "C" int pass_blocks(const cuda_lane *lane, int hidden) {
    return min(lane->n_sms, hidden / GEMM_ROW_TILE);
}

extern "C" bool pass_serves(const cuda_lane *lane, const attn_view *p, kv_format format, int hidden,
                            int max_k, bool branches, int rows) {
    const int group = p->n_heads / p->n_kv_heads, n_blocks = pass_blocks(lane, hidden);
    const int shared = rows == 1 ? shared_bytes<1>(max_k, group, p->head_dim)
                                 : shared_bytes<PASS_ROWS>(max_k, group, p->head_dim);
    return lane->wgmma && ((p->head_dim == 64 && !branches) || p->head_dim == 128) &&
           (!branches || hidden <= MOST_STREAM) && (format == KV_FP8 || format == KV_BF16) &&
           (rows == 1 || (rows == PASS_ROWS && !branches)) && group <= PASS_COLUMNS &&
           rows * p->n_kv_heads <= n_blocks && 2 * p->n_freq <= p->head_dim &&
           (hidden / GEMM_ROW_TILE + n_blocks - 1) / n_blocks <= FLUSH_TILES && shared <= MOST_SHARED;
}

/* The most that a launch takes: always the same number, for other threads launch the same kernel. */
template <int D, kv_format F, bool BRANCHES, int ROWS> static cudaError_t allow_shared(void) {
    return cudaFuncSetAttribute(persistent<D, F, BRANCHES, ROWS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                MOST_SHARED);
}

template <int D, kv_format F, bool BRANCHES, int ROWS>
static bool resides(const cuda_lane *lane, int n_blocks, int shared) {
    int blocks = 0;
    const bool known = allow_shared<D, F, BRANCHES, ROWS>() == cudaSuccess &&
                       cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                           &blocks, persistent<D, F, BRANCHES, ROWS>, THREADS, (size_t)shared) == cudaSuccess;
    if (!known)
        cudaGetLastError();
    return known && blocks * lane->n_sms >= n_blocks;
}

template <int D, bool BRANCHES, int ROWS>
static bool both_reside(const cuda_lane *lane, const attn_view *p, int hidden, int max_k) {
    const int n_blocks = pass_blocks(lane, hidden),
              shared = shared_bytes<ROWS>(max_k, p->n_heads / p->n_kv_heads, p->head_dim);
    return resides<D, KV_FP8, BRANCHES, ROWS>(lane, n_blocks, shared) &&
           resides<D, KV_BF16, BRANCHES, ROWS>(lane, n_blocks, shared);
}

extern "C" bool pass_resides(const cuda_lane *lane, const attn_view *p, int hidden, int max_k, bool branches,
                             int rows) {
    if (branches)
        return both_reside<128, true, 1>(lane, p, hidden, max_k);
    if (rows == 1)
        return p->head_dim == 64 ? both_reside<64, false, 1>(lane, p, hidden, max_k)
                                 : both_reside<128, false, 1>(lane, p, hidden, max_k);
    return p->head_dim == 64 ? both_reside<64, false, PASS_ROWS>(lane, p, hidden, max_k)
                             : both_reside<128, false, PASS_ROWS>(lane, p, hidden, max_k);
}

template <int D, kv_format F, bool BRANCHES, int ROWS>
static int launch(const cuda_lane *lane, const pass *p) {
    int shared = shared_bytes<ROWS>(p->max_k, 0, 0);
    for (int i = 0; i < p->n_views; i++)
        shared =
            max(shared, shared_bytes<ROWS>(p->max_k, p->views[i].p.n_heads / p->views[i].p.n_kv_heads, D));
    int status = allow_shared<D, F, BRANCHES, ROWS>();
    if (status != cudaSuccess || lane->off)
        return status;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
    config.gridDim = dim3((unsigned)p->n_blocks);
    config.blockDim = dim3(THREADS);
    config.dynamicSmemBytes = (size_t)shared;
    config.stream = (cudaStream_t)lane->stream;
    config.attrs = &attribute;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, persistent<D, F, BRANCHES, ROWS>, *p);
}

template <int D, bool BRANCHES, int ROWS> static int launch_format(const cuda_lane *lane, const pass *p) {
    return p->format == KV_FP8 ? launch<D, KV_FP8, BRANCHES, ROWS>(lane, p)
                               : launch<D, KV_BF16, BRANCHES, ROWS>(lane, p);
}

extern "C" int pass_launch(const cuda_lane *lane, const pass *p) {
    if (p->n_ops == 0 || (p->n_rows != 1 && (p->n_rows != PASS_ROWS || p->branches)))
        return cudaErrorInvalidValue;
    const bool narrow = p->n_views > 0 && p->views[0].p.head_dim == 64;
    if (p->branches)
        return launch_format<128, true, 1>(lane, p);
    if (p->n_rows == 1)
        return narrow ? launch_format<64, false, 1>(lane, p) : launch_format<128, false, 1>(lane, p);
    return narrow ? launch_format<64, false, PASS_ROWS>(lane, p)
                  : launch_format<128, false, PASS_ROWS>(lane, p);
}

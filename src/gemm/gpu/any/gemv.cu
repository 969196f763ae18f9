/* SPDX-License-Identifier: Apache-2.0
 *
 * One token: d[n] = W x, exact. mma.sync m16n8k16 with a block-diagonal B: column 2t is non-zero only in the
 * lanes g = 2t, which hold x of block t, so the four chained mma of 64 k leave the unscaled sum of block t of a
 * row in the very lane that holds its scale: two FFMA for 128 k of a row instead of a scale per weight.
 *
 * A block has 8 warps, each owns a slice of K (its own x in shared memory, its own ring of weights, so no barrier but one
 * per 4 row tiles, where the warps' sums meet). Row tiles of 16 go round the blocks. A stage is 16 rows x 256 k, 2,304 B.
 * x is BF16 * 2^64 (exact below 2^64), weights are BF16 * 2^-126, sums * 2^62.
 *
 * In a chain (gemm_chain) x is FP32 and normed as it is loaded: x * w goes into the product, each warp adds up the
 * squares of its slice, and 1 / rms is a factor of the sums. GATED: row tiles come in pairs, one of the gate and its
 * twin of up, and what is stored is the gated unit of both.
 *
 * Bytes moved: the packed weights once, x once a block. Measured: docs/gpu/gemv.md.
 */
#include "gemm/gpu/gemv.cuh"
#include "gemm/gpu/ring.cuh"

#define WARPS       8
#define FLUSH_TILES 4

enum gemv_kind { PLAIN, NORMED, GATED };

struct gemv_args {
    const uint8_t *w;
    const __nv_bfloat16 *x;
    int k, groups, row_tiles;
    gemm_out out;
    gemm_norm norm; /* x is the norm's, where it has one */
    gemm_unit unit;
};

/* This warp's slice of x, COUNT elements from FIRST, times 2^64; zeros past k. Four loads are in flight. */
GEMM_DEV void load_x(const gemv_args &a, uint8_t *to, int first, int count) {
    for (int i0 = (threadIdx.x & 31) * 8; i0 < count; i0 += 1024) {
        uint4 v[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int i = i0 + j * 256;
            v[j] = i < count && first + i < a.k ? __ldcg((const uint4 *)(a.x + first + i)) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int i = i0 + j * 256;
            v[j].x = mul_bf16x2(v[j].x, 0x5f805f80u);
            v[j].y = mul_bf16x2(v[j].y, 0x5f805f80u);
            v[j].z = mul_bf16x2(v[j].z, 0x5f805f80u);
            v[j].w = mul_bf16x2(v[j].w, 0x5f805f80u);
            if (i < count)
                *(uint4 *)(to + 2 * i) = v[j];
        }
    }
    __syncwarp();
}

/* 16 elements of a lane, from I0 on, of those of this warp's slice. */
template <bool CONST> GEMM_DEV void load_sixteen(float4 *v, const float *p, int i0, int first, int count, int k) {
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int i = i0 + j / 2 * 256 + j % 2 * 4;
        const float4 *at = (const float4 *)(p + first + i);
        v[j] = i < count && first + i < k ? CONST ? __ldg(at) : __ldcg(at) : make_float4(0, 0, 0, 0);
    }
}

/* The same of x times the norm's weights, of which W are the lane's first, loaded before the kernel before has ended;
 * the sum of the squares of x comes back, in every lane. */
GEMM_DEV float load_normed(const gemv_args &a, uint8_t *to, int first, int count, float4 (&w)[4]) {
    float squares = 0.0f;
    for (int i0 = (threadIdx.x & 31) * 8, start = i0; i0 < count; i0 += 512) {
        float4 x[4];
        load_sixteen<false>(x, a.norm.x, i0, first, count, a.k);
        if (i0 != start)
            load_sixteen<true>(w, a.norm.w, i0, first, count, a.k);
#pragma unroll
        for (int j = 0; j < 4; j += 2) {
            const int i = i0 + j / 2 * 256;
            uint32_t pairs[4];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const float4 u = x[j + h], v = w[j + h];
                squares = fmaf(u.x, u.x, fmaf(u.y, u.y, fmaf(u.z, u.z, fmaf(u.w, u.w, squares))));
                const __nv_bfloat162 lo = __floats2bfloat162_rn(u.x * v.x, u.y * v.y);
                const __nv_bfloat162 hi = __floats2bfloat162_rn(u.z * v.z, u.w * v.w);
                pairs[2 * h] = mul_bf16x2(*(const uint32_t *)&lo, 0x5f805f80u);
                pairs[2 * h + 1] = mul_bf16x2(*(const uint32_t *)&hi, 0x5f805f80u);
            }
            if (i < count)
                *(uint4 *)(to + 2 * i) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    }
#pragma unroll
    for (int i = 16; i; i >>= 1)
        squares += __shfl_xor_sync(~0u, squares, i);
    __syncwarp();
    return squares;
}

/* Bytes of shared memory: the rings, x, a line of zeros, two sets of sums, the warps' squares. */
static size_t shared_bytes(int stages, int groups) {
    return (size_t)WARPS * stages * (UNIT_BYTES + 8) + (size_t)groups * GEMM_GROUP_K * 2 + 256 +
           2 * FLUSH_TILES * WARPS * 16 * sizeof(float) + WARPS * sizeof(float);
}

/* Row tile I of this block. GATED: tiles of the gate and their twins of up in turn. */
template <gemv_kind KIND> GEMM_DEV int tile_of(const gemv_args &a, int i) {
    if (KIND == GATED)
        return (int)blockIdx.x + i / 2 * (int)gridDim.x + i % 2 * (a.row_tiles / 2);
    return (int)blockIdx.x + i * (int)gridDim.x;
}

/* 1 / sqrt(mean of x^2 + eps) from the warps' sums. */
GEMM_DEV float over_rms(const float *squares, const gemv_args &a) {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++)
        sum += squares[w];
    return 1.0f / sqrtf(sum / (float)a.k + a.norm.eps);
}

template <int STAGES, gemv_kind KIND> __global__ void __launch_bounds__(WARPS * 32, 2) gemv(const __grid_constant__ gemv_args a) {
    extern __shared__ __align__(128) uint8_t shared[];
    uint8_t *xs = shared + WARPS * STAGES * UNIT_BYTES;              /* [groups * 128] BF16, then 256 B of zeros */
    float *sums = (float *)(xs + a.groups * GEMM_GROUP_K * 2 + 256); /* [2][FLUSH_TILES][WARPS][16] */
    float *squares = sums + 2 * FLUSH_TILES * WARPS * 16;            /* [WARPS] */
    const uint32_t bars = shared_address(squares + WARPS);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int first = warp * a.groups / WARPS, n_groups = (warp + 1) * a.groups / WARPS - first;
    const int units = (n_groups + UNIT - 1) / UNIT;
    const int n_tiles = ((KIND == GATED ? a.row_tiles / 2 : a.row_tiles) - (int)blockIdx.x + (int)gridDim.x - 1) /
                        (int)gridDim.x * (KIND == GATED ? 2 : 1);
    const size_t tile_bytes = (size_t)a.groups * GEMM_GROUP_BYTES;

    dependents_go();
    warp_ring<STAGES, UNIT_BYTES> ring;
    ring.open(shared_address(shared) + warp * STAGES * UNIT_BYTES, bars + warp * STAGES * 8);
    const uint8_t *row_src = a.w + blockIdx.x * tile_bytes + (size_t)first * GEMM_GROUP_BYTES;
    int put_unit = 0, put_tile = 0, left = n_tiles * units;
    auto put = [&](int s) {
        const int n = left > 0 ? min(UNIT, n_groups - UNIT * put_unit) * GEMM_GROUP_BYTES : 0;
        ring.put(s, row_src + put_unit * UNIT_BYTES, nullptr, n, 0);
        if (++put_unit == units) {
            put_unit = 0;
            put_tile++;
            row_src = KIND == GATED ? a.w + tile_of<KIND>(a, put_tile) * tile_bytes + (size_t)first * GEMM_GROUP_BYTES
                                    : row_src + gridDim.x * tile_bytes;
        }
        left--;
    };
    for (int s = 0; s < STAGES; s++)
        put(s);
    const float tensor_scale = load_scale(a.out.tensor_scale);
    if (threadIdx.x < 16)
        *(uint4 *)(xs + a.groups * GEMM_GROUP_K * 2 + threadIdx.x * 16) = make_uint4(0, 0, 0, 0);
    float4 weights[4];
    if (KIND != PLAIN)
        load_sixteen<true>(weights, a.norm.w, lane * 8, first * GEMM_GROUP_K, n_groups * GEMM_GROUP_K, a.k);
    __syncthreads();
    dependency_wait();
    /* what the sums of the first flush are added to, on its way while they are made */
    const int early_row = tile_of<KIND>(a, threadIdx.x / 16) * 16 + threadIdx.x % 16;
    const bool early = KIND == PLAIN && a.out.c && !a.out.bias && (int)threadIdx.x < min(n_tiles, FLUSH_TILES) * 16;
    const float addend = early ? a.out.beta * load_float(a.out.c, early_row, a.out.type) : 0.0f;
    if (KIND != PLAIN) {
        const float mine =
            load_normed(a, xs + first * GEMM_GROUP_K * 2, first * GEMM_GROUP_K, n_groups * GEMM_GROUP_K, weights);
        if (lane == 0)
            squares[warp] = mine; /* read after the barrier before the first store */
    } else
        load_x(a, xs + first * GEMM_GROUP_K * 2, first * GEMM_GROUP_K, n_groups * GEMM_GROUP_K);

    float factor = 0x1p62f * (a.out.alpha * tensor_scale);
    const bool diagonal = g == 2 * t; /* the others read the zeros, again and again */
    const uint32_t step = diagonal ? 256 : 0;
    const uint32_t x0 = diagonal ? shared_address(xs) + first * 256 + t * 32 : shared_address(xs) + a.groups * 256;
    int slot = 0, parity = 0, flushed = 0;
    for (int i = 0; i < n_tiles; i++) {
        float acc[2] = {0.0f, 0.0f};
        for (int u = 0; u < units; u++) {
            const uint32_t stage = ring.wait();
            const uint32_t lane16 = stage + lane * 16, scales = stage + 1024 + lane * 4, x = x0 + UNIT * u * step;
            if (UNIT * u + UNIT <= n_groups)
                add_unit<UNIT>(lane16, scales, x, step, acc);
            else
                add_unit<1>(lane16, scales, x, step, acc);
            put(ring.release());
        }
        float keep = t & 1 ? acc[1] : acc[0], send = t & 1 ? acc[0] : acc[1];
        keep += __shfl_xor_sync(~0u, send, 1);
        keep += __shfl_xor_sync(~0u, keep, 2);
        if (t < 2)
            sums[((parity * FLUSH_TILES + slot) * WARPS + warp) * 16 + gemm_tile_row(g, t)] = keep;
        if (++slot == FLUSH_TILES || i == n_tiles - 1) {
            __syncthreads();
            if (KIND != PLAIN && flushed == 0)
                factor *= over_rms(squares, a);
            if ((int)threadIdx.x < slot * 16) { /* whole warps: slots of GATED come in pairs */
                const float *p = sums + (parity * FLUSH_TILES + threadIdx.x / 16) * WARPS * 16 + threadIdx.x % 16;
                float v = 0.0f;
#pragma unroll
                for (int w = 0; w < WARPS; w++)
                    v += p[w * 16];
                v *= factor;
                const int row = tile_of<KIND>(a, flushed + threadIdx.x / 16) * 16 + threadIdx.x % 16;
                const float up = KIND == GATED ? __shfl_down_sync(~0u, v, 16) : 0.0f;
                if (early && flushed == 0) {
                    gemm_out plain = a.out;
                    plain.c = nullptr;
                    store_result(plain, 0, row, v + addend);
                } else if (KIND != GATED)
                    store_result(a.out, 0, row, v);
                else if (lane < 16)
                    store_result(a.out, 0, row, gated_unit(v, up, a.unit == GEMM_UNIT_GELU));
            }
            flushed += slot;
            slot = 0;
            parity ^= 1;
        }
    }
}

template <int STAGES, gemv_kind KIND> static int launch(const gemm_task *t, const gemv_args &a, int blocks_per_sm) {
    const int blocks = min(t->n_sms * blocks_per_sm, KIND == GATED ? a.row_tiles / 2 : a.row_tiles);
    return launch_kernel(t, gemv<STAGES, KIND>, blocks, WARPS * 32, shared_bytes(STAGES, a.groups), a);
}

/* A product by itself: one block up to 128 KB of weights a multiprocessor, so that the next kernel's place is free. */
static int run_alone(const gemm_task *t, const gemv_args &a, size_t each) {
    if (each <= 128 * 1024 && 2 * (shared_bytes(5, a.groups) + 1024) <= (size_t)t->max_shared)
        return launch<5, PLAIN>(t, a, 1);
    return launch<2, PLAIN>(t, a, 2);
}

/* Two blocks fit on a multiprocessor. In a network's chain the shortest products have one: the next kernel's blocks take the other place and
 * have their weights on the way, all of them, while this one runs. Others need both: to issue enough, and because
 * single blocks are placed two on a multiprocessor while the kernel before still holds others. */
template <gemv_kind KIND> static int run(const gemm_task *t, const gemm_norm &norm) {
    const gemv_args a = {(const uint8_t *)t->w, (const __nv_bfloat16 *)t->a, t->k, t->groups, t->n / 16, t->out, norm,
                         t->unit};
    const size_t each = (size_t)a.row_tiles * a.groups * GEMM_GROUP_BYTES / t->n_sms;
    if (t->max_shared < 160 * 1024)
        return launch<2, KIND>(t, a, 2);
    if (KIND == PLAIN && !t->out.c) /* what a chain's products are added to is theirs alone */
        return run_alone(t, a, each);
    if (each <= 90 * 1024 && 2 * (shared_bytes(5, a.groups) + 1024) <= (size_t)t->max_shared)
        return launch<5, KIND>(t, a, 1);
    return 2 * (shared_bytes(3, a.groups) + 1024) <= (size_t)t->max_shared ? launch<3, KIND>(t, a, 2)
                                                                          : launch<2, KIND>(t, a, 2);
}

extern "C" int gemm_gemv(const gemm_task *t) {
    return run<PLAIN>(t, {});
}

extern "C" int gemm_gemv_chain(const gemm_task *t, const gemm_norm *norm) {
    return t->unit == GEMM_UNIT_NONE ? run<NORMED>(t, *norm) : run<GATED>(t, *norm);
}

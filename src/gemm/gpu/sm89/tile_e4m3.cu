/* SPDX-License-Identifier: Apache-2.0
 *
 * W4A8 through mma.sync m16n8k32 E4M3: Ada and Blackwell GeForce (and Hopper, which emulates the instruction, for the
 * tests). Scales are folded into the weights as in sm90/wgmma.cuh; tokens are prepared E4M3.
 *
 * A block of 8 warps has 128 rows x 64 tokens, 4 x 2 warps of 32 x 32. A stage is 128 k: 9,216 B of packed weights and
 * the tokens' rows, each 128 B and 16 B apart from the next (banks), by cp.async, 3 stages deep.
 */
#include "gemm/gpu/fold.cuh"

#define ROWS         128
#define TOKENS       64
#define STAGES       3
#define WEIGHT_BYTES (8 * GEMM_GROUP_BYTES)
#define ROW_BYTES    128 /* of a token in a stage */
#define STRIDE       (ROW_BYTES + 16)
#define STAGE        (WEIGHT_BYTES + TOKENS * STRIDE)
#define FACTOR       8.0f

struct tile_args {
    const uint8_t *w, *x;
    size_t row_bytes; /* from token to token */
    int m, n, width; /* bytes of a token's row that are its own: the rest reads as zeros */
    int groups, terms;
    gemm_out out;
};

/* 16 bytes, or zeros where not VALID. */
GEMM_DEV void copy16(uint32_t to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

GEMM_DEV void copy_stage(const tile_args &a, uint32_t stage, int group, int tile0, int token0) {
    const int row_tiles = a.n / 16, wg = group % a.groups;
    for (int i = threadIdx.x; i < WEIGHT_BYTES / 16; i += 256) {
        const int tile = i / (GEMM_GROUP_BYTES / 16), at = i % (GEMM_GROUP_BYTES / 16) * 16;
        const bool valid = tile0 + tile < row_tiles;
        copy16(stage + tile * GEMM_GROUP_BYTES + at,
               a.w + ((size_t)(valid ? tile0 + tile : 0) * a.groups + wg) * GEMM_GROUP_BYTES + at, valid);
    }
    for (int i = threadIdx.x; i < TOKENS * ROW_BYTES / 16; i += 256) {
        const int token = i / (ROW_BYTES / 16), at = i % (ROW_BYTES / 16) * 16, k = group * ROW_BYTES + at;
        const bool valid = token0 + token < a.m && k < a.width;
        copy16(stage + WEIGHT_BYTES + token * STRIDE + at, valid ? a.x + (token0 + token) * a.row_bytes + k : a.x, valid);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

GEMM_DEV void mma_e4m3(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* c[r][n] += 32 rows x 32 tokens x 128 k. */
GEMM_DEV void add_folded(uint32_t w, uint32_t x, const uint2 *lut, float (&c)[2][4][4]) {
    const int lane = threadIdx.x & 31;
    raw_e4m3 raw[2];
    for (int r = 0; r < 2; r++)
        raw[r].load(w + r * GEMM_GROUP_BYTES + lane * 16, w + r * GEMM_GROUP_BYTES + 1024 + lane * 4, lut);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t b[4][2];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            b[n][0] = lds32(x + n * 8 * STRIDE + 32 * j);
            b[n][1] = lds32(x + n * 8 * STRIDE + 32 * j + 16);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            uint32_t f[4];
            raw[r].step(j, f);
#pragma unroll
            for (int n = 0; n < 4; n++)
                mma_e4m3(c[r][n], f, b[n][0], b[n][1]);
        }
    }
}

static __global__ void __launch_bounds__(256) tile_e4m3(const __grid_constant__ tile_args a) {
    extern __shared__ __align__(128) uint8_t shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int rows = warp & 3, tokens = warp >> 2, row0 = blockIdx.x * ROWS, token0 = blockIdx.y * TOKENS;
    const uint32_t base = shared_address(shared);
    const int count = a.groups * a.terms;
    uint2 *lut = (uint2 *)(shared + STAGES * STAGE);
    build_lut(lut); /* seen after the first barrier */
    dependency_wait();
    for (int s = 0; s < STAGES - 1; s++)
        if (s < count)
            copy_stage(a, base + s * STAGE, s, row0 / 16, token0);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
    float c[2][4][4] = {};
#pragma unroll 1
    for (int k = 0; k < count; k++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (k + STAGES - 1 < count)
            copy_stage(a, base + (k + STAGES - 1) % STAGES * STAGE, k + STAGES - 1, row0 / 16, token0);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
        const uint32_t stage = base + k % STAGES * STAGE, w = stage + rows * 2 * GEMM_GROUP_BYTES;
        const uint32_t x = stage + WEIGHT_BYTES + (tokens * 32 + g) * STRIDE + t * 4;
        add_folded(w, x, lut, c);
    }
    dependents_go();
    const float factor = FACTOR * (a.out.alpha * *a.out.tensor_scale);
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int row = row0 + rows * 32 + r * 16 + gemm_tile_row(g, j >> 1);
                const int token = token0 + tokens * 32 + n * 8 + 2 * t + (j & 1);
                if (row < a.n && token < a.m)
                    store_result(a.out, token, row, c[r][n][j] * factor * a.out.token_scale[token]);
            }
}

extern "C" int gemm_tile_e4m3(const gemm_task *t) {
    const size_t row_bytes = (size_t)t->lda * 1;
    const tile_args a = {(const uint8_t *)t->w, (const uint8_t *)t->a, row_bytes, t->m, t->n,
                         t->groups * GEMM_GROUP_K, t->groups, t->terms, t->out};
    const dim3 grid((t->n + ROWS - 1) / ROWS, (t->m + TOKENS - 1) / TOKENS);
    return launch_kernel(t, tile_e4m3, grid, 256, STAGES * STAGE + 1024, a);
}

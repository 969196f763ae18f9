/* SPDX-License-Identifier: Apache-2.0
 *
 * W4A4 through mma.sync m16n8k64 kind::mxf4nvf4 (block scales in the instruction): Blackwell GeForce. Elsewhere the
 * instruction is emulated, lane by lane as the PTX ISA's tables have it (9.7.14.5.11, 9.7.14.3), for the tests.
 *
 * A block of 8 warps has 128 rows x 64 tokens, 4 x 2 warps of 32 x 32. A stage is 128 k: 9,216 B of packed weights, the
 * tokens' codes (64 B, 16 B apart from the next row's) and their block scales (8 B), by cp.async, 3 stages deep.
 *
 * A lane of the packed layout owns block t of 16 k; the instruction wants halves of two blocks in each pair of lanes. So
 * lanes 2i and 2i + 1 read the halves of both blocks, and block b of 64 k is the instruction's block 0, 2, 1, 3 for
 * b = 0..3: scales go in that order, for weights and tokens alike. Within 8 elements the order is the word's (decode_e2m1).
 */
#include "gemm/gpu/device.cuh"

#define ROWS         128
#define TOKENS       64
#define STAGES       3
#define WEIGHT_BYTES (8 * GEMM_GROUP_BYTES)
#define STRIDE       (64 + 16) /* of a token's codes */
#define SCALES       (WEIGHT_BYTES + TOKENS * STRIDE)
#define STAGE        (SCALES + TOKENS * 8)

struct tile_args {
    const uint8_t *w, *codes, *scales; /* codes [m, lda / 2], scales [m, k / 16] */
    int m, n, k, lda, groups;
    gemm_out out; /* token_scale: one, of all tokens */
};

template <int BYTES> GEMM_DEV void copy(uint32_t to, const void *from, bool valid) { /* or zeros */
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0],[%1],%2,%3;" ::"r"(to), "l"(from), "n"(BYTES), "r"(valid ? BYTES : 0)
                     : "memory");
}

GEMM_DEV void copy_stage(const tile_args &a, uint8_t *shared, int slot, int group, int row0, int token0) {
    uint8_t *stage = shared + slot * STAGE;
    const uint32_t to = shared_address(stage);
    for (int i = threadIdx.x; i < WEIGHT_BYTES / 16; i += 256) {
        const int tile = row0 / 16 + i / (GEMM_GROUP_BYTES / 16), at = i % (GEMM_GROUP_BYTES / 16) * 16;
        const bool valid = tile < a.n / 16;
        copy<16>(to + i * 16, a.w + ((size_t)(valid ? tile : 0) * a.groups + group) * GEMM_GROUP_BYTES + at, valid);
    }
    for (int i = threadIdx.x; i < TOKENS * 8; i += 256) { /* a block of 16 codes each */
        const int token = token0 + i / 8, b = group * 8 + i % 8;
        const bool valid = token < a.m && b < a.k / 16;
        copy<8>(to + WEIGHT_BYTES + i / 8 * STRIDE + i % 8 * 8, valid ? a.codes + (size_t)token * (a.lda / 2) + b * 8 : a.codes,
                valid);
        if (a.k % 64) /* rows of scales lie on any byte */
            stage[SCALES + i] = valid ? a.scales[(size_t)token * (a.k / 16) + b] : 0;
    }
    for (int i = threadIdx.x; i < TOKENS * 2 && a.k % 64 == 0; i += 256) { /* four scales each */
        const int token = token0 + i / 2, b = group * 8 + i % 2 * 4;
        const bool valid = token < a.m && b < a.k / 16;
        copy<4>(to + SCALES + i * 4, valid ? a.scales + (size_t)token * (a.k / 16) + b : a.codes, valid);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* A word of weights as 8 codes of 4 bits, elements 6 0 3 5 7 1 2 4: 7 instructions. */
GEMM_DEV uint32_t decode_e2m1(uint32_t x) {
    const uint32_t magnitudes = select_bits(0x22002200u, x, rotate_left(x, 30));
    const uint32_t signs = select_bits(0x00880088u, rotate_left(x, 24), rotate_left(x, 26));
    return (magnitudes & 0x77777777u) | (signs & 0x88888888u);
}

/* Plain codes, element i in bits 4 i, in the order of decode_e2m1. */
GEMM_DEV uint32_t order_codes(uint32_t x) {
    const uint32_t even = x & 0x0f0f0f0fu, odd = x >> 4 & 0x0f0f0f0fu;
    return permute_bytes(even, odd, 0x1753) | permute_bytes(even, odd, 0x2460) << 4;
}

#if __CUDA_ARCH__ < 1200
GEMM_DEV float e2m1_value(uint32_t code) {
    const uint32_t m = code & 7;
    const float v = m < 5 ? 0.5f * m : m == 5 ? 3.0f : m == 6 ? 4.0f : 6.0f;
    return code & 8 ? -v : v;
}

GEMM_DEV float ue4m3_value(uint32_t byte) { /* the bits, as FP32, are the scale * 2^-120 */
    return __uint_as_float((byte & 0x7f) << 20) * 0x1p120f;
}
#endif

/* c += A B with scales: A 16 x 64 (register r: row g + 8 (r % 2), k 32 (r / 2) + 8 t ..), B 64 x 8 (column g, likewise). SA:
 * of row g in lanes t = 0, of row g + 8 in t = 1; SB: of column g in t = 0; byte b: of k 16 b .. */
GEMM_DEV void mma_e2m1(float *c, const uint32_t *a, const uint32_t *b, uint32_t sa, uint32_t sb) {
#if __CUDA_ARCH__ >= 1200
    asm("mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col.f32.e2m1.e2m1.f32.ue4m3 "
        "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3},{%10},{%12,%12},{%11},{%12,%12};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(sa), "r"(sb), "h"((uint16_t)0));
#else
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    for (int j = 0; j < 4; j++) { /* c[j]: row g + 8 (j / 2), column 2 t + j % 2 */
        const int column = 2 * t + (j & 1);
        const uint32_t row_scales = __shfl_sync(~0u, sa, 4 * g + (j >> 1)), column_scales = __shfl_sync(~0u, sb, 4 * column);
        for (int i = 0; i < 8; i++) { /* register pair i / 4 of lane i % 4 */
            const uint32_t x = i < 4 ? __shfl_sync(~0u, a[j >> 1], 4 * g + i % 4) : __shfl_sync(~0u, a[2 + (j >> 1)], 4 * g + i % 4);
            const uint32_t y = __shfl_sync(~0u, b[i / 4], 4 * column + i % 4);
            const int block = 2 * (i / 4) + i % 4 / 2; /* k = 32 (i / 4) + 8 (i % 4) */
            const float scale = ue4m3_value(row_scales >> 8 * block) * ue4m3_value(column_scales >> 8 * block);
            for (int e = 0; e < 32; e += 4)
                c[j] = fmaf(e2m1_value(x >> e & 15) * e2m1_value(y >> e & 15), scale, c[j]);
        }
    }
#endif
}

/* c[r][n] += 32 rows x 32 tokens x 128 k. W: two row tiles; X and SX: token g's codes and scales. */
GEMM_DEV void add_codes(uint32_t w, uint32_t x, uint32_t sx, float (&c)[2][4][4]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int first = t & 2, half = t & 1; /* of the pair's two blocks; which 8 elements of each */
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t b[4][2], sb[4];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            b[n][0] = order_codes(lds32(x + n * 8 * STRIDE + 32 * h + 8 * first + 4 * half));
            b[n][1] = order_codes(lds32(x + n * 8 * STRIDE + 32 * h + 8 * first + 8 + 4 * half));
            const uint32_t s = lds32(sx + n * 8 * 8 + 4 * h);
            sb[n] = permute_bytes(s, s, 0x3120);
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint32_t tile = w + r * GEMM_GROUP_BYTES, lane16 = tile + 512 * h + (4 * g + first) * 16 + 8 * half;
            const uint2 u = lds64(lane16), v = lds64(lane16 + 16); /* rows r0, r1 of the two blocks */
            const uint32_t f[4] = {decode_e2m1(u.x), decode_e2m1(u.y), decode_e2m1(v.x), decode_e2m1(v.y)};
            const uint4 q = lds128(tile + 1024 + 16 * g); /* scales of lanes 4 g ..: bytes (r0, t) (r0, 4 + t) (r1, ..) .. */
            const uint32_t pick = (uint32_t)(h + 2 * half) * 0x11 + 0x40; /* this byte of both */
            const uint32_t sa = permute_bytes(permute_bytes(q.x, q.z, pick), permute_bytes(q.y, q.w, pick), 0x5410);
#pragma unroll
            for (int n = 0; n < 4; n++)
                mma_e2m1(c[r][n], f, b[n], sa, sb[n]);
        }
    }
}

static __global__ void __launch_bounds__(256) tile_e2m1(const __grid_constant__ tile_args a) {
    extern __shared__ __align__(128) uint8_t shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int rows = warp & 3, tokens = warp >> 2, row0 = blockIdx.x * ROWS, token0 = blockIdx.y * TOKENS;
    dependency_wait();
    for (int s = 0; s < STAGES - 1; s++)
        if (s < a.groups)
            copy_stage(a, shared, s, s, row0, token0);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
    float c[2][4][4] = {};
#pragma unroll 1
    for (int k = 0; k < a.groups; k++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (k + STAGES - 1 < a.groups)
            copy_stage(a, shared, (k + STAGES - 1) % STAGES, k + STAGES - 1, row0, token0);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
        const uint32_t stage = shared_address(shared) + k % STAGES * STAGE, first = tokens * 32 + g;
        add_codes(stage + rows * 2 * GEMM_GROUP_BYTES, stage + WEIGHT_BYTES + first * STRIDE, stage + SCALES + first * 8, c);
    }
    dependents_go();
    const float factor = a.out.alpha * *a.out.tensor_scale * *a.out.token_scale;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int n = 0; n < 4; n++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int row = row0 + rows * 32 + r * 16 + gemm_tile_row(g, j >> 1);
                const int token = token0 + tokens * 32 + n * 8 + 2 * t + (j & 1);
                if (row < a.n && token < a.m)
                    store_result(a.out, token, row, c[r][n][j] * factor);
            }
}

extern "C" int gemm_tile_e2m1(const gemm_task *t) {
    const tile_args a = {(const uint8_t *)t->w, (const uint8_t *)t->a, (const uint8_t *)t->block_scale, t->m, t->n, t->k, t->lda,
                         t->groups, t->out};
    const dim3 grid((t->n + ROWS - 1) / ROWS, (t->m + TOKENS - 1) / TOKENS);
    return launch_kernel(t, tile_e2m1, grid, 256, STAGES * STAGE, a);
}

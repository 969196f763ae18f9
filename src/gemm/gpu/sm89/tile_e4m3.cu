/* SPDX-License-Identifier: Apache-2.0
 *
 * W4A8 through mma.sync E4M3: Ada and Blackwell GeForce (and Hopper, which emulates the instructions, for the tests). Tokens are
 * prepared E4M3.
 *   folded  m16n8k32; scales are folded into the weights as in sm90/wgmma.cuh
 *   exact   m16n8k16, which is one scale block of a row: weights are E2M1's values, and what a block sums is multiplied by its
 *           scale and added in FP32, one FFMA a sum and block
 *
 * A block of 8 warps has 128 rows x 64 tokens, 4 x 2 warps of 32 x 32. A stage is 128 k: 9,216 B of packed weights and
 * the tokens' rows, each 128 B and 16 B (exact: 64 B) apart from the next (banks), by cp.async, 3 stages deep.
 */
#include "gemm/gpu/fold.cuh"

#define ROWS         128
#define TOKENS       64
#define STAGES       3
#define WEIGHT_BYTES (8 * GEMM_GROUP_BYTES)
#define ROW_BYTES    128 /* of a token in a stage */

/* Bytes from token to token, such that what a warp reads at a time lies in different banks, and of a stage. */
template <bool EXACT> constexpr int stride = ROW_BYTES + (EXACT ? 64 : 16);
template <bool EXACT> constexpr int stage_bytes = WEIGHT_BYTES + TOKENS * stride<EXACT>;

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

template <bool EXACT> GEMM_DEV void copy_stage(const tile_args &a, uint32_t stage, int group, int tile0, int token0) {
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
        copy16(stage + WEIGHT_BYTES + token * stride<EXACT> + at, valid ? a.x + (token0 + token) * a.row_bytes + k : a.x, valid);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

GEMM_DEV void mma_e4m3(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* d = A B: A 16 x 16 (register r: row g + 8 r, k 4t ..), B 16 x 8 (k 4t .., column g). */
GEMM_DEV void mma_block(float *d, const uint32_t *a, uint32_t b) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3},{%4,%5},{%6},{%7,%7,%7,%7};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(b), "f"(0.0f));
}

/* c[r][n] += 32 rows x 32 tokens x 128 k. W: two row tiles; X: token g's bytes. */
GEMM_DEV void add_folded(uint32_t w, uint32_t x0, const uint2 *lut, float (&c)[2][4][4]) {
    const int lane = threadIdx.x & 31;
    const uint32_t x = x0 + (lane & 3) * 4;
    raw_e4m3 raw[2];
    for (int r = 0; r < 2; r++)
        raw[r].load(w + r * GEMM_GROUP_BYTES + lane * 16, w + r * GEMM_GROUP_BYTES + 1024 + lane * 4, lut);
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t b[4][2];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            b[n][0] = lds32(x + n * 8 * stride<false> + 32 * j);
            b[n][1] = lds32(x + n * 8 * stride<false> + 32 * j + 16);
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

/* Half HALF of a word's elements as E4M3, in the order of decode_e4m3's o0 or o1. */
struct half_decoder {
    uint32_t shift, signs;

    GEMM_DEV half_decoder(int half) : shift(16 * half), signs(half ? 0x0437 : 0x2615) {}

    GEMM_DEV uint32_t decode(uint32_t x) const {
        const uint32_t m = (select_bits(0x22002200u, x, rotate_left(x, 30)) & 0x77777777u) >> shift;
        const uint32_t s = select_bits(0x00880088u, x << 2, x);
        return permute_bytes(0x3c383000u, 0x4c484440u, m) | (permute_bytes(s, s << 4, signs) & 0x80808080u);
    }
};

/* Scales of block 4 h + t, rows r0 and r1, from the word that lane t has of a group. */
GEMM_DEV float2 scale_pair(uint32_t q, int h) {
    uint32_t pair;
    asm("cvt.rn.f16x2.e4m3x2 %0,%1;" : "=r"(pair) : "h"((uint16_t)permute_bytes(q, 0, h ? 0x4431 : 0x4420)));
    return __half22float2(*(const __half2 *)&pair);
}

/* The same with exact weights. All four lanes of a row need 4 of a block's 16 elements; the block's words lie with one of them:
 * lane t reads the word of elements 8 (t / 2) .. and decodes its half t % 2, which meets bytes 16 t + 4 b .. of 64 prepared ones. */
GEMM_DEV void add_exact(uint32_t w, uint32_t x0, float (&c)[2][4][4]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const half_decoder half(t & 1);
    const uint32_t words = w + g * 64 + (t >> 1) * 8, scales = w + 1024 + g * 16, x = x0 + t * 16;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t b[4][4];
#pragma unroll
        for (int n = 0; n < 4; n++) {
            const uint4 v = lds128(x + n * 8 * stride<true> + h * 64);
            b[0][n] = v.x, b[1][n] = v.y, b[2][n] = v.z, b[3][n] = v.w;
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int block = 0; block < 4; block++) {
                const uint2 v = lds64(words + r * GEMM_GROUP_BYTES + h * 512 + block * 16);
                const float2 s = scale_pair(lds32(scales + r * GEMM_GROUP_BYTES + block * 4), h);
                const uint32_t f[2] = {half.decode(v.x), half.decode(v.y)};
#pragma unroll
                for (int n = 0; n < 4; n++) {
                    float d[4], *to = c[r][n];
                    mma_block(d, f, b[block][n]);
                    to[0] = fmaf(d[0], s.x, to[0]), to[1] = fmaf(d[1], s.x, to[1]);
                    to[2] = fmaf(d[2], s.y, to[2]), to[3] = fmaf(d[3], s.y, to[3]);
                }
            }
        }
    }
}

template <bool EXACT> static __global__ void __launch_bounds__(256) tile_e4m3(const __grid_constant__ tile_args a) {
    constexpr int STAGE = stage_bytes<EXACT>;
    extern __shared__ __align__(128) uint8_t shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int rows = warp & 3, tokens = warp >> 2, row0 = blockIdx.x * ROWS, token0 = blockIdx.y * TOKENS;
    const uint32_t base = shared_address(shared);
    const int count = a.groups * a.terms;
    uint2 *lut = (uint2 *)(shared + STAGES * STAGE);
    if (!EXACT)
        build_lut(lut); /* seen after the first barrier */
    dependency_wait();
    for (int s = 0; s < STAGES - 1; s++)
        if (s < count)
            copy_stage<EXACT>(a, base + s * STAGE, s, row0 / 16, token0);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
    float c[2][4][4] = {};
#pragma unroll 1
    for (int k = 0; k < count; k++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 2) : "memory");
        __syncthreads();
        if (k + STAGES - 1 < count)
            copy_stage<EXACT>(a, base + (k + STAGES - 1) % STAGES * STAGE, k + STAGES - 1, row0 / 16, token0);
        else
            asm volatile("cp.async.commit_group;" ::: "memory");
        const uint32_t stage = base + k % STAGES * STAGE, w = stage + rows * 2 * GEMM_GROUP_BYTES;
        const uint32_t x = stage + WEIGHT_BYTES + (tokens * 32 + g) * stride<EXACT>;
        if (EXACT)
            add_exact(w, x, c);
        else
            add_folded(w, x, lut, c);
    }
    dependents_go();
    const float factor = (EXACT ? 1.0f : 8.0f) * (a.out.alpha * *a.out.tensor_scale);
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

template <bool EXACT> static int launch(const gemm_task *t) {
    const size_t row_bytes = (size_t)t->lda * 1;
    const tile_args a = {(const uint8_t *)t->w, (const uint8_t *)t->a, row_bytes, t->m, t->n,
                         t->groups * GEMM_GROUP_K, t->groups, t->terms, t->out};
    const dim3 grid((t->n + ROWS - 1) / ROWS, (t->m + TOKENS - 1) / TOKENS);
    return launch_kernel(t, tile_e4m3<EXACT>, grid, 256, STAGES * stage_bytes<EXACT> + (EXACT ? 0 : 1024), a);
}

extern "C" int gemm_tile_e4m3(const gemm_task *t) {
    return launch<false>(t);
}

extern "C" int gemm_tile_e4m3_exact(const gemm_task *t) {
    return launch<true>(t);
}

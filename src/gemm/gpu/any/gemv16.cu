/* SPDX-License-Identifier: Apache-2.0
 *
 * 2..16 tokens: exact. Tokens are the columns of mma.sync m16n8k16; the block scale is multiplied into the BF16
 * operand (one LOP3, one shift, one HMUL2 and two PRMT for the 64 weights a lane has of 64 k, one HMUL2 a pair).
 *
 * A block has TEAMS of 8 warps. A team takes 32 rows at a time (two row tiles share each B fragment); its warps
 * share K, each with its own ring of weights; their sums meet in shared memory in fixed order. A block owns one
 * slice of K, whose activations stay in shared memory; several slices leave FP32 partial sums for gemm_reduce.
 * GATED: the two row tiles are one of the gate and its twin of up, and the gated unit of both is stored.
 * Weights are w * s * 2^-119, x is BF16 * 2^64, so a sum is the product * 2^-55. Measured: docs/gpu/gemv.md.
 */
#include "gemm/gpu/group.cuh"
#include "gemm/gpu/ring.cuh"

#define TEAM_WARPS 8
#define STAGES     3
#define STAGE      (2 * GEMM_GROUP_BYTES)
#define FACTOR     0x1p55f

struct gemv16_args {
    const uint8_t *w;
    const __nv_bfloat16 *x;
    int m, n, k, lda, groups, row_tiles;
    float *partial;
    gemm_out out;
    gemm_unit unit;
};

/* Rows of x in shared memory are 16 B longer than a slice, so that 8 tokens' loads hit different banks. */
static __host__ __device__ int x_stride(int slice_groups) {
    return slice_groups * GEMM_GROUP_K * 2 + 16;
}

/* A warp a row, four loads in flight. */
template <int TILES> GEMM_DEV void load_tokens(const gemv16_args &a, uint8_t *xs, int first, int count, int stride) {
    for (int token = threadIdx.x / 32; token < TILES * 8; token += blockDim.x / 32)
        for (int at0 = (threadIdx.x & 31) * 8; at0 < count; at0 += 1024) {
            uint4 v[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int at = at0 + 256 * j;
                v[j] = at < count && token < a.m && first + at < a.k
                           ? __ldcg((const uint4 *)(a.x + (size_t)token * a.lda + first + at))
                           : make_uint4(0, 0, 0, 0);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int at = at0 + 256 * j;
                v[j].x = mul_bf16x2(v[j].x, 0x5f805f80u);
                v[j].y = mul_bf16x2(v[j].y, 0x5f805f80u);
                v[j].z = mul_bf16x2(v[j].z, 0x5f805f80u);
                v[j].w = mul_bf16x2(v[j].w, 0x5f805f80u);
                if (at < count)
                    *(uint4 *)(xs + token * stride + at * 2) = v[j];
            }
        }
}

GEMM_DEV void team_barrier(int team) {
    asm volatile("bar.sync %0,256;" ::"r"(1 + team) : "memory");
}

template <int TEAMS, int TILES, bool GATED>
__global__ void __launch_bounds__(TEAMS * 256, 1) gemv16(const __grid_constant__ gemv16_args a) {
    constexpr int SUMS = 2 * 16 * TILES * 8; /* of a warp: [tokens][32 rows] */
    extern __shared__ __align__(128) uint8_t shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int team = warp / TEAM_WARPS, member = warp % TEAM_WARPS;
    const int slice = blockIdx.y, first = slice * a.groups / (int)gridDim.y;
    const int slice_groups = (slice + 1) * a.groups / (int)gridDim.y - first;
    const int my_first = member * slice_groups / TEAM_WARPS;
    const int my_groups = (member + 1) * slice_groups / TEAM_WARPS - my_first;
    const int stride = x_stride(slice_groups);
    uint8_t *xs = shared + TEAMS * TEAM_WARPS * STAGES * STAGE;
    float *sums = (float *)(xs + TILES * 8 * stride);
    const uint32_t bars = shared_address(sums + TEAMS * TEAM_WARPS * SUMS);
    sums += team * TEAM_WARPS * SUMS;

    dependents_go();
    warp_ring<STAGES, STAGE> ring;
    ring.open(shared_address(shared) + warp * STAGES * STAGE, bars + warp * STAGES * 8);
    const int pairs = (a.row_tiles + 1) / 2, step = gridDim.x * TEAMS, pair0 = blockIdx.x * TEAMS + team;
    int put_pair = pair0, put_group = 0;
    auto put = [&](int s) {
        const int tile = GATED ? put_pair : 2 * put_pair, next = GATED ? pairs : 1;
        const uint8_t *src = a.w + ((size_t)tile * a.groups + first + my_first + put_group) * GEMM_GROUP_BYTES;
        /* an odd last row tile is read twice: its twin's sums go nowhere */
        const uint8_t *twin = tile + next < a.row_tiles ? src + (size_t)next * a.groups * GEMM_GROUP_BYTES : src;
        ring.put(s, src, twin, put_pair < pairs && my_groups ? GEMM_GROUP_BYTES : 0, GEMM_GROUP_BYTES);
        if (++put_group >= my_groups) {
            put_group = 0;
            put_pair += step;
        }
    };
    for (int s = 0; s < STAGES; s++)
        put(s);
    const float tensor_scale = load_scale(a.out.tensor_scale);
    dependency_wait();
    load_tokens<TILES>(a, xs, first * GEMM_GROUP_K, slice_groups * GEMM_GROUP_K, stride);
    __syncthreads();

    const float factor = FACTOR * (a.out.alpha * tensor_scale);
    const uint32_t x0 = shared_address(xs) + g * stride + my_first * 256 + t * 32;
    for (int pair = pair0; pair < pairs; pair += step) {
        float c[2][TILES][4] = {};
#pragma unroll 1
        for (int k = 0; k < my_groups; k++) {
            add_group<TILES, false>(ring.wait(), x0 + k * 256, stride, c);
            put(ring.release());
        }
        float *mine = sums + member * SUMS;
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int n = 0; n < TILES; n++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    mine[(n * 8 + 2 * t + (j & 1)) * 32 + r * 16 + gemm_tile_row(g, j >> 1)] = c[r][n][j];
        team_barrier(team);
        for (int i = threadIdx.x & 255; i < SUMS; i += 256) { /* a warp a token */
            const int token = i / 32, row = GATED ? pair * 16 + i % 32 : pair * 32 + i % 32;
            float v = 0.0f;
#pragma unroll
            for (int w = 0; w < TEAM_WARPS; w++)
                v += sums[w * SUMS + i];
            if (GATED) {
                const float up = __shfl_down_sync(~0u, v, 16) * factor;
                if (token < a.m && lane < 16)
                    store_result(a.out, token, row, gated_unit(v * factor, up, a.unit == GEMM_UNIT_GELU));
                continue;
            }
            if (token >= a.m || row >= a.n)
                continue;
            if (a.partial)
                a.partial[((size_t)slice * a.m + token) * a.n + row] = v;
            else
                store_result(a.out, token, row, v * factor);
        }
        team_barrier(team);
    }
}

template <int TEAMS, int TILES, bool GATED> static int launch(const gemm_task *t) {
    const gemv16_args a = {(const uint8_t *)t->w, (const __nv_bfloat16 *)t->a, t->m,       t->n,
                           t->k,                  t->lda,                      t->groups,  t->n / 16,
                           t->slices > 1 ? t->partial : nullptr,               t->out,      t->unit};
    const int slice_groups = (t->groups + t->slices - 1) / t->slices;
    const size_t shared = (size_t)TEAMS * TEAM_WARPS * STAGES * (STAGE + 8) + TILES * 8 * x_stride(slice_groups) +
                          TEAMS * TEAM_WARPS * 2 * 16 * TILES * 8 * sizeof(float);
    const int pairs = (a.row_tiles + 1) / 2, wanted = (pairs + TEAMS - 1) / TEAMS;
    const dim3 grid(max(1, min(t->n_sms / t->slices, wanted)), t->slices);
    const int e = launch_kernel(t, gemv16<TEAMS, TILES, GATED>, grid, TEAMS * 256, shared, a);
    return e || t->slices == 1 ? e : gemm_reduce(t, FACTOR);
}

/* A short product spreads over more multiprocessors with one team a block. */
extern "C" int gemm_gemv16(const gemm_task *t) {
    const size_t each = (size_t)t->n / 16 * t->groups * GEMM_GROUP_BYTES / t->n_sms;
    if (t->max_shared < 160 * 1024 || each <= 128 * 1024)
        return t->m <= 8 ? launch<1, 1, false>(t) : launch<1, 2, false>(t);
    return t->m <= 8 ? launch<2, 1, false>(t) : launch<2, 2, false>(t);
}

/* Up to 8 tokens, one slice. */
extern "C" int gemm_gemv16_gated(const gemm_task *t) {
    const size_t each = (size_t)t->n / 16 * t->groups * GEMM_GROUP_BYTES / t->n_sms;
    return t->max_shared < 160 * 1024 || each <= 128 * 1024 ? launch<1, 1, true>(t) : launch<2, 1, true>(t);
}

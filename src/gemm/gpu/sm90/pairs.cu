/* SPDX-License-Identifier: Apache-2.0
 *
 * Hopper, experts with one or two tokens each, and one token of a short product: exact. The GEMV's step (gemv.cu: a column of
 * mma.sync for each scale block), whose odd columns hold a second token.
 *
 * A chunk is up to 2 tokens of one expert, an item 16 rows x a chunk, which is one stretch of memory. The items of all chunks stand
 * in a row, and each block takes an equal run of them. PARTS warps share K, GROUPS of 128 k each, whose tokens stay in registers for
 * all items of a chunk; teams of PARTS warps take a run's items in turn. They do nothing but decode and multiply; beside them are
 *   a feeder     it finds out which run is the block's and keeps a ring of items full
 *   storers      each adds the parts' sums of an item in their order, and stores them
 *
 * Two blocks fit on a multiprocessor and one is launched: while it runs the next kernel's block stands beside it, and where the
 * offsets are known before (nib_gemm_group.offsets_stand) has its weights there when its turn comes.
 *
 * Bytes moved: the weights of experts with tokens, once a chunk. Measured: docs/gpu/gemv.md.
 */
#include "gemm/gpu/sm90/chunks.cuh"
#include "gemm/gpu/sm90/cluster.cuh"

#define MATH_WARPS      8
#define STORERS         3
#define THREADS         (32 * (MATH_WARPS + 1 + STORERS))
#define MATH_REGISTERS  96 /* of the 80 x 12 warps of the launch */
#define OTHER_REGISTERS 48
#define TOKENS          2
#define SUMS            512 /* bytes of a part's sums of an item: a lane's four */
#define ROOM            (112 * 1024) /* bytes of shared memory: two blocks on a multiprocessor */
#define MOST_AHEAD      (80 * 1024)  /* of experts' weights: more would stand in the memory's queue before what others wait for */

struct pairs_args {
    chunk_source source;
    const __nv_bfloat16 *x;
    int k, lda, groups, row_tiles, parts, teams, stages, slots;
    size_t scale_offset;
    gemm_out out;
    chunk dense; /* a product with one weight is one chunk */
};

/* Shared memory: the ring, sums, barriers, then chunks. */
struct pairs_block {
    uint32_t ring, sums, full, empty, summed, taken;
    chunk *chunks;

    GEMM_DEV pairs_block(const pairs_args &a, uint8_t *shared) {
        ring = shared_address(shared);
        sums = ring + a.stages * a.groups * GEMM_GROUP_BYTES;
        full = sums + a.slots * a.parts * SUMS;
        empty = full + 8 * a.stages;
        summed = empty + 8 * a.stages;
        taken = summed + 8 * a.slots;
        chunks = (chunk *)(shared + (taken + 8 * a.slots - ring));
    }

    GEMM_DEV void open(const pairs_args &a, int warp) const { /* by all warps; a block's barrier follows */
        for (int i = warp; i < 2 * (a.stages + a.slots); i += THREADS / 32)
            if (elected())
                barrier_init(full + 8 * i, i >= a.stages && i < 2 * a.stages + a.slots ? a.parts : 1);
        cluster_barrier_fence();
    }
};

/* A place in a ring of COUNT barriers, and the parity of its next phase. */
struct place {
    int at, parity;

    GEMM_DEV void next(int step, int count) {
        at += step;
        if (at >= count) {
            at -= count;
            parity ^= 1;
        }
    }
};

/* Which chunk and row tile an item of a run is. */
struct walk {
    int chunk, tile;

    GEMM_DEV walk(const run &r, int first, int row_tiles) : chunk(0), tile(r.first) {
        next(first, row_tiles);
    }

    GEMM_DEV void next(int step, int row_tiles) {
        for (tile += step; tile >= row_tiles; tile -= row_tiles)
            chunk++;
    }
};

/* ---- the feeder ---- */

template <bool DENSE> GEMM_DEV void feed(const pairs_args &a, const pairs_block &b, const run &r) {
    const int bytes = a.groups * GEMM_GROUP_BYTES;
    place p = {0, 1};
    walk w(r, 0, a.row_tiles);
    for (int i = 0; i < r.items; i++, w.next(1, a.row_tiles), p.next(1, a.stages)) {
        const uint8_t *from = (DENSE ? a.dense.packed : b.chunks[w.chunk].packed) + (size_t)w.tile * bytes;
        barrier_wait(b.empty + 8 * p.at, p.parity);
        if (elected()) {
            barrier_expect(b.full + 8 * p.at, bytes);
            bulk_copy(b.ring + p.at * bytes, from, bytes, b.full + 8 * p.at);
        }
        __syncwarp();
    }
}

/* ---- storers ---- */

/* Sums over the four lanes of a row; lane t is left with that of row t % 2 and token t / 2. */
GEMM_DEV float add_lanes(const float (&acc)[4]) {
    const int t = threadIdx.x & 3;
    const bool second = t & 1, other = t & 2;
    float a = second ? acc[2] : acc[0], b = second ? acc[3] : acc[1];
    a += __shfl_xor_sync(~0u, second ? acc[0] : acc[2], 1);
    b += __shfl_xor_sync(~0u, second ? acc[1] : acc[3], 1);
    return (other ? b : a) + __shfl_xor_sync(~0u, other ? a : b, 2);
}

template <bool DENSE> GEMM_DEV void store(const pairs_args &a, const pairs_block &b, const run &r, int which) {
    const int lane = threadIdx.x & 31, token = lane >> 1 & 1, row = gemm_tile_row(lane >> 2, lane & 1);
    place p = {which, 0};
    walk w(r, which, a.row_tiles);
    for (int i = which; i < r.items; i += STORERS, w.next(STORERS, a.row_tiles), p.next(STORERS, a.slots)) {
        const chunk c = DENSE ? a.dense : b.chunks[w.chunk];
        const float scale = load_scale((const float *)(c.packed + a.scale_offset)); /* on its way while the sums are waited for */
        const float bias = expert_bias(a.out, 16 * a.row_tiles, c.expert, w.tile * 16 + row); /* likewise */
        float v[4] = {};
        barrier_wait(b.summed + 8 * p.at, p.parity);
#pragma unroll 4
        for (int part = 0; part < a.parts; part++) {
            const uint4 u = lds128(b.sums + (p.at * a.parts + part) * SUMS + lane * 16);
            v[0] += __uint_as_float(u.x), v[1] += __uint_as_float(u.y);
            v[2] += __uint_as_float(u.z), v[3] += __uint_as_float(u.w);
        }
        __syncwarp();
        if (lane == 0)
            barrier_arrive(b.taken + 8 * p.at);
        const float sum = fmaf(add_lanes(v), 0x1p62f * (a.out.alpha * scale), bias);
        if (token < c.rows)
            store_result(without_bias(a.out), c.row + token, w.tile * 16 + row, sum);
    }
}

/* ---- those that multiply ---- */

/* The lane's part of a chunk's tokens: of the token of its column, and only of the scale block that the column has. */
template <int GROUPS> struct tokens {
    uint32_t b[GROUPS][2][8];
    const __nv_bfloat16 *x;
    bool mine;

    GEMM_DEV tokens() : x(nullptr), mine(false) {}

    GEMM_DEV void find(const pairs_args &a, const chunk &c) {
        const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
        mine = g / 2 == t && g % 2 < c.rows;
        x = a.x + (size_t)(c.row + g % 2) * a.lda;
    }

    GEMM_DEV void load(const pairs_args &a, int part) { /* times 2^64 */
#pragma unroll
        for (int i = 0; i < 2 * GROUPS; i++) {
            const int at = part * GROUPS * GEMM_GROUP_K + i * 64 + (threadIdx.x & 3) * 16;
            uint4 u = make_uint4(0, 0, 0, 0), v = u;
            if (mine && at < a.k) {
                u = __ldcg((const uint4 *)(x + at));
                v = __ldcg((const uint4 *)(x + at + 8));
            }
            uint32_t(&to)[8] = b[i / 2][i % 2];
            to[0] = u.x, to[1] = u.y, to[2] = u.z, to[3] = u.w, to[4] = v.x, to[5] = v.y, to[6] = v.z, to[7] = v.w;
        }
#pragma unroll
        for (int i = 0; i < 16 * GROUPS; i++)
            b[i / 16][i / 8 % 2][i % 8] = mul_bf16x2(b[i / 16][i / 8 % 2][i % 8], 0x5f805f80u);
    }
};

/* Scales of a group: (r0, t) (r0, 4 + t) (r1, t) (r1, 4 + t) as FP32. */
GEMM_DEV void load_scales(uint32_t q, float *s) {
    uint32_t lo, hi;
    asm("cvt.rn.f16x2.e4m3x2 %0,%1;" : "=r"(lo) : "h"((uint16_t)q));
    asm("cvt.rn.f16x2.e4m3x2 %0,%1;" : "=r"(hi) : "h"((uint16_t)(q >> 16)));
    const float2 a = __half22float2(*(const __half2 *)&lo), b = __half22float2(*(const __half2 *)&hi);
    s[0] = a.x, s[1] = a.y, s[2] = b.x, s[3] = b.y;
}

/* A lane's words of a group. */
struct words {
    uint4 v[2];
    uint32_t scales;

    GEMM_DEV void load(uint32_t group, int lane) {
        v[0] = lds128(group + lane * 16);
        v[1] = lds128(group + lane * 16 + 512);
        scales = lds32(group + 1024 + lane * 4);
    }
};

/* acc[2 r + token] += 16 rows x 128 k. */
GEMM_DEV void add_group(const words &w, const uint32_t (&b)[2][8], float (&acc)[4]) {
    float d[2][4] = {};
#pragma unroll
    for (int s = 0; s < 4; s++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t f[8];
            decode_fragments(s & 2 ? w.v[h].z : w.v[h].x, s & 2 ? w.v[h].w : w.v[h].y, f); /* of a pair; the compiler keeps one decode */
            mma_bf16(d[h], f + 4 * (s & 1), b[h][2 * s], b[h][2 * s + 1]);
        }
    float s[4];
    load_scales(w.scales, s);
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            acc[i] = fmaf(d[h][i], s[i / 2 * 2 + h], acc[i]);
}

template <int GROUPS, bool DENSE> GEMM_DEV void multiply(const pairs_args &a, const pairs_block &b, const run &r, int warp) {
    const int lane = threadIdx.x & 31, team = warp / a.parts, part = warp - team * a.parts;
    if (team >= a.teams)
        return;
    place s = {team, 0}, slot = {team, 1};
    walk w(r, team, a.row_tiles);
    tokens<GROUPS> x;
    int held = 0;
    if (team < r.items) {
        held = w.chunk;
        x.find(a, DENSE ? a.dense : b.chunks[held]);
    }
    dependency_wait();
    x.load(a, part);
    for (int i = team; i < r.items; i += a.teams) {
        if (!DENSE && w.chunk != held) {
            held = w.chunk;
            x.find(a, b.chunks[held]);
            x.load(a, part);
        }
        const uint32_t item = b.ring + (s.at * a.groups + part * GROUPS) * GEMM_GROUP_BYTES;
        float acc[4] = {};
        words now[2];
        barrier_wait(b.full + 8 * s.at, s.parity);
        now[0].load(item, lane);
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            if (g + 1 < GROUPS) {
                now[(g + 1) % 2].load(item + (g + 1) * GEMM_GROUP_BYTES, lane);
                if (part * GROUPS + g + 1 >= a.groups) /* not this weight's */
                    now[(g + 1) % 2].scales = 0;
            }
            add_group(now[g % 2], x.b[g], acc);
        }
        __syncwarp();
        if (lane == 0)
            barrier_arrive(b.empty + 8 * s.at);
        barrier_wait(b.taken + 8 * slot.at, slot.parity);
        sts128(b.sums + (slot.at * a.parts + part) * SUMS + lane * 16, make_float4(acc[0], acc[1], acc[2], acc[3]));
        __syncwarp();
        if (lane == 0)
            barrier_arrive(b.summed + 8 * slot.at);
        w.next(a.teams, a.row_tiles);
        s.next(a.teams, a.stages);
        slot.next(a.teams, a.slots);
    }
}

template <int GROUPS, bool DENSE> static __global__ void __launch_bounds__(THREADS, 2) pairs(const __grid_constant__ pairs_args a) {
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ run the_run;
    const int warp = uniform((int)threadIdx.x >> 5), other = warp - MATH_WARPS;
    const pairs_block b(a, shared);
    if (DENSE || a.source.early)
        dependents_go();
    b.open(a, warp);
    auto wait_for_run = [&] { /* the barriers stand then too */
        __syncthreads();
        if (!DENSE && !a.source.early)
            dependents_go(); /* whose offsets may be the same */
        return run{uniform(the_run.items), uniform(the_run.first), uniform(the_run.chunks)};
    };
    if (warp < MATH_WARPS) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MATH_REGISTERS));
        multiply<GROUPS, DENSE>(a, b, wait_for_run(), warp);
        return;
    }
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(OTHER_REGISTERS));
    if (other > 0) {
        const run r = wait_for_run();
        dependency_wait();
        store<DENSE>(a, b, r, other - 1);
        return;
    }
    if (!DENSE)
        make_run<TOKENS>(a.source, &the_run, b.chunks);
    else if (elected()) {
        const int first = (int)(blockIdx.x * (unsigned)a.row_tiles / gridDim.x);
        the_run = {(int)((blockIdx.x + 1) * (unsigned)a.row_tiles / gridDim.x) - first, first, 1};
    }
    feed<DENSE>(a, b, wait_for_run());
}

/* ---- launching ---- */

/* How 8 warps share K and items: so that as few as can be have nothing to do, and as many as can be share K. */
struct pairs_form {
    int groups, parts, teams;
};

static pairs_form form_of(int groups) {
    pairs_form best = {};
    for (int each = 1; each <= 4; each++) {
        const int parts = (groups + each - 1) / each, teams = MATH_WARPS / parts;
        if (teams * best.groups > best.teams * each || !best.teams) /* items in the time of a group */
            best = {each, parts, teams};
    }
    return best;
}

template <int GROUPS, bool DENSE> static int launch(const gemm_task *t, const nib_gemm_group *p, const pairs_form &f) {
    const size_t chunks = DENSE ? 1 : min((size_t)t->m, p->n_experts + t->m / TOKENS);
    const int item = t->groups * GEMM_GROUP_BYTES, slots = STORERS * f.teams;
    const int fixed = slots * (f.parts * SUMS + 16) + (int)((chunks / t->n_sms + 3) * sizeof(chunk));
    /* a stage, like a slot, is one team's for ever: another could pass a phase that is not over */
    const int most = DENSE ? 16 : min(3 * f.teams, MOST_AHEAD / item);
    const int stages = min(most, (ROOM - 1024 - fixed) / (item + 16)) / f.teams * f.teams;
    const pairs_args a = {DENSE ? chunk_source() : make_source(p, t->n_sms, t->n / 16),
                          (const __nv_bfloat16 *)t->a,
                          t->k,
                          t->lda,
                          t->groups,
                          t->n / 16,
                          f.parts,
                          f.teams,
                          stages,
                          slots,
                          gemm_scale_offset((size_t)t->n, (size_t)t->k),
                          t->out,
                          {(const uint8_t *)t->w, 0, (unsigned short)t->m, 0}};
    return launch_kernel(t, pairs<GROUPS, DENSE>, t->n_sms, THREADS, fixed + stages * (item + 16), a);
}

template <bool DENSE> static int launch_form(const gemm_task *t, const nib_gemm_group *p) {
    const pairs_form f = form_of(t->groups);
    return f.groups == 1   ? launch<1, DENSE>(t, p, f)
           : f.groups == 2 ? launch<2, DENSE>(t, p, f)
           : f.groups == 3 ? launch<3, DENSE>(t, p, f)
                           : launch<4, DENSE>(t, p, f);
}

extern "C" bool gemm_pairs_serves(const gemm_task *t, const nib_gemm_group *p) {
    const size_t chunks = min((size_t)t->m, p->n_experts + t->m / TOKENS);
    return chunks * t->n / 16 <= MOST_ITEMS && t->groups <= 4 * MATH_WARPS && chunks / t->n_sms < 64;
}

extern "C" int gemm_pairs(const gemm_task *t, const nib_gemm_group *p) {
    return launch_form<false>(t, p);
}

extern "C" int gemm_pairs_alone(const gemm_task *t) {
    return launch_form<true>(t, nullptr);
}

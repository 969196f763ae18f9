/* SPDX-License-Identifier: Apache-2.0
 *
 * Experts: rows offsets[e] .. offsets[e + 1] of x times the weight of expert e, exact. The inner step is gemv16's:
 * tokens are the columns of mma.sync, the warps of a team share K, their sums meet in shared memory.
 *
 * An item is 32 rows x 8 TILES tokens of one expert, a chunk all items of the same tokens. The items of all experts stand in a
 * row, experts without tokens have none; each block takes an equal run of them, finds its experts in a table that it makes of
 * the offsets (of those with tokens alone), and reads activations where the run comes to another chunk. The block's TEAMS take
 * a chunk's items in turn: the shorter K, the fewer warps share it, so that a warp has some groups before it meets the others.
 * K beyond what fits goes slice by slice, by one team.
 */
#include "gemm/gpu/group.cuh"
#include "gemm/gpu/ring.cuh"

#define WARPS   8
#define STAGES  3
#define STAGE   (2 * GEMM_GROUP_BYTES)
#define FACTOR  0x1p55f

struct grouped_args {
    const int *offsets;
    const uint8_t *const *packed;
    const __nv_bfloat16 *x;
    int experts, n, k, lda, groups, row_tiles, slices;
    size_t scale_offset;
    gemm_out out;
};

/* Experts with tokens, in order. */
struct table {
    const uint8_t **packed; /* [experts] */
    int *starts;            /* [experts + 1] items before */
    int *rows;              /* [experts] first row */
    int *ends;              /* [experts] */
    int *expert;            /* [experts] which one it is */
    int *count;

    static const int each = sizeof(uint8_t *) + 4 * sizeof(int), more = 2 * sizeof(int); /* bytes an expert, and once */

    GEMM_DEV table(uint8_t *at, int experts) {
        packed = (const uint8_t **)at;
        starts = (int *)(packed + experts);
        rows = starts + experts + 1;
        ends = rows + experts;
        expert = ends + experts;
        count = expert + experts;
    }

    GEMM_DEV int find(int item) const { /* the entry that holds ITEM */
        int low = 0, high = *count;
        while (high - low > 1) {
            const int middle = (low + high) / 2;
            if (starts[middle] <= item)
                low = middle;
            else
                high = middle;
        }
        return low;
    }
};

/* 256 threads, four experts each. Two counts in one word: entries above, items below. */
template <int TILES> GEMM_DEV void make_table(const grouped_args &a, const table &t, int pairs) {
    __shared__ unsigned long long sums[WARPS];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first = threadIdx.x * 4;
    int edge[5];
    const uint8_t *packed[4];
    unsigned long long mine = 0;
    for (int i = 0; i < 5; i++)
        edge[i] = a.offsets[min(first + i, a.experts)];
    for (int i = 0; i < 4; i++)
        packed[i] = a.packed[min(first + i, a.experts - 1)];
    auto word = [&](int i) {
        const int items = (edge[i + 1] - edge[i] + 8 * TILES - 1) / (8 * TILES) * pairs;
        return (unsigned long long)(items > 0) << 40 | (unsigned)items;
    };
    for (int i = 0; i < 4; i++)
        mine += word(i);
    unsigned long long before = mine;
    for (int d = 1; d < 32; d *= 2) {
        const unsigned long long v = __shfl_up_sync(~0u, before, d);
        before += lane >= d ? v : 0;
    }
    if (lane == 31)
        sums[warp] = before;
    __syncthreads();
    before -= mine;
    for (int w = 0; w < warp; w++)
        before += sums[w];
    for (int i = 0; i < 4; i++) {
        const int at = (int)(before >> 40);
        if (edge[i + 1] > edge[i]) {
            t.starts[at] = (int)(uint32_t)before;
            t.rows[at] = edge[i];
            t.ends[at] = edge[i + 1];
            t.expert[at] = first + i;
            t.packed[at] = packed[i];
        }
        before += word(i);
    }
    if (threadIdx.x == 255) {
        t.starts[before >> 40] = (int)(uint32_t)before;
        *t.count = (int)(before >> 40);
    }
    __syncthreads();
}

template <int TILES>
GEMM_DEV void load_rows(const grouped_args &a, uint8_t *xs, int row, int rows, int first, int count, int stride) {
    for (int token = threadIdx.x / 32; token < TILES * 8; token += WARPS) /* a warp a row, all loads in flight */
#pragma unroll 4
        for (int at = (threadIdx.x & 31) * 8; at < count; at += 256) {
            uint4 v = make_uint4(0, 0, 0, 0);
            if (token < rows && first + at < a.k) {
                v = __ldcg((const uint4 *)(a.x + (size_t)(row + token) * a.lda + first + at));
                v.x = mul_bf16x2(v.x, 0x5f805f80u);
                v.y = mul_bf16x2(v.y, 0x5f805f80u);
                v.z = mul_bf16x2(v.z, 0x5f805f80u);
                v.w = mul_bf16x2(v.w, 0x5f805f80u);
            }
            *(uint4 *)(xs + token * stride + at * 2) = v;
        }
}

/* A warp's walk over its team's items of the block's run. */
template <int TEAMS> struct walk {
    int item, at, chunk_end; /* its entry of the table; where the chunk ends */

    GEMM_DEV void enter(const table &t, int base, int team, int pairs, int end) { /* the chunk that begins with BASE */
        if (base < end) {
            at += base >= t.starts[at + 1];
            chunk_end = min(end, base + pairs - (base - t.starts[at]) % pairs);
        }
        item = base + team;
    }

    GEMM_DEV void next(const table &t, int team, int pairs, int end) {
        item += TEAMS;
        while (item >= chunk_end && chunk_end < end)
            enter(t, chunk_end, team, pairs, end);
    }
};

template <int TILES, int TEAMS>
static __global__ void __launch_bounds__(WARPS * 32, 2) grouped(const __grid_constant__ grouped_args a) {
    constexpr int SUMS = 2 * 16 * TILES * 8, MEMBERS = WARPS / TEAMS;
    extern __shared__ __align__(128) uint8_t shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int team = warp / MEMBERS, member = warp % MEMBERS;
    const int most = (a.groups + a.slices - 1) / a.slices, stride = most * GEMM_GROUP_K * 2 + 16;
    const int pairs = (a.row_tiles + 1) / 2;
    uint8_t *xs = shared + WARPS * STAGES * STAGE;
    float *sums = (float *)(xs + TILES * 8 * stride);
    const uint32_t bars = shared_address(sums + 2 * WARPS * SUMS);
    const table known((uint8_t *)(sums + 2 * WARPS * SUMS) + WARPS * STAGES * 8, a.experts);
    warp_ring<STAGES, STAGE> ring;
    ring.open(shared_address(shared) + warp * STAGES * STAGE, bars + warp * STAGES * 8);
    dependency_wait();
    dependents_go(); /* whose offsets may be the same */
    make_table<TILES>(a, known, pairs);
    const int total = known.starts[*known.count];
    const int first_item = (int)((long long)blockIdx.x * total / gridDim.x);
    const int end = (int)((blockIdx.x + 1LL) * total / gridDim.x);

    /* this warp's groups of slice S; one slice is the common case and costs no division */
    const int whole_first = member * a.groups / MEMBERS, whole_end = (member + 1) * a.groups / MEMBERS;
    auto slice_first = [&](int s) { return a.slices == 1 ? s * a.groups : s * a.groups / a.slices; };
    auto my_first = [&](int s) {
        return a.slices == 1 ? whole_first : slice_first(s) + member * (slice_first(s + 1) - slice_first(s)) / MEMBERS;
    };
    auto my_end = [&](int s) {
        return a.slices == 1 ? whole_end : slice_first(s) + (member + 1) * (slice_first(s + 1) - slice_first(s)) / MEMBERS;
    };
    const size_t tile_bytes = (size_t)a.groups * GEMM_GROUP_BYTES;
    walk<TEAMS> ahead = {0, known.find(first_item), first_item};
    ahead.enter(known, first_item, team, pairs, end);
    if (ahead.item >= ahead.chunk_end) /* more teams than items in the chunk */
        ahead.item -= TEAMS, ahead.next(known, team, pairs, end);
    walk<TEAMS> here = ahead;
    int next_slice = 0, next_group = my_first(0), next_end = my_end(0), next_known = -1;
    const uint8_t *next_row = nullptr; /* of the item's first row tile */
    bool next_twin = false;
    auto put = [&](int s) { /* the next group that is this warp's, over slices and items */
        while (ahead.item < end && next_group >= next_end) {
            if (++next_slice == a.slices) {
                next_slice = 0;
                ahead.next(known, team, pairs, end);
            }
            next_group = my_first(next_slice);
            next_end = my_end(next_slice);
        }
        const bool more = ahead.item < end;
        if (more && ahead.item != next_known) {
            const int pair = (ahead.item - known.starts[ahead.at]) % pairs;
            next_row = known.packed[ahead.at] + (size_t)pair * 2 * tile_bytes;
            next_twin = 2 * pair + 1 < a.row_tiles;
            next_known = ahead.item;
        }
        const uint8_t *src = next_row + (size_t)next_group * GEMM_GROUP_BYTES;
        ring.put(s, src, next_twin ? src + tile_bytes : src, more ? GEMM_GROUP_BYTES : 0, GEMM_GROUP_BYTES);
        next_group++;
    };
    for (int s = 0; s < STAGES; s++)
        put(s);

    int chunk_at = known.find(first_item), parity = 0;
    for (int base = first_item; base < end;) {
        chunk_at += base >= known.starts[chunk_at + 1];
        const int local = base - known.starts[chunk_at], chunk = local / pairs, chunk_end = min(end, base + pairs - local % pairs);
        const int row = known.rows[chunk_at] + chunk * 8 * TILES, rows = min(8 * TILES, known.ends[chunk_at] - row);
        const float tensor_scale = *(const float *)(known.packed[chunk_at] + a.scale_offset); /* used with the first result */
        if (a.slices == 1) {
            __syncthreads();
            load_rows<TILES>(a, xs, row, rows, 0, a.groups * GEMM_GROUP_K, stride);
            __syncthreads();
        }
        for (; here.item < chunk_end; here.next(known, team, pairs, end)) {
            const int pair = here.item - known.starts[chunk_at] - chunk * pairs;
            float sum[2][TILES][4] = {};
            for (int s = 0; s < a.slices; s++) {
                float c[2][TILES][4] = {}; /* of one slice: tensor cores cut long sums */
                if (a.slices > 1) { /* one team */
                    __syncthreads();
                    load_rows<TILES>(a, xs, row, rows, slice_first(s) * GEMM_GROUP_K,
                                     (slice_first(s + 1) - slice_first(s)) * GEMM_GROUP_K, stride);
                    __syncthreads();
                }
                const int first = my_first(s), count = my_end(s) - first;
                const uint32_t x = shared_address(xs) + g * stride + (first - slice_first(s)) * 256 + t * 32;
#pragma unroll 1
                for (int i = 0; i < count; i++) {
                    add_group<TILES, false>(ring.wait(), x + i * 256, stride, c);
                    put(ring.release());
                }
#pragma unroll
                for (int i = 0; i < 8 * TILES; i++)
                    (&sum[0][0][0])[i] += (&c[0][0][0])[i];
            }
            float *mine = sums + (parity * TEAMS + team) * MEMBERS * SUMS; /* two sets, so that one barrier an item is enough */
            parity ^= 1;
#pragma unroll
            for (int r = 0; r < 2; r++)
#pragma unroll
                for (int n = 0; n < TILES; n++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        mine[member * SUMS + (n * 8 + 2 * t + (j & 1)) * 32 + r * 16 + gemm_tile_row(g, j >> 1)] = sum[r][n][j];
            asm volatile("bar.sync %0,%1;" ::"r"(1 + team), "n"(MEMBERS * 32) : "memory");
            const float factor = FACTOR * (a.out.alpha * tensor_scale);
            for (int i = threadIdx.x % (MEMBERS * 32); i < rows * 32; i += MEMBERS * 32) {
                float v = 0.0f;
#pragma unroll
                for (int w = 0; w < MEMBERS; w++)
                    v += mine[w * SUMS + i];
                const int column = pair * 32 + i % 32; /* of d */
                if (column < a.n)
                    store_result(without_bias(a.out), row + i / 32, column,
                                 fmaf(v, factor, expert_bias(a.out, a.n, known.expert[chunk_at], column)));
            }
        }
        base = chunk_end;
    }
}

template <int TILES> static int launch(const gemm_task *t, const nib_gemm_group *p) {
    const size_t fixed = (size_t)WARPS * STAGES * (STAGE + 8) + 2 * WARPS * 2 * 16 * TILES * 8 * sizeof(float) +
                         p->n_experts * table::each + table::more + TILES * 8 * 16;
    const size_t half = (size_t)t->max_shared / 2 - 1024; /* two blocks on a multiprocessor where they fit */
    const size_t room = (half > fixed + TILES * 8 * 512 ? half : (size_t)t->max_shared) - fixed;
    const int fit = (int)(room / (TILES * 8 * GEMM_GROUP_K * 2));
    grouped_args a = {p->offsets, (const uint8_t *const *)p->packed, (const __nv_bfloat16 *)t->a, (int)p->n_experts, t->n,
                      t->k,       t->lda,                            t->groups,                   t->n / 16,
                      1,          gemm_scale_offset((size_t)t->n, (size_t)t->k), t->out};
    a.slices = (t->groups + fit - 1) / fit;
    const int most = (t->groups + a.slices - 1) / a.slices;
    const size_t shared = fixed + (size_t)TILES * 8 * most * GEMM_GROUP_K * 2;
    const int blocks = t->n_sms * (2 * (shared + 1024) <= (size_t)t->max_shared ? 2 : 1);
    const long long items = (long long)min(t->m, a.experts) * ((a.row_tiles + 1) / 2); /* about, if tokens are few */
    const bool alone = a.slices > 1 || t->groups >= 32 || items < 4LL * blocks;
    auto kernel = alone ? grouped<TILES, 1> : t->groups >= 12 ? grouped<TILES, 2> : grouped<TILES, 4>;
    return launch_kernel(t, kernel, blocks, WARPS * 32, shared, a);
}

extern "C" int gemm_grouped(const gemm_task *t, const nib_gemm_group *p) {
    return (size_t)t->m > p->n_experts * 6 ? launch<2>(t, p) : launch<1>(t, p);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of rows that stand alone (decode): split KV, the query heads of a KV head as columns of one
 * tensor-core tile, keys and values by way of shared memory.
 *
 * A block is one row, one KV head (with up to 8 of its query heads) and one split of the row's keys; tiles of
 * 16 keys go round its warps:
 *   S [16 keys, 8 heads] = K q^T   A: lane (g, t) holds dimensions [t D/4, (t+1) D/4) of keys g and g + 8
 *   P = 2^(S - max), times the values' scales, transposed in registers (movmatrix)
 *   O [D, 8 heads] += V^T P        A: lane (g, t) holds dimensions [g D/8, (g+1) D/8) of keys 2t, 2t+1, 2t+8,
 * 2t+9. FP8 becomes FP16 exactly, BF16 stays; sums are FP32. The warps meet in shared memory; the splits of a
 * row and head are a cluster of blocks and meet in each other's shared memory (sm_90 and up), or in a second
 * kernel, in their order. Each of an SM's 16 warps has one tile on its way while it computes the one before
 * (two keep the next kernel's blocks away). The first tile's keys are those of earlier steps and are asked
 * for before the kernel before has ended.
 *
 * Splits: one wave over the chip, of blocks of 4 warps or of wide ones (16, at head_dim 256 8), whichever
 * fill it better; no split below MIN_SPLIT keys. Their number depends on the number of rows and on whether
 * all are brief (then none is split: a cluster costs some 2 us to launch); each row cuts its own length, so a
 * CUDA graph serves every length. Bytes moved: the row's keys, values and scales once per 8 query heads;
 * partial sums.
 *
 * Where rows are few a launch costs more than making the queries of a KV head once a split: MAKES does what
 * qkv.cu does, bit for bit, and the last split's block stores the row's key and value; the warp whose tile
 * has them takes them from shared memory.
 */
#include "cuda/gpu/any/decode.cuh"

enum { NARROW = 4, MIN_SPLIT = 128, MAX_SPLITS = 128, MAKES_ROWS = 64 };

template <int D> constexpr int wide_warps() { /* as many as an SM holds at the registers that D takes */
    return D <= 128 ? 16 : 8;
}

/* Shared memory of a block: each warp's tiles; the block's own part or its queries, and the key that turns;
 * cosines and sines; of FP8, what keys are stored less. */
template <int D, kv_format F> struct block_room {
    static constexpr int part = part_layout<D>::all * (int)sizeof(float);
    static constexpr int own = (COLUMNS + 1) * maker<D, NARROW>::query * (int)sizeof(float);
    static constexpr int rest = own + D * (F == KV_FP8 ? 2 : 1) * (int)sizeof(float);
    /* of a warp: its tile, whose place its part takes in the end */
    static constexpr int warp = staged<D, F>::bytes > part ? staged<D, F>::bytes : part;
    static_assert(own >= part, "queries' place holds a part");
};

/* Split I of N. */
__device__ __forceinline__ span split_span(const attn_view &p, int position, int i, int n) {
    span s;
    s.first = first_key(p, position);
    s.end = position + 1;
    s.base = s.first & ~15;
    s.each = max(MIN_SPLIT, ((s.end - s.base + n - 1) / n + 63) & ~63);
    s.lo = s.base + i * s.each;
    s.hi = min(s.end, s.lo + s.each);
    s.used = (s.end - s.base + s.each - 1) / s.each;
    return s;
}

/* ---- clusters ---- */

__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    __syncwarp(); /* .aligned */
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
#endif
}

/* *P of the cluster's block RANK. */
__device__ __forceinline__ float cluster_read(const float *p, int rank) {
    float v = 0;
#if __CUDA_ARCH__ >= 900
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p), there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(there));
#endif
    return v;
}

/* The same over the parts at P of the cluster's first N blocks. */
template <int D> __device__ __forceinline__ joined<1> join_blocks(const float *p, int n, int i) {
    float max = NO_SCORE, acc = 0, sum = 0;
#pragma unroll 8
    for (int k = 0; k < n; k++)
        max = fmaxf(max, cluster_read(p + part_layout<D>::max, k));
#pragma unroll 8
    for (int k = 0; k < n; k++) {
        float f = exp2_fast(cluster_read(p + part_layout<D>::max, k) - max);
        acc += f * cluster_read(p + part_layout<D>::at(i), k);
        sum += f * cluster_read(p + part_layout<D>::sum, k);
    }
    return {{acc}, max, sum};
}

/* MERGE: what is done with the splits' sums. */
typedef enum merge_kind { MERGE_LATER, MERGE_CLUSTER } merge_kind;

template <int D, kv_format F, int WARPS, merge_kind MERGE, bool MAKES>
static __global__ void __launch_bounds__(WARPS * 32, (D <= 128 ? 16 : 8) / WARPS)
    attend_splits(attn_job job) {
    constexpr int head_floats = part_layout<D>::head, STRIDE = 16 * WARPS, each = block_room<D, F>::warp;
    extern __shared__ __align__(128) uint8_t shared[];
    float *parts = (float *)shared, *own = (float *)(shared + WARPS * each);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int group = job.p.n_heads / job.p.n_kv_heads, chunks = (group + COLUMNS - 1) / COLUMNS;
    const int kv_head = blockIdx.y / chunks, chunk = blockIdx.y % chunks;
    const float frequency = MAKES && (int)threadIdx.x < job.p.n_freq ? job.p.inv_freq[threadIdx.x] : 0;
    const size_t row = job.step.alone[blockIdx.z];
    const int32_t *pages = job.step.page_table + job.step.first_page[row];
    const int position = job.step.positions[row];
    const span sp = split_span(job.p, position, blockIdx.x, job.n_splits);
    const int columns = min(COLUMNS, group - chunk * COLUMNS), column = chunk * COLUMNS + g;
    const int first_head = kv_head * group + chunk * COLUMNS;
    kv_view kv = job.kv;
    kv.format = F; /* which the compiler knows */
    auto cell = [&](int page, int key) {
        return ((size_t)page * job.p.n_kv_heads + kv_head) * KV_PAGE + key % KV_PAGE;
    };
    int key = sp.lo + 16 * warp;
    uint8_t *here = shared + warp * each; /* the warp's tile */
    const uint64_t hint = read_once();
    const bool early =
        MAKES || key + 16 < sp.end; /* the first one has no key that the kernel before stores */
    const int page = key < sp.hi ? pages[key / KV_PAGE] : 0,
              last_page = MAKES ? pages[position / KV_PAGE] : 0;
    __shared__ newcomer<D, F> fresh; /* of MAKES */
    maker<D, WARPS> made;
    float *trig = own + (COLUMNS + 1) * made.query;
    const float *mean = F == KV_FP8 && job.p.k_mean ? trig + D : nullptr; /* of the head's keys */
    for (int i = threadIdx.x; mean && i < D; i += WARPS * 32)
        trig[D + i] = job.p.k_mean[kv_head * D + i];
    if (MAKES)
        made.turn_angles(job.p, position, frequency, trig);
    if (early && key < sp.hi)
        copy_tile<D, F>(here, kv, cell(page, key), hint, lane);
    if (MAKES || mean)
        __syncthreads();
    if (MAKES)
        made.open(job.p, position, trig, lane);
    pdl_wait();
    pdl_go();
    if (sp.lo >= sp.hi)
        return;
    const float *query = job.q + row * job.q_stride + (size_t)(first_head + g) * D;
    if (MAKES) {
        const void *in = act_row(job.qkv, row);
        auto load = [&](float(&v)[D / 32], int at) {
            if (job.qkv.format == ACT_BF16)
                load_vector<D / 32, true>(v, in, (size_t)at * D, D, lane);
            else
                load_vector<D / 32, false>(v, in, (size_t)at * D, D, lane);
        };
        made.make(job.p, kv, load, kv_head, sp.hi == sp.end, cell(last_page, position),
                  position > 0 ? mean : nullptr, own, trig, &fresh, warp, lane);
        query = own + g * made.query;
    }
    const int maker_warp = made.key_warp, taker = (position - sp.lo) / 16 % WARPS;
    const bool stores = MAKES && sp.hi == sp.end;
    if (stores && warp == maker_warp)
        key_comes(warp, maker_warp, taker);
    const int with_keys = min(WARPS, (sp.hi - sp.lo + 15) / 16); /* warps */
    uint32_t q[D / 8] = {};
    if (warp < with_keys)
        load_query<D, F>(q, query, MAKES ? made.PAD : 0, job.p.scale * LOG2E, column < group, t);
    float2 lost = {0, 0};
    if (mean && key == 0)
        lost = mean_scores<D>(query - g * (MAKES ? made.query : D), MAKES ? made.query : D,
                              MAKES ? made.PAD : 0, job.p.scale * LOG2E, columns, mean, lane);
    running<D> r = {{}, {NO_SCORE, NO_SCORE}, {}};
    if (!early && key < sp.hi)
        copy_tile<D, F>(here, kv, cell(page, key), hint, lane);
    int next_page = key + STRIDE < sp.hi ? pages[(key + STRIDE) / KV_PAGE] : 0;
    for (; key < sp.hi; key += STRIDE) {
        tile<D, F> x;
        wait_copies();
        read_tile<D, F>(&x, here, g, t);
        if (stores && position - key < 16) {
            if (warp != maker_warp)
                key_comes(warp, maker_warp, taker);
            take_newcomer<D, F>(&x, fresh, position - key, g, t);
        }
        __syncwarp(); /* the tile is read: the next one may come */
        if (key + STRIDE < sp.hi)
            copy_tile<D, F>(here, kv, cell(next_page, key + STRIDE), hint, lane);
        if (key + 2 * STRIDE < sp.hi)
            next_page = pages[(key + 2 * STRIDE) / KV_PAGE]; /* known before its tile's turn */
        take_tile<D, F>(&r, x, q, key + g, sp, job.p.cap, lost);
        lost = make_float2(0, 0);
    }
    __syncwarp();
    if (warp < with_keys)
        put_running<D>((float *)here, &r, g, t, columns);
    __syncthreads();
    const int used = sp.used;
    float *to =
        MERGE == MERGE_CLUSTER
            ? own
            : job.partial + ((blockIdx.z * (size_t)gridDim.y + blockIdx.y) * job.n_splits + blockIdx.x) *
                                part_layout<D>::all;
    constexpr int N = WARPS == NARROW ? 4 : 2; /* neighbours a thread */
    for (int i = N * threadIdx.x; i < columns * D; i += N * WARPS * 32) {
        const int head = i / D, at = head * head_floats;
        const joined<N> all = join_parts<D, N>(&parts[at], each / sizeof(float), with_keys, i % D);
        if (MERGE == MERGE_CLUSTER ? used == 1 : job.n_splits == 1) { /* nothing to merge with */
            const float factor = mean_factor<F>(all.sum);
#pragma unroll
            for (int j = 0; j < N; j += 2)
                put_pair(job.out, row, (size_t)first_head * D + i + j, all.acc[j] * factor,
                         all.acc[j + 1] * factor);
            continue;
        }
#pragma unroll
        for (int j = 0; j < N; j++)
            to[at + part_layout<D>::at(i % D) + j] = all.acc[j];
        if (i % D == 0) {
            to[at + part_layout<D>::max] = all.max;
            to[at + part_layout<D>::sum] = all.sum;
        }
    }
    if (MERGE == MERGE_LATER || used == 1)
        return;
    cluster_barrier(); /* blocks without keys have left: they do not count */
    for (int i = blockIdx.x * WARPS * 32 + threadIdx.x; i < columns * D; i += used * WARPS * 32) {
        const joined<1> all = join_blocks<D>(own + i / D * head_floats, used, i % D);
        put_out(job.out, row, (size_t)first_head * D + i, all.acc[0] * mean_factor<F>(all.sum));
    }
    cluster_barrier(); /* nobody leaves while others read */
}

/* A block merges the splits of one row and query head. First their maxima become factors, all at once; then
 * MERGERS groups of D threads add every MERGERS-th split, and the groups meet. */
enum { MERGERS = 4 };

template <int D, kv_format F>
static __global__ void __launch_bounds__(MERGERS *D) merge_splits(attn_job job) {
    __shared__ float factors[MAX_SPLITS], sums[MAX_SPLITS], groups[MERGERS][D];
    const int group = job.p.n_heads / job.p.n_kv_heads, chunks = (group + COLUMNS - 1) / COLUMNS;
    const int i = threadIdx.x % D, m = threadIdx.x / D, head = blockIdx.x;
    const size_t row = job.step.alone[blockIdx.y], block = head / group * chunks + head % group / COLUMNS;
    const int used = split_span(job.p, job.step.positions[row], 0, job.n_splits).used;
    const float *p = job.partial + (blockIdx.y * (size_t)(job.p.n_kv_heads * chunks) + block) * job.n_splits *
                                       part_layout<D>::all;
    p += head % group % COLUMNS * part_layout<D>::head;
    pdl_wait();
    pdl_go();
    if (threadIdx.x < 32) {
        float max = NO_SCORE, sum = 0;
        for (int k = threadIdx.x; k < used; k += 32) {
            factors[k] = p[k * (size_t)part_layout<D>::all + part_layout<D>::max];
            sums[k] = p[k * (size_t)part_layout<D>::all + part_layout<D>::sum];
            max = fmaxf(max, factors[k]);
        }
        max = warp_max(max);
        for (int k = threadIdx.x; k < used; k += 32) {
            factors[k] = exp2_fast(factors[k] - max);
            sum += factors[k] * sums[k];
        }
        sum = warp_sum(sum);
        if (threadIdx.x == 0)
            sums[0] = F == KV_FP8 ? sum * WEIGHT_LIFT : sum;
    }
    __syncthreads();
    float acc = 0;
#pragma unroll 8
    for (int k = m; k < used; k += MERGERS)
        acc += factors[k] * p[k * (size_t)part_layout<D>::all + part_layout<D>::at(i)];
    groups[m][i] = acc;
    __syncthreads();
    if (m == 0)
        put_out(job.out, row, (size_t)head * D + i,
                (groups[0][i] + groups[1][i] + (groups[2][i] + groups[3][i])) / sums[0]);
}

/* ---- launching ---- */

static int chunks_of(const attn_view *p) {
    return (p->n_heads / p->n_kv_heads + COLUMNS - 1) / COLUMNS * p->n_kv_heads;
}

/* How the rows are cut: splits of a row and head, in blocks of few warps or of many. */
typedef struct cut {
    int splits;
    bool wide;
} cut;

/* The cut with the most warps whose clusters all run at once; WIDE_TOO: of wide blocks as well, which a
 * block's shared memory may not hold. */
static cut cut_rows(const cuda_lane *lane, const attn_view *p, int n_alone, bool brief, bool wide_too) {
    const int units = chunks_of(p) * n_alone, warps = p->head_dim <= 128 ? 16 : 8; /* that an SM holds */
    cut best = {1, false};
    if (lane->clusters[0][1] == 0) {
        best.splits = max(1, min((int)MAX_SPLITS, lane->n_sms * (warps / NARROW) / units));
        return best;
    }
    if (brief && wide_too && units <= lane->clusters[1][1])
        return {1, true};
    for (int wide = 0, most = 0; wide < (wide_too ? 2 : 1); wide++)
        for (int n = 1; n <= MAX_CLUSTER && units <= lane->clusters[wide][n]; n++)
            if (n * (wide ? warps : NARROW) > most) {
                most = n * (wide ? warps : NARROW);
                best = {n, wide != 0};
            }
    return best;
}

extern "C" bool decode_supports(const attn_view *p, kv_format format) {
    int d = p->head_dim;
    return (d == 64 || d == 96 || d == 128 || d == 256) && format != KV_F32 &&
           p->n_heads % p->n_kv_heads == 0;
}

extern "C" size_t decode_partial_bytes(const cuda_lane *lane, const attn_view *p, int n_alone) {
    if (lane->clusters[0][1] > 0 || n_alone == 0)
        return 0;
    return sizeof(float) * (size_t)n_alone * (size_t)chunks_of(p) *
           (size_t)cut_rows(lane, p, n_alone, false, false).splits * COLUMNS * (size_t)(p->head_dim + 12);
}

/* Splits are merged only where blocks are fewer than the chip holds. */
extern "C" size_t decode_partial_most(const cuda_lane *lane) {
    return lane->clusters[0][1] > 0
               ? 0
               : sizeof(float) * (size_t)lane->n_sms * 4 * COLUMNS * part_layout<256>::head;
}

template <int D, kv_format F> static size_t room_bytes(int warps) {
    return (size_t)(warps * block_room<D, F>::warp + block_room<D, F>::rest);
}

template <int D, kv_format F, int WARPS, merge_kind MERGE, bool MAKES>
static int run_splits(const cuda_lane *lane, const attn_job &job, int n_alone) {
    const size_t shared = room_bytes<D, F>(WARPS);
    dim3 grid((unsigned)job.n_splits, (unsigned)chunks_of(&job.p), (unsigned)n_alone);
    auto kernel = attend_splits<D, F, WARPS, MERGE, MAKES>;
    cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (status != cudaSuccess)
        return status;
    return launch_clusters(lane, kernel, grid, MERGE == MERGE_CLUSTER ? grid.x : 1, WARPS * 32, shared, job);
}

template <int D, kv_format F> static int run(const cuda_lane *lane, attn_job job, int n_alone) {
    const size_t wide_bytes = room_bytes<D, F>(wide_warps<D>()) + sizeof(newcomer<D, F>);
    const cut c = cut_rows(lane, &job.p, n_alone, job.step.brief, wide_bytes <= (size_t)lane->most_shared);
    job.n_splits = c.splits;
    if (job.qkv.data)
        return c.wide ? run_splits<D, F, wide_warps<D>(), MERGE_CLUSTER, true>(lane, job, n_alone)
                      : run_splits<D, F, NARROW, MERGE_CLUSTER, true>(lane, job, n_alone);
    if (c.wide)
        return run_splits<D, F, wide_warps<D>(), MERGE_CLUSTER, false>(lane, job, n_alone);
    if (lane->clusters[0][1] > 0)
        return run_splits<D, F, NARROW, MERGE_CLUSTER, false>(lane, job, n_alone);
    int status = run_splits<D, F, NARROW, MERGE_LATER, false>(lane, job, n_alone);
    if (status != cudaSuccess || job.n_splits == 1)
        return status;
    return launch_kernel(lane, merge_splits<D, F>, dim3((unsigned)job.p.n_heads, (unsigned)n_alone),
                         MERGERS * D, 0, job);
}

/* Of head_dim 128 over FP8 pages; others differ little. */
template <int WARPS> static int count_clusters(const cuda_lane *lane, int *counts) {
    auto kernel = attend_splits<128, KV_FP8, WARPS, MERGE_CLUSTER, false>;
    const size_t shared = room_bytes<128, KV_FP8>(WARPS);
    int status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    for (unsigned n = 1; n <= MAX_CLUSTER && status == cudaSuccess; n++) {
        cudaLaunchConfig_t config = {};
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = n;
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
        config.gridDim = dim3(n);
        config.blockDim = dim3(WARPS * 32);
        config.dynamicSmemBytes = shared;
        config.attrs = &attribute;
        config.numAttrs = 1;
        status = cudaOccupancyMaxActiveClusters(&counts[n], kernel, &config);
    }
    return status;
}

extern "C" int decode_know_clusters(cuda_lane *lane) {
    int device, status = cudaGetDevice(&device);
    if (status == cudaSuccess)
        status = cudaDeviceGetAttribute(&lane->most_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (status == cudaSuccess)
        status = count_clusters<NARROW>(lane, lane->clusters[0]);
    return status == cudaSuccess ? count_clusters<wide_warps<128>()>(lane, lane->clusters[1]) : status;
}

template <int D> static int run_format(const cuda_lane *lane, const attn_job &job, int n_alone) {
    return job.kv.format == KV_FP8 ? run<D, KV_FP8>(lane, job, n_alone) : run<D, KV_BF16>(lane, job, n_alone);
}

static int run_dim(const cuda_lane *lane, const attn_job &job, int n_alone) {
    return job.p.head_dim == 64    ? run_format<64>(lane, job, n_alone)
           : job.p.head_dim == 96  ? run_format<96>(lane, job, n_alone)
           : job.p.head_dim == 128 ? run_format<128>(lane, job, n_alone)
                                   : run_format<256>(lane, job, n_alone);
}

extern "C" int decode_launch(const cuda_lane *lane, act_view out, const float *q, size_t q_stride,
                             const attn_view *p, const kv_view *kv, const step_view *step, int n_alone,
                             void *partial) {
    if (n_alone == 0)
        return cudaSuccess;
    if (!decode_supports(p, kv->format) || out.format == ACT_FP8 || q_stride % 4 != 0 ||
        (!partial && decode_partial_bytes(lane, p, n_alone) > 0))
        return cudaErrorInvalidValue;
    attn_job job = {out, q, q_stride, *p, *kv, *step, n_alone, (float *)partial, 1, {}};
    return run_dim(lane, job, n_alone);
}

extern "C" bool decode_makes(const cuda_lane *lane, const attn_view *p, kv_format format, int n_alone) {
    return lane->clusters[0][1] > 0 && decode_supports(p, format) && n_alone <= MAKES_ROWS &&
           p->n_heads / p->n_kv_heads <= COLUMNS && 2 * p->n_freq <= p->head_dim;
}

extern "C" int decode_make_launch(const cuda_lane *lane, act_view out, act_view qkv, const attn_view *p,
                                  const kv_view *kv, const step_view *step, int n_alone) {
    const size_t width = (size_t)(p->n_heads + 2 * p->n_kv_heads) * (size_t)p->head_dim;
    if (!decode_makes(lane, p, kv->format, n_alone) || out.format == ACT_FP8 || qkv.format == ACT_FP8 ||
        qkv.stride < width || !qkv.data)
        return cudaErrorInvalidValue;
    attn_job job = {out, NULL, 0, *p, *kv, *step, n_alone, NULL, 1, qkv};
    return n_alone == 0 ? cudaSuccess : run_dim(lane, job, n_alone);
}

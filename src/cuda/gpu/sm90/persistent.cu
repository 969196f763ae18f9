/* SPDX-License-Identifier: Apache-2.0
 *
 * One token through all layers in one launch: a block of 16 warps on every multiprocessor walks a list of
 * products and attentions (cuda/pass.h) and hands its results to the other blocks through memory that tells
 * by itself whether a value is there (handover.cuh). There is no barrier between blocks. What stands between
 * kernels costs some 2 us each; a hand-over costs 0.9, and weights are on their way across it.
 *
 * Products are the GEMV's (gemm/gpu/any/gemv.cu): each warp owns a slice of K, its x in shared memory and a
 * ring of weights, which it keeps full over all products of the list: it needs nothing of what is computed.
 * Row tiles go round the blocks. The stream's values stay in shared memory, each beside the thread that adds.
 * Attention is decode's (any/decode.cu): blocks with a KV head and a split of its keys, from the last one
 * down, since those have the fewest tiles. More than BRIEF_KEYS keys are split, and blocks from the first one
 * up merge, a query head each.
 *
 * All blocks must run at once (a cooperative launch), and each must have a tile of every PASS_ADD.
 * Bytes moved: weights, keys and values once; what is handed over once a block, from L2.
 */
#include "cuda/gpu/any/decode.cuh"
#include "cuda/gpu/sm90/handover.cuh"
#include "cuda/pass.h"
#include "gemm/gpu/gemv.cuh"
#include "gemm/gpu/ring.cuh"

enum { WARPS = 16, THREADS = 32 * WARPS, STAGES = 4, FLUSH_TILES = 8, SPLIT_KEYS = 256, MOST_TURNS = 128 };
enum {
    SUMS_ROW = WARPS + 4,
    SUMS_SET = FLUSH_TILES * 16 * SUMS_ROW
}; /* 16-byte loads that hit different banks */

/* What attention knows of a view and of this block's part in it. */
struct site {
    attn_view p;
    const int32_t *pages;
    span sp;
    int position, kv_head, split;     /* split < sp.used: this block has keys */
    int first_page[WARPS], last_page; /* of a warp's first tile; of the position */
};

/* Shared memory, in bytes from its start. Attention's parts lie where sums and x do. */
struct room {
    static constexpr int bars = WARPS * STAGES * UNIT_BYTES, zeros = bars + WARPS * STAGES * 8,
                         here = zeros + 256,
                         feeds = here + (int)sizeof(site) / 16 * 16 + 16, /* [WARPS] feed::plan */
        memos = feeds + WARPS * 32,                                       /* [WARPS] memo */
        stream = memos + WARPS * 16,                                      /* [FLUSH_TILES][16] */
        squares = stream + FLUSH_TILES * 16 * (int)sizeof(float),         /* [WARPS] */
        trig = squares + WARPS * (int)sizeof(float),                      /* [2][n_freq] */
        sums = (trig + 2 * MOST_TURNS * (int)sizeof(float) + 127) / 128 *
               128,                                   /* [2][FLUSH_TILES][16][SUMS_ROW] */
        x = sums + 2 * SUMS_SET * (int)sizeof(float); /* [max_k] BF16 */
};

static int shared_bytes(int max_k, int group, int head_dim) {
    const int x = room::x + (max_k + GEMM_GROUP_K - 1) / GEMM_GROUP_K * GEMM_GROUP_K * 2;
    const int each =
        group * (head_dim + 4); /* parts, or sums; queries; a turning vector of each warp that makes one */
    const int attention = max(WARPS * each, 2 * (int)SUMS_SET) + each + min((int)WARPS, group + 2) * head_dim;
    return max(x, room::sums + attention * (int)sizeof(float));
}

/* ---- weights ---- */

/* Row tiles of this block. */
__device__ __forceinline__ int tiles_of(const pass_op &op) {
    const int n = op.product.rounds + ((int)blockIdx.x < op.product.rest);
    return op.kind == PASS_GATED ? 2 * n : n;
}

/* Row tile I of this block: of the gated unit tiles of the gate and their twins of up in turn. */
__device__ __forceinline__ int tile_of(const pass_op &op, int i) {
    if (op.kind != PASS_GATED)
        return (int)blockIdx.x + i * (int)gridDim.x;
    return (int)blockIdx.x + i / 2 * (int)gridDim.x + i % 2 * op.product.twin;
}

/* The groups of K that a warp owns. */
struct slice {
    int first, n;

    __device__ __forceinline__ slice(int groups, int warp) {
        first = (int)((unsigned)(warp * groups) / WARPS);
        n = (int)((unsigned)((warp + 1) * groups) / WARPS) - first;
    }
};

typedef warp_ring<STAGES, UNIT_BYTES> weights_ring;

/* One lane of the warp, always the same. */
__device__ __forceinline__ bool elected() {
    uint32_t yes;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(yes));
    return yes;
}

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
    __device__ __forceinline__ void open(const pass &a, plan *p, int warp) {
        units = 0;
        for (int op = p->op; op < a.n_ops; op++) {
            const pass_op &o = a.ops[op];
            if (o.kind == PASS_ATTEND)
                continue;
            const slice s(o.product.groups, warp);
            tiles = tiles_of(o);
            if (s.n == 0 || tiles <= 0)
                continue;
            const int bytes = s.n * GEMM_GROUP_BYTES, tile = o.product.groups * GEMM_GROUP_BYTES;
            const int round = (int)gridDim.x * tile;
            units = (s.n + 1) / UNIT;
            at = o.product.w + (size_t)blockIdx.x * tile + s.first * GEMM_GROUP_BYTES;
            p->to_next = (o.kind == PASS_GATED ? o.product.twin * tile : round) - bytes;
            p->both = o.kind == PASS_GATED ? round - 2 * bytes : 2 * p->to_next;
            p->all_units = units;
            p->last_bytes = s.n % UNIT ? GEMM_GROUP_BYTES : UNIT_BYTES;
            p->op = op;
            asm volatile("prefetch.global.L2 [%0];" ::"l"(o.product.scale));
            return;
        }
    }

    __device__ __forceinline__ void put(const pass &a, plan *p, uint32_t to, uint32_t bar, int warp) {
        if (units > 1) {
            units--;
            barrier_expect(bar, UNIT_BYTES);
            bulk_copy(to, at, UNIT_BYTES, bar);
            at += UNIT_BYTES;
            return;
        }
        if (units == 0)
            return;
        const int4 now = *(const int4 *)p; /* to_next, both, all_units, last_bytes */
        barrier_expect(bar, now.w);
        bulk_copy(to, at, now.w, bar);
        at += now.w + now.x;
        units = now.z;
        p->to_next = now.y - now.x;
        if (--tiles > 0)
            return;
        p->op++;
        open(a, p, warp);
    }
};

/* ---- a warp's slice of x, BF16 * 2^64, into shared memory ---- */

__device__ __forceinline__ uint32_t lifted_pair(float a, float b) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return mul_bf16x2(*(const uint32_t *)&v, 0x5f805f80u);
}

/* COUNT elements from FIRST of X, tagged or (PLAIN) not, times the norm's weights W; the sum of the squares
 * of x. */
/* Not kept in L1, which is small here and holds what registers do not. */
__device__ __forceinline__ float4 load_once(const float *p) {
    float4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(p));
    return v;
}

/* Whether a lane misses something; then the warp leaves the others some room. */
__device__ __forceinline__ bool again(uint32_t missing) {
    const bool yes = __any_sync(~0u, missing);
    if (yes)
        __nanosleep(20);
    return yes;
}

static __device__ __forceinline__ float collect_normed(const float *w, const uint32_t *x, bool plain,
                                                       uint32_t tag, uint8_t *to, int first, int count,
                                                       int k) {
    const int lane = threadIdx.x & 31;
    float squares = 0.0f;
    for (int at = 0; at < count; at += 256) {
        const int i = at + lane * 8;
        const bool there = i < count && first + i < k;
        float4 v[2] = {};
        uint4 u[2] = {};
        if (there) {
            v[0] = load_once(w + first + i);
            v[1] = load_once(w + first + i + 4);
        }
        uint32_t missing = 0;
        do {
            if (there) {
                u[0] = ask(x + first + i);
                u[1] = ask(x + first + i + 4);
                missing = plain ? 0 : (floats_missing(u[0], tag) | floats_missing(u[1], tag)) & 1;
            }
        } while (again(missing));
        uint32_t pairs[4];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float a = handed(u[h].x), b = handed(u[h].y), c = handed(u[h].z), d = handed(u[h].w);
            squares = fmaf(a, a, fmaf(b, b, fmaf(c, c, fmaf(d, d, squares))));
            pairs[2 * h] = lifted_pair(a * v[h].x, b * v[h].y);
            pairs[2 * h + 1] = lifted_pair(c * v[h].z, d * v[h].w);
        }
        if (i < count)
            *(uint4 *)(to + 2 * i) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
    squares = warp_sum(squares);
    __syncwarp();
    return squares;
}

/* The same of BF16 that was handed over; up to four loads of a lane are on their way. */
static __device__ __forceinline__ void collect_pairs(const uint16_t *x, uint32_t tags, uint8_t *to, int first,
                                                     int count, int k) {
    const int lane = threadIdx.x & 31;
    for (int at = 0; at < count; at += 1024) {
        uint4 u[4];
        uint32_t missing;
        do {
            missing = 0;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int i = at + j * 256 + lane * 8;
                if (i < count && first + i < k) {
                    u[j] = ask(x + first + i);
                    missing |= bf16_missing(u[j], tags);
                } else {
                    u[j] = make_uint4(0, 0, 0, 0);
                }
            }
        } while (again(missing));
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int i = at + j * 256 + lane * 8;
            if (i < count)
                *(uint4 *)(to + 2 * i) = make_uint4(handed_pair(u[j].x), handed_pair(u[j].y),
                                                    handed_pair(u[j].z), handed_pair(u[j].w));
        }
    }
    __syncwarp();
}

/* ---- products ---- */

__device__ __forceinline__ feed::plan *plan_of(uint8_t *shared, int warp) {
    return (feed::plan *)(shared + room::feeds + warp * 32);
}

/* What a warp knows from op to op. In shared memory: across a call it would be in local memory, far away. */
struct memo {
    uint32_t tags; /* of each place's last use, a bit each */
    int parity;    /* of sums */
    int view, op;  /* the last attention's; the next */
};

__device__ __forceinline__ memo *memo_of(uint8_t *shared, int warp) {
    return (memo *)(shared + room::memos + warp * sizeof(memo));
}

/* The tags, with TO's turned; all lanes call. */
__device__ __forceinline__ uint32_t turn_tag(memo *m, int to, int lane) {
    const uint32_t tags = m->tags ^ (to < PASS_NOWHERE ? 1u << to : 0);
    __syncwarp();
    if (lane == 0)
        m->tags = tags;
    return tags;
}

__device__ __forceinline__ void give(const pass &a, const pass_op &op, int row, float v, uint32_t tag) {
    if (op.to == PASS_UNIT) {
        hand_bf16((uint16_t *)a.places[PASS_UNIT] + row, v, tag);
        if (op.plain)
            ((__nv_bfloat16 *)op.plain)[row] = __float2bfloat16_rn(v);
        return;
    }
    if (op.to != PASS_NOWHERE)
        hand_float(a.places[op.to] + row, v, tag);
    if (op.plain)
        ((float *)op.plain)[row] = v;
}

/* Row tiles from TILE on, a thread a row: the sums of all warps, and what becomes of them. FACTOR: the
 * tensor's scale. */
static __device__ __forceinline__ void flush(const pass &a, const pass_op &op, uint8_t *shared, int parity,
                                             int tile, float factor, uint32_t tag) {
    const float4 *p =
        (const float4 *)((float *)(shared + room::sums) + parity * SUMS_SET + threadIdx.x * SUMS_ROW);
    float v = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS / 4; w++) {
        const float4 four = p[w];
        v += (four.x + four.y) + (four.z + four.w);
    }
    if (op.kind != PASS_ADD) {
        const float4 *squares = (const float4 *)(shared + room::squares);
        float all = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS / 4; w++)
            all += (squares[w].x + squares[w].y) + (squares[w].z + squares[w].w);
        const float mean = all / (float)op.product.k + op.product.eps;
        float over = rsqrtf(mean);
        over *= 1.5f - 0.5f * mean * over * over; /* Newton: the last bits */
        factor *= over;
    }
    v *= 0x1p62f * factor;
    const int row = tile_of(op, tile + threadIdx.x / 16) * GEMM_ROW_TILE + threadIdx.x % 16;
    if (op.kind == PASS_GATED) { /* slots come in pairs */
        const float up = __shfl_down_sync(~0u, v, 16);
        if ((threadIdx.x & 31) < 16)
            give(a, op, row, gated_unit(v, up, op.gelu), tag);
        return;
    }
    if (op.product.bias)
        v += op.product.bias[row];
    if (op.kind == PASS_ADD) {
        float *stream =
            (float *)(shared + room::stream) + threadIdx.x; /* all tiles of PASS_ADD are in one flush */
        v = *stream += v;
    }
    give(a, op, row, v, tag);
}

__device__ __forceinline__ void sts(uint32_t at, float v) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory");
}

static __device__ __forceinline__ void multiply(const pass &a, const pass_op &op, weights_ring &ring,
                                                feed &next, uint8_t *shared, int warp, int lane) {
    const slice s(op.product.groups, warp);
    const int n_tiles = tiles_of(op);
    memo *known = memo_of(shared, warp);
    const uint32_t tags = turn_tag(known, op.to, lane), from_tag = tags >> op.from & 1;
    if (n_tiles <= 0)
        return;
    uint8_t *to = shared + room::x + s.first * GEMM_GROUP_K * 2;
    if (op.kind == PASS_ADD) {
        collect_pairs((const uint16_t *)a.places[op.from], from_tag ? BF16_TAGS : 0, to,
                      s.first * GEMM_GROUP_K, s.n * GEMM_GROUP_K, op.product.k);
    } else {
        const bool plain = op.from == PASS_NOWHERE;
        const float mine =
            collect_normed(op.product.norm, plain ? (const uint32_t *)a.stream : a.places[op.from], plain,
                           from_tag, to, s.first * GEMM_GROUP_K, s.n * GEMM_GROUP_K, op.product.k);
        if (lane ==
            0) /* read after the next barrier, and written again after one more: PASS_ADD comes between */
            ((float *)(shared + room::squares))[warp] = mine;
    }
    const float tensor_scale = load_scale(op.product.scale);
    const int g = lane >> 2, t = lane & 3;
    const bool diagonal = g == 2 * t; /* the others read the zeros, again and again */
    uint32_t step = diagonal ? 256 : 0;
    uint32_t x0 = diagonal ? shared_address(to) + t * 32 : shared_address(shared) + room::zeros;
    uint32_t mine_at = shared_address(shared) + room::sums + (gemm_tile_row(g, t) * SUMS_ROW + warp) * 4;
    int parity = known->parity;
    mine_at += parity * SUMS_SET * 4;
    asm volatile("" : "+r"(step), "+r"(x0)); /* kept: made again and again they cost more than a register */
    const bool low = t < 2, swap = t & 1;
    int slot = 0;
    for (int i = 0; i < n_tiles; i++) {
        float acc[2] = {0.0f, 0.0f};
        uint32_t x = x0;
        for (int left = s.n; left > 0; left -= UNIT, x += UNIT * step) {
            const uint32_t stage = ring.wait();
            add_unit<1>(stage + lane * 16, stage + 1024 + lane * 4, x, step, acc);
            if (left > 1)
                add_unit<1>(stage + GEMM_GROUP_BYTES + lane * 16, stage + GEMM_GROUP_BYTES + 1024 + lane * 4,
                            x + step, step, acc);
            const int free = ring.release();
            if (elected())
                next.put(a, plan_of(shared, warp), stage, ring.bars + 8 * free, warp);
        }
        float keep = swap ? acc[1] : acc[0], send = swap ? acc[0] : acc[1];
        keep += __shfl_xor_sync(~0u, send, 1);
        keep += __shfl_xor_sync(~0u, keep, 2);
        if (low)
            sts(mine_at, keep);
        mine_at += 16 * SUMS_ROW * 4;
        if (++slot < FLUSH_TILES && i < n_tiles - 1)
            continue;
        __syncthreads();
        if ((int)threadIdx.x < slot * 16) /* whole warps of GATED */
            flush(a, op, shared, parity, i + 1 - slot, tensor_scale, known->tags >> op.to & 1);
        mine_at += (parity ? -SUMS_SET : SUMS_SET) * 4 - slot * 16 * SUMS_ROW * 4;
        slot = 0;
        parity ^= 1;
    }
    __syncwarp();
    if (lane == 0)
        known->parity = parity;
}

/* ---- attention ---- */

/* What an attention of the list reads and writes; by value, for a function of its own. */
struct attend_job {
    const uint32_t *qkv;
    uint16_t *heads;
    uint64_t *parts;
    __nv_bfloat16 *plain;
    const float *q_norm, *k_norm;
    void *k, *v;
    float *k_scales, *v_scales;
    uint32_t from_tag, tag, number;
    bool new_turns;
};

/* This block's part of view INDEX; one thread's work. */
static __device__ __noinline__ void find_site(site *to, const pass_view &v) {
    const attn_view p = v.p;
    const int unit = (int)gridDim.x - 1 - (int)blockIdx.x, position = v.step.positions[0];
    span sp;
    sp.first = first_key(p, position);
    sp.end = position + 1;
    sp.base = sp.first & ~15;
    const int keys = sp.end - sp.base, most = min((int)gridDim.x / p.n_kv_heads, (int)PASS_SPLITS);
    const int splits = keys <= BRIEF_KEYS ? 1 : min(most, (keys + SPLIT_KEYS - 1) / SPLIT_KEYS);
    sp.each = ((keys + splits - 1) / splits + 63) & ~63;
    sp.used = (keys + sp.each - 1) / sp.each;
    to->kv_head = unit % p.n_kv_heads;
    to->split = unit / p.n_kv_heads;
    sp.lo = sp.base + to->split * sp.each;
    sp.hi = min(sp.end, sp.lo + sp.each);
    to->p = p;
    to->sp = sp;
    to->position = position;
    to->pages = v.step.page_table + v.step.first_page[0];
}

/* Element I of the heads' results, for the other blocks and maybe later kernels. */
__device__ __forceinline__ void give_head(const attend_job &job, int i, float v) {
    hand_bf16(job.heads + i, v, job.tag);
    if (job.plain)
        job.plain[i] = __float2bfloat16_rn(v);
}

template <int D>
__device__ __forceinline__ uint64_t *part_at(const attend_job &job, int kv_head, int split, int column) {
    return job.parts + (((size_t)kv_head * PASS_SPLITS + split) * PASS_COLUMNS + column) * (D + 2);
}

/* A tile's keys, values and scales on their way from DRAM. */
template <int D, kv_format F>
__device__ __forceinline__ void prefetch_tile(const kv_view &kv, size_t cell, int lane) {
    constexpr int row = D * operand<F>::bytes;
    for (int i = lane * 128; i < 16 * row; i += 32 * 128) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const uint8_t *)kv.k + cell * row + i));
        asm volatile("prefetch.global.L2 [%0];" ::"l"((const uint8_t *)kv.v + cell * row + i));
    }
    if (F == KV_FP8 && lane < 2)
        asm volatile("prefetch.global.L2 [%0];" ::"l"((lane ? kv.v_scales : kv.k_scales) + cell));
}

/* What one block gathers of one KV head and split, and hands on. */
template <int D, kv_format F>
static __device__ __forceinline__ void attend_split(const attend_job &job, const site &at, uint8_t *shared) {
    constexpr int E = D / 32, head_floats = part_layout<D>::head;
    attn_view p = at.p;
    p.q_norm = job.q_norm, p.k_norm = job.k_norm;
    const kv_view kv = {F, job.k, job.v, job.k_scales, job.v_scales};
    const span sp = at.sp;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const int group = p.n_heads / p.n_kv_heads, each = group * head_floats, kv_head = at.kv_head,
              position = at.position;
    /* until make's barrier only what lies behind parts and sums is written: a flush may read those */
    float *parts = (float *)(shared + room::sums), *own = parts + max(WARPS * each, 2 * (int)SUMS_SET),
          *turning = own + each + warp * D;
    auto cell = [&](int page, int key) {
        return ((size_t)page * p.n_kv_heads + kv_head) * KV_PAGE + key % KV_PAGE;
    };
    int key = sp.lo + 16 * warp;
    if (key < sp.hi) /* into L2: registers are short while queries are made */
        prefetch_tile<D, F>(kv, cell(at.first_page[warp], key), lane);
    maker<D> made;
    made.open(p, position, (float *)(shared + room::trig), lane, job.new_turns);
    auto load = [&](float(&v)[E], int i) {
        uint32_t bits[E], missing;
        do {
            missing = 0;
#pragma unroll
            for (int j = 0; j < E; j++) {
                bits[j] = ask_word(job.qkv + i * D + lane + 32 * j);
                missing |= bits[j] ^ job.from_tag;
            }
        } while (__any_sync(~0u, missing & 1));
#pragma unroll
        for (int j = 0; j < E; j++)
            v[j] = handed(bits[j]);
    };
    __shared__ newcomer<D, F> fresh;
    const bool stores = sp.hi == sp.end;
    const int maker_warp = group % WARPS, taker = (position - sp.lo) / 16 % WARPS;
    made.make(p, kv, load, kv_head, stores, cell(at.last_page, position), own, turning, &fresh, warp, lane);
    tile<D, F> x;
    if (key < sp.hi)
        load_tile<D, F>(&x, kv, cell(at.first_page[warp], key), g, t);
    if (stores && warp == maker_warp)
        key_comes(warp, maker_warp, taker);
    uint32_t q[D / 8];
    load_query<D, F>(q, own + g * maker<D>::query, p.scale * LOG2E, g < group, t);
    running<D> r = {{}, {NO_SCORE, NO_SCORE}, {}};
    while (key < sp.hi) {
        if (stores && position - key < 16) {
            if (warp != maker_warp)
                key_comes(warp, maker_warp, taker);
            take_newcomer<D, F>(&x, fresh, position - key, g, t);
        }
        take_tile<D, F>(&r, x, q, key + g, sp, p.cap);
        key += 16 * WARPS;
        if (key < sp.hi)
            load_tile<D, F>(&x, kv, cell(at.pages[key / KV_PAGE], key), g, t);
    }
    put_running<D>(parts + warp * each, &r, g, t, group);
    __syncthreads();
    for (int i = threadIdx.x; i < group * D; i += THREADS) {
        const int head = i / D, d = i % D;
        const float3 all = join_parts<D>(&parts[head * head_floats], each, WARPS, d);
        if (sp.used == 1) {
            give_head(job, (kv_head * group + head) * D + d, weighted_mean<D, F>(all));
            continue;
        }
        uint64_t *to = part_at<D>(job, kv_head, at.split, head);
        hand_numbered(to + d, all.x, job.number);
        if (d == 0) {
            hand_numbered(to + D, all.y, job.number);
            hand_numbered(to + D + 1, all.z, job.number);
        }
    }
    __syncthreads();
}

/* The splits of query head HEAD, added up. */
template <int D, kv_format F>
static __device__ __forceinline__ void merge_head(const attend_job &job, int head, int group, int used,
                                                  uint8_t *shared) {
    constexpr int TEAMS = THREADS / D; /* a team takes every TEAMS-th split */
    const int d = threadIdx.x % D, team = threadIdx.x / D;
    float *teams = (float *)(shared + room::sums); /* [TEAMS][D + 4] */
    float3 all = make_float3(0, NO_SCORE, 0);
    for (int k = team; k < used; k += TEAMS) {
        const uint64_t *from = part_at<D>(job, head / group, k, head % group);
        uint64_t v, max, sum;
        do {
            v = ask_numbered(from + d);
            max = ask_numbered(from + D);
            sum = ask_numbered(from + D + 1);
        } while ((uint32_t)(v >> 32) != job.number || (uint32_t)(max >> 32) != job.number ||
                 (uint32_t)(sum >> 32) != job.number);
        const float m = __uint_as_float((uint32_t)max), most = fmaxf(all.y, m);
        const float f = exp2_fast(all.y - most), h = exp2_fast(m - most);
        all = make_float3(f * all.x + h * __uint_as_float((uint32_t)v), most,
                          f * all.z + h * __uint_as_float((uint32_t)sum));
    }
    teams[team * part_layout<D>::head + d] = all.x;
    if (d == 0) {
        teams[team * part_layout<D>::head + D] = all.y;
        teams[team * part_layout<D>::head + D + 1] = all.z;
    }
    __syncthreads();
    if (team == 0)
        give_head(job, head * D + d,
                  weighted_mean<D, F>(join_parts<D>(teams, part_layout<D>::head, min(TEAMS, used), d)));
    __syncthreads();
}

/* A function of its own: its registers are not the products'. */
template <int D, kv_format F> static __device__ __noinline__ void attend(attend_job job) {
    extern __shared__ __align__(128) uint8_t shared[];
    const site &at = *(const site *)(shared + room::here);
    if (at.split < at.sp.used)
        attend_split<D, F>(job, at, shared);
    else
        __syncthreads(); /* the last sums are read before a merge writes there */
    for (int head = blockIdx.x; at.sp.used > 1 && head < at.p.n_heads; head += gridDim.x)
        merge_head<D, F>(job, head, at.p.n_heads / at.p.n_kv_heads, at.sp.used, shared);
}

/* Attention OP, the list's I-th, where this block has a part in it. */
template <int D, kv_format F>
static __device__ __forceinline__ void attend_here(const pass &a, const pass_op &op, int i, memo *known,
                                                   uint8_t *shared, int lane) {
    const site &here = *(const site *)(shared + room::here);
    const bool moved = op.view != known->view;
    if (moved) {
        __syncthreads();
        site *to = (site *)(shared + room::here);
        if (threadIdx.x == 0)
            find_site(to, a.views[op.view]);
        __syncthreads();
        if (threadIdx.x <= WARPS) {
            const int key = threadIdx.x < WARPS ? to->sp.lo + 16 * (int)threadIdx.x : to->position;
            const int page = key < to->sp.end ? to->pages[key / KV_PAGE] : 0;
            (threadIdx.x < WARPS ? to->first_page[threadIdx.x] : to->last_page) = page;
        }
        __syncthreads();
        if (lane == 0)
            known->view = op.view;
    }
    const uint32_t tags = turn_tag(known, PASS_HEADS, lane);
    if (here.split >= here.sp.used && (here.sp.used == 1 || (int)blockIdx.x >= here.p.n_heads))
        return;
    attend<D, F>({a.places[PASS_QKV], (uint16_t *)a.places[PASS_HEADS], a.parts, (__nv_bfloat16 *)op.plain,
                  op.attention.q_norm, op.attention.k_norm, op.attention.k, op.attention.v,
                  op.attention.k_scales, op.attention.v_scales, tags >> PASS_QKV & 1, tags >> PASS_HEADS & 1,
                  a.counters[1] + 1 + i, moved});
}

/* ---- */

template <int D, kv_format F>
static __global__ void __launch_bounds__(THREADS, 1) persistent(const __grid_constant__ pass a) {
    extern __shared__ __align__(128) uint8_t shared[];
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    asm volatile("" : "+r"(warp), "+r"(lane)); /* kept: made again and again they cost more than a register */
    weights_ring ring;
    feed next;
    memo *known = memo_of(shared, warp);
    ring.open(shared_address(shared) + warp * STAGES * UNIT_BYTES,
              shared_address(shared) + room::bars + warp * STAGES * 8);
    asm volatile("" : "+r"(ring.data), "+r"(ring.bars));
    if (elected()) {
        feed::plan *plan = plan_of(shared, warp);
        plan->op = 0;
        next.open(a, plan, warp);
        for (int s = 0; s < STAGES; s++)
            next.put(a, plan, ring.data + s * UNIT_BYTES, ring.bars + 8 * s, warp);
    }
    if (threadIdx.x < 16)
        *(uint4 *)(shared + room::zeros + threadIdx.x * 16) = make_uint4(0, 0, 0, 0);
    const int row =
        ((int)blockIdx.x + (int)threadIdx.x / 16 * (int)gridDim.x) * GEMM_ROW_TILE + (int)threadIdx.x % 16;
    if (row < a.hidden && threadIdx.x < FLUSH_TILES * 16)
        ((float *)(shared + room::stream))[threadIdx.x] = __ldcg(a.stream + row);
    if (lane == 0)
        *known = {a.counters[0], 0, -1, 0};
    __syncthreads(); /* zeros and stream are there */
    for (int i = 0; i < a.n_ops; i = known->op) {
        const pass_op &op = a.ops[i];
        __syncwarp();
        if (lane == 0)
            known->op = i + 1;
        if (op.kind == PASS_ATTEND)
            attend_here<D, F>(a, op, i, known, shared, lane);
        else
            multiply(a, op, ring, next, shared, warp, lane);
        __syncwarp();
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

static_assert(sizeof(pass) <= 32764, "a kernel's parameters");
static_assert(sizeof(feed::plan) <= 32 && sizeof(memo) == 16, "room has so much for each warp");
static_assert(PASS_COLUMNS == COLUMNS, "query heads of a KV head, here and in decode.cuh");
static_assert(FLUSH_TILES % 2 == 0 && FLUSH_TILES * 16 <= THREADS, "gate and up in pairs; a thread a row");
static_assert(room::sums + ((WARPS + 1) * PASS_COLUMNS * (128 + 4) + (PASS_COLUMNS + 2) * 128) * 4 <=
                  226 * 1024,
              "attention's shared memory with the most heads");

extern "C" int pass_blocks(const cuda_lane *lane, int hidden) {
    return min(lane->n_sms, hidden / GEMM_ROW_TILE);
}

extern "C" bool pass_serves(const cuda_lane *lane, const attn_view *p, kv_format format, int hidden,
                            int max_k) {
    const int group = p->n_heads / p->n_kv_heads, n_blocks = pass_blocks(lane, hidden);
    return lane->wgmma && (p->head_dim == 64 || p->head_dim == 128) &&
           (format == KV_FP8 || format == KV_BF16) && group <= PASS_COLUMNS && p->n_kv_heads <= n_blocks &&
           2 * p->n_freq <= p->head_dim &&
           (hidden / GEMM_ROW_TILE + n_blocks - 1) / n_blocks <= FLUSH_TILES &&
           shared_bytes(max_k, group, p->head_dim) <= 226 * 1024;
}

template <int D, kv_format F> static bool resides(const cuda_lane *lane, int n_blocks, int shared) {
    int blocks = 0;
    const bool known = cudaFuncSetAttribute(persistent<D, F>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            shared) == cudaSuccess &&
                       cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, persistent<D, F>, THREADS,
                                                                     (size_t)shared) == cudaSuccess;
    if (!known)
        cudaGetLastError();
    return known && blocks * lane->n_sms >= n_blocks;
}

extern "C" bool pass_resides(const cuda_lane *lane, const attn_view *p, int hidden, int max_k) {
    const int n_blocks = pass_blocks(lane, hidden),
              shared = shared_bytes(max_k, p->n_heads / p->n_kv_heads, p->head_dim);
    return p->head_dim == 64
               ? resides<64, KV_FP8>(lane, n_blocks, shared) && resides<64, KV_BF16>(lane, n_blocks, shared)
               : resides<128, KV_FP8>(lane, n_blocks, shared) &&
                     resides<128, KV_BF16>(lane, n_blocks, shared);
}

template <int D, kv_format F> static int launch(const cuda_lane *lane, const pass *p) {
    int shared = shared_bytes(p->max_k, 0, 0);
    for (int i = 0; i < p->n_views; i++)
        shared = max(shared, shared_bytes(p->max_k, p->views[i].p.n_heads / p->views[i].p.n_kv_heads, D));
    int status = cudaFuncSetAttribute(persistent<D, F>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
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
    return cudaLaunchKernelEx(&config, persistent<D, F>, *p);
}

extern "C" int pass_launch(const cuda_lane *lane, const pass *p) {
    if (p->n_ops == 0)
        return cudaErrorInvalidValue;
    if (p->n_views > 0 && p->views[0].p.head_dim == 64)
        return p->format == KV_FP8 ? launch<64, KV_FP8>(lane, p) : launch<64, KV_BF16>(lane, p);
    return p->format == KV_FP8 ? launch<128, KV_FP8>(lane, p) : launch<128, KV_BF16>(lane, p);
}

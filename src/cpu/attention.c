/* SPDX-License-Identifier: Apache-2.0
 *
 * Who computes which part of attention. The query rows (token, head) of one sequence that share a KV head are
 * cut into tiles of ATTN_MAX_ROWS, so that a page's keys and values are read once per tile. With many tiles
 * (prefill, many sequences) a unit is a tile and goes through its pages in order. With few (decode), or where
 * some have many more pages than others (a long prompt beside answers), a unit is one page of one tile, and a
 * second op joins the pages of each row in the same order: the same bits. Pages that a window hides from
 * every row of a tile are not visited.
 */
#include "cpu/attention.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/rowops.h"

/* Fewer tiles than this per thread are cut by pages; of EVEN_ROWS rows they are taken to be as long as the
 * longest is. */
enum { TILES_PER_THREAD = 3, EVEN_ROWS = 64 };

typedef struct tile {
    const batch_seq *seq;
    size_t kv_head, index; /* which of the sequence's tiles of that head */
    size_t first, n;       /* pairs (token, head of the group), token-major */
    size_t first_token;    /* of the sequence's rows */
    int first_page, n_pages;
    size_t partial; /* (pair, page) of the tiles before it; of a tile found by page or pair */
} tile;

static size_t group_of(const attn_params *p) {
    return (size_t)(p->n_heads / p->n_kv_heads);
}

static size_t seq_tiles(const batch_seq *seq, const attn_params *p) {
    return ((size_t)seq->n_rows * group_of(p) + ATTN_MAX_ROWS - 1) / ATTN_MAX_ROWS;
}

/* The first position that the row at POS sees. */
static int first_seen(const attn_params *p, int pos) {
    return p->window && pos >= p->window ? pos - p->window + 1 : 0;
}

static tile tile_of(const batch_seq *seq, const attn_params *p, size_t kv_head, size_t index) {
    size_t pairs = (size_t)seq->n_rows * group_of(p), first = index * ATTN_MAX_ROWS;
    tile t = {.seq = seq, .kv_head = kv_head, .index = index, .first = first};
    t.n = pairs - first < ATTN_MAX_ROWS ? pairs - first : ATTN_MAX_ROWS;
    t.first_token = first / group_of(p);
    int last_token = (int)((first + t.n - 1) / group_of(p));
    t.first_page = first_seen(p, seq->pos + (int)t.first_token) / KV_PAGE_TOKENS;
    t.n_pages = (seq->pos + last_token) / KV_PAGE_TOKENS - t.first_page + 1;
    return t;
}

static tile tile_find(const batch *b, const attn_params *p, size_t index) {
    const batch_seq *seq = b->seqs;
    for (;; seq++) {
        size_t n = seq_tiles(seq, p);
        if (index < n * (size_t)p->n_kv_heads)
            return tile_of(seq, p, index / n, index % n);
        index -= n * (size_t)p->n_kv_heads;
    }
}

/* The tile after T, of a sequence's tiles those of a KV head together; T is not the last. */
static tile tile_after(const tile *t, const attn_params *p) {
    const batch_seq *seq = t->seq;
    size_t index = t->index + 1, kv_head = t->kv_head;
    if (index == seq_tiles(seq, p)) {
        index = 0;
        kv_head++;
    }
    if (kv_head == (size_t)p->n_kv_heads) {
        kv_head = 0;
        seq++;
    }
    tile after = tile_of(seq, p, kv_head, index);
    after.partial = t->partial + t->n * (size_t)t->n_pages;
    return after;
}

static size_t pages_of(const tile *t) {
    return (size_t)t->n_pages;
}

static size_t pairs_of(const tile *t) {
    return t->n;
}

/* The tile that holds item *AT of all tiles' items in order; *AT becomes its number in the tile. */
static tile tile_holding(const batch *b, const attn_params *p, size_t (*items)(const tile *), size_t *at) {
    tile t = tile_of(b->seqs, p, 0, 0);
    for (; *at >= items(&t); t = tile_after(&t, p))
        *at -= items(&t);
    return t;
}

/* A thread's scratch, cut up. */
typedef struct room {
    float *scores, *acc, *max, *sum, *q_steps;
    int16_t *q16;
    uint8_t *ints, *weights8;
} room;

typedef struct cutter {
    uint8_t *memory;
    size_t used;
} cutter;

static void *cut(cutter *c, size_t bytes) {
    void *piece = c->memory ? c->memory + c->used : NULL;
    c->used += (bytes + 63) & ~(size_t)63;
    return piece;
}

/* Returns the bytes it takes; MEMORY may be NULL to learn them. */
static size_t room_cut(room *r, void *memory, size_t d) {
    cutter c = {.memory = memory};
    size_t rows = ATTN_MAX_ROWS;
    r->scores = cut(&c, rows * KV_PAGE_TOKENS * sizeof(float));
    r->acc = cut(&c, rows * d * sizeof(float));
    r->max = cut(&c, rows * sizeof(float));
    r->sum = cut(&c, rows * sizeof(float));
    r->q_steps = cut(&c, rows * sizeof(float));
    r->q16 = cut(&c, rows * d * sizeof(int16_t));
    r->ints = cut(&c, KV_PAGE_TOKENS * d * sizeof(int16_t));
    r->weights8 = cut(&c, rows * KV_PAGE_TOKENS);
    return c.used;
}

static const float *query_of(const cpu_op *op, const tile *t, size_t i) {
    size_t g = group_of(op->attn), token = (t->first + i) / g, head = t->kv_head * g + (t->first + i) % g;
    return act_row(op->in, (size_t)t->seq->row + token) + head * (size_t)op->attn->head_dim;
}

/* The tile's queries as integers, where attention is in integers. */
static void quantize_queries(const cpu_backend *cb, const cpu_op *op, const tile *t, const room *r) {
    size_t d = (size_t)op->attn->head_dim;
    if (op->kv->k_steps)
        for (size_t i = 0; i < t->n; i++)
            cb->k.attn_quantize(r->q16 + i * d, r->q_steps + i, query_of(op, t, i), d);
}

static size_t block_of(const cpu_op *op, const tile *t, int j) {
    int page = t->seq->pages[op->attn->group][t->first_page + j];
    return kv_block(op->kv, op->attn->layer, page, (int)t->kv_head);
}

/* How many keys of page J the tile's last row sees. */
static size_t keys_of(const cpu_op *op, const tile *t, int j) {
    int last = t->seq->pos + (int)((t->first + t->n - 1) / group_of(op->attn));
    int n = last + 1 - (t->first_page + j) * KV_PAGE_TOKENS;
    return (size_t)(n < KV_PAGE_TOKENS ? n : KV_PAGE_TOKENS);
}

/* Page J of the tile for rows [skipped, skipped + job->n_rows) of it. The page after it is J + 1, or the
 * first of tile NEXT (NULL: none). */
static void run_page(const cpu_backend *cb, const cpu_op *op, const tile *t, int j, const tile *next,
                     size_t skipped, attn_page_job *job, const room *r) {
    const kv_cache *kv = op->kv;
    size_t d = (size_t)op->attn->head_dim;
    size_t block = block_of(op, t, j), at = block * KV_PAGE_TOKENS;
    job->k = kv->k + block * kv->block_bytes;
    job->v = kv->v + block * kv->block_bytes;
    job->k_scale = kv->k_scales ? kv->k_scales + at : NULL;
    job->v_scale = kv->v_scales ? kv->v_scales + at : NULL;
    if (j + 1 < t->n_pages || next) {
        bool same = j + 1 < t->n_pages;
        const tile *of = same ? t : next;
        int page = same ? j + 1 : 0;
        size_t after = block_of(op, of, page);
        job->next_keys = keys_of(op, of, page);
        job->next_k = kv->k + after * kv->block_bytes;
        for (size_t i = 0; kv->k_steps && i < KV_PAGE_TOKENS; i += 16) {
            __builtin_prefetch(kv->k_steps + after * KV_PAGE_TOKENS + i);
            __builtin_prefetch(kv->v_steps + after * KV_PAGE_TOKENS + i);
        }
    }
    job->head_dim = d;
    job->scale = op->attn->scale;
    job->cap = op->attn->cap;
    job->scratch = r->scores;
    if (!kv->k_steps) {
        cb->k.attn_page[kv->shape.dtype](job);
        return;
    }
    job->k_steps = kv->k_steps + at;
    job->v_steps = kv->v_steps + at;
    job->q16 = r->q16 + skipped * d;
    job->q_steps = r->q_steps + skipped;
    job->ints = r->ints;
    job->weights8 = r->weights8;
    cb->k.attn_page_int[kv->shape.dtype](job);
}

/* What is taken from the scores of position 0, whose key has its mean: the other keys have not. */
static bool first_less(const cpu_op *op, const tile *t, const float *const *q, size_t n, float *less) {
    const float *mean = kv_key_mean(op->attn, t->kv_head);
    for (size_t i = 0; i < n && mean; i++) {
        float dot = 0;
        for (size_t j = 0; j < (size_t)op->attn->head_dim; j++)
            dot += q[i][j] * mean[j];
        less[i] = dot * op->attn->scale;
    }
    return mean != NULL;
}

/* Adds page J of the tile to its rows' running values; ACC's rows lie acc_stride apart. */
static void attend_page(const cpu_backend *cb, const cpu_op *op, const tile *t, int j, const tile *next,
                        float *acc, size_t acc_stride, float *max, float *sum, const room *r) {
    const float *q[ATTN_MAX_ROWS];
    uint8_t first[ATTN_MAX_ROWS], last[ATTN_MAX_ROWS];
    float less[ATTN_MAX_ROWS];
    int start = (t->first_page + j) * KV_PAGE_TOKENS;
    size_t g = group_of(op->attn), skipped = 0, n = 0; /* rows that see the page follow each other */
    for (size_t i = 0; i < t->n; i++) {
        int pos = t->seq->pos + (int)((t->first + i) / g);
        int from = first_seen(op->attn, pos) - start, to = pos + 1 - start;
        if (from >= KV_PAGE_TOKENS || to <= 0) {
            skipped += n == 0;
            continue;
        }
        q[n] = query_of(op, t, i);
        first[n] = (uint8_t)(from > 0 ? from : 0);
        last[n] = (uint8_t)(to < KV_PAGE_TOKENS ? to : KV_PAGE_TOKENS);
        n++;
    }
    attn_page_job job = {.n_rows = (int)n,
                         .q = q,
                         .first = first,
                         .last = last,
                         .first_less = start == 0 && first_less(op, t, q, n, less) ? less : NULL,
                         .acc = acc + skipped * acc_stride,
                         .acc_stride = acc_stride,
                         .max = max + skipped,
                         .sum = sum + skipped};
    if (n)
        run_page(cb, op, t, j, next, skipped, &job, r);
}

static void start_rows(float *acc, size_t stride, size_t d, float *max, float *sum, size_t n) {
    for (size_t i = 0; i < n; i++) {
        memset(acc + i * stride, 0, d * sizeof *acc);
        max[i] = -INFINITY;
        sum[i] = 0;
    }
}

static void end_row(const cpu_backend *cb, const cpu_op *op, size_t row, size_t head, const float *acc,
                    float sum) {
    size_t d = (size_t)op->attn->head_dim;
    cb->k.attn_end(act_row(op->out, row) + head * d, acc, sum, d);
    if (d % ACT_BLOCK == 0)
        rowops_quantize(cb, op->out, row, head * d, d);
}

/* A unit is a tile. */
static void run_tiles(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    size_t d = (size_t)op->attn->head_dim, g = group_of(op->attn);
    room r;
    room_cut(&r, scratch, d);
    tile t = tile_find(queue_batch(cb), op->attn, begin), next = t;
    for (size_t u = begin; u < end; u++, t = next) {
        if (u + 1 < end)
            next = tile_after(&t, op->attn);
        quantize_queries(cb, op, &t, &r);
        start_rows(r.acc, d, d, r.max, r.sum, t.n);
        for (int j = 0; j < t.n_pages; j++)
            attend_page(cb, op, &t, j, u + 1 < end ? &next : NULL, r.acc, d, r.max, r.sum, &r);
        for (size_t i = 0; i < t.n; i++)
            end_row(cb, op, (size_t)t.seq->row + (t.first + i) / g, t.kv_head * g + (t.first + i) % g,
                    r.acc + i * d, r.sum[i]);
    }
}

/* Partial results: acc [op->n_partials, head_dim], then max, sum [op->n_partials, 2]; those of a tile from
 * its PARTIAL on, [pairs, pages]. */
static float *partial_scalars(const cpu_backend *cb, const cpu_op *op) {
    return cb->partial + op->n_partials * (size_t)op->attn->head_dim;
}

/* A unit is one page of a tile. */
static void run_pages(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    size_t d = (size_t)op->attn->head_dim, j = begin;
    float *scalars = partial_scalars(cb, op);
    room r;
    room_cut(&r, scratch, d);
    tile t = tile_holding(queue_batch(cb), op->attn, pages_of, &j);
    quantize_queries(cb, op, &t, &r);
    for (size_t u = begin; u < end; u++, j++) {
        size_t n_pages = (size_t)t.n_pages;
        if (j == n_pages) {
            t = tile_after(&t, op->attn);
            n_pages = (size_t)t.n_pages;
            j = 0;
            quantize_queries(cb, op, &t, &r);
        }
        float *acc = cb->partial + (t.partial + j) * d;
        start_rows(acc, n_pages * d, d, r.max, r.sum, t.n);
        attend_page(cb, op, &t, (int)j, NULL, acc, n_pages * d, r.max, r.sum, &r);
        for (size_t i = 0; i < t.n; i++) {
            float *scalar = scalars + (t.partial + i * n_pages + j) * 2;
            scalar[0] = r.max[i];
            scalar[1] = r.sum[i];
        }
    }
}

/* A unit is a pair (token, head): joins its pages in order. */
static void run_join(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    size_t d = (size_t)op->attn->head_dim, g = group_of(op->attn), i = begin;
    const float *scalars = partial_scalars(cb, op);
    float *acc = scratch;
    tile t = tile_holding(queue_batch(cb), op->attn, pairs_of, &i);
    for (size_t u = begin; u < end; u++, i++) {
        if (i == t.n) {
            t = tile_after(&t, op->attn);
            i = 0;
        }
        size_t at = t.partial + i * (size_t)t.n_pages;
        float max, sum;
        start_rows(acc, d, d, &max, &sum, 1);
        for (size_t j = at; j < at + (size_t)t.n_pages; j++)
            if (scalars[2 * j + 1] != 0) /* a page the row does not see has left a sum of 0 */
                cb->k.attn_join(acc, &max, &sum, cb->partial + j * d, scalars[2 * j], scalars[2 * j + 1], d);
        end_row(cb, op, (size_t)t.seq->row + (t.first + i) / g, t.kv_head * g + (t.first + i) % g, acc, sum);
    }
}

size_t attention_scratch_bytes(size_t head_dim) {
    room r;
    return room_cut(&r, NULL, head_dim);
}

/* Sets the units of OP: tiles, or pages of tiles where tiles would not occupy the threads evenly. */
static void choose_units(const cpu_backend *cb, cpu_op *op) {
    const attn_params *p = op->attn;
    size_t g = (size_t)p->n_kv_heads, tiles = 0, pages = 0, partials = 0, longest = 0;
    for (int32_t s = 0; s < queue_batch(cb)->n_seqs; s++) {
        const batch_seq *seq = &queue_batch(cb)->seqs[s];
        size_t n = seq_tiles(seq, p);
        tiles += n * g;
        for (size_t i = 0; i < n; i++) {
            const tile t = tile_of(seq, p, 0, i);
            longest = pages_of(&t) > longest ? pages_of(&t) : longest;
            pages += g * pages_of(&t);
            partials += g * t.n * pages_of(&t);
        }
    }
    op->bytes = pages * 2 * op->kv->block_bytes;
    op->units = tiles;
    if (op->out->head.rows <= EVEN_ROWS && longest > 1)
        tiles = pages / longest;
    bool fits = partials * ((size_t)p->head_dim + 2) <= cb->partial_floats;
    if (cb->threads > 1 && tiles < (size_t)(TILES_PER_THREAD * cb->threads) && longest > 1 && fits) {
        op->n_partials = partials;
        op->units = pages;
        op->run = run_pages;
    }
}

void attention_attend(backend *be, buf *out, const buf *q, const attn_params *p, cache *c,
                      const weight *reader) {
    (void)reader; /* one activation format for all */
    cpu_backend *cb = queue_backend(be);
    cpu_op op = {.run = run_tiles,
                 .kind = CPU_OP_ATTENTION,
                 .out = (act *)out,
                 .in = (const act *)q,
                 .attn = p,
                 .kv = kv_group(c, p->group)};
    choose_units(cb, &op);
    queue_push(cb, &op);
    if (op.n_partials) {
        op.run = run_join;
        op.kind = CPU_OP_ATTENTION_JOIN;
        op.units = out->rows * (size_t)p->n_heads;
        op.bytes = 0;
        queue_push(cb, &op);
    }
    if (p->head_dim % ACT_BLOCK)
        rowops_push_quantize(cb, op.out);
}

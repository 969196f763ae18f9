/* SPDX-License-Identifier: Apache-2.0
 *
 * What gpu_attend.c gives attention's kernels: batches, and keys, values and queries of awkward shapes, laid
 * into their pages. What nobody sees is poisoned: its scales are NaN.
 */
#ifndef ATTEND_WORLD_H
#define ATTEND_WORLD_H

#include "cuda/launchers.h"
#include "gpu_check.h"
#include "num/bf16.h"
#include "num/fp8.h"

enum { MOST_SEQS = 9, PAGES = 96, MOST_KEYS = 1100, WIDEST = 256 };

typedef enum texture {
    PLAIN = 0,
    HOT_KEY,
    EQUAL_KEYS,
    ZERO_QUERIES,
    STEEP,
    RISING,
    FALLING,
    OUTLIERS,
    LARGE_VALUES,
    SMALL_VALUES,
    TEXTURES
} texture;

static const char *const texture_names[] = {"plain",        "one key that outweighs all",
                                            "equal keys",   "queries of zeros",
                                            "steep",        "rising scores",
                                            "falling",      "outliers",
                                            "large values", "small values"};

typedef struct sequence {
    int pos, n_rows;
} sequence;

typedef struct batch {
    int n_seqs;
    sequence seqs[MOST_SEQS];
} batch;

typedef struct shape {
    int n_heads, n_kv_heads, head_dim, window;
    float cap;
    bool mean;
} shape;

/* A batch whose keys and values all lie in their pages; what nobody sees is poisoned. */
typedef struct world {
    attn_view p;
    kv_view kv;
    step_view step;
    int n_rows, n_alone;
    int32_t table[PAGES], positions[512], first_page[512], alone[512], prompt[512];
    float *q, *qkv; /* on the device: [rows, heads * D], [rows, (heads + 2 kv heads) * D] */
    float *mean;    /* here; NULL: none */
    size_t q_cols, qkv_cols, cells;
} world;

/* ---- memory: one block on the device and its image here, which go over whole ---- */

enum { ROOM = 48 << 20 };
static uint8_t *image, *block;
static size_t taken;

/* BYTES on the device: of SRC, or (NULL) NaN everywhere, once the image has gone over. */
static void *place(const void *src, size_t bytes) {
    const size_t at = taken;
    taken += (bytes + 511) / 256 * 256;
    if (taken > ROOM) {
        printf("WRONG the test's memory is too small\n");
        exit(1);
    }
    memset(image + at, 0xff, taken - at);
    if (src)
        memcpy(image + at, src, bytes);
    return block + at;
}

/* Where the image has what lies at P. */
static void *here(const void *p) {
    return image + ((const uint8_t *)p - block);
}

static size_t cell_at(const world *w, int row, int head, int position) {
    const int page = w->table[w->first_page[row] + position / KV_PAGE];
    return ((size_t)page * (size_t)w->p.n_kv_heads + (size_t)head) * KV_PAGE + (size_t)(position % KV_PAGE);
}

static float to_bf16(float x) {
    return bf16_to_f32(bf16_from_f32(x));
}

static float sign_at(int i) {
    return (i * 7 + i / 5) % 3 == 0 ? -1.0f : 1.0f;
}

/* Element I of the key at POSITION of N. */
static float key_element(texture t, int i, int position, int n) {
    const float x = rnd_normal(), at = (float)position / (float)n;
    const int hot = n > 2 * KV_PAGE ? n / 2 / KV_PAGE * KV_PAGE - position % 2 : n - 1;
    switch (t) {
    case HOT_KEY:
        return position == hot ? 8 * sign_at(i) : 0.1f * x;
    case EQUAL_KEYS:
        return 2 * sign_at(3 * i);
    case STEEP:
        return 30 * x;
    case RISING:
        return 4 * at * sign_at(i) + 0.1f * x;
    case FALLING:
        return (4 - 8 * at) * sign_at(i) + 0.1f * x;
    case OUTLIERS:
        return i % 61 == position % 61 ? 100 * x : x;
    default:
        return x;
    }
}

static float query_element(texture t, int i) {
    const float x = rnd_normal();
    switch (t) {
    case HOT_KEY:
    case RISING:
    case FALLING:
        return 2 * sign_at(i) + 0.1f * x;
    case ZERO_QUERIES:
        return 0;
    case STEEP:
        return 30 * x;
    default:
        return x;
    }
}

static float value_element(texture t, int i, int position) {
    const float x = rnd_normal();
    switch (t) {
    case EQUAL_KEYS:
        return i % 2 ? 1.0f : x;
    case OUTLIERS:
        return i % 61 == position % 53 ? 100 * x : x;
    case LARGE_VALUES:
        return 5000 * x; /* below 16,000, which is as much as prompts on Hopper take */
    case SMALL_VALUES:
        return 1e-3f * x;
    default:
        return x;
    }
}

/* X [D] as the format has it at CELL of keys or values. */
static void store(const world *w, bool is_k, size_t cell, const float *x) {
    void *codes = here(is_k ? w->kv.k : w->kv.v);
    float *scales = here(is_k ? w->kv.k_scales : w->kv.v_scales);
    const size_t d = (size_t)w->p.head_dim;
    float most = 0;
    for (size_t i = 0; i < d; i++)
        most = fmaxf(most, fabsf(x[i]));
    scales[cell] = is_k ? key_scale(most / 448) : most / 448;
    for (size_t i = 0; i < d; i++)
        if (w->kv.format == KV_FP8)
            ((uint8_t *)codes)[cell * d + i] = most > 0 ? e4m3_from_f32_sat(x[i] / scales[cell]) : 0;
        else
            ((uint16_t *)codes)[cell * d + i] = bf16_from_f32(x[i]);
}

/* Random pages; rows of sequences in turn. */
static void make_batch(world *w, const batch *b) {
    int next = 0, row = 0;
    for (int i = 0; i < PAGES; i++)
        w->table[i] = i * 37 % PAGES;
    w->n_alone = 0;
    for (int s = 0; s < b->n_seqs; s++) {
        const sequence *of = &b->seqs[s];
        for (int i = 0; i < of->n_rows; i++, row++) {
            w->positions[row] = of->pos + i;
            w->first_page[row] = next;
            w->prompt[row] = of->n_rows == 1 ? -1 : s;
            if (of->n_rows == 1)
                w->alone[w->n_alone++] = row;
        }
        next += (of->pos + of->n_rows + KV_PAGE - 1) / KV_PAGE;
    }
    w->n_rows = row;
    if (next > PAGES) {
        printf("WRONG the test's pages are too few\n");
        exit(1);
    }
    bool brief = true;
    for (int i = 0; i < w->n_alone; i++)
        brief = brief && w->positions[w->alone[i]] < BRIEF_KEYS;
    const size_t bytes = (size_t)row * sizeof(int32_t);
    w->step = (step_view){.positions = place(w->positions, bytes),
                          .first_page = place(w->first_page, bytes),
                          .page_table = place(w->table, sizeof w->table),
                          .alone = place(w->alone, bytes),
                          .prompt = place(w->prompt, bytes),
                          .brief = brief};
}

/* Keys, values and queries of all rows, each sequence's last row among them. */
static void fill(world *w, const batch *b, texture t) {
    const size_t d = (size_t)w->p.head_dim, n = w->cells * d * (w->kv.format == KV_FP8 ? 1 : 2);
    const int heads = w->p.n_heads, kv_heads = w->p.n_kv_heads;
    float x[WIDEST], y[WIDEST];
    w->q = place(NULL, (size_t)w->n_rows * w->q_cols * sizeof(float));
    w->qkv = place(NULL, (size_t)w->n_rows * w->qkv_cols * sizeof(float));
    w->kv.k = place(NULL, n), w->kv.v = place(NULL, n);
    w->kv.k_scales = place(NULL, w->cells * sizeof(float));
    w->kv.v_scales = place(NULL, w->cells * sizeof(float));
    memset(here(w->kv.k), 0x51, n), memset(here(w->kv.v), 0x51, n); /* any finite numbers */
    for (int s = 0, row = 0; s < b->n_seqs; row += b->seqs[s++].n_rows) {
        const int pos = b->seqs[s].pos, keys = pos + b->seqs[s].n_rows;
        const int seen = w->p.window && pos >= w->p.window ? pos - w->p.window + 1 : 0;
        for (int at = 0; at < keys; at++)
            for (int h = 0; h < kv_heads; h++) {
                float *own = (float *)here(w->qkv) + (size_t)(row + (at < pos ? 0 : at - pos)) * w->qkv_cols +
                             (size_t)(heads + h) * d;
                for (size_t i = 0; i < d; i++) {
                    const float less = to_bf16(key_element(t, (int)i, at, keys));
                    own[i] = to_bf16(less + (w->mean ? w->mean[(size_t)h * d + i] : 0));
                    x[i] = at == 0 ? own[i] : less;
                    y[i] = own[i + (size_t)kv_heads * d] = to_bf16(value_element(t, (int)i, at));
                }
                if (at < seen)
                    continue;
                store(w, true, cell_at(w, row, h, at), x);
                store(w, false, cell_at(w, row, h, at), y);
            }
    }
    for (int r = 0; r < w->n_rows; r++)
        for (size_t i = 0; i < w->q_cols; i++)
            ((float *)here(w->qkv))[(size_t)r * w->qkv_cols + i] =
                ((float *)here(w->q))[(size_t)r * w->q_cols + i] = to_bf16(query_element(t, (int)(i % d)));
}

#endif

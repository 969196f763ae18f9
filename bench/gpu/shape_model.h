/* SPDX-License-Identifier: Apache-2.0
 *
 * A model that is only a shape: hyper-parameters of a known network and random weights, so that speed can be
 * measured without a download. All tensors of a format share one block of random bytes; the backend's copies
 * are what differs in place. Included by programs; it stands in for store's model_file_find.
 */
#ifndef SHAPE_MODEL_H
#define SHAPE_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "nouns/family.h"

typedef struct shape_row {
    const char *name;
    family family;
    int dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim, vocab, window, period;
} shape_row;

static const shape_row shape_rows[] = {
    {"smollm2-135m", FAMILY_LLAMA, 576, 30, 9, 3, 64, 1536, 49152, 0, 0},
    {"qwen3-8b", FAMILY_QWEN3, 4096, 36, 32, 8, 128, 12288, 151936, 0, 0},
    {"llama3-8b", FAMILY_LLAMA, 4096, 32, 32, 8, 128, 14336, 128256, 0, 0},
    {"gemma3-27b", FAMILY_GEMMA3, 5376, 62, 32, 16, 128, 21504, 262208, 1024, 6},
    {"qwen3-32b", FAMILY_QWEN3, 5120, 64, 64, 8, 128, 25600, 151936, 0, 0},
    {"llama3-70b", FAMILY_LLAMA, 8192, 80, 64, 8, 128, 28672, 128256, 0, 0},
};

typedef struct shape_model {
    model_file file;
    tensor *tensors;
    uint8_t *codes, *scales;
    float *ones;
} shape_model;

/* Any place's tensor; linear, for some hundred of them. */
const tensor *model_file_find(const model_file *f, place at) {
    for (size_t i = 0; i < f->n_tensors; i++)
        if (place_equal(f->tensors[i].place, at))
            return &f->tensors[i];
    return NULL;
}

static void shape_fill(uint8_t *p, size_t n, uint32_t mask, uint32_t base) {
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i + 4 <= n; i += 4) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        uint32_t word = ((uint32_t)(x >> 32) & mask) + base;
        memcpy(p + i, &word, 4);
    }
}

/* Codes are uniform over E2M1 (mean square 8.9), scales lie in 1 .. 2: weights of mean square 1 / cols. */
static tensor shape_matrix(const shape_model *m, size_t rows, size_t cols) {
    return (tensor){.name = "random",
                    .dtype = DT_NVFP4,
                    .rows = rows,
                    .cols = cols,
                    .n_dims = 2,
                    .dims = {rows, cols},
                    .data = m->codes,
                    .bytes = rows * cols / 2,
                    .block_scales = m->scales,
                    .tensor_scale = 1.0f / (3.0f * 1.45f * sqrtf((float)cols))};
}

static int shape_open(shape_model *m, const char *name) {
    const shape_row *r = NULL;
    for (size_t i = 0; i < sizeof shape_rows / sizeof *shape_rows; i++)
        r = strcmp(shape_rows[i].name, name) == 0 ? &shape_rows[i] : r;
    if (!r)
        return 0;
    hparams hp = family_get(r->family)->defaults;
    hp.family = r->family;
    hp.n_layers = r->n_layers, hp.dim = r->dim, hp.ffn_dim = r->ffn_dim;
    hp.n_heads = r->n_heads, hp.n_kv_heads = r->n_kv_heads, hp.head_dim = hp.rope_dim = r->head_dim;
    hp.vocab = r->vocab, hp.context_len = 131072, hp.tied = r->family == FAMILY_GEMMA3;
    hp.attn_scale = 1.0f / sqrtf((float)r->head_dim);
    hp.embed_scale = hp.embed_scale > 0 ? hp.embed_scale : 1;
    hp.residual_scale = hp.logit_scale = 1;
    hp.sliding_window = r->window;
    for (int i = 0; i < r->n_layers; i++)
        hp.local[i] = r->period > 0 && (i + 1) % r->period != 0;
    size_t most = (size_t)r->vocab * (size_t)r->dim;
    most = most > (size_t)r->ffn_dim * (size_t)r->dim ? most : (size_t)r->ffn_dim * (size_t)r->dim;
    *m = (shape_model){
        .file = {
            .path = name, .format = FORMAT_SAFETENSORS, .has_network = true, .network_note = "", .hp = hp}};
    m->codes = malloc(most / 2);
    m->scales = malloc(most / 16 + 4);
    m->ones = malloc(65536 * sizeof(float));
    m->tensors = calloc((size_t)(r->n_layers + 1) * SLOT_COUNT, sizeof(tensor));
    shape_fill(m->codes, most / 2, ~0u, 0);
    shape_fill(m->scales, most / 16 + 4, 0x07070707, 0x38383838);
    for (int i = 0; i < 65536; i++)
        m->ones[i] = hp.norm_plus_one ? 0 : 1;
    for (int layer = -1; layer < r->n_layers; layer++)
        for (int s = 1; s < SLOT_COUNT; s++) {
            size_t rows, cols;
            if (place_is_in_layer((slot)s) != (layer >= 0) || !hparams_has(&hp, (slot)s, &rows, &cols))
                continue;
            tensor t = shape_matrix(m, rows, cols);
            if (rows == 1)
                t = (tensor){.name = "ones",
                             .dtype = DT_F32,
                             .rows = 1,
                             .cols = cols,
                             .n_dims = 1,
                             .dims = {cols},
                             .data = m->ones,
                             .bytes = cols * 4,
                             .tensor_scale = 1};
            t.place = place_of((slot)s, layer);
            m->tensors[m->file.n_tensors++] = t;
        }
    m->file.tensors = m->tensors;
    return 1;
}

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * What the conversion tests share: converting the tiny models, and comparing two models by their values,
 * whatever their containers.
 */
#ifndef TESTS_CONVERT_MODELS_H
#define TESTS_CONVERT_MODELS_H

#include <math.h>

#include "convert/convert.h"
#include "tiny_model.h"

static nib_error err;

static inline model_file *open_model(const char *path) {
    model_file *f;
    if (model_file_open(&f, path, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return f;
}

static inline nib_status try_convert(const char *in, const char *out, convert_options o,
                                     convert_report *report) {
    model_file *f = open_model(in);
    convert_report r;
    nib_status status = convert(f, out, &o, report ? report : &r, &err);
    model_file_close(f);
    return status;
}

static inline const char *make(const char *in, const char *name, convert_options o, convert_report *report) {
    const char *out = tiny_path(name);
    if (try_convert(in, out, o, report) != NIB_OK)
        fail_msg("%s", err.text);
    return out;
}

/* Row of Hugging Face's order that is row R of F's file. */
static inline size_t hf_row(const model_file *f, slot s, size_t r) {
    if (!f->hp.rope_interleaved || (s != SLOT_Q && s != SLOT_K))
        return r;
    size_t d = (size_t)f->hp.head_dim, i = r % d;
    return r - i + (i & 1) * d / 2 + i / 2;
}

static inline void decode_all(const model_file *f, const tensor *t, float *out) {
    float row[512];
    for (size_t r = 0; r < t->rows; r++) {
        tensor_decode_row(t, r, row);
        for (size_t c = 0; c < t->cols; c++)
            out[hf_row(f, t->place.slot, r) * t->cols + c] =
                t->rows == 1 && f->hp.norm_plus_one ? 1 + row[c] : row[c];
    }
}

/* All values equal, tensor by tensor. */
static inline void assert_same_values(const char *path_a, const char *path_b) {
    static float x[TINY_FFN * TINY_FFN], y[TINY_FFN * TINY_FFN];
    model_file *a = open_model(path_a), *b = open_model(path_b);
    assert_true(a->has_network && b->has_network);
    int n = 0;
    for (int layer = -1; layer < TINY_LAYERS; layer++)
        for (int s = 1; s < SLOT_COUNT; s++) {
            const tensor *p = model_file_find(a, place_of((slot)s, layer)),
                         *q = model_file_find(b, place_of((slot)s, layer));
            assert_int_equal(p != NULL, q != NULL);
            if (!p)
                continue;
            assert_int_equal(p->rows, q->rows);
            assert_int_equal(p->cols, q->cols);
            decode_all(a, p, x);
            decode_all(b, q, y);
            for (size_t i = 0; i < p->rows * p->cols; i++)
                if (!(x[i] == y[i]))
                    fail_msg("%s of layer %d, element %zu: %a and %a", slot_name((slot)s), layer, i,
                             (double)x[i], (double)y[i]);
            n++;
        }
    assert_true(n >= 2 + 9 * TINY_LAYERS);
    model_file_close(a);
    model_file_close(b);
}

static inline double relative_error(const char *path_a, const char *path_b, slot s, int layer) {
    static float x[TINY_FFN * TINY_FFN], y[TINY_FFN * TINY_FFN];
    model_file *a = open_model(path_a), *b = open_model(path_b);
    const tensor *p = model_file_find(a, place_of(s, layer)), *q = model_file_find(b, place_of(s, layer));
    assert_non_null(p);
    assert_non_null(q);
    double error = 0, norm = 0;
    decode_all(a, p, x);
    decode_all(b, q, y);
    for (size_t i = 0; i < p->rows * p->cols; i++) {
        error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        norm += (double)x[i] * x[i];
    }
    model_file_close(a);
    model_file_close(b);
    return sqrt(error / norm);
}

#endif

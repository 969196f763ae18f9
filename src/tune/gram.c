/* SPDX-License-Identifier: Apache-2.0
 *
 * By panels of 256 columns (the last is filled up with zeros). Of x with itself only the lower triangle is
 * computed and mirrored in the end. See gram.h.
 */
#include "tune/gram.h"

#include <string.h>

#include "base/mem.h"

#define PANEL 256

nib_status gram_open(gram *g, backend *be, size_t y_cols, size_t cols, nib_error *err) {
    *g = (gram){.be = be, .rows = y_cols ? y_cols : cols, .cols = cols, .panel = cols < PANEL ? cols : PANEL};
    g->h = mem_array(g->rows, cols * sizeof *g->h);
    g->held = mem_array((cols + g->panel - 1) / g->panel * g->panel, GRAM_ROWS * sizeof *g->held);
    if (y_cols)
        g->left = mem_array(y_cols, GRAM_ROWS * sizeof *g->left);
    nib_status status =
        g->h && g->held && (g->left || !y_cols)
            ? be->buf_new(be, &g->in, BUF_ACT, SPLIT_NONE, g->rows, GRAM_ROWS, err)
            : nib_fail(err, NIB_NO_MEMORY, "no memory for second moments of %zu inputs", cols);
    if (status == NIB_OK)
        status = be->buf_new(be, &g->out, BUF_F32, SPLIT_NONE, g->rows, g->panel, err);
    if (status != NIB_OK)
        gram_close(g);
    return status;
}

static void free_rest(gram *g) {
    if (g->in)
        g->be->buf_free(g->be, g->in);
    if (g->out)
        g->be->buf_free(g->be, g->out);
    mem_free(g->held);
    mem_free(g->left);
    g->in = g->out = NULL;
    g->held = g->left = NULL;
}

void gram_close(gram *g) {
    free_rest(g);
    mem_free(g->h);
    *g = (gram){0};
}

/* Columns [first, first + panel) of h += of what is held; of x with itself from row FIRST on. */
static nib_status add_panel(gram *g, size_t first, float *product, nib_error *err) {
    /* a step is of some batch; these products ask nothing of it */
    static const int32_t page = 0, token = 0;
    static const batch_seq seq = {.pages = CACHE_EVERY_GROUP(&page), .n_pages = 1, .n_rows = 1};
    static const batch b = {.tokens = &token, .n_rows = 1, .seqs = &seq, .n_seqs = 1};
    backend *be = g->be;
    const size_t top = g->left ? 0 : first, rows = g->rows - top;
    const size_t n = g->cols - first < g->panel ? g->cols - first : g->panel;
    const float *y = g->left ? g->left : g->held + first * GRAM_ROWS;
    tensor t = {.name = "inputs",
                .dtype = DT_F32,
                .rows = g->panel,
                .cols = GRAM_ROWS,
                .data = g->held + first * GRAM_ROWS,
                .bytes = g->panel * GRAM_ROWS * sizeof *g->held,
                .tensor_scale = 1};
    const tensor *part = &t;
    weight *w;
    NIB_TRY(be->weight_pack(be, &w, &part, 1, SPLIT_NONE, err));
    be->buf_write(be, g->in, y, rows, w);
    step_begin(be, &b, 0);
    op_matmul(be, g->out, g->in, w, NULL);
    nib_status status = step_finish(be, err);
    if (status == NIB_OK) {
        be->buf_read(be, g->out, product);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < n; c++)
                g->h[(top + r) * g->cols + first + c] += (double)product[r * g->panel + c];
    }
    be->weight_free(be, w);
    return status;
}

/* Rows that are not there count nothing. */
static void fill_up(float *held, size_t cols, size_t n) {
    for (size_t c = 0; c < cols && n < GRAM_ROWS; c++)
        memset(held + c * GRAM_ROWS + n, 0, (GRAM_ROWS - n) * sizeof *held);
}

static void hold(float *held, const float *a, size_t cols, size_t from, size_t n) {
    for (size_t c = 0; c < cols; c++)
        for (size_t i = 0; i < n; i++)
            held[c * GRAM_ROWS + from + i] = a[i * cols + c];
}

static nib_status flush(gram *g, nib_error *err) {
    if (g->n_held == 0)
        return NIB_OK;
    fill_up(g->held, g->cols, g->n_held);
    if (g->left)
        fill_up(g->left, g->rows, g->n_held);
    float *product = mem_array(g->rows, g->panel * sizeof *product);
    nib_status status =
        product ? NIB_OK
                : nib_fail(err, NIB_NO_MEMORY, "no memory for second moments of %zu inputs", g->cols);
    for (size_t first = 0; first < g->cols && status == NIB_OK; first += g->panel)
        status = add_panel(g, first, product, err);
    mem_free(product);
    g->n_held = 0;
    return status;
}

nib_status gram_add(gram *g, const float *y, const float *x, size_t rows, nib_error *err) {
    for (size_t r = 0; r < rows;) {
        size_t n = rows - r < GRAM_ROWS - g->n_held ? rows - r : GRAM_ROWS - g->n_held;
        hold(g->held, x + r * g->cols, g->cols, g->n_held, n);
        if (g->left)
            hold(g->left, y + r * g->rows, g->rows, g->n_held, n);
        g->n_held += n;
        r += n;
        if (g->n_held == GRAM_ROWS)
            NIB_TRY(flush(g, err));
    }
    g->n += rows;
    return NIB_OK;
}

nib_status gram_finish(gram *g, nib_error *err) {
    NIB_TRY(flush(g, err));
    double share = g->n ? 1.0 / (double)g->n : 0;
    for (size_t i = 0; i < g->rows; i++)
        for (size_t j = 0; j < (g->left ? g->cols : i + 1); j++) {
            g->h[i * g->cols + j] *= share;
            if (!g->left)
                g->h[j * g->cols + i] = g->h[i * g->cols + j];
        }
    free_rest(g);
    return NIB_OK;
}

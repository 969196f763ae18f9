/* SPDX-License-Identifier: Apache-2.0
 *
 * Every op of the list on every rung this machine has, against FP64 of the same operands: zeros, an outlier
 * per block, the largest values, odd tails; 1, 7, 64 and 513 rows. Tolerances stand in ops/op_list.h.
 * Matrix products of every weight format have a test of their own.
 */
#include "cpu_fixture.h"
#include "matmul_fixture.h"

#include "cpu/kernels.h"

static const int row_counts[] = {1, 7, 64, 513};

/* The wide shapes are there for the vector kernels; scalar code meets them with few rows. Many rows differ
 * from few by how they are shared out, not by their numbers. */
static bool too_much(size_t rung, const op_shape *shape, int rows, int pattern) {
    if (rows > 64 && pattern != PATTERN_NORMAL)
        return true;
    return shape->dim > 100 && rows > (rung == 0 ? 7 : 64);
}

typedef struct rig {
    backend *be;
    uint32_t features;
    const op_shape *shape;
    size_t rows;
    fixture_pattern pattern;
    fixture_batch *batch;
    char where[256];
} rig;

typedef void (*rig_fn)(rig *r);

/* FN for every rung, mode, shape, row count and pattern. */
static void for_all(rig_fn fn) {
    for (size_t rung = 0; rung < fixture_n_rungs(); rung++)
        for (int mode = NIB_ACTIVATIONS_F32; mode <= NIB_ACTIVATIONS_INT8; mode++) {
            rig r = {.be = fixture_open(fixture_rungs[rung], 2, (nib_activations)mode),
                     .features = fixture_rungs[rung]};
            for (size_t s = 0; s < OP_N_SHAPES; s++)
                for (size_t i = 0; i < 4; i++)
                    for (int p = 0; p < N_PATTERNS; p++) {
                        if (too_much(rung, &op_shapes[s], row_counts[i], p))
                            continue;
                        r.shape = &op_shapes[s];
                        r.rows = (size_t)row_counts[i];
                        r.pattern = (fixture_pattern)p;
                        fixture_batch *f = test_calloc(1, sizeof *f);
                        fixture_add(f, 0, 0, row_counts[i]);
                        r.batch = f;
                        snprintf(r.where, sizeof r.where, "%s, %s, %d rows, pattern %d", r.be->path,
                                 r.shape->name, row_counts[i], p);
                        fn(&r);
                        test_free(f);
                    }
            r.be->close(r.be);
        }
}

/* In int8 mode the codes lie within half a step of the FP32 values they stand for. */
static void check_codes(const rig *r, const buf *b) {
    if (!b->blocks)
        return;
    for (size_t row = 0; row < b->rows; row++)
        for (size_t i = 0; i < b->stride; i++) {
            size_t col = act_column(i);
            const act_block *block = act_blocks(b, row) + i / ACT_BLOCK;
            float scale = block->scale;
            double d = fabs((double)block->codes[i % ACT_BLOCK] * scale - act_row(b, row)[col]);
            if (!(d <= 0.50001 * scale))
                fail_msg("%s: column %zu is %g off, its step %g", r->where, col, d, (double)scale);
            if (col >= b->cols)
                assert_true(block->codes[i % ACT_BLOCK] == 0 && act_row(b, row)[col] == 0);
        }
}

static double rms_factor64(const float *x, float eps, size_t n) {
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (double)x[i] * x[i];
    return 1 / sqrt(squares / (double)n + (double)eps);
}

static void norm_op(rig *r) {
    size_t dim = (size_t)r->shape->dim;
    const float eps = 1e-6f;
    float *x = fixture_vector(r->rows * dim, r->pattern, 1e15f, 1);
    float *w = fixture_vector(dim, PATTERN_NORMAL, 0, 2);
    double *want = test_malloc(dim * sizeof *want);
    buf *in = fixture_buf(r->be, BUF_F32, r->rows, dim), *act = fixture_buf(r->be, BUF_ACT, r->rows, dim);
    buf *last = fixture_buf(r->be, BUF_F32, r->rows, dim), *sum = fixture_buf(r->be, BUF_F32, r->rows, dim);
    fixture_set(in, x, r->rows);
    fixture_set(sum, x, r->rows);
    r->be->step_begin(r->be, &r->batch->b);
    r->be->rmsnorm(r->be, act, in, w, eps);
    r->be->rmsnorm_out(r->be, last, in, w, eps);
    r->be->rmsnorm_add(r->be, sum, in, w, eps);
    fixture_finish(r->be);
    assert_int_equal(last->rows, 1);
    for (size_t row = 0; row < r->rows; row++) {
        const float *xr = x + row * dim;
        double factor = rms_factor64(xr, eps, dim);
        for (size_t i = 0; i < dim; i++)
            want[i] = xr[i] * factor * w[i];
        fixture_check(OP_rmsnorm, r->where, act_row(act, row), want, dim);
        if (row == r->rows - 1)
            fixture_check(OP_rmsnorm_out, r->where, r->be->buf_read(r->be, last), want, dim);
        for (size_t i = 0; i < dim; i++)
            want[i] += xr[i];
        fixture_check(OP_rmsnorm_add, r->where, act_row(sum, row), want, dim);
    }
    check_codes(r, act);
    r->be->buf_free(r->be, in);
    r->be->buf_free(r->be, act);
    r->be->buf_free(r->be, last);
    r->be->buf_free(r->be, sum);
    test_free(x);
    test_free(w);
    test_free(want);
}

static double glu64(glu_kind kind, double g, double up) {
    if (kind == GLU_SILU)
        return g / (1 + exp(-g)) * up;
    double u = sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
    return g / (1 + exp(-2 * u)) * up;
}

/* A gate below this need only be small. */
#define GATE_SHUT 1e-36

/* Gate and up, then f(gate) * up: every row has the bits of a plain product followed by the gate's kernel,
 * and with weights in FP32 the first and last are compared with FP64. */
enum { GLU_TYPES = 3 };
static const dtype glu_types[GLU_TYPES] = {DT_F32, DT_NVFP4, DT_Q8_0};
static tensor glu_gates[OP_N_SHAPES][GLU_TYPES], glu_ups[OP_N_SHAPES][GLU_TYPES];

static bool glu_fits(const op_shape *s, size_t type) {
    return s->dim % 32 == 0 || glu_types[type] == DT_F32;
}

static void glu_op(rig *r) {
    if (r->shape->dim > 100 && r->pattern != PATTERN_NORMAL)
        return;
    size_t dim = (size_t)r->shape->dim, ffn = (size_t)r->shape->ffn_dim;
    float *x = fixture_vector(r->rows * dim, r->pattern, 1e6f, 3);
    double *want = test_malloc(ffn * sizeof *want);
    float *plain = test_malloc(ffn * sizeof *plain);
    buf *in = fixture_buf(r->be, BUF_ACT, r->rows, dim),
        *both = fixture_buf(r->be, BUF_F32, r->rows, 2 * ffn);
    buf *out = fixture_buf(r->be, BUF_ACT, r->rows, ffn);
    cpu_kernels k;
    kernels_init(&k, r->features);
    for (size_t row = 0; row < r->rows; row++)
        memcpy(act_row(in, row), x + row * dim, dim * sizeof *x);
    in->rows = r->rows;
    for (size_t row = 0; in->blocks && row < r->rows; row++)
        k.matmul.quantize_act(act_blocks(in, row), act_row(in, row), in->stride);
    for (size_t i = 0; i < GLU_TYPES; i++) {
        if (!glu_fits(r->shape, i))
            continue;
        glu_kind kind = i % 2 ? GLU_GELU_TANH : GLU_SILU;
        const tensor *gate = &glu_gates[r->shape - op_shapes][i], *up = &glu_ups[r->shape - op_shapes][i];
        const tensor *parts[] = {gate, up};
        weight *w = NULL;
        assert_int_equal(r->be->weight_pack(r->be, &w, parts, 2, NULL), NIB_OK);
        r->be->step_begin(r->be, &r->batch->b);
        r->be->matmul(r->be, both, in, w);
        r->be->matmul_glu(r->be, out, in, w, kind);
        fixture_finish(r->be);
        for (size_t row = 0; row < r->rows; row++) {
            const float *sums = act_row(both, row);
            k.glu[kind](plain, sums, sums + ffn, ffn);
            if (memcmp(plain, act_row(out, row), ffn * sizeof *plain) != 0)
                fail_msg("matmul_glu, %s, %s: row %zu is not the product, gated", r->where,
                         dtype_get(glu_types[i])->name, row);
            if (glu_types[i] != DT_F32 || r->pattern == PATTERN_MAX || (row && row + 1 < r->rows))
                continue;
            for (size_t o = 0; o < ffn; o++) {
                double g = 0, u = 0;
                for (size_t c = 0; c < dim; c++) {
                    g += (double)x[row * dim + c] * ((const float *)gate->data)[o * dim + c];
                    u += (double)x[row * dim + c] * ((const float *)up->data)[o * dim + c];
                }
                want[o] = glu64(kind, g, u * up->row_scales[o] * up->tensor_scale);
            }
            fixture_check(OP_matmul_glu, r->where, act_row(out, row), want, ffn);
        }
        check_codes(r, out);
        r->be->weight_free(r->be, w);
    }
    r->be->buf_free(r->be, in);
    r->be->buf_free(r->be, both);
    r->be->buf_free(r->be, out);
    test_free(x);
    test_free(want);
    test_free(plain);
}

static void sum_squares_op(rig *r) {
    size_t ffn = (size_t)r->shape->ffn_dim;
    float *x = fixture_vector(r->rows * ffn, r->pattern, 1e18f, 4);
    double *got = test_malloc(ffn * sizeof *got), *want = test_malloc(ffn * sizeof *want);
    buf *in = fixture_buf(r->be, BUF_ACT, r->rows, ffn);
    fixture_set(in, x, r->rows);
    for (size_t i = 0; i < ffn; i++)
        got[i] = want[i] = 1.5;
    r->be->step_begin(r->be, &r->batch->b);
    r->be->sum_squares(r->be, got, in);
    fixture_finish(r->be);
    for (size_t row = 0; row < r->rows; row++)
        for (size_t i = 0; i < ffn; i++)
            want[i] += (double)x[row * ffn + i] * x[row * ffn + i];
    for (size_t i = 0; i < ffn; i++)
        if (fabs(got[i] - want[i]) > op_infos[OP_sum_squares].tolerance * want[i])
            fail_msg("sum_squares, %s: %g, not %g", r->where, got[i], want[i]);
    r->be->buf_free(r->be, in);
    test_free(x);
    test_free(got);
    test_free(want);
}

/* Embedding and products with weights kept in FP32: the other formats are the matmul test's. */
static void weight_ops(rig *r) {
    size_t dim = (size_t)r->shape->dim, vocab = 41;
    nib_error err;
    weight *w = NULL;
    float *table = fixture_vector(vocab * dim, PATTERN_NORMAL, 0, 5);
    float *x = fixture_vector(r->rows * dim, r->pattern, 1e15f, 6);
    double *want = test_malloc((dim > vocab ? dim : vocab) * sizeof *want);
    tensor t = {.name = "table",
                .dtype = DT_F32,
                .rows = vocab,
                .cols = dim,
                .n_dims = 2,
                .dims = {vocab, dim},
                .data = table,
                .bytes = vocab * dim * 4,
                .tensor_scale = 1};
    const tensor *parts[] = {&t};
    if (r->be->weight_pack(r->be, &w, parts, 1, &err) != NIB_OK)
        fail_msg("%s", err.text);
    int32_t tokens[513]; /* below vocab */
    for (size_t i = 0; i < r->rows; i++)
        tokens[i] = r->batch->tokens[i] % (int32_t)vocab;
    r->batch->b.tokens = tokens;
    buf *emb = fixture_buf(r->be, BUF_F32, r->rows, dim), *in = fixture_buf(r->be, BUF_ACT, r->rows, dim);
    buf *out = fixture_buf(r->be, BUF_F32, r->rows, vocab),
        *add = fixture_buf(r->be, BUF_F32, r->rows, vocab);
    float *before = fixture_vector(r->rows * vocab, PATTERN_NORMAL, 0, 7);
    fixture_set(in, x, r->rows);
    fixture_set(add, before, r->rows);
    r->be->step_begin(r->be, &r->batch->b);
    r->be->embed(r->be, emb, w, 3.7f);
    r->be->matmul(r->be, out, in, w);
    r->be->matmul_add(r->be, add, in, w);
    fixture_finish(r->be);
    for (size_t row = 0; row < r->rows; row++) {
        for (size_t i = 0; i < dim; i++)
            want[i] = (double)table[(size_t)tokens[row] * dim + i] * 3.7f;
        fixture_check(OP_embed, r->where, act_row(emb, row), want, dim);
        for (size_t o = 0; o < vocab; o++) {
            want[o] = 0;
            for (size_t i = 0; i < dim; i++)
                want[o] += (double)x[row * dim + i] * table[o * dim + i];
        }
        fixture_check(OP_matmul, r->where, act_row(out, row), want, vocab);
        for (size_t o = 0; o < vocab; o++)
            want[o] += before[row * vocab + o];
        fixture_check(OP_matmul_add, r->where, act_row(add, row), want, vocab);
    }
    r->batch->b.tokens = r->batch->tokens;
    buf *all[] = {emb, in, out, add};
    for (size_t i = 0; i < 4; i++)
        r->be->buf_free(r->be, all[i]);
    r->be->weight_free(r->be, w);
    test_free(table);
    test_free(x);
    test_free(before);
    test_free(want);
}

static void test_norms(void **state) {
    (void)state;
    for_all(norm_op);
}

static void test_glu(void **state) {
    (void)state;
    rng random = {.state = 11};
    for (size_t s = 0; s < OP_N_SHAPES; s++)
        for (size_t i = 0; i < GLU_TYPES; i++)
            if (glu_fits(&op_shapes[s], i)) {
                size_t dim = (size_t)op_shapes[s].dim, ffn = (size_t)op_shapes[s].ffn_dim;
                glu_gates[s][i] = fixture_tensor(glu_types[i], ffn, dim, &random, FILL_RANDOM, false);
                glu_ups[s][i] = fixture_tensor(glu_types[i], ffn, dim, &random, FILL_RANDOM, true);
            }
    for_all(glu_op);
    for (size_t s = 0; s < OP_N_SHAPES; s++)
        for (size_t i = 0; i < GLU_TYPES; i++) {
            fixture_free(&glu_gates[s][i]);
            fixture_free(&glu_ups[s][i]);
        }
}

static void test_sum_squares(void **state) {
    (void)state;
    for_all(sum_squares_op);
}

static void test_weights(void **state) {
    (void)state;
    for_all(weight_ops);
}

/* The gates' kernels, densely: both tails, every sign and exponent. */
static void test_gates(void **state) {
    (void)state;
    enum { N = 32768 };
    const double most = 2.6e-7;
    float *x = test_malloc(N * sizeof *x), *ones = test_malloc(N * sizeof *ones);
    float *got = test_malloc(N * sizeof *got);
    double *want = test_malloc(N * sizeof *want);
    for (size_t rung = 0; rung < fixture_n_rungs(); rung++) {
        cpu_kernels k;
        kernels_init(&k, fixture_rungs[rung]);
        for (int kind = GLU_SILU; kind <= GLU_GELU_TANH; kind++)
            for (uint32_t part = 0; part < 2; part++) {
                for (uint32_t i = 0; i < N; i++) {
                    uint32_t bits = part ? i << 17 | 0x1234 : 0; /* sign, exponent, the first bits */
                    x[i] = part ? f32_of_bits(bits) : ((float)i - N / 2) * (200.0f / N);
                    x[i] = isfinite(x[i]) ? x[i] : 0;
                    ones[i] = 1;
                    want[i] = glu64((glu_kind)kind, x[i], 1);
                    want[i] = fabs(want[i]) < GATE_SHUT ? 0 : want[i];
                }
                k.glu[kind](got, x, ones, N);
                for (size_t i = 0; i < N; i++)
                    if (want[i] == 0) { /* below the normal numbers: need only be small */
                        assert_true(fabsf(got[i]) < (float)(2 * GATE_SHUT));
                        got[i] = 0;
                    }
                double error = fixture_error(OP_ERROR_ELEMENT, got, want, N);
                print_message("%s, %s, part %u: largest relative error %.3g\n", k.rung,
                              kind == GLU_SILU ? "silu" : "gelu_tanh", part, error);
                assert_true(error <= most);
            }
    }
    test_free(x);
    test_free(ones);
    test_free(got);
    test_free(want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),   cmocka_unit_test(test_glu),   cmocka_unit_test(test_sum_squares),
        cmocka_unit_test(test_weights), cmocka_unit_test(test_gates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

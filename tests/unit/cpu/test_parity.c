/* SPDX-License-Identifier: Apache-2.0
 *
 * The op suite on the CPU: every op of ops/op_list.h on every rung this machine has, in both modes, against
 * FP64 of the same operands. What only this backend has stands beside it: the codes of an activation, the
 * gates' kernels, and that a gated product is a plain one, gated.
 */
#include "cpu_fixture.h"
#include "matmul_fixture.h"

#include "../ops/op_suite.h"
#include "../sanitized.h"
#include "cpu/kernels.h"

static void test_suite(void **state) {
    (void)state;
    for (size_t rung = 0; rung < fixture_n_rungs(); rung++)
        for (int mode = NIB_ACTIVATIONS_F32; mode <= NIB_ACTIVATIONS_INT8; mode++) {
            backend *be = fixture_open(fixture_rungs[rung], 1, (nib_activations)mode);
            op_suite_run(be, SANITIZED ? OP_SUITE_PATHS : rung == 0 ? OP_SUITE_SHORT : OP_SUITE_FULL);
            be->close(be);
        }
}

/* In int8 mode the codes lie within half a step of the FP32 values they stand for. */
static void check_codes(const act *a, const char *where) {
    for (size_t row = 0; row < a->head.rows; row++)
        for (size_t i = 0; i < a->stride; i++) {
            size_t col = act_column(i);
            const act_block *block = act_blocks(a, row) + i / ACT_BLOCK;
            float scale = block->scale;
            double d = fabs((double)block->codes[i % ACT_BLOCK] * scale - act_row(a, row)[col]);
            if (!(d <= 0.50001 * scale))
                fail_msg("%s: column %zu is %g off, its step %g", where, col, d, (double)scale);
            if (col >= a->head.cols)
                assert_true(block->codes[i % ACT_BLOCK] == 0 && act_row(a, row)[col] == 0);
        }
}

/* f(gate) * up: every row has the bits of a plain product followed by the gate's kernel. */
static void check_gated(backend *be, uint32_t features, dtype type, glu_kind kind, size_t rows) {
    enum { DIM = 96, FFN = 160 };
    rng random = {.state = 11 + rows};
    tensor gate = fixture_tensor(type, FFN, DIM, &random, FILL_RANDOM, false);
    tensor up = fixture_tensor(type, FFN, DIM, &random, FILL_RANDOM, true);
    const tensor *parts[] = {&gate, &up};
    weight *w = NULL;
    assert_int_equal(be->weight_pack(be, &w, parts, 2, SPLIT_NONE, NULL), NIB_OK);
    buf *in = fixture_buf(be, BUF_ACT, rows, DIM), *both = fixture_buf(be, BUF_F32, rows, 2 * FFN);
    buf *out = fixture_buf(be, BUF_ACT, rows, FFN);
    float *x = fixture_vector(rows * DIM, PATTERN_OUTLIERS, 0, 3), plain[FFN];
    fixture_batch *f = test_calloc(1, sizeof *f);
    fixture_add(f, 0, 0, (int)rows);
    be->buf_write(be, in, x, rows, w);
    step_begin(be, &f->b, 0);
    op_matmul(be, both, in, w, NULL);
    op_matmul_glu(be, out, in, w, kind, NULL);
    fixture_finish(be);
    cpu_kernels k;
    kernels_init(&k, features);
    for (size_t row = 0; row < rows; row++) {
        k.glu[kind](plain, fixture_row(both, row), fixture_row(both, row) + FFN, FFN);
        if (memcmp(plain, fixture_row(out, row), sizeof plain) != 0)
            fail_msg("%s, %s: row %zu of %zu is not the product, gated", be->path, dtype_get(type)->name, row,
                     rows);
    }
    if (((act *)out)->blocks)
        check_codes((act *)out, be->path);
    be->weight_free(be, w);
    be->buf_free(be, in);
    be->buf_free(be, both);
    be->buf_free(be, out);
    fixture_free(&gate);
    fixture_free(&up);
    test_free(x);
    test_free(f);
}

static void test_gated(void **state) {
    (void)state;
    static const dtype types[] = {DT_F32, DT_NVFP4, DT_Q8_0, DT_Q4_0};
    for (size_t rung = 0; rung < fixture_n_rungs(); rung++)
        for (int mode = NIB_ACTIVATIONS_F32; mode <= NIB_ACTIVATIONS_INT8; mode++) {
            backend *be = fixture_open(fixture_rungs[rung], 1, (nib_activations)mode);
            for (size_t t = 0; t < 4; t++)
                for (size_t rows = 1; rows <= 64; rows *= 8)
                    check_gated(be, fixture_rungs[rung], types[t], t % 2 ? GLU_GELU_TANH : GLU_SILU, rows);
            be->close(be);
        }
}

/* The codes that a norm writes: odd tails are padded with zeros. */
static void test_codes(void **state) {
    (void)state;
    enum { ROWS = 7 };
    for (size_t rung = 0; rung < fixture_n_rungs(); rung++)
        for (size_t cols = 50; cols <= 640; cols += 295)
            for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
                backend *be = fixture_open(fixture_rungs[rung], 1, NIB_ACTIVATIONS_INT8);
                float *x = fixture_vector(ROWS * cols, (fixture_pattern)pattern, 1e15f, 1);
                float *norm = fixture_vector(cols, PATTERN_NORMAL, 0, 2);
                buf *in = fixture_buf(be, BUF_F32, ROWS, cols), *out = fixture_buf(be, BUF_ACT, ROWS, cols);
                vec *w = fixture_vec(be, norm, cols);
                fixture_batch *f = test_calloc(1, sizeof *f);
                fixture_add(f, 0, 0, ROWS);
                fixture_set(in, x, ROWS);
                step_begin(be, &f->b, 0);
                op_rmsnorm(be, out, in, w, 1e-6f, NULL);
                fixture_finish(be);
                check_codes((act *)out, be->path);
                be->vec_free(be, w);
                be->buf_free(be, in);
                be->buf_free(be, out);
                be->close(be);
                test_free(f);
                test_free(x);
                test_free(norm);
            }
}

static double glu64(glu_kind kind, double g, double up) {
    if (kind == GLU_SILU)
        return g / (1 + exp(-g)) * up;
    double u = sqrt(2 / M_PI) * (g + 0.044715 * g * g * g);
    return g / (1 + exp(-2 * u)) * up;
}

/* A gate below this need only be small. */
#define GATE_SHUT 1e-36

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
        cmocka_unit_test(test_suite),
        cmocka_unit_test(test_gated),
        cmocka_unit_test(test_codes),
        cmocka_unit_test(test_gates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Low-rank branches: products with them are those of the dense sum in FP64, alone, added, gated and of joined
 * parts, for one row and for many, on every rung; the same bits for any number of threads; and activations
 * are rounded for the weight alone.
 */
#include "cpu_fixture.h"

#include "num/bf16.h"

enum { COLS = 96, ROWS = 40, MAX_RANK = 70, TOKENS = 150, PARTS = 3 };

typedef struct branched {
    uint8_t codes[ROWS * COLS / 2], scales[ROWS * COLS / 16];
    uint16_t down[MAX_RANK * COLS], up[ROWS * MAX_RANK];
    tensor t;
} branched;

static branched *make(size_t rank, uint64_t seed) {
    branched *b = test_calloc(1, sizeof *b);
    float *v = fixture_vector(ROWS * COLS + (ROWS + COLS) * MAX_RANK, PATTERN_NORMAL, 1.0f, seed);
    for (size_t i = 0; i < sizeof b->codes; i++)
        b->codes[i] = (uint8_t)(fabsf(v[i]) * 997);
    for (size_t i = 0; i < sizeof b->scales; i++)
        b->scales[i] = (uint8_t)(0x20 + i * seed % 40);
    for (size_t i = 0; i < MAX_RANK * COLS; i++)
        b->down[i] = bf16_from_f32(v[i]);
    for (size_t i = 0; i < ROWS * MAX_RANK; i++)
        b->up[i] = bf16_from_f32(v[ROWS * COLS + i] * 0.3f);
    b->t = (tensor){.name = "w",
                    .dtype = DT_NVFP4,
                    .rows = ROWS,
                    .cols = COLS,
                    .dims = {ROWS, COLS},
                    .data = b->codes,
                    .bytes = sizeof b->codes,
                    .block_scales = b->scales,
                    .tensor_scale = 0.7f,
                    .branch = {rank, b->down, b->up, 0.5f}};
    test_free(v);
    return b;
}

/* [n, parts * ROWS] FP64 of what the parts are. */
static void dense(double *want, branched *const *parts, size_t n_parts, const float *x, size_t n) {
    float row[COLS];
    for (size_t p = 0; p < n_parts; p++)
        for (size_t r = 0; r < ROWS; r++) {
            tensor bare = parts[p]->t;
            const tensor_branch *b = &parts[p]->t.branch;
            bare.branch.rank = 0;
            tensor_decode_row(&bare, r, row);
            for (size_t t = 0; t < n; t++) {
                double sum = 0;
                for (size_t c = 0; c < COLS; c++) {
                    double low = 0;
                    for (size_t k = 0; k < b->rank; k++)
                        low += (double)bf16_to_f32(b->up[r * b->rank + k]) *
                               (double)bf16_to_f32(b->down[k * COLS + c]);
                    sum += ((double)row[c] + (double)b->scale * low) * (double)x[t * COLS + c];
                }
                want[t * n_parts * ROWS + p * ROWS + r] = sum;
            }
        }
}

static weight *pack(backend *be, branched *const *parts, size_t n) {
    const tensor *list[PARTS];
    weight *w;
    nib_error err;
    for (size_t i = 0; i < n; i++)
        list[i] = &parts[i]->t;
    assert_int_equal(be->weight_pack(be, &w, list, n, SPLIT_NONE, &err), NIB_OK);
    return w;
}

typedef enum way { PLAIN, ADDED, GATED } way;

/* GOT [n, parts * ROWS], GATED: [n, ROWS]. */
static void compute(backend *be, way how, branched *const *parts, size_t n_parts, const float *x, size_t n,
                    float *got) {
    fixture_batch f = {0};
    fixture_add(&f, 0, 0, (int32_t)n);
    buf *a = fixture_buf(be, BUF_ACT, TOKENS, COLS);
    weight *w = pack(be, parts, n_parts);
    buf *out =
        fixture_buf(be, how == GATED ? BUF_ACT : BUF_F32, TOKENS, how == GATED ? ROWS : n_parts * ROWS);
    float *ones = test_calloc(n * n_parts * ROWS, sizeof *ones);
    for (size_t i = 0; i < n * n_parts * ROWS; i++)
        ones[i] = 1;
    fixture_set(a, x, n);
    if (how == ADDED)
        fixture_set(out, ones, n);
    step_begin(be, &f.b, 0);
    out->rows = n;
    if (how == PLAIN)
        op_matmul(be, out, a, w, NULL);
    else if (how == ADDED)
        op_matmul_add(be, out, a, w, NULL);
    else
        op_matmul_glu(be, out, a, w, GLU_SILU, NULL);
    fixture_finish(be);
    be->buf_read(be, out, got);
    be->buf_free(be, a);
    be->buf_free(be, out);
    be->weight_free(be, w);
    test_free(ones);
}

static void check(backend *be, way how, branched *const *parts, size_t n_parts, const float *x, size_t n) {
    const size_t cols = how == GATED ? ROWS : n_parts * ROWS;
    double *want = test_calloc(n * n_parts * ROWS, sizeof *want), worst = 0, most = 0;
    float *got = test_calloc(n * cols, sizeof *got);
    dense(want, parts, n_parts, x, n);
    compute(be, how, parts, n_parts, x, n, got);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < cols; i++) {
            const double *row = want + t * n_parts * ROWS;
            const double value = how == PLAIN   ? row[i]
                                 : how == ADDED ? row[i] + 1
                                                : row[i] / (1 + exp(-row[i])) * row[ROWS + i];
            assert_true(isfinite(got[t * cols + i])); /* fmax would take what is no number for the least */
            worst = fmax(worst, fabs((double)got[t * cols + i] - value));
            most = fmax(most, fabs(value));
        }
    if (!(worst <= 2e-6 * most))
        fail_msg("way %d, %zu rows, %zu parts: off by %g of %g", how, n, n_parts, worst, most);
    test_free(want);
    test_free(got);
}

static void test_dense_sums(void **state) {
    static const size_t rows[] = {1, 2, 3, 7, 33, TOKENS};
    (void)state;
    branched *parts[PARTS] = {make(16, 3), make(0, 5), make(MAX_RANK, 7)};
    float *x = fixture_vector(TOKENS * COLS, PATTERN_NORMAL, 1.0f, 9);
    for (size_t rung = 0; rung < fixture_n_rungs(); rung++) {
        backend *be = fixture_open(fixture_rungs[rung], 2, NIB_ACTIVATIONS_F32);
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            check(be, PLAIN, parts, 1, x, rows[i]);
            check(be, PLAIN, parts, PARTS, x, rows[i]);
            check(be, ADDED, parts + 2, 1, x, rows[i]);
            check(be, GATED, parts + 1, 2, x, rows[i]);
        }
        be->close(be);
    }
    for (int i = 0; i < PARTS; i++)
        test_free(parts[i]);
    test_free(x);
}

/* One row of many has the bits that it has alone, whatever the threads; in 8 bits too. */
static void test_bits(void **state) {
    (void)state;
    branched *parts[PARTS] = {make(16, 3), make(5, 5), make(MAX_RANK, 7)};
    float *x = fixture_vector(TOKENS * COLS, PATTERN_NORMAL, 1.0f, 9);
    float *many = test_calloc(TOKENS * PARTS * ROWS, sizeof *many), one[PARTS * ROWS];
    for (int int8 = 0; int8 < 2; int8++)
        for (way how = PLAIN; how <= GATED; how++) {
            const size_t n_parts = how == GATED ? 2 : PARTS, cols = how == GATED ? ROWS : n_parts * ROWS;
            const nib_activations mode = int8 ? NIB_ACTIVATIONS_INT8 : NIB_ACTIVATIONS_F32;
            backend *few = fixture_open(0, 1, mode), *be = fixture_open(0, 3, mode);
            compute(be, how, parts, n_parts, x, TOKENS, many);
            for (size_t t = 0; t < TOKENS; t += 37) {
                compute(few, how, parts, n_parts, x + t * COLS, 1, one);
                assert_memory_equal(one, many + t * cols, cols * sizeof *one);
            }
            few->close(few);
            be->close(be);
        }
    for (int i = 0; i < PARTS; i++)
        test_free(parts[i]);
    test_free(x);
    test_free(many);
}

/* Inputs in NVFP4 cost a weight whose branch is all that it is nothing. */
static void test_rounding(void **state) {
    (void)state;
    nib_error err;
    branched *part = make(16, 3);
    float *x = fixture_vector(7 * COLS, PATTERN_NORMAL, 1.0f, 9), exact[7 * ROWS], rounded[7 * ROWS];
    memset(part->codes, 0, sizeof part->codes);
    backend *a = fixture_open(0, 2, NIB_ACTIVATIONS_F32), *b;
    const cpu_options o = {.threads = 2, .activations = NIB_ACTIVATIONS_F32, .rounding = CPU_ROUND_NVFP4};
    assert_int_equal(cpu_open(&b, &o, &err), NIB_OK);
    compute(a, PLAIN, &part, 1, x, 7, exact);
    compute(b, PLAIN, &part, 1, x, 7, rounded);
    assert_memory_equal(exact, rounded, sizeof exact);
    a->close(a);
    b->close(b);
    test_free(part);
    test_free(x);
}

/* A branch wider than the weight has the room that its own products need. */
static void test_wide_rank(void **state) {
    enum { WIDE = 8192 };
    (void)state;
    branched *part = make(1, 3);
    float *x = fixture_vector(7 * COLS, PATTERN_NORMAL, 1.0f, 9), narrow[7 * ROWS], wide[7 * ROWS];
    uint16_t *down = test_calloc(WIDE * COLS, sizeof *down), *up = test_calloc(ROWS * WIDE, sizeof *up);
    memcpy(down + (WIDE - 1) * COLS, part->down, COLS * sizeof *down);
    for (size_t i = 0; i < ROWS; i++)
        up[i * WIDE + WIDE - 1] = part->up[i];
    backend *be = fixture_open(0, 2, NIB_ACTIVATIONS_F32);
    compute(be, PLAIN, &part, 1, x, 7, narrow);
    be->close(be);
    part->t.branch = (tensor_branch){WIDE, down, up, 0.5f};
    be = fixture_open(0, 2, NIB_ACTIVATIONS_F32);
    compute(be, PLAIN, &part, 1, x, 7, wide);
    be->close(be);
    for (size_t i = 0; i < 7 * ROWS; i++)
        assert_true(fabsf(narrow[i] - wide[i]) <= 1e-5f * (1 + fabsf(narrow[i])));
    test_free(down);
    test_free(up);
    test_free(part);
    test_free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dense_sums), cmocka_unit_test(test_bits),
                                       cmocka_unit_test(test_rounding), cmocka_unit_test(test_wide_rank)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products of every rung this machine has: the same bits as ref/, whatever the batch and whoever
 * takes the units; and ref/ against sums in FP64 over exactly the operands it was given.
 */
#include "base/mem.h"
#include "cpu/cpu.h"
#include "cpu/features.h"
#include "cpu/kernels.h"
#include "matmul_fixture.h"

#include "../sanitized.h"

enum { MAX_RUNGS = 4 };

typedef struct rungs {
    int n;
    cpu_kernels k[MAX_RUNGS];
} rungs;

/* With the kernels that FEATURES bring, where the machine HAS them. */
static void rungs_add(rungs *r, const char *name, uint32_t features, uint32_t have) {
    if (features & ~have) {
        print_message("SKIP: %s is not on this machine\n", name);
        return;
    }
    cpu_kernels *k = &r->k[r->n++];
    k->rung = name;
    matmul_ref_init(&k->matmul);
#if defined(__x86_64__)
    if (features & NIB_CPU_AVX2)
        matmul_avx2_init(&k->matmul, features);
    if (features & NIB_CPU_AVX512)
        matmul_avx512_init(&k->matmul, features);
#endif
}

static void rungs_init(rungs *r) {
    uint32_t have = features_lowered(NIB_CPU_ALL);
    const uint32_t vnni = NIB_CPU_AVX2 | NIB_CPU_AVX512 | NIB_CPU_AVX512_VNNI;
    rungs_add(r, "scalar", 0, have);
    rungs_add(r, "avx2", NIB_CPU_AVX2, have);
    rungs_add(r, "avx512", NIB_CPU_AVX2 | NIB_CPU_AVX512, have);
    rungs_add(r, "avx512-vnni", vnni, have);
}

/* ---- operands ---- */

typedef enum x_fill { X_NORMAL, X_ZERO, X_OUTLIER, X_MAX, X_SMALL, X_COUNT } x_fill;

static float x_value(x_fill f, size_t c, rng *r) {
    switch (f) {
    case X_ZERO:
        return 0.0f;
    case X_OUTLIER:
        return c % 32 == 5 ? 300.0f : rng_normal(r) * 0.1f;
    case X_MAX:
        return rng_u32(r) & 1 ? 4.0f : -4.0f;
    case X_SMALL:
        return rng_normal(r) * 1e-6f;
    default:
        return rng_normal(r);
    }
}

static act *make_act(size_t rows, size_t cols, x_fill f, rng *r) {
    act *a = NULL;
    assert_int_equal(act_new(&a, BUF_ACT, rows, cols, true, NULL), NIB_OK);
    a->head.rows = rows;
    for (size_t t = 0; t < rows; t++)
        for (size_t c = 0; c < cols; c++)
            act_row(a, t)[c] = x_value(f, c, r);
    return a;
}

static void quantize(act *a, const cpu_kernels *k) {
    for (size_t t = 0; t < a->head.rows; t++)
        k->matmul.quantize_act(act_blocks(a, t), act_row(a, t), a->stride);
}

static size_t act_bytes(const act *a) {
    return a->head.max_rows * a->stride / ACT_BLOCK * sizeof(act_block);
}

/* Computes into OUT (poisoned first, unless ADD), units in N_RANGES pieces, last piece first. */
static void compute(float *out, const cpu_kernels *k, const packed *w, const act *a, size_t n_rows, bool add,
                    size_t n_ranges) {
    matmul_job job = {
        .k = k, .w = w, .a = a, .out = out, .out_stride = w->head.rows, .n_rows = n_rows, .add = add};
    if (!add)
        memset(out, 0xff, n_rows * w->head.rows * sizeof *out);
    size_t units = matmul_units(&job), bytes = pack_scratch_bytes(w);
    unsigned char *scratch = mem_aligned(bytes);
    memset(scratch, 0xff, bytes);
    for (size_t i = n_ranges; i-- > 0;)
        matmul_run(&job, units * i / n_ranges, units * (i + 1) / n_ranges, scratch);
    mem_free(scratch);
}

/* |least value| of the block that column C of row ROW lies in: as much as its terms may exceed the value. */
static double least_size(const packed *w, size_t row, size_t c) {
    const pack_part *p = w->parts;
    uint8_t codes[16];
    float scale, least = 0.0f;
    while (row >= p->row0 + p->rows)
        p++;
    if (p->kind != PACK_ROWS)
        pack_block(p, row - p->row0, c / 16, codes, &scale, &least);
    return fabs((double)least);
}

/* One output in FP64 over the operands as the mode gives them, and the sum of |terms| for the tolerance. */
static double oracle(const packed *w, const act *a, size_t row, size_t token, bool int8, float *values,
                     double *size) {
    pack_unpack_row(w, row, values);
    const float *x = act_row(a, token);
    double sum = 0.0;
    *size = 0.0;
    for (size_t i = 0; i < a->stride; i++) {
        size_t c = int8 ? act_column(i) : i;
        const act_block *block = act_blocks(a, token) + i / ACT_BLOCK;
        if (c >= w->head.cols)
            continue;
        double xv = int8 ? (double)block->codes[i % ACT_BLOCK] * (double)block->scale : (double)x[c];
        sum += (double)values[c] * xv;
        *size += (fabs((double)values[c]) + 2.0 * least_size(w, row, c)) * fabs(xv);
    }
    return sum;
}

static void check_oracle(const float *out, const packed *w, const act *a, size_t n_rows) {
    float *values = malloc(w->head.cols * sizeof *values);
    size_t t_step = n_rows > 64 ? 37 : 1, r_step = w->head.rows > 256 ? 29 : 1;
    for (size_t i = 0; i < w->head.n_parts; i++) {
        const pack_part *p = &w->parts[i];
        bool int8 = w->int8 && p->kind != PACK_ROWS;
        for (size_t t = 0; t < n_rows; t += t_step)
            for (size_t r = 0; r < p->rows; r += r_step) {
                double size, sum = oracle(w, a, p->row0 + r, t, int8, values, &size);
                double limit = size * (double)(w->head.cols / 16 + 24) * 0x1p-24 + 1e-36;
                double got = (double)out[t * w->head.rows + p->row0 + r];
                if (!(fabs(got - sum) <= limit))
                    fail_msg("%s, row %zu, token %zu: %.9g instead of %.9g (allowed %.3g)",
                             dtype_get(p->source.dtype)->name, r, t, got, sum, limit);
            }
    }
    free(values);
}

/* All rungs on one weight and one activation: REF against the oracle, the others against REF's bits. */
static void check_job(const rungs *all, const packed *w, act *a, bool oracle_too) {
    size_t n = a->head.rows * w->head.rows;
    float *expected = malloc(n * sizeof *expected), *got = malloc(n * sizeof *got);
    quantize(a, &all->k[0]);
    compute(expected, &all->k[0], w, a, a->head.rows, false, 1);
    if (oracle_too)
        check_oracle(expected, w, a, a->head.rows);
    for (int i = 1; i < all->n; i++) {
        compute(got, &all->k[i], w, a, a->head.rows, false, 3);
        for (size_t j = 0; j < n; j++)
            if (memcmp(got + j, expected + j, sizeof *got) != 0)
                fail_msg("%s, %s, %zu rows of %zu x %zu, [%zu, %zu]: %.9g instead of %.9g", all->k[i].rung,
                         dtype_get(w->parts[0].source.dtype)->name, a->head.rows, w->head.rows, w->head.cols,
                         j / w->head.rows, j % w->head.rows, (double)got[j], (double)expected[j]);
    }
    free(expected);
    free(got);
}

static const dtype formats[] = {DT_F32,    DT_F16,    DT_BF16,  DT_F8_E4M3, DT_F8_E5M2,    DT_NVFP4,
                                DT_MXFP4,  DT_Q4_0,   DT_Q4_1,  DT_Q5_0,    DT_Q5_1,       DT_Q8_0,
                                DT_IQ4_NL, DT_Q4_K,   DT_Q5_K,  DT_Q6_K,    DT_GGUF_NVFP4, DT_GGUF_MXFP4,
                                DT_Q2_K,   DT_IQ4_XS, DT_IQ3_S, DT_TQ1_0};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

static packed *pack_one_tensor(const tensor *t, bool int8) {
    packed *w = NULL;
    assert_int_equal(pack_weight(&w, &t, 1, int8, NULL, NULL), NIB_OK);
    return w;
}

/* Every format and mode, odd rows and columns, every shape of values. */
static void every_rung_gives_the_same_bits(void **state) {
    const rungs *all = *state;
    static const size_t rows[] = {1, 16, 37, 64}, tokens[] = {1, 2, 5, 7, 13};
    rng r = {11};
    for (int f = 0; f < N_FORMATS; f++)
        for (int int8 = 0; int8 < 2; int8++)
            for (size_t i = SANITIZED ? (size_t)f % 2 : 0; i < 4; i += SANITIZED ? 2 : 1)
                for (size_t j = SANITIZED ? i % 3 : 0; j < 5; j += SANITIZED ? 3 : 1) {
                    uint32_t block = dtype_get(formats[f])->block;
                    size_t cols = block >= 64  ? block * (1 + j % 3)
                                  : block < 16 ? 40 + 11 * j
                                               : block * (j + 2);
                    fill kind = (fill)((i + j) % FILL_COUNT);
                    tensor t = fixture_tensor(formats[f], rows[i], cols, &r, kind, (i + j) % 2);
                    packed *w = pack_one_tensor(&t, int8);
                    act *a = make_act(tokens[j], cols, (x_fill)((i * 5 + j) % X_COUNT), &r);
                    check_job(all, w, a, true);
                    act_free(a);
                    pack_free(w);
                    fixture_free(&t);
                }
}

/* Columns past one stretch of a tile, tokens past one unit, 1/7/64/513 rows. */
static void large_shapes(void **state) {
    const rungs *all = *state;
    static const dtype some[] = {DT_NVFP4, DT_Q8_0, DT_Q4_1, DT_BF16};
    static const size_t rows[] = {1, 7, 64, 513}, tokens[] = {129, 64, 7, 1};
    rng r = {12};
    for (int f = 0; f < 4; f++)
        for (int int8 = 0; int8 < 2; int8++)
            for (size_t i = 0; i < 4; i++) {
                size_t cols = i % 2 ? 640 : 1120;
                tensor t = fixture_tensor(some[f], rows[i], cols, &r, FILL_RANDOM, true);
                packed *w = pack_one_tensor(&t, int8);
                act *a = make_act(tokens[i], cols, X_NORMAL, &r);
                check_job(all, w, a, true);
                act_free(a);
                pack_free(w);
                fixture_free(&t);
            }
}

/* Every packed form times 1 to 40 rows of activations: one group, two, ragged ones; columns within a stretch
 * of a tile and past it. */
static void every_number_of_rows(void **state) {
    const rungs *all = *state;
    static const dtype in_groups[] = {DT_NVFP4,  DT_GGUF_NVFP4, DT_MXFP4, DT_GGUF_MXFP4, DT_Q4_0,
                                      DT_IQ4_NL, DT_Q8_0,       DT_Q4_1,  DT_Q5_0,       DT_Q5_1,
                                      DT_Q4_K,   DT_Q5_K,       DT_Q6_K};
    static const size_t rows[] = {16, 32, 41}, cols[] = {64, 96, 576, 1088};
    rng r = {18};
    for (size_t f = 0; f < sizeof in_groups / sizeof *in_groups; f++)
        for (size_t tokens = 1; tokens <= 40; tokens += SANITIZED && tokens > 9 ? 5 : 1) {
            size_t block = dtype_get(in_groups[f])->block, n_cols = cols[tokens % 4];
            n_cols += (block - n_cols % block) % block;
            fill kind = tokens % 8 == 3 ? FILL_MAX : FILL_RANDOM;
            tensor t = fixture_tensor(in_groups[f], rows[tokens % 3], n_cols, &r, kind, tokens % 2);
            packed *w = pack_one_tensor(&t, true);
            assert_true(w->parts[0].kind != PACK_ROWS);
            act *a = make_act(tokens, n_cols, tokens % 5 ? X_NORMAL : X_MAX, &r);
            check_job(all, w, a, false);
            act_free(a);
            pack_free(w);
            fixture_free(&t);
        }
}

/* A row's bits do not depend on the rows beside it, nor on who computes which units. */
static void batch_mates_change_nothing(void **state) {
    const rungs *all = *state;
    enum { ROWS = 100, COLS = 576, TOKENS = 150 };
    static const dtype some[] = {DT_NVFP4, DT_Q8_0, DT_IQ4_NL, DT_F16, DT_Q6_K};
    rng r = {13};
    for (int f = 0; f < 5; f++)
        for (int int8 = 0; int8 < 2; int8++) {
            size_t cols = some[f] == DT_Q6_K ? 512 : COLS;
            tensor t = fixture_tensor(some[f], ROWS, cols, &r, FILL_RANDOM, false);
            packed *w = pack_one_tensor(&t, int8);
            act *a = make_act(TOKENS, cols, X_NORMAL, &r), *one = make_act(1, cols, X_NORMAL, &r);
            float *whole = malloc(sizeof(float) * TOKENS * ROWS),
                  *pieces = malloc(sizeof(float) * TOKENS * ROWS);
            float alone[ROWS];
            for (int i = 0; i < all->n; i++) {
                quantize(a, &all->k[i]);
                compute(whole, &all->k[i], w, a, TOKENS, false, 1);
                compute(pieces, &all->k[i], w, a, TOKENS, false, 5);
                assert_memory_equal(pieces, whole, sizeof(float) * TOKENS * ROWS);
                for (size_t token = 0; token < TOKENS; token += 31) {
                    memcpy(act_row(one, 0), act_row(a, token), cols * sizeof(float));
                    quantize(one, &all->k[i]);
                    compute(alone, &all->k[i], w, one, 1, false, 2);
                    assert_memory_equal(alone, whole + token * ROWS, sizeof alone);
                }
            }
            free(whole);
            free(pieces);
            act_free(a);
            act_free(one);
            pack_free(w);
            fixture_free(&t);
        }
}

/* Every rung's decoder gives the bits of dtype_decode, NaN and -0 included, over random bytes. */
static void decoders_agree(void **state) {
    const rungs *all = *state;
    enum { COLS = 512 + 7 };
    rng r = {17};
    for (int i = 0; i < all->n; i++)
        for (int f = 0; f < N_FORMATS; f++) {
            if (!all->k[i].matmul.decode[formats[f]])
                continue;
            const dtype_info *info = dtype_get(formats[f]);
            size_t n = info->block == 1 ? COLS : 512, bytes = 0;
            assert_true(dtype_bytes(formats[f], n, &bytes));
            unsigned char *src = malloc(bytes);
            float expected[COLS], got[COLS];
            for (int round = 0; round < 50; round++) {
                for (size_t b = 0; b < bytes; b++)
                    src[b] = (unsigned char)rng_u32(&r);
                if (info->block > 1)
                    fixture_blocks(formats[f], src, n / info->block, &r, FILL_RANDOM);
                dtype_decode(formats[f], src, expected, n);
                all->k[i].matmul.decode[formats[f]](src, got, n);
                for (size_t c = 0; c < n; c++)
                    if (memcmp(got + c, expected + c, sizeof *got) != 0 &&
                        !(isnan(got[c]) && isnan(expected[c])))
                        fail_msg("%s, %s, column %zu: %.9g instead of %.9g", all->k[i].rung, info->name, c,
                                 (double)got[c], (double)expected[c]);
            }
            free(src);
        }
}

static void joined_parts_and_adding(void **state) {
    const rungs *all = *state;
    enum { COLS = 256, TOKENS = 9, ROWS = 70 + 17 + 40 };
    rng r = {14};
    tensor q = fixture_tensor(DT_NVFP4, 70, COLS, &r, FILL_RANDOM, false);
    tensor k = fixture_tensor(DT_Q6_K, 17, COLS, &r, FILL_RANDOM, true);
    tensor v = fixture_tensor(DT_Q8_0, 40, COLS, &r, FILL_RANDOM, true);
    const tensor *parts[] = {&q, &k, &v};
    packed *w = NULL;
    assert_int_equal(pack_weight(&w, parts, 3, true, NULL, NULL), NIB_OK);
    for (size_t tokens = 1; tokens <= TOKENS; tokens += TOKENS - 1) {
        act *a = make_act(tokens, COLS, X_NORMAL, &r);
        check_job(all, w, a, true);
        float *x = malloc(tokens * ROWS * sizeof *x), *plain = malloc(tokens * ROWS * sizeof *x);
        for (int i = 0; i < all->n; i++) {
            compute(plain, &all->k[i], w, a, tokens, false, 1);
            for (size_t j = 0; j < tokens * ROWS; j++)
                x[j] = (float)j - 50.0f;
            compute(x, &all->k[i], w, a, tokens, true, 4);
            for (size_t j = 0; j < tokens * ROWS; j++)
                assert_true(x[j] == (float)j - 50.0f + plain[j]);
        }
        free(x);
        free(plain);
        act_free(a);
    }
    pack_free(w);
    fixture_free(&q);
    fixture_free(&k);
    fixture_free(&v);
}

/* ---- the quantizer ---- */

static void quantizers_agree(void **state) {
    const rungs *all = *state;
    enum { ROWS = 40, COLS = 1000 };
    rng r = {15};
    for (int f = 0; f < X_COUNT; f++) {
        act *a = make_act(ROWS, COLS, (x_fill)f, &r), *b = make_act(ROWS, COLS, X_ZERO, &r);
        act_row(a, 3)[500] = NAN;
        act_row(a, 4)[501] = -INFINITY;
        act_row(a, 5)[17] = 0x1p-120f;
        act_row(a, 6)[18] = -0x1p-140f;
        act_row(a, 7)[19] = 3e38f;
        memcpy(b->f32, a->f32, ROWS * a->stride * sizeof(float));
        quantize(a, &all->k[0]);
        assert_true(isnan(act_blocks(a, 3)[500 / ACT_BLOCK].scale));
        for (int i = 1; i < all->n; i++) {
            memset(b->blocks, 0x55, act_bytes(b));
            quantize(b, &all->k[i]);
            assert_memory_equal(b->blocks, a->blocks, act_bytes(a));
        }
        act_free(a);
        act_free(b);
    }
}

static void quantizer_is_near(void **state) {
    const rungs *all = *state;
    rng r = {16};
    act *a = make_act(8, 640, X_NORMAL, &r);
    quantize(a, &all->k[0]);
    for (size_t b = 0; b < 8 * a->stride / ACT_BLOCK; b++) {
        const act_block *block = a->blocks + b;
        int32_t sum = 0;
        for (size_t i = 0; i < ACT_BLOCK; i++) {
            float x = a->f32[b * ACT_BLOCK + act_column(i)];
            assert_true(fabsf(x - (float)block->codes[i] * block->scale) <= 0.5001f * block->scale);
            sum += block->codes[i];
        }
        assert_int_equal(block->starts[0], ACT_MAGIC - 16 * sum);
        assert_int_equal(block->starts[1], ACT_MAGIC - 128 * sum);
        assert_true(block->sum == (float)sum * block->scale);
    }
    act_free(a);
}

int main(void) {
    static rungs all;
    rungs_init(&all);
    for (int i = 0; i < all.n; i++)
        print_message("%s%s", i ? ", " : "rungs: ", all.k[i].rung);
    print_message("\n");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(quantizers_agree, &all),
        cmocka_unit_test_prestate(quantizer_is_near, &all),
        cmocka_unit_test_prestate(decoders_agree, &all),
        cmocka_unit_test_prestate(every_rung_gives_the_same_bits, &all),
        cmocka_unit_test_prestate(every_number_of_rows, &all),
        cmocka_unit_test_prestate(large_shapes, &all),
        cmocka_unit_test_prestate(batch_mates_change_nothing, &all),
        cmocka_unit_test_prestate(joined_parts_and_adding, &all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

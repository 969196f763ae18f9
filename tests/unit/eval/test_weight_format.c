/* SPDX-License-Identifier: Apache-2.0
 *
 * Weight formats: names, values on the grid, and what they leave of numbers of a normal distribution, against
 * figures that were computed elsewhere for 2^20 such numbers (SQNR in dB) and against this project's own
 * codecs.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../quant/golden_tensor.h"
#include "eval/weight_format.h"
#include "num/mxfp4.h"
#include "num/rounded.h"
#include "quant/scale_search.h"

enum { ROWS = 128, COLS = 1024 };

static float *normal(void) {
    float *x = malloc(ROWS * COLS * sizeof *x);
    uint64_t state = 88172645463325252u;
    assert_non_null(x);
    for (size_t i = 0; i < ROWS * COLS; i += 2) {
        double u[2];
        for (int k = 0; k < 2; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            u[k] = ((double)(state >> 11) + 0.5) * 0x1p-53;
        }
        x[i] = (float)(sqrt(-2 * log(u[0])) * cos(6.283185307179586 * u[1]));
        x[i + 1] = (float)(sqrt(-2 * log(u[0])) * sin(6.283185307179586 * u[1]));
    }
    return x;
}

static double sqnr(const weight_format *f, const float *x, float amax) {
    float row[COLS];
    double power = 0, error = 0;
    for (size_t r = 0; r < ROWS; r++) {
        memcpy(row, x + r * COLS, sizeof row);
        weight_format_row(f, row, COLS, amax);
        for (size_t c = 0; c < COLS; c++) {
            const double w = x[r * COLS + c], d = row[c] - w;
            power += w * w;
            error += d * d;
        }
    }
    return 10 * log10(power / error);
}

static void test_normal_numbers(void **state) {
    (void)state;
    static const struct {
        const char *name;
        double bits, db;
    } list[] = {{"nvfp4", 4.5, 20.43},
                {"nvfp4:best", 4.5, 21.81},
                {"mxfp4", 4.25, 18.80},
                {"mxfp4:ceil", 4.25, 18.76},
                {"mxfp4:best", 4.25, 19.06},
                {"e2m1:16:e8m0:best", 4.5, 19.19},
                {"e2m1:32:f16", 4.5, 19.91},
                {"e2m1:128:f16", 4.125, 19.25},
                {"e2m1:256:f16", 4.0625, 19.07},
                {"int4:32:f16", 4.5, 20.26},
                {"int4:32:f16:best", 4.5, 21.31},
                {"int4:128:f16", 4.125, 18.61},
                {"int4:128:f16:best", 4.125, 19.92},
                {"nf4:32:f16", 4.5, 21.18},
                {"nf4:64:f16", 4.25, 20.73},
                {"e4m3:tensor", 8, 31.5},
                {"e5m2:tensor", 8, 25.6}};
    float *x = normal(), amax = 0;
    for (size_t i = 0; i < ROWS * COLS; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        weight_format f;
        assert_true(weight_format_parse(&f, list[i].name));
        assert_true(weight_format_bits(&f, COLS) == list[i].bits);
        const double db = sqnr(&f, x, amax);
        if (fabs(db - list[i].db) > 0.12)
            fail_msg("%s: %.2f dB, expected %.2f", list[i].name, db, list[i].db);
    }
    free(x);
}

/* The named formats are the codecs' own. */
static void test_codecs(void **state) {
    (void)state;
    float *x = normal(), row[COLS], other[COLS];
    weight_format nvfp4, mxfp4;
    assert_true(weight_format_parse(&nvfp4, "nvfp4") && weight_format_parse(&mxfp4, "mxfp4"));
    for (size_t r = 0; r < 8; r++) {
        float amax = 0;
        for (size_t c = 0; c < COLS; c++)
            amax = fmaxf(amax, fabsf(x[r * COLS + c]));
        memcpy(row, x + r * COLS, sizeof row);
        memcpy(other, row, sizeof row);
        weight_format_row(&mxfp4, row, COLS, amax);
        rounded_mxfp4(other, COLS);
        assert_memory_equal(row, other, sizeof row);
        memcpy(row, x + r * COLS, sizeof row);
        memcpy(other, row, sizeof row);
        weight_format_row(&nvfp4, row, COLS, amax);
        rounded_nvfp4(other, COLS, 0);
        for (size_t c = 0; c < COLS; c++) /* the product of the two scales is rounded here */
            assert_true(fabsf(row[c] - other[c]) <= 2e-7f * fabsf(other[c]));
    }
    free(x);
}

/* Activations by 4over6 are what the quantizer's reference makes of a tensor of one row. */
static void test_four_over_six(void **state) {
    (void)state;
    float *x = normal(), row[COLS], back[COLS];
    uint8_t codes[COLS / 2], scales[COLS / 16];
    for (size_t r = 0; r < 8; r++) {
        memcpy(row, x + r * COLS, sizeof row);
        for (size_t c = 0; c < COLS; c++)
            row[c] *= c % 37 ? 1 : 20;
        float amax = 0;
        for (size_t c = 0; c < COLS; c++)
            amax = fmaxf(amax, fabsf(row[c]));
        scale_search s;
        scale_search_init(&s, QM_FOUR_OVER_SIX, amax, false, NULL);
        scale_search_nvfp4_row(&s, row, COLS, codes, scales);
        tensor t = {.dtype = DT_NVFP4, .rows = 1, .cols = COLS, .data = codes, .block_scales = scales};
        t.tensor_scale = s.tensor_scale;
        tensor_decode_row(&t, 0, back);
        rounded_nvfp4_4over6(row, COLS);
        assert_memory_equal(row, back, sizeof row);
    }
    free(x);
}

/* NF4 is bitsandbytes', MXFP4 torchao's, value for value; "ceil" is what torchao calls rceil. */
static void test_references(void **state) {
    (void)state;
    static const char *const list[][2] = {{"nf4", "nf4"}, {"mxfp4", "mxfp4"}, {"mxfp4:ceil", "mxfp4:rceil"}};
    const char *path = TESTS_DIR "/golden/quant/formats.txt", *p = golden_line(path, "input");
    float *x = malloc(GOLDEN_N * sizeof *x), *y = malloc(GOLDEN_N * sizeof *y);
    assert_true(p && x && y);
    golden_bell(41, x);
    assert_int_equal(golden_crc(x, GOLDEN_N * sizeof *x), (uint32_t)golden_hex(&p));
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        weight_format f;
        assert_true(weight_format_parse(&f, list[i][0]));
        memcpy(y, x, GOLDEN_N * sizeof *x);
        for (size_t r = 0; r < GOLDEN_ROWS; r++)
            weight_format_row(&f, y + r * GOLDEN_COLS, GOLDEN_COLS, 0);
        for (size_t k = 0; k < GOLDEN_N; k++)
            y[k] += 0.0f; /* one zero */
        p = golden_line(path, list[i][1]);
        assert_non_null(p);
        const uint32_t expected = (uint32_t)golden_hex(&p);
        for (int k = 0; k < 8; k++)
            assert_int_equal(f32_bits(y[k]), (uint32_t)golden_hex(&p));
        if (golden_crc(y, GOLDEN_N * sizeof *y) != expected)
            fail_msg("%s differs from the reference", list[i][0]);
        print_message("%s: %zu values equal the reference's\n", list[i][0], GOLDEN_N);
    }
    free(x);
    free(y);
}

/* bitsandbytes' double quantization: its first 64 scales, and its mean squared error on the whole. */
static void test_double(void **state) {
    (void)state;
    const char *p = golden_line(TESTS_DIR "/golden/quant/formats.txt", "nf4:double");
    enum { GROUPS = GOLDEN_N / 64 };
    float *x = malloc(GOLDEN_N * sizeof *x), *stored = calloc(GROUPS, sizeof *stored);
    assert_true(p && x && stored);
    weight_format f;
    double error = 0;
    assert_true(weight_format_parse(&f, "nf4:double"));
    assert_true(fabs(weight_format_bits(&f, GOLDEN_COLS) - 4.126953125) < 1e-9);
    golden_bell(41, x);
    for (size_t k = 0; k < GOLDEN_N; k++) {
        x[k] = fminf(fmaxf(x[k], -0.12f), 0.12f);
        stored[k / 64] = fmaxf(stored[k / 64], fabsf(x[k]));
    }
    weight_format_double(stored, GROUPS);
    for (size_t r = 0; r < GOLDEN_ROWS; r++) {
        float row[GOLDEN_COLS];
        memcpy(row, x + r * GOLDEN_COLS, sizeof row);
        weight_format_row_double(&f, row, GOLDEN_COLS, stored + r * (GOLDEN_COLS / 64));
        for (size_t c = 0; c < GOLDEN_COLS; c++) {
            const double d = (double)row[c] - x[r * GOLDEN_COLS + c];
            error += d * d / GOLDEN_N;
        }
    }
    assert_true(fabs(error / f32_of_bits((uint32_t)golden_hex(&p)) - 1) < 1e-4);
    for (int i = 0; i < 64; i++)
        assert_true(fabsf(stored[i] / f32_of_bits((uint32_t)golden_hex(&p)) - 1) < 1e-6f);
    free(x);
    free(stored);
}

/* Every element is a value of its format and stays what it is; nothing is rounded away from the nearest. */
static void test_elements(void **state) {
    (void)state;
    for (int e = 0; e < ELEMENT_E4M3; e++) {
        const float *v = weight_format_values((format_element)e);
        const weight_format f = {.element = (format_element)e, .group = FORMAT_ROW};
        const int lowest = e == ELEMENT_INT4; /* -8 is a value that the usual scale leaves alone */
        for (int i = lowest; i < 16; i++) {
            float x[2] = {v[i], v[15]};
            weight_format_row(&f, x, 2, 1);
            assert_true(x[0] == v[i] && x[1] == v[15]);
        }
        for (int i = 0; i < 2000; i++) {
            float x[2] = {v[lowest] + (v[15] - v[lowest]) * (float)i / 2000, v[15]}, nearest = INFINITY;
            const float wanted = x[0];
            weight_format_row(&f, x, 2, 1);
            for (int k = 0; k < 16; k++)
                nearest = fminf(nearest, fabsf(v[k] - wanted));
            assert_true(fabsf(x[0] - wanted) <= nearest);
        }
        float zeros[4] = {0};
        weight_format_row(&f, zeros, 4, 1);
        assert_true(zeros[0] == 0 && zeros[3] == 0);
    }
}

static void test_names(void **state) {
    (void)state;
    static const char *const bad[] = {"",
                                      "e2m1:",
                                      "fp4",
                                      "e2m1:7",
                                      "e2m1:24",
                                      "e2m1:8192",
                                      "e2m1:16:e4m3:bestt",
                                      "e2m1::f16",
                                      "e2m1:row:e4m3",
                                      "e2m1:tensor:e8m0",
                                      "e2m1:tensor:best",
                                      "e2m1:16:f16:best:best",
                                      "best",
                                      "e2m1:016",
                                      "e2m1:16x",
                                      "nvfp4:ceil",
                                      "nf4:64:double",
                                      "e2m1:16:f64"};
    weight_format f;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (weight_format_parse(&f, bad[i]))
            fail_msg("%s is taken for a format", bad[i]);
    assert_true(weight_format_parse(&f, "e3m0:64:e8m0:best"));
    assert_true(f.element == ELEMENT_E3M0 && f.group == 64 && f.scale == FSCALE_E8M0 && f.best);
    assert_true(weight_format_parse(&f, "int4:row:best") && f.group == FORMAT_ROW && f.scale == FSCALE_F32 &&
                f.best);
    assert_true(weight_format_parse(&f, "e1m2") && f.group == FORMAT_TENSOR && !f.best);
    assert_true(weight_format_parse(&f, "nf4") && f.group == 64 && f.scale == FSCALE_F32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_normal_numbers), cmocka_unit_test(test_codecs),
        cmocka_unit_test(test_four_over_six),  cmocka_unit_test(test_references),
        cmocka_unit_test(test_double),         cmocka_unit_test(test_elements),
        cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

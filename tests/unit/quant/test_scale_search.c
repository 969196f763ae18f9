/* SPDX-License-Identifier: Apache-2.0
 *
 * The NVFP4 quantizers: rtn and 4over6 byte for byte against ModelOpt, compressed-tensors and fouroversix
 * (tests/golden/quant/nvfp4.txt), sweep against the exhaustive search of all 126 scales, errors on drawn
 * numbers, and the GGUF layout.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "golden_tensor.h"
#include "num/dtype.h"
#include "num/e2m1.h"
#include "num/mxfp4.h"
#include "num/nvfp4.h"
#include "quant/scale_search.h"

#define GOLDEN TESTS_DIR "/golden/quant/nvfp4.txt"

static float x[GOLDEN_N];
static uint8_t codes[GOLDEN_N / 2], scales[GOLDEN_N / 16];

static const char *golden(const char *prefix, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", prefix, name);
    const char *line = golden_line(GOLDEN, key);
    if (!line)
        fail_msg("%s has no line %s", GOLDEN, key);
    return line;
}

static void quantize(const scale_search *s, size_t rows) {
    for (size_t r = 0; r < rows; r++)
        scale_search_nvfp4_row(s, x + r * GOLDEN_COLS, GOLDEN_COLS, codes + r * GOLDEN_COLS / 2,
                               scales + r * GOLDEN_COLS / 16);
}

static void assert_golden(const char *input, const char *method, float scale) {
    const char *p = golden(input, method);
    assert_int_equal(f32_bits(scale), (uint32_t)golden_hex(&p));
    uint32_t codes_crc = (uint32_t)golden_hex(&p), scales_crc = (uint32_t)golden_hex(&p);
    for (int i = 0; i < 8; i++)
        assert_int_equal(codes[i], golden_hex(&p));
    for (int i = 0; i < 8; i++)
        assert_int_equal(scales[i], golden_hex(&p));
    assert_int_equal(golden_crc(scales, sizeof scales), scales_crc);
    assert_int_equal(golden_crc(codes, sizeof codes), codes_crc);
    print_message("%s, %s: %zu code bytes, %zu scale bytes, 0 differ\n", input, method, sizeof codes,
                  sizeof scales);
}

static void check_references(const char *input) {
    const char *p = golden(input, "input");
    assert_int_equal(golden_crc(x, sizeof x), (uint32_t)golden_hex(&p));
    float amax = nvfp4_amax(x, GOLDEN_N);
    scale_search s;

    scale_search_init(&s, QM_RTN, amax, false, NULL);
    quantize(&s, GOLDEN_ROWS);
    assert_golden(input, "modelopt", s.tensor_scale);

    scale_search_init(&s, QM_RTN, amax, true, NULL);
    quantize(&s, GOLDEN_ROWS);
    assert_golden(input, "compressed", s.global_scale);

    scale_search_init(&s, QM_FOUR_OVER_SIX, amax, false, NULL);
    quantize(&s, GOLDEN_ROWS);
    assert_golden(input, "fouroversix", s.tensor_scale);
}

static void test_references_fp32(void **state) {
    (void)state;
    golden_bell(11, x);
    check_references("fp32");
}

static void test_references_ties(void **state) {
    (void)state;
    golden_ties(x);
    check_references("ties");
}

static void test_references_bf16(void **state) {
    (void)state;
    golden_bf16(21, x);
    check_references("bf16");
    float global = nvfp4_ct_global_scale(nvfp4_amax(x, GOLDEN_N), true);
    for (size_t b = 0; b < GOLDEN_N / 16; b++) {
        scales[b] = nvfp4_ct_block_scale(nvfp4_amax(x + 16 * b, 16), global, true);
        nvfp4_encode_block(x + 16 * b, e4m3_to_f32(scales[b]) / global, codes + 8 * b);
    }
    assert_golden("bf16.step", "compressed", global);
}

/* ---- errors on drawn numbers ---- */

static double uniform(uint64_t seed, uint64_t i) { /* (0, 1) */
    return ((double)(golden_word(seed, i) >> 11) + 0.5) * 0x1p-53;
}

static void draw_gaussian(uint64_t seed) {
    for (size_t i = 0; i < GOLDEN_N; i += 2) {
        double r = sqrt(-2.0 * log(uniform(seed, i))),
               angle = 2 * 3.14159265358979323846 * uniform(seed, i + 1);
        x[i] = (float)(r * cos(angle));
        x[i + 1] = (float)(r * sin(angle));
    }
}

static void draw_laplace(uint64_t seed) {
    for (size_t i = 0; i < GOLDEN_N; i++) {
        double u = uniform(seed, i) - 0.5;
        x[i] = (float)((u < 0 ? 1 : -1) * log(1 - 2 * fabs(u)));
    }
}

/* ||x - x^||^2 / ||x||^2 over the first ROWS, optionally weighted by column. */
static double rows_mse(const scale_search *s, const float *weights, size_t rows) {
    double error = 0, norm = 0;
    quantize(s, rows);
    for (size_t i = 0; i < rows * GOLDEN_COLS; i++) {
        double w = weights ? (double)weights[i % GOLDEN_COLS] : 1.0;
        double v = (double)(e2m1_to_f32(codes[i / 2] >> 4 * (i & 1)) * e4m3_to_f32(scales[i / 16]) *
                            s->tensor_scale);
        error += w * (x[i] - v) * (x[i] - v);
        norm += w * (double)x[i] * x[i];
    }
    return error / norm;
}

static double relative_mse(const scale_search *s, const float *weights) {
    return rows_mse(s, weights, GOLDEN_ROWS);
}

static double method_mse(quant_method method, const float *heed) {
    scale_search s;
    scale_search_init(&s, method, nvfp4_amax(x, GOLDEN_N), false, method == QM_WEIGHTED ? heed : NULL);
    return relative_mse(&s, heed);
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *name;
        void (*draw)(uint64_t);
        double rtn_db, rtn_tolerance, sweep, four_over_six;
    } rows[] = {{"Gaussian", draw_gaussian, 20.43, 0.03, 0.735, 0.84},
                {"Laplace", draw_laplace, 20.67, 0.05, 0.80, 0.89}};
    for (size_t i = 0; i < 2; i++) {
        rows[i].draw(40 + i);
        double rtn = method_mse(QM_RTN, NULL), db = -10 * log10(rtn);
        double sweep = method_mse(QM_SWEEP, NULL) / rtn, fos = method_mse(QM_FOUR_OVER_SIX, NULL) / rtn;
        print_message("%s: rtn %.3f dB, sweep x%.4f, 4over6 x%.4f\n", rows[i].name, db, sweep, fos);
        assert_true(fabs(db - rows[i].rtn_db) <= rows[i].rtn_tolerance);
        assert_true(sweep <= rows[i].sweep);
        assert_true(fos <= rows[i].four_over_six);
    }
}

static void test_weighted(void **state) {
    (void)state;
    static float heed[GOLDEN_COLS];
    draw_gaussian(50);
    for (size_t c = 0; c < GOLDEN_COLS; c++)
        heed[c] = (float)exp(3.0 * (uniform(51, c) + uniform(52, c) - 1.0));
    double rtn = method_mse(QM_RTN, heed), sweep = method_mse(QM_SWEEP, heed);
    double weighted = method_mse(QM_WEIGHTED, heed);
    print_message("weighted error: sweep x%.4f, weighted x%.4f of rtn\n", sweep / rtn, weighted / rtn);
    assert_true(weighted < 0.95 * sweep);
    for (size_t c = 0; c < GOLDEN_COLS; c++)
        heed[c] = 0; /* inputs never seen: as sweep, with the wider range */
    scale_search s;
    scale_search_init(&s, QM_WEIGHTED, nvfp4_amax(x, GOLDEN_N), false, heed);
    assert_true(relative_mse(&s, NULL) <= method_mse(QM_SWEEP, NULL) * 1.0001);
}

/* ---- scales that FP8 holds with every product ---- */

static void test_fp8_exact_scales(void **state) {
    (void)state;
    int n = 0;
    for (int scale = 0; scale <= 0x7e; scale++) {
        bool exact = scale > 0;
        for (uint8_t code = 1; code < 8; code++) {
            float product = e2m1_to_f32(code) * e4m3_to_f32((uint8_t)scale);
            exact &= e4m3_to_f32(e4m3_from_f32(product)) == product;
        }
        assert_true(scale_search_is_fp8_exact((uint8_t)scale) == exact);
        n += exact;
    }
    assert_int_equal(n, 40);
    assert_false(scale_search_is_fp8_exact(0x7f) || scale_search_is_fp8_exact(0xb8));
}

static void test_fp8_exact_rows(void **state) {
    (void)state;
    draw_gaussian(60);
    double sweep = method_mse(QM_SWEEP, NULL);
    scale_search s;
    scale_search_init_fp8_exact(&s, QM_SWEEP, nvfp4_amax(x, GOLDEN_N), false, NULL);
    double exact = relative_mse(&s, NULL);
    print_message("FP8-exact scales: x%.4f of sweep's error\n", exact / sweep);
    assert_true(exact > sweep && exact < 1.25 * sweep);
    for (size_t r = 0; r < GOLDEN_N / GOLDEN_COLS; r++) {
        scale_search_nvfp4_row(&s, x + r * GOLDEN_COLS, GOLDEN_COLS, codes, scales);
        for (size_t b = 0; b < GOLDEN_COLS / 16; b++)
            assert_true(scale_search_is_fp8_exact(scales[b]));
    }
    float tall[16] = {6000, -1}; /* under a tensor scale that is too small for it */
    s.tensor_scale = 1;
    scale_search_nvfp4_row(&s, tall, 16, codes, scales);
    assert_true(e4m3_to_f32(scales[0]) == 64 && codes[0] % 16 == 7);
}

/* ---- sweep against all 126 scales, computed another way: in FP64, by the list of values ---- */

static double nearest_error(double y) {
    static const double grid[8] = {0, .5, 1, 1.5, 2, 3, 4, 6};
    double best = INFINITY;
    for (int i = 0; i < 8; i++)
        best = fmin(best, fabs(y - grid[i]));
    return best;
}

static double exact_error(const float *block, double step) {
    double e = 0;
    for (int i = 0; i < 16; i++) {
        double d = nearest_error(fabs((double)block[i]) / step) * step;
        e += d * d;
    }
    return e;
}

static void check_exhaustive(const char *name) {
    scale_search s;
    const size_t rows = 64, blocks = rows * GOLDEN_COLS / 16;
    size_t equal = 0;
    double worst = 0;
    scale_search_init(&s, QM_SWEEP, nvfp4_amax(x, GOLDEN_N), false, NULL);
    for (size_t r = 0; r < rows; r++)
        scale_search_nvfp4_row(&s, x + r * GOLDEN_COLS, GOLDEN_COLS, codes + r * GOLDEN_COLS / 2,
                               scales + r * GOLDEN_COLS / 16);
    for (size_t b = 0; b < blocks; b++) {
        double least = INFINITY;
        int best = 0;
        for (int code = 1; code <= 126; code++) {
            double e = exact_error(x + 16 * b, (double)(e4m3_to_f32((uint8_t)code) * s.tensor_scale));
            if (e < least) {
                least = e;
                best = code;
            }
        }
        double got = exact_error(x + 16 * b, (double)(e4m3_to_f32(scales[b]) * s.tensor_scale));
        equal += scales[b] == best || got <= least * (1 + 1e-6);
        if (least > 0)
            worst = fmax(worst, got / least);
    }
    print_message("%s: sweep equals the exhaustive search on %zu of %zu blocks (%.3f %%), worst x%.4f\n",
                  name, equal, blocks, 100.0 * (double)equal / (double)blocks, worst);
    assert_true((double)equal >= 0.999 * (double)blocks);
}

static void test_exhaustive(void **state) {
    (void)state;
    draw_gaussian(60);
    check_exhaustive("Gaussian");
    draw_laplace(61);
    check_exhaustive("Laplace");
}

/* Where the best scale lies, in codes above the one that puts the block's largest magnitude just past 6. */
static int best_distance(const float *block, const float *heed, int *base) {
    float amax = nvfp4_amax(block, 16);
    for (*base = 126; *base > 1 && (double)e4m3_to_f32((uint8_t)*base) > (double)amax / 6;)
        --*base;
    double least = INFINITY;
    int best = 0;
    for (int code = 1; code <= 126; code++) {
        double step = (double)e4m3_to_f32((uint8_t)code), e = 0;
        for (int i = 0; i < 16; i++) {
            double d = nearest_error(fabs((double)block[i]) / step) * step;
            e += (double)heed[i] * d * d;
        }
        if (e < least) {
            least = e;
            best = code;
        }
    }
    return best - *base;
}

/* weighted looks at codes -8 to +7: a block is found whose best scale is either end, and gets it. */
static void test_weighted_ends(void **state) {
    (void)state;
    const int ends[2] = {-8, 7};
    for (int end = 0; end < 2; end++) {
        bool found = false;
        for (uint64_t i = 0; i < 400000 && !found; i++) {
            float block[16], heed[16];
            uint8_t code, packed[8];
            int base;
            for (uint64_t k = 0; k < 16; k++) {
                block[k] = (float)(6 * pow(2, 3 + 2 * uniform(90, i)) * (k ? uniform(91, 16 * i + k) : 1));
                heed[k] = uniform(92, 16 * i + k) < 0.15 ? 1.0f : 1e-4f;
            }
            if (best_distance(block, heed, &base) != ends[end] || base < 10 || base > 118)
                continue;
            scale_search s = {.method = QM_WEIGHTED, .amax = 2688, .tensor_scale = 1, .weights = heed};
            scale_search_nvfp4_row(&s, block, 16, packed, &code);
            assert_int_equal(code, base + ends[end]);
            found = true;
        }
        assert_true(found);
    }
}

/* A power of two on every weight changes the tensor's scale and nothing else; at the end of FP32's range,
 * where the scale stays behind, the error is still that of round to nearest or less. */
static void test_magnitudes(void **state) {
    (void)state;
    enum { ROWS = 64, N = ROWS * 1024 };
    static const quant_method methods[] = {QM_RTN, QM_SWEEP, QM_FOUR_OVER_SIX, QM_WEIGHTED};
    static uint8_t first_codes[N / 2], first_scales[N / 16];
    static float heed[GOLDEN_COLS], drawn[N];
    for (size_t c = 0; c < GOLDEN_COLS; c++)
        heed[c] = (float)exp(3.0 * (uniform(51, c) + uniform(52, c) - 1.0));
    draw_gaussian(80);
    memcpy(drawn, x, sizeof drawn);
    for (int m = 0; m < 8; m++) {
        bool ct = m % 2;
        quant_method method = methods[m / 2];
        scale_search s;
        memcpy(x, drawn, sizeof drawn);
        scale_search_init(&s, method, nvfp4_amax(x, N), ct, method == QM_WEIGHTED ? heed : NULL);
        double at_one = rows_mse(&s, s.weights, ROWS);
        memcpy(first_codes, codes, sizeof first_codes);
        memcpy(first_scales, scales, sizeof first_scales);
        for (int power = -125; power <= 120; power += 7) {
            for (size_t i = 0; i < N; i++)
                x[i] = ldexpf(drawn[i], power);
            scale_search_init(&s, method, nvfp4_amax(x, N), ct, method == QM_WEIGHTED ? heed : NULL);
            double mse = rows_mse(&s, s.weights, ROWS);
            bool same = memcmp(codes, first_codes, sizeof first_codes) == 0 &&
                        memcmp(scales, first_scales, sizeof first_scales) == 0;
            if (power > -110 ? !same : !(mse < 1.25 * at_one))
                fail_msg("method %d%s at 2^%d: an error of %g, %g at 1", (int)method, ct ? ", divisors" : "",
                         power, mse, at_one);
        }
    }
}

static void test_mxfp4_magnitudes(void **state) {
    (void)state;
    static uint8_t c[2][GOLDEN_COLS / 2], e[2][GOLDEN_COLS / 32];
    draw_gaussian(81);
    scale_search s = {.method = QM_SWEEP, .amax = 8, .tensor_scale = 1};
    scale_search_mxfp4_row(&s, x, GOLDEN_COLS, c[0], e[0]);
    for (int power = -118; power <= 120; power += 7) {
        draw_gaussian(81);
        for (size_t i = 0; i < GOLDEN_COLS; i++)
            x[i] = ldexpf(x[i], power);
        scale_search_mxfp4_row(&s, x, GOLDEN_COLS, c[1], e[1]);
        assert_memory_equal(c[0], c[1], sizeof c[0]);
        for (size_t i = 0; i < sizeof e[0]; i++)
            assert_int_equal(e[1][i], e[0][i] + power);
    }
}

/* ---- conventions and layouts ---- */

static void test_reciprocal_scales(void **state) {
    (void)state;
    size_t without = 0;
    for (uint64_t i = 0; i < 10000; i++) {
        float amax = (float)exp(20 * uniform(70, i) - 15);
        scale_search s;
        scale_search_init(&s, i & 1 ? QM_SWEEP : QM_WEIGHTED, amax, true, NULL);
        assert_true(1.0f / s.global_scale == s.tensor_scale);
        assert_true(fabs((double)s.tensor_scale / ((double)amax / 2688) - 1) < 4e-7);
        float plain = amax / 2688.0f, divisor = scale_search_reciprocal(plain);
        without += 1.0f / divisor != plain;
        assert_true(fabs(1.0 / (double)divisor / (double)plain - 1) < 1.2e-7);
    }
    assert_true(without > 0 && without < 3000); /* why sweep moves the scale */
}

static void test_zeros(void **state) {
    (void)state;
    float zeros[32] = {0}, nothing[32];
    uint8_t c[16], sc[2];
    for (int method = QM_RTN; method <= QM_WEIGHTED; method++)
        for (int ct = 0; ct < 2; ct++) {
            scale_search s;
            scale_search_init(&s, (quant_method)method, 0.0f, ct, NULL);
            scale_search_nvfp4_row(&s, zeros, 32, c, sc);
            assert_true(isfinite(s.tensor_scale) && s.tensor_scale > 0);
            dtype_decode(DT_NVFP4, c, nothing, 32);
            for (int i = 0; i < 32; i++)
                assert_true(nothing[i] == 0.0f);
            assert_true(sc[0] > 0 && sc[0] < 0x7f);
        }
}

static void test_gguf_layout(void **state) {
    (void)state;
    static uint8_t block[36], c[32], sc[4];
    float there[64], here[64];
    for (uint64_t i = 0; i < 2000; i++) {
        uint8_t from[32], s[4];
        for (uint64_t j = 0; j < 32; j++)
            from[j] = (uint8_t)golden_word(80 + i, j);
        for (uint64_t j = 0; j < 4; j++)
            s[j] = (uint8_t)golden_word(5000 + i, j);
        bool nan = false;
        for (int j = 0; j < 4; j++)
            nan |= (s[j] & 0x7f) == 0x7f;
        assert_int_equal(nvfp4_to_gguf(from, s, block), !nan);
        if (nan)
            continue;
        dtype_decode(DT_NVFP4, from, here, 64);
        dtype_decode(DT_GGUF_NVFP4, block, there, 64);
        for (int j = 0; j < 64; j++)
            assert_true(here[j] * e4m3_to_f32(s[j / 16]) == there[j]);
        assert_true(nvfp4_from_gguf(block, c, sc));
        dtype_decode(DT_NVFP4, c, here, 64);
        for (int j = 0; j < 64; j++)
            assert_true(here[j] * e4m3_to_f32(sc[j / 16]) == there[j]);
        for (int j = 0; j < 4; j++)
            if (s[j] < 0x80)
                assert_memory_equal(c + 8 * j, from + 8 * j, 8);
    }
}

/* MXFP4 blocks under a power of two as the tensor scale: every one within 2^17 of the largest is held. */
static void test_powers_of_two(void **state) {
    (void)state;
    scale_search s = {.method = QM_SWEEP, .tensor_scale = 0x1p-13f}; /* the largest block's scale is 2^-5 */
    for (uint64_t i = 0; i < 20000; i++) {
        float w[16];
        uint8_t c[8], sc;
        float step = ldexpf(1.0f, -5 - (int)(i % 18));
        for (uint64_t j = 0; j < 16; j++)
            w[j] = e2m1_to_f32((uint8_t)(golden_word(300 + i, j) & (i % 3 ? 15 : 11))) * step;
        scale_search_nvfp4_row(&s, w, 16, c, &sc);
        for (int j = 0; j < 16; j++) {
            float v = e2m1_to_f32(c[j / 2] >> 4 * (j & 1)) * e4m3_to_f32(sc) * s.tensor_scale;
            if (v != w[j])
                fail_msg("block %d: %a became %a", (int)i, (double)w[j], (double)v);
        }
    }
}

/* The block of docs/formats.md. */
static void test_worked_example(void **state) {
    (void)state;
    static const float w[16] = {0.0f,    0.0311f,  -0.0096f, 0.0172f, -0.0409f, 0.105f,   0.0021f, -0.0215f,
                                0.0446f, -0.0851f, 0.0059f,  0.0267f, -0.0142f, -0.0018f, 0.0868f, -0.0344f};
    static const uint8_t rtn[8] = {0x40, 0x29, 0x7c, 0xa0, 0xe5, 0x31, 0x8a, 0xc6};
    static const uint8_t sweep[8] = {0x20, 0x19, 0x6b, 0xa0, 0xd3, 0x20, 0x89, 0xb5};
    static const uint8_t there[8] = {0x50, 0xe4, 0x19, 0x32, 0xac, 0x87, 0x60, 0xca};
    uint8_t c[32] = {0}, sc[4] = {0}, block[36];
    scale_search s;
    scale_search_init(&s, QM_SWEEP, 0.42f, false, NULL);
    scale_search_nvfp4_row(&s, w, 16, c, sc);
    assert_int_equal(sc[0], 0x73);
    assert_memory_equal(c, sweep, 8);
    scale_search_init(&s, QM_RTN, 0.42f, false, NULL);
    scale_search_nvfp4_row(&s, w, 16, c, sc);
    assert_int_equal(sc[0], 0x6e);
    assert_memory_equal(c, rtn, 8);
    assert_true(nvfp4_to_gguf(c, sc, block));
    assert_int_equal(block[0], 0x6e);
    assert_memory_equal(block + 4, there, 8);
}

static void test_mxfp4(void **state) {
    (void)state;
    draw_gaussian(90);
    static const struct {
        quant_method method;
        double db;
    } rows[] = {{QM_RTN, 18.80}, {QM_SWEEP, 19.06}};
    for (size_t m = 0; m < 2; m++) {
        scale_search s = {.method = rows[m].method};
        double error = 0, norm = 0;
        for (size_t r = 0; r < GOLDEN_ROWS; r++) {
            float v[GOLDEN_COLS];
            uint8_t block[17], c2[16], e2;
            const float *row = x + r * GOLDEN_COLS;
            scale_search_mxfp4_row(&s, row, GOLDEN_COLS, codes, scales);
            for (size_t b = 0; b < GOLDEN_COLS / 32; b++) {
                assert_true(mxfp4_to_gguf(codes + 16 * b, scales[b], block));
                dtype_decode(DT_GGUF_MXFP4, block, v + 32 * b, 32);
                assert_true(mxfp4_from_gguf(block, c2, &e2));
                assert_int_equal(e2, scales[b]);
                assert_memory_equal(c2, codes + 16 * b, 16);
            }
            for (size_t i = 0; i < GOLDEN_COLS; i++) {
                error += ((double)row[i] - v[i]) * ((double)row[i] - v[i]);
                norm += (double)row[i] * row[i];
            }
        }
        double db = 10 * log10(norm / error);
        print_message("MXFP4 %s: %.3f dB\n", m ? "sweep" : "rtn", db);
        assert_true(fabs(db - rows[m].db) <= 0.05);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_references_fp32), cmocka_unit_test(test_references_ties),
        cmocka_unit_test(test_references_bf16), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_weighted),        cmocka_unit_test(test_fp8_exact_scales),
        cmocka_unit_test(test_fp8_exact_rows),  cmocka_unit_test(test_weighted_ends),
        cmocka_unit_test(test_magnitudes),      cmocka_unit_test(test_mxfp4_magnitudes),
        cmocka_unit_test(test_exhaustive),      cmocka_unit_test(test_reciprocal_scales),
        cmocka_unit_test(test_zeros),           cmocka_unit_test(test_gguf_layout),
        cmocka_unit_test(test_mxfp4),           cmocka_unit_test(test_worked_example),
        cmocka_unit_test(test_powers_of_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

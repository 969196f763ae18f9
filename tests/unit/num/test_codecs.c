/* SPDX-License-Identifier: Apache-2.0
 *
 * The scalar codecs against ml_dtypes (tests/golden/num/codecs.txt): every BF16 pattern, every FP16 pattern,
 * random FP32 patterns, every tie and its neighbours, and every code back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "../../golden/num/golden.h"
#include "num/dtype.h"
#include "num/e2m1.h"
#include "num/fp8.h"
#include "num/nvfp4.h"

#define GOLDEN TESTS_DIR "/golden/num/codecs.txt"
#define RANDOM ((size_t)1 << 20)

typedef struct codec {
    const char *name;
    int n_codes;
    uint8_t (*encode)(float);
    float (*decode)(uint8_t);
} codec;

static const codec codecs[] = {
    {"e2m1", 16, e2m1_from_f32, e2m1_to_f32},
    {"e4m3", 256, e4m3_from_f32, e4m3_to_f32},
    {"e5m2", 256, e5m2_from_f32, e5m2_to_f32},
    {"e8m0", 256, e8m0_from_f32, e8m0_to_f32},
};
#define N_CODECS (sizeof codecs / sizeof codecs[0])

static uint8_t out[RANDOM];
static uint16_t out16[RANDOM];

static const char *golden(const char *prefix, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", prefix, name);
    const char *line = golden_line(GOLDEN, key);
    if (!line)
        fail_msg("%s has no line %s", GOLDEN, key);
    return line;
}

static void assert_crc(const char *prefix, const char *name, const void *bytes, size_t n) {
    const char *line = golden(prefix, name);
    uint32_t expected = (uint32_t)golden_hex(&line), crc = golden_crc(bytes, n);
    if (crc != expected)
        fail_msg("%s.%s: checksum %08x, expected %08x", prefix, name, crc, expected);
}

static uint32_t canonical(float x) {
    return isnan(x) ? 0x7fc00000u : f32_bits(x);
}

static void test_every_16_bit_pattern(void **state) {
    (void)state;
    for (size_t c = 0; c < N_CODECS; c++) {
        for (uint32_t i = 0; i < 65536; i++)
            out[i] = codecs[c].encode(bf16_to_f32((uint16_t)i));
        assert_crc(codecs[c].name, "bf16", out, 65536);
        for (uint32_t i = 0; i < 65536; i++)
            out[i] = codecs[c].encode(f16_to_f32((uint16_t)i));
        assert_crc(codecs[c].name, "fp16", out, 65536);
        print_message("%s: all 65,536 BF16 and all 65,536 FP16 patterns equal ml_dtypes\n", codecs[c].name);
    }
}

static void test_random_patterns(void **state) {
    (void)state;
    for (size_t c = 0; c < N_CODECS; c++) {
        for (size_t i = 0; i < RANDOM; i++)
            out[i] = codecs[c].encode(f32_of_bits((uint32_t)golden_word(1, i)));
        assert_crc(codecs[c].name, "random", out, RANDOM);
    }
}

static void test_special_patterns(void **state) {
    (void)state;
    static float points[16384];
    size_t n = 0;
    const char *p = golden_line(GOLDEN, "special");
    assert_non_null(p);
    while (*p && *p != '\n')
        points[n++] = f32_of_bits((uint32_t)golden_hex(&p));
    assert_true(n > 1000);
    for (size_t c = 0; c < N_CODECS; c++) {
        p = golden(codecs[c].name, "special");
        for (size_t i = 0; i < n; i++) {
            uint8_t expected = (uint8_t)golden_hex(&p), got = codecs[c].encode(points[i]);
            if (got != expected)
                fail_msg("%s of %a (%08x) is %02x, expected %02x", codecs[c].name, (double)points[i],
                         f32_bits(points[i]), got, expected);
        }
    }
    print_message("%zu special patterns (every tie, its neighbours, limits) equal ml_dtypes\n", n);
}

static void test_values(void **state) {
    (void)state;
    for (size_t c = 0; c < N_CODECS; c++) {
        const char *p = golden(codecs[c].name, "values");
        for (int code = 0; code < codecs[c].n_codes; code++) {
            uint32_t expected = (uint32_t)golden_hex(&p);
            assert_int_equal(canonical(codecs[c].decode((uint8_t)code)), expected);
        }
    }
}

static void test_halves(void **state) {
    (void)state;
    static uint32_t values[65536];
    size_t n = 0;
    for (size_t i = 0; i < RANDOM; i++) {
        float x = f32_of_bits((uint32_t)golden_word(1, i));
        if (!isnan(x))
            out16[n++] = bf16_from_f32(x);
    }
    assert_crc("bf16", "random", out16, n * 2);
    n = 0;
    for (size_t i = 0; i < RANDOM; i++) {
        float x = f32_of_bits((uint32_t)golden_word(1, i));
        if (!isnan(x))
            out16[n++] = f16_from_f32(x);
    }
    assert_crc("fp16", "random", out16, n * 2);
    for (size_t i = 0; i < RANDOM; i++) {
        uint32_t e = (uint32_t)(golden_word(2, i) % 50 + 95);
        out16[i] = f16_from_f32(f32_of_bits(e << 23 | (uint32_t)(golden_word(3, i) & 0x807FFFFF)));
    }
    assert_crc("fp16", "near", out16, RANDOM * 2);
    for (uint32_t i = 0; i < 65536; i++)
        values[i] = canonical(bf16_to_f32((uint16_t)i));
    assert_crc("bf16", "values", values, sizeof values);
    for (uint32_t i = 0; i < 65536; i++)
        values[i] = canonical(f16_to_f32((uint16_t)i));
    assert_crc("fp16", "values", values, sizeof values);
    assert_true(isnan(bf16_to_f32(bf16_from_f32(f32_of_bits(0x7f800001)))));
    assert_true(isnan(f16_to_f32(f16_from_f32(f32_of_bits(0xff800001)))));
}

static void test_saturation(void **state) {
    (void)state;
    assert_int_equal(e4m3_from_f32_sat(1e30f), 0x7e);
    assert_int_equal(e4m3_from_f32_sat(-1e30f), 0xfe);
    assert_int_equal(e4m3_from_f32_sat(464.1f), 0x7e);
    assert_int_equal(e4m3_from_f32_sat(INFINITY), 0x7e);
    assert_true(isnan(e4m3_to_f32(e4m3_from_f32_sat(NAN))));
    assert_int_equal(e5m2_from_f32_sat(1e30f), 0x7b);
    assert_int_equal(e5m2_from_f32_sat(-INFINITY), 0xfb);
    assert_int_equal(e2m1_from_f32(INFINITY), 7);
    assert_int_equal(e2m1_from_f32(-1e9f), 15);
    assert_true(ue4m3_to_f32(0x7f) == 0.0f && ue4m3_to_f32(0) == 0.0f && ue4m3_to_f32(0x7e) == 448.0f);
    assert_true(ue4m3_to_f32(0xff) == 480.0f && ue4m3_to_f32(0xb8) == 1.0f);
}

static void test_dtype_table(void **state) {
    (void)state;
    for (int t = 0; t < DT_COUNT; t++) {
        const dtype_info *info = dtype_get((dtype)t);
        size_t bytes;
        assert_non_null(info->name);
        assert_true(dtype_bytes((dtype)t, 0, &bytes) && bytes == 0);
        if (t != DT_NONE)
            assert_true(dtype_bytes((dtype)t, 1024, &bytes) &&
                        bytes == 1024 / info->block * info->block_bytes);
        if (info->block > 1)
            assert_false(dtype_bytes((dtype)t, info->block + 1, &bytes));
    }
    size_t bytes;
    assert_false(dtype_bytes(DT_F32, SIZE_MAX / 2, &bytes));
    assert_true(dtype_bytes(DT_NVFP4, 32, &bytes) && bytes == 16);
}

/* Doubled scales are the same numbers under a tensor scale halved as often, and every element times its scale
 * then stays within half a step of E4M3; as they were, what lies below 2^-9 would not. */
static void test_doubled_scales(void **state) {
    static const float elements[] = {0.5f, 1, 1.5f, 2, 3, 4, 6};
    (void)state;
    assert_int_equal(nvfp4_doublings(0), 0);
    assert_int_equal(nvfp4_doublings(0x7e), 0);
    assert_int_equal(nvfp4_doublings(e4m3_from_f32(0x1p-6f)), 14);
    for (int most = 1; most < 0x7f; most++) {
        const int times = nvfp4_doublings((uint8_t)most);
        assert_true(ldexpf(e4m3_to_f32((uint8_t)most), times + 1) > 448);
        for (int scale = 0; scale <= most; scale++) {
            const float is = e4m3_to_f32(nvfp4_doubled((uint8_t)scale, times));
            assert_true(is == ldexpf(e4m3_to_f32((uint8_t)scale), times));
            assert_true(e4m3_to_f32(nvfp4_doubled((uint8_t)(scale | 0x80), times)) == -is);
            for (size_t i = 0; i < sizeof elements / sizeof *elements && is >= 0.25f; i++) {
                const float folded = elements[i] * is / 8;
                assert_true(fabsf(e4m3_to_f32(e4m3_from_f32(folded)) - folded) <= folded / 16);
            }
        }
    }
    assert_int_equal(nvfp4_doubled(0x7f, 3), 0x7f);
    assert_int_equal(nvfp4_doubled(0xff, 3), 0xff);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_16_bit_pattern),
        cmocka_unit_test(test_random_patterns),
        cmocka_unit_test(test_special_patterns),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_halves),
        cmocka_unit_test(test_saturation),
        cmocka_unit_test(test_dtype_table),
        cmocka_unit_test(test_doubled_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Emulated formats: a product of rounded activations has the bits of the exact product of what the formats'
 * codecs, used here on their own, make of them; keys and values that are stored are those that NVFP4's codec
 * makes; turning queries and keys changes no score.
 */
#include "cpu_fixture.h"

#include "num/mxfp4.h"
#include "num/nvfp4.h"
#include "num/rounded.h"

enum { ROWS = 5, COLS = 80, OUT = 24, D = 48 };

static backend *open_as(cpu_rounding rounding, bool round_kv, int qk_rotation) {
    backend *be;
    nib_error err;
    const cpu_options o = {.threads = 2,
                           .activations = NIB_ACTIVATIONS_F32,
                           .rounding = rounding,
                           .round_kv = round_kv,
                           .qk_rotation = qk_rotation};
    if (cpu_open(&be, &o, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return be;
}

/* One row of X as a stored tensor gives it back: the reference. */
static void through_nvfp4(float *x, size_t n, float tensor_scale) {
    uint8_t codes[COLS / 2], scales[COLS / 16];
    tensor t = {.dtype = DT_NVFP4, .rows = 1, .cols = n, .data = codes, .block_scales = scales};
    t.tensor_scale = tensor_scale > 0 ? tensor_scale : nvfp4_amax(x, n) / 2688.0f;
    for (size_t b = 0; b < n / 16; b++) {
        scales[b] = nvfp4_block_scale(nvfp4_amax(x + 16 * b, 16), t.tensor_scale);
        nvfp4_encode_block(x + 16 * b, e4m3_to_f32(scales[b]) * t.tensor_scale, codes + 8 * b);
    }
    tensor_decode_row(&t, 0, x);
}

static void through_mxfp4(float *x, size_t n) {
    uint8_t codes[COLS / 2 + 16] = {0}, scales[COLS / 32 + 1];
    float wide[COLS + 32] = {0};
    const size_t blocks = (n + 31) / 32;
    memcpy(wide, x, n * sizeof *x);
    tensor t = {.dtype = DT_MXFP4, .rows = 1, .cols = 32 * blocks, .data = codes, .block_scales = scales};
    t.tensor_scale = 1;
    for (size_t b = 0; b < blocks; b++) {
        scales[b] = mxfp4_block_scale(nvfp4_amax(wide + 32 * b, 32));
        mxfp4_encode_block(wide + 32 * b, scales[b], codes + 16 * b);
    }
    tensor_decode_row(&t, 0, wide);
    memcpy(x, wide, n * sizeof *x);
}

static void through_fp8(float *x, size_t n, float scale) {
    const float amax = nvfp4_amax(x, n), up = scale > 0 ? 1 / scale : 448.0f / amax;
    for (size_t i = 0; i < n; i++)
        x[i] = e4m3_to_f32(e4m3_from_f32_sat(x[i] * up)) * (scale > 0 ? scale : amax / 448.0f);
}

/* The largest of COLS, which is one of a hundred, comes down to the next, and what it lost is added again. */
static void through_clamp(float *x, size_t n) {
    size_t at = 0;
    float next = 0;
    for (size_t i = 1; i < n; i++)
        at = fabsf(x[i]) > fabsf(x[at]) ? i : at;
    for (size_t i = 0; i < n; i++)
        next = i != at && fabsf(x[i]) > next ? fabsf(x[i]) : next;
    const float most = copysignf(next, x[at]), beyond = x[at] - most;
    x[at] = most;
    if (next > 0)
        through_nvfp4(x, n, 0);
    x[at] += beyond;
}

static void round_rows(cpu_rounding r, float *x, float scale) {
    for (size_t row = 0; row < ROWS; row++, x += COLS) {
        if (nvfp4_amax(x, COLS) == 0)
            continue;
        if (r == CPU_ROUND_NVFP4)
            through_nvfp4(x, COLS, scale);
        else if (r == CPU_ROUND_4OVER6)
            rounded_nvfp4_4over6(x, COLS); /* compared with the quantizer's in eval's tests */
        else if (r == CPU_ROUND_CLAMP)
            through_clamp(x, COLS);
        else if (r == CPU_ROUND_MXFP4)
            through_mxfp4(x, COLS);
        else if (r == CPU_ROUND_FP8)
            through_fp8(x, COLS, scale);
    }
}

/* a W^T of X by BE. */
static void product(backend *be, const tensor *t, const float *x, float *got) {
    weight *w;
    nib_error err;
    fixture_batch f = {0};
    fixture_add(&f, 0, 0, ROWS);
    assert_int_equal(be->weight_pack(be, &w, &t, 1, SPLIT_NONE, &err), NIB_OK);
    buf *a = fixture_buf(be, BUF_ACT, ROWS, COLS), *out = fixture_buf(be, BUF_F32, ROWS, OUT);
    fixture_set(a, x, ROWS);
    step_begin(be, &f.b, 0);
    out->rows = ROWS;
    op_matmul(be, out, a, w, NULL);
    fixture_finish(be);
    be->buf_read(be, out, got);
    be->buf_free(be, a);
    be->buf_free(be, out);
    be->weight_free(be, w);
}

/* A backend that emulates R rounds what T is multiplied with to WANTED. */
static void check_product(cpu_rounding r, cpu_rounding wanted, const tensor *t, float scale) {
    float got[ROWS * OUT], want[ROWS * OUT];
    backend *exact = open_as(CPU_ROUND_NONE, false, 0), *rounding = open_as(r, false, 0);
    for (int p = 0; p < N_PATTERNS; p++) {
        float *x = fixture_vector(ROWS * COLS, (fixture_pattern)p, 3.0f, 20 + (uint64_t)p);
        product(rounding, t, x, got);
        round_rows(wanted, x, scale);
        product(exact, t, x, want);
        if (memcmp(got, want, sizeof got) != 0)
            fail_msg("rounding %d, pattern %d, weights in %s", r, p, dtype_get(t->dtype)->name);
        test_free(x);
    }
    exact->close(exact);
    rounding->close(rounding);
}

/* Beside a weight in FP4 one of 32 bits is kept: no engine rounds its activations. Joined ones are of one
 * format, and the largest of their scales is taken. */
static void check_mixed(const tensor *f32, const tensor *fp4, const tensor *fp8) {
    float got[ROWS * OUT], want[ROWS * OUT];
    nib_error err;
    weight *w;
    backend *exact = open_as(CPU_ROUND_NONE, false, 0), *be = open_as(CPU_ROUND_NVFP4, false, 0);
    float *x = fixture_vector(ROWS * COLS, PATTERN_NORMAL, 0, 31);
    product(be, fp4, x, got);
    product(be, f32, x, got);
    product(exact, f32, x, want);
    assert_memory_equal(got, want, sizeof got);
    const tensor *parts[] = {fp4, fp8};
    assert_int_equal(be->weight_pack(be, &w, parts, 2, SPLIT_NONE, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "in two formats"));
    test_free(x);
    exact->close(exact);
    be->close(be);
}

static void test_products(void **state) {
    (void)state;
    float *values = fixture_vector(OUT * COLS, PATTERN_NORMAL, 0, 3);
    uint8_t codes[OUT * COLS / 2], scales[OUT * COLS / 16], bytes[OUT * COLS];
    for (size_t i = 0; i < sizeof codes; i++)
        codes[i] = (uint8_t)(i * 37);
    for (size_t i = 0; i < sizeof scales; i++)
        scales[i] = (uint8_t)(40 + i % 30);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = e4m3_from_f32(values[i]);
    tensor f32 = {.name = "w",
                  .place = place_of(SLOT_Q, 0),
                  .dtype = DT_F32,
                  .rows = OUT,
                  .cols = COLS,
                  .data = values};
    f32.bytes = OUT * COLS * sizeof *values;
    f32.tensor_scale = 1;
    tensor fp4 = f32, fp8 = f32;
    fp4.dtype = DT_NVFP4, fp4.data = codes, fp4.bytes = sizeof codes, fp4.block_scales = scales;
    fp8.dtype = DT_F8_E4M3, fp8.data = bytes, fp8.bytes = sizeof bytes;
    fp4.input_scale = fp8.input_scale = 0.03f;
    for (int r = CPU_ROUND_FP8; r <= CPU_ROUND_MXFP4; r++) {
        check_product((cpu_rounding)r, (cpu_rounding)r, &f32, 0);
        check_product((cpu_rounding)r, (cpu_rounding)r, &fp4, r == CPU_ROUND_NVFP4 ? 0.03f : 0);
        check_product((cpu_rounding)r, CPU_ROUND_FP8, &fp8, 0.03f);
    }
    tensor head = f32, head4 = fp4;
    head.place = head4.place = place_of(SLOT_HEAD, PLACE_NO_LAYER);
    check_product(CPU_ROUND_NVFP4, CPU_ROUND_NONE, &head, 0); /* a head of 32 bits is no FP4 product */
    check_product(CPU_ROUND_NVFP4, CPU_ROUND_NVFP4, &head4, 0.03f);
    check_mixed(&f32, &fp4, &fp8);
    test_free(values);
}

/* What is not finite must not become a number. */
static void test_not_finite(void **state) {
    (void)state;
    float x[32];
    for (int kind = 0; kind < 2; kind++) {
        for (int i = 0; i < 32; i++)
            x[i] = (float)i;
        x[7] = kind ? NAN : INFINITY;
        rounded_fp8(x, 32, 0);
        rounded_nvfp4(x, 32, 0);
        rounded_nvfp4_4over6(x, 32);
        rounded_nvfp4_clamp(x, 32);
        rounded_mxfp4(x, 32);
        assert_false(isfinite(x[7]));
        assert_true(x[9] == 9);
    }
}

/* Where max / scale would overflow, rows are zeros, not NaN. */
static void test_tiny(void **state) {
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        float x[32] = {0, 1e-37f, -3e-38f, 1e-45f};
        if (kind == 0)
            rounded_fp8(x, 32, 0);
        else if (kind == 1)
            rounded_nvfp4(x, 32, 0);
        else if (kind == 2)
            rounded_nvfp4_4over6(x, 32);
        else
            rounded_mxfp4(x, 32);
        for (int i = 0; i < 32; i++)
            assert_true(x[i] == 0);
    }
    float given[2] = {1, 0};
    rounded_fp8(given, 2, 1e-42f); /* no scale of that size has a reciprocal: it is not used */
    assert_true(given[0] == 1 && given[1] == 0);
}

typedef struct heads {
    backend *be;
    cache *kv;
    float *q, *out;
} heads;

/* One sequence of ROWS rows through attention; 4 query heads, 2 of keys. MEAN, BALANCE [2 * D] or NULL. */
static heads attend(backend *be, const float *qkv, float v_scale, const float *mean, const float *balance) {
    heads h = {.be = be, .kv = fixture_cache(be, NIB_KV_FP32, 1, 2, D, FIXTURE_SEQS * FIXTURE_PAGES)};
    nib_error err;
    vec *vectors[2] = {NULL, NULL};
    assert_true(!mean || be->vec_new(be, &vectors[0], VEC_F32, 2 * D, mean, &err) == NIB_OK);
    assert_true(!balance || be->vec_new(be, &vectors[1], VEC_F32, 2 * D, balance, &err) == NIB_OK);
    const attn_params p = {.n_heads = 4,
                           .n_kv_heads = 2,
                           .head_dim = D,
                           .rope_scale = 1,
                           .scale = 0.25f,
                           .v_scale = v_scale,
                           .k_mean = vectors[0],
                           .qk_balance = vectors[1]};
    fixture_batch f = {0};
    fixture_add(&f, 0, 0, ROWS);
    buf *in = fixture_buf(be, BUF_F32, ROWS, 8 * D), *q = fixture_buf(be, BUF_F32, ROWS, 4 * D);
    buf *out = fixture_buf(be, BUF_ACT, ROWS, 4 * D);
    fixture_set(in, qkv, ROWS);
    step_begin(be, &f.b, 0);
    op_qk_norm_rope_store(be, q, in, &p, h.kv);
    op_attention(be, out, q, &p, h.kv, NULL);
    fixture_finish(be);
    h.q = test_malloc(ROWS * 4 * D * sizeof(float));
    h.out = test_malloc(ROWS * 4 * D * sizeof(float));
    be->buf_read(be, q, h.q);
    be->buf_read(be, out, h.out);
    be->buf_free(be, in);
    be->buf_free(be, q);
    be->buf_free(be, out);
    for (int i = 0; i < 2; i++)
        if (vectors[i])
            be->vec_free(be, vectors[i]);
    return h;
}

static void heads_close(heads *h) {
    h->be->cache_free(h->be, h->kv);
    h->be->close(h->be);
    test_free(h->q);
    test_free(h->out);
}

static void test_kv(void **state) {
    (void)state;
    const float v_scale = 0.5f;
    float *qkv = fixture_vector(ROWS * 8 * D, PATTERN_NORMAL, 0, 9);
    heads h = attend(open_as(CPU_ROUND_NONE, true, 0), qkv, v_scale, NULL, NULL);
    for (size_t t = 0; t < ROWS; t++)
        for (int g = 0; g < 2; g++)
            for (int is_k = 0; is_k < 2; is_k++) {
                float want[D];
                memcpy(want, qkv + t * 8 * D + (is_k ? 4 + g : 6 + g) * D, sizeof want);
                through_nvfp4(want, D, is_k ? 1 : v_scale);
                for (size_t i = 0; i < D; i++)
                    assert_true(fixture_kv_at(h.kv, is_k, 0, fixture_page(0, 0), g, t, i) == want[i]);
            }
    heads_close(&h);
    test_free(qkv);
}

/* Keys balanced, turned and less a mean, queries to match. */
static void test_rotation(void **state) {
    (void)state;
    float *qkv = fixture_vector(ROWS * 8 * D, PATTERN_NORMAL, 0, 10);
    float *mean = fixture_vector(2 * D, PATTERN_NORMAL, 0, 11), balance[2 * D];
    for (size_t i = 0; i < 2 * D; i++)
        balance[i] = exp2f((float)(i % 5) - 2);
    heads plain = attend(open_as(CPU_ROUND_NONE, false, 0), qkv, 0, NULL, NULL);
    heads turned = attend(open_as(CPU_ROUND_NONE, false, 64), qkv, 0, mean, balance);
    double diff = 0, all = 0;
    for (size_t i = 0; i < ROWS * 4 * D; i++) {
        diff += pow((double)plain.out[i] - turned.out[i], 2);
        all += pow(plain.out[i], 2);
    }
    print_message("turned by a matrix of order 16: relative difference %.1e\n", sqrt(diff / all));
    assert_true(memcmp(plain.q, turned.q, ROWS * 4 * D * sizeof(float)) != 0);
    assert_true(sqrt(diff / all) < 1e-5);
    for (size_t g = 0; g < 2; g++)
        for (size_t t = 0; t < ROWS; t++) {
            float want[D];
            for (size_t i = 0; i < D; i++)
                want[i] = qkv[t * 8 * D + (4 + g) * D + i] / balance[g * D + i];
            rounded_hadamard(want, D, 64);
            for (size_t i = 0; i < D; i++)
                assert_true(fixture_kv_at(turned.kv, true, 0, fixture_page(0, 0), (int)g, t, i) ==
                            want[i] - (t > 0 ? mean[g * D + i] : 0));
        }
    for (size_t i = 0; i < D; i++) { /* its own inverse, and of length 1 */
        float unit[D] = {0};
        unit[i] = 1;
        rounded_hadamard(unit, D, 64);
        for (size_t j = 0; j < D; j++)
            assert_true(fabsf(unit[j]) == (j / 16 == i / 16 ? 0.25f : 0));
        rounded_hadamard(unit, D, 64);
        for (size_t j = 0; j < D; j++)
            assert_true(unit[j] == (float)(j == i));
    }
    float pair[D] = {3, 4};
    rounded_hadamard(pair, D, 2);
    assert_true(fabsf(pair[0] - 7 / sqrtf(2)) < 1e-6f && fabsf(pair[1] + 1 / sqrtf(2)) < 1e-6f &&
                pair[2] == 0);
    heads_close(&plain);
    heads_close(&turned);
    test_free(mean);
    test_free(qkv);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_products), cmocka_unit_test(test_not_finite),
                                       cmocka_unit_test(test_tiny), cmocka_unit_test(test_kv),
                                       cmocka_unit_test(test_rotation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

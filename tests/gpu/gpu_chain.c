/* SPDX-License-Identifier: Apache-2.0
 *
 * Few tokens' norm, product and gated unit in one launch (gemm_chain), and many tokens' product and unit,
 * against FP64 of the same weights and of the input as it is rounded: in every shape that takes another path
 * through the kernels, with poisoned outputs, twice.
 */
#include "gemm/gemm.h"
#include "gpu_check.h"
#include "nouns/tensor.h"
#include "num/bf16.h"

enum { SLACK = 16 };

typedef struct chain_case {
    size_t m, n, k; /* m 1: with a norm */
    gemm_unit unit;
} chain_case;

static const chain_case cases[] = {
    {1, 16, 16, GEMM_UNIT_NONE},      {1, 48, 176, GEMM_UNIT_NONE},      {1, 640, 1152, GEMM_UNIT_NONE},
    {1, 960, 576, GEMM_UNIT_NONE},    {1, 6144, 4096, GEMM_UNIT_NONE},   {1, 24576, 2048, GEMM_UNIT_NONE},
    {1, 4096, 16384, GEMM_UNIT_NONE}, {1, 32, 16, GEMM_UNIT_SILU},       {1, 96, 176, GEMM_UNIT_GELU},
    {1, 3072, 576, GEMM_UNIT_SILU},   {1, 4096, 640, GEMM_UNIT_GELU},    {1, 8192, 5376, GEMM_UNIT_GELU},
    {1, 24576, 4096, GEMM_UNIT_SILU}, {2, 32, 16, GEMM_UNIT_SILU},       {3, 96, 176, GEMM_UNIT_GELU},
    {4, 3072, 576, GEMM_UNIT_SILU},   {5, 24576, 4096, GEMM_UNIT_SILU},  {8, 4096, 640, GEMM_UNIT_GELU},
    {13, 96, 2048, GEMM_UNIT_GELU},   {16, 24576, 4096, GEMM_UNIT_SILU}, {17, 3072, 1152, GEMM_UNIT_SILU},
    {32, 8192, 5376, GEMM_UNIT_GELU},
};

static nib_gemm *gemm;

static tensor random_weight(size_t n, size_t k) {
    uint8_t *codes = malloc(n * k / 2), *scales = malloc(n * k / 16);
    for (size_t i = 0; i < n * k / 2; i++)
        codes[i] = (uint8_t)(rnd() >> 7);
    for (size_t i = 0; i < n * k / 16; i++)
        scales[i] = (uint8_t)(rnd() % 0x48);
    return (tensor){.name = "random",
                    .dtype = DT_NVFP4,
                    .rows = n,
                    .cols = k,
                    .data = codes,
                    .bytes = n * k / 2,
                    .block_scales = scales,
                    .tensor_scale = 0.01f + fabsf(rnd_uniform()) * 0.1f};
}

static nib_gemm_weight *pack(const tensor *t) {
    nib_gemm_weight *w;
    nib_error err;
    void *codes = to_device(t->data, t->bytes), *scales = to_device(t->block_scales, t->bytes / 8);
    float *tensor_scale = to_device(&t->tensor_scale, sizeof(float));
    nib_gemm_source source = {.format = NIB_GEMM_FROM_NVFP4,
                              .n = t->rows,
                              .k = t->cols,
                              .values = codes,
                              .scales = scales,
                              .tensor_scale = tensor_scale};
    if (nib_gemm_weight_create(gemm, t->rows, t->cols, NULL, &w, &err) != NIB_OK ||
        nib_gemm_weight_pack(gemm, w, &source, NULL, &err) != NIB_OK) {
        printf("WRONG packing: %s\n", err.text);
        exit(1);
    }
    CK(cudaDeviceSynchronize());
    cudaFree(codes), cudaFree(scales), cudaFree(tensor_scale);
    return w;
}

/* W times H [cols], sums in FP64, times FACTOR. */
static void want_row(const tensor *t, const float *h, double factor, double *want) {
    float *row = malloc(t->cols * sizeof *row);
    for (size_t r = 0; r < t->rows; r++) {
        tensor_decode_row(t, r, row);
        want[r] = 0;
        for (size_t c = 0; c < t->cols; c++)
            want[r] += (double)h[c] * row[c];
        want[r] *= factor;
    }
    free(row);
}

/* The gated unit of both halves, HALF numbers each, in the first one's place. */
static void apply_unit(double *want, size_t half, gemm_unit unit) {
    for (size_t r = 0; unit != GEMM_UNIT_NONE && r < half; r++) {
        double g = want[r], u = g;
        if (unit == GEMM_UNIT_GELU)
            u = 2 * sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g);
        want[r] = g / (1 + exp(-u)) * want[half + r];
    }
}

/* C's output with rows LDD apart, in FP32; what lies between its rows must stay. NULL: refused, which is a
 * failure counted here. */
static float *run(gemm_chain c, size_t n, bool bf16) {
    nib_error err;
    size_t each = bf16 ? 2 : 4, all = c.m * (n + SLACK);
    c.ldd = n + SLACK;
    c.d = to_device(NULL, all * each);
    c.d_type = bf16 ? NIB_GEMM_BF16 : NIB_GEMM_F32;
    if (gemm_chain_launch(gemm, &c, NULL, &err) != NIB_OK) {
        check_error(err.text, 1, 0);
        cudaGetLastError();
        cudaFree(c.d);
        return NULL;
    }
    void *got = from_device(c.d, all * each);
    float *out = malloc(all * sizeof *out);
    for (size_t i = 0; i < all; i++) {
        out[i] = bf16 ? bf16_to_f32(((uint16_t *)got)[i]) : ((float *)got)[i];
        if (i % c.ldd >= n)
            check_error("wrote past its row", isnan(out[i]) ? 0 : 1, 0);
    }
    cudaFree(c.d);
    free(got);
    return out;
}

static void test_case(const chain_case *c, check_family *wide, check_family *half) {
    tensor t = random_weight(c->n, c->k);
    size_t n = c->unit == GEMM_UNIT_NONE ? c->n : c->n / 2, lda = c->k + 8;
    float *x = rnd_floats(c->m * lda, 3), *weights = rnd_floats(c->k, 1), *h = malloc(c->k * sizeof *h);
    uint16_t *a = malloc(c->m * lda * sizeof *a);
    double *want = malloc(c->n * sizeof *want), squares = 0;
    char what[80];
    x[c->k / 2] *= 1000; /* an outlier, as residual streams have */
    for (size_t i = 0; i < c->m * lda; i++)
        a[i] = bf16_from_f32(x[i]);
    for (size_t i = 0; i < c->k; i++)
        squares += (double)x[i] * x[i];
    gemm_norm norm = {to_device(x, c->k * 4), to_device(weights, c->k * 4), 1e-6f};
    gemm_chain chain = {.weight = pack(&t), .m = c->m, .lda = lda, .unit = c->unit};
    if (c->m == 1)
        chain.norm = &norm;
    else
        chain.a = to_device(a, c->m * lda * 2);
    snprintf(what, sizeof what, "chain %zu x %zu x %zu, unit %d", c->m, c->n, c->k, (int)c->unit);
    float *got = run(chain, n, false), *again = run(chain, n, false), *rounded = run(chain, n, true);
    for (size_t r = 0; got && again && rounded && r < c->m; r++) {
        for (size_t i = 0; i < c->k; i++)
            h[i] = bf16_to_f32(c->m == 1 ? bf16_from_f32(x[i] * weights[i]) : a[r * lda + i]);
        want_row(&t, h, c->m == 1 ? 1 / sqrt(squares / (double)c->k + (double)norm.eps) : 1, want);
        apply_unit(want, c->n / 2, c->unit);
        family_take(wide, what, l2_error(got + r * (n + SLACK), want, n), 1e-5);
        family_take(half, what, l2_error(rounded + r * (n + SLACK), want, n),
                    0x1p-8); /* half a step of BF16 */
        check_equal(what, got + r * (n + SLACK), again + r * (n + SLACK), n * sizeof *got);
    }
    nib_gemm_weight_free((nib_gemm_weight *)chain.weight);
    cudaFree((void *)norm.x), cudaFree((void *)norm.w), cudaFree((void *)chain.a);
    free(x), free(weights), free(h), free(a), free(want), free(got), free(again), free(rounded);
    free((void *)t.data), free((void *)t.block_scales);
}

/* A norm between two products: x += a V^T, x * w in BF16 and its sums of squares; then W's product of that
 * over x's root mean square. */
typedef struct spread_case {
    size_t m, k, hidden, n; /* V [hidden, k], W [n, hidden] */
    gemm_unit unit;
} spread_case;

static const spread_case spread_cases[] = {
    {2, 2048, 2064, 96, GEMM_UNIT_NONE},     {3, 2304, 2048, 4096, GEMM_UNIT_SILU},
    {8, 4096, 4096, 6144, GEMM_UNIT_NONE},   {13, 2048, 2304, 2048, GEMM_UNIT_GELU},
    {16, 4096, 4096, 24576, GEMM_UNIT_SILU}, {16, 12288, 4096, 6144, GEMM_UNIT_NONE},
    {17, 2304, 2048, 2304, GEMM_UNIT_NONE},  {32, 4096, 4096, 24576, GEMM_UNIT_SILU},
};

enum { SPARE = 8 }; /* rows that are nobody's */

static void *launch(gemm_chain c, size_t bytes) {
    nib_error err;
    const nib_status status = gemm_chain_launch(gemm, &c, NULL, &err);
    check_error(status == NIB_OK ? "" : err.text, status != NIB_OK || cudaGetLastError() != cudaSuccess, 0);
    return from_device(c.d, bytes);
}

static void test_spread(const spread_case *c, check_family *f) {
    const size_t m = c->m, d = c->hidden, out = c->unit == GEMM_UNIT_NONE ? c->n : c->n / 2;
    tensor v = random_weight(d, c->k), w = random_weight(c->n, d);
    float *x = rnd_floats((m + SPARE) * d, 3), *norm = rnd_floats(d, 1),
          *h = malloc((d > c->k ? d : c->k) * sizeof *h);
    uint16_t *a = malloc(m * c->k * sizeof *a);
    double *want = malloc((d > c->n ? d : c->n) * sizeof *want);
    char what[80];
    snprintf(what, sizeof what, "spread %zu x %zu x %zu x %zu", m, c->n, d, c->k);
    for (size_t i = 0; i < m * c->k; i++)
        a[i] = bf16_from_f32(rnd_normal());
    gemm_spread left = {to_device(norm, d * 4), 1e-6f, to_device(NULL, (m + SPARE) * (d + 8) * 2), d + 8,
                        to_device(NULL, m * (d / 16) * 4)};
    gemm_chain first = {.weight = pack(&v),
                        .m = m,
                        .a = to_device(a, m * c->k * 2),
                        .lda = c->k,
                        .ldd = d,
                        .before = &left,
                        .d = to_device(x, (m + SPARE) * d * 4),
                        .d_type = NIB_GEMM_F32};
    gemm_chain second = {.weight = pack(&w),
                         .m = m,
                         .ldd = out,
                         .after = &left,
                         .unit = c->unit,
                         .d = to_device(NULL, m * out * 4),
                         .d_type = NIB_GEMM_F32};
    float *sums = launch(first, (m + SPARE) * d * 4), *got = launch(second, m * out * 4),
          *again = launch(second, m * out * 4);
    uint16_t *scaled = from_device(left.scaled, (m + SPARE) * (d + 8) * 2);
    check_equal("rows past the last", sums + m * d, x + m * d, SPARE * d * sizeof *x);
    for (size_t i = 0; i < (m + SPARE) * (d + 8); i++)
        if (i >= m * (d + 8) || i % (d + 8) >= d)
            check_error("wrote past its row", scaled[i] == 0xffff ? 0 : 1, 0);
    check_equal(what, got, again, m * out * sizeof *got);
    for (size_t j = 0; j < 4; j++) { /* of the first to the last row */
        const size_t r = j * (m - 1) / 3;
        double squares = 0;
        for (size_t i = 0; i < c->k; i++)
            h[i] = bf16_to_f32(a[r * c->k + i]);
        want_row(&v, h, 1, want);
        for (size_t i = 0; i < d; i++) {
            want[i] += x[r * d + i];
            squares += (double)sums[r * d + i] * sums[r * d + i];
        }
        family_take(f, what, l2_error(sums + r * d, want, d), 1e-5);
        for (size_t i = 0; i < d; i++) {
            h[i] = bf16_to_f32(scaled[r * (d + 8) + i]);
            check_error("a scaled value",
                        scaled[r * (d + 8) + i] == bf16_from_f32(sums[r * d + i] * norm[i]) ? 0 : 1, 0);
        }
        want_row(&w, h, 1 / sqrt(squares / (double)d + (double)left.eps), want);
        apply_unit(want, c->n / 2, c->unit);
        family_take(f, what, l2_error(got + r * out, want, out), 1e-5);
    }
    nib_gemm_weight_free((nib_gemm_weight *)first.weight),
        nib_gemm_weight_free((nib_gemm_weight *)second.weight);
    cudaFree((void *)left.w), cudaFree(left.scaled), cudaFree(left.squares), cudaFree((void *)first.a);
    cudaFree(first.d), cudaFree(second.d);
    free(x), free(norm), free(h), free(a), free(want), free(sums), free(got), free(again), free(scaled);
    free((void *)v.data), free((void *)v.block_scales), free((void *)w.data), free((void *)w.block_scales);
}

/* Many tokens: whole tiles and cut ones of each form, partly filled with tokens. */
static const chain_case many_cases[] = {
    {160, 8192, 1024, GEMM_UNIT_GELU},  {33, 24576, 4096, GEMM_UNIT_SILU},
    {64, 24576, 4096, GEMM_UNIT_GELU},  {120, 24576, 1024, GEMM_UNIT_SILU},
    {160, 8192, 5376, GEMM_UNIT_GELU},  {300, 24576, 1024, GEMM_UNIT_SILU},
    {160, 24576, 2048, GEMM_UNIT_SILU}, {2048, 24576, 1024, GEMM_UNIT_SILU},
    {512, 8192, 5376, GEMM_UNIT_GELU},  {48, 23552, 2048, GEMM_UNIT_SILU},
};
enum { FP8_CASES = 4 }; /* so many of them with E4M3 activations too */

/* Rows of gate and up as nib_gemm_matmul computes them of E4M3 activations, which other tests know. */
static float *sums_of_fp8(const gemm_chain *c) {
    nib_error err;
    const size_t n = c->weight->n;
    nib_gemm_product p = {.weight = c->weight,
                          .mode = NIB_GEMM_W4A8,
                          .m = c->m,
                          .a = c->a,
                          .a_type = GEMM_A_E4M3_MMA,
                          .a_scale = c->a_scale,
                          .lda = c->lda,
                          .d = to_device(NULL, c->m * n * 4),
                          .d_type = NIB_GEMM_F32,
                          .ldd = n,
                          .flags = c->flags};
    const nib_status status = nib_gemm_matmul(gemm, &p, c->workspace, c->workspace_bytes, NULL, &err);
    check_error(status == NIB_OK ? "" : err.text, status != NIB_OK, 0);
    float *got = from_device(p.d, c->m * n * 4);
    cudaFree(p.d);
    return got;
}

/* Activations, BF16 or E4M3, and result in the order in which wgmma reads them; three rows against FP64. */
static void test_many(const chain_case *c, bool fp8, check_family *f) {
    tensor t = random_weight(c->n, c->k);
    const size_t n = c->n / 2, all = c->m * n, room = ((size_t)gemm->n_sms * 128 * 256 + 256) * sizeof(float);
    float *h = malloc(c->k * sizeof *h), *row = malloc(n * sizeof *row), *scales = to_device(NULL, 2048 * 4);
    uint16_t *a = malloc(c->m * c->k * sizeof *a);
    double *want = malloc(c->n * sizeof *want);
    char what[80];
    nib_error err;
    for (size_t i = 0; i < c->m * c->k; i++)
        a[i] = bf16_from_f32(rnd_normal());
    snprintf(what, sizeof what, "unit of %zu x %zu x %zu%s", c->m, c->n, c->k, fp8 ? ", fp8" : "");
    void *natural = to_device(a, c->m * c->k * 2), *prepared = to_device(NULL, c->m * c->k * 2);
    uint32_t *flags = to_device(NULL, (size_t)gemm->n_sms * 4);
    CK(cudaMemset(flags, 0, (size_t)gemm->n_sms * 4));
    const nib_status status =
        gemm_prepare(gemm, fp8 ? GEMM_A_E4M3_MMA : GEMM_A_BF16_MMA, natural, NIB_GEMM_BF16, c->m, c->k, c->k,
                     prepared, fp8 ? scales : NULL, NULL, &err);
    check_error(status == NIB_OK ? "" : err.text, status != NIB_OK, 0);
    gemm_chain chain = {.weight = pack(&t),
                        .m = c->m,
                        .lda = c->k,
                        .ldd = n,
                        .a = prepared,
                        .a_scale = fp8 ? scales : NULL,
                        .unit = c->unit,
                        .d = to_device(NULL, all * 2),
                        .d_type = GEMM_A_BF16_MMA,
                        .flags = flags,
                        .workspace = to_device(NULL, room),
                        .workspace_bytes = room};
    uint16_t *got = launch(chain, all * 2);
    CK(cudaMemset(chain.d, 0xff, all * 2));
    uint16_t *again = launch(chain, all * 2);
    check_equal(what, got, again, all * 2);
    float *sums = fp8 ? sums_of_fp8(&chain) : NULL;
    for (size_t j = 0; j < 3; j++) { /* of the first to the last row */
        const size_t r = j * (c->m - 1) / 2;
        for (size_t i = 0; i < c->k; i++)
            h[i] = bf16_to_f32(a[r * c->k + i]);
        for (size_t i = 0; i < n; i++)
            row[i] = bf16_to_f32(got[r * n + i / 64 * 64 + (size_t)gemm_bf16_position((int)(i % 64))]);
        if (!sums)
            want_row(&t, h, 1, want);
        for (size_t i = 0; sums && i < c->n; i++)
            want[i] = (double)sums[r * c->n + i];
        apply_unit(want, n, c->unit);
        family_take(f, what, l2_error(row, want, n), 0x1p-8);
    }
    nib_gemm_weight_free((nib_gemm_weight *)chain.weight);
    cudaFree(natural), cudaFree(prepared), cudaFree(flags), cudaFree(chain.d), cudaFree(chain.workspace),
        cudaFree(scales);
    free(h), free(row), free(a), free(want), free(got), free(again), free(sums);
    free((void *)t.data), free((void *)t.block_scales);
}

/* "short": what a sanitizer has the patience for. */
int main(int argc, char **argv) {
    const bool brief = argc > 1 && strcmp(argv[1], "short") == 0;
    nib_error err;
    check_family wide = {.name = "norm, product, unit: FP32"}, half = {.name = "norm, product, unit: BF16"},
                 between = {.name = "a norm between two products"}, many = {.name = "unit of many tokens"};
    if (nib_gemm_open(0, &gemm, &err) != NIB_OK) {
        printf("%s\n", err.text);
        return 1;
    }
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (!brief || cases[i].n * cases[i].k < 1000000)
            test_case(&cases[i], &wide, &half);
    size_t n_spread =
        gemm->arch == 90 ? sizeof spread_cases / sizeof *spread_cases : 0; /* others have no FEW */
    for (size_t i = 0; i < (brief && n_spread ? 2 : n_spread); i++)
        test_spread(&spread_cases[i], &between);
    for (size_t i = 0; n_spread && i < (brief ? 1 : sizeof many_cases / sizeof *many_cases); i++)
        for (int fp8 = 0; fp8 < (i < FP8_CASES ? 2 : 1); fp8++)
            test_many(&many_cases[i], fp8, &many);
    family_print(&wide);
    family_print(&half);
    family_print(&between);
    family_print(&many);
    nib_gemm_close(gemm);
    printf("chain: %d checks, %d wrong\n", check_n, check_failed);
    return check_failed > 0;
}

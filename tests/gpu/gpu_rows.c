/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels that work row by row, against FP64 on the host: decoding of every stored format, norms, gated
 * units, changes of format, sums of squares.
 */
#include "cuda/launchers.h"
#include "gemm/gemm.h"
#include "gpu_check.h"
#include "nouns/tensor.h"
#include "num/bf16.h"
#include "num/fp8.h"
#include "num/nvfp4.h"

static cuda_lane lane;
static int max_rows; /* tests of more are left out */

/* Random bytes of a format, with block scales that are finite numbers. */
typedef struct stored {
    tensor t;
    weight_view view;
    uint8_t *bytes, *scales;
    float *row_scales;
} stored;

static stored make_stored(dtype type, size_t rows, size_t cols, bool row_scales) {
    stored s = {.t = {.dtype = type, .rows = rows, .cols = cols, .tensor_scale = row_scales ? 1.0f : 0.37f}};
    size_t row_bytes;
    if (!dtype_bytes(type, cols, &row_bytes))
        abort();
    s.bytes = malloc(rows * row_bytes);
    for (size_t i = 0; i < rows * row_bytes; i++)
        s.bytes[i] = (uint8_t)(rnd() >> 7);
    if (type == DT_F32 || type == DT_F16 || type == DT_BF16)
        for (size_t i = 0; i < rows * cols; i++) {
            float v = rnd_normal();
            uint16_t h = type == DT_F16 ? f16_from_f32(v) : bf16_from_f32(v);
            if (type == DT_F32)
                memcpy(s.bytes + 4 * i, &v, 4);
            else
                memcpy(s.bytes + 2 * i, &h, 2);
        }
    size_t block = type == DT_NVFP4 ? 16 : 32;
    if (type == DT_NVFP4 || type == DT_MXFP4) {
        size_t n = rows * (cols / block);
        s.scales = malloc(n);
        for (size_t i = 0; i < n; i++)
            s.scales[i] = (uint8_t)(type == DT_NVFP4 ? rnd() % 0x7f : 110 + rnd() % 30);
        s.t.block_scales = s.scales;
    }
    if (row_scales) {
        s.row_scales = rnd_floats(rows, 1);
        s.t.row_scales = s.row_scales;
    }
    s.t.data = s.bytes;
    s.t.bytes = rows * row_bytes;
    s.view = (weight_view){.n_parts = 1, .rows = rows, .cols = cols};
    s.view.parts[0] = (part_view){.type = type,
                                  .data = to_device(s.bytes, rows * row_bytes),
                                  .row_bytes = row_bytes,
                                  .tensor_scale = s.t.tensor_scale,
                                  .rows = rows};
    if (s.scales)
        s.view.parts[0].block_scales = to_device(s.scales, rows * (cols / block));
    if (row_scales)
        s.view.parts[0].row_scales = to_device(s.row_scales, rows * sizeof(float));
    return s;
}

static const dtype formats[] = {DT_F32,  DT_F16,  DT_BF16, DT_F8_E4M3, DT_F8_E5M2,    DT_NVFP4,
                                DT_Q4_0, DT_Q4_1, DT_Q5_0, DT_MXFP4,   DT_GGUF_NVFP4, DT_GGUF_MXFP4,
                                DT_Q8_0, DT_Q5_1, DT_Q4_K, DT_Q5_K,    DT_Q6_K,       DT_IQ4_NL};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

/* NaN is NaN, whatever its payload. */
static bool same(const float *a, const float *b, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], 4) != 0 && !(isnan(a[i]) && isnan(b[i])))
            return false;
    return true;
}

static void test_formats(void) {
    check_family f = {.name = "stored formats, bit by bit"};
    for (int i = 0; i < N_FORMATS; i++)
        for (int variant = 0; variant < 2; variant++) {
            bool plain = dtype_get(formats[i])->block == 1;
            size_t rows = 9, cols = plain && variant ? 50 : 512;
            stored s = make_stored(formats[i], rows, cols, variant);
            float *dst = to_device(NULL, cols * 4), *want = malloc(cols * 4);
            for (size_t r = 0; r < rows; r++) {
                CK(embed_unpack_row(&lane, dst, &s.view, r));
                float *got = from_device(dst, cols * 4);
                tensor_decode_row(&s.t, r, want);
                family_take(&f, dtype_get(formats[i])->name, same(got, want, cols) ? 0 : 1, 0);
                free(got);
            }
            int32_t tokens[5] = {8, 0, 3, 3, 7};
            void *d_tokens = to_device(tokens, sizeof tokens), *out = to_device(NULL, 5 * cols * 4);
            CK(embed_launch(&lane, out, cols, &s.view, 1.5f, d_tokens, 5));
            float *got = from_device(out, 5 * cols * 4);
            for (int r = 0; r < 5; r++) {
                tensor_decode_row(&s.t, (size_t)tokens[r], want);
                for (size_t c = 0; c < cols; c++)
                    want[c] *= 1.5f;
                family_take(&f, "embed", same(got + (size_t)r * cols, want, cols) ? 0 : 1, 0);
            }
        }
    family_print(&f);
}

static const size_t some_cols[] = {50, 96, 576, 4096, 5376, 20000};
static const int some_rows[] = {1, 7, 64, 513};

/* Values of an activation view's row, as a matrix product reads them. */
static void read_act(act_view a, int rows, size_t cols, float *dst) {
    size_t each = a.format == ACT_F32 ? 4 : a.format == ACT_FP8 ? 1 : 2;
    uint8_t *raw = from_device(a.data, (size_t)rows * a.stride * each);
    float *scales = a.format == ACT_FP8 ? from_device(a.scales, (size_t)rows * 4) : NULL;
    for (int r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            size_t at = (size_t)r * a.stride + c;
            if (a.format == ACT_BF16_MMA)
                at = (size_t)r * a.stride + c / 64 * 64 + (size_t)gemm_bf16_position((int)(c % 64));
            dst[(size_t)r * cols + c] = a.format == ACT_F32 ? ((float *)raw)[at]
                                        : a.format != ACT_FP8
                                            ? bf16_to_f32(((uint16_t *)raw)[at])
                                            : e4m3_to_f32(raw[(size_t)r * a.stride + c / 64 * 64 +
                                                              (size_t)gemm_e4m3_position((int)(c % 64))]) *
                                                  scales[r];
        }
    free(raw);
    free(scales);
}

static act_view new_act(act_format f, int rows, size_t cols) {
    size_t each = f == ACT_F32 ? 4 : f == ACT_FP8 ? 1 : 2, stride = (cols + 127) / 128 * 128;
    return (act_view){f, to_device(NULL, (size_t)rows * stride * each), to_device(NULL, (size_t)rows * 4),
                      stride};
}

/* Limits of relative L2 by format: FP32 sums, BF16's and E4M3's rounding. */
static const double act_limits[] = {3e-7, 2.6e-3, 3.5e-2, 2.6e-3};

/* x [rows, cols] += y, to the bit, with and without the norm that follows. */
static void test_joined(const float *x, size_t stride, const float *w, int rows, size_t cols,
                        check_family *f) {
    size_t n = (size_t)rows * stride;
    uint16_t *y = malloc(n * 2);
    float *sum = malloc(n * 4), *got = malloc((size_t)rows * cols * 4);
    double *want = malloc((size_t)rows * cols * 8);
    for (size_t i = 0; i < n; i++) {
        y[i] = bf16_from_f32(rnd_normal());
        sum[i] = x[i] + bf16_to_f32(y[i]);
    }
    for (int r = 0; r < rows; r++) {
        const float *row = sum + (size_t)r * stride;
        double s = 0;
        for (size_t c = 0; c < cols; c++)
            s += (double)row[c] * row[c];
        for (size_t c = 0; c < cols; c++)
            want[(size_t)r * cols + c] = row[c] / sqrt(s / (double)cols + 1e-6) * w[c];
    }
    void *dw = to_device(w, cols * 4), *dx = to_device(x, n * 4);
    act_view dy = {ACT_BF16, to_device(y, n * 2), NULL, stride};
    for (int a = 0; a < 5; a++) { /* 4: without a norm */
        CK(cudaMemcpy(dx, x, n * 4, cudaMemcpyHostToDevice));
        if (a == 4 && cols % 8 != 0)
            continue;
        if (a == 4) {
            CK(add_launch(&lane, dx, stride, dy, rows, cols));
        } else {
            act_view out = new_act((act_format)a, rows, cols);
            CK(rmsnorm_after_launch(&lane, out, dx, stride, dy, dw, 1e-6f, rows, cols));
            read_act(out, rows, cols, got);
            family_take(f, "rmsnorm of a joined row", l2_error(got, want, (size_t)rows * cols),
                        act_limits[a]);
            cudaFree(out.data);
        }
        float *joined = from_device(dx, n * 4);
        for (int r = 0; r < rows; r++)
            check_equal("a joined row", joined + (size_t)r * stride, sum + (size_t)r * stride, cols * 4);
        free(joined);
    }
    cudaFree(dw), cudaFree(dx), cudaFree(dy.data);
    free(y), free(sum), free(got), free(want);
}

static void test_norms(void) {
    check_family f = {.name = "rmsnorm f32"}, fb = {.name = "rmsnorm bf16"},
                 f8 = {.name = "rmsnorm fp8 per token"};
    check_family *by_format[] = {&f, &fb, &f8, &fb}, joined = {.name = "rmsnorm of a joined row"};
    for (size_t k = 0; k < 6; k++)
        for (int m = 0; m < 4; m++) {
            size_t cols = some_cols[k], stride = (cols + 31) / 32 * 32;
            int rows = some_rows[m];
            if (rows > max_rows)
                continue;
            float *x = rnd_floats((size_t)rows * stride, 3), *w = rnd_floats(cols, 1);
            int32_t *gather = malloc((size_t)rows * 4);
            for (int r = 0; r < rows; r++)
                gather[r] = rows - 1 - r;
            void *dx = to_device(x, (size_t)rows * stride * 4), *dw = to_device(w, cols * 4);
            void *dg = to_device(gather, (size_t)rows * 4);
            double *want = malloc((size_t)rows * cols * 8);
            float *got = malloc((size_t)rows * cols * 4), *again = malloc((size_t)rows * cols * 4);
            for (int g = 0; g < 2; g++) {
                for (int r = 0; r < rows; r++) {
                    const float *row = x + (size_t)(g ? gather[r] : r) * stride;
                    double s = 0;
                    for (size_t c = 0; c < cols; c++)
                        s += (double)row[c] * row[c];
                    for (size_t c = 0; c < cols; c++)
                        want[(size_t)r * cols + c] = row[c] / sqrt(s / (double)cols + 1e-6) * w[c];
                }
                for (int a = 0; a < 4; a++) {
                    act_view out = new_act((act_format)a, rows, cols);
                    CK(rmsnorm_launch(&lane, out, dx, stride, dw, 1e-6f, rows, cols, g ? dg : NULL));
                    read_act(out, rows, cols, got);
                    family_take(by_format[a], "rmsnorm", l2_error(got, want, (size_t)rows * cols),
                                act_limits[a]);
                    CK(rmsnorm_launch(&lane, out, dx, stride, dw, 1e-6f, rows, cols, g ? dg : NULL));
                    read_act(out, rows, cols, again);
                    check_equal("rmsnorm again", got, again, (size_t)rows * cols * 4);
                    cudaFree(out.data);
                }
            }
            test_joined(x, stride, w, rows, cols, &joined);
            float *y = rnd_floats((size_t)rows * stride, 1);
            void *dy = to_device(y, (size_t)rows * stride * 4);
            for (int r = 0; r < rows; r++) {
                double s = 0;
                for (size_t c = 0; c < cols; c++)
                    s += (double)y[(size_t)r * stride + c] * y[(size_t)r * stride + c];
                for (size_t c = 0; c < cols; c++)
                    want[(size_t)r * cols + c] =
                        x[(size_t)r * stride + c] +
                        y[(size_t)r * stride + c] / sqrt(s / (double)cols + 1e-6) * w[c];
            }
            act_view wide = {ACT_F32, dy, NULL, stride}, half = new_act(ACT_BF16, rows, cols);
            CK(convert_launch(&lane, half, wide, rows, cols));
            for (int bf16 = 0; bf16 < 2; bf16++) {
                CK(cudaMemcpy(dx, x, (size_t)rows * stride * 4, cudaMemcpyHostToDevice));
                CK(rmsnorm_add_launch(&lane, dx, stride, bf16 ? half : wide, dw, 1e-6f, rows, cols));
                read_act((act_view){ACT_F32, dx, NULL, stride}, rows, cols, got);
                family_take(bf16 ? &fb : &f, "rmsnorm_add", l2_error(got, want, (size_t)rows * cols),
                            act_limits[bf16 ? ACT_BF16 : ACT_F32]);
            }
            cudaFree(half.data);
            cudaFree(dx), cudaFree(dw), cudaFree(dy), cudaFree(dg);
            free(x), free(w), free(want), free(got), free(again), free(y), free(gather);
        }
    family_print(&f), family_print(&fb), family_print(&f8), family_print(&joined);
}

static void test_units(void) {
    check_family f = {.name = "glu, convert, bias, sum_squares"};
    const size_t widths[] = {37, 160, 1536, 12288};
    const int rows_of[] = {1, 7, 65, 600};
    for (int k = 0; k < 4; k++)
        for (int m = 0; m < 4; m++)
            for (int a = 0; a < 4; a++) {
                size_t n = widths[k], stride = (2 * n + 31) / 32 * 32;
                int rows = rows_of[m];
                if (rows > max_rows)
                    continue;
                float *x = rnd_floats((size_t)rows * stride, 2), *got = malloc((size_t)rows * n * 4);
                double *want = malloc((size_t)rows * n * 8);
                void *dx = to_device(x, (size_t)rows * stride * 4);
                for (int gelu = 0; gelu < 2; gelu++) {
                    for (int r = 0; r < rows; r++)
                        for (size_t c = 0; c < n; c++) {
                            double g = x[(size_t)r * stride + c], up = x[(size_t)r * stride + n + c];
                            double u = 0.79788456080286535588 * (g + 0.044715 * g * g * g);
                            want[(size_t)r * n + c] = g / (1 + exp(gelu ? -2 * u : -g)) * up;
                        }
                    act_view out = new_act((act_format)a, rows, n);
                    CK(glu_launch(&lane, out, (act_view){ACT_F32, dx, NULL, stride}, rows, n, gelu));
                    read_act(out, rows, n, got);
                    family_take(&f, "glu", l2_error(got, want, (size_t)rows * n), act_limits[a]);
                    act_view back = new_act(ACT_F32, rows, n), to8 = new_act(ACT_FP8, rows, n);
                    CK(convert_launch(&lane, back, out, rows, n));
                    float *same_values = malloc((size_t)rows * n * 4);
                    read_act(back, rows, n, same_values);
                    check_equal("convert to f32", got, same_values, (size_t)rows * n * 4);
                    CK(convert_launch(&lane, to8, out, rows, n));
                    read_act(to8, rows, n, same_values);
                    family_take(&f, "convert to fp8", l2_error(same_values, want, (size_t)rows * n), 5e-2);
                    double *sums = malloc(n * 8);
                    for (size_t c = 0; c < n; c++)
                        sums[c] = (double)c;
                    void *ds = to_device(sums, n * 8);
                    CK(sum_squares_launch(&lane, ds, out, rows, n));
                    double *got_sums = from_device(ds, n * 8), worst = 0;
                    for (size_t c = 0; c < n; c++) {
                        double s = sums[c];
                        for (int r = 0; r < rows; r++)
                            s += (double)got[(size_t)r * n + c] * got[(size_t)r * n + c];
                        const double e = fabs(got_sums[c] - s) / fmax(s, 1e-37);
                        worst = worst >= e || isnan(worst) ? worst : e;
                    }
                    family_take(&f, "sum_squares", worst, 1e-12);
                    cudaFree(out.data), cudaFree(back.data), cudaFree(to8.data), cudaFree(ds);
                    free(sums), free(got_sums), free(same_values);
                }
                float *bias = rnd_floats(n, 1), *before = malloc((size_t)rows * n * 4);
                void *db = to_device(bias, n * 4);
                CK(bias_launch(&lane, dx, stride, db, rows, n));
                read_act((act_view){ACT_F32, dx, NULL, stride}, rows, n, got);
                for (int r = 0; r < rows; r++)
                    for (size_t c = 0; c < n; c++)
                        before[(size_t)r * n + c] = x[(size_t)r * stride + c] + bias[c];
                check_equal("bias", got, before, (size_t)rows * n * 4);
                cudaFree(dx), cudaFree(db);
                free(x), free(got), free(want), free(bias), free(before);
            }
    family_print(&f);
}

/* What NVFP4 keeps of a row X of BF16 under a power of two in the tensor's scale's place. */
static void round_nvfp4(float *x, size_t cols) {
    static const float values[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    int power;
    if (nvfp4_amax(x, cols) < 0x1p-100f) /* stays */
        return;
    frexpf(nvfp4_amax(x, cols) / 6, &power);
    const float tensor_scale = ldexpf(1, power - 8);
    for (float *block = x; block < x + cols; block += NVFP4_BLOCK) {
        uint8_t codes[NVFP4_BLOCK_BYTES];
        const float scale =
            e4m3_to_f32(nvfp4_block_scale(nvfp4_amax(block, NVFP4_BLOCK), tensor_scale)) * tensor_scale;
        nvfp4_encode_block(block, scale, codes);
        for (int i = 0; i < NVFP4_BLOCK; i++) {
            const int code = codes[i / 2] >> i % 2 * 4 & 15;
            block[i] = (code & 8 ? -1 : 1) * values[code & 7] * scale;
        }
    }
}

/* Activations of W4A4, emulated: to the bit what the CPU's encoder makes of them. */
static void test_emulated(void) {
    const size_t widths[] = {16, 576, 4096, 12288};
    for (int k = 0; k < 4; k++)
        for (int rows = 1; rows <= 7; rows += 6) {
            const size_t cols = widths[k], n = (size_t)rows * cols;
            float *x = rnd_floats(n, 3), *got = malloc(n * 4);
            act_view a = new_act(ACT_BF16, rows, cols);
            uint16_t *half = calloc((size_t)rows * a.stride, 2);
            for (size_t i = 0; i < n; i++) { /* rows and blocks of very different sizes, and zeros */
                const size_t r = i / cols, c = i % cols;
                float v = c / 16 % 9 == 8 ? 0 : ldexpf(x[i], (int)(r * 7) - (int)(c / 16 % 13));
                if (r == 6) /* less than a product would notice */
                    v = c == 3 ? 0x1p-130f : 0;
                half[r * a.stride + c] = bf16_from_f32(v);
                x[i] = bf16_to_f32(half[r * a.stride + c]);
            }
            CK(cudaMemcpy(a.data, half, (size_t)rows * a.stride * 2, cudaMemcpyHostToDevice));
            for (int r = 0; r < rows; r++)
                round_nvfp4(x + (size_t)r * cols, cols);
            CK(emulate_nvfp4_launch(&lane, a, rows, cols));
            read_act(a, rows, cols, got);
            size_t wrong = 0;
            for (size_t i = 0; i < n; i++)
                wrong += !(got[i] == x[i]);
            check_error("rounded to NVFP4", (double)wrong, 0);
            cudaFree(a.data), cudaFree(a.scales);
            free(x), free(got), free(half);
        }
}

/* Rows of zeros, and rows with an infinity or NaN: what a scale per token makes of them. */
static void test_odd_rows(void) {
    enum { ROWS = 3, COLS = 256 };
    float x[ROWS][COLS] = {{0}}, w[COLS];
    for (int i = 0; i < COLS; i++) {
        w[i] = 1;
        x[1][i] = x[2][i] = 1;
    }
    x[1][7] = NAN;
    x[2][9] = INFINITY;
    act_view out = new_act(ACT_FP8, ROWS, COLS);
    void *dx = to_device(x, sizeof x), *dw = to_device(w, sizeof w);
    CK(rmsnorm_launch(&lane, out, dx, COLS, dw, 1e-6f, ROWS, COLS, NULL));
    float *got = malloc(sizeof x);
    read_act(out, ROWS, COLS, got);
    for (int i = 0; i < COLS; i++)
        check_error("a row of zeros", got[i] == 0 ? 0 : 1, 0);
    check_error("a row with NaN", isnan(got[COLS + 7]) ? 0 : 1, 0);
    check_error("a row with infinity", isnan(got[2 * COLS + 9]) ? 0 : 1, 0);
}

/* "short": what a sanitizer has the patience for. */
int main(int argc, char **argv) {
    const bool brief = argc > 1 && strcmp(argv[1], "short") == 0;
    int device = 0;
    CK(cudaSetDevice(device));
    CK(cudaDeviceGetAttribute(&lane.n_sms, cudaDevAttrMultiProcessorCount, device));
    cudaStream_t stream;
    CK(cudaStreamCreate(&stream));
    lane.stream = stream;
    max_rows = brief ? 7 : 1000;
    for (int pdl = 0; pdl < (brief ? 1 : 2); pdl++) {
        lane.pdl = pdl;
        test_formats();
        test_norms();
        test_units();
        test_emulated();
        test_odd_rows();
    }
    printf("rows: %d checks, %d wrong\n", check_n, check_failed);
    return check_failed > 0;
}

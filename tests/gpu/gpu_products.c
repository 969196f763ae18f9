/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products on stored weights, against FP64 of the same decoded weights and the same activations, for
 * every format, in FP32 and BF16, few rows and many.
 */
#include "cuda/launchers.h"
#include "gpu_check.h"
#include "nouns/tensor.h"
#include "num/bf16.h"

static cuda_lane lane;

static const dtype formats[] = {DT_F32,  DT_F16,  DT_BF16, DT_F8_E4M3, DT_F8_E5M2,    DT_NVFP4,
                                DT_Q4_0, DT_Q4_1, DT_Q5_0, DT_MXFP4,   DT_GGUF_NVFP4, DT_GGUF_MXFP4,
                                DT_Q8_0, DT_Q5_1, DT_Q4_K, DT_Q5_K,    DT_Q6_K,       DT_IQ4_NL};
enum { N_FORMATS = sizeof formats / sizeof formats[0], SLACK = 7 };

/* A part whose blocks have sane scales: random bytes, then the halves and scale bytes of each block. */
static tensor make_part(dtype type, size_t rows, size_t cols) {
    size_t row_bytes;
    if (!dtype_bytes(type, cols, &row_bytes))
        abort();
    size_t n = rows * row_bytes, block = dtype_get(type)->block_bytes;
    uint8_t *b = malloc(n);
    for (size_t i = 0; i < n; i++)
        b[i] = (uint8_t)(rnd() >> 9);
    for (size_t i = 0; i < n; i += block) {
        uint16_t h = f16_from_f32(0.01f + fabsf(rnd_uniform()) * 0.05f),
                 h2 = f16_from_f32(rnd_uniform() * 0.1f);
        float v = rnd_normal();
        switch (type) {
        case DT_F32:
            memcpy(b + i, &v, 4);
            break;
        case DT_F16:
        case DT_BF16:
            h = type == DT_F16 ? f16_from_f32(v) : bf16_from_f32(v);
            memcpy(b + i, &h, 2);
            break;
        case DT_F8_E4M3:
            b[i] = (uint8_t)(b[i] & 0xbf); /* below 2: and no NaN */
            break;
        case DT_F8_E5M2:
            b[i] = (uint8_t)(b[i] & 0xbf);
            break;
        case DT_Q4_0:
        case DT_Q5_0:
        case DT_Q8_0:
        case DT_IQ4_NL:
            memcpy(b + i, &h, 2);
            break;
        case DT_Q4_1:
        case DT_Q5_1:
        case DT_Q4_K:
        case DT_Q5_K:
            memcpy(b + i, &h, 2);
            memcpy(b + i + 2, &h2, 2);
            break;
        case DT_Q6_K:
            memcpy(b + i + 208, &h, 2);
            break;
        case DT_GGUF_NVFP4:
            for (int k = 0; k < 4; k++)
                b[i + (size_t)k] &= 0x3f;
            break;
        case DT_GGUF_MXFP4:
            b[i] = (uint8_t)(120 + b[i] % 8);
            break;
        default:
            break;
        }
    }
    tensor t = {.dtype = type,
                .rows = rows,
                .cols = cols,
                .data = b,
                .bytes = n,
                .tensor_scale = 0.25f + (float)(rnd() % 4)};
    if (type == DT_NVFP4 || type == DT_MXFP4) {
        size_t ns = rows * (cols / (type == DT_NVFP4 ? 16 : 32));
        uint8_t *s = malloc(ns);
        for (size_t i = 0; i < ns; i++)
            s[i] = (uint8_t)(type == DT_NVFP4 ? rnd() % 0x48 : 120 + rnd() % 8);
        t.block_scales = s;
    }
    if (rnd() % 2)
        t.row_scales = rnd_floats(rows, 1);
    return t;
}

static part_view put_part(const tensor *t) {
    part_view v = {.type = t->dtype,
                   .data = to_device(t->data, t->bytes),
                   .row_bytes = t->bytes / t->rows,
                   .tensor_scale = t->tensor_scale,
                   .rows = t->rows};
    if (t->block_scales)
        v.block_scales = to_device(t->block_scales, t->rows * (t->cols / (t->dtype == DT_NVFP4 ? 16 : 32)));
    if (t->row_scales)
        v.row_scales = to_device(t->row_scales, t->rows * 4);
    return v;
}

static void test_shape(check_family *f, dtype type, const int *rows_list, int n_rows_list, size_t n,
                       size_t n2, size_t k) {
    tensor parts[2] = {make_part(type, n, k), make_part(type, n2, k)};
    size_t all = n + n2, stride = (k + 127) / 128 * 128;
    weight_view w = {.n_parts = 2, .rows = all, .cols = k};
    float *decoded = malloc(all * k * 4);
    for (int p = 0; p < 2; p++) {
        w.parts[p] = put_part(&parts[p]);
        for (size_t r = 0; r < parts[p].rows; r++)
            tensor_decode_row(&parts[p], r, decoded + ((size_t)p * n + r) * k);
    }
    for (int i = 0; i < n_rows_list; i++)
        for (int bf16 = 0; bf16 < 2; bf16++) {
            int m = rows_list[i];
            size_t each = bf16 ? 2 : 4, ldo = all + SLACK;
            uint8_t *a = calloc((size_t)m * stride, each);
            float *x = malloc((size_t)m * k * 4), *start = rnd_floats((size_t)m * ldo, 1);
            for (int r = 0; r < m; r++)
                for (size_t c = 0; c < k; c++) {
                    float v = rnd_normal() * (r == 1 ? 100.0f : 1.0f);
                    uint16_t h = bf16_from_f32(v);
                    memcpy(a + ((size_t)r * stride + c) * each, bf16 ? (void *)&h : (void *)&v, each);
                    x[(size_t)r * k + c] = bf16 ? bf16_to_f32(h) : v;
                }
            act_view av = {bf16 ? ACT_BF16 : ACT_F32, to_device(a, (size_t)m * stride * each), NULL, stride};
            for (int add = 0; add < 2; add++) {
                void *out = to_device(add ? start : NULL, (size_t)m * ldo * 4);
                CK(product_launch(&lane, out, ldo, av, &w, m, add));
                float *got = from_device(out, (size_t)m * ldo * 4);
                double worst = 0;
                for (int r = 0; r < m; r++) {
                    double *want = malloc(all * 8);
                    for (size_t j = 0; j < all; j++) {
                        want[j] = add ? start[(size_t)r * ldo + j] : 0;
                        for (size_t c = 0; c < k; c++)
                            want[j] += (double)x[(size_t)r * k + c] * decoded[j * k + c];
                    }
                    worst = fmax(worst, l2_error(got + (size_t)r * ldo, want, all));
                    free(want);
                }
                bool rest = type == DT_F32 || (type != DT_BF16 && dtype_get(type)->block > 1 &&
                                               !dtype_is_nvfp4(type) && !dtype_is_mxfp4(type));
                family_take(f, dtype_get(type)->name, worst, rest && bf16 && m > 16 ? 2e-5 : 2e-6);
                if (!add) {
                    CK(product_launch(&lane, out, ldo, av, &w, m, add));
                    float *again = from_device(out, (size_t)m * ldo * 4);
                    check_equal("product again", got, again, (size_t)m * ldo * 4);
                    free(again);
                    for (int r = 0; r < m; r++)
                        for (size_t j = all; j < ldo; j++)
                            check_error("product wrote past its row", isnan(got[(size_t)r * ldo + j]) ? 0 : 1,
                                        0);
                }
                cudaFree(out);
                free(got);
            }
            cudaFree(av.data);
            free(a), free(x), free(start);
        }
    for (int p = 0; p < 2; p++)
        cudaFree((void *)w.parts[p].data);
    free(decoded);
}

int main(void) {
    CK(cudaSetDevice(0));
    CK(cudaDeviceGetAttribute(&lane.n_sms, cudaDevAttrMultiProcessorCount, 0));
    cudaStream_t stream;
    CK(cudaStreamCreate(&stream));
    lane.stream = stream;
    lane.pdl = true;
    const int few[] = {1, 2, 3, 8, 9, 16, 17, 65}, odd[] = {1, 5, 40, 130};
    for (int i = 0; i < N_FORMATS; i++) {
        char name[64];
        snprintf(name, sizeof name, "product %s", dtype_get(formats[i])->name);
        check_family f = {.name = name};
        test_shape(&f, formats[i], few, 8, 96, 33, 512);
        if (dtype_get(formats[i])->block == 1)
            test_shape(&f, formats[i], odd, 4, 37, 20, 50);
        else if (dtype_get(formats[i])->block <= 32)
            test_shape(&f, formats[i], odd, 4, 130, 7, 160);
        family_print(&f);
    }
    printf("products: %d checks, %d wrong\n", check_n, check_failed);
    return check_failed > 0;
}

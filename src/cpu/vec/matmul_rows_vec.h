/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights by rows, as they lie in the file, times FP32 activations, see ref/matmul_ref.c. The 16 lanes of a
 * row's sum are V16 vectors of the rung that includes this. Stored numbers widen to FP32 exactly: the rung's
 * load_f32, load_f16, load_bf16, load_e4m3 and load_e5m2 give V_LANES of them.
 *
 * From the rung too: GEMV_ROWS, rows of one pass over one row of activations; ROWS times TOKENS, the products
 * that one pass makes otherwise; ROWS_OF_ONE times one, of what is left.
 */
#include "cpu/matmul.h"

enum { V16 = 16 / V_LANES, ROWS_AHEAD = 8 };

typedef vfloat (*load_fn)(const uint8_t *p);

INLINE void decode(load_fn load, size_t size, dtype t, const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    size_t c = 0;
    for (; c + V_LANES <= n; c += V_LANES)
        vf_store(dst + c, load(p + c * size));
    if (c < n)
        dtype_decode(t, p + c * size, dst + c, n - c);
}

/* Lanes l and l + 8, then l + 4, l + 2, l + 1. */
INLINE float sum16(const vfloat v[V16]) {
    return vf_sum(V16 == 1 ? v[0] : vf_add(v[0], v[V16 - 1]));
}

/* R rows of weights, T of activations; N a whole number of 16 */
INLINE void mul_some(float *acc, const float *w, size_t w_stride, const float *x, size_t x_stride, size_t n,
                     size_t r_n, size_t t_n) {
    vfloat sums[ROWS * TOKENS > ROWS_OF_ONE ? ROWS * TOKENS : ROWS_OF_ONE][V16];
    for (size_t i = 0; i < r_n * t_n; i++)
        for (size_t j = 0; j < V16; j++)
            sums[i][j] = vf_zero();
    for (size_t c = 0; c < n; c += 16) {
        vfloat wr[ROWS > ROWS_OF_ONE ? ROWS : ROWS_OF_ONE][V16];
        for (size_t r = 0; r < r_n; r++)
            for (size_t j = 0; j < V16; j++)
                wr[r][j] = vf_load(w + r * w_stride + c + j * V_LANES);
#pragma GCC unroll 8
        for (size_t t = 0; t < t_n; t++)
            for (size_t j = 0; j < V16; j++) {
                vfloat xt = vf_load(x + t * x_stride + c + j * V_LANES);
                for (size_t r = 0; r < r_n; r++)
                    sums[t * r_n + r][j] = vf_fma(wr[r][j], xt, sums[t * r_n + r][j]);
            }
    }
    for (size_t t = 0; t < t_n; t++)
        for (size_t r = 0; r < r_n; r++)
            acc[t * MATMUL_TILE + r] = sum16(sums[t * r_n + r]);
}

/* R at a time, then one by one. */
INLINE void mul_tokens(float *acc, const float *w, size_t w_stride, size_t n_w, const float *x,
                       size_t x_stride, size_t n, size_t r_n, size_t t_n) {
    size_t r = 0;
    for (; r + r_n <= n_w; r += r_n)
        mul_some(acc + r, w + r * w_stride, w_stride, x, x_stride, n, r_n, t_n);
    for (; r < n_w; r++)
        mul_some(acc + r, w + r * w_stride, w_stride, x, x_stride, n, 1, t_n);
}

static void mul_rows(float *acc, const float *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride,
                     size_t n_tokens, size_t n) {
    size_t t = 0;
    for (; t + TOKENS <= n_tokens; t += TOKENS)
        mul_tokens(acc + t * MATMUL_TILE, w, w_stride, n_w, x + t * x_stride, x_stride, n, ROWS, TOKENS);
    for (; TOKENS > 4 && t + 2 <= n_tokens; t += 2)
        mul_tokens(acc + t * MATMUL_TILE, w, w_stride, n_w, x + t * x_stride, x_stride, n, ROWS, 2);
    for (; t < n_tokens; t++)
        mul_tokens(acc + t * MATMUL_TILE, w, w_stride, n_w, x + t * x_stride, x_stride, n, ROWS_OF_ONE, 1);
}

/* R rows straight from the file; the last columns through a copy, so that nothing past the row is read. */
INLINE void gemv_some(load_fn load, size_t size, float *acc, const uint8_t *w, size_t row_bytes,
                      const float *x, size_t n, size_t r_n) {
    const uint8_t *next =
        w + ROWS_AHEAD * row_bytes; /* asked for meanwhile; past the last row nothing is read */
    vfloat sums[GEMV_ROWS][V16];
    for (size_t r = 0; r < r_n; r++)
        for (size_t j = 0; j < V16; j++)
            sums[r][j] = vf_zero();
    size_t c = 0;
    for (; c + 16 <= n; c += 16) {
        vfloat xc[V16];
        for (size_t j = 0; j < V16; j++)
            xc[j] = vf_load(x + c + j * V_LANES);
        for (size_t line = 0; line < 16 * size * r_n; line += PACK_LINE)
            MATMUL_ASK(next + c * size * r_n + line);
        for (size_t r = 0; r < r_n; r++)
            for (size_t j = 0; j < V16; j++)
                sums[r][j] = vf_fma(load(w + r * row_bytes + (c + j * V_LANES) * size), xc[j], sums[r][j]);
    }
    for (size_t r = 0; r < r_n && c < n; r++) {
        uint8_t tail[16 * 4] = {0};
        __builtin_memcpy(tail, w + r * row_bytes + c * size, (n - c) * size);
        for (size_t j = 0; j < V16; j++)
            sums[r][j] = vf_fma(load(tail + j * V_LANES * size), vf_load(x + c + j * V_LANES), sums[r][j]);
    }
    for (size_t r = 0; r < r_n; r++)
        acc[r] = sum16(sums[r]);
}

INLINE void gemv(load_fn load, size_t size, float *acc, const uint8_t *w, size_t row_bytes, size_t n_w,
                 const float *x, size_t n) {
    size_t r = 0;
    for (; r + GEMV_ROWS <= n_w; r += GEMV_ROWS)
        gemv_some(load, size, acc + r, w + r * row_bytes, row_bytes, x, n, GEMV_ROWS);
    for (; r < n_w; r++)
        gemv_some(load, size, acc + r, w + r * row_bytes, row_bytes, x, n, 1);
}

#define FORMAT(name, type, size)                                                                             \
    static void decode_##name(const void *src, float *dst, size_t n) {                                       \
        decode(load_##name, size, type, src, dst, n);                                                        \
    }                                                                                                        \
    static void gemv_##name(float *acc, const void *w, size_t row_bytes, size_t n_w, const float *x,         \
                            size_t n) {                                                                      \
        gemv(load_##name, size, acc, w, row_bytes, n_w, x, n);                                               \
    }

FORMAT(f32, DT_F32, 4)
FORMAT(f16, DT_F16, 2)
FORMAT(bf16, DT_BF16, 2)
FORMAT(e4m3, DT_F8_E4M3, 1)
FORMAT(e5m2, DT_F8_E5M2, 1)

void V_RUNG(matmul_rows_init)(matmul_kernels *m) {
    m->mul_rows = mul_rows;
    m->decode[DT_F32] = decode_f32;
    m->decode[DT_F16] = decode_f16;
    m->decode[DT_BF16] = decode_bf16;
    m->decode[DT_F8_E4M3] = decode_e4m3;
    m->decode[DT_F8_E5M2] = decode_e5m2;
    m->gemv_rows[DT_F32] = gemv_f32;
    m->gemv_rows[DT_F16] = gemv_f16;
    m->gemv_rows[DT_BF16] = gemv_bf16;
    m->gemv_rows[DT_F8_E4M3] = gemv_e4m3;
    m->gemv_rows[DT_F8_E5M2] = gemv_e5m2;
}

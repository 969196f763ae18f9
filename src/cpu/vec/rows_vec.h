/* SPDX-License-Identifier: Apache-2.0
 *
 * Row functions in the vectors of the rung that includes this; ref/rows_ref.c says what they compute. Tails
 * are masked: a row's bits do not depend on where it ends.
 */
#include "cpu/kernels.h"
#include "cpu/vec/vmath.h"

static float rms_factor(const float *x, float eps, size_t n) {
    vfloat a[4] = {vf_zero(), vf_zero(), vf_zero(), vf_zero()};
    size_t i = 0;
    for (; i + 4 * V_LANES <= n; i += 4 * V_LANES)
        for (size_t j = 0; j < 4; j++) {
            vfloat v = vf_load(x + i + V_LANES * j);
            a[j] = vf_fma(v, v, a[j]);
        }
    for (; i < n; i += V_LANES) {
        vfloat v = vf_load_masked(x + i, vf_first(n - i));
        a[0] = vf_fma(v, v, a[0]);
    }
    float squares = vf_sum(vf_add(vf_add(a[0], a[1]), vf_add(a[2], a[3])));
    return 1.0f / __builtin_sqrtf(squares / (float)n + eps);
}

static void rmsnorm(float *out, const float *x, const float *w, float eps, size_t n) {
    vfloat factor = vf_set(rms_factor(x, eps, n));
    for (size_t i = 0; i < n; i += V_LANES) {
        vmask m = vf_first(n - i);
        vfloat v = vf_mul(vf_load_masked(x + i, m), factor);
        vf_store_masked(out + i, m, vf_mul(v, vf_load_masked(w + i, m)));
    }
}

static void rmsnorm_add(float *x, const float *y, const float *w, float eps, size_t n) {
    vfloat factor = vf_set(rms_factor(y, eps, n));
    for (size_t i = 0; i < n; i += V_LANES) {
        vmask m = vf_first(n - i);
        vfloat v = vf_mul(vf_load_masked(y + i, m), factor);
        v = vf_fma(v, vf_load_masked(w + i, m), vf_load_masked(x + i, m));
        vf_store_masked(x + i, m, v);
    }
}

static void rope_halves(float *x, const float *cosines, const float *sines, size_t half) {
    for (size_t i = 0; i < half; i += V_LANES) {
        vmask m = vf_first(half - i);
        vfloat c = vf_load_masked(cosines + i, m), s = vf_load_masked(sines + i, m);
        vfloat a = vf_load_masked(x + i, m), b = vf_load_masked(x + half + i, m);
        vf_store_masked(x + i, m, vf_fms(a, c, vf_mul(b, s)));
        vf_store_masked(x + half + i, m, vf_fma(b, c, vf_mul(a, s)));
    }
}

static void rope_pairs(float *x, const float *cosines, const float *sines, size_t half) {
    for (size_t i = 0; i < half; i += V_LANES / 2) {
        size_t rest = half - i < V_LANES / 2 ? half - i : V_LANES / 2;
        vmask angles = vf_first(rest), m = vf_first(2 * rest);
        vfloat c = vf_twice(vf_load_masked(cosines + i, angles));
        vfloat s = vf_twice(vf_load_masked(sines + i, angles));
        vfloat v = vf_load_masked(x + 2 * i, m);
        vf_store_masked(x + 2 * i, m, vf_fma_pairs(v, c, vf_mul(vf_swapped(v), s)));
    }
}

static void rope(float *x, const float *cosines, const float *sines, size_t half, bool interleaved) {
    (interleaved ? rope_pairs : rope_halves)(x, cosines, sines, half);
}

static void glu_silu(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += V_LANES) {
        vmask m = vf_first(n - i);
        vfloat g = vmath_silu(vf_load_masked(gate + i, m));
        vf_store_masked(out + i, m, vf_mul(g, vf_load_masked(up + i, m)));
    }
}

static void glu_gelu_tanh(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += V_LANES) {
        vmask m = vf_first(n - i);
        vfloat g = vmath_gelu_tanh(vf_load_masked(gate + i, m));
        vf_store_masked(out + i, m, vf_mul(g, vf_load_masked(up + i, m)));
    }
}

static void softcap(float *x, float cap, size_t n) {
    for (size_t i = 0; i < n; i += V_LANES) {
        vmask m = vf_first(n - i);
        vf_store_masked(x + i, m, vmath_softcap(vf_load_masked(x + i, m), cap));
    }
}

static void to_bf16(uint16_t *dst, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += V_LANES) {
        vfloat v = vf_load_masked(x + i, vf_first(n - i));
        vint b = vf_bits(v), odd = VI_RIGHT(b, 16);
        vint even_up = vi_add(vi_and(odd, vi_set(1)), vi_set(0x7fff)); /* ties to even */
        vint r = VI_RIGHT(vi_add(b, even_up), 16);
        r = vi_select(vf_is_nan(v), vi_or(odd, vi_set(0x40)), r);
        vi_store_words(dst + i, n - i, r);
    }
}

/* e4m3_from_f32_sat of num/fp8.h; |x| is below 464 here, or x is NaN: 0x7f and the sign. */
INLINE vint e4m3(vfloat x) {
    vint b = vf_bits(x), a = vi_and(b, vi_set(0x7fffffff));
    vint sign = vi_and(VI_RIGHT(b, 24), vi_set(0x80));
    vint even_up = vi_add(vi_and(VI_RIGHT(a, 20), vi_set(1)), vi_set(0x7ffff));
    vint normal = VI_RIGHT(vi_add(vi_sub(a, vi_set(120 << 23)), even_up), 20);
    normal = vi_min_u32(normal, vi_set(0x7f));
    vint small = vi_sub(vf_bits(vf_add(vf_of_bits(a), vf_set(0x1p14f))), vi_set(0x46800000));
    return vi_or(sign, vi_select(vi_less(a, vi_set(0x3c800000)), small, normal));
}

static void to_fp8(uint8_t *dst, float factor, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += V_LANES) {
        vfloat v = vf_mul(vf_load_masked(x + i, vf_first(n - i)), vf_set(factor));
        v = vf_max(vf_set(-448.0f), vf_min(vf_set(448.0f), v)); /* NaN stays */
        vi_store_bytes(dst + i, n - i, e4m3(v));
    }
}

static uint64_t read_all(const void *src, size_t n) {
    const uint8_t *bytes = src;
    size_t part = n / 4;
    vint a[4] = {vi_set(0), vi_set(0), vi_set(0), vi_set(0)};
    for (size_t i = 0; i < part; i += 256)
        for (size_t s = 0; s < 4; s++)
            for (size_t j = 0; j < 256; j += sizeof(vint))
                a[s] = vi_add_u64(a[s], vi_load(bytes + s * part + i + j));
    return vi_sum_u64(vi_add_u64(vi_add_u64(a[0], a[1]), vi_add_u64(a[2], a[3])));
}

void V_RUNG(rows_init)(cpu_kernels *k) {
    k->rmsnorm = rmsnorm;
    k->rmsnorm_add = rmsnorm_add;
    k->rope = rope;
    k->glu[GLU_SILU] = glu_silu;
    k->glu[GLU_GELU_TANH] = glu_gelu_tanh;
    k->softcap = softcap;
    k->to_bf16 = to_bf16;
    k->to_fp8 = to_fp8;
    k->read_all = read_all;
}

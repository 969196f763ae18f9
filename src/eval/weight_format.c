/* SPDX-License-Identifier: Apache-2.0
 *
 * Elements as sorted values with the places between them at which rounding changes; scales as they would be
 * stored. See weight_format.h.
 */
#include "eval/weight_format.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "num/fp8.h"

enum { VALUES = 16, MAX_GROUP = 4096, DOUBLE_BLOCK = 256, DOUBLE_VALUES = 256 };

/* NF4: the table of bitsandbytes 0.45, functional.py, get_4bit_type("nf4"); QLoRA's normal quantiles. */
static const float values[ELEMENT_E4M3][VALUES] = {
    [ELEMENT_E2M1] = {-6, -4, -3, -2, -1.5f, -1, -0.5f, 0, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6},
    [ELEMENT_E1M2] = {-1.75f, -1.5f, -1.25f, -1, -0.75f, -0.5f, -0.25f, 0, 0, 0.25f, 0.5f, 0.75f, 1, 1.25f,
                      1.5f, 1.75f},
    [ELEMENT_E3M0] = {-16, -8, -4, -2, -1, -0.5f, -0.25f, 0, 0, 0.25f, 0.5f, 1, 2, 4, 8, 16},
    [ELEMENT_INT4] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7},
    [ELEMENT_NF4] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                     -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                     0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                     0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f},
};

const float *weight_format_values(format_element e) {
    return e < ELEMENT_E4M3 ? values[e] : NULL;
}

static float largest(format_element e) {
    return e == ELEMENT_E4M3 ? 448.0f : e == ELEMENT_E5M2 ? 57344.0f : values[e][VALUES - 1];
}

/* ---- names ---- */

static const char *const elements[] = {"e2m1", "e1m2", "e3m0", "int4", "nf4", "e4m3", "e5m2", NULL};
static const char *const scales[] = {"f32", "f16", "e4m3", "e8m0", "e8m0-ceil", NULL};

static int find(const char *const *names, const char *p, size_t n) {
    for (int i = 0; names[i]; i++)
        if (strlen(names[i]) == n && memcmp(names[i], p, n) == 0)
            return i;
    return -1;
}

static bool parse_group(size_t *group, const char *p, size_t n) {
    char *end;
    if (n == 3 && memcmp(p, "row", 3) == 0) {
        *group = FORMAT_ROW;
        return true;
    }
    if (n == 6 && memcmp(p, "tensor", 6) == 0) {
        *group = FORMAT_TENSOR;
        return true;
    }
    const long number = n > 0 && *p >= '1' && *p <= '9' ? strtol(p, &end, 10) : 0;
    *group = (size_t)number;
    return number >= 8 && number <= MAX_GROUP && (number & (number - 1)) == 0 && end == p + n;
}

static const struct {
    const char *name;
    weight_format format;
} whole[] = {{"nvfp4", {ELEMENT_E2M1, 16, FSCALE_E4M3, false}},
             {"nvfp4:best", {ELEMENT_E2M1, 16, FSCALE_E4M3, true}},
             {"mxfp4", {ELEMENT_E2M1, 32, FSCALE_E8M0, false}},
             {"mxfp4:ceil", {ELEMENT_E2M1, 32, FSCALE_E8M0_CEIL, false}},
             {"mxfp4:best", {ELEMENT_E2M1, 32, FSCALE_E8M0, true}},
             {"nf4", {ELEMENT_NF4, 64, FSCALE_F32, false}},
             {"nf4:double", {ELEMENT_NF4, 64, FSCALE_DOUBLE, false}}};

static bool parse_field(weight_format *out, int field, const char *p, size_t n) {
    const int i = field == 0 ? find(elements, p, n) : field == 2 ? find(scales, p, n) : 0;
    if (field > 2 || i < 0)
        return false;
    if (field == 0)
        out->element = (format_element)i;
    if (field == 2)
        out->scale = (format_scale)i;
    return field != 1 || parse_group(&out->group, p, n);
}

bool weight_format_parse(weight_format *out, const char *name) {
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        if (strcmp(whole[i].name, name) == 0) {
            *out = whole[i].format;
            return true;
        }
    const size_t n = strlen(name);
    const char *p = name, *stop = name + n;
    *out = (weight_format){.group = FORMAT_TENSOR};
    for (int field = 0; p <= stop; field++) {
        const char *colon = memchr(p, ':', (size_t)(stop - p)), *end = colon ? colon : stop;
        const size_t length = (size_t)(end - p);
        if (!(field > 0 && end == stop && length == 4 && memcmp(p, "best", 4) == 0)) {
            if (!parse_field(out, field, p, length))
                return false;
        } else {
            out->best = true;
        }
        p = end + 1;
    }
    /* short scales are for groups; a scale is searched row by row */
    return out->group > FORMAT_TENSOR ||
           (out->scale < FSCALE_E4M3 && !(out->best && out->group == FORMAT_TENSOR));
}

size_t weight_format_group(const weight_format *f, size_t cols) {
    return f->group > FORMAT_TENSOR && f->group < cols ? f->group : cols;
}

double weight_format_bits(const weight_format *f, size_t cols) {
    const double of_scale = f->scale == FSCALE_F32      ? 32
                            : f->scale == FSCALE_F16    ? 16
                            : f->scale == FSCALE_DOUBLE ? 8 + 32.0 / DOUBLE_BLOCK
                                                        : 8;
    const double bits = f->element < ELEMENT_E4M3 ? 4 : 8;
    return f->group == FORMAT_TENSOR ? bits : bits + of_scale / (double)weight_format_group(f, cols);
}

/* ---- elements ---- */

/* The nearest element's value; halfway: NF4 the lower, as bitsandbytes; others the one of even index from
 * zero (E2M1's and integers' ties to even). */
static float nearest(format_element e, float y) {
    if (e == ELEMENT_E4M3)
        return e4m3_to_f32(e4m3_from_f32_sat(y));
    if (e == ELEMENT_E5M2)
        return e5m2_to_f32(e5m2_from_f32_sat(y));
    if (e == ELEMENT_INT4)
        return fminf(fmaxf(rintf(y), -8), 7);
    const float *v = values[e];
    if (e == ELEMENT_NF4) {
        int i = 0;
        for (int k = 0; k < VALUES - 1; k++)
            i += y > (v[k] + v[k + 1]) * 0.5f;
        return v[i];
    }
    const float a = fabsf(y), *m = v + VALUES / 2; /* magnitudes 0..7 */
    int i = 0;
    for (int k = 0; k < VALUES / 2 - 1; k++) {
        const float between = (m[k] + m[k + 1]) * 0.5f;
        i += k % 2 ? a >= between : a > between;
    }
    return copysignf(m[i], y);
}

/* x [n] / SCALE to elements; DST (may be NULL) gets their values. The sum of squared errors. */
static double round_to(format_element e, float scale, const float *x, size_t n, float *dst) {
    double error = 0;
    for (size_t i = 0; i < n; i++) {
        const float v = scale != 0 ? nearest(e, x[i] / scale) * scale : 0.0f;
        const double d = (double)v - x[i];
        error += d * d;
        if (dst)
            dst[i] = v;
    }
    return error;
}

/* ---- scales ---- */

/* The scale of a group as stored: STEP 0 is the usual one, others are its neighbours for best. */
static float scale_of(const weight_format *f, float amax, float tensor_amax, int step) {
    const float top = largest(f->element), ideal = amax / top;
    if (f->scale == FSCALE_F32 || f->scale == FSCALE_F16) {
        const float wanted = ideal * (1.0f + (float)step / 32.0f);
        return f->scale == FSCALE_F32 ? wanted : f16_to_f32(f16_from_f32(wanted));
    }
    if (f->scale == FSCALE_E4M3) { /* num/nvfp4.c: under max / (top * 448), at least 2^-9 */
        const float whole_scale = tensor_amax / (top * 448.0f), block = amax / (top * whole_scale);
        const int code = e4m3_from_f32(block < 0x1p-9f ? 0x1p-9f : block > 448.0f ? 448.0f : block) + step;
        return e4m3_to_f32((uint8_t)(code < 1 ? 1 : code > 0x7e ? 0x7e : code)) * whole_scale;
    }
    int power, of_top; /* amax = m * 2^power, m in [0.5, 1) */
    const float m = frexpf(amax, &power);
    const float m_top = frexpf(top, &of_top);
    power -= of_top;
    if (f->scale == FSCALE_E8M0_CEIL && m > m_top)
        power++;
    return ldexpf(1.0f, power + step);
}

static void steps_of(const weight_format *f, int *first, int *last) {
    const bool real = f->scale == FSCALE_F32 || f->scale == FSCALE_F16;
    *first = !f->best ? 0 : real ? -16 : f->scale == FSCALE_E4M3 ? -8 : -1;
    *last = !f->best ? 0 : real ? 4 : f->scale == FSCALE_E4M3 ? 8 : 1;
}

static float amax_of(const float *x, size_t n) {
    float amax = 0;
    for (size_t i = 0; i < n; i++)
        amax = fmaxf(amax, fabsf(x[i]));
    return amax;
}

static void round_group(const weight_format *f, float *x, size_t n, float amax, float tensor_amax) {
    int first, last;
    double least = INFINITY;
    float best = 0;
    if (amax == 0)
        return;
    steps_of(f, &first, &last);
    for (int step = first; step <= last; step++) {
        const float scale = scale_of(f, amax, tensor_amax, step);
        const double error = first == last ? 0 : round_to(f->element, scale, x, n, NULL);
        if (error < least) {
            least = error;
            best = scale;
        }
    }
    round_to(f->element, best, x, n, x);
}

void weight_format_row(const weight_format *f, float *x, size_t n, float tensor_amax) {
    assert(f->scale != FSCALE_DOUBLE);
    const size_t group = weight_format_group(f, n);
    for (size_t at = 0; at < n; at += group) {
        const size_t few = n - at < group ? n - at : group;
        round_group(f, x + at, few, f->group == FORMAT_TENSOR ? tensor_amax : amax_of(x + at, few),
                    tensor_amax);
    }
}

/* ---- scales that are quantized as well ---- */

static int by_value(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* bitsandbytes' create_dynamic_map(): in the decade below 10^(i - 6) the middles of 2^i even pieces, of both
 * signs; 0; and 1. */
static void dynamic_map(float map[DOUBLE_VALUES]) {
    int n = 0;
    for (int i = 0; i < 7; i++)
        for (int k = 0; k < 1 << i; k++, n += 2) {
            map[n] = (float)(pow(10, i - 6) * (0.1 + 0.9 * (k + 0.5) / (1 << i)));
            map[n + 1] = -map[n];
        }
    map[n] = 0;
    map[n + 1] = 1;
    qsort(map, DOUBLE_VALUES, sizeof *map, by_value);
}

static float nearest_of(const float map[DOUBLE_VALUES], float y) {
    int i = 0;
    for (int step = DOUBLE_VALUES / 2; step; step /= 2)
        i += y > (map[i + step - 1] + map[i + step]) * 0.5f ? step : 0;
    return map[i];
}

void weight_format_double(float *amaxes, size_t n) {
    float map[DOUBLE_VALUES];
    double sum = 0;
    dynamic_map(map);
    for (size_t i = 0; i < n; i++)
        sum += amaxes[i];
    const float mean = n ? (float)(sum / (double)n) : 0;
    for (size_t i = 0; i < n; i++)
        amaxes[i] -= mean;
    for (size_t at = 0; at < n; at += DOUBLE_BLOCK) {
        const size_t few = n - at < DOUBLE_BLOCK ? n - at : DOUBLE_BLOCK;
        const float scale = amax_of(amaxes + at, few);
        for (size_t i = at; i < at + few; i++)
            amaxes[i] = (scale > 0 ? nearest_of(map, amaxes[i] / scale) * scale : 0) + mean;
    }
}

void weight_format_row_double(const weight_format *f, float *x, size_t n, const float *stored) {
    const size_t group = weight_format_group(f, n);
    for (size_t at = 0; at < n; at += group, stored++) {
        const size_t few = n - at < group ? n - at : group;
        const float amax = amax_of(x + at, few);
        for (size_t i = at; i < at + few && amax > 0; i++)
            x[i] = nearest(f->element, x[i] / amax) * *stored;
    }
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What the GPU tests of the engine's kernels share: device memory with poison in it, random numbers, errors
 * of a result against FP64, one line per check.
 */
#ifndef GPU_CHECK_H
#define GPU_CHECK_H

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CK(call)                                                                                             \
    do {                                                                                                     \
        int ck_ = (int)(call);                                                                               \
        if (ck_) {                                                                                           \
            printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString((cudaError_t)ck_));                 \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static uint64_t check_seed = 1;
static int check_n, check_failed;

static inline uint32_t rnd(void) {
    check_seed = check_seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(check_seed >> 33) ^ (uint32_t)(check_seed >> 11);
}

static inline float rnd_uniform(void) { /* -1 .. 1 */
    return (float)(rnd() & 0xffffff) / 8388608.0f - 1.0f;
}

static inline float rnd_normal(void) {
    return (rnd_uniform() + rnd_uniform() + rnd_uniform()) * 1.0f;
}

/* SCALE with 11 bits, which a key's in a cache has. */
static inline float key_scale(float scale) {
    uint32_t bits;
    memcpy(&bits, &scale, sizeof bits);
    bits = (bits + 0x1000) & 0xffffe000u;
    memcpy(&scale, &bits, sizeof bits);
    return scale;
}

static inline float *rnd_floats(size_t n, float scale) {
    float *x = malloc((n + 1) * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = rnd_normal() * scale;
    return x;
}

/* Device memory that holds SRC, or (NULL) NaN everywhere. */
static inline void *to_device(const void *src, size_t bytes) {
    void *p;
    CK(cudaMalloc(&p, bytes + 256));
    CK(cudaMemset(p, 0xff, bytes + 256));
    if (src)
        CK(cudaMemcpy(p, src, bytes, cudaMemcpyHostToDevice));
    return p;
}

static inline void *from_device(const void *p, size_t bytes) {
    void *h = malloc(bytes + 1);
    CK(cudaDeviceSynchronize());
    CK(cudaMemcpy(h, p, bytes, cudaMemcpyDeviceToHost));
    return h;
}

static inline double l2_error(const float *got, const double *want, size_t n) {
    double e = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        double d = got[i] - want[i];
        if (!(fabs((double)got[i]) < 1e30))
            return INFINITY;
        e += d * d;
        s += want[i] * want[i];
    }
    return s > 0 ? sqrt(e / s) : sqrt(e);
}

/* Says a line where ERROR is past LIMIT. */
static inline void check_error(const char *what, double error, double limit) {
    check_n++;
    if (!(error <= limit)) {
        check_failed++;
        printf("WRONG %s: error %.2e, limit %.1e\n", what, error, limit);
    }
}

static inline void check_equal(const char *what, const void *a, const void *b, size_t bytes) {
    check_n++;
    if (memcmp(a, b, bytes) != 0) {
        size_t i = 0;
        while (((const char *)a)[i] == ((const char *)b)[i])
            i++;
        check_failed++;
        printf("WRONG %s: byte %zu of %zu differs\n", what, i, bytes);
    }
}

/* Worst error of a check_family of checks, for the table. */
typedef struct check_family {
    const char *name;
    double worst;
    int n;
} check_family;

static inline void family_take(check_family *f, const char *what, double error, double limit) {
    f->n++;
    if (error > f->worst || error != error)
        f->worst = error;
    check_error(what, error, limit);
}

static inline void family_print(const check_family *f) {
    printf("%-44s %5d checks, worst error %.1e\n", f->name, f->n, f->worst);
}

#endif

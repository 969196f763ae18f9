/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of gpu_gemm share: device memory, a weight with its plain copy on the device, the oracle in FP64, one
 * count of checks; and what each part tests.
 */
#ifndef GEMM_CHECK_CUH
#define GEMM_CHECK_CUH

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

extern "C" {
#include "gemm/gemm.h"
#include "gemm/gpu/launch.h"
#include "num/mxfp4.h"
#include "num/nvfp4.h"
#include "quant/scale_search.h"
}

inline int n_failed, n_checks;
inline nib_gemm *ctx;
inline nib_error err;

#define CUDA(x)                                                                                                        \
    do {                                                                                                               \
        cudaError_t e_ = (x);                                                                                          \
        if (e_ != cudaSuccess) {                                                                                       \
            printf("%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(e_));                                         \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define OK(x)                                                                                                          \
    do {                                                                                                               \
        if ((x) != NIB_OK) {                                                                                           \
            printf("%s:%d: %s\n", __FILE__, __LINE__, err.text);                                                       \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

void check(bool good, const char *what);

template <class T> static T *device(size_t n) {
    T *p;
    CUDA(cudaMalloc(&p, n * sizeof(T) + 16));
    return p;
}

inline uint32_t mix(uint32_t h) {
    h *= 2654435761u, h ^= h >> 15, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u;
    return h ^ h >> 16;
}

__host__ __device__ inline float e2m1(int c) {
    const int m = c & 7;
    const float v = m < 5 ? 0.5f * m : m == 5 ? 3.0f : m == 6 ? 4.0f : 6.0f;
    return c & 8 ? -v : v;
}

__host__ __device__ inline float e4m3(int b) {
    const int e = b >> 3 & 15, m = b & 7;
    const float v = e ? ldexpf(1 + m / 8.0f, e - 7) : ldexpf((float)m, -9);
    return b & 128 ? -v : v;
}

inline size_t type_bytes(nib_gemm_type t) {
    return t == NIB_GEMM_F32 ? 4 : t == NIB_GEMM_E4M3 ? 1 : 2;
}

/* ---- a weight with its plain copy on the device, scales doubled as the packer should ---- */
struct weight {
    size_t n, k;
    uint8_t *codes, *scales;
    float *tensor_scale;
    nib_gemm_weight *w;
};

/* TAME: no scale is zero, subnormal or 448. SMALL: all are subnormal. */
enum scale_kind { WILD = 0, TAME, SMALL };
weight make_weight(size_t n, size_t k, int kind);
void free_weight(weight *w);

/* ---- the oracle: places (i, j) of a grid over [m, n], FP64 ---- */
struct places {
    int m, n, pm, pn;
    __host__ __device__ int token(int i) const {
        return pm == m ? i : (int)((long long)i * (m - 1) / (pm - 1));
    }
    __host__ __device__ int row(int j) const {
        return pn == n ? j : (int)((long long)j * (n - 1) / (pn - 1));
    }
};

__global__ void oracle(places p, const uint8_t *codes, const uint8_t *scales, const float *ts, int k, const void *x,
                       int x_type, size_t ldx, const float *x_scale, bool fold, double *out);

/* e[0] += squared error, e[1] += squared truth, e[2] += outputs that are no number (of all of d). */
__global__ void compare(places p, const void *d, int d_type, size_t ldd, const double *truth, double add, double *e);

/* TRUTH [rows, n] += BIAS [n] of TYPE. */
__global__ void add_bias(double *truth, int rows, int n, const void *bias, int type);

/* N random numbers of a normal distribution. */
__global__ void fill(void *x, int type, size_t n, uint32_t seed);

/* One check: a product run twice against the oracle, which rounds nothing, or (FOLD) activations and weights to E4M3, or (UNFOLDED)
 * activations alone; WORST becomes its error where that is larger. */
enum rounding { EXACT = 0, FOLD, UNFOLDED };
void check_run(const weight &w, size_t m, nib_gemm_mode mode, nib_gemm_type a_type, nib_gemm_type d_type, int fold,
               double bound, double *worst, size_t pad = 0);

/* gemm_quantizer.cu */
void test_quantizers(void);
void test_every_bf16(void);
void test_sources(void);

/* gemm_facts.cu */
void test_forms(void);
void test_graph_and_streams(void);

/* one kernel or way each: gemm_grouped.cu, gemm_wgmma.cu, gemm_few.cu, gemm_generations.cu, gemm_native.cu */
void test_grouped(bool shortly);
void test_wgmma_forms(void);
void test_few_forms(void);
void test_other_generations(void);
void test_w4a8_exact(void);
void test_w4a4(void);
void test_native(void);

#endif

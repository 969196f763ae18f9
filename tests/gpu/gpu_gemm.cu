/* SPDX-License-Identifier: Apache-2.0
 *
 * The FP4 products on a GPU against FP64 over the same quantized operands, through the public API alone.
 * usage: gpu_gemm [--quick]; prints one line a group of checks and exits 1 when one failed, 0 with "SKIP" without a GPU.
 *
 * Small products are compared whole, large ones at 64 x 64 places. Outputs and workspaces are filled with NaN before
 * every run, weights hold zero blocks, blocks of one outlier, largest codes, subnormal and 448 scales.
 */
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include "nibble_gemm.h"

static int n_failed, n_checks;
static nib_gemm *ctx;
static nib_error err;

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

static void check(bool good, const char *what) {
    n_checks++;
    if (!good) {
        n_failed++;
        printf("FAILED: %s\n", what);
    }
}

template <class T> static T *device(size_t n) {
    T *p;
    CUDA(cudaMalloc(&p, n * sizeof(T) + 16));
    return p;
}

static uint32_t mix(uint32_t h) {
    h *= 2654435761u, h ^= h >> 15, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u;
    return h ^ h >> 16;
}

__host__ __device__ static float e2m1(int c) {
    const int m = c & 7;
    const float v = m < 5 ? 0.5f * m : m == 5 ? 3.0f : m == 6 ? 4.0f : 6.0f;
    return c & 8 ? -v : v;
}

__host__ __device__ static float e4m3(int b) {
    const int e = b >> 3 & 15, m = b & 7;
    const float v = e ? ldexpf(1 + m / 8.0f, e - 7) : ldexpf((float)m, -9);
    return b & 128 ? -v : v;
}

/* ---- a weight with its plain copy on the device ---- */
struct weight {
    size_t n, k;
    uint8_t *codes, *scales;
    float *tensor_scale;
    nib_gemm_weight *w;
};

static weight make_weight(size_t n, size_t k, bool tame) {
    weight w = {n, k, device<uint8_t>(n * k / 2), device<uint8_t>(n * k / 16), device<float>(2), nullptr};
    std::vector<uint8_t> c(n * k / 2), s(n * k / 16);
    for (size_t b = 0; b < s.size(); b++) {
        const uint32_t h = mix((uint32_t)b + (uint32_t)n * 7 + (uint32_t)k), kind = h & 63;
        s[b] = tame ? 0x28 + (h >> 8) % 32 : kind == 0 ? 0 : kind == 1 ? 1 + (h >> 8) % 7 : kind == 2 ? 0x7e : 0x28 + (h >> 8) % 32;
        for (int j = 0; j < 8; j++) {
            const uint32_t r = mix((uint32_t)b * 8 + j + 99);
            c[b * 8 + j] = kind == 3 ? 0 : kind == 4 ? 0xf7 : kind == 5 ? (j == 3 ? 0x70 : 0x01) : (uint8_t)(r >> 9);
        }
    }
    const float scale = 0.0123f;
    CUDA(cudaMemcpy(w.codes, c.data(), c.size(), cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(w.scales, s.data(), s.size(), cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(w.tensor_scale, &scale, 4, cudaMemcpyHostToDevice));
    OK(nib_gemm_weight_create(ctx, n, k, nullptr, &w.w, &err));
    nib_gemm_source source = {};
    source.n = n, source.k = k, source.values = w.codes, source.scales = w.scales, source.tensor_scale = w.tensor_scale;
    CUDA(cudaMemset(nib_gemm_weight_data(w.w), 0xff, nib_gemm_packed_bytes(n, k)));
    OK(nib_gemm_weight_pack(ctx, w.w, &source, nullptr, &err));
    return w;
}

static void free_weight(weight *w) {
    nib_gemm_weight_free(w->w);
    cudaFree(w->codes), cudaFree(w->scales), cudaFree(w->tensor_scale);
}

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

__device__ static float value(const void *x, size_t i, int type) {
    return type == NIB_GEMM_F32    ? ((const float *)x)[i]
           : type == NIB_GEMM_BF16 ? __bfloat162float(((const __nv_bfloat16 *)x)[i])
           : type == NIB_GEMM_F16  ? __half2float(((const __half *)x)[i])
                                   : e4m3(((const uint8_t *)x)[i]);
}

__device__ static float folded(int code, int scale) {
    return e4m3(__nv_cvt_float_to_fp8(e2m1(code) * (e4m3(scale) * 0.125f), __NV_SATFINITE, __NV_E4M3)) * 8.0f;
}

__global__ static void oracle(places p, const uint8_t *codes, const uint8_t *scales, const float *ts, int k, const void *x,
                              int x_type, size_t ldx, const float *x_scale, bool fold, double *out) {
    const int id = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x & 31;
    if (id >= p.pm * p.pn)
        return;
    const int token = p.token(id / p.pn), row = p.row(id % p.pn);
    double sum = 0;
    for (int i = lane; i < k; i += 32) {
        const size_t at = (size_t)row * k + i;
        const int code = codes[at / 2] >> 4 * (i & 1) & 15, scale = scales[at / 16];
        const double w = fold ? (double)folded(code, scale) : (double)e2m1(code) * e4m3(scale);
        sum += w * value(x, token * ldx + i, x_type);
    }
    for (int o = 16; o; o >>= 1)
        sum += __shfl_xor_sync(~0u, sum, o);
    if (lane == 0)
        out[id] = sum * *ts * (x_scale ? x_scale[token] : 1.0f);
}

/* e[0] += squared error, e[1] += squared truth, e[2] += outputs that are no number (of all of d). */
__global__ static void compare(places p, const void *d, int d_type, size_t ldd, const double *truth, double add, double *e) {
    const size_t id = blockIdx.x * (size_t)blockDim.x + threadIdx.x, all = (size_t)p.m * p.n;
    for (size_t i = id; i < all; i += (size_t)gridDim.x * blockDim.x)
        if (!isfinite(value(d, i / p.n * ldd + i % p.n, d_type)))
            atomicAdd(e + 2, 1.0);
    if (id < (size_t)p.pm * p.pn) {
        const double t = truth[id] + add, v = value(d, p.token(id / p.pn) * ldd + p.row(id % p.pn), d_type);
        atomicAdd(e, (v - t) * (v - t));
        atomicAdd(e + 1, t * t);
    }
}

__global__ static void fill(void *x, int type, size_t n, uint32_t seed) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint32_t h = (uint32_t)i * 2654435761u + seed;
        h ^= h >> 15, h *= 0x85ebca6bu, h ^= h >> 13, h *= 0xc2b2ae35u, h ^= h >> 16;
        const uint32_t g = h * 747796405u + 2891336453u;
        const float v = sqrtf(-2 * logf(((h & 0xffff) + 0.5f) / 65536)) * cospif((g >> 16) / 32768.0f);
        if (type == NIB_GEMM_BF16)
            ((__nv_bfloat16 *)x)[i] = __float2bfloat16(v);
        else if (type == NIB_GEMM_F16)
            ((__half *)x)[i] = __float2half(v);
        else
            ((float *)x)[i] = v;
    }
}

static size_t type_bytes(nib_gemm_type t) {
    return t == NIB_GEMM_F32 ? 4 : t == NIB_GEMM_E4M3 ? 1 : 2;
}

struct run_result {
    double error;
    double not_numbers;
    bool repeats;
};

/* Runs P (its d, workspace and types set up here) twice and compares with the oracle. */
static run_result run(const weight &w, size_t m, nib_gemm_mode mode, nib_gemm_type a_type, nib_gemm_type d_type, bool fold,
                      size_t pad = 0) {
    const size_t lda = w.k + pad, ldd = w.n + pad;
    void *a = device<uint8_t>(m * lda * 4), *d = device<uint8_t>(m * ldd * 4), *d2 = device<uint8_t>(m * ldd * 4);
    uint8_t *q = device<uint8_t>(m * w.k);
    float *scale = device<float>(m + 256);
    fill<<<512, 256>>>(a, a_type == NIB_GEMM_E4M3 ? NIB_GEMM_BF16 : a_type, m * lda, (uint32_t)m);
    if (fold) /* what the product does inside: the oracle reads the same codes */
        OK(nib_gemm_quantize_e4m3(ctx, a, a_type == NIB_GEMM_E4M3 ? NIB_GEMM_BF16 : a_type, m, w.k, lda, q, scale, nullptr, &err));
    nib_gemm_product p = {};
    p.weight = w.w, p.mode = mode, p.m = m, p.a = a, p.a_type = a_type, p.lda = lda, p.d = d, p.d_type = d_type, p.ldd = ldd;
    if (a_type == NIB_GEMM_E4M3)
        p.a = q, p.a_scale = scale, p.lda = w.k;
    const size_t bytes = nib_gemm_workspace_bytes(ctx, &p);
    void *workspace = device<uint8_t>(bytes + 256);
    for (int i = 0; i < 2; i++) {
        CUDA(cudaMemset(workspace, 0xff, bytes));
        CUDA(cudaMemset(i ? d2 : d, 0xff, m * ldd * 4));
        p.d = i ? d2 : d;
        OK(nib_gemm_matmul(ctx, &p, workspace, bytes, nullptr, &err));
    }
    CUDA(cudaGetLastError());
    CUDA(cudaDeviceSynchronize());
    places at = {(int)m, (int)w.n, (int)m, (int)w.n};
    if ((double)m * w.n * w.k > 2e9)
        at.pm = m < 64 ? (int)m : 64, at.pn = w.n < 64 ? (int)w.n : 64;
    double *truth = device<double>((size_t)at.pm * at.pn), *e = device<double>(3), h[3];
    CUDA(cudaMemset(e, 0, 24));
    oracle<<<(at.pm * at.pn + 7) / 8, 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)w.k, fold ? q : a,
                                             fold ? NIB_GEMM_E4M3 : a_type, fold ? w.k : lda, fold ? scale : nullptr, fold,
                                             truth);
    compare<<<(unsigned)(((size_t)at.pm * at.pn + 255) / 256), 256>>>(at, d, d_type, ldd, truth, 0, e);
    CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
    std::vector<uint8_t> b1(m * ldd * type_bytes(d_type)), b2(b1.size());
    CUDA(cudaMemcpy(b1.data(), d, b1.size(), cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(b2.data(), d2, b2.size(), cudaMemcpyDeviceToHost));
    for (void *f : {a, d, d2, (void *)q, (void *)scale, workspace, (void *)truth, (void *)e})
        cudaFree(f);
    return {sqrt(h[0] / (h[1] > 0 ? h[1] : 1)), h[2], b1 == b2};
}

static void check_run(const weight &w, size_t m, nib_gemm_mode mode, nib_gemm_type a_type, nib_gemm_type d_type, bool fold,
                      double bound, double *worst, size_t pad = 0) {
    static const char *const modes[] = {"auto", "w4a16", "w4a8"}, *const types[] = {"bf16", "f16", "f32", "e4m3"};
    const run_result r = run(w, m, mode, a_type, d_type, fold, pad);
    char what[200];
    snprintf(what, sizeof what, "%s %zux%zu m %zu a %s d %s pad %zu: relative L2 %.2e (bound %.0e), %.0f not numbers, %s",
             modes[mode], w.n, w.k, m, types[a_type], types[d_type], pad, r.error, bound, r.not_numbers,
             r.repeats ? "repeats" : "DOES NOT REPEAT");
    check(r.error <= bound && r.not_numbers == 0 && r.repeats, what);
    if (!(r.error <= *worst))
        *worst = r.error;
}

/* ---- packing ---- */
static void test_pack(void) {
    const size_t shapes[][2] = {{16, 16}, {48, 176}, {176, 640}, {640, 1152}, {2880, 2880}};
    for (auto &s : shapes) {
        weight w = make_weight(s[0], s[1], false);
        uint8_t *codes = device<uint8_t>(w.n * w.k / 2), *scales = device<uint8_t>(w.n * w.k / 16);
        float *ts = device<float>(1), h[2];
        OK(nib_gemm_weight_unpack(ctx, w.w, codes, scales, ts, nullptr, &err));
        std::vector<uint8_t> a(w.n * w.k / 2), b(a.size()), c(w.n * w.k / 16), d(c.size());
        CUDA(cudaMemcpy(a.data(), w.codes, a.size(), cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(b.data(), codes, b.size(), cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(c.data(), w.scales, c.size(), cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(d.data(), scales, d.size(), cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(h, ts, 4, cudaMemcpyDeviceToHost));
        check(a == b && c == d && h[0] == 0.0123f, "pack and unpack are the identity");
        cudaFree(codes), cudaFree(scales), cudaFree(ts);
        free_weight(&w);
    }
    printf("pack: unpacks to the same bits\n");
}

/* ---- products ---- */
static void test_products(bool quick) {
    const size_t sizes[] = {16, 48, 176, 640, 1152, 2880, 4096, 5376, 7680, 12288, 21504};
    const size_t tokens[] = {1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 65, 127, 128, 200, 333, 512, 1000, 2048};
    double worst[3] = {0, 0, 0};
    int count = 0;
    for (size_t i = 0; i < 11; i++)
        for (size_t j = 0; j < 11; j++) {
            if (sizes[i] * sizes[j] > (size_t)21504 * 5376 || (quick && (i * 5 + j * 3) % 7))
                continue;
            weight w = make_weight(sizes[i], sizes[j], false);
            for (size_t t = 0; t < 21; t++) {
                if (sizes[i] * sizes[j] > 1000000 && (t * 7 + i + j) % (quick ? 5 : 3)) /* large ones: some of them */
                    continue;
                const size_t m = tokens[t];
                check_run(w, m, NIB_GEMM_W4A16, NIB_GEMM_BF16, NIB_GEMM_BF16, false, 3e-3, worst);
                check_run(w, m, NIB_GEMM_W4A16, NIB_GEMM_BF16, NIB_GEMM_F32, false, 2e-6, worst + 1, t % 2 ? 16 : 0);
                check_run(w, m, NIB_GEMM_W4A8, NIB_GEMM_BF16, NIB_GEMM_F32, true, 1e-2, worst + 2);
                count += 3;
            }
            free_weight(&w);
        }
    printf("products: %d, worst relative L2: w4a16 bf16 %.1e, f32 %.1e, w4a8 f32 %.1e\n", count, worst[0], worst[1], worst[2]);
}

int main(int argc, char **argv) {
    const bool quick = argc > 1 && !strcmp(argv[1], "--quick");
    int devices = 0;
    setvbuf(stdout, nullptr, _IOLBF, 0); /* what was said stands when a hang is killed */
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("SKIP: no GPU\n");
        return 0;
    }
    OK(nib_gemm_open(0, &ctx, &err));
    char text[1024];
    for (size_t m : {1, 8, 64, 2048}) {
        OK(nib_gemm_explain(ctx, 0, NIB_GEMM_AUTO, m, 4096, 4096, text, sizeof text, &err));
        printf("%s\n", text);
    }
    test_pack();
    test_products(quick);
    nib_gemm_close(ctx);
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed > 0;
}

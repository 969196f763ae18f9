/* SPDX-License-Identifier: Apache-2.0
 *
 * The FP4 products on a GPU against FP64 over the same quantized operands, through the public API alone.
 * usage: gpu_gemm [--quick | short]; prints one line a group of checks and exits 1 when one failed, 0 with "SKIP" without a GPU.
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

extern "C" {
#include "gemm/gemm.h"
#include "gemm/gpu/launch.h"
#include "num/mxfp4.h"
#include "num/nvfp4.h"
#include "quant/scale_search.h"
}

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

/* A little of everything, for compute-sanitizer. */
static void test_short(void) {
    double worst[2] = {0, 0};
    const size_t shapes[][2] = {{48, 640}, {640, 1152}};
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], true);
        for (size_t m : {1, 3, 16, 31, 64, 130}) {
            check_run(w, m, NIB_GEMM_W4A16, NIB_GEMM_BF16, NIB_GEMM_F32, false, 2e-6, worst);
            check_run(w, m, NIB_GEMM_W4A8, NIB_GEMM_BF16, NIB_GEMM_BF16, true, 1e-2, worst + 1);
        }
        free_weight(&w);
    }
    printf("short: w4a16 %.1e, w4a8 %.1e\n", worst[0], worst[1]);
}

/* ---- what else a product can be asked for ---- */
static void test_forms(void) {
    weight w = make_weight(640, 1152, true);
    double worst = 0;
    for (size_t m : {1, 5, 16, 40, 200})
        for (nib_gemm_type d : {NIB_GEMM_BF16, NIB_GEMM_F16, NIB_GEMM_F32}) {
            const double bound = d == NIB_GEMM_BF16 ? 3e-3 : d == NIB_GEMM_F16 ? 1e-3 : 2e-6;
            check_run(w, m, NIB_GEMM_W4A16, NIB_GEMM_F16, d, false, bound, &worst);
            check_run(w, m, NIB_GEMM_W4A16, NIB_GEMM_F32, d, false, bound, &worst);
            check_run(w, m, NIB_GEMM_W4A8, NIB_GEMM_E4M3, d, true, 1e-2, &worst);
            check_run(w, m, NIB_GEMM_W4A8, NIB_GEMM_F16, d, true, 1e-2, &worst);
            check_run(w, m, NIB_GEMM_AUTO, NIB_GEMM_BF16, d, m > 32, m > 32 ? 1e-2 : bound, &worst); /* exact to 32 */
        }
    /* alpha, beta C (in place) and a bias of any alignment: against the plain product, in FP32 */
    const size_t n = w.n, k = w.k;
    auto number = [](const std::vector<uint8_t> &v, size_t i, nib_gemm_type type) {
        uint32_t bits = 0;
        float x;
        memcpy((char *)&bits + 4 - type_bytes(type), v.data() + i * type_bytes(type), type_bytes(type));
        memcpy(&x, &bits, 4);
        return (double)x;
    };
    for (size_t m : {1, 9, 24, 70})
        for (nib_gemm_mode mode : {NIB_GEMM_W4A16, NIB_GEMM_W4A8})
            for (nib_gemm_type type : {NIB_GEMM_BF16, NIB_GEMM_F32}) {
                const size_t each = type_bytes(type);
                __nv_bfloat16 *a = device<__nv_bfloat16>(m * k);
                uint8_t *c = device<uint8_t>(m * n * each), *bias = device<uint8_t>((n + 1) * each);
                float *plain = device<float>(m * n);
                fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 1), fill<<<64, 256>>>(c, type, m * n, 2);
                fill<<<64, 256>>>(bias, type, n + 1, 3);
                nib_gemm_product p = {};
                p.weight = w.w, p.mode = mode, p.m = m, p.a = a, p.d = plain, p.d_type = NIB_GEMM_F32;
                const size_t bytes = nib_gemm_workspace_bytes(ctx, &p) + (1 << 20);
                void *workspace = device<uint8_t>(bytes);
                OK(nib_gemm_matmul(ctx, &p, workspace, bytes, nullptr, &err));
                std::vector<float> hp(m * n);
                std::vector<uint8_t> hd(m * n * each), hc(hd.size()), hb((n + 1) * each);
                CUDA(cudaMemcpy(hp.data(), plain, m * n * 4, cudaMemcpyDeviceToHost));
                CUDA(cudaMemcpy(hc.data(), c, hc.size(), cudaMemcpyDeviceToHost));
                CUDA(cudaMemcpy(hb.data(), bias, hb.size(), cudaMemcpyDeviceToHost));
                p.d = c, p.d_type = type, p.c = c, p.bias = bias + each, p.alpha = 0.5f, p.beta = -2.0f;
                OK(nib_gemm_matmul(ctx, &p, workspace, bytes, nullptr, &err));
                CUDA(cudaMemcpy(hd.data(), c, hd.size(), cudaMemcpyDeviceToHost));
                double e = 0, all = 0;
                for (size_t i = 0; i < m * n; i++) {
                    const double t = 0.5 * hp[i] + number(hb, i % n + 1, type) - 2.0 * number(hc, i, type);
                    e += (number(hd, i, type) - t) * (number(hd, i, type) - t), all += t * t;
                }
                check(sqrt(e / all) < (type == NIB_GEMM_F32 ? 1e-6 : 3e-3), "alpha, beta C and bias");
                for (void *q : {(void *)a, (void *)c, (void *)bias, (void *)plain, workspace})
                    cudaFree(q);
            }
    nib_gemm_product p = {};
    p.weight = w.w;
    check(nib_gemm_matmul(ctx, &p, nullptr, 0, nullptr, &err) == NIB_OK, "no tokens: nothing to do");
    p.m = 64, p.a = p.d = w.codes, p.mode = NIB_GEMM_W4A8;
    check(nib_gemm_matmul(ctx, &p, nullptr, 0, nullptr, &err) == NIB_BAD_ARGUMENT && strstr(err.text, "workspace"),
          "a small workspace is refused");
    p.mode = NIB_GEMM_W4A4;
    check(nib_gemm_matmul(ctx, &p, nullptr, 0, nullptr, &err) == NIB_UNSUPPORTED && strstr(err.text, "w4a16"),
          "w4a4 is refused by name");
    free_weight(&w);
    printf("forms: types, alpha, beta, bias, errors; worst relative L2 %.1e\n", worst);
}

/* A row of a batch is the row alone, within the sums' order; graphs and two streams give the same bits. */
static void test_graph_and_streams(void) {
    weight w = make_weight(2880, 2880, true);
    const size_t m = 96, n = w.n, k = w.k;
    __nv_bfloat16 *a = device<__nv_bfloat16>(m * k), *d[3];
    fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 4);
    cudaStream_t s[2];
    void *workspace[2];
    nib_gemm_product p = {};
    p.weight = w.w, p.m = m, p.a = a;
    const size_t bytes = nib_gemm_workspace_bytes(ctx, &p);
    for (int i = 0; i < 3; i++)
        d[i] = device<__nv_bfloat16>(m * n);
    for (int i = 0; i < 2; i++) {
        CUDA(cudaStreamCreateWithFlags(&s[i], cudaStreamNonBlocking));
        workspace[i] = device<uint8_t>(bytes);
    }
    CUDA(cudaDeviceSynchronize());
    for (int round = 0; round < 50; round++)
        for (int i = 0; i < 2; i++) {
            p.d = d[i];
            OK(nib_gemm_matmul(ctx, &p, workspace[i], bytes, s[i], &err));
        }
    CUDA(cudaDeviceSynchronize());
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamBeginCapture(s[0], cudaStreamCaptureModeGlobal));
    p.d = d[2];
    OK(nib_gemm_matmul(ctx, &p, workspace[0], bytes, s[0], &err));
    OK(nib_gemm_matmul(ctx, &p, workspace[0], bytes, s[0], &err));
    CUDA(cudaStreamEndCapture(s[0], &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaMemset(d[2], 0xff, m * n * 2));
    for (int i = 0; i < 3; i++)
        CUDA(cudaGraphLaunch(exec, s[0]));
    CUDA(cudaDeviceSynchronize());
    std::vector<uint16_t> h[3];
    for (int i = 0; i < 3; i++) {
        h[i].resize(m * n);
        CUDA(cudaMemcpy(h[i].data(), d[i], m * n * 2, cudaMemcpyDeviceToHost));
    }
    check(h[0] == h[1], "two streams give the same bits");
    check(h[0] == h[2], "a captured graph gives the same bits");
    printf("graph capture and two streams: the same bits\n");
    free_weight(&w);
}

/* ---- the other sources of weights, and the quantizers, against the CPU's codecs ---- */
static std::vector<float> shaped_values(size_t n, size_t k) {
    std::vector<float> x(n * k);
    for (size_t i = 0; i < x.size(); i++) {
        const uint32_t h = mix((uint32_t)i + 17), b = mix((uint32_t)(i / 16) + 5) & 31;
        float v = sqrtf(-2 * logf(((h & 0xffff) + 0.5f) / 65536)) * cosf((h >> 16) / 32768.0f * 3.14159265f) * 0.02f;
        v = b == 0 ? 0.0f : b == 1 ? (i % 16 == 3 ? 1.5f : v * 1e-3f) : b == 2 ? v * 1e-5f : b == 3 ? (i & 1 ? -0.0f : v) : v;
        uint32_t bits;
        memcpy(&bits, &v, 4);
        bits &= 0xffff0000u; /* a BF16 value, so that all three types hold it (FP16 where in range) */
        memcpy(&x[i], &bits, 4);
    }
    return x;
}

static void test_quantizers(void) {
    const size_t n = 96, k = 2880;
    const std::vector<float> x = shaped_values(n, k);
    std::vector<uint16_t> bf(x.size());
    for (size_t i = 0; i < x.size(); i++)
        memcpy(&bf[i], (const char *)&x[i] + 2, 2);
    float *dx = device<float>(n * k), *ts = device<float>(2);
    uint16_t *db = device<uint16_t>(n * k);
    uint8_t *codes = device<uint8_t>(n * k / 2), *scales = device<uint8_t>(n * k / 16);
    CUDA(cudaMemcpy(dx, x.data(), x.size() * 4, cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(db, bf.data(), bf.size() * 2, cudaMemcpyHostToDevice));
    static const quant_method cpu[] = {QM_RTN, QM_FOUR_OVER_SIX, QM_SWEEP};
    std::vector<uint8_t> c(n * k / 2), s(n * k / 16), gc(c.size()), gs(s.size());
    for (int method = NIB_GEMM_RTN; method <= NIB_GEMM_FP8_EXACT; method++) {
        float gts[2];
        nib_gemm_weight *w;
        for (int packed = 0; packed < 2; packed++) {
            if (packed) {
                nib_gemm_source source = {};
                source.format = NIB_GEMM_FROM_F32, source.method = (nib_gemm_method)method, source.n = n, source.k = k, source.values = dx;
                OK(nib_gemm_weight_create(ctx, n, k, nullptr, &w, &err));
                OK(nib_gemm_weight_pack(ctx, w, &source, nullptr, &err));
                OK(nib_gemm_weight_unpack(ctx, w, codes, scales, ts, nullptr, &err));
            } else {
                nib_gemm_quantize_args q = {};
                q.x = db, q.rows = n, q.cols = k, q.method = (nib_gemm_method)method;
                q.codes = codes, q.scales = scales, q.tensor_scale = ts;
                OK(nib_gemm_quantize_nvfp4(ctx, &q, nullptr, &err));
            }
            CUDA(cudaMemcpy(gc.data(), codes, gc.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(gs.data(), scales, gs.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(gts, ts, 4, cudaMemcpyDeviceToHost));
            if (packed)
                nib_gemm_weight_free(w);
            if (method == NIB_GEMM_FP8_EXACT) { /* no twin on the CPU: every product is E4M3 */
                int wrong = 0;
                for (size_t i = 0; i < c.size() * 2; i++) {
                    const float v = e2m1(gc[i / 2] >> 4 * (i & 1) & 15) * e4m3(gs[i / 16]) * 0.125f;
                    int found = v == 0;
                    for (int b = 1; b < 127 && !found; b++)
                        found = e4m3(b) == fabsf(v);
                    wrong += !found;
                }
                check(wrong == 0, "fp8-exact: every weight is E4M3 after folding");
                continue;
            }
            scale_search search;
            float amax = 0;
            for (float v : x)
                amax = fmaxf(amax, fabsf(v));
            scale_search_init(&search, cpu[method], amax, false, nullptr);
            for (size_t r = 0; r < n; r++)
                scale_search_nvfp4_row(&search, x.data() + r * k, k, c.data() + r * k / 2, s.data() + r * k / 16);
            size_t differ = 0;
            for (size_t i = 0; i < c.size(); i++)
                differ += c[i] != gc[i];
            for (size_t i = 0; i < s.size(); i++)
                differ += s[i] != gs[i];
            char what[100];
            snprintf(what, sizeof what, "method %d, packed %d: %zu bytes differ from the CPU's, scale %g %g", method, packed,
                     differ, gts[0], search.tensor_scale);
            check(differ == 0 && gts[0] == search.tensor_scale, what);
        }
    }
    /* the 128 x 4 tile: row r, block b at 512 (r / 128 * tiles of a row + b / 4) + 16 (r % 32) + 4 (r / 32 % 4) + b % 4 */
    const size_t rows = 96, blocks = k / 16, tile_bytes = nib_gemm_scale_tile_bytes(rows, k);
    uint8_t *tiles = device<uint8_t>(tile_bytes);
    nib_gemm_quantize_args q = {};
    q.x = db, q.rows = rows, q.cols = k, q.codes = codes, q.scales = scales, q.tensor_scale = ts;
    OK(nib_gemm_quantize_nvfp4(ctx, &q, nullptr, &err));
    q.scales = tiles, q.scale_tiles = true;
    CUDA(cudaMemset(tiles, 0xff, tile_bytes));
    OK(nib_gemm_quantize_nvfp4(ctx, &q, nullptr, &err));
    std::vector<uint8_t> tile(tile_bytes), want(tile_bytes, 0);
    CUDA(cudaMemcpy(tile.data(), tiles, tile_bytes, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(gs.data(), scales, gs.size(), cudaMemcpyDeviceToHost));
    for (size_t r = 0; r < rows; r++)
        for (size_t b = 0; b < blocks; b++)
            want[512 * (r / 128 * ((blocks + 3) / 4) + b / 4) + 16 * (r % 32) + 4 * (r / 32 % 4) + b % 4] = gs[r * blocks + b];
    check(tile == want, "scale tiles hold the plain scales, zeros elsewhere");
    cudaFree(tiles);
    for (void *p : {(void *)dx, (void *)ts, (void *)db, (void *)codes, (void *)scales})
        cudaFree(p);
    printf("quantizers: rtn, 4over6 and sweep equal the CPU's codec; fp8-exact is exact\n");
}

static void test_sources(void) {
    const size_t n = 48, k = 640;
    weight w = make_weight(n, k, false);
    std::vector<uint8_t> c(n * k / 2), s(n * k / 16), gguf(n * k / 64 * 36), c2(c.size()), s2(s.size());
    CUDA(cudaMemcpy(c.data(), w.codes, c.size(), cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(s.data(), w.scales, s.size(), cudaMemcpyDeviceToHost));
    for (size_t b = 0; b < n * k / 64; b++)
        nvfp4_to_gguf(c.data() + b * 32, s.data() + b * 4, gguf.data() + b * 36);
    uint8_t *src = device<uint8_t>(n * k), *sc = device<uint8_t>(n * k / 16), *codes = device<uint8_t>(n * k / 2), *scales = device<uint8_t>(n * k / 16);
    float *ts = device<float>(2), h;
    nib_gemm_source source = {};
    source.n = n, source.k = k, source.values = src;
    auto pack = [&](nib_gemm_format format, const std::vector<uint8_t> &v, const std::vector<uint8_t> *scale) {
        source.format = format;
        source.scales = scale ? sc : nullptr;
        CUDA(cudaMemcpy(src, v.data(), v.size(), cudaMemcpyHostToDevice));
        if (scale)
            CUDA(cudaMemcpy(sc, scale->data(), scale->size(), cudaMemcpyHostToDevice));
        OK(nib_gemm_weight_pack(ctx, w.w, &source, nullptr, &err));
        OK(nib_gemm_weight_unpack(ctx, w.w, codes, scales, ts, nullptr, &err));
        CUDA(cudaMemcpy(c2.data(), codes, c2.size(), cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(s2.data(), scales, s2.size(), cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(&h, ts, 4, cudaMemcpyDeviceToHost));
    };
    pack(NIB_GEMM_FROM_NVFP4_GGUF, gguf, nullptr);
    check(c2 == c && s2 == s && h == 1.0f, "GGUF blocks pack as the plain layout");
    source.tensor_scale = w.tensor_scale, source.divides = true;
    pack(NIB_GEMM_FROM_NVFP4, c, &s);
    check(h == 1.0f / 0.0123f, "compressed-tensors' divisor");
    source.tensor_scale = nullptr, source.divides = false;
    std::vector<uint8_t> bad = s;
    bad[77] = 0x7f;
    pack(NIB_GEMM_FROM_NVFP4, c, &bad);
    check(h != h, "a NaN block scale makes the tensor's scale NaN");
    std::vector<uint8_t> e(n * k / 32), mx(n * k / 32 * 17);
    for (int wide = 0; wide < 2; wide++) { /* 12 octaves are kept, 40 not: what changes is counted */
        for (size_t i = 0; i < e.size(); i++)
            e[i] = (uint8_t)(110 + mix((uint32_t)i) % (wide ? 40 : 12));
        for (size_t b = 0; b < e.size(); b++)
            mxfp4_to_gguf(c.data() + b * 16, e[b], mx.data() + b * 17);
        for (int form = 0; form < 2; form++) {
            uint64_t changed = 0, wrong = 0;
            if (form)
                pack(NIB_GEMM_FROM_MXFP4_GGUF, mx, nullptr);
            else
                pack(NIB_GEMM_FROM_MXFP4, c, &e);
            OK(nib_gemm_weight_changed(w.w, nullptr, &changed, &err));
            for (size_t i = 0; i < n * k; i++) {
                const float was = e2m1(c[i / 2] >> 4 * (i & 1) & 15) * ldexpf(1, e[i / 32] - 127);
                wrong += was != e2m1(c2[i / 2] >> 4 * (i & 1) & 15) * e4m3(s2[i / 16]) * h;
            }
            check(wrong == changed && (wide ? changed > 0 : changed == 0), "MXFP4: values that change are counted");
        }
    }
    for (void *p : {(void *)src, (void *)sc, (void *)codes, (void *)scales, (void *)ts})
        cudaFree(p);
    free_weight(&w);
    printf("sources: GGUF, compressed-tensors, MXFP4 in both layouts, NaN scales\n");
}

/* Every BF16 number, NaN and infinity too, in blocks of neighbours and of strangers: codes by the public call, of the values
 * as BF16 and, from FP32 by the other path, of the same values. */
static void test_every_bf16(void) {
    const size_t rows = 64, cols = 2048, all = rows * cols;
    std::vector<uint16_t> h(all);
    std::vector<float> f(all);
    for (size_t i = 0; i < all; i++) {
        h[i] = i < 65536 ? (uint16_t)i : (uint16_t)(i * 40503u);
        const uint32_t bits = (uint32_t)h[i] << 16;
        memcpy(&f[i], &bits, 4);
    }
    uint16_t *dh = device<uint16_t>(all);
    float *df = device<float>(all), *ts = device<float>(2);
    uint8_t *codes = device<uint8_t>(all / 2), *scales = device<uint8_t>(all / 16);
    CUDA(cudaMemcpy(dh, h.data(), all * 2, cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(df, f.data(), all * 4, cudaMemcpyHostToDevice));
    size_t differ = 0;
    for (float scale : {1.0f, 0.00371f, 0x1p-60f, 0x1p20f}) {
        std::vector<uint8_t> c[2], s[2];
        const float facts[2] = {scale, scale * 2688.0f};
        CUDA(cudaMemcpy(ts, facts, 8, cudaMemcpyHostToDevice));
        for (int wide = 0; wide < 2; wide++) {
            nib_gemm_quantize_args q = {};
            q.x = wide ? (void *)df : dh, q.x_type = wide ? NIB_GEMM_F32 : NIB_GEMM_BF16, q.rows = rows, q.cols = cols;
            q.given_scale = true, q.codes = codes, q.scales = scales, q.tensor_scale = ts;
            OK(nib_gemm_quantize_nvfp4(ctx, &q, nullptr, &err));
            c[wide].resize(all / 2), s[wide].resize(all / 16);
            CUDA(cudaMemcpy(c[wide].data(), codes, all / 2, cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(s[wide].data(), scales, all / 16, cudaMemcpyDeviceToHost));
        }
        for (size_t i = 0; i < all; i++) { /* against the definition: the quotient, rounded to the nearest code, even on ties */
            const float q = f[i] / (e4m3(s[0][i / 16]) * scale), m = fminf(fabsf(q), 6.0f);
            const int low = m < 2 ? (int)nearbyintf(2 * m) : m < 4 ? 2 + (int)nearbyintf(m) : 4 + (int)nearbyintf(m / 2);
            const int want = q != q ? 0 : (q < 0 ? 8 : 0) | low;
            differ += (c[0][i / 2] >> 4 * (i & 1) & 15) != want;
        }
        differ += c[0] != c[1] || s[0] != s[1];
    }
    check(differ == 0, "every BF16 number is quantized by definition");
    for (void *p : {(void *)dh, (void *)df, (void *)ts, (void *)codes, (void *)scales})
        cudaFree(p);
    printf("every BF16 number, as BF16 and as FP32: %zu differ\n", differ);
}

/* ---- experts ---- */
static void test_grouped(void) {
    /* the third: how often the seven experts come, enough of them for a block's teams */
    const size_t shapes[][3] = {{768, 2048, 1}, {48, 176, 1}, {176, 12288, 1}, {768, 2048, 12}, {1040, 768, 12}, {48, 176, 100}};
    for (auto &shape : shapes) {
        const size_t n = shape[0], k = shape[1], experts = 7 * shape[2];
        const int some[] = {0, 1, 3, 8, 9, 0, 40};
        std::vector<int> counts(experts), offsets(experts + 1);
        weight w[7];
        std::vector<const void *> packed(experts);
        for (size_t e = 0; e < experts; e++) {
            if (e < 7)
                w[e] = make_weight(n, k, e % 2);
            packed[e] = nib_gemm_weight_data(w[e % 7].w);
            counts[e] = some[(e + e / 7) % 7];
            offsets[e + 1] = offsets[e] + counts[e];
        }
        const size_t m = offsets[experts];
        __nv_bfloat16 *a = device<__nv_bfloat16>(m * k);
        float *d = device<float>(m * n);
        int *dev_offsets = device<int>(experts + 1);
        const void **dev_packed = device<const void *>(experts);
        CUDA(cudaMemcpy(dev_offsets, offsets.data(), offsets.size() * sizeof(int), cudaMemcpyHostToDevice));
        CUDA(cudaMemcpy(dev_packed, packed.data(), packed.size() * sizeof(void *), cudaMemcpyHostToDevice));
        CUDA(cudaMemset(d, 0xff, m * n * 4));
        fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 9);
        nib_gemm_group p = {};
        p.product.weight = w[0].w, p.product.m = m, p.product.a = a, p.product.d = d, p.product.d_type = NIB_GEMM_F32;
        p.n_experts = experts, p.offsets = dev_offsets, p.packed = dev_packed;
        OK(nib_gemm_grouped(ctx, &p, nullptr, 0, nullptr, &err));
        CUDA(cudaDeviceSynchronize());
        double *truth = device<double>(m * n), *e3 = device<double>(3), h[3];
        CUDA(cudaMemset(e3, 0, 24));
        for (size_t e = 0; e < experts; e++)
            if (counts[e]) {
                places at = {counts[e], (int)n, counts[e], (int)n};
                oracle<<<(unsigned)((counts[e] * n + 7) / 8), 256>>>(at, w[e % 7].codes, w[e % 7].scales, w[e % 7].tensor_scale, (int)k,
                                                                     a + offsets[e] * k, NIB_GEMM_BF16, k, nullptr, false, truth);
                compare<<<(unsigned)((counts[e] * n + 255) / 256), 256>>>(at, d + offsets[e] * n, NIB_GEMM_F32, n, truth, 0, e3);
            }
        CUDA(cudaMemcpy(h, e3, 24, cudaMemcpyDeviceToHost));
        char what[100];
        snprintf(what, sizeof what, "grouped %zu of %zux%zu: relative L2 %.1e, %.0f not numbers", experts, n, k, sqrt(h[0] / h[1]), h[2]);
        check(sqrt(h[0] / h[1]) <= 2e-6 && h[2] == 0, what);
        for (void *q : {(void *)a, (void *)d, (void *)dev_offsets, (void *)dev_packed, (void *)truth, (void *)e3})
            cudaFree(q);
        for (auto &x : w)
            free_weight(&x);
    }
    printf("grouped: experts with 0 to 40 tokens\n");
}

/* ---- wgmma: tiles with clusters, whole tiles and cut ones, on all multiprocessors and, in several waves, on five, launched by
 * hand, since the choice takes few of them for a shape. FP32 sums of BF16 are never cut: those are stored in BF16. ---- */
static double wgmma_error(const weight &w, const gemm_task &t, bool fp8, const void *a, const uint8_t *q, double *not_numbers) {
    const size_t m = t.m, n = w.n, k = w.k;
    double *truth = device<double>(m * n), *e = device<double>(3), h[3];
    const places at = {(int)m, (int)n, (int)m, (int)n};
    CUDA(cudaMemset(t.out.d, 0xff, m * n * 4));
    if (t.cut)
        CUDA((cudaError_t)gemm_zero_flags(&t));
    CUDA((cudaError_t)(fp8 ? gemm_wgmma_e4m3(&t) : gemm_wgmma_bf16(&t)));
    CUDA(cudaMemset(e, 0, 24));
    oracle<<<(unsigned)((m * n + 7) / 8), 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)k, fp8 ? (const void *)q : a,
                                                 fp8 ? NIB_GEMM_E4M3 : NIB_GEMM_BF16, k, fp8 ? t.out.token_scale : nullptr, fp8, truth);
    compare<<<(unsigned)((m * n + 255) / 256), 256>>>(at, t.out.d, t.out.type, n, truth, 0, e);
    CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
    cudaFree(truth), cudaFree(e);
    *not_numbers = h[2];
    return sqrt(h[0] / h[1]);
}

static void test_wgmma_forms(void) {
    const size_t shapes[][2] = {{48, 640}, {640, 1152}, {1152, 2880}};
    double worst[2] = {0, 0};
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], true);
        const size_t n = w.n, k = w.k, groups = gemm_groups(k);
        for (size_t m : {1, 40, 130, 300})
            for (int fp8 = 0; fp8 < 2; fp8++) {
                __nv_bfloat16 *a = device<__nv_bfloat16>(m * k);
                float *d = device<float>(m * n), *scale = device<float>(m + 256), *partial = device<float>((size_t)132 * 128 * 256);
                uint8_t *q = device<uint8_t>(m * k), *prepared = device<uint8_t>(m * groups * 256);
                uint32_t *flags = device<uint32_t>(132);
                fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 8);
                OK(nib_gemm_quantize_e4m3(ctx, a, NIB_GEMM_BF16, m, k, k, q, scale, nullptr, &err));
                OK(gemm_prepare(ctx, fp8 ? GEMM_A_E4M3_MMA : GEMM_A_BF16_MMA, a, NIB_GEMM_BF16, m, k, k, prepared, scale, nullptr, &err));
                for (int tile : {32, 64, 128, 256})
                    for (int form : {0, 1, 2, 4, 8, 9}) { /* 0: tiles are cut; 8, 9: cut and whole ones in several waves */
                        const int ranks = form & 7;
                        if (ranks > (tile <= 64 ? 4 : tile == 128 ? 2 : 1))
                            continue;
                        gemm_task t = {};
                        t.w = nib_gemm_weight_data(w.w), t.a = prepared;
                        t.m = (int)m, t.n = (int)n, t.k = (int)k, t.groups = (int)groups, t.terms = 1;
                        t.tile_tokens = tile, t.slices = ranks ? ranks : 1, t.cut = ranks == 0;
                        t.partial = partial, t.flags = flags, t.n_sms = form & 8 ? 5 : 132;
                        t.dependent = true, t.tensor_map = ctx->tensor_map;
                        t.out.d = d, t.out.type = t.cut && !fp8 ? NIB_GEMM_BF16 : NIB_GEMM_F32;
                        t.out.alpha = 1, t.out.ldd = (int)n, t.out.token_scale = scale;
                        t.out.tensor_scale = (const float *)((const char *)t.w + gemm_scale_offset(n, k));
                        double wrong, error = wgmma_error(w, t, fp8, a, q, &wrong);
                        const double bound = fp8 ? 4e-3 : t.cut ? 3e-3 : 2e-6;
                        worst[fp8] = fmax(worst[fp8], bound == 3e-3 ? 0 : error);
                        char what[120];
                        snprintf(what, sizeof what, "wgmma %s %zux%zu m %zu tile %d form %d: relative L2 %.1e, %.0f not numbers",
                                 fp8 ? "e4m3" : "bf16", n, k, m, tile, form, error, wrong);
                        check(error <= bound && wrong == 0, what);
                    }
                for (void *f : {(void *)a, (void *)d, (void *)scale, (void *)partial, (void *)q, (void *)prepared, (void *)flags})
                    cudaFree(f);
            }
        free_weight(&w);
    }
    printf("wgmma, tiles and ways to share K by hand: bf16 %.1e, e4m3 %.1e\n", worst[0], worst[1]);
}

/* ---- few: every way to share K, in a chain of dependent launches ---- */
/* The gated unit (SiLU) of TRUTH [m, n], on the device [m, n / 2]. */
static double *gated_truth(const double *truth, size_t m, size_t n) {
    std::vector<double> all(m * n), units(m * (n / 2));
    CUDA(cudaMemcpy(all.data(), truth, m * n * 8, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < units.size(); i++) {
        const double *row = &all[i / (n / 2) * n], g = row[i % (n / 2)];
        units[i] = g / (1 + exp(-g)) * row[n / 2 + i % (n / 2)];
    }
    double *out = device<double>(units.size());
    CUDA(cudaMemcpy(out, units.data(), units.size() * 8, cudaMemcpyHostToDevice));
    return out;
}

static void test_few_forms(void) {
    const size_t shapes[][2] = {{48, 640}, {640, 1152}, {2880, 2880}, {176, 12288}, {1152, 5376}};
    double worst = 0;
    int n_run = 0, n_gated = 0;
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], true);
        const size_t n = w.n, k = w.k, groups = gemm_groups(k);
        for (size_t m : {3, 16, 31}) {
            __nv_bfloat16 *a = device<__nv_bfloat16>(m * k);
            float *d = device<float>(m * n);
            double *truth = device<double>(m * n), *e = device<double>(3), h[3];
            const places at = {(int)m, (int)n, (int)m, (int)n};
            fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 8);
            oracle<<<(unsigned)((m * n + 7) / 8), 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)k, a, NIB_GEMM_BF16, k, nullptr,
                                                         false, truth);
            double *unit_truth = n % 32 ? nullptr : gated_truth(truth, m, n);
            for (int ranks : {1, 2, 4})
                for (int form : {1, 2, 4, 17, 18, 20, 33, 34, 36}) { /* 16: in many rounds, of one cluster and two; 32: gated */
                    const int parts = form & 15;
                    const bool gated = form & 32;
                    const size_t n_out = gated ? n / 2 : n;
                    gemm_task t = {};
                    t.w = nib_gemm_weight_data(w.w), t.a = a;
                    t.m = (int)m, t.n = (int)n, t.k = (int)k, t.groups = (int)groups, t.lda = (int)k, t.terms = 1;
                    t.tile_tokens = m <= 8 ? 8 : m <= 16 ? 16 : 32, t.slices = ranks * parts, t.parts = parts;
                    t.n_sms = ctx->n_sms, t.max_shared = ctx->max_shared, t.dependent = true, t.tensor_map = ctx->tensor_map;
                    t.clusters = ranks == 1 ? ctx->n_sms : ranks == 2 ? ctx->pairs : ctx->fours;
                    t.clusters = form & 16 ? parts == 4 ? 2 : 1 : t.clusters;
                    t.out.d = d, t.out.type = NIB_GEMM_F32, t.out.alpha = 1, t.out.ldd = (int)n_out;
                    t.unit = gated ? GEMM_UNIT_SILU : GEMM_UNIT_NONE;
                    t.out.tensor_scale = (const float *)((const char *)t.w + gemm_scale_offset(n, k));
                    if (groups > 14 * (size_t)t.slices) /* more than one accumulator may sum */
                        continue;
                    if (gated && (!unit_truth || ranks * 4 > t.tile_tokens)) /* what gemm_chain does not give it */
                        continue;
                    CUDA(cudaMemset(d, 0xff, m * n * 4));
                    int code = cudaSuccess;
                    for (int i = 0; i < 8 && !code; i++) /* the next one's blocks start while this one runs */
                        code = gemm_few(&t);
                    if (code == cudaErrorInvalidValue) /* does not fit */
                        continue;
                    CUDA((cudaError_t)code);
                    CUDA(cudaMemset(e, 0, 24));
                    const places out_at = {(int)m, (int)n_out, (int)m, (int)n_out};
                    compare<<<(unsigned)((m * n_out + 255) / 256), 256>>>(out_at, d, NIB_GEMM_F32, n_out, gated ? unit_truth : truth, 0, e);
                    CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
                    const double error = sqrt(h[0] / h[1]);
                    worst = fmax(worst, gated ? 0 : error);
                    (gated ? n_gated : n_run)++;
                    char what[120];
                    snprintf(what, sizeof what, "few %zux%zu m %zu ranks %d form %d: relative L2 %.1e, %.0f not numbers", n, k, m,
                             ranks, form, error, h[2]);
                    check(error <= (gated ? 1e-5 : 2e-6) && h[2] == 0, what);
                }
            for (void *f : {(void *)a, (void *)d, (void *)truth, (void *)unit_truth, (void *)e})
                cudaFree(f);
        }
        free_weight(&w);
    }
    check(n_gated >= 15, "few: some ways to share K of gated products fit");
    check(n_run >= 150, "few: most ways to share K fit");
    printf("few: %d ways to share K by hand: %.1e; %d gated\n", n_run, worst, n_gated);
}

/* ---- kernels that this GPU's table does not choose: launched by hand ---- */
static void test_other_generations(void) {
    const size_t shapes[][2] = {{48, 176}, {640, 1152}, {2880, 2880}};
    double worst[2] = {0, 0};
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], true);
        const size_t n = w.n, k = w.k, groups = (k + 127) / 128;
        for (size_t m : {1, 17, 64, 65, 200})
            for (int fp8 = 0; fp8 < 2; fp8++) {
                __nv_bfloat16 *a = device<__nv_bfloat16>(m * k);
                float *d = device<float>(m * n), *scale = device<float>(m + 256);
                uint8_t *q = device<uint8_t>(m * k), *prepared = device<uint8_t>(m * groups * 128);
                fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 8);
                CUDA(cudaMemset(d, 0xff, m * n * 4));
                OK(nib_gemm_quantize_e4m3(ctx, a, NIB_GEMM_BF16, m, k, k, q, scale, nullptr, &err));
                OK(gemm_prepare(ctx, GEMM_A_E4M3_MMA, a, NIB_GEMM_BF16, m, k, k, prepared, scale, nullptr, &err));
                gemm_task t = {};
                t.w = nib_gemm_weight_data(w.w), t.a = fp8 ? (void *)prepared : a;
                t.m = (int)m, t.n = (int)n, t.k = (int)k, t.groups = (int)groups, t.lda = (int)(fp8 ? groups * 128 : k);
                t.terms = 1, t.slices = 1, t.max_shared = 99 * 1024, t.n_sms = 132;
                t.out.d = d, t.out.type = NIB_GEMM_F32, t.out.alpha = 1, t.out.ldd = (int)n, t.out.token_scale = scale;
                t.out.tensor_scale = (const float *)((const char *)t.w + gemm_scale_offset(n, k));
                CUDA((cudaError_t)(fp8 ? gemm_tile_e4m3(&t) : gemm_tile_bf16(&t)));
                double *truth = device<double>(m * n), *e = device<double>(3), h[3];
                CUDA(cudaMemset(e, 0, 24));
                places at = {(int)m, (int)n, (int)m, (int)n};
                oracle<<<(unsigned)((m * n + 7) / 8), 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)k, fp8 ? (void *)q : a,
                                                             fp8 ? NIB_GEMM_E4M3 : NIB_GEMM_BF16, k, fp8 ? scale : nullptr, fp8, truth);
                compare<<<(unsigned)((m * n + 255) / 256), 256>>>(at, d, NIB_GEMM_F32, n, truth, 0, e);
                CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
                const double error = sqrt(h[0] / h[1]);
                worst[fp8] = fmax(worst[fp8], error);
                check(error <= (fp8 ? 1e-4 : 2e-6) && h[2] == 0, fp8 ? "tile e4m3 (Ada)" : "tile bf16 (Ampere)");
                if (!fp8 && m <= 16) { /* the small-memory forms of gemv and gemv16 */
                    CUDA(cudaMemset(d, 0xff, m * n * 4));
                    CUDA((cudaError_t)(m == 1 ? gemm_gemv(&t) : gemm_gemv16(&t)));
                    CUDA(cudaMemset(e, 0, 24));
                    compare<<<(unsigned)((m * n + 255) / 256), 256>>>(at, d, NIB_GEMM_F32, n, truth, 0, e);
                    CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
                    check(sqrt(h[0] / h[1]) <= 2e-6 && h[2] == 0, "gemv with 99 KB of shared memory");
                }
                for (void *f : {(void *)a, (void *)d, (void *)scale, (void *)q, (void *)prepared, (void *)truth, (void *)e})
                    cudaFree(f);
            }
        free_weight(&w);
    }
    printf("kernels of other generations: tile bf16 %.1e, tile e4m3 %.1e\n", worst[0], worst[1]);
}

/* W4A4, whose instruction is emulated here: the context says that it is a GPU which has it. */
static void test_w4a4(void) {
    nib_gemm blackwell = *ctx;
    blackwell.arch = 120;
    const size_t shapes[][2] = {{16, 16}, {48, 176}, {640, 1152}, {176, 2880}};
    double worst = 0;
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], false);
        const size_t n = w.n, k = w.k;
        for (size_t m : {1, 7, 64, 65, 130}) {
            __nv_bfloat16 *x = device<__nv_bfloat16>(m * k);
            uint8_t *codes = device<uint8_t>(m * k / 2), *scales = device<uint8_t>(m * k / 16);
            float *ts = device<float>(2), *values = device<float>(m * k), *d[2] = {device<float>(m * n), device<float>(m * n)}, h_ts;
            fill<<<64, 256>>>(x, NIB_GEMM_BF16, m * k, 6);
            nib_gemm_quantize_args q = {};
            q.x = x, q.rows = m, q.cols = k, q.codes = codes, q.scales = scales, q.tensor_scale = ts;
            OK(nib_gemm_quantize_nvfp4(ctx, &q, nullptr, &err));
            std::vector<uint8_t> c(m * k / 2), s(m * k / 16);
            std::vector<float> v(m * k);
            CUDA(cudaMemcpy(c.data(), codes, c.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(s.data(), scales, s.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(&h_ts, ts, 4, cudaMemcpyDeviceToHost));
            for (size_t i = 0; i < v.size(); i++)
                v[i] = e2m1(c[i / 2] >> 4 * (i & 1) & 15) * e4m3(s[i / 16]);
            CUDA(cudaMemcpy(values, v.data(), v.size() * 4, cudaMemcpyHostToDevice));
            nib_gemm_product p = {};
            p.weight = w.w, p.mode = NIB_GEMM_W4A4, p.m = m, p.a = x, p.d_type = NIB_GEMM_F32;
            const size_t bytes = nib_gemm_workspace_bytes(&blackwell, &p);
            void *workspace = device<uint8_t>(bytes);
            for (int given = 0; given < 2; given++) { /* BF16, quantized inside; and the caller's NVFP4 */
                CUDA(cudaMemset(d[given], 0xff, m * n * 4));
                CUDA(cudaMemset(workspace, 0xff, bytes));
                p.d = d[given];
                if (given)
                    p.a = codes, p.a_type = NIB_GEMM_NVFP4, p.a_block_scale = scales, p.a_scale = ts;
                OK(nib_gemm_matmul(&blackwell, &p, workspace, bytes, nullptr, &err));
            }
            double *truth = device<double>(m * n), *e = device<double>(3), h[3];
            CUDA(cudaMemset(e, 0, 24));
            places at = {(int)m, (int)n, (int)m, (int)n};
            oracle<<<(unsigned)((m * n + 7) / 8), 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)k, values, NIB_GEMM_F32, k,
                                                         nullptr, false, truth);
            std::vector<double> t(m * n);
            CUDA(cudaMemcpy(t.data(), truth, t.size() * 8, cudaMemcpyDeviceToHost));
            for (double &y : t)
                y *= h_ts;
            CUDA(cudaMemcpy(truth, t.data(), t.size() * 8, cudaMemcpyHostToDevice));
            compare<<<(unsigned)((m * n + 255) / 256), 256>>>(at, d[0], NIB_GEMM_F32, n, truth, 0, e);
            CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
            std::vector<float> d0(m * n), d1(m * n);
            CUDA(cudaMemcpy(d0.data(), d[0], m * n * 4, cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(d1.data(), d[1], m * n * 4, cudaMemcpyDeviceToHost));
            const double error = sqrt(h[0] / h[1]);
            worst = fmax(worst, error);
            char what[120];
            snprintf(what, sizeof what, "w4a4 %zux%zu m %zu: relative L2 %.1e, %.0f not numbers, %s", n, k, m, error, h[2],
                     d0 == d1 ? "the same from NVFP4" : "NOT THE SAME FROM NVFP4");
            check(error <= 2e-6 && h[2] == 0 && d0 == d1, what);
            for (void *f : {(void *)x, (void *)codes, (void *)scales, (void *)ts, (void *)values, (void *)d[0], (void *)d[1], workspace,
                            (void *)truth, (void *)e})
                cudaFree(f);
        }
        free_weight(&w);
    }
    printf("w4a4 (emulated): f32 %.1e\n", worst);
}

int main(int argc, char **argv) {
    const bool quick = argc > 1 && !strcmp(argv[1], "--quick"), shortly = argc > 1 && !strcmp(argv[1], "short");
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
    if (shortly) {
        test_pack();
        test_short();
        nib_gemm_close(ctx);
        printf("%d checks, %d failed\n", n_checks, n_failed);
        return n_failed > 0;
    }
    test_pack();
    test_quantizers();
    test_every_bf16();
    test_sources();
    test_forms();
    test_graph_and_streams();
    test_grouped();
    test_wgmma_forms();
    test_few_forms();
    test_other_generations();
    test_w4a4();
    test_products(quick);
    nib_gemm_close(ctx);
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed > 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parts of gpu_gemm share (gemm_check.cuh): weights, the oracle, a product run and compared.
 */
#include "gemm_check.cuh"

void check(bool good, const char *what) {
    n_checks++;
    if (!good) {
        n_failed++;
        printf("FAILED: %s\n", what);
    }
}

weight make_weight(size_t n, size_t k, int kind_of_scales) {
    weight w = {n, k, device<uint8_t>(n * k / 2), device<uint8_t>(n * k / 16), device<float>(2), nullptr};
    std::vector<uint8_t> c(n * k / 2), s(n * k / 16);
    uint8_t most = 0;
    for (size_t b = 0; b < s.size(); b++) {
        const uint32_t h = mix((uint32_t)b + (uint32_t)n * 7 + (uint32_t)k), kind = h & 63;
        s[b] = kind_of_scales == SMALL              ? 1 + (h >> 8) % 7
               : kind_of_scales == TAME || kind > 2 ? 0x28 + (h >> 8) % 32
               : kind == 0                          ? 0
               : kind == 1                          ? 1 + (h >> 8) % 7
                                                    : 0x7e;
        most = std::max(most, s[b]);
        for (int j = 0; j < 8; j++) {
            const uint32_t r = mix((uint32_t)b * 8 + j + 99);
            c[b * 8 + j] = kind == 3 ? 0 : kind == 4 ? 0xf7 : kind == 5 ? (j == 3 ? 0x70 : 0x01) : (uint8_t)(r >> 9);
        }
    }
    float scale = 0.0123f;
    CUDA(cudaMemcpy(w.codes, c.data(), c.size(), cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(w.scales, s.data(), s.size(), cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(w.tensor_scale, &scale, 4, cudaMemcpyHostToDevice));
    OK(nib_gemm_weight_create(ctx, n, k, nullptr, &w.w, &err));
    nib_gemm_source source = {};
    source.n = n, source.k = k, source.values = w.codes, source.scales = w.scales, source.tensor_scale = w.tensor_scale;
    CUDA(cudaMemset(nib_gemm_weight_data(w.w), 0xff, nib_gemm_packed_bytes(n, k)));
    OK(nib_gemm_weight_pack(ctx, w.w, &source, nullptr, &err));
    CUDA(cudaDeviceSynchronize());
    const int times = nvfp4_doublings(most);
    for (uint8_t &b : s)
        b = nvfp4_doubled(b, times);
    scale = ldexpf(scale, -times);
    CUDA(cudaMemcpy(w.scales, s.data(), s.size(), cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(w.tensor_scale, &scale, 4, cudaMemcpyHostToDevice));
    return w;
}

void free_weight(weight *w) {
    nib_gemm_weight_free(w->w);
    cudaFree(w->codes), cudaFree(w->scales), cudaFree(w->tensor_scale);
}

__device__ static float value(const void *x, size_t i, int type) {
    return type == NIB_GEMM_F32    ? ((const float *)x)[i]
           : type == NIB_GEMM_BF16 ? __bfloat162float(((const __nv_bfloat16 *)x)[i])
           : type == NIB_GEMM_F16  ? __half2float(((const __half *)x)[i])
                                   : e4m3(((const uint8_t *)x)[i]);
}

__device__ static float folded(int code, int scale) {
    return e4m3(__nv_cvt_float_to_fp8(e2m1(code) * (e4m3(scale) * 0.125f), __NV_SATFINITE, __NV_E4M3)) * 8.0f;
}

__global__ void oracle(places p, const uint8_t *codes, const uint8_t *scales, const float *ts, int k, const void *x,
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

__global__ void compare(places p, const void *d, int d_type, size_t ldd, const double *truth, double add, double *e) {
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

__global__ void add_bias(double *truth, int rows, int n, const void *bias, int type) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < (size_t)rows * n; i += (size_t)gridDim.x * blockDim.x)
        truth[i] += value(bias, i % n, type);
}

__global__ void fill(void *x, int type, size_t n, uint32_t seed) {
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

struct run_result {
    double error;
    double not_numbers;
    bool repeats;
};

/* Runs P (its d, workspace and types set up here) twice and compares with the oracle. */
static run_result run(const weight &w, size_t m, nib_gemm_mode mode, nib_gemm_type a_type, nib_gemm_type d_type, int fold,
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
                                             fold ? NIB_GEMM_E4M3 : a_type, fold ? w.k : lda, fold ? scale : nullptr, fold == FOLD,
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

void check_run(const weight &w, size_t m, nib_gemm_mode mode, nib_gemm_type a_type, nib_gemm_type d_type, int fold,
               double bound, double *worst, size_t pad) {
    static const char *const modes[] = {"auto", "w4a16", "w4a8", "w4a4", "w4a8-exact"}, *const types[] = {"bf16", "f16", "f32", "e4m3"};
    const run_result r = run(w, m, mode, a_type, d_type, fold, pad);
    char what[200];
    snprintf(what, sizeof what, "%s %zux%zu m %zu a %s d %s pad %zu: relative L2 %.2e (bound %.0e), %.0f not numbers, %s",
             modes[mode], w.n, w.k, m, types[a_type], types[d_type], pad, r.error, bound, r.not_numbers,
             r.repeats ? "repeats" : "DOES NOT REPEAT");
    check(r.error <= bound && r.not_numbers == 0 && r.repeats, what);
    if (!(r.error <= *worst))
        *worst = r.error;
}

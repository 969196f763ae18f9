/* SPDX-License-Identifier: Apache-2.0
 *
 * Times of vLLM's Marlin for NVFP4 weights and BF16 activations, as CSV. bench/gemm_vs_peers takes the kernels and their
 * host code out of vLLM's source (marlin_host.inc, marlin_repack.inc) and builds this file around them.
 * usage: peer_marlin M,M,.. NxK ...
 *
 * Weights cold in L2 (copies in turn), a CUDA graph, medians of 9 after 30 ms of warming up. A line of '# ' before each
 * product says how far it is from one in FP64 (every 61st column of N, all rows up to 16).
 */
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "marlin_host.inc"
#include "marlin_repack.inc"

#include <algorithm>

static const int max_copies = 24, replays = 9;
static const size_t cold_bytes = (size_t)256 << 20;
static const double warm_seconds = 0.03;

#define CUDA(x) check((x), #x)
static void check(cudaError_t e, const char *what) {
    if (e != cudaSuccess) {
        fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(e));
        exit(1);
    }
}

template <typename T> static T *device_of(const std::vector<T> &host) {
    T *p;
    CUDA(cudaMalloc(&p, host.size() * sizeof(T)));
    CUDA(cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
    return p;
}

static float e2m1(int code) {
    static const float values[8] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
    return code & 8 ? -values[code & 7] : values[code & 7];
}

/* NVFP4 as files hold it: [n, k/2] codes, the lower nibble first, and [n, k/16] scales in E4M3, tensor scale 1. */
struct weight {
    int n, k;
    std::vector<uint8_t> codes;
    std::vector<float> scales; /* their values */
};

/* Codes of normally distributed numbers under amax / 6; 64 rows of them, with other scales in each row. */
static weight weight_of(int n, int k) {
    weight w = {n, k, std::vector<uint8_t>((size_t)n * k / 2), std::vector<float>((size_t)n * k / 16)};
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    std::vector<uint8_t> chunk((size_t)64 * k / 2);
    for (size_t block = 0; block < chunk.size() / 8; block++) {
        float x[16], amax = 0;
        for (float &v : x)
            v = normal(random), amax = std::max(amax, std::fabs(v));
        for (int i = 0; i < 16; i++) {
            int best = 0;
            for (int code = 0; code < 16; code++)
                if (std::fabs(x[i] / amax * 6 - e2m1(code)) < std::fabs(x[i] / amax * 6 - e2m1(best)))
                    best = code;
            chunk[block * 8 + i / 2] |= (uint8_t)(best << 4 * (i % 2));
        }
    }
    for (int row = 0; row < n; row++) {
        memcpy(&w.codes[(size_t)row * k / 2], &chunk[(size_t)(row * 7 % 64) * k / 2], (size_t)k / 2);
        for (int i = 0; i < k / 16; i++)
            w.scales[(size_t)row * (k / 16) + i] = std::ldexp(1.0f + (float)((row + 3 * i) % 8) / 8, -(row + i) % 3);
    }
    return w;
}

/* vLLM's prepare_fp4_layer_for_marlin. Scales: E4M3 -> half, permuted, times 2^7 and the power of two that brings the
 * largest under 448, as bytes of five bits of exponent and three of mantissa without a sign. */
static std::vector<uint8_t> scales_of(const weight &w, float *factor) {
    int groups = w.k / 16;
    float most = *std::max_element(w.scales.begin(), w.scales.end());
    *factor = most < 448 ? std::exp2(std::floor(std::log2(448 / most))) : 1;
    std::vector<uint8_t> out((size_t)groups * w.n);
    static const int fours[4] = {0, 2, 1, 3};
    for (int g = 0; g < groups; g++)
        for (int n = 0; n < w.n; n++) {
            int from = n / 4 * 4 + fours[n % 4], in = from % 64;
            int source = from / 64 * 64 + in / 8 + 8 * (in % 8);
            __half h = __float2half(w.scales[(size_t)source * groups + g] * *factor * 128);
            uint16_t bits;
            memcpy(&bits, &h, 2);
            out[(size_t)g * w.n + n] = __half2float(h) < 2 ? 0 : (uint8_t)((uint16_t)(bits << 1) >> 8);
        }
    return out;
}

struct problem {
    int m, n, k, sms;
    std::vector<uint32_t *> codes;
    std::vector<uint8_t *> scales;
    float *tensor_scale, *partial;
    __nv_bfloat16 *a, *d;
    int *locks;
};

static void pack(problem *p, const weight &w) {
    std::vector<uint32_t> transposed((size_t)w.n * w.k / 8);
    for (int n = 0; n < w.n; n++)
        for (int i = 0; i < w.k / 8; i++)
            memcpy(&transposed[(size_t)i * w.n + n], &w.codes[(size_t)n * w.k / 2 + 4 * i], 4);
    float factor;
    std::vector<uint8_t> scales = scales_of(w, &factor);
    uint32_t *from = device_of(transposed);
    int shared;
    CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    auto repack = marlin::gptq_marlin_repack_kernel<marlin::repack_threads, 4, false>;
    CUDA(cudaFuncSetAttribute(repack, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    size_t copies = std::min<size_t>(max_copies, cold_bytes / ((size_t)w.n * w.k / 16 * 9) + 2);
    for (size_t i = 0; i < copies; i++) {
        uint32_t *to;
        CUDA(cudaMalloc(&to, transposed.size() * 4));
        repack<<<p->sms, marlin::repack_threads, shared>>>(from, to, w.k, w.n);
        CUDA(cudaGetLastError());
        p->codes.push_back(to);
        p->scales.push_back(device_of(scales));
    }
    CUDA(cudaDeviceSynchronize());
    CUDA(cudaFree(from));
    p->tensor_scale = device_of(std::vector<float>{std::ldexp(1.0f, 126 - 7) / factor});
}

static void run(const problem &p, size_t i, cudaStream_t stream) {
    size_t copy = i % p.codes.size();
    marlin::marlin_mm(p.a, p.codes[copy], p.d, p.partial, nullptr, nullptr, p.scales[copy], p.tensor_scale, nullptr, p.m,
                      p.n, p.k, p.k, p.locks, vllm::kBFloat16, vllm::kFE2M1f, vllm::kBFloat16, vllm::kFE4M3fn, false,
                      false, p.k / 16, 16, 0, stream, -1, -1, p.sms, false, true, false);
}

static double time_graph(const problem &p, cudaStream_t stream) {
    size_t calls = std::max<size_t>(p.m >= 2048 ? 4 : p.m >= 512 ? 12 : 8 * max_copies, p.codes.size());
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaEvent_t begin, end;
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (size_t i = 0; i < calls; i++)
        run(p, i, stream);
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    std::vector<double> times;
    auto began = std::chrono::steady_clock::now();
    while (times.size() < replays) {
        float ms;
        CUDA(cudaEventRecord(begin, stream));
        CUDA(cudaGraphLaunch(exec, stream));
        CUDA(cudaEventRecord(end, stream));
        CUDA(cudaStreamSynchronize(stream));
        CUDA(cudaEventElapsedTime(&ms, begin, end));
        if (std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count() > warm_seconds)
            times.push_back(ms * 1000.0 / (double)calls);
    }
    CUDA(cudaGraphExecDestroy(exec));
    CUDA(cudaGraphDestroy(graph));
    std::sort(times.begin(), times.end());
    return times[replays / 2];
}

/* sqrt(sum (got - want)^2 / sum want^2) */
static double distance(const problem &p, const weight &w, const std::vector<__nv_bfloat16> &a) {
    std::vector<__nv_bfloat16> d((size_t)p.m * p.n);
    CUDA(cudaMemcpy(d.data(), p.d, d.size() * 2, cudaMemcpyDeviceToHost));
    double off = 0, all = 0;
    for (int row = 0; row < p.m; row += p.m > 16 ? p.m / 16 : 1)
        for (int n = 0; n < p.n; n += 61) {
            double want = 0;
            for (int k = 0; k < p.k; k++)
                want += (double)__bfloat162float(a[(size_t)row * p.k + k]) *
                        e2m1(w.codes[((size_t)n * p.k + k) / 2] >> 4 * (k % 2) & 15) *
                        w.scales[(size_t)n * (p.k / 16) + k / 16];
            double got = __bfloat162float(d[(size_t)row * p.n + n]);
            off += (got - want) * (got - want), all += want * want;
        }
    return std::sqrt(off / all);
}

static int most_of(const char *rows) {
    int most = 0;
    for (char *end; *rows; rows = *end ? end + 1 : end)
        most = std::max(most, (int)strtol(rows, &end, 10));
    return most;
}

static void measure(int n, int k, const char *rows) {
    weight w = weight_of(n, k);
    problem p = {.n = n, .k = k};
    int most = most_of(rows);
    std::mt19937 random(11);
    std::normal_distribution<float> normal;
    std::vector<__nv_bfloat16> a((size_t)most * k);
    for (auto &x : a)
        x = __float2bfloat16(normal(random));
    cudaStream_t stream;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA(cudaDeviceGetAttribute(&p.sms, cudaDevAttrMultiProcessorCount, 0));
    pack(&p, w);
    p.a = device_of(a);
    CUDA(cudaMalloc(&p.d, (size_t)most * n * 2));
    CUDA(cudaMalloc(&p.partial, (size_t)p.sms * 64 * marlin::max_thread_n * sizeof(float)));
    p.locks = device_of(std::vector<int>(p.sms));
    char *end;
    for (const char *at = rows; *at; at = *end ? end + 1 : end) {
        p.m = (int)strtol(at, &end, 10);
        run(p, 0, stream);
        CUDA(cudaStreamSynchronize(stream));
        printf("# %dx%d, %d rows: relative distance %.2e\n", n, k, p.m, distance(p, w, a));
        printf("%d,%d,%d,%.2f\n", n, k, p.m, time_graph(p, stream));
    }
    for (size_t i = 0; i < p.codes.size(); i++)
        cudaFree(p.codes[i]), cudaFree(p.scales[i]);
    cudaFree(p.a), cudaFree(p.d), cudaFree(p.partial), cudaFree(p.locks), cudaFree(p.tensor_scale);
    cudaStreamDestroy(stream);
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 3) {
        fprintf(stderr, "usage: peer_marlin M,M,.. NxK ...\n");
        return 2;
    }
    printf("n,k,m,us\n");
    for (int i = 2; i < argc; i++) {
        char *x;
        int n = (int)strtol(argv[i], &x, 10);
        measure(n, (int)strtol(x + 1, NULL, 10), argv[1]);
    }
    return 0;
}

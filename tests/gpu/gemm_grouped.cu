/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_gemm: products of experts in one launch.
 */
#include "gemm_check.cuh"

#define WEIGHTS   7 /* that the experts have in turn */
#define MORE_ROWS 3 /* of d, and of the product's m, past the last expert's */
#define MORE      8 /* elements of a row of d past n */

struct experts_case {
    size_t n, k, m;
    std::vector<int> counts, offsets;
    weight w[WEIGHTS];
    __nv_bfloat16 *a;
    int *dev_offsets;
    const void **dev_packed;
};

static experts_case open_case(size_t n, size_t k, const std::vector<int> &counts) {
    const size_t experts = counts.size();
    experts_case c = {n, k, 0, counts, std::vector<int>(experts + 1)};
    std::vector<const void *> packed(experts);
    for (size_t e = 0; e < WEIGHTS; e++)
        c.w[e] = make_weight(n, k, e % 2);
    for (size_t e = 0; e < experts; e++) {
        packed[e] = nib_gemm_weight_data(c.w[e % WEIGHTS].w);
        c.offsets[e + 1] = c.offsets[e] + counts[e];
    }
    c.m = c.offsets[experts];
    c.a = device<__nv_bfloat16>((c.m + MORE_ROWS) * k);
    c.dev_offsets = device<int>(experts + 1);
    c.dev_packed = device<const void *>(experts);
    CUDA(cudaMemcpy(c.dev_offsets, c.offsets.data(), c.offsets.size() * sizeof(int), cudaMemcpyHostToDevice));
    CUDA(cudaMemcpy(c.dev_packed, packed.data(), packed.size() * sizeof(void *), cudaMemcpyHostToDevice));
    fill<<<64, 256>>>(c.a, NIB_GEMM_BF16, (c.m + MORE_ROWS) * k, 9);
    return c;
}

static void close_case(experts_case *c) {
    for (void *p : {(void *)c->a, (void *)c->dev_offsets, (void *)c->dev_packed})
        cudaFree(p);
    for (auto &x : c->w)
        free_weight(&x);
}

/* The bytes of d that are nobody's stand as they were. */
static bool others_untouched(const std::vector<uint8_t> &d, size_t m, size_t n, size_t each) {
    const size_t row = (n + MORE) * each;
    for (size_t i = 0; i < d.size(); i++)
        if ((i / row >= m || i % row >= n * each) && d[i] != 0xff)
            return false;
    return true;
}

/* Which kernel: as the library chooses, with the offsets known before too, any/grouped.cu, or sm90/pairs.cu and sm90/experts.cu, these
 * by few blocks with long runs too. */
enum way { CHOSEN, CHOSEN_EARLY, GROUPED, PAIRS, LONG_PAIRS, LONG_RUNS, WAYS };

static void run_case(const experts_case &c, const nib_gemm_group &p, enum way way) {
    if (way <= CHOSEN_EARLY) {
        OK(nib_gemm_grouped(ctx, &p, nullptr, 0, nullptr, &err));
        return;
    }
    gemm_task t = {};
    t.a = c.a, t.m = (int)p.product.m, t.n = (int)c.n, t.k = (int)c.k, t.groups = (int)gemm_groups(c.k), t.lda = (int)c.k;
    t.out.d = p.product.d, t.out.bias = p.product.bias, t.out.alpha = 1, t.out.ldd = (int)p.product.ldd, t.out.type = p.product.d_type;
    t.n_sms = way >= LONG_PAIRS ? 5 : ctx->n_sms, t.max_shared = ctx->max_shared, t.dependent = ctx->arch >= 90;
    const bool pairs = (way == PAIRS || way == LONG_PAIRS) && ctx->arch == 90 && gemm_pairs_serves(&t, &p);
    const bool long_runs = way == LONG_RUNS && ctx->arch == 90 && gemm_experts_serves(&t, &p);
    CUDA((cudaError_t)(pairs ? gemm_pairs(&t, &p) : long_runs ? gemm_experts(&t, &p) : gemm_grouped(&t, &p)));
}

static void check_case(const experts_case &c, nib_gemm_type type, double bound, enum way way, bool with_bias) {
    const size_t ldd = c.n + MORE, each = type_bytes(type), bytes = (c.m + MORE_ROWS) * ldd * each;
    uint8_t *d = device<uint8_t>(bytes), *bias = device<uint8_t>(c.counts.size() * c.n * each);
    std::vector<uint8_t> got[2] = {std::vector<uint8_t>(bytes), std::vector<uint8_t>(bytes)};
    nib_gemm_group p = {};
    p.product.weight = c.w[0].w, p.product.m = c.m + MORE_ROWS, p.product.a = c.a, p.product.d = d, p.product.d_type = type;
    p.product.ldd = ldd, p.n_experts = c.counts.size(), p.offsets = c.dev_offsets, p.packed = c.dev_packed;
    p.offsets_stand = way == CHOSEN_EARLY || way >= LONG_PAIRS;
    p.product.bias = with_bias ? bias : nullptr;
    fill<<<64, 256>>>(bias, type, c.counts.size() * c.n, 12);
    for (auto &bytes_of : got) {
        CUDA(cudaMemset(d, 0xff, bytes));
        run_case(c, p, way);
        CUDA(cudaMemcpy(bytes_of.data(), d, bytes, cudaMemcpyDeviceToHost));
    }
    double *truth = device<double>(c.m * c.n), *e3 = device<double>(3), h[3];
    CUDA(cudaMemset(e3, 0, 24));
    for (size_t e = 0; e < c.counts.size(); e++)
        if (c.counts[e]) {
            const places at = {c.counts[e], (int)c.n, c.counts[e], (int)c.n};
            const weight &w = c.w[e % WEIGHTS];
            oracle<<<(unsigned)((c.counts[e] * c.n + 7) / 8), 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)c.k,
                                                                     c.a + c.offsets[e] * c.k, NIB_GEMM_BF16, c.k, nullptr, false, truth);
            if (with_bias)
                add_bias<<<64, 256>>>(truth, c.counts[e], (int)c.n, bias + e * c.n * each, type);
            compare<<<(unsigned)((c.counts[e] * c.n + 255) / 256), 256>>>(at, d + c.offsets[e] * ldd * each, type, ldd, truth, 0, e3);
        }
    CUDA(cudaMemcpy(h, e3, 24, cudaMemcpyDeviceToHost));
    const bool repeats = got[0] == got[1], kept = others_untouched(got[0], c.m, c.n, each);
    const double error = sqrt(h[0] / (h[1] > 0 ? h[1] : 1));
    char what[200];
    snprintf(what, sizeof what, "grouped %zu of %zux%zu, %zu tokens, type %d, way %d%s: relative L2 %.1e, %.0f not numbers%s%s", c.counts.size(), c.n,
             c.k, c.m, (int)type, (int)way, with_bias ? ", bias" : "", error, h[2], repeats ? "" : ", DOES NOT REPEAT", kept ? "" : ", OTHERS' BYTES WRITTEN");
    check(error <= bound && h[2] == 0 && repeats && kept, what);
    for (void *q : {(void *)d, (void *)bias, (void *)truth, (void *)e3})
        cudaFree(q);
}

static void check_experts(size_t n, size_t k, const std::vector<int> &counts) {
    experts_case c = open_case(n, k, counts);
    printf("grouped: %zu of %zux%zu, %zu tokens\n", counts.size(), n, k, c.m); /* a hang shows where */
    for (int way = CHOSEN; way < WAYS; way++) {
        check_case(c, NIB_GEMM_F32, 2e-6, (enum way)way, false);
        check_case(c, NIB_GEMM_F32, 2e-6, (enum way)way, true);
        check_case(c, NIB_GEMM_BF16, 3e-3, (enum way)way, false);
        check_case(c, way % 2 ? NIB_GEMM_F16 : NIB_GEMM_BF16, 3e-3, (enum way)way, true);
    }
    close_case(&c);
}

/* Writes the offsets late, when what follows it in the stream may have begun long since. */
static __global__ void late_offsets(int *to, const int *from, int n) {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
    for (const long long began = clock64(); clock64() - began < 200000;)
        ;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        to[i] = from[i];
}

/* A router, a product of its offsets, and one that reads them early: the same results as of offsets that stood all the time. */
static void check_late(size_t n, size_t k, const std::vector<int> &counts, bool captured) {
    experts_case c = open_case(n, k, counts);
    const size_t values = c.m * n, bytes = values * 2, offset_bytes = c.offsets.size() * sizeof(int);
    int *late = device<int>(c.offsets.size());
    std::vector<uint8_t> got[3] = {std::vector<uint8_t>(bytes), std::vector<uint8_t>(bytes), std::vector<uint8_t>(bytes)};
    uint8_t *d = device<uint8_t>(3 * bytes);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    nib_gemm_group p = {};
    p.product.weight = c.w[0].w, p.product.m = c.m, p.product.a = c.a, p.n_experts = counts.size(), p.packed = c.dev_packed;
    CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CUDA(cudaMemset(d, 0xff, 3 * bytes));
    CUDA(cudaMemset(late, 0, offset_bytes));
    CUDA(cudaDeviceSynchronize());
    if (captured)
        CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    late_offsets<<<1, 256, 0, stream>>>(late, c.dev_offsets, (int)c.offsets.size());
    for (int i = 0; i < 3; i++) {
        p.product.d = d + i * bytes, p.offsets = i < 2 ? late : c.dev_offsets, p.offsets_stand = i == 1;
        OK(nib_gemm_grouped(ctx, &p, nullptr, 0, stream, &err));
    }
    if (captured) {
        CUDA(cudaStreamEndCapture(stream, &graph));
        CUDA(cudaGraphInstantiate(&exec, graph, 0));
        CUDA(cudaGraphLaunch(exec, stream));
    }
    CUDA(cudaStreamSynchronize(stream));
    for (int i = 0; i < 3; i++)
        CUDA(cudaMemcpy(got[i].data(), d + i * bytes, bytes, cudaMemcpyDeviceToHost));
    check(got[0] == got[2], "grouped: offsets written late, by the kernel before");
    check(got[1] == got[2], "grouped: offsets written late, by the kernel before the one before");
    if (captured) {
        cudaGraphExecDestroy(exec);
        cudaGraphDestroy(graph);
    }
    cudaStreamDestroy(stream);
    for (void *q : {(void *)late, (void *)d})
        cudaFree(q);
    close_case(&c);
}

/* One line a kernel, and that it is the kernel for so many tokens. */
static void check_explained(void) {
    experts_case c = open_case(768, 2048, std::vector<int>(7, 1));
    nib_gemm_group p = {};
    char text[1024];
    p.product.weight = c.w[0].w, p.n_experts = 128;
    for (size_t m : {8, 512}) {
        p.product.m = m;
        OK(nib_gemm_grouped_explain(ctx, &p, text, sizeof text, &err));
        printf("%s\n", text);
        check(ctx->arch != 90 || strstr(text, m == 8 ? "Kernel: pairs" : "Kernel: experts"), "grouped: explained");
    }
    p.product.mode = NIB_GEMM_W4A4;
    check(nib_gemm_grouped_explain(ctx, &p, text, sizeof text, &err) == NIB_UNSUPPORTED, "grouped: what is refused is not explained");
    close_case(&c);
}

static void check_refused(void) {
    experts_case c = open_case(48, 176, std::vector<int>(7, 1));
    nib_gemm_group p = {};
    p.product.weight = c.w[0].w, p.product.m = c.m, p.product.a = p.product.d = c.a, p.product.c = c.a;
    p.n_experts = 7, p.offsets = c.dev_offsets, p.packed = c.dev_packed;
    check(nib_gemm_grouped(ctx, &p, nullptr, 0, nullptr, &err) == NIB_BAD_ARGUMENT && strstr(err.text, "and no c"),
          "grouped: c is refused");
    p.product.c = nullptr, p.product.mode = NIB_GEMM_W4A8;
    check(nib_gemm_grouped(ctx, &p, nullptr, 0, nullptr, &err) == NIB_UNSUPPORTED && strstr(err.text, "w4a16"),
          "grouped: w4a8 is refused by name");
    close_case(&c);
}

/* SHORTLY: the small shapes alone. On Hopper most have few tokens an expert, for experts.cu. */
void test_grouped(bool shortly) {
    /* the third: how often the seven experts come, enough of them for a block's teams; the fourth: the most tokens of one, and from 10 on chunks of 16 */
    const size_t shapes[][4] = {{48, 176, 1, 40},   {208, 1152, 1, 8},   {768, 2048, 1, 40},  {176, 12288, 1, 40}, {768, 2048, 12, 40},
                                {1040, 768, 12, 40}, {48, 176, 100, 40},  {768, 2048, 1, 9},   {768, 2048, 12, 9},  {1040, 768, 12, 9},
                                {48, 176, 100, 3},   {2048, 640, 5, 9},   {176, 4096, 3, 9},   {176, 7168, 2, 9},   {304, 1664, 4, 9},
                                {64, 128, 2, 9},     {768, 2048, 5, 9},   {1040, 768, 5, 9},   {16, 16, 146, 9},    {16, 2048, 146, 9},
                                {2880, 2880, 1, 9},  {1536, 4096, 2, 9},  {1040, 1536, 5, 9},  {304, 512, 5, 9},
                                {176, 4608, 2, 9},   {2048, 640, 5, 40},  {1040, 1536, 2, 40}, {304, 1664, 4, 40},
                                {2880, 2880, 1, 40}, {176, 4096, 1, 40}};
    const int some[] = {0, 1, 3, 8, 9, 0, 40};
    for (auto &shape : shapes) {
        if (shortly && shape[0] * shape[1] * shape[2] > 300000)
            continue;
        std::vector<int> counts(7 * shape[2]);
        for (size_t e = 0; e < counts.size(); e++)
            counts[e] = std::min(some[(e + e / 7) % 7], (int)shape[3]);
        check_experts(shape[0], shape[1], counts);
    }
    const size_t full[][3] = {{48, 176, 12}, {1040, 768, 1}, {768, 2048, 3}, {304, 1664, 1}, {2048, 640, 1}, {304, 1536, 2}};
    for (auto &shape : full) { /* chunks of 32: many tokens an expert */
        if (shortly && shape[0] * shape[1] * shape[2] > 300000)
            continue;
        const int many[] = {0, 70, 33, 32, 1, 64, 31};
        std::vector<int> counts(7 * shape[2]);
        for (size_t e = 0; e < counts.size(); e++)
            counts[e] = many[(e + e / 7) % 7];
        check_experts(shape[0], shape[1], counts);
    }
    check_refused();
    check_explained();
    for (int many : {0, 1, 5, 40, 127}) { /* so many experts have a token, from the last one on; none: nothing is written */
        std::vector<int> counts(128, 0);
        for (int i = 0; i < many; i++)
            counts[127 - i] = 1 + i % 3;
        check_experts(shortly ? 64 : 768, shortly ? 256 : 2048, counts);
        check_experts(shortly ? 64 : 2048, shortly ? 128 : 768, counts);
    }
    for (int most : {1, 2, 9, 40}) /* tokens of an expert */
        for (bool captured : {false, true}) {
            std::vector<int> counts(128, 0);
            for (int e = 3; e < 128; e += 9)
                counts[e] = 1 + e % most;
            check_late(shortly ? 64 : 768, shortly ? 512 : 2048, counts, captured);
        }
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_gemm: what else a product can be asked for: types, alpha, beta, a bias, errors, graphs, streams.
 */
#include "gemm_check.cuh"

void test_forms(void) {
    weight w = make_weight(640, 1152, TAME);
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
void test_graph_and_streams(void) {
    weight w = make_weight(2880, 2880, TAME);
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

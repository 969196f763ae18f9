/* SPDX-License-Identifier: Apache-2.0
 *
 * The FP4 products on a GPU against FP64 over the same quantized operands, through the public API alone.
 * usage: gpu_gemm [--quick | short | grouped | wgmma | others]; prints one line a group of checks and exits 1 when one failed, 0 with "SKIP" without a GPU.
 *
 * Small products are compared whole, large ones at 64 x 64 places. Outputs and workspaces are filled with NaN before
 * every run, weights hold zero blocks, blocks of one outlier, largest codes, subnormal and 448 scales.
 */
#include "gemm_check.cuh"

/* ---- packing ---- */
static void test_pack(void) {
    const size_t shapes[][2] = {{16, 16}, {48, 176}, {176, 640}, {640, 1152}, {2880, 2880}};
    for (auto &s : shapes)
        for (int kind : {WILD, TAME, SMALL}) {
            weight w = make_weight(s[0], s[1], kind);
            uint8_t *codes = device<uint8_t>(w.n * w.k / 2), *scales = device<uint8_t>(w.n * w.k / 16);
            float *ts = device<float>(1), h[2];
            OK(nib_gemm_weight_unpack(ctx, w.w, codes, scales, ts, nullptr, &err));
            std::vector<uint8_t> a(w.n * w.k / 2), b(a.size()), c(w.n * w.k / 16), d(c.size());
            CUDA(cudaMemcpy(a.data(), w.codes, a.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(b.data(), codes, b.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(c.data(), w.scales, c.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(d.data(), scales, d.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(h, ts, 4, cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(h + 1, w.tensor_scale, 4, cudaMemcpyDeviceToHost));
            check(a == b && c == d && h[0] == h[1], "unpacked are the same codes, and scales as the CPU's codec doubles them");
            cudaFree(codes), cudaFree(scales), cudaFree(ts);
            free_weight(&w);
        }
    printf("pack: unpacks to the same values\n");
}

/* Folded into E4M3 as they stand, scales of 2^-9 to 7 times that would leave half of the values zero. */
static void test_small_scales(void) {
    double worst[2] = {0, 0};
    weight w = make_weight(640, 1152, SMALL);
    for (size_t m : {1, 5, 40, 200}) {
        check_run(w, m, NIB_GEMM_W4A16, NIB_GEMM_BF16, NIB_GEMM_F32, EXACT, 2e-6, worst);
        check_run(w, m, NIB_GEMM_W4A8, NIB_GEMM_BF16, NIB_GEMM_F32, UNFOLDED, 3e-2, worst + 1);
    }
    free_weight(&w);
    printf("small block scales: w4a16 %.1e, w4a8 against weights as they are %.1e\n", worst[0], worst[1]);
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
            weight w = make_weight(sizes[i], sizes[j], WILD);
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
        weight w = make_weight(shape[0], shape[1], TAME);
        for (size_t m : {1, 3, 16, 31, 64, 130}) {
            check_run(w, m, NIB_GEMM_W4A16, NIB_GEMM_BF16, NIB_GEMM_F32, false, 2e-6, worst);
            check_run(w, m, NIB_GEMM_W4A8, NIB_GEMM_BF16, NIB_GEMM_BF16, true, 1e-2, worst + 1);
        }
        free_weight(&w);
    }
    printf("short: w4a16 %.1e, w4a8 %.1e\n", worst[0], worst[1]);
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
        test_grouped(true);
        nib_gemm_close(ctx);
        printf("%d checks, %d failed\n", n_checks, n_failed);
        return n_failed > 0;
    }
    const bool tiles = argc > 1 && !strcmp(argv[1], "wgmma"), others = argc > 1 && !strcmp(argv[1], "others");
    if (tiles || others || (argc > 1 && !strcmp(argv[1], "grouped"))) {
        tiles ? test_wgmma_forms() : others ? test_other_generations() : test_grouped(false);
        if (others)
            test_w4a8_exact();
        nib_gemm_close(ctx);
        printf("%d checks, %d failed\n", n_checks, n_failed);
        return n_failed > 0;
    }
    test_pack();
    test_small_scales();
    test_quantizers();
    test_every_bf16();
    test_sources();
    test_forms();
    test_graph_and_streams();
    test_grouped(false);
    test_wgmma_forms();
    test_few_forms();
    test_other_generations();
    test_w4a8_exact();
    test_w4a4();
    test_native();
    test_products(quick);
    nib_gemm_close(ctx);
    printf("%d checks, %d failed\n", n_checks, n_failed);
    return n_failed > 0;
}

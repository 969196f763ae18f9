/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_gemm: what cuBLASLt's NVFP4 product is handed on Blackwell of data centers: plain codes and scale tiles of a packed
 * weight, scales of activations moved into tiles, both tensors' scales in one factor. Before Blackwell cuBLASLt has no such
 * product and must say so in words; on Blackwell GeForce it is not asked, since gemm_choose never picks it there.
 */
#include "gemm_check.cuh"

extern "C" {
#include "gemm/gpu/blaslt.h"
}
#include "gemm/scale_tile.h"

static std::vector<uint8_t> tiles_of(const std::vector<uint8_t> &plain, size_t rows, size_t blocks) {
    std::vector<uint8_t> tiles(nib_gemm_scale_tile_bytes(rows, blocks * 16), 0);
    for (size_t r = 0; r < rows; r++)
        for (size_t b = 0; b < blocks; b++)
            tiles[gemm_scale_place(r, b, blocks)] = plain[r * blocks + b];
    return tiles;
}

template <class T> static std::vector<T> host(const void *p, size_t n) {
    std::vector<T> v(n);
    CUDA(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
}

void test_native(void) {
    for (auto &shape : {std::pair<size_t, size_t>{48, 176}, {128, 640}, {400, 2880}}) {
        const size_t n = shape.first, k = shape.second, bytes = nib_gemm_scale_tile_bytes(n, k);
        weight w = make_weight(n, k, WILD);
        uint8_t *codes = device<uint8_t>(n * k / 2), *tiles = device<uint8_t>(bytes);
        float *factors = device<float>(4);
        CUDA(cudaMemset(tiles, 0xff, bytes));
        CUDA((cudaError_t)gemm_unpack_launch(nib_gemm_weight_data(w.w), n, k, codes, tiles, true, factors + 2, nullptr));
        const auto want = tiles_of(host<uint8_t>(w.scales, n * k / 16), n, k / 16);
        check(host<uint8_t>(codes, n * k / 2) == host<uint8_t>(w.codes, n * k / 2) && host<uint8_t>(tiles, bytes) == want,
              "a packed weight as plain codes and scale tiles");
        CUDA(cudaMemset(tiles, 0xff, bytes));
        CUDA((cudaError_t)gemm_tile_scales(w.scales, n, k / 16, tiles, nullptr));
        check(host<uint8_t>(tiles, bytes) == want, "plain scales moved into tiles");
        CUDA((cudaError_t)gemm_product_factors(3.0f, factors + 2, factors + 2, 0.5f, factors, nullptr));
        const auto f = host<float>(factors, 2);
        const float scale = host<float>(w.tensor_scale, 1)[0];
        check(f[0] == 3.0f * (scale * scale) && f[1] == 0.5f, "alpha times both scales, and beta");
        cudaFree(codes), cudaFree(tiles), cudaFree(factors);
        free_weight(&w);
    }
    const bool has = ctx->arch == 100 || ctx->arch == 103;
    blaslt *lt;
    if (ctx->arch >= 120 || blaslt_open(&lt, &err) != NIB_OK) {
        check(!has, "cuBLASLt is found where its product is ours");
        printf("native NVFP4: codes, scale tiles and factors; SKIP cuBLASLt's product: %s\n",
               ctx->arch >= 120 ? "not asked for here" : err.text);
        return;
    }
    blaslt_shape s = {};
    blaslt_product *product;
    s.kind = BLASLT_NVFP4, s.m = 128, s.n = 256, s.k = 512, s.workspace_bytes = 1 << 20;
    uint8_t *scales = device<uint8_t>(1 << 16);
    s.w_scale = s.a_scale = scales;
    const nib_status status = blaslt_plan(lt, &s, &product, &err);
    if (has)
        check(status == NIB_OK, "cuBLASLt has an NVFP4 product here");
    else
        check(status == NIB_UNSUPPORTED && strstr(err.text, "has no NVFP4 product"), "cuBLASLt says that it has no product");
    if (status == NIB_OK)
        blaslt_free(product);
    cudaFree(scales);
    blaslt_close(lt);
    printf("native NVFP4: codes, scale tiles and factors%s\n", status == NIB_OK ? "" : "; this GPU has no such product");
}

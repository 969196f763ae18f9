/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_gemm: the quantizers and the other sources of weights, against the CPU's codecs.
 */
#include "gemm_check.cuh"

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

void test_quantizers(void) {
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

void test_sources(void) {
    const size_t n = 48, k = 640;
    weight w = make_weight(n, k, WILD);
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
    const float divisor = 1.0f / 32;
    CUDA(cudaMemcpy(w.tensor_scale, &divisor, 4, cudaMemcpyHostToDevice));
    pack(NIB_GEMM_FROM_NVFP4, c, &s);
    check(h == 32.0f, "compressed-tensors' divisor");
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
void test_every_bf16(void) {
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

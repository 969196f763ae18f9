/* SPDX-License-Identifier: Apache-2.0
 *
 * Packing (the layout is gemm.h's) and back. A thread makes what one lane holds of one group of 128 k: blocks t and
 * 4 + t of rows r0 and r1, 32 B of words and 4 B of scales.
 *
 * A block scale that is NaN makes the tensor's scale NaN: every result is NaN, none is silently wrong. Negative
 * block scales turn their codes' signs. Small block scales are doubled, all as often, until the largest is over 224, and the
 * tensor's scale is halved as often: no value changes, and fewer are too small for E4M3 where W4A8 folds them.
 */
#include "gemm/gpu/quant.cuh"
#include "gemm/scale_tile.h"

struct pack_args {
    const void *values;
    const uint8_t *scales;
    const float *tensor_scale;
    int n, k, groups, row_tiles;
    bool divides;
    uint8_t *packed;
    uint32_t *facts; /* the four words after the tiles; the first is the largest block scale until they are packed */
};

struct block {
    uint64_t codes;
    uint32_t scale;
};

/* E4M3 as a checkpoint may hold it -> without sign; NaN is said. */
GEMM_DEV block clean(const pack_args &a, uint64_t codes, uint32_t scale) {
    if ((scale & 0x7f) == 0x7f) {
        a.facts[3] = 1;
        return {0, 0};
    }
    return {scale & 0x80 ? codes ^ 0x8888888888888888ull : codes, scale & 0x7f};
}

GEMM_DEV uint64_t interleave(uint64_t low_high) { /* byte j = (j, j + 8) -> element e in bits 4e */
    uint64_t codes = 0;
    for (int j = 0; j < 8; j++)
        codes |= (low_high >> 8 * j & 15) << 4 * j | (low_high >> (8 * j + 4) & 15) << (4 * j + 32);
    return codes;
}

GEMM_DEV uint64_t load_bytes(const uint8_t *p, int n) {
    uint64_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint64_t)p[i] << 8 * i;
    return v;
}

struct from_nvfp4 {
    GEMM_DEV static block at(const pack_args &a, int row, int b) {
        const size_t i = (size_t)row * (a.k / 16) + b;
        return clean(a, __ldg((const uint64_t *)a.values + i), __ldg(a.scales + i));
    }
    GEMM_DEV static float tensor_scale(const pack_args &a) {
        const float s = a.tensor_scale ? *a.tensor_scale : 1.0f;
        return a.divides ? 1.0f / s : s;
    }
};

struct from_nvfp4_gguf : from_nvfp4 {
    GEMM_DEV static block at(const pack_args &a, int row, int b) {
        const uint8_t *p = (const uint8_t *)a.values + ((size_t)row * (a.k / 64) + b / 4) * 36;
        const uint32_t scale = p[b % 4]; /* UE4M3: 0x7F is 0 there, the top bit is ignored, 0xFF E4M3 has not */
        return clean(a, interleave(load_bytes(p + 4 + 8 * (b % 4), 8)), scale == 0xff ? 0x7f : scale == 0x7f ? 0 : scale & 0x7f);
    }
};

/* MXFP4: a block of 32 becomes two of 16 under 2^(e - 127) / tensor scale, which puts the largest at 2^8. 18 octaves
 * fit; below, codes shrink and values that change are counted. */
GEMM_DEV block rescale(const pack_args &a, uint64_t codes, uint32_t e) {
    const int d = (int)e - (int)a.facts[1] + 8;
    if (e == 0xff) {
        a.facts[3] = 1;
        return {0, 0};
    }
    if (d >= -9)
        return {codes, d >= -6 ? (uint32_t)(d + 7) << 3 : 1u << (d + 9)};
    uint64_t small = 0;
    uint32_t changed = 0;
    const float shrink = exp2f((float)max(d + 9, -60));
    for (int i = 0; i < 16; i++) {
        const uint32_t q = (uint32_t)(codes >> 4 * i) & 15, m = q & 7;
        const float v = (m < 5 ? 0.5f * m : m == 5 ? 3.0f : m == 6 ? 4.0f : 6.0f) * shrink;
        const uint32_t s = e2m1_index(v);
        changed += v != (s < 5 ? 0.5f * s : s == 5 ? 3.0f : s == 6 ? 4.0f : 6.0f);
        small |= (uint64_t)(s | (q & 8)) << 4 * i;
    }
    if (changed)
        atomicAdd(a.facts + 2, changed);
    return {small, 1};
}

struct from_mxfp4 {
    GEMM_DEV static block at(const pack_args &a, int row, int b) {
        const uint64_t codes = __ldg((const uint64_t *)a.values + (size_t)row * (a.k / 16) + b);
        return rescale(a, codes, a.scales[(size_t)row * (a.k / 32) + b / 2]);
    }
    GEMM_DEV static float tensor_scale(const pack_args &a) {
        return ldexpf(1.0f, (int)a.facts[1] - 135);
    }
    GEMM_DEV static uint32_t exponent(const pack_args &a, size_t i) {
        return a.scales[i];
    }
};

struct from_mxfp4_gguf : from_mxfp4 {
    GEMM_DEV static block at(const pack_args &a, int row, int b) {
        const uint8_t *p = (const uint8_t *)a.values + ((size_t)row * (a.k / 32) + b / 2) * 17;
        uint64_t codes = 0; /* pairs (j, j + 16): this half's nibbles */
        for (int j = 0; j < 16; j++)
            codes |= (uint64_t)(p[1 + j] >> 4 * (b % 2) & 15) << 4 * j;
        return rescale(a, codes, p[0]);
    }
    GEMM_DEV static uint32_t exponent(const pack_args &a, size_t i) {
        return ((const uint8_t *)a.values)[i * 17];
    }
};

template <class T, int METHOD> struct from_values {
    GEMM_DEV static block at(const pack_args &a, int row, int b) {
        uint32_t scale = 0;
        const T *values = (const T *)a.values + (size_t)row * a.k + b * 16;
        const uint64_t codes = quantize_block<T, METHOD>(values, tensor_scale(a), __uint_as_float(a.facts[1]), &scale);
        return clean(a, codes, scale);
    }
    GEMM_DEV static float tensor_scale(const pack_args &a) {
        if (a.tensor_scale)
            return a.divides ? 1.0f / *a.tensor_scale : *a.tensor_scale;
        return tensor_scale_of(__uint_as_float(a.facts[1]), METHOD);
    }
};

GEMM_DEV uint32_t doubled(uint32_t scale) { /* E4M3; below 8 it is subnormal */
    return scale + (scale < 8 ? scale : 8);
}

/* As often as num/nvfp4.h has it, while the tensor's scale may be halved exactly. */
template <class SOURCE> GEMM_DEV int doublings(const pack_args &a) {
    float tensor_scale = fabsf(SOURCE::tensor_scale(a));
    int times = 0;
    for (uint32_t s = a.facts[0]; s && doubled(s) <= 0x7e && tensor_scale >= 2 * FLT_MIN; s = doubled(s), tensor_scale *= 0.5f)
        times++;
    return times;
}

GEMM_DEV void written() { /* to who reads it by the copy engine */
    __threadfence();
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
}

template <class SOURCE> static __global__ void __launch_bounds__(256) pack_tiles(const pack_args a) {
    const size_t id = blockIdx.x * (size_t)blockDim.x + threadIdx.x, group = id / 32;
    if (group < (size_t)a.row_tiles * a.groups) {
        const int lane = (int)(id % 32), g = lane >> 2, t = lane & 3;
        const int tile = (int)(group / a.groups), k0 = (int)(group % a.groups) * 8;
        uint8_t *to = a.packed + group * GEMM_GROUP_BYTES;
        uint32_t scales = 0, most = 0;
        for (int h = 0; h < 2; h++) {
            uint32_t w[4];
            for (int r = 0; r < 2; r++) {
                const int b = k0 + h * 4 + t;
                const block v = b < a.k / 16 ? SOURCE::at(a, tile * 16 + gemm_tile_row(g, r), b) : block{0, 0};
                w[r] = gemm_word_pack((uint32_t)v.codes);
                w[2 + r] = gemm_word_pack((uint32_t)(v.codes >> 32));
                scales |= v.scale << 8 * (h + 2 * r);
                most = max(most, v.scale);
            }
            *(uint4 *)(to + h * 512 + lane * 16) = make_uint4(w[0], w[1], w[2], w[3]);
        }
        *(uint32_t *)(to + 1024 + lane * 4) = scales;
        most = __reduce_max_sync(~0u, most);
        if (lane == 0 && most > *(volatile uint32_t *)a.facts)
            atomicMax(a.facts, most);
    }
    written();
}

template <class SOURCE> static __global__ void __launch_bounds__(256) double_scales(const pack_args a) {
    const size_t id = blockIdx.x * (size_t)blockDim.x + threadIdx.x, group = id / 32;
    const int times = doublings<SOURCE>(a);
    if (times == 0 || group >= (size_t)a.row_tiles * a.groups)
        return;
    uint8_t *scales = a.packed + group * GEMM_GROUP_BYTES + 1024 + id % 32 * 4;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < times; j++)
            scales[i] = (uint8_t)doubled(scales[i]);
    written();
}

/* After the tiles: facts[3] says whether a scale was NaN. */
template <class SOURCE> static __global__ void finish_pack(const pack_args a) {
    const float s = ldexpf(SOURCE::tensor_scale(a), -doublings<SOURCE>(a));
    *(float *)a.facts = a.facts[3] ? __uint_as_float(0x7fc00000u) : s;
    __threadfence();
}

template <class T> static __global__ void __launch_bounds__(256) find_amax(const T *x, size_t n16, uint32_t *amax) {
    uint32_t most = 0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n16; i += (size_t)gridDim.x * blockDim.x) {
        float v[16];
        load_block<true>(x + i * 16, v);
        most = max(most, __float_as_uint(block_amax(v)));
    }
    most = __reduce_max_sync(~0u, most);
    if ((threadIdx.x & 31) == 0)
        atomicMax(amax, most);
}

template <class SOURCE> static __global__ void __launch_bounds__(256) find_exponent(const pack_args a, size_t n32) {
    uint32_t most = 0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n32; i += (size_t)gridDim.x * blockDim.x) {
        const uint32_t e = SOURCE::exponent(a, i);
        most = max(most, e == 0xff ? 0 : e);
    }
    most = __reduce_max_sync(~0u, most);
    if ((threadIdx.x & 31) == 0)
        atomicMax(a.facts + 1, most);
}

template <class SOURCE> static int pack_with(const pack_args &a, cudaStream_t stream) {
    const unsigned blocks = (unsigned)(((size_t)a.row_tiles * a.groups * 32 + 255) / 256);
    pack_tiles<SOURCE><<<blocks, 256, 0, stream>>>(a);
    double_scales<SOURCE><<<blocks, 256, 0, stream>>>(a);
    finish_pack<SOURCE><<<1, 1, 0, stream>>>(a);
    return cudaGetLastError();
}

template <class T> static int pack_values(const pack_args &a, int method, cudaStream_t stream) {
    if (!a.tensor_scale || method == NIB_GEMM_FOUR_OVER_SIX)
        find_amax<<<1056, 256, 0, stream>>>((const T *)a.values, (size_t)a.n * a.k / 16, a.facts + 1);
    switch (method) {
    case NIB_GEMM_RTN:
        return pack_with<from_values<T, NIB_GEMM_RTN>>(a, stream);
    case NIB_GEMM_FOUR_OVER_SIX:
        return pack_with<from_values<T, NIB_GEMM_FOUR_OVER_SIX>>(a, stream);
    case NIB_GEMM_SWEEP:
        return pack_with<from_values<T, NIB_GEMM_SWEEP>>(a, stream);
    default:
        return pack_with<from_values<T, NIB_GEMM_FP8_EXACT>>(a, stream);
    }
}

template <class SOURCE> static int pack_mxfp4(const pack_args &a, cudaStream_t stream) {
    find_exponent<SOURCE><<<264, 256, 0, stream>>>(a, (size_t)a.n * a.k / 32);
    return pack_with<SOURCE>(a, stream);
}

extern "C" int gemm_pack_launch(const nib_gemm_source *s, void *packed, void *stream_) {
    const cudaStream_t stream = (cudaStream_t)stream_;
    uint32_t *facts = (uint32_t *)((uint8_t *)packed + gemm_scale_offset(s->n, s->k));
    const pack_args a = {s->values,           (const uint8_t *)s->scales, s->tensor_scale, (int)s->n,         (int)s->k,
                         (int)gemm_groups(s->k), (int)(s->n / 16),        s->divides,      (uint8_t *)packed, facts};
    const int e = cudaMemsetAsync(facts, 0, 16, stream);
    if (e)
        return e;
    switch (s->format) {
    case NIB_GEMM_FROM_NVFP4:
        return pack_with<from_nvfp4>(a, stream);
    case NIB_GEMM_FROM_NVFP4_GGUF:
        return pack_with<from_nvfp4_gguf>(a, stream);
    case NIB_GEMM_FROM_MXFP4:
        return pack_mxfp4<from_mxfp4>(a, stream);
    case NIB_GEMM_FROM_MXFP4_GGUF:
        return pack_mxfp4<from_mxfp4_gguf>(a, stream);
    case NIB_GEMM_FROM_BF16:
        return pack_values<__nv_bfloat16>(a, s->method, stream);
    case NIB_GEMM_FROM_F16:
        return pack_values<__half>(a, s->method, stream);
    default:
        return pack_values<float>(a, s->method, stream);
    }
}

static __global__ void __launch_bounds__(256) unpack_tiles(const uint8_t *packed, int n, int k, int groups, uint2 *codes,
                                                           uint8_t *scales, bool tiles, float *tensor_scale) {
    const size_t id = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (id >= (size_t)n * (k / 16))
        return;
    const int row = (int)(id / (k / 16)), b = (int)(id % (k / 16)), in_tile = row % 16;
    const int r = in_tile / 2 % 2, lane = 4 * (in_tile / 4 * 2 + in_tile % 2) + b % 4, h = b % 8 / 4;
    const uint8_t *group = packed + ((size_t)(row / 16) * groups + b / 8) * GEMM_GROUP_BYTES;
    const uint32_t *w = (const uint32_t *)(group + h * 512 + lane * 16);
    if (codes)
        codes[id] = make_uint2(gemm_word_unpack(w[r]), gemm_word_unpack(w[2 + r]));
    if (scales)
        scales[tiles ? gemm_scale_place(row, b, k / 16) : id] = group[1024 + lane * 4 + h + 2 * r];
    if (tensor_scale && id == 0)
        *tensor_scale = *(const float *)(packed + (size_t)(n / 16) * groups * GEMM_GROUP_BYTES);
}

extern "C" int gemm_unpack_launch(const void *packed, size_t n, size_t k, void *codes, void *scales, bool tiles,
                                  float *tensor_scale, void *stream) {
    const size_t threads = n * (k / 16);
    if (scales && tiles)
        cudaMemsetAsync(scales, 0, nib_gemm_scale_tile_bytes(n, k), (cudaStream_t)stream); /* what pads them */
    unpack_tiles<<<(unsigned)((threads + 255) / 256), 256, 0, (cudaStream_t)stream>>>(
        (const uint8_t *)packed, (int)n, (int)k, (int)gemm_groups(k), (uint2 *)codes, (uint8_t *)scales, tiles, tensor_scale);
    return cudaGetLastError();
}

static __global__ void __launch_bounds__(256) tile_scales(const uint8_t *plain, int rows, int blocks, uint8_t *tiles) {
    const size_t id = blockIdx.x * (size_t)blockDim.x + threadIdx.x;
    if (id < (size_t)rows * blocks)
        tiles[gemm_scale_place(id / blocks, id % blocks, blocks)] = plain[id];
}

extern "C" int gemm_tile_scales(const void *plain, size_t rows, size_t blocks, void *tiles, void *stream) {
    cudaMemsetAsync(tiles, 0, nib_gemm_scale_tile_bytes(rows, blocks * 16), (cudaStream_t)stream);
    tile_scales<<<(unsigned)((rows * blocks + 255) / 256), 256, 0, (cudaStream_t)stream>>>((const uint8_t *)plain, (int)rows,
                                                                                       (int)blocks, (uint8_t *)tiles);
    return cudaGetLastError();
}

static __global__ void product_factors(float alpha, const float *a, const float *b, float beta, float *factors) {
    factors[0] = alpha * (*a * *b);
    factors[1] = beta;
}

extern "C" int gemm_product_factors(float alpha, const float *a, const float *b, float beta, float *factors, void *stream) {
    product_factors<<<1, 1, 0, (cudaStream_t)stream>>>(alpha, a, b, beta, factors);
    return cudaGetLastError();
}

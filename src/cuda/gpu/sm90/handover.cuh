/* SPDX-License-Identifier: Apache-2.0
 *
 * Values that go from block to block inside one kernel, without barriers: a value carries a bit that tells
 * its use of the place from the one before (TAG), so data and flag arrive together and nothing is ever
 * cleared. The reader asks until all its values have the bit. FP32: the last bit of the fraction is the tag,
 * and reads as 0. BF16: the value times 2^-63, so that the exponent's highest bit is 0, which is the tag.
 * Below 2^63 exact (but subnormal below 2^-63); what is not smaller, or no number, reads as NaN. Sums that
 * only some steps write carry a number of 32 bits instead, which grows with each use.
 *
 * BF16 is written by 2 bytes and read by 16. PTX's memory model promises nothing of accesses of different
 * sizes; Hopper's L2, where both meet, keeps each value whole.
 */
#ifndef CUDA_HANDOVER_CUH
#define CUDA_HANDOVER_CUH

#include "cuda/gpu/any/kernel.cuh"

#define BF16_TAGS 0x40004000u

__device__ __forceinline__ uint4 ask(const void *p) {
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}

__device__ __forceinline__ uint32_t ask_word(const uint32_t *p) {
    uint32_t v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

/* ---- FP32 ---- */

__device__ __forceinline__ void hand_float(uint32_t *to, float v, uint32_t tag) {
    const uint32_t bits = (__float_as_uint(v) & ~1u) | tag;
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(bits) : "memory");
}

__device__ __forceinline__ void hand_four(uint32_t *to, const float4 &v, uint32_t tag) {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(to),
                 "r"((__float_as_uint(v.x) & ~1u) | tag), "r"((__float_as_uint(v.y) & ~1u) | tag),
                 "r"((__float_as_uint(v.z) & ~1u) | tag), "r"((__float_as_uint(v.w) & ~1u) | tag)
                 : "memory");
}

/* Bit 0 of the result is set where one of V is not yet there. */
__device__ __forceinline__ uint32_t floats_missing(const uint4 &v, uint32_t tag) {
    return (v.x ^ tag) | (v.y ^ tag) | (v.z ^ tag) | (v.w ^ tag);
}

__device__ __forceinline__ float handed(uint32_t bits) {
    return __uint_as_float(bits & ~1u);
}

/* ---- BF16 ---- */

__device__ __forceinline__ void hand_bf16(uint16_t *to, float v, uint32_t tag) {
    const uint32_t bits = __bfloat16_as_ushort(__float2bfloat16_rn(v * 0x1p-63f));
    const bool sound = (bits & 0x7fffu) < 0x3fffu; /* NaN is above */
    const uint16_t code = (uint16_t)((sound ? bits : 0x3fffu) | (tag ? 0x4000u : 0));
    asm volatile("st.relaxed.gpu.global.u16 [%0], %1;" ::"l"(to), "h"(code) : "memory");
}

/* Not 0 where one of V is not yet there; TAGS: 0 or BF16_TAGS. */
__device__ __forceinline__ uint32_t bf16_missing(const uint4 &v, uint32_t tags) {
    return ((v.x ^ tags) | (v.y ^ tags) | (v.z ^ tags) | (v.w ^ tags)) & BF16_TAGS;
}

/* Two values times 2^64, as products want them. */
__device__ __forceinline__ uint32_t handed_pair(uint32_t w) {
    const uint32_t codes = w & ~BF16_TAGS;
    uint32_t d;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(codes), "r"(0x7f007f00u));
    const uint32_t unsound = ((codes & 0x3fff3fffu) + 0x00010001u) & BF16_TAGS;
    return unsound ? 0x7fff7fffu : d;
}

/* ---- numbered FP32 ---- */

__device__ __forceinline__ void hand_numbered(uint64_t *to, float v, uint32_t number) {
    const uint64_t both = (uint64_t)number << 32 | __float_as_uint(v);
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(both) : "memory");
}

__device__ __forceinline__ uint64_t ask_numbered(const uint64_t *p) {
    uint64_t v;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
    return v;
}

#endif

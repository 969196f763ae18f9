/* SPDX-License-Identifier: Apache-2.0
 *
 * The packed word: 8 elements of one row, their 32 bits permuted so that few instructions make BF16 pairs or
 * E4M3 bytes of them. Plain C that host and device compile alike; the decoders of the kernels are in
 * gpu/decode.cuh and are tested against this.
 *
 *   element     magnitude bits 0, 1, 2 and sign at
 *   0           6  7  8  15
 *   2          26 25 28   1
 *   4          30 29  0   5
 *   6           2  3  4  11
 *   odd ones as the even one before, 16 further (mod 32)
 */
#ifndef GEMM_WORD_H
#define GEMM_WORD_H

#include <stdint.h>

#ifdef __CUDACC__
#define GEMM_HOST_DEVICE __host__ __device__
#else
#define GEMM_HOST_DEVICE
#endif

/* Position of bit I (3: sign) of element E. */
GEMM_HOST_DEVICE static inline int gemm_word_bit(int e, int i) {
    const uint64_t even = e < 4 ? (e < 2 ? 0x0f080706u : 0x011c191au) : (e < 6 ? 0x05001d1eu : 0x0b040302u);
    return (int)((even >> 8 * i & 31) + 16u * (unsigned)(e & 1)) & 31;
}

/* CODES: element e in bits 4e .. 4e + 3, which is how 4 bytes of NVFP4 codes read, little-endian. */
GEMM_HOST_DEVICE static inline uint32_t gemm_word_pack(uint32_t codes) {
    uint32_t word = 0;
    for (int e = 0; e < 8; e++)
        for (int i = 0; i < 4; i++)
            word |= (codes >> (4 * e + i) & 1) << gemm_word_bit(e, i);
    return word;
}

GEMM_HOST_DEVICE static inline uint32_t gemm_word_unpack(uint32_t word) {
    uint32_t codes = 0;
    for (int e = 0; e < 8; e++)
        for (int i = 0; i < 4; i++)
            codes |= (word >> gemm_word_bit(e, i) & 1) << (4 * e + i);
    return codes;
}

/* Row of a 16-row tile that lane group G (0..7) holds first (R 0) and second (R 1). */
GEMM_HOST_DEVICE static inline int gemm_tile_row(int g, int r) {
    return 4 * (g >> 1) + (g & 1) + 2 * r;
}

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Scales of packed weights (pack.h): of V_LANES rows, rows V_LANES PART.. of a group. LINES are a
 * superblock's lines of scales, B one of its blocks of 16 columns.
 */
#ifndef CPU_VEC_SCALES_VEC_H
#define CPU_VEC_SCALES_VEC_H

#include "cpu/pack.h"

INLINE vfloat scale_of(pack_kind kind, const uint8_t *lines, size_t b, size_t part) {
    size_t row = part * V_LANES;
    const uint8_t *d = lines + PACK_K_SCALES * PACK_LINE + row * 2;
    switch (kind) {
    case PACK_NVFP4: {
        vint bytes = vi_load_u8(lines + b * PACK_LANES + row);
        return vf_mul(vf_of_bits(VI_LEFT(bytes, 20)), vf_set(0x1p104f));
    }
    case PACK_Q4_K:
    case PACK_Q5_K:
        return vf_mul(vf_load_f16(d), vf_of_int(vi_load_u8(lines + b / 2 * PACK_LANES + row)));
    case PACK_Q6_K:
        return vf_mul(vf_load_f16(d), vf_of_int(vi_load_i8(lines + b * PACK_LANES + row)));
    default:
        return vf_load_f16(lines + (b / 2 * PACK_LANES + row) * 2);
    }
}

/* Least values; 0 where the kind has none. */
INLINE vfloat least_of(pack_kind kind, const uint8_t *lines, size_t b, size_t part) {
    size_t row = part * V_LANES, at = b / 2 * PACK_LANES + row;
    switch (kind) {
    case PACK_Q4_1:
    case PACK_Q5_1:
        return vf_load_f16(lines + PACK_LINE + at * 2);
    case PACK_Q4_K:
    case PACK_Q5_K: {
        vfloat d = vf_load_f16(lines + PACK_K_SCALES * PACK_LINE + (PACK_LANES + row) * 2);
        return vf_mul(d, vf_of_int(vi_load_u8(lines + 2 * PACK_LINE + at)));
    }
    default:
        return vf_zero();
    }
}

#endif

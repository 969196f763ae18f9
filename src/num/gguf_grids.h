/* SPDX-License-Identifier: Apache-2.0
 *
 * The code vectors of GGUF's IQ formats: lists that the formats are defined by, for which there is no rule.
 * An entry holds eight indices of two bits (IQ1, IQ2) or four of three bits (IQ3), the first in the lowest
 * bits. Caller: gguf_iq.
 */
#ifndef NUM_GGUF_GRIDS_H
#define NUM_GGUF_GRIDS_H

#include <stdint.h>

extern const uint16_t gguf_grids_iq1[2048], gguf_grids_iq2_xxs[256], gguf_grids_iq2_xs[512],
    gguf_grids_iq2_s[1024], gguf_grids_iq3_xxs[256], gguf_grids_iq3_s[512];

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * What features.c knows beyond cpu.h.
 */
#ifndef CPU_FEATURES_H
#define CPU_FEATURES_H

#include <stdbool.h>
#include <stdint.h>

/* This machine's features within MASK (0: all); a rung that MASK names brings those below it. */
uint32_t features_lowered(uint32_t mask);

#endif

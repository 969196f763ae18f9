/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine is: instruction sets by CPUID and XCR0. Built without ISA flags, so it runs
 * anywhere.
 */
#include "cpu/features.h"

#include "cpu/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>

enum { XCR0_AVX = 0x6, XCR0_AVX512 = 0xe6 };

static uint64_t xcr0(void) {
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static bool has(uint32_t reg, uint32_t bits) {
    return (reg & bits) == bits;
}

static uint32_t detect(void) {
    uint32_t a, b, c, d, b7, c7, d7, found = NIB_CPU_SCALAR;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return found;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
        return found;
    uint64_t state = xcr0();
    if ((state & XCR0_AVX) != XCR0_AVX || !has(b7, bit_AVX2))
        return found;
    found |= NIB_CPU_AVX2;
    if ((state & XCR0_AVX512) != XCR0_AVX512 ||
        !has(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ))
        return found;
    found |= NIB_CPU_AVX512;
    if (!has(c7, bit_AVX512VNNI))
        return found;
    return found | NIB_CPU_AVX512_VNNI;
}
#else
static uint32_t detect(void) {
    return NIB_CPU_SCALAR;
}
#endif

uint32_t cpu_features(void) {
    return detect();
}

/* Rungs, highest first: each stands on those after it. */
static const uint32_t rungs[] = {NIB_CPU_AVX512_VNNI, NIB_CPU_AVX512, NIB_CPU_AVX2};

uint32_t features_lowered(uint32_t mask) {
    uint32_t allowed = mask ? mask : NIB_CPU_ALL;
    for (size_t i = 0; i + 1 < sizeof rungs / sizeof *rungs; i++)
        if (allowed & rungs[i])
            allowed |= rungs[i + 1];
    return (detect() & allowed) | NIB_CPU_SCALAR;
}

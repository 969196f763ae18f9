/* SPDX-License-Identifier: Apache-2.0
 *
 * What this machine is: instruction sets by CPUID and XCR0 (built without ISA flags, so it runs anywhere),
 * cores by affinity and sysfs.
 */
#include "cpu/features.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

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

/* Whole CPUs of this control group's quota (a container's --cpus), at least 1; INT_MAX without one. */
static int quota_cpus(void) {
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    long long quota = 0, period = 0;
    int fields = f ? fscanf(f, "%lld %lld", &quota, &period) : 0; /* "max 100000" where there is none */
    if (f)
        fclose(f);
    if (fields != 2 || quota <= 0 || period <= 0)
        return INT_MAX;
    long long cpus = (quota + period - 1) / period;
    return cpus < INT_MAX ? (int)cpus : INT_MAX;
}

static int at_most_quota(int cpus) {
    int quota = quota_cpus();
    return cpus < quota ? cpus : quota;
}

int features_cpus(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return at_most_quota((int)sysconf(_SC_NPROCESSORS_ONLN));
    return at_most_quota(CPU_COUNT(&set));
}

/* The lowest-numbered hyperthread of CPU's core; CPU itself when sysfs does not say. */
static int core_leader(int cpu) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    FILE *f = fopen(path, "re");
    if (!f)
        return cpu;
    int first;
    if (fscanf(f, "%d", &first) != 1)
        first = cpu;
    fclose(f);
    return first;
}

int cpu_physical_cores(void) {
    cpu_set_t set, leaders;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return features_cpus();
    CPU_ZERO(&leaders);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set))
            continue;
        int leader = core_leader(cpu);
        CPU_SET(leader >= 0 && leader < CPU_SETSIZE ? leader : cpu, &leaders);
    }
    int cores = at_most_quota(CPU_COUNT(&leaders));
    return cores > 0 ? cores : 1;
}

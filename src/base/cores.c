/* SPDX-License-Identifier: Apache-2.0
 *
 * See cores.h. Files that are not there (another kernel, a sandbox) leave the affinity's count.
 */
#include "base/cores.h"

#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

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

int cores_usable(void) {
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

int cores_physical(void) {
    cpu_set_t set, leaders;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return cores_usable();
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

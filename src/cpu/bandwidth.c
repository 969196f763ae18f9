/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast this machine reads memory: every thread adds up its part of a buffer larger than the caches, with
 * the widest loads it has and from four places at a time (one stream alone waits at every 4 KiB page). The
 * best of several passes, since anything else on the machine can only slow one down.
 */
#include <omp.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/threads.h"
#include "cpu/cpu.h"
#include "cpu/kernels.h"

#define BYTES ((size_t)512 << 20)
enum { PASSES = 8 };

double cpu_read_bandwidth(int threads) {
    threads = threads > 0 ? threads : cpu_physical_cores();
    if (threads_ready(threads, NULL) != NIB_OK)
        return 0;
    uint64_t *memory = mem_aligned(BYTES), total = 0;
    if (!memory)
        return 0;
    double best = 0;
    cpu_kernels k;
    kernels_init(&k, cpu_features());
    for (int pass = 0; pass < PASSES; pass++) {
        double start = clock_seconds();
#pragma omp parallel num_threads(threads) reduction(+ : total)
        {
            size_t share = BYTES / 1024 / (size_t)omp_get_num_threads() * (1024 / sizeof *memory);
            uint64_t *mine = memory + share * (size_t)omp_get_thread_num();
            if (pass == 0)
                memset(mine, 1, share * sizeof *mine); /* each thread touches first what it will read */
            total += k.read_all(mine, share * sizeof *mine);
        }
        double rate = (double)BYTES / (clock_seconds() - start);
        if (pass > 0 && rate > best)
            best = rate;
    }
    mem_free(memory);
    return total ? best : 0;
}

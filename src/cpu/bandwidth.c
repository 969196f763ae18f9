/* SPDX-License-Identifier: Apache-2.0
 *
 * How fast this machine reads memory: every thread adds up its part of a buffer larger than the caches, with
 * the widest loads it has and from four places at a time (one stream alone waits at every 4 KiB page). The
 * best of several passes, since anything else on the machine can only slow one down.
 */
#include <stdatomic.h>
#include <string.h>

#include "base/clock.h"
#include "base/cores.h"
#include "base/mem.h"
#include "base/pool.h"
#include "cpu/cpu.h"
#include "cpu/kernels.h"

#define BYTES ((size_t)512 << 20)
enum { PASSES = 8 };

typedef struct reading {
    cpu_kernels k;
    uint64_t *memory;
    bool first; /* each thread touches first what it will read */
    atomic_uint_fast64_t total;
} reading;

static void read_share(void *arg, int thread, int n_threads) {
    reading *r = arg;
    size_t share = BYTES / 1024 / (size_t)n_threads * (1024 / sizeof *r->memory);
    uint64_t *mine = r->memory + share * (size_t)thread;
    if (r->first)
        memset(mine, 1, share * sizeof *mine);
    atomic_fetch_add(&r->total, r->k.read_all(mine, share * sizeof *mine));
}

double cpu_read_bandwidth(int threads) {
    pool *team;
    if (pool_new(&team, threads > 0 ? threads : cores_physical(), NULL) != NIB_OK)
        return 0;
    reading r = {.memory = mem_aligned(BYTES)};
    double best = 0;
    kernels_init(&r.k, cpu_features());
    for (int pass = 0; pass < PASSES && r.memory; pass++) {
        double start = clock_seconds();
        r.first = pass == 0;
        pool_run(team, read_share, &r);
        double rate = (double)BYTES / (clock_seconds() - start);
        if (pass > 0 && rate > best)
            best = rate;
    }
    pool_free(team);
    mem_free(r.memory);
    return r.total ? best : 0;
}

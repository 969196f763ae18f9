/* SPDX-License-Identifier: Apache-2.0
 *
 * The op suite on the CUDA backend, in each mode the device has: every op, format, shape, number of rows and
 * pattern within its tolerance of FP64. Ops have threads and backends of their own, because FP64 on the host
 * is what takes the time.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

static atomic_int failed;
#define fail_msg(...) (printf("WRONG "), printf(__VA_ARGS__), printf("\n"), failed++)
#include "../unit/ops/op_suite.h"
#include "ops/plugin.h"

extern const backend_plugin nibble_plugin;

static int run_op(compute_mode mode, op_id op) {
    backend *be;
    nib_error err = {""};
    nib_status status = nibble_plugin.open(&be, &(device_options){.mode = mode}, &err);
    if (status == NIB_UNSUPPORTED && mode == COMPUTE_W4A8_FP8)
        return 0;
    if (status != NIB_OK)
        fail_msg("%s", err.text);
    int n = status == NIB_OK ? op_suite_op(be, op, OP_SUITE_FULL) : 0;
    if (status == NIB_OK)
        be->close(be);
    return n;
}

enum { N_MODES = 3, N_RUNS = N_MODES * OP_COUNT, THREADS = 12 };

/* The slowest first. */
static const op_id order[] = {OP_attention,          OP_matmul,      OP_matmul_glu, OP_matmul_add,
                              OP_qk_norm_rope_store, OP_embed,       OP_rmsnorm,    OP_rmsnorm_out,
                              OP_rmsnorm_add,        OP_sum_squares, OP_softcap,    OP_sample};
_Static_assert(sizeof order / sizeof *order == OP_COUNT, "each op once");

static atomic_int next_run, n_cases;

static void *work(void *unused) {
    static const compute_mode modes[N_MODES] = {COMPUTE_EXACT, COMPUTE_W4A16, COMPUTE_W4A8_FP8};
    for (int i; (i = atomic_fetch_add(&next_run, 1)) < N_RUNS;)
        atomic_fetch_add(&n_cases, run_op(modes[i % N_MODES], order[i / N_MODES]));
    return unused;
}

int main(void) {
    pthread_t threads[THREADS];
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, NULL) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("op suite: %d cases, %d wrong\n", n_cases, failed);
    return failed > 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The library built without CUDA: no context opens, and the words say why. Everything else needs a context.
 */
#include "base/status.h"
#include "gemm/bench.h"
#include "gemm/gemm.h"

nib_status nib_gemm_open(int device, nib_gemm **out, nib_error *err) {
    *out = NULL;
    return nib_fail(err, NIB_UNSUPPORTED,
                    "GPU %d: this nibble was built without CUDA (make cuda builds it with)", device);
}

void nib_gemm_close(nib_gemm *g) {
    (void)g;
}

nib_status bench_open(int device, bench **out, bench_device *facts, nib_error *err) {
    (void)facts;
    *out = NULL;
    return nib_gemm_open(device, &(nib_gemm *){NULL}, err);
}

void bench_close(bench *b) {
    (void)b;
}

nib_status bench_shape(bench *b, size_t m, size_t n, size_t k, unsigned kinds, bench_row *row,
                       nib_error *err) {
    (void)b, (void)kinds;
    *row = (bench_row){.m = m, .n = n, .k = k};
    return nib_gemm_open(0, &(nib_gemm *){NULL}, err);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The library built without CUDA: no context opens, and the words say why. Everything else needs a context.
 */
#include "base/status.h"
#include "gemm/gemm.h"

nib_status nib_gemm_open(int device, nib_gemm **out, nib_error *err) {
    *out = NULL;
    return nib_fail(err, NIB_UNSUPPORTED,
                    "GPU %d: this nibble was built without CUDA (make cuda builds it with)", device);
}

void nib_gemm_close(nib_gemm *g) {
    (void)g;
}

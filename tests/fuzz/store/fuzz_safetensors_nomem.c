/* SPDX-License-Identifier: Apache-2.0
 *
 * Lone safetensors files, with failing allocations: model_file_open on any bytes.
 */
#include "store_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 9 || data[8] != 0x7b)
        return 0; /* not a safetensors file: no business of this corpus */
    return store_target_run_file(data, size, store_target_open_nomem);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF files: model_file_open on any bytes.
 */
#include "store_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 4 || memcmp(data, "GGUF", 4) != 0)
        return 0; /* not a GGUF file: no business of this corpus */
    return store_target_run_file(data, size, store_target_plain);
}

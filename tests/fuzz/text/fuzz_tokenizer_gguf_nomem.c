/* SPDX-License-Identifier: Apache-2.0
 *
 * Vocabularies as GGUF gives them, built from bytes, with failing allocations.
 */
#include "text_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    text_target_gguf(data, size, text_target_run_nomem);
    return 0;
}

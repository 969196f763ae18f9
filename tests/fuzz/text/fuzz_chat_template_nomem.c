/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates: recognized, and a conversation written with what was found, with failing allocations.
 */
#include "text_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    text_target_template(data, size, text_target_run_nomem);
    return 0;
}

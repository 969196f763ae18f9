/* SPDX-License-Identifier: Apache-2.0
 *
 * tokenizer.json (and tokenizer_config.json after a zero byte).
 */
#include "text_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    text_target_json(data, size, text_target_run_once);
    return 0;
}

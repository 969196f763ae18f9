/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON schemas: compiled, and an answer walked along the masks.
 */
#include "guide_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    guide_target(GUIDE_JSON_SCHEMA, data, size);
    return 0;
}

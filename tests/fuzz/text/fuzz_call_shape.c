/* SPDX-License-Identifier: Apache-2.0
 *
 * Tools to call: compiled, and an answer walked along the masks.
 */
#include "guide_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    guide_target(GUIDE_CALL, data, size);
    return 0;
}

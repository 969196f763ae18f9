/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json of any bytes.
 */
#include "config_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    config_target_read(data, size);
    return 0;
}

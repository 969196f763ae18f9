/* SPDX-License-Identifier: Apache-2.0
 *
 * config.json of any bytes, with failing allocations.
 */
#include "config_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nib_status status = NIB_NO_MEMORY;
    for (long n = 0; status == NIB_NO_MEMORY; n += 1 + n / 6) {
        mem_fail_after(n);
        status = config_target_read(data, size);
        mem_fail_after(-1);
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The names of the compute modes, as reports and sentences write them.
 */
#include <assert.h>

#include "ops/ops.h"

const char *compute_mode_name(compute_mode m) {
    static const char *const names[] = {[COMPUTE_EXACT] = "exact",
                                        [COMPUTE_W4A16] = "w4a16",
                                        [COMPUTE_W4A8_INT8] = "w4a8-int8",
                                        [COMPUTE_W4A8_FP8] = "w4a8-fp8",
                                        [COMPUTE_W4A4] = "w4a4"};
    assert((size_t)m < sizeof names / sizeof *names);
    return names[m];
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * How long work is told to stop by a flag that a signal sets. Callers: whatever goes through layers, windows
 * or tensors, between two of them.
 */
#ifndef BASE_STOP_H
#define BASE_STOP_H

#include <signal.h>
#include <stddef.h>

#include "base/status.h"

/* NIB_CANCELLED once *FLAG is not zero; FLAG may be NULL: never. */
static inline nib_status stop_check(const volatile sig_atomic_t *flag, nib_error *err) {
    return flag && *flag ? nib_fail(err, NIB_CANCELLED, "interrupted") : NIB_OK;
}

#endif

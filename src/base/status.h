/* SPDX-License-Identifier: Apache-2.0
 *
 * The one error rule: what can fail returns nib_status and leaves one sentence in nib_error. Bad input is a
 * status, our own mistake an assert.
 */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H

#include "nibble.h"

/* Formats the sentence into ERR (may be NULL) and returns CODE. */
nib_status nib_fail(nib_error *err, nib_status code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define NIB_TRY(expression)                                                                                  \
    do {                                                                                                     \
        nib_status nib_try_status_ = (expression);                                                           \
        if (nib_try_status_ != NIB_OK)                                                                       \
            return nib_try_status_;                                                                          \
    } while (0)

#endif

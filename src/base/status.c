/* SPDX-License-Identifier: Apache-2.0
 *
 * Error sentences. Names and values in them come from files of strangers and end on a terminal: control
 * characters and broken UTF-8 become '?'.
 */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Bytes of the well-formed, printable UTF-8 character at p, or 0. */
static size_t printable_bytes(const unsigned char *p) {
    if (p[0] < 0x80)
        return p[0] >= 0x20 && p[0] != 0x7f;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return 0;
    size_t n = p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    for (size_t i = 1; i < n; i++) /* the closing NUL ends this loop too */
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xc2 && p[1] < 0xa0) || (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return n;
}

nib_status nib_fail(nib_error *err, nib_status code, const char *format, ...) {
    if (!err)
        return code;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    for (unsigned char *p = (unsigned char *)err->text; *p;) {
        size_t n = printable_bytes(p);
        if (n == 0) {
            *p = '?';
            n = 1;
        }
        p += n;
    }
    return code;
}

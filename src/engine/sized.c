/* SPDX-License-Identifier: Apache-2.0
 *
 * See sized.h.
 */
#include "engine/sized.h"

#include <string.h>

enum { LARGEST = 4096 }; /* no struct of ours grows to that: a size that was never set */

static nib_status size_of(const void *caller, size_t *size, const char *name, nib_error *err) {
    if (!caller)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: NULL; expected a pointer to one", name);
    memcpy(size, caller, sizeof *size);
    if (*size < sizeof *size || *size > LARGEST)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s.size is %zu; set it to sizeof(%s)", name, *size, name);
    return NIB_OK;
}

nib_status sized_check(const void *caller, const char *name, nib_error *err) {
    size_t size = 0;
    return size_of(caller, &size, name, err);
}

nib_status sized_read(void *dst, size_t bytes, const void *src, const char *name, nib_error *err) {
    size_t size = 0;
    memset(dst, 0, bytes);
    if (src) {
        NIB_TRY(size_of(src, &size, name, err));
        for (size_t i = bytes; i < size; i++)
            if (((const char *)src)[i])
                return nib_fail(err, NIB_UNSUPPORTED,
                                "%s: byte %zu of %zu is set; this library, %s, knows %zu bytes of it", name,
                                i, size, NIB_VERSION, bytes);
        memcpy(dst, src, size < bytes ? size : bytes);
    }
    memcpy(dst, &bytes, sizeof bytes);
    return NIB_OK;
}

nib_status sized_write(void *dst, const void *src, size_t bytes, const char *name, nib_error *err) {
    size_t size = 0;
    NIB_TRY(size_of(dst, &size, name, err));
    size_t n = size < bytes ? size : bytes;
    memcpy((char *)dst + sizeof size, (const char *)src + sizeof size, n - sizeof size);
    memset((char *)dst + n, 0, size - n);
    return NIB_OK;
}

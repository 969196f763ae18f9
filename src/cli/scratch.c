/* SPDX-License-Identifier: Apache-2.0
 *
 * See scratch.h.
 */
#include "cli/scratch.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/outtemp.h"

#define DEPTH 4 /* a directory of a model's, while it is being written, in it */

nib_status scratch_open(scratch *s, const char *out, nib_error *err) {
    size_t length = strlen(out);
    while (length > 1 && out[length - 1] == '/') /* beside a directory, not in it */
        length--;
    char *path = mem_copy_text(out, length), *directory = path ? outtemp_name(path) : NULL;
    nib_status status = directory ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", out);
    *s = (scratch){0};
    if (status == NIB_OK) {
        outtemp_remove_stale(path);
        status = outtemp_make_directory(&s->lock, directory, path, err);
    }
    mem_free(path);
    if (status != NIB_OK) {
        mem_free(directory);
        return status;
    }
    s->directory = directory;
    outtemp_begun(directory);
    return NIB_OK;
}

char *scratch_path(const scratch *s, const char *name) {
    const size_t room = strlen(s->directory) + strlen(name) + 2;
    char *path = mem_alloc(room);
    if (path)
        snprintf(path, room, "%s/%s", s->directory, name);
    return path;
}

void scratch_close(scratch *s) {
    if (s->directory) {
        outtemp_remove(AT_FDCWD, s->directory, DEPTH);
        outtemp_ended(s->directory);
        close(s->lock);
    }
    mem_free(s->directory);
    *s = (scratch){0};
}

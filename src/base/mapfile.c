/* SPDX-License-Identifier: Apache-2.0
 *
 * Read-only maps. Opened without blocking, so that a FIFO given as a model is refused, not waited for.
 */
#include "base/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static nib_status map_open(mapfile *out, int fd, const char *path, nib_error *err) {
    struct stat st;
    if (fstat(fd, &st) != 0)
        return nib_fail(err, NIB_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return nib_fail(err, NIB_BAD_FILE, "%s: is a directory, a file was expected", path);
    if (!S_ISREG(st.st_mode))
        return nib_fail(err, NIB_BAD_FILE, "%s: is not a regular file", path);
    if (st.st_size <= 0)
        return nib_fail(err, NIB_BAD_FILE, "%s: is an empty file", path);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return nib_fail(err, errno == ENOMEM ? NIB_NO_MEMORY : NIB_IO, "%s: cannot be mapped: %s", path,
                        strerror(errno));
    *out = (mapfile){p, (size_t)st.st_size};
    return NIB_OK;
}

nib_status mapfile_open(mapfile *out, const char *path, nib_error *err) {
    *out = (mapfile){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return nib_fail(err, NIB_IO, "%s: cannot be opened: %s", path, strerror(errno));
    nib_status status = map_open(out, fd, path, err);
    close(fd);
    return status;
}

void mapfile_close(mapfile *m) {
    if (m->bytes)
        munmap((void *)m->bytes, m->size);
    *m = (mapfile){0};
}

void mapfile_forget(const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)p + page - 1) & ~(page - 1);
    uintptr_t to = ((uintptr_t)p + n) & ~(page - 1);
    if (from < to)
        madvise((void *)from, to - from, MADV_DONTNEED);
}

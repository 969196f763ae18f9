/* SPDX-License-Identifier: Apache-2.0
 *
 * See stream.h. The file has lost its name before anything is written, so nothing stays behind whatever ends
 * the program.
 */
#include "tune/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"

static nib_status open_file(int *fd, size_t bytes, const char *path, nib_error *err) {
    static const char suffix[] = ".XXXXXX";
    size_t n = strlen(path);
    char *name = mem_alloc(n + sizeof suffix);
    if (!name)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a path");
    memcpy(name, path, n);
    memcpy(name + n, suffix, sizeof suffix);
    *fd = mkostemp(name, O_CLOEXEC);
    int failed = *fd < 0 ? errno : 0;
    if (*fd >= 0)
        unlink(name);
    mem_free(name);
    if (failed == 0)
        failed = posix_fallocate(*fd, 0, (off_t)bytes);
    if (failed != 0)
        return nib_fail(err, NIB_IO, "%s: cannot keep %zu bytes of activations beside it: %s", path, bytes,
                        strerror(failed));
    return NIB_OK;
}

nib_status stream_open(stream *s, size_t n, bool on_disk, const char *path, nib_error *err) {
    *s = (stream){.on_disk = on_disk};
    if (!mem_mul(n, sizeof(float), &s->bytes))
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu activations", n);
    int fd = -1;
    nib_status status = on_disk ? open_file(&fd, s->bytes, path, err) : NIB_OK;
    if (status == NIB_OK) {
        int kind = on_disk ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void *map = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, kind, fd, 0);
        if (map == MAP_FAILED)
            status = nib_fail(err, NIB_NO_MEMORY, "no memory for %zu activations", n);
        else
            s->at = map;
    }
    if (fd >= 0)
        close(fd);
    return status;
}

void stream_leave(const stream *s, size_t first, size_t n) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t from = (first * sizeof(float) + page - 1) / page * page,
           to = (first + n) * sizeof(float) / page * page;
    if (s->on_disk && from < to)
        madvise((char *)s->at + from, to - from, MADV_DONTNEED);
}

void stream_close(stream *s) {
    if (s->at)
        munmap(s->at, s->bytes);
    *s = (stream){0};
}

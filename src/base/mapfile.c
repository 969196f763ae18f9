/* SPDX-License-Identifier: Apache-2.0
 *
 * Read-only maps. Opened without blocking, so that a FIFO given as a model is refused, not waited for.
 *
 * Open maps are listed, because mapfile_forget on memory that is no map would destroy what it holds.
 */
#include "base/mapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

typedef struct map_range {
    const unsigned char *bytes;
    size_t size;
    int fd; /* for mapfile_read */
    struct map_range *next;
} map_range;

static pthread_mutex_t maps_lock = PTHREAD_MUTEX_INITIALIZER;
static map_range *maps;

static void list_map(map_range *range) {
    pthread_mutex_lock(&maps_lock);
    range->next = maps;
    maps = range;
    pthread_mutex_unlock(&maps_lock);
}

static void unlist_map(const unsigned char *bytes) {
    pthread_mutex_lock(&maps_lock);
    map_range **at = &maps;
    while (*at && (*at)->bytes != bytes)
        at = &(*at)->next;
    map_range *range = *at;
    if (range)
        *at = range->next;
    pthread_mutex_unlock(&maps_lock);
    if (range)
        close(range->fd);
    mem_free(range);
}

/* With the lock held: the map that holds [p, p + n), or NULL. */
static const map_range *find_map(const void *p, size_t n) {
    const map_range *range = maps;
    while (range && ((uintptr_t)p < (uintptr_t)range->bytes ||
                     (uintptr_t)p + n > (uintptr_t)range->bytes + range->size))
        range = range->next;
    return range;
}

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
    map_range *range = mem_alloc(sizeof *range);
    if (!range)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to map it", path);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        int code = errno;
        mem_free(range);
        return nib_fail(err, code == ENOMEM ? NIB_NO_MEMORY : NIB_IO, "%s: cannot be mapped: %s", path,
                        strerror(code));
    }
    *range = (map_range){p, (size_t)st.st_size, fd, NULL};
    list_map(range);
    *out = (mapfile){p, (size_t)st.st_size};
    return NIB_OK;
}

nib_status mapfile_open(mapfile *out, const char *path, nib_error *err) {
    *out = (mapfile){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return nib_fail(err, NIB_IO, "%s: cannot be opened: %s", path, strerror(errno));
    nib_status status = map_open(out, fd, path, err);
    if (status != NIB_OK)
        close(fd);
    return status;
}

void mapfile_close(mapfile *m) {
    if (m->bytes) {
        unlist_map(m->bytes);
        munmap((void *)m->bytes, m->size);
    }
    *m = (mapfile){0};
}

void mapfile_forget(const void *p, size_t n) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)p + page - 1) & ~(page - 1);
    uintptr_t to = ((uintptr_t)p + n) & ~(page - 1);
    pthread_mutex_lock(&maps_lock);
    if (find_map(p, n) && from < to)
        madvise((void *)from, to - from, MADV_DONTNEED);
    pthread_mutex_unlock(&maps_lock);
}

nib_status mapfile_read(void *dst, const void *p, size_t n, nib_error *err) {
    pthread_mutex_lock(&maps_lock);
    const map_range *range = find_map(p, n);
    int fd = range ? range->fd : -1; /* whoever reads keeps the map open */
    size_t offset = range ? (size_t)((const unsigned char *)p - range->bytes) : 0;
    pthread_mutex_unlock(&maps_lock);
    if (fd < 0) {
        memcpy(dst, p, n);
        return NIB_OK;
    }
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (char *)dst + done, n - done, (off_t)(offset + done));
        if (got == 0)
            return nib_fail(err, NIB_BAD_FILE, "cut short while it was read, at byte %zu", offset + done);
        if (got < 0 && errno != EINTR)
            return nib_fail(err, NIB_IO, "cannot be read: %s", strerror(errno));
        done += got > 0 ? (size_t)got : 0;
    }
    return NIB_OK;
}

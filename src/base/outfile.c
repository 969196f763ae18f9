/* SPDX-License-Identifier: Apache-2.0
 *
 * A file that appears whole or not at all: buffered, the first failure sticks.
 */
#include "base/outfile.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/outtemp.h"

#define BUFFER_BYTES ((size_t)1 << 20)

struct outfile {
    int fd;
    char *path, *temporary, *parent; /* all allocated at open: once renamed, nothing can fail for memory */
    uint64_t flushed;                /* bytes in the file */
    size_t pending;                  /* bytes in buffer */
    unsigned char *buffer;
    nib_status status; /* the first failure sticks ... */
    nib_error problem; /* ... with its words */
};

static void outfile_free(outfile *f) {
    if (f->fd >= 0)
        close(f->fd);
    outtemp_ended(f->temporary);
    mem_free(f->path);
    mem_free(f->temporary);
    mem_free(f->parent);
    mem_free(f->buffer);
    mem_free(f);
}

/* Makes the temporary file and locks it. Another writer of the same name that cleans up may have taken it for
 * a stale one before the lock: then it is made anew. */
static nib_status make_temporary(outfile *f, nib_error *err) {
    for (int i = 0; i < OUTTEMP_TRIES; i++) {
        f->fd = open(f->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd < 0)
            return outtemp_problem(err, f->path, errno, "be created");
        if (outtemp_lock(f->fd))
            return NIB_OK;
        close(f->fd);
        f->fd = -1;
    }
    return nib_fail(err, NIB_IO, "%s: cannot be created: other programs keep writing the same name", f->path);
}

nib_status outfile_open(outfile **out, const char *path, nib_error *err) {
    *out = NULL;
    struct stat st;
    const char *base;
    outtemp_split(path, &base);
    if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: is not the name of a file to write", path);
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: exists and is %s, a file was to be written", path,
                        S_ISDIR(st.st_mode) ? "a directory" : "no regular file");
    outfile *f = mem_array(1, sizeof *f);
    if (!f)
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", path);
    f->fd = -1;
    f->path = mem_copy_text(path, strlen(path));
    f->temporary = outtemp_name(path);
    f->parent = outtemp_parent(path);
    f->buffer = mem_alloc(BUFFER_BYTES);
    if (!f->path || !f->temporary || !f->parent || !f->buffer) {
        outfile_free(f);
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", path);
    }
    outtemp_remove_stale(path);
    nib_status status = make_temporary(f, err);
    if (status == NIB_OK) {
        outtemp_begun(f->temporary);
        *out = f;
    } else {
        outfile_free(f);
    }
    return status;
}

/* Records the first failure of F. */
static nib_status stick(outfile *f, int error) {
    f->status = outtemp_problem(&f->problem, f->path, error, "be written");
    return f->status;
}

static nib_status put(outfile *f, const unsigned char *bytes, size_t n, uint64_t offset) {
    while (n) {
        ssize_t done = pwrite(f->fd, bytes, n, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return stick(f, done < 0 ? errno : ENOSPC);
        bytes += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return NIB_OK;
}

static nib_status flush(outfile *f) {
    if (f->status == NIB_OK && f->pending && put(f, f->buffer, f->pending, f->flushed) == NIB_OK) {
        f->flushed += f->pending;
        f->pending = 0;
    }
    return f->status;
}

static nib_status tell(const outfile *f, nib_error *err) {
    if (f->status != NIB_OK && err)
        *err = f->problem;
    return f->status;
}

nib_status outfile_write(outfile *f, const void *bytes, size_t n, nib_error *err) {
    const unsigned char *p = bytes;
    if (f->status == NIB_OK && n >= BUFFER_BYTES && flush(f) == NIB_OK) { /* large pieces pass by */
        if (put(f, p, n, f->flushed) == NIB_OK)
            f->flushed += n;
        return tell(f, err);
    }
    while (n && f->status == NIB_OK) {
        size_t part = BUFFER_BYTES - f->pending < n ? BUFFER_BYTES - f->pending : n;
        memcpy(f->buffer + f->pending, p, part);
        f->pending += part;
        p += part;
        n -= part;
        if (f->pending == BUFFER_BYTES)
            flush(f);
    }
    return tell(f, err);
}

nib_status outfile_rewrite(outfile *f, uint64_t offset, const void *bytes, size_t n, nib_error *err) {
    assert(offset <= outfile_size(f) && n <= outfile_size(f) - offset);
    if (flush(f) == NIB_OK)
        put(f, bytes, n, offset);
    return tell(f, err);
}

uint64_t outfile_size(const outfile *f) {
    return f->flushed + f->pending;
}

nib_status outfile_commit(outfile *f, nib_error *err) {
    if (flush(f) == NIB_OK && fsync(f->fd) != 0)
        stick(f, errno);
    if (f->status == NIB_OK && rename(f->temporary, f->path) != 0)
        f->status = outtemp_problem(&f->problem, f->path, errno, "be put in place");
    nib_status status = tell(f, err);
    if (status != NIB_OK)
        unlink(f->temporary);
    else
        status = outtemp_sync(f->parent, f->path, err);
    outfile_free(f);
    return status;
}

void outfile_abandon(outfile *f) {
    if (!f)
        return;
    unlink(f->temporary);
    outfile_free(f);
}

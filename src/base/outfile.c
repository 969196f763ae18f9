/* SPDX-License-Identifier: Apache-2.0
 *
 * Whole-or-nothing output. The temporary ".NAME.nibble-PID-N.part" lies beside the final name and is locked
 * (flock) while its writer lives; one that nobody locks was left by a killed program and is removed when the
 * same name is written again.
 */
#include "base/outfile.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

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

struct outdir {
    int fd; /* holds the lock */
    char *path, *temporary, *parent;
};

/* ---- temporary names ---- */

static atomic_uint n_temporaries;

/* "DIR/", "" when the path has none; *base points at the last component. */
static size_t split_path(const char *path, const char **base) {
    const char *slash = strrchr(path, '/');
    *base = slash ? slash + 1 : path;
    return (size_t)(*base - path);
}

static char *temporary_name(const char *path) {
    const char *base;
    size_t dir = split_path(path, &base), room = strlen(path) + 64;
    char *name = mem_alloc(room);
    if (name)
        snprintf(name, room, "%.*s.%s.nibble-%ld-%u.part", (int)dir, path, base, (long)getpid(),
                 atomic_fetch_add(&n_temporaries, 1));
    return name;
}

static char *parent_directory(const char *path) {
    const char *base;
    size_t dir = split_path(path, &base);
    return dir ? mem_copy_text(path, dir) : mem_copy_text(".", 1);
}

/* Removes a flat or nested directory, or a file. What cannot be removed stays. */
static void remove_tree(int at, const char *name, int depth) {
    if (unlinkat(at, name, 0) == 0 || depth == 0)
        return;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir) {
        for (struct dirent *e; (e = readdir(dir));)
            if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                remove_tree(dirfd(dir), e->d_name, depth - 1);
        closedir(dir);
    } else if (fd >= 0) {
        close(fd);
    }
    unlinkat(at, name, AT_REMOVEDIR);
}

/* True for ".BASE.nibble-DIGITS-DIGITS.part" */
static bool is_temporary_of(const char *name, const char *base) {
    size_t n = strlen(base);
    if (name[0] != '.' || strncmp(name + 1, base, n) != 0 || strncmp(name + 1 + n, ".nibble-", 8) != 0)
        return false;
    const char *p = name + 9 + n;
    size_t pid = strspn(p, "0123456789");
    if (pid == 0 || p[pid] != '-')
        return false;
    p += pid + 1;
    size_t serial = strspn(p, "0123456789");
    return serial > 0 && strcmp(p + serial, ".part") == 0;
}

static void remove_stale(const char *path) {
    const char *base;
    split_path(path, &base);
    char *parent = parent_directory(path);
    DIR *dir = parent ? opendir(parent) : NULL;
    mem_free(parent);
    if (!dir)
        return;
    for (struct dirent *e; (e = readdir(dir));) {
        if (!is_temporary_of(e->d_name, base))
            continue;
        int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            remove_tree(dirfd(dir), e->d_name, 8);
        close(fd);
    }
    closedir(dir);
}

static nib_status io_problem(nib_error *err, const char *path, int error, const char *doing) {
    if (error == ENOSPC || error == EDQUOT)
        return nib_fail(err, NIB_IO, "%s: cannot %s: the disk is full (%s)", path, doing, strerror(error));
    if (error == EFBIG)
        return nib_fail(err, NIB_IO, "%s: cannot %s: the file would pass a size limit (%s)", path, doing,
                        strerror(error));
    return nib_fail(err, NIB_IO, "%s: cannot %s: %s", path, doing, strerror(error));
}

/* A rename lasts only when the directory that holds the name is on the disk too. */
static nib_status sync_parent(const char *parent, const char *path, nib_error *err) {
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* some file systems cannot sync a directory: EINVAL says so and nothing can be done */
    nib_status status = NIB_OK;
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        status = io_problem(err, path, errno, "sync its directory");
    if (fd >= 0)
        close(fd);
    return status;
}

/* ---- files ---- */

static void outfile_free(outfile *f) {
    if (f->fd >= 0)
        close(f->fd);
    mem_free(f->path);
    mem_free(f->temporary);
    mem_free(f->parent);
    mem_free(f->buffer);
    mem_free(f);
}

nib_status outfile_open(outfile **out, const char *path, nib_error *err) {
    *out = NULL;
    struct stat st;
    const char *base;
    split_path(path, &base);
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
    f->temporary = temporary_name(path);
    f->parent = parent_directory(path);
    f->buffer = mem_alloc(BUFFER_BYTES);
    if (!f->path || !f->temporary || !f->parent || !f->buffer) {
        outfile_free(f);
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", path);
    }
    remove_stale(path);
    f->fd = open(f->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        nib_status status = io_problem(err, path, errno, "be created");
        outfile_free(f);
        return status;
    }
    flock(f->fd, LOCK_EX | LOCK_NB); /* a file system without locks only loses the cleaning up */
    *out = f;
    return NIB_OK;
}

/* Records the first failure of F. */
static nib_status stick(outfile *f, int error) {
    f->status = io_problem(&f->problem, f->path, error, "be written");
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
        f->status = io_problem(&f->problem, f->path, errno, "be put in place");
    nib_status status = tell(f, err);
    if (status != NIB_OK)
        unlink(f->temporary);
    else
        status = sync_parent(f->parent, f->path, err);
    outfile_free(f);
    return status;
}

void outfile_abandon(outfile *f) {
    if (!f)
        return;
    unlink(f->temporary);
    outfile_free(f);
}

/* ---- directories ---- */

static void outdir_free(outdir *d) {
    if (d->fd >= 0)
        close(d->fd);
    mem_free(d->path);
    mem_free(d->temporary);
    mem_free(d->parent);
    mem_free(d);
}

/* May the existing directory PATH be replaced? Yes when it is empty, or a model (config.json) without
 * directories inside: more than that was not written by us. */
static nib_status check_replaceable(const char *path, nib_error *err) {
    DIR *dir = opendir(path);
    if (!dir)
        return io_problem(err, path, errno, "be read");
    bool empty = true, model = false, nested = false;
    for (struct dirent *e; (e = readdir(dir));) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        empty = false;
        model |= strcmp(e->d_name, "config.json") == 0;
        nested |= fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || S_ISDIR(st.st_mode);
    }
    closedir(dir);
    if (empty || (model && !nested))
        return NIB_OK;
    return nib_fail(err, NIB_BAD_ARGUMENT, "%s: exists and is not %s; it is not replaced", path,
                    model ? "a plain model directory (it holds directories)" : "a model directory");
}

nib_status outdir_open(outdir **out, const char *path, nib_error *err) {
    *out = NULL;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    outdir *d = mem_array(1, sizeof *d);
    if (d)
        d->fd = -1;
    if (d && (d->path = mem_copy_text(path, n)) && (d->temporary = temporary_name(d->path)))
        d->parent = parent_directory(d->path);
    if (!d || !d->parent) {
        if (d)
            outdir_free(d);
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", path);
    }
    const char *base;
    struct stat st;
    nib_status status = NIB_OK;
    split_path(d->path, &base);
    if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        status = nib_fail(err, NIB_BAD_ARGUMENT, "%s: is not the name of a directory to write", path);
    else if (lstat(d->path, &st) == 0)
        status = S_ISDIR(st.st_mode)
                     ? check_replaceable(d->path, err)
                     : nib_fail(err, NIB_BAD_ARGUMENT,
                                "%s: exists and is no directory, one was to be written", path);
    if (status == NIB_OK) {
        remove_stale(d->path);
        if (mkdir(d->temporary, 0777) != 0)
            status = io_problem(err, path, errno, "be created");
    }
    if (status != NIB_OK) {
        outdir_free(d);
        return status;
    }
    d->fd = open(d->temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (d->fd >= 0)
        flock(d->fd, LOCK_EX | LOCK_NB);
    *out = d;
    return NIB_OK;
}

const char *outdir_path(const outdir *d) {
    return d->temporary;
}

/* Puts the new directory in the place of an old one: at no time is the name without a whole directory. */
static nib_status exchange(outdir *d, nib_error *err) {
    NIB_TRY(check_replaceable(d->path, err)); /* it may have changed since */
    if (renameat2(AT_FDCWD, d->temporary, AT_FDCWD, d->path, RENAME_EXCHANGE) == 0) {
        remove_tree(AT_FDCWD, d->temporary, 8);
        return NIB_OK;
    }
    if (errno != EINVAL && errno != ENOSYS)
        return io_problem(err, d->path, errno, "be put in place");
    char *old = temporary_name(d->path); /* a file system that cannot exchange names */
    if (!old)
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", d->path);
    nib_status status = NIB_OK;
    if (rename(d->path, old) != 0)
        status = io_problem(err, d->path, errno, "be replaced");
    else if (rename(d->temporary, d->path) != 0) {
        status = io_problem(err, d->path, errno, "be put in place");
        if (rename(old, d->path) != 0)
            status = nib_fail(err, NIB_IO, "%s: cannot be put in place; the old directory is now %s", d->path,
                              old);
    } else
        remove_tree(AT_FDCWD, old, 8);
    mem_free(old);
    return status;
}

nib_status outdir_commit(outdir *d, nib_error *err) {
    struct stat st;
    nib_status status = NIB_OK;
    if (d->fd < 0 || (fsync(d->fd) != 0 && errno != EINVAL))
        status = io_problem(err, d->path, errno, "be synced");
    else if (lstat(d->path, &st) == 0)
        status = exchange(d, err);
    else if (rename(d->temporary, d->path) != 0)
        status = io_problem(err, d->path, errno, "be put in place");
    if (status != NIB_OK) {
        outdir_abandon(d);
        return status;
    }
    status = sync_parent(d->parent, d->path, err);
    outdir_free(d);
    return status;
}

void outdir_abandon(outdir *d) {
    if (!d)
        return;
    remove_tree(AT_FDCWD, d->temporary, 8);
    outdir_free(d);
}

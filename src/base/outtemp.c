/* SPDX-License-Identifier: Apache-2.0
 *
 * Temporary names of output, their cleaning up, and what outfile and outdir say about a failed system call.
 */
#include "base/outtemp.h"

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

static atomic_uint n_temporaries;
static _Atomic(const char *) live[8];

/* "DIR/", "" when the path has none; *base points at the last component. */
size_t outtemp_split(const char *path, const char **base) {
    const char *slash = strrchr(path, '/');
    *base = slash ? slash + 1 : path;
    return (size_t)(*base - path);
}

char *outtemp_name(const char *path) {
    const char *base;
    size_t dir = outtemp_split(path, &base), room = strlen(path) + 64;
    char *name = mem_alloc(room);
    if (name)
        snprintf(name, room, "%.*s.%s.nibble-%ld-%u.part", (int)dir, path, base, (long)getpid(),
                 atomic_fetch_add(&n_temporaries, 1));
    return name;
}

char *outtemp_parent(const char *path) {
    const char *base;
    size_t dir = outtemp_split(path, &base);
    return dir ? mem_copy_text(path, dir) : mem_copy_text(".", 1);
}

bool outtemp_lock(int fd) {
    struct stat st;
    while (flock(fd, LOCK_EX) != 0 && errno == EINTR)
        ;
    return fstat(fd, &st) != 0 || st.st_nlink > 0;
}

/* Puts NOW into the first place that holds WAS. */
static void replace_live(const char *was, const char *now) {
    for (size_t i = 0; i < sizeof live / sizeof *live; i++) {
        const char *expected = was;
        if (atomic_compare_exchange_strong(&live[i], &expected, now))
            return;
    }
}

void outtemp_begun(const char *name) {
    replace_live(NULL, name);
}

void outtemp_ended(const char *name) {
    if (name)
        replace_live(name, NULL);
}

void outtemp_remove_live(void) {
    for (size_t i = 0; i < sizeof live / sizeof *live; i++) {
        const char *name = atomic_load(&live[i]);
        if (name)
            outtemp_remove(AT_FDCWD, name, 8);
    }
}

/* Removes a flat or nested directory, or a file. What cannot be removed stays. No opendir: it allocates. */
void outtemp_remove(int at, const char *name, int depth) {
    if (unlinkat(at, name, 0) == 0 || depth == 0)
        return;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    _Alignas(struct dirent64) char entries[4096];
    for (ssize_t n; fd >= 0 && (n = getdents64(fd, entries, sizeof entries)) > 0;)
        for (const char *p = entries; p < entries + n; p += ((const struct dirent64 *)p)->d_reclen) {
            const char *entry = ((const struct dirent64 *)p)->d_name;
            if (strcmp(entry, ".") != 0 && strcmp(entry, "..") != 0)
                outtemp_remove(fd, entry, depth - 1);
        }
    if (fd >= 0)
        close(fd);
    unlinkat(at, name, AT_REMOVEDIR);
}

/* Another writer of the same name that cleans up may have taken
 * it for a stale one before the lock: then it is made anew. */
nib_status outtemp_make_directory(int *fd, const char *name, const char *path, nib_error *err) {
    *fd = -1;
    for (int i = 0; i < OUTTEMP_TRIES; i++) {
        if (mkdir(name, 0777) != 0) {
            if (errno == EEXIST)
                continue;
            return outtemp_problem(err, path, errno, "be created");
        }
        *fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (*fd >= 0 && outtemp_lock(*fd))
            return NIB_OK;
        if (*fd < 0 && errno != ENOENT) {
            nib_status status = outtemp_problem(err, path, errno, "be created");
            outtemp_remove(AT_FDCWD, name, 1);
            return status;
        }
        if (*fd >= 0)
            close(*fd);
        *fd = -1;
    }
    return nib_fail(err, NIB_IO, "%s: cannot be created: other programs keep writing the same name", path);
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

void outtemp_remove_stale(const char *path) {
    const char *base;
    outtemp_split(path, &base);
    char *parent = outtemp_parent(path);
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
            outtemp_remove(dirfd(dir), e->d_name, 8);
        close(fd);
    }
    closedir(dir);
}

nib_status outtemp_problem(nib_error *err, const char *path, int error, const char *doing) {
    if (error == ENOSPC || error == EDQUOT)
        return nib_fail(err, NIB_IO, "%s: cannot %s: the disk is full (%s)", path, doing, strerror(error));
    if (error == EFBIG)
        return nib_fail(err, NIB_IO, "%s: cannot %s: the file would pass a size limit (%s)", path, doing,
                        strerror(error));
    if (error == EFAULT) /* bytes that come straight from a map */
        return nib_fail(err, NIB_IO,
                        "%s: cannot %s: the file it is made of was cut short, or could not be read", path,
                        doing);
    return nib_fail(err, NIB_IO, "%s: cannot %s: %s", path, doing, strerror(error));
}

/* A rename lasts only when the directory that holds the name is on the disk too. */
nib_status outtemp_sync(const char *parent, const char *path, nib_error *err) {
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* some file systems cannot sync a directory: EINVAL says so and nothing can be done */
    nib_status status = NIB_OK;
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL))
        status = outtemp_problem(err, path, errno, "sync its directory");
    if (fd >= 0)
        close(fd);
    return status;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A directory that appears whole or not at all. Replacing one swaps the two names in one step, where the file
 * system can do that; elsewhere a kill between two renames leaves the old directory beside the name.
 */
#include "base/outdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/outtemp.h"

struct outdir {
    int fd; /* holds the lock */
    outdir_is_ours is_ours;
    const char *mark;
    char *path, *temporary, *parent;
};

static void outdir_free(outdir *d) {
    if (d->fd >= 0)
        close(d->fd);
    outtemp_ended(d->temporary);
    mem_free(d->path);
    mem_free(d->temporary);
    mem_free(d->parent);
    mem_free(d);
}

/* May the existing directory PATH be replaced? Yes when it is empty, or a model (config.json) with a file
 * MARK (NULL: without) in which every entry is a file that IS_OURS knows: anything else was not written by
 * us. */
static nib_status check_replaceable(const char *path, outdir_is_ours is_ours, const char *mark,
                                    nib_error *err) {
    DIR *dir = opendir(path);
    if (!dir)
        return outtemp_problem(err, path, errno, "be read");
    bool empty = true, model = false, marked = !mark;
    char foreign[256] = "";
    for (struct dirent *e; (e = readdir(dir));) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        empty = false;
        model |= strcmp(e->d_name, "config.json") == 0;
        marked |= mark && strcmp(e->d_name, mark) == 0;
        bool file = fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
        if ((!file || !is_ours(e->d_name)) && (!foreign[0] || strcmp(e->d_name, foreign) < 0))
            snprintf(foreign, sizeof foreign, "%s", e->d_name); /* the first by name: always the same words */
    }
    closedir(dir);
    for (char *p = foreign; *p; p++)
        if ((unsigned char)*p < 32 || *p == 127)
            *p = '?'; /* a name is not to steer a terminal */
    if (empty || (model && marked && !foreign[0]))
        return NIB_OK;
    if (!model)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: exists and is not a model directory (no config.json); it is not replaced", path);
    if (foreign[0])
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: exists and holds \"%s\", which nibble does not write; it is not replaced", path,
                        foreign);
    return nib_fail(
        err, NIB_BAD_ARGUMENT,
        "%s: exists, and has no %s, which says that nibble wrote it; it is not replaced: remove it, "
        "or write to another name",
        path, mark);
}

nib_status outdir_open(outdir **out, const char *path, outdir_is_ours is_ours, const char *mark,
                       nib_error *err) {
    *out = NULL;
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    outdir *d = mem_array(1, sizeof *d);
    if (d)
        *d = (struct outdir){.fd = -1, .is_ours = is_ours, .mark = mark};
    if (d && (d->path = mem_copy_text(path, n)) && (d->temporary = outtemp_name(d->path)))
        d->parent = outtemp_parent(d->path);
    if (!d || !d->parent) {
        if (d)
            outdir_free(d);
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", path);
    }
    const char *base;
    struct stat st;
    nib_status status = NIB_OK;
    outtemp_split(d->path, &base);
    if (!*base || strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        status = nib_fail(err, NIB_BAD_ARGUMENT, "%s: is not the name of a directory to write", path);
    else if (lstat(d->path, &st) == 0)
        status =
            S_ISDIR(st.st_mode)
                ? check_replaceable(d->path, is_ours, mark, err)
                : nib_fail(err, NIB_BAD_ARGUMENT,
                           "%s: exists and is no directory, one was to be written; a GGUF file's name ends "
                           "in .gguf",
                           path);
    if (status == NIB_OK) {
        outtemp_remove_stale(d->path);
        status = outtemp_make_directory(&d->fd, d->temporary, d->path, err);
    }
    if (status != NIB_OK) {
        outdir_free(d);
        return status;
    }
    outtemp_begun(d->temporary);
    *out = d;
    return NIB_OK;
}

const char *outdir_path(const outdir *d) {
    return d->temporary;
}

/* On a file system that cannot exchange names. The old directory gets a name that no cleaning up matches: a
 * kill between the two renames leaves it whole, as "NAME.nibble-old-1" (or the next free number), for the
 * user to move back (the new one is a temporary that goes with the next run); a later kill leaves there what
 * was not yet removed. */
static nib_status exchange_by_hand(outdir *d, nib_error *err) {
    size_t room = strlen(d->path) + 64;
    char *old = mem_alloc(room);
    if (!old)
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", d->path);
    struct stat st;
    int number = 1;
    do
        snprintf(old, room, "%s.nibble-old-%d", d->path, number++);
    while (lstat(old, &st) == 0);
    nib_status status = NIB_OK;
    if (rename(d->path, old) != 0)
        status = outtemp_problem(err, d->path, errno, "be replaced");
    else if (rename(d->temporary, d->path) != 0) {
        status = outtemp_problem(err, d->path, errno, "be put in place");
        if (rename(old, d->path) != 0)
            status = nib_fail(err, NIB_IO, "%s: cannot be put in place; the old directory is now %s", d->path,
                              old);
    } else
        outtemp_remove(AT_FDCWD, old, 8);
    mem_free(old);
    return status;
}

/* Puts the new directory in the place of an old one. */
static nib_status exchange(outdir *d, nib_error *err) {
    NIB_TRY(check_replaceable(d->path, d->is_ours, d->mark, err)); /* it may have changed since */
    if (renameat2(AT_FDCWD, d->temporary, AT_FDCWD, d->path, RENAME_EXCHANGE) == 0) {
        outtemp_remove(AT_FDCWD, d->temporary, 8);
        return NIB_OK;
    }
    if (errno == EINVAL || errno == ENOSYS)
        return exchange_by_hand(d, err);
    return outtemp_problem(err, d->path, errno, "be put in place");
}

nib_status outdir_commit(outdir *d, nib_error *err) {
    struct stat st;
    nib_status status = NIB_OK;
    if (d->fd < 0 || (fsync(d->fd) != 0 && errno != EINVAL))
        status = outtemp_problem(err, d->path, errno, "be synced");
    else if (lstat(d->path, &st) == 0)
        status = exchange(d, err);
    else if (rename(d->temporary, d->path) != 0)
        status = outtemp_problem(err, d->path, errno, "be put in place");
    if (status != NIB_OK) {
        outdir_abandon(d);
        return status;
    }
    status = outtemp_sync(d->parent, d->path, err);
    outdir_free(d);
    return status;
}

void outdir_abandon(outdir *d) {
    if (!d)
        return;
    outtemp_remove(AT_FDCWD, d->temporary, 8);
    outdir_free(d);
}

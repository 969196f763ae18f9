/* SPDX-License-Identifier: Apache-2.0
 *
 * Layout: a head of 64 bytes, a mark per entry, then scales and codes of each entry, 64-byte aligned. See
 * journal.h.
 */
#include "tune/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

static const char magic[16] = "nibble journal 1";

typedef struct head {
    char magic[16];
    uint64_t fingerprint, size;
    uint64_t unused[4];
} head;

typedef struct journal_mark {
    uint64_t done, hash;
    double note[JOURNAL_NOTES];
} journal_mark;

uint64_t journal_hash(uint64_t hash, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ p[i]) * 0x100000001b3u;
    return hash;
}

static size_t aligned(size_t n) {
    return (n + 63) / 64 * 64;
}

static size_t first_entry(size_t n) {
    return aligned(sizeof(head) + n * sizeof(journal_mark));
}

static size_t size_of(const journal *j) {
    size_t at = first_entry(j->n);
    for (size_t i = 0; i < j->n; i++)
        at += aligned(j->entries[i].scales_bytes) + aligned(j->entries[i].codes_bytes);
    return at;
}

static void place_entries(const journal *j) {
    size_t at = first_entry(j->n);
    for (size_t i = 0; i < j->n; i++) {
        journal_entry *e = &j->entries[i];
        e->mark = (journal_mark *)(void *)(j->map + sizeof(head)) + i;
        e->scales = j->map + at;
        at += aligned(e->scales_bytes);
        e->codes = j->map + at;
        at += aligned(e->codes_bytes);
    }
}

static nib_status problem(const journal *j, int error, const char *doing, nib_error *err) {
    return nib_fail(err, NIB_IO, "%s: cannot %s: %s", j->path, doing, strerror(error));
}

static nib_status map_file(journal *j, int fd, nib_error *err) {
    struct stat s;
    if (flock(fd, LOCK_EX | LOCK_NB) != 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: another nibble is quantizing to this output", j->path);
    char begin[sizeof magic];
    bool known = fstat(fd, &s) == 0 && S_ISREG(s.st_mode);
    if (known && s.st_size > 0) /* somebody else's is not written over */
        known = pread(fd, begin, sizeof begin, 0) == sizeof begin && memcmp(begin, magic, sizeof magic) == 0;
    if (!known)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: expected nothing there, or what a stopped run left",
                        j->path);
    if ((size_t)s.st_size != j->size && ftruncate(fd, 0) != 0)
        return problem(j, errno, "empty it", err);
    int full = posix_fallocate(fd, 0, (off_t)j->size);
    if (full != 0)
        return problem(j, full, "keep what is chosen there", err);
    void *map = mmap(NULL, j->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return problem(j, errno, "map it", err);
    j->map = map;
    return NIB_OK;
}

nib_status journal_open(journal *j, const char *path, uint64_t fingerprint, journal_entry *entries, size_t n,
                        nib_error *err) {
    *j = (journal){.path = mem_copy_text(path, strlen(path)), .entries = entries, .n = n};
    if (!j->path)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a path");
    j->size = size_of(j);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    nib_status status = fd < 0 ? problem(j, errno, "open it", err) : map_file(j, fd, err);
    if (status != NIB_OK) {
        if (fd >= 0)
            close(fd);
        journal_close(j, false);
        return status;
    }
    j->fd = fd; /* keeps the lock */
    head *h = (head *)(void *)j->map;
    if (memcmp(h->magic, magic, sizeof magic) != 0 || h->fingerprint != fingerprint || h->size != j->size) {
        memset(j->map, 0, first_entry(n));
        memcpy(h->magic, magic, sizeof magic);
        h->fingerprint = fingerprint;
        h->size = j->size;
    }
    place_entries(j);
    return NIB_OK;
}

void journal_discard(const char *path) {
    char begin[sizeof magic];
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK); /* a FIFO has no writer */
    if (fd < 0)
        return;
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && pread(fd, begin, sizeof begin, 0) == sizeof begin &&
        memcmp(begin, magic, sizeof magic) == 0)
        unlink(path);
    close(fd);
}

static uint64_t entry_hash(const journal_entry *e) {
    uint64_t hash = journal_hash(JOURNAL_SEED, e->note, sizeof e->note);
    return journal_hash(journal_hash(hash, e->scales, e->scales_bytes), e->codes, e->codes_bytes);
}

bool journal_has(const journal *j, size_t i) {
    journal_entry *e = &j->entries[i];
    memcpy(e->note, e->mark->note, sizeof e->note);
    return e->mark->done == 1 && e->mark->hash == entry_hash(e);
}

void journal_note(const journal *j, size_t i) {
    journal_entry *e = &j->entries[i];
    memcpy(e->mark->note, e->note, sizeof e->note);
    e->mark->hash = entry_hash(e);
    e->mark->done = 1;
}

void journal_close(journal *j, bool remove_it) {
    if (j->map) {
        if (remove_it)
            unlink(j->path);
        munmap(j->map, j->size);
        close(j->fd);
    }
    mem_free(j->path);
    *j = (journal){0};
}

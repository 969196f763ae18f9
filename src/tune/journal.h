/* SPDX-License-Identifier: Apache-2.0
 *
 * Journal: codes and block scales as they are chosen, in a mapped file beside the output, so that a killed
 * run goes on where it was and memory holds none of them. The file's layout follows from what is to be
 * quantized; a fingerprint of all that the result depends on tells whether a file that lies there is of the
 * same work. Entries carry a checksum: what was not wholly written is chosen again.
 */
#ifndef TUNE_JOURNAL_H
#define TUNE_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

#define JOURNAL_NOTES 6

typedef struct journal_entry {
    size_t codes_bytes, scales_bytes; /* given */
    uint8_t *codes, *scales;          /* in the map, from open on */
    double note[JOURNAL_NOTES];       /* kept with them */
    struct journal_mark *mark;        /* there too */
} journal_entry;

typedef struct journal {
    char *path;
    unsigned char *map;
    size_t size;
    int fd;                 /* holds the lock; open while map is not NULL */
    journal_entry *entries; /* [n] the caller's */
    size_t n;
} journal;

/* ENTRIES [n] live until close. The disk's place is taken at once: a full disk is told here. */
nib_status journal_open(journal *j, const char *path, uint64_t fingerprint, journal_entry *entries, size_t n,
                        nib_error *err);
bool journal_has(const journal *j, size_t i);   /* whole, and as it was noted: note is filled */
void journal_note(const journal *j, size_t i);  /* entry I and its note are filled */
void journal_close(journal *j, bool remove_it); /* safe on a zeroed journal */

/* Removes what a stopped run left at PATH; whatever else lies there, and a running one's, stays. */
void journal_discard(const char *path);

/* FNV-1a over more bytes. */
#define JOURNAL_SEED 0xcbf29ce484222325u
uint64_t journal_hash(uint64_t hash, const void *bytes, size_t n);

#endif

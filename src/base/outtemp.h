/* SPDX-License-Identifier: Apache-2.0
 *
 * What outfile and outdir share. Output is written under the temporary name ".NAME.nibble-PID-N.part" beside
 * the final one and is locked (flock) while its writer lives; one that nobody locks was left by a killed
 * program and is removed when the same name is written again.
 */
#ifndef BASE_OUTTEMP_H
#define BASE_OUTTEMP_H

#include <stdbool.h>

#include "base/status.h"

/* Bytes of PATH before its last component, the slash included; *base is that component. */
size_t outtemp_split(const char *path, const char **base);

/* Freed with mem_free; NULL without memory. */
char *outtemp_name(const char *path);
char *outtemp_parent(const char *path);

/* Locks the open temporary FD, waiting for a writer that just looks whether it is stale. False when that
 * writer has removed it: make another, OUTTEMP_TRIES times at most. A file system without locks only loses
 * the cleaning up. */
#define OUTTEMP_TRIES 1000
bool outtemp_lock(int fd);

/* Makes the temporary directory NAME, beside PATH, and locks it: *fd holds the lock. */
nib_status outtemp_make_directory(int *fd, const char *name, const char *path, nib_error *err);

/* Removes a file or a directory with what is in it, DEPTH levels deep. What cannot be removed stays. Safe in
 * a signal handler. */
void outtemp_remove(int at, const char *name, int depth);
void outtemp_remove_stale(const char *path);

/* The temporaries that are being written, for a program that must end at once: outtemp_remove_live removes
 * them and is safe in a signal handler. NAME stays the caller's and lives until outtemp_ended (NULL is
 * fine). */
void outtemp_begun(const char *name);
void outtemp_ended(const char *name);
void outtemp_remove_live(void);

/* The sentence "PATH: cannot DOING: ..." for an errno. */
nib_status outtemp_problem(nib_error *err, const char *path, int error, const char *doing);

/* A rename lasts only when the directory PARENT that holds the name is on the disk too. */
nib_status outtemp_sync(const char *parent, const char *path, nib_error *err);

#endif

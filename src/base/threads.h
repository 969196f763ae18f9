/* SPDX-License-Identifier: Apache-2.0
 *
 * OpenMP's threads, asked for in a way that can be refused. OpenMP ends the process when the system denies it
 * a thread; the library must not. So whoever makes a team calls threads_ready first: it starts as many plain
 * threads as the team lacks, all alive at once, and says in words when the system denies one. Only then does
 * it let OpenMP start its own, which stay with the calling thread for its later teams.
 *
 * Callers: every room that has an `omp parallel`, right before it. What is left to chance: another process
 * taking the last places within the microseconds between the two; and the plain threads have the default
 * stack, so under OMP_STACKSIZE a limit of address space may be met by OpenMP alone.
 */
#ifndef BASE_THREADS_H
#define BASE_THREADS_H

#include "base/status.h"

/* A team of N threads (with the caller) can be made in this thread: as often as wanted until the next call
 * with another N above 1, and teams of one at any time. Costs nothing when N is that of the last call. */
nib_status threads_ready(int n, nib_error *err);

#endif

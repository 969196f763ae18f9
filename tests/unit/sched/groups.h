/* SPDX-License-Identifier: Apache-2.0
 *
 * Cache groups of every kind, for limits in tests.
 */
#ifndef GROUPS_H
#define GROUPS_H

#include "sched/sched.h"

#define FULL(n)                                                                                              \
    { .kind = CACHE_FULL, .n_pages = n }
#define WINDOW(n, width)                                                                                     \
    { .kind = CACHE_WINDOW, .window = width, .n_pages = n }
#define STATE(n)                                                                                             \
    { .kind = CACHE_STATE, .n_pages = n }

#endif

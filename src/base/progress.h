/* SPDX-License-Identifier: Apache-2.0
 *
 * How long work tells its caller where it is, and hears that it should stop. The library never prints; the
 * program draws the bar.
 */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct progress {
    void (*report)(void *context, const char *what, uint64_t done, uint64_t total); /* NULL: nobody listens */
    bool (*stop)(void *context);                                                    /* NULL: never */
    void *context;
} progress;

static inline void progress_report(const progress *p, const char *what, uint64_t done, uint64_t total) {
    if (p && p->report)
        p->report(p->context, what, done, total);
}

static inline bool progress_stopped(const progress *p) {
    return p && p->stop && p->stop(p->context);
}

#endif

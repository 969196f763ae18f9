/* SPDX-License-Identifier: Apache-2.0
 *
 * Seconds since some fixed point of this boot: never set back, no date. Callers take differences, for
 * reports, progress and waits.
 */
#include "base/clock.h"

#include <time.h>

double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

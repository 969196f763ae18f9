/* SPDX-License-Identifier: Apache-2.0
 *
 * See repeats.h.
 */
#include "cli/repeats.h"

int repeats_push(repeats *r, int32_t token) {
    int found = 0;
    for (int p = 1; p <= REPEATS_PERIOD && p <= r->n; p++) {
        r->same[p] = r->last[(r->n - p) % REPEATS_PERIOD] == token ? r->same[p] + 1 : 0;
        const int all = r->same[p] + p; /* the first round has nothing before it */
        if (!found && all >= REPEATS_TOKENS && all >= REPEATS_ROUNDS * p)
            found = p;
    }
    r->last[r->n++ % REPEATS_PERIOD] = token;
    return found;
}
